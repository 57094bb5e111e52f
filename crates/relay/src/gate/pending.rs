//! Connections that have not authenticated yet, within a count and a number of bytes.
//!
//! ```text
//! admit -> PendingPlace --(HELLO proved, API key accepted)--> leave
//!               \--------(the pool is full)----------------> evicted: the connection ends
//! ```
//!
//! A newcomer always gets a place. When the pool is full, the address with the most bytes loses its
//! oldest connection: an address gets as much as the others leave, and a flood evicts itself. What is
//! used from addresses where a bridge has proved itself is spared while it is at most half of the pool.

use super::{ProvenAddresses, network};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// The bounds of a [`PendingPool`].
#[derive(Debug, Clone, Copy)]
pub struct PendingLimits {
    /// Connections of all addresses.
    pub count_max: usize,
    /// Connections of one address.
    pub per_address_max: usize,
    /// Bytes of all connections, as far as they are charged.
    pub bytes_max: usize,
}

/// Connections of one listener, or tunnels, that have not authenticated yet.
#[derive(Debug)]
pub struct PendingPool {
    limits: PendingLimits,
    proven: Arc<ProvenAddresses>,
    inner: Mutex<Inner>,
    evicted: AtomicU64,
}

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    count: usize,
    bytes: usize,
    by_address: HashMap<IpAddr, OfAddress>,
    /// Addresses by their bytes.
    unproven: BTreeSet<(usize, IpAddr)>,
    proven: BTreeSet<(usize, IpAddr)>,
    proven_count: usize,
    proven_bytes: usize,
}

#[derive(Debug, Default)]
struct OfAddress {
    bytes: usize,
    is_proven: bool,
    /// Oldest first.
    connections: BTreeMap<u64, Held>,
}

#[derive(Debug)]
struct Held {
    bytes: usize,
    signal: Arc<Signal>,
}

/// How a connection learns that it was evicted.
#[derive(Debug, Default)]
struct Signal {
    is_evicted: AtomicBool,
    notify: Notify,
}

impl Signal {
    fn fire(&self) {
        self.is_evicted.store(true, Ordering::Release);
        self.notify.notify_waiters();
    }
}

/// A connection's place in a [`PendingPool`], until it is dropped, left or evicted.
#[derive(Debug)]
pub struct PendingPlace {
    pool: Arc<PendingPool>,
    address: IpAddr,
    id: u64,
    signal: Arc<Signal>,
    is_pending: AtomicBool,
}

impl PendingPool {
    /// An empty pool.
    pub fn new(limits: PendingLimits, proven: Arc<ProvenAddresses>) -> Arc<Self> {
        Arc::new(Self {
            limits,
            proven,
            inner: Mutex::default(),
            evicted: AtomicU64::new(0),
        })
    }

    /// A place for a connection of `address` that costs so many bytes now. What is too much
    /// afterwards is evicted.
    pub fn admit(self: &Arc<Self>, address: IpAddr, bytes: usize) -> PendingPlace {
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
        drop(inner);
        self.fire(&evicted);
        PendingPlace {
            pool: self.clone(),
            address,
            id,
            signal,
            is_pending: AtomicBool::new(true),
        }
    }

    /// Evicts up to `count` connections. Returns how many.
    pub fn evict(&self, count: usize) -> usize {
        let mut inner = self.lock();
        let evicted: Vec<_> = (0..count)
            .map_while(|_| inner.evict_one(&self.limits))
            .collect();
        drop(inner);
        self.fire(&evicted);
        evicted.len()
    }

    /// How many connections are pending.
    pub fn count(&self) -> usize {
        self.lock().count
    }

    /// What they cost, as far as it is charged.
    pub fn bytes(&self) -> usize {
        self.lock().bytes
    }

