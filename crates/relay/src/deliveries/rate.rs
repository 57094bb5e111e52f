//! How much a tenant may hand over, and how fast a bridge is fed.

use runtime::limit::{Refill, TokenBucket};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A burst is what comes in so many seconds.
const BURST_SECONDS: f64 = 10.0;

/// Tenants that are told apart before those that are at rest are forgotten.
const TENANTS_MAX: usize = 10_000;

/// Counts what each tenant hands over: so many a second, over ten seconds.
#[derive(Debug)]
pub struct Rate {
    refill: Refill,
    buckets: Mutex<HashMap<Arc<str>, TokenBucket>>,
}

impl Rate {
    /// With so many a second.
    pub fn new(per_second: u32) -> Self {
        Self {
            refill: Refill {
                per_second: f64::from(per_second),
                burst: f64::from(per_second) * BURST_SECONDS,
            },
            buckets: Mutex::default(),
        }
    }

    /// Takes one.
    ///
    /// # Errors
    /// After how long there will be one again.
    pub fn take(&self, tenant: &Arc<str>, now: Instant) -> Result<(), Duration> {
        let refill = self.refill;
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= TENANTS_MAX && !buckets.contains_key(tenant) {
            buckets.retain(|_, bucket| !bucket.is_full(refill, now));
        }
        let bucket = buckets.entry(tenant.clone());
        let bucket = bucket.or_insert_with(|| TokenBucket::full(refill, now));
        bucket.take(refill, now)
    }
}

/// The attempts through one installation: so many at once, and so many begun in a second.
#[derive(Debug, Default)]
pub struct Lane {
    running: u32,
    next: Option<Instant>,
}

impl Lane {
    /// Takes a place; returns when the attempt may begin. `None` when all places are taken.
    pub fn enter(&mut self, now: Instant, places: u32, per_second: u32) -> Option<Instant> {
        if self.running >= places {
            return None;
        }
        self.running += 1;
        let begin = self.next.map_or(now, |next| next.max(now));
        self.next = Some(begin + Duration::from_secs(1) / per_second.max(1));
        Some(begin)
    }

    /// Gives a place back.
    pub fn leave(&mut self) {
        self.running = self.running.saturating_sub(1);
    }

    /// Whether nothing is left to remember.
    pub fn is_idle(&self, now: Instant) -> bool {
        self.running == 0 && self.next.is_none_or(|next| next <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_so_many_a_second() {
        let rate = Rate::new(2);
        let (tenant, other): (Arc<str>, Arc<str>) = ("t".into(), "u".into());
        let now = Instant::now();
        for _ in 0..20 {
            rate.take(&tenant, now).unwrap();
        }
        let wait = rate.take(&tenant, now).unwrap_err();
        assert_eq!(wait, Duration::from_millis(500));
        rate.take(&other, now).unwrap();
        rate.take(&tenant, now + wait).unwrap();
        assert!(rate.take(&tenant, now + wait).is_err());
    }

    #[test]
    fn a_lane_has_places_and_a_pace() {
        let mut lane = Lane::default();
        let now = Instant::now();
        assert_eq!(lane.enter(now, 2, 10), Some(now));
        let second = lane.enter(now, 2, 10).unwrap();
        assert_eq!(second, now + Duration::from_millis(100));
        assert_eq!(lane.enter(now, 2, 10), None);
        lane.leave();
        lane.leave();
        assert!(!lane.is_idle(now));
        let later = now + Duration::from_secs(1);
        assert!(lane.is_idle(later));
        assert_eq!(lane.enter(later, 2, 10), Some(later));
    }
}
