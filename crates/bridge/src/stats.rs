//! Runtime statistics of this bridge, for `status` and metrics.
//!
//! Counting costs an exchange one atomic add. The last calls are stored with their method, host and outcome;
//! never with a path, a query, a header field or a body.

use protocol::{Code, Failure};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use transport::failure::Diagnosis;

/// Number of last calls that are kept.
const CALLS_MAX: usize = 50;

/// Connections: the upper bound of `relay.connections`.
const SLOTS_MAX: usize = 8;

/// A finished call.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct LastCall {
    /// When it ended: seconds since 1970, in JSON RFC 3339.
    #[serde(with = "runtime::time::as_rfc3339")]
    pub at: u64,
    /// Its method.
    pub method: String,
    /// The target's host, or `endpoint NAME`.
    pub to: String,
    /// The target's status, or the code of the failure.
    pub outcome: String,
    /// Duration in milliseconds.
    pub took_ms: u64,
}

/// The state of a connection to the relay.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub(crate) struct SlotState {
    /// Its number.
    pub slot: u8,
    /// `connecting`, `up`, `waiting`, or `unused` (the relay has fewer nodes than there are connections).
    pub state: String,
    /// The node that it is connected to.
    pub node: Option<String>,
    /// Seconds in this state.
    pub for_s: u64,
    /// Why it is not up.
    pub error: Option<String>,
    /// What the administrator can do.
    pub advice: Option<String>,
    /// A pattern of its last sessions, also while it is up: they were cut after the same time.
    #[serde(default)]
    pub pattern: Option<String>,
}

#[derive(Debug, Clone)]
struct SlotNow {
    state: &'static str,
    node: Option<String>,
    since: Instant,
    error: Option<String>,
    advice: Option<&'static str>,
}

/// The statistics of one running bridge.
#[derive(Debug)]
pub(crate) struct RuntimeStats {
    answered: AtomicU64,
    failed: Vec<AtomicU64>,
    calls: Mutex<VecDeque<LastCall>>,
    slots: Mutex<BTreeMap<u8, SlotNow>>,
    patterns: Mutex<BTreeMap<u8, Diagnosis>>,
    since: Instant,
}

impl Default for RuntimeStats {
    fn default() -> Self {
        Self {
            answered: AtomicU64::new(0),
            failed: Code::ALL.iter().map(|_| AtomicU64::new(0)).collect(),
            calls: Mutex::default(),
            slots: Mutex::default(),
            patterns: Mutex::default(),
            since: Instant::now(),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl RuntimeStats {
    /// Returns the time since the start.
    pub(crate) fn uptime(&self) -> Duration {
        self.since.elapsed()
    }

    /// Counts an exchange to which the target responded.
    pub(crate) fn answered(&self) {
        self.answered.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a failed exchange.
    pub(crate) fn failed(&self, failure: &Failure) {
        // Counters have the order of `Code::ALL`: an exchange takes no lock and no map.
        let at = Code::ALL.iter().position(|code| *code == failure.code);
        if let Some(count) = at.and_then(|at| self.failed.get(at)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Returns the number of exchanges to which targets responded.
    pub(crate) fn answered_count(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Returns the failed exchanges by code, without codes that never occurred.
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

    /// Records a call.
    pub(crate) fn call(&self, method: &str, to: &str, outcome: String, took: Duration) {
        let mut calls = lock(&self.calls);
        if calls.len() >= CALLS_MAX {
            calls.pop_front();
        }
        // A relay chooses these texts: they are bounded before they are kept.
        calls.push_back(LastCall {
            at: now_s(),
            method: method.chars().take(16).collect(),
            to: to.chars().take(300).collect(),
            outcome,
            took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        });
    }

    /// Returns the last calls, the newest first.
    pub(crate) fn calls(&self) -> Vec<LastCall> {
        lock(&self.calls).iter().rev().cloned().collect()
    }

    fn slot(&self, slot: u8, now: SlotNow) {
        let mut slots = lock(&self.slots);
        // Bounded, whatever numbers the connections have.
        if slots.len() < SLOTS_MAX || slots.contains_key(&slot) {
            slots.insert(slot, now);
        }
    }

    /// Records that a connection is attempted. The last error stays visible until it succeeds.
    pub(crate) fn connecting(&self, slot: u8) {
        let before = lock(&self.slots).get(&slot).cloned();
        self.slot(
            slot,
            SlotNow {
                state: "connecting",
                node: None,
                since: Instant::now(),
                // Without it `status` would show no reason most of the time: attempts are short, waits are long.
                error: before.as_ref().and_then(|before| before.error.clone()),
                advice: before.and_then(|before| before.advice),
            },
        );
    }

    /// Records that a connection waits until the relay has a node for it.
    pub(crate) fn unused(&self, slot: u8) {
        self.slot(slot, SlotNow::of("unused"));
    }

    /// Records that a connection is up.
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

    /// Records that a connection is down, with the reason.
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

    /// Records the pattern of a connection's last sessions, or that there is none. It stays while the connection is
    /// up: the bridge reconnects within a second, and no administrator would see it otherwise.
    pub(crate) fn cut(&self, slot: u8, pattern: Option<Diagnosis>) {
        let mut patterns = lock(&self.patterns);
        match pattern {
            Some(pattern) if patterns.len() < SLOTS_MAX || patterns.contains_key(&slot) => {
                patterns.insert(slot, pattern);
            }
            Some(_) => {}
            None => {
                patterns.remove(&slot);
            }
        }
    }

    /// Returns the state of each connection.
    pub(crate) fn slots(&self) -> Vec<SlotState> {
        let patterns = lock(&self.patterns).clone();
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
                pattern: patterns.get(slot).map(Diagnosis::with_remedy),
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

pub(crate) use runtime::time::now_s;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn oldest_call_is_evicted() {
        let stats = RuntimeStats::default();
        for number in 0..CALLS_MAX + 3 {
            let to = format!("host-{number}");
            stats.call("POST", &to, "200".into(), Duration::from_millis(5));
        }
        let calls = stats.calls();
        assert_eq!(calls.len(), CALLS_MAX);
        assert_eq!(calls[0].to, format!("host-{}", CALLS_MAX + 2));
    }

    #[test]
    fn failures_are_counted_by_code() {
        let stats = RuntimeStats::default();
        stats.failed(&Failure::not_dispatched(Code::TargetDns, ""));
        stats.failed(&Failure::not_dispatched(Code::TargetDns, ""));
        assert_eq!(stats.failures(), [("target_dns".to_owned(), 2)].into());
    }
}
