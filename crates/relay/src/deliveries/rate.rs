//! Rate limits: how many calls a tenant may submit, and how many attempts go to one installation.

use runtime::limit::{Refill, TokenBucket};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A tenant's burst is the number of calls that it may submit in this many seconds.
const BURST_SECONDS: f64 = 10.0;

/// Tenants with a bucket of their own. Above it, full buckets are forgotten first.
const TENANTS_MAX: usize = 10_000;

/// Limits the calls that each tenant submits: a token bucket for each, with a burst of ten seconds.
#[derive(Debug)]
pub(crate) struct SubmissionLimiter {
    refill: Refill,
    buckets: Mutex<HashMap<Arc<str>, TokenBucket>>,
}

impl SubmissionLimiter {
    /// Returns a limiter with this sustained rate.
    pub(crate) fn new(per_second: u32) -> Self {
        Self {
            refill: Refill {
                per_second: f64::from(per_second),
                burst: f64::from(per_second) * BURST_SECONDS,
            },
            buckets: Mutex::default(),
        }
    }

    /// Takes one token of the tenant's.
    ///
    /// # Errors
    /// The time until the next token.
    pub(crate) fn take(&self, tenant: &Arc<str>, now: Instant) -> Result<(), Duration> {
        let refill = self.refill;
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= TENANTS_MAX && !buckets.contains_key(tenant) {
            // A full bucket is the same as none, so forgetting it gives no tenant more calls.
            buckets.retain(|_, bucket| !bucket.is_full(refill, now));
        }
        let bucket = buckets.entry(tenant.clone());
        let bucket = bucket.or_insert_with(|| TokenBucket::full(refill, now));
        bucket.take(refill, now)
    }
}

/// Limits the attempts through one installation: their number, and how many start in a second.
#[derive(Debug, Default)]
pub(crate) struct InstallationLimiter {
    running: u32,
    next: Option<Instant>,
}

impl InstallationLimiter {
    /// Takes a permit and returns when the attempt may start; `None` when all permits are in use.
    pub(crate) fn acquire(
        &mut self,
        now: Instant,
        concurrent_max: u32,
        per_second: u32,
    ) -> Option<Instant> {
        if self.running >= concurrent_max {
            return None;
        }
        self.running += 1;
        // Each attempt reserves the next free slot of the schedule: no burst goes to a bridge that was
        // idle, or has just come back with a long queue.
        let start = self.next.map_or(now, |next| next.max(now));
        self.next = Some(start + Duration::from_secs(1) / per_second.max(1));
        Some(start)
    }

    /// Returns a permit.
    pub(crate) fn release(&mut self) {
        self.running = self.running.saturating_sub(1);
    }

    /// Returns whether the limiter can be dropped without any effect.
    pub(crate) fn is_idle(&self, now: Instant) -> bool {
        self.running == 0 && self.next.is_none_or(|next| next <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn submissions_have_a_burst_and_a_rate() {
        let limiter = SubmissionLimiter::new(2);
        let (tenant, other): (Arc<str>, Arc<str>) = ("t".into(), "u".into());
        let now = Instant::now();
        for _ in 0..20 {
            limiter.take(&tenant, now).unwrap();
        }
        let wait = limiter.take(&tenant, now).unwrap_err();
        assert_eq!(wait, Duration::from_millis(500));
        limiter.take(&other, now).unwrap();
        limiter.take(&tenant, now + wait).unwrap();
        assert!(limiter.take(&tenant, now + wait).is_err());
    }

    #[test]
    fn installation_has_permits_and_a_rate() {
        let mut limiter = InstallationLimiter::default();
        let now = Instant::now();
        assert_eq!(limiter.acquire(now, 2, 10), Some(now));
        let second = limiter.acquire(now, 2, 10).unwrap();
        assert_eq!(second, now + Duration::from_millis(100));
        assert_eq!(limiter.acquire(now, 2, 10), None);
        limiter.release();
        limiter.release();
        assert!(!limiter.is_idle(now));
        let later = now + Duration::from_secs(1);
        assert!(limiter.is_idle(later));
        assert_eq!(limiter.acquire(later, 2, 10), Some(later));
    }
}
