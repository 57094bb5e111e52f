//! A relay and a bridge in front of a recorder, and what must hold whatever a caller does: other callers
//! are served, the relay's memory stays small, and the target sees only unambiguous requests.

use super::caller::Caller;
use super::record;
use super::request::Marked;
use super::seen::{Ending, Seen};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use support::recorder::{Message, Step};
use support::setup::{Allow, Endpoint, RelaySetup};
use support::{Recorder, TestEnv, let_time_pass};

/// The case of valid requests.
const HONEST: usize = 1_000_000;
/// The longest that a valid request may take, with its handshake.
const HONEST_WITHIN: Duration = Duration::from_secs(5);
/// How long requests in flight take to reach the target's record.
pub(crate) const SETTLED: Duration = Duration::from_millis(700);
/// The most that the relay may grow by.
const GROWTH_MAX_KIB: u64 = 32 * 1024;

/// The target's response once it has the body.
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

pub(crate) struct RecorderEnv {
    // Dropped first: it has the connections to the targets.
    pub(crate) site: TestEnv,
    /// The endpoint `rec`.
    pub(crate) recorder: Recorder,
    key: String,
}

impl RecorderEnv {
    pub(crate) async fn start() -> Self {
        Self::start_with(|relay| relay).await
    }

    /// With changes to the relay's setup.
    pub(crate) async fn start_with(change: impl FnOnce(RelaySetup) -> RelaySetup) -> Self {
        let recorder = Recorder::start().await;
        let site = TestEnv::builder()
            .direct()
            .endpoint(Endpoint::new("rec", recorder.url("/")))
            .allow(Allow::loopback(recorder.addr().port()))
            .relay(change)
            .start()
            .await;
        let key = site.caller.basic();
        let ground = Self {
            site,
            recorder,
            key,
        };
        ground.answers(HONEST);
        ground
    }

    /// Lets the target respond to requests of this case with 200.
    pub(crate) fn answers(&self, case: usize) {
        let steps = vec![Step::ReadBody, Step::Send(ANSWER.to_vec())];
        self.recorder.answer(case, steps);
    }

    /// The value of `authorization`.
    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    /// Makes requests of a case.
    pub(crate) fn marked(&self, case: usize) -> Marked<'_> {
        let key = self.key();
        Marked { key, case }
    }

    /// Asserts that a valid request on a new connection succeeds soon and reaches the target once.
    pub(crate) async fn serves_others(&self) {
        let began = Instant::now();
        let mut other = Caller::open(&self.site).await;
        other.send(&self.marked(HONEST).get().whole(1)).await;
        let is_answered = |seen: &Seen| seen.ending(1).is_some();
        other.wait(HONEST_WITHIN, is_answered).await;
        assert_eq!(other.seen().ending(1), Some(Ending::Answered(200)));
        let took = began.elapsed();
        assert!(took < HONEST_WITHIN, "another caller waited for {took:?}");
        let seen = self.recorder.take(HONEST);
        let faults: Vec<_> = seen.iter().flat_map(record::faults).collect();
        assert!(faults.is_empty(), "{faults:?}");
        assert_eq!(seen.len(), 1, "{seen:?}");
    }

    /// Returns the relay's memory in KiB after one served request, and resets its peak.
    pub(crate) async fn memory(&self) -> u64 {
        self.serves_others().await;
        let relay = self.site.relay.process();
        relay.reset_peak_rss();
        relay.rss_kib()
    }

    /// Asserts that the relay has grown little since its memory was `before`.
    pub(crate) fn assert_grown_little(&self, before: u64, what: &str) {
        let peak = self.site.relay.process().peak_rss_kib();
        assert!(
            peak < before + GROWTH_MAX_KIB,
            "{what}: the relay grew from {before} to {peak} KiB"
        );
    }

    /// Returns the requests of a case that the target saw, which must be unambiguous, each path once.
    pub(crate) async fn seen_of(&self, case: usize) -> Vec<Message> {
        let_time_pass(SETTLED, "the target records what is on its way").await;
        let seen = self.recorder.take(case);
        let faults: Vec<_> = seen.iter().flat_map(record::faults).collect();
        assert!(faults.is_empty(), "case {case}: {}", faults.join("\n"));
        let paths: BTreeSet<_> = seen.iter().map(record::path).collect();
        assert_eq!(paths.len(), seen.len(), "case {case}: a path came twice");
        seen
    }
}
