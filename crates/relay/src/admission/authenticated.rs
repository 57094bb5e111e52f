//! Addresses from which a bridge has authenticated.
//!
//! Bounded and aging: the address with the oldest authentication is evicted first.

use super::network;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Addresses that are kept.
const ADDRESSES_MAX: usize = 16_384;

/// How long an address is kept after its last authentication or the end of its last session.
const KEPT_FOR: Duration = Duration::from_secs(24 * 60 * 60);

/// The proven addresses (an IPv6 /64 is one address).
#[derive(Debug, Default)]
pub(crate) struct ProvenAddresses {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    by_address: HashMap<IpAddr, (u64, Instant)>,
    /// In the order of their last authentication.
    by_age: BTreeMap<u64, IpAddr>,
}

impl ProvenAddresses {
    /// Notes that a bridge has authenticated from `address`, or that its session ended.
    pub(crate) fn remember(&self, address: IpAddr) {
        self.remember_at(address, Instant::now());
    }

    fn remember_at(&self, address: IpAddr, now: Instant) {
        let address = network(address);
        let mut inner = self.lock();
        let number = inner.next;
        inner.next += 1;
        // The old position is removed, so that both maps always have the same entries.
        if let Some((old, _)) = inner.by_address.insert(address, (number, now)) {
            inner.by_age.remove(&old);
        }
        inner.by_age.insert(number, address);
        if inner.by_address.len() > ADDRESSES_MAX
            && let Some((_, oldest)) = inner.by_age.pop_first()
        {
            inner.by_address.remove(&oldest);
        }
    }

    /// Returns whether a bridge has authenticated from `address` recently.
    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        self.contains_at(address, Instant::now())
    }

    fn contains_at(&self, address: IpAddr, now: Instant) -> bool {
        let inner = self.lock();
        let known = inner.by_address.get(&network(address));
        // Expired entries are not removed here: the bound evicts them.
        known.is_some_and(|(_, since)| now.saturating_duration_since(*since) < KEPT_FOR)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn proven_addresses_age_and_are_bounded() {
        let proven = ProvenAddresses::default();
        let now = Instant::now();
        let number = |n: u32| IpAddr::V4(Ipv4Addr::from(n));
        for n in 0..=u32::try_from(ADDRESSES_MAX).unwrap() {
            proven.remember_at(number(n), now);
            // Authenticates again and again, so it is never the oldest.
            proven.remember_at(number(1), now);
        }
        assert!(proven.contains_at(number(1), now));
        assert!(!proven.contains_at(number(0), now));
        assert!(!proven.contains_at(number(1), now + KEPT_FOR));
        let inner = proven.lock();
        assert_eq!(inner.by_address.len(), ADDRESSES_MAX);
        assert_eq!(inner.by_age.len(), ADDRESSES_MAX);
    }
}
