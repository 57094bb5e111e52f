//! Limits the reads of the database that unknown peers cause: a token bucket for each address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Reads that an address may cause at once.
const BURST: u32 = 10;

/// Interval in which it may cause one more.
const REFILL_EVERY: Duration = Duration::from_secs(1);

/// Addresses with a bucket of their own. Above it, a new address causes no read.
const ADDRESSES_MAX: usize = 10_000;

#[derive(Debug, Clone, Copy)]
struct Bucket {
    /// When the bucket is full again.
    full_at: Instant,
}

/// The buckets of all addresses.
#[derive(Debug, Default)]
pub(super) struct LookupLimiter {
    by_address: Mutex<HashMap<IpAddr, Bucket>>,
}

impl LookupLimiter {
    /// Takes a token of this address, if there is one.
    pub(super) fn take(&self, address: IpAddr, now: Instant) -> bool {
        let mut buckets = self
            .by_address
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= ADDRESSES_MAX && !buckets.contains_key(&address) {
            buckets.retain(|_, bucket| bucket.full_at > now);
            if buckets.len() >= ADDRESSES_MAX {
                return false;
            }
        }
        let bucket = buckets.entry(address).or_insert(Bucket { full_at: now });
        let full_at = bucket.full_at.max(now) + REFILL_EVERY;
        if full_at - now > REFILL_EVERY * BURST {
            return false;
        }
        bucket.full_at = full_at;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn address_has_a_burst_and_a_rate() {
        let buckets = LookupLimiter::default();
        let (one, other) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let now = Instant::now();
        let taken = (0..100).filter(|_| buckets.take(one, now)).count();
        assert_eq!(taken, BURST as usize);
        assert!(buckets.take(other, now));
        assert!(buckets.take(one, now + REFILL_EVERY));
        assert!(!buckets.take(one, now + REFILL_EVERY));
    }

    #[test]
    fn number_of_addresses_is_bounded() {
        let buckets = LookupLimiter::default();
        let now = Instant::now();
        for number in 0..u32::try_from(ADDRESSES_MAX).unwrap() {
            assert!(buckets.take(Ipv4Addr::from(number).into(), now));
        }
        let next = [192, 0, 2, 1].into();
        assert!(!buckets.take(next, now));
        assert!(buckets.take(next, now + REFILL_EVERY));
    }
}
