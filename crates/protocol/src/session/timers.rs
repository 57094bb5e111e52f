//! The timers of a session: the few instants at which something is due.

use crate::limits::DISPATCHED_DELAY;
use std::time::{Duration, Instant};

/// How long a probe after a jump of the clock waits for a sign of life.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// A transfer measures the round trip again when the last measurement is older than this.
const RTT_STALE: Duration = Duration::from_secs(10);

/// What is due now.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// The peer was silent for too long: for this duration.
    Dead(Duration),
    /// A PING must be sent.
    Ping,
    /// The owed DISPATCHED frames must be sent.
    Dispatched,
    /// Nothing.
    Nothing,
}

#[derive(Debug)]
pub(super) struct Timers {
    heartbeat: Duration,
    dead_after: Duration,
    heard: Instant,
    dead_at: Instant,
    ping: Option<(u64, Instant)>,
    pings: u64,
    dispatched_at: Option<Instant>,
    rtt: Duration,
    rtt_at: Instant,
}

impl Timers {
    pub(super) fn new(
        now: Instant,
        heartbeat: Duration,
        dead_after: Duration,
        rtt: Duration,
    ) -> Self {
        Self {
            heartbeat,
            dead_after,
            heard: now,
            dead_at: now + dead_after,
            ping: None,
            pings: 0,
            dispatched_at: None,
            rtt,
            rtt_at: now,
        }
    }

    /// Returns for how long nothing has come from the peer.
    pub(super) fn silent_for(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.heard)
    }

    /// Any frame came from the peer.
    pub(super) fn heard(&mut self, now: Instant) {
        self.heard = now;
        self.dead_at = now + self.dead_after;
    }

    /// Records a PING that leaves, and returns its token.
    pub(super) fn ping(&mut self, now: Instant) -> u64 {
        self.pings += 1;
        self.ping = Some((self.pings, now));
        self.pings
    }

    /// Records a PONG. One whose token is not that of the last PING measures nothing.
    pub(super) fn pong(&mut self, now: Instant, token: u64) {
        if let Some((_, sent)) = self.ping.take_if(|(expected, _)| *expected == token) {
            // The smallest one is nearest to the path's own: larger ones include time in queues.
            self.rtt = self.rtt.min(now.saturating_duration_since(sent));
            self.rtt_at = now;
        }
    }

    pub(super) fn rtt(&self) -> Duration {
        self.rtt
    }

    /// Whether a transfer should measure the round trip again.
    pub(super) fn wants_rtt(&self, now: Instant) -> bool {
        self.ping.is_none() && now.saturating_duration_since(self.rtt_at) > RTT_STALE
    }

    /// The clock jumped: a sign of life must come soon.
    pub(super) fn probe(&mut self, now: Instant) {
        self.dead_at = self.dead_at.min(now + PROBE_TIMEOUT);
    }

    /// DISPATCHED is owed from now on. Returns whether this is the first that is owed, so that the owner has to
    /// set its timer again.
    pub(super) fn owe_dispatched(&mut self, now: Instant) -> bool {
        let is_first = self.dispatched_at.is_none();
        self.dispatched_at.get_or_insert(now + DISPATCHED_DELAY);
        is_first
    }

    /// Returns when to call [`Self::due`] again.
    pub(super) fn next(&self) -> Instant {
        let mut next = self.dead_at;
        // While a PING is unanswered, only death is due: a second PING would prove nothing new.
        if !self.ping_is_out() {
            next = next.min(self.heard + self.heartbeat);
        }
        if let Some(at) = self.dispatched_at {
            next = next.min(at);
        }
        next
    }

    /// Whether a PING has left since the peer's last frame: one PING for each silence is enough.
    fn ping_is_out(&self) -> bool {
        self.ping.is_some_and(|(_, sent)| sent >= self.heard)
    }

    pub(super) fn due(&mut self, now: Instant) -> Due {
        // First: there is no point in a PING to a peer that is dead already.
        if now >= self.dead_at {
            return Due::Dead(now.saturating_duration_since(self.heard));
        }
        if self.dispatched_at.is_some_and(|at| now >= at) {
            self.dispatched_at = None;
            return Due::Dispatched;
        }
        if !self.ping_is_out() && now >= self.heard + self.heartbeat {
            return Due::Ping;
        }
        Due::Nothing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn silence_causes_one_ping_and_then_the_end() {
        let start = Instant::now_for_tests();
        let mut timers = Timers::new(start, 15 * SECOND, 25 * SECOND, SECOND);
        assert_eq!(timers.next(), start + 15 * SECOND);
        assert_eq!(timers.due(start + 15 * SECOND), Due::Ping);
        timers.ping(start + 15 * SECOND);
        assert_eq!(timers.due(start + 16 * SECOND), Due::Nothing);
        assert_eq!(timers.next(), start + 25 * SECOND);
        assert_eq!(timers.due(start + 25 * SECOND), Due::Dead(25 * SECOND));
    }

    #[test]
    fn any_frame_restarts_the_timers() {
        let start = Instant::now_for_tests();
        let mut timers = Timers::new(start, 15 * SECOND, 25 * SECOND, SECOND);
        let token = timers.ping(start + 15 * SECOND);
        timers.heard(start + 16 * SECOND);
        timers.pong(start + 16 * SECOND, token);
        assert_eq!(timers.next(), start + 31 * SECOND);
        assert_eq!(timers.rtt(), SECOND);
    }

    trait ForTests {
        fn now_for_tests() -> Self;
    }

    impl ForTests for Instant {
        #[expect(clippy::disallowed_methods, reason = "an origin for a virtual clock")]
        fn now_for_tests() -> Self {
            Self::now()
        }
    }
}
