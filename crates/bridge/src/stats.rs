//! What this bridge has done and is doing, for whoever asks on this machine.
//!
//! Counting costs an exchange an atomic add. The last calls are kept with their method, host and
//! outcome; never a path, a query, a header field or a body.

use protocol::{Code, Failure};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Calls that are remembered.
const CALLS_MAX: usize = 50;

/// Slots that are remembered: as many as there may be.
const SLOTS_MAX: usize = 8;

/// A call that is over.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LastCall {
    /// When it ended, in seconds since 1970.
    pub at: u64,
    /// Its method.
    pub method: String,
    /// The host that it was for, or `endpoint NAME`.
    pub to: String,
    /// The target's status, or the code of the failure.
    pub outcome: String,
    /// In milliseconds.
    pub took_ms: u64,
}

/// What a connection to the relay is doing.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct SlotState {
    /// Which one.
    pub slot: u8,
    /// `connecting`, `up`, `waiting`, or `unused` (the relay has too few nodes for it).
    pub state: String,
    /// The node that it is connected to.
    pub node: Option<String>,
    /// Seconds since then.
    pub for_s: u64,
    /// Why it is not up.
    pub error: Option<String>,
    /// What a person can do about it.
    pub advice: Option<String>,
}

#[derive(Debug, Clone)]
struct SlotNow {
    state: &'static str,
    node: Option<String>,
    since: Instant,
    error: Option<String>,
    advice: Option<&'static str>,
}

/// The board. One for each running bridge.
#[derive(Debug)]
pub(crate) struct RuntimeStats {
    answered: AtomicU64,
    failed: Vec<AtomicU64>,
    calls: Mutex<VecDeque<LastCall>>,
    slots: Mutex<BTreeMap<u8, SlotNow>>,
    since: Instant,
}

impl Default for RuntimeStats {
    fn default() -> Self {
        Self {
            answered: AtomicU64::new(0),
            failed: Code::ALL.iter().map(|_| AtomicU64::new(0)).collect(),
            calls: Mutex::default(),
            slots: Mutex::default(),
            since: Instant::now(),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl RuntimeStats {
    /// How long the bridge runs.
    pub(crate) fn uptime(&self) -> Duration {
        self.since.elapsed()
    }

    /// A target answered.
    pub(crate) fn answered(&self) {
        self.answered.fetch_add(1, Ordering::Relaxed);
    }

    /// An exchange failed.
    pub(crate) fn failed(&self, failure: &Failure) {
        let at = Code::ALL.iter().position(|code| *code == failure.code);
        if let Some(count) = at.and_then(|at| self.failed.get(at)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Exchanges that were answered.
    pub(crate) fn answered_count(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Exchanges that failed, by code, without those that never happened.
    pub(crate) fn failures(&self) -> BTreeMap<String, u64> {
        let counts = self
            .failed
            .iter()
            .map(|count| count.load(Ordering::Relaxed));
        Code::ALL
            .iter()
            .zip(counts)
            .filter(|(_, count)| *count > 0)
            .map(|(code, count)| (code.to_string(), count))
            .collect()
    }

    /// Remembers a call.
    pub(crate) fn call(&self, method: &str, to: &str, outcome: String, took: Duration) {
        let mut calls = lock(&self.calls);
        if calls.len() >= CALLS_MAX {
            calls.pop_front();
        }
        calls.push_back(LastCall {
            at: now_s(),
            method: method.chars().take(16).collect(),
            to: to.chars().take(300).collect(),
            outcome,
            took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        });
    }

    /// The last calls, the newest first.
    pub(crate) fn calls(&self) -> Vec<LastCall> {
        lock(&self.calls).iter().rev().cloned().collect()
    }

    fn slot(&self, slot: u8, now: SlotNow) {
        let mut slots = lock(&self.slots);
        if slots.len() < SLOTS_MAX || slots.contains_key(&slot) {
            slots.insert(slot, now);
        }
    }

    /// A connection is being made; what went wrong before stays to be seen.
    pub(crate) fn connecting(&self, slot: u8) {
        let before = lock(&self.slots).get(&slot).cloned();
        self.slot(
            slot,
            SlotNow {
                state: "connecting",
                node: None,
                since: Instant::now(),
                error: before.as_ref().and_then(|before| before.error.clone()),
                advice: before.and_then(|before| before.advice),
            },
        );
    }

    /// A connection waits until the relay has a node for it.
    pub(crate) fn unused(&self, slot: u8) {
        self.slot(slot, SlotNow::of("unused"));
    }

    /// A connection is up.
    pub(crate) fn up(&self, slot: u8, node: &str) {
        let node = Some(node.to_owned());
        self.slot(
            slot,
            SlotNow {
                node,
                ..SlotNow::of("up")
            },
        );
    }

    /// A connection is down, and why.
    pub(crate) fn down(&self, slot: u8, error: String, advice: Option<&'static str>) {
        self.slot(
            slot,
            SlotNow {
                error: Some(error),
                advice,
                ..SlotNow::of("waiting")
            },
        );
    }

    /// What the connections are doing.
    pub(crate) fn slots(&self) -> Vec<SlotState> {
        let slots = lock(&self.slots);
        slots
            .iter()
            .map(|(slot, now)| SlotState {
                slot: *slot,
                state: now.state.to_owned(),
                node: now.node.clone(),
                for_s: now.since.elapsed().as_secs(),
                error: now.error.clone(),
                advice: now.advice.map(str::to_owned),
            })
            .collect()
    }
}

impl SlotNow {
    fn of(state: &'static str) -> Self {
        Self {
            state,
            node: None,
            since: Instant::now(),
            error: None,
            advice: None,
        }
    }
}

/// Now, in seconds since 1970.
pub(crate) fn now_s() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_calls_are_kept_and_the_oldest_goes() {
        let board = RuntimeStats::default();
        for number in 0..CALLS_MAX + 3 {
            let to = format!("host-{number}");
            board.call("POST", &to, "200".into(), Duration::from_millis(5));
        }
        let calls = board.calls();
        assert_eq!(calls.len(), CALLS_MAX);
        assert_eq!(calls[0].to, format!("host-{}", CALLS_MAX + 2));
    }

    #[test]
    fn failures_are_counted_by_code() {
        let board = RuntimeStats::default();
        board.failed(&Failure::not_dispatched(Code::TargetDns, ""));
        board.failed(&Failure::not_dispatched(Code::TargetDns, ""));
        assert_eq!(board.failures(), [("target_dns".to_owned(), 2)].into());
    }
}
