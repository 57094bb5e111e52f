//! Byte counts of finished exchanges, for the audit record.

use crate::access::Principal;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Keeps the sums that exchanges are added to. The audit record implements it.
pub(crate) trait TrafficLog: fmt::Debug + Send + Sync {
    /// Returns the sum of one key's exchanges with one endpoint through one bridge and with one result.
    fn endpoint(
        &self,
        principal: &Principal,
        endpoint: &str,
        bridge: &Arc<str>,
        result: &'static str,
    ) -> Arc<TrafficSum>;
}

/// What exchanges of one kind add up to.
#[derive(Debug, Default)]
pub(crate) struct TrafficSum {
    count: AtomicU64,
    up: AtomicU64,
    down: AtomicU64,
    took_us: AtomicU64,
}

impl TrafficSum {
    /// Adds an exchange whose response came after `took`.
    pub(crate) fn responded(&self, took: Duration, up: u64) {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.up.fetch_add(up, Ordering::Relaxed);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.took_us.fetch_add(micros, Ordering::Relaxed);
    }

    /// Adds bytes of a response's body.
    pub(crate) fn received(&self, bytes: u64) {
        self.down.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Takes what there is: count, bytes up, bytes down, microseconds. `None` if all of it is zero.
    pub(crate) fn take(&self) -> Option<[u64; 4]> {
        // Each number is swapped by itself: an exchange that is added meanwhile may be split between two
        // rows, and nothing is counted twice or lost.
        let taken = [&self.count, &self.up, &self.down, &self.took_us]
            .map(|number| number.swap(0, Ordering::Relaxed));
        taken.iter().any(|number| *number > 0).then_some(taken)
    }
}
