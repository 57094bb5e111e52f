//! Connections that have not authenticated yet, within a count and a number of bytes.
//!
//! ```text
//! admit -> PendingPermit --(bridge authenticated, API key accepted)--> leave
//!               \--------(the pool is full)-------------------------> evicted: the connection ends
//! ```
//!
//! A new connection always gets a permit. When the pool is full, the address with the most connections (or bytes,
//! if bytes are the limit) loses its oldest one. So an address gets as much as the others leave, and a flood
//! evicts itself. Among equal addresses the one with the oldest connection loses it. Connections from addresses
//! where a bridge has authenticated are protected while they use at most half of the pool.

use super::{ProvenAddresses, network};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// The bounds of a [`PendingPool`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct PendingLimits {
    /// Connections of all addresses.
    pub count_max: usize,
    /// Connections of one address.
    pub per_address_max: usize,
    /// Bytes that all connections are charged.
    pub bytes_max: usize,
}

/// Connections of one listener, or tunnels, that have not authenticated yet.
#[derive(Debug)]
pub(crate) struct PendingPool {
    limits: PendingLimits,
    proven: Arc<ProvenAddresses>,
    inner: Mutex<Inner>,
    evicted: AtomicU64,
}

/// Granularity in which the bytes of addresses are compared: below it, connections differ only in how far their
/// handshake has come.
const EQUAL_BYTES: usize = 64 * 1024;

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    by_address: HashMap<IpAddr, OfAddress>,
    unproven: Class,
    proven: Class,
}

/// The addresses from which a bridge has authenticated, or the others.
#[derive(Debug, Default)]
struct Class {
    count: usize,
    bytes: usize,
    /// The last one is the next to lose a connection, for the count or for the bytes.
    by_count: BTreeSet<Rank>,
    by_bytes: BTreeSet<Rank>,
}

/// How much an address has, its oldest connection, and the address.
type Rank = (usize, Reverse<u64>, IpAddr);

/// The limit that is exceeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Exceeded {
    Count,
    Bytes,
}

#[derive(Debug, Default)]
struct OfAddress {
    bytes: usize,
    is_proven: bool,
    /// Oldest first.
    connections: BTreeMap<u64, Held>,
}

impl OfAddress {
    fn ranks(&self, address: IpAddr) -> Option<(Rank, Rank)> {
        let (oldest, _) = self.connections.first_key_value()?;
        let rank = |number| (number, Reverse(*oldest), address);
        let by_bytes = rank(self.bytes / EQUAL_BYTES);
        Some((rank(self.connections.len()), by_bytes))
    }
}

impl Class {
    fn remove(&mut self, address: IpAddr, of_address: &OfAddress) {
        self.count -= of_address.connections.len();
        self.bytes -= of_address.bytes;
        if let Some((by_count, by_bytes)) = of_address.ranks(address) {
            self.by_count.remove(&by_count);
            self.by_bytes.remove(&by_bytes);
        }
    }

    fn insert(&mut self, address: IpAddr, of_address: &OfAddress) {
        self.count += of_address.connections.len();
        self.bytes += of_address.bytes;
        if let Some((by_count, by_bytes)) = of_address.ranks(address) {
            self.by_count.insert(by_count);
            self.by_bytes.insert(by_bytes);
        }
    }

    fn largest(&self, exceeded: Exceeded) -> Option<&Rank> {
        match exceeded {
            Exceeded::Count => self.by_count.last(),
            Exceeded::Bytes => self.by_bytes.last(),
        }
    }
}

#[derive(Debug)]
struct Held {
    bytes: usize,
    signal: Arc<Signal>,
}

/// Tells a connection that it was evicted.
#[derive(Debug, Default)]
struct Signal {
    is_evicted: AtomicBool,
    notify: Notify,
}

impl Signal {
    fn fire(&self) {
        // The flag before the wake-up: a connection that enables its notification later reads the flag.
        self.is_evicted.store(true, Ordering::Release);
        self.notify.notify_waiters();
    }
}

/// A connection's permit in a [`PendingPool`], until it is dropped, released or evicted.
#[derive(Debug)]
pub(crate) struct PendingPermit {
    pool: Arc<PendingPool>,
    address: IpAddr,
    id: u64,
    signal: Arc<Signal>,
    is_pending: AtomicBool,
}