    /// How many were evicted since the start.
    pub fn evicted(&self) -> u64 {
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
    fn insert(&mut self, address: IpAddr, is_proven: bool, id: u64, held: Held) {
        let bytes = held.bytes;
        let of_address = self.by_address.entry(address).or_insert_with(|| OfAddress {
            is_proven,
            ..OfAddress::default()
        });
        of_address.connections.insert(id, held);
        self.count += 1;
        if of_address.is_proven {
            self.proven_count += 1;
        }
        self.add_bytes(address, bytes);
    }

    fn ranks(&mut self, is_proven: bool) -> &mut BTreeSet<(usize, IpAddr)> {
        match is_proven {
            true => &mut self.proven,
            false => &mut self.unproven,
        }
    }

    fn add_bytes(&mut self, address: IpAddr, bytes: usize) {
        let Some(of_address) = self.by_address.get_mut(&address) else {
            return;
        };
        let before = of_address.bytes;
        of_address.bytes += bytes;
        let (after, is_proven) = (of_address.bytes, of_address.is_proven);
        self.bytes += bytes;
        if is_proven {
            self.proven_bytes += bytes;
        }
        let ranks = self.ranks(is_proven);
        ranks.remove(&(before, address));
        ranks.insert((after, address));
    }

    fn remove(&mut self, address: IpAddr, id: u64) -> Option<Held> {
        let of_address = self.by_address.get_mut(&address)?;
        let held = of_address.connections.remove(&id)?;
        let before = of_address.bytes;
        of_address.bytes -= held.bytes;
        let (after, is_proven) = (of_address.bytes, of_address.is_proven);
        let is_empty = of_address.connections.is_empty();
        self.count -= 1;
        self.bytes -= held.bytes;
        if is_proven {
            self.proven_count -= 1;
            self.proven_bytes -= held.bytes;
        }
        let ranks = self.ranks(is_proven);
        ranks.remove(&(before, address));
        if is_empty {
            self.by_address.remove(&address);
        } else {
            ranks.insert((after, address));
        }
        Some(held)
    }

    /// Evicts what is beyond the limits after a change at `address`.
    fn evict_surplus(&mut self, limits: &PendingLimits, address: IpAddr) -> Vec<Arc<Signal>> {
        let mut evicted = Vec::new();
        let of_address = self.by_address.get(&address);
        if of_address.is_some_and(|of| of.connections.len() > limits.per_address_max) {
            evicted.extend(self.evict_oldest_of(address));
        }
        while self.count > limits.count_max || self.bytes > limits.bytes_max {
            match self.evict_one(limits) {
                Some(signal) => evicted.push(signal),
                None => break,
            }
        }
        evicted
    }

    /// Evicts the oldest connection of the address that has the most bytes.
    fn evict_one(&mut self, limits: &PendingLimits) -> Option<Arc<Signal>> {
        let is_spared = self.proven_count <= limits.count_max / 2
            && self.proven_bytes <= limits.bytes_max / 2
            && !self.unproven.is_empty();
        let largest = self.unproven.last();
        let largest = match is_spared {
            true => largest,
            false => largest.max(self.proven.last()),
        };
        let (_, address) = *largest?;
        self.evict_oldest_of(address)
    }

    fn evict_oldest_of(&mut self, address: IpAddr) -> Option<Arc<Signal>> {
        let of_address = self.by_address.get(&address)?;
        let (id, _) = of_address.connections.first_key_value()?;
        let id = *id;
        self.remove(address, id).map(|held| held.signal)
    }
}

impl PendingPlace {
    /// The connection costs so many bytes by now, if that is more than before.
    pub fn charge(&self, bytes: usize) {
        if !self.is_pending() {
            return;
        }
        let mut inner = self.pool.lock();
        let of_address = inner.by_address.get_mut(&self.address);
        let held = of_address.and_then(|of_address| of_address.connections.get_mut(&self.id));
        let Some(held) = held else { return };
        let more = bytes.saturating_sub(held.bytes);
        if more == 0 {
            return;
        }
        held.bytes = bytes;
        inner.add_bytes(self.address, more);
        let evicted = inner.evict_surplus(&self.pool.limits, self.address);
        drop(inner);
        self.pool.fire(&evicted);
    }

    /// The connection has authenticated: it is no longer evicted, and costs the pool nothing.
    pub fn leave(&self) {
        if self.is_pending.swap(false, Ordering::Relaxed) {
            let held = self.pool.lock().remove(self.address, self.id);
            drop(held);
        }
    }

    /// Whether the connection has not left.
    pub fn is_pending(&self) -> bool {
        self.is_pending.load(Ordering::Relaxed)
    }

    /// Waits until the connection is evicted; for ever if it leaves first. Cancel safe.
    pub async fn evicted(&self) {
        let notified = self.signal.notify.notified();
        let mut notified = std::pin::pin!(notified);
        // From here on no notification is missed.
        notified.as_mut().enable();
        if !self.signal.is_evicted.load(Ordering::Acquire) {
            notified.await;
        }
    }
}

impl Drop for PendingPlace {
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

    fn is_evicted(place: &PendingPlace) -> bool {
        place.signal.is_evicted.load(Ordering::Relaxed)
    }

    fn survivors(places: &[PendingPlace]) -> usize {
        places.iter().filter(|place| !is_evicted(place)).count()
    }

    #[tokio::test]
    async fn newcomer_evicts_the_oldest_of_the_largest_address() {
        let pool = pool(8, 8, 1024 * KIB);
        let flood: Vec<_> = (0..8)
            .map(|_| pool.admit(address("10.0.0.1"), KIB))
            .collect();
        let newcomer = pool.admit(address("10.0.0.2"), KIB);
        assert!(!is_evicted(&newcomer));
        flood[0].evicted().await;
        assert_eq!((survivors(&flood), pool.count()), (7, 8));
        // More of the flood evict the flood, not the newcomer.
        let more: Vec<_> = (0..100)
            .map(|_| pool.admit(address("10.0.0.1"), KIB))
            .collect();
        assert!(!is_evicted(&newcomer));
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
    fn bytes_are_one_budget_and_the_largest_address_pays() {
        let pool = pool(100, 100, 64 * KIB);
        let honest = pool.admit(address("10.0.0.2"), KIB);
        let places: Vec<_> = (0..10)
            .map(|_| pool.admit(address("10.0.0.1"), KIB))
            .collect();
        for place in &places {
            place.charge(20 * KIB);
            assert!(pool.bytes() <= 64 * KIB);
        }
        honest.charge(8 * KIB);
        assert!(!is_evicted(&honest));
        assert!(survivors(&places) <= 3);
        // Larger than all of the budget: it cannot stay.
        honest.charge(65 * KIB);
        assert!(is_evicted(&honest) && pool.bytes() <= 64 * KIB);
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

    #[test]
    fn place_that_left_is_neither_counted_nor_evicted() {
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
        assert_eq!((inner.count, inner.bytes), (0, 0));
        assert!(inner.by_address.is_empty() && inner.unproven.is_empty());
    }
}