impl PendingPool {
    /// Returns an empty pool.
    pub(crate) fn new(limits: PendingLimits, proven: Arc<ProvenAddresses>) -> Arc<Self> {
        Arc::new(Self {
            limits,
            proven,
            inner: Mutex::default(),
            evicted: AtomicU64::new(0),
        })
    }

    /// Returns a permit for a connection of `address` that is charged `bytes`. Connections beyond the limits are
    /// evicted.
    pub(crate) fn admit(self: &Arc<Self>, address: IpAddr, bytes: usize) -> PendingPermit {
        let is_proven = self.proven.contains(address);
        let address = network(address);
        let signal = Arc::<Signal>::default();
        let mut inner = self.lock();
        let id = inner.next;
        inner.next += 1;
        let held = Held {
            bytes,
            signal: signal.clone(),
        };
        inner.insert(address, is_proven, id, held);
        let evicted = inner.evict_surplus(&self.limits, address);
        // Outside the lock: a connection that is woken takes it at once, to release its permit.
        drop(inner);
        self.fire(&evicted);
        PendingPermit {
            pool: self.clone(),
            address,
            id,
            signal,
            is_pending: AtomicBool::new(true),
        }
    }

    /// Evicts up to `count` connections. Returns how many.
    pub(crate) fn evict(&self, count: usize) -> usize {
        let mut inner = self.lock();
        let evicted: Vec<_> = (0..count)
            .map_while(|_| inner.evict_one(&self.limits, Exceeded::Count))
            .collect();
        drop(inner);
        self.fire(&evicted);
        evicted.len()
    }

    /// Returns the number of pending connections.
    pub(crate) fn count(&self) -> usize {
        self.lock().count()
    }

    /// Returns the bytes that they are charged.
    pub(crate) fn bytes(&self) -> usize {
        self.lock().bytes()
    }

    /// Returns the number of connections evicted since the start.
    pub(crate) fn evicted(&self) -> u64 {
        self.evicted.load(Ordering::Relaxed)
    }

    fn fire(&self, evicted: &[Arc<Signal>]) {
        self.evicted
            .fetch_add(evicted.len() as u64, Ordering::Relaxed);
        for signal in evicted {
            signal.fire();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Changes an address's connections and its ranks, and removes an address without connections.
    fn update<T>(
        &mut self,
        address: IpAddr,
        is_proven: bool,
        change: impl FnOnce(&mut OfAddress) -> T,
    ) -> T {
        // `is_proven` is fixed while the address has connections, so that its ranks stay in one set.
        let mut of_address = self.by_address.remove(&address).unwrap_or(OfAddress {
            is_proven,
            ..OfAddress::default()
        });
        let class = match of_address.is_proven {
            true => &mut self.proven,
            false => &mut self.unproven,
        };
        // The ranks are keys of ordered sets: they must be removed with the old values before the change.
        class.remove(address, &of_address);
        let result = change(&mut of_address);
        class.insert(address, &of_address);
        if !of_address.connections.is_empty() {
            self.by_address.insert(address, of_address);
        }
        result
    }

    fn insert(&mut self, address: IpAddr, is_proven: bool, id: u64, held: Held) {
        self.update(address, is_proven, |of_address| {
            of_address.bytes += held.bytes;
            of_address.connections.insert(id, held);
        });
    }

    fn remove(&mut self, address: IpAddr, id: u64) -> Option<Held> {
        self.update(address, false, |of_address| {
            let held = of_address.connections.remove(&id)?;
            of_address.bytes -= held.bytes;
            Some(held)
        })
    }

    fn count(&self) -> usize {
        self.unproven.count + self.proven.count
    }

    fn bytes(&self) -> usize {
        self.unproven.bytes + self.proven.bytes
    }

    /// Evicts connections beyond the limits after a change at `address`.
    fn evict_surplus(&mut self, limits: &PendingLimits, address: IpAddr) -> Vec<Arc<Signal>> {
        let mut evicted = Vec::new();
        let of_address = self.by_address.get(&address);
        // One is enough, because each change adds at most one connection.
        if of_address.is_some_and(|of| of.connections.len() > limits.per_address_max) {
            evicted.extend(self.evict_oldest_of(address));
        }
        loop {
            let exceeded = if self.count() > limits.count_max {
                Exceeded::Count
            } else if self.bytes() > limits.bytes_max {
                Exceeded::Bytes
            } else {
                return evicted;
            };
            match self.evict_one(limits, exceeded) {
                Some(signal) => evicted.push(signal),
                None => return evicted,
            }
        }
    }

    /// Evicts the oldest connection of the address with the most.
    fn evict_one(&mut self, limits: &PendingLimits, exceeded: Exceeded) -> Option<Arc<Signal>> {
        // Up to half: otherwise one compromised bridge could fill the pool from its proven address.
        let is_spared = self.proven.count <= limits.count_max / 2
            && self.proven.bytes <= limits.bytes_max / 2
            && self.unproven.count > 0;
        let largest = self.unproven.largest(exceeded);
        let largest = match is_spared {
            true => largest,
            false => largest.max(self.proven.largest(exceeded)),
        };
        let (_, _, address) = *largest?;
        self.evict_oldest_of(address)
    }

    fn evict_oldest_of(&mut self, address: IpAddr) -> Option<Arc<Signal>> {
        let of_address = self.by_address.get(&address)?;
        let (id, _) = of_address.connections.first_key_value()?;
        let id = *id;
        self.remove(address, id).map(|held| held.signal)
    }
}

impl PendingPermit {
    /// Raises what the connection is charged to `bytes`. It never sinks.
    pub(crate) fn charge(&self, bytes: usize) {
        if !self.is_pending() {
            return;
        }
        let mut inner = self.pool.lock();
        let is_more = inner.update(self.address, false, |of_address| {
            // The connection may have been evicted meanwhile.
            let Some(held) = of_address.connections.get_mut(&self.id) else {
                return false;
            };
            let more = bytes.saturating_sub(held.bytes);
            held.bytes += more;
            of_address.bytes += more;
            more > 0
        });
        if !is_more {
            return;
        }
        let evicted = inner.evict_surplus(&self.pool.limits, self.address);
        drop(inner);
        self.pool.fire(&evicted);
    }

    /// Releases the permit, because the connection has authenticated: it is not evicted any more.
    pub(crate) fn leave(&self) {
        // The swap makes one of two concurrent callers release it. The pool's lock orders everything else.
        if self.is_pending.swap(false, Ordering::Relaxed) {
            let held = self.pool.lock().remove(self.address, self.id);
            drop(held);
        }
    }

    /// Returns whether the permit is not released.
    pub(crate) fn is_pending(&self) -> bool {
        self.is_pending.load(Ordering::Relaxed)
    }

    /// Waits until the connection is evicted; forever if the permit is released first. Cancel safe.
    pub(crate) async fn evicted(&self) {
        let notified = self.signal.notify.notified();
        let mut notified = std::pin::pin!(notified);
        // Enabled before the flag is read, so that an eviction in between is not missed.
        notified.as_mut().enable();
        if !self.signal.is_evicted.load(Ordering::Acquire) {
            notified.await;
        }
    }
}

impl Drop for PendingPermit {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: usize = 1024;

    fn pool(count_max: usize, per_address_max: usize, bytes_max: usize) -> Arc<PendingPool> {
        let limits = PendingLimits {
            count_max,
            per_address_max,
            bytes_max,
        };
        PendingPool::new(limits, Arc::default())
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn is_evicted(permit: &PendingPermit) -> bool {
        permit.signal.is_evicted.load(Ordering::Relaxed)
    }

    fn survivors(permits: &[PendingPermit]) -> usize {
        permits.iter().filter(|permit| !is_evicted(permit)).count()
    }

    #[tokio::test]
    async fn new_connection_evicts_oldest_of_largest_address() {
        let pool = pool(8, 8, 1024 * KIB);
        let flood: Vec<_> = (0..8)
            .map(|_| pool.admit(address("10.0.0.1"), KIB))
            .collect();
        let newest = pool.admit(address("10.0.0.2"), KIB);
        assert!(!is_evicted(&newest));
        flood[0].evicted().await;
        assert_eq!((survivors(&flood), pool.count()), (7, 8));
        // More of the flood evict the flood, not the other address.
        let more: Vec<_> = (0..100)
            .map(|_| pool.admit(address("10.0.0.1"), KIB))
            .collect();
        assert!(!is_evicted(&newest));
        assert!(!is_evicted(more.last().unwrap()));
        assert_eq!((pool.count(), pool.evicted()), (8, 101));
    }

    #[test]
    fn address_at_its_limit_loses_its_oldest() {
        let pool = pool(100, 2, 1024 * KIB);
        let own: Vec<_> = (0..3)
            .map(|_| pool.admit(address("2001:db8::1"), KIB))
            .collect();
        let same_network = pool.admit(address("2001:db8::2"), KIB);
        assert_eq!(
            [&own[0], &own[1], &own[2], &same_network].map(is_evicted),
            [true, true, false, false]
        );
    }

    #[test]
    fn byte_budget_evicts_at_largest_address() {
        const MAX: usize = 1024 * KIB;
        let pool = pool(100, 100, MAX);
        let honest = pool.admit(address("10.0.0.2"), KIB);
        let permits: Vec<_> = (0..10)
            .map(|_| pool.admit(address("10.0.0.1"), KIB))
            .collect();
        for permit in &permits {
            permit.charge(200 * KIB);
            assert!(pool.bytes() <= MAX);
        }
        honest.charge(8 * KIB);
        assert!(!is_evicted(&honest));
        assert!((1..=5).contains(&survivors(&permits)));
        // Larger than the whole budget: it cannot stay.
        honest.charge(MAX + 1);
        assert!(is_evicted(&honest) && pool.bytes() <= MAX);
    }

    #[test]
    fn proven_addresses_are_spared_up_to_half() {
        let pool = pool(8, 8, 1024 * KIB);
        pool.proven.remember(address("10.0.0.1"));
        let proven: Vec<_> = (0..4)
            .map(|_| pool.admit(address("10.0.0.1"), KIB))
            .collect();
        // As many addresses as there are connections: none has more than another.
        let flood: Vec<_> = (0..200)
            .map(|n| pool.admit(address(&format!("10.1.0.{n}")), KIB))
            .collect();
        assert_eq!((survivors(&proven), survivors(&flood)), (4, 4));
        let more: Vec<_> = (0..4)
            .map(|_| pool.admit(address("10.0.0.1"), KIB))
            .collect();
        let last = pool.admit(address("10.2.0.1"), KIB);
        assert!(!is_evicted(&last) && survivors(&proven) + survivors(&more) >= 4);
    }

    /// A flood from as many addresses as it has connections, which cost less than an honest one.
    #[test]
    fn oldest_of_equal_addresses_is_evicted() {
        let pool = pool(100, 100, 1024 * KIB);
        let flood: Vec<_> = (0..200)
            .map(|n| pool.admit(address(&format!("10.1.0.{n}")), KIB))
            .collect();
        let honest = pool.admit(address("10.200.0.1"), KIB);
        honest.charge(24 * KIB);
        let more: Vec<_> = (0..98)
            .map(|n| pool.admit(address(&format!("10.2.0.{n}")), KIB))
            .collect();
        assert!(!is_evicted(&honest));
        assert_eq!((survivors(&flood), survivors(&more)), (1, 98));
    }

    #[test]
    fn released_permit_is_neither_counted_nor_evicted() {
        let pool = pool(2, 2, 1024 * KIB);
        let authenticated = pool.admit(address("10.0.0.1"), KIB);
        authenticated.leave();
        authenticated.charge(100 * KIB);
        let others: Vec<_> = (0..9)
            .map(|_| pool.admit(address("10.0.0.1"), KIB))
            .collect();
        assert!(!is_evicted(&authenticated));
        assert_eq!(pool.count(), 2);
        drop((authenticated, others));
        let inner = pool.lock();
        assert_eq!((inner.count(), inner.bytes()), (0, 0));
        assert!(inner.by_address.is_empty() && inner.unproven.by_count.is_empty());
    }
}
