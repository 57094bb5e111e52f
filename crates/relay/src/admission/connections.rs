//! The connections of every listener, each with its own budget, and the file descriptors of all.

use super::{EstablishedPermit, EstablishedPool, PendingLimits, PendingPool, ProvenAddresses};
use crate::config::Limits;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// File descriptors that connections leave for the database, the log, name lookups and direct calls: this
/// number, and a fraction (1/n) of the limit of the process.
const RESERVED_FILES: usize = 64;
const RESERVED_DIVISOR: usize = 8;

/// Bytes that pending connections of one of the operator's own listeners may use.
const LOCAL_PENDING_BYTES: usize = 16 * 1024 * 1024;

/// The connections of one listener.
#[derive(Debug)]
pub(crate) struct ListenerConnections {
    /// Connections that have not authenticated.
    pub pending: Arc<PendingPool>,
    /// Connections of callers whose API key was accepted.
    pub established: Arc<EstablishedPool>,
}

impl ListenerConnections {
    fn new(
        pending: PendingLimits,
        count_max: u32,
        per_address_max: u32,
        proven: &Arc<ProvenAddresses>,
    ) -> Arc<Self> {
        Arc::new(Self {
            pending: PendingPool::new(pending, proven.clone()),
            established: EstablishedPool::new(count_max, per_address_max),
        })
    }

    /// Returns the budget of a listener for the operator's own network, where one address may be a proxy for
    /// all clients: there is no limit for each address.
    fn local(count_max: u32, proven: &Arc<ProvenAddresses>) -> Arc<Self> {
        let pending = PendingLimits {
            count_max: count_max as usize,
            per_address_max: count_max as usize,
            bytes_max: LOCAL_PENDING_BYTES,
        };
        Self::new(pending, count_max, count_max, proven)
    }

    /// Returns a permit for a connection whose API key was accepted, if the tenant and the address may have one.
    pub(crate) fn establish(
        &self,
        tenant: &Arc<str>,
        address: IpAddr,
    ) -> Option<EstablishedPermit> {
        self.established.acquire(tenant, address)
    }
}

/// The connections of all listeners.
#[derive(Debug)]
pub(crate) struct Connections {
    /// The public listener, for tunnels and API.
    pub public: Arc<ListenerConnections>,
    /// The internal listener: the same without TLS.
    pub internal: Arc<ListenerConnections>,
    /// The forward proxy.
    pub proxy: Arc<ListenerConnections>,
    /// Health and metrics.
    pub admin: Arc<ListenerConnections>,
    /// Addresses from which a bridge has authenticated.
    pub proven: Arc<ProvenAddresses>,
    open: Arc<AtomicUsize>,
    open_max: usize,
}

/// Counts an open connection until it is dropped.
#[derive(Debug)]
pub(crate) struct OpenConnection(Arc<AtomicUsize>);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Connections {
    /// Returns budgets for these limits, in a process that may have `files_max` descriptors.
    pub(crate) fn new(limits: &Limits, files_max: usize) -> Self {
        let proven = Arc::<ProvenAddresses>::default();
        let pending = PendingLimits {
            count_max: limits.pending_connections_max as usize,
            per_address_max: limits.pending_connections_max as usize,
            bytes_max: limits.pending_memory_max.bytes_usize(),
        };
        let (count_max, per_address) = (limits.connections_max, limits.connections_per_address);
        Self {
            public: ListenerConnections::new(pending, count_max, per_address, &proven),
            internal: ListenerConnections::local(limits.internal_connections_max, &proven),
            proxy: ListenerConnections::local(limits.proxy_connections_max, &proven),
            admin: ListenerConnections::local(limits.admin_connections_max, &proven),
            proven,
            open: Arc::default(),
            open_max: open_max(files_max),
        }
    }

    /// Counts an accepted connection. `None` when descriptors run out and no pending connection can be evicted
    /// for it.
    pub(crate) fn open(&self) -> Option<OpenConnection> {
        let open = OpenConnection(self.open.clone());
        // Counted before the check: of two connections that arrive at the limit, one sees the other.
        let before = self.open.fetch_add(1, Ordering::Relaxed);
        let has_room = before < self.open_max || self.evict(1) > 0;
        has_room.then_some(open)
    }

    /// Counts a connection that is accepted even if descriptors run out.
    pub(crate) fn open_always(&self) -> OpenConnection {
        self.open.fetch_add(1, Ordering::Relaxed);
        OpenConnection(self.open.clone())
    }

    /// Evicts up to `count` pending connections of the listener with the most. Returns how many.
    pub(crate) fn evict(&self, count: usize) -> usize {
        let pools = [&self.public, &self.internal, &self.proxy];
        // The fullest listener pays: a flood at one listener must not evict connections of another.
        let most = pools.iter().max_by_key(|pool| pool.pending.count());
        let evicted = most.map_or(0, |pool| pool.pending.evict(count));
        // The admin listener last: health and metrics are needed most when descriptors run out.
        if evicted == 0 {
            return self.admin.pending.evict(count);
        }
        evicted
    }

    /// Returns the number of open connections, tunnels included.
    pub(crate) fn count(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Returns the number of connections that have not authenticated.
    pub(crate) fn pending(&self) -> usize {
        self.all().map(|pool| pool.pending.count()).sum()
    }

    /// Returns the bytes that pending connections are charged.
    pub(crate) fn pending_bytes(&self) -> usize {
        self.all().map(|pool| pool.pending.bytes()).sum()
    }

    /// Returns the number of pending connections evicted since the start.
    pub(crate) fn evicted(&self) -> u64 {
        self.all().map(|pool| pool.pending.evicted()).sum()
    }

    fn all(&self) -> impl Iterator<Item = &ListenerConnections> {
        [&self.public, &self.internal, &self.proxy, &self.admin]
            .into_iter()
            .map(Arc::as_ref)
    }
}

/// Returns how many connections may be open in a process that may have `files_max` descriptors.
fn open_max(files_max: usize) -> usize {
    let reserved = RESERVED_FILES + files_max / RESERVED_DIVISOR;
    // Where the limit is small, the reserve takes at most half.
    files_max.saturating_sub(reserved).max(files_max / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_descriptors_for_the_process() {
        assert_eq!(open_max(256), 160);
        assert_eq!(open_max(100), 50);
        assert_eq!(open_max(usize::MAX), usize::MAX - 64 - usize::MAX / 8);
    }

    #[test]
    fn listeners_have_separate_budgets() {
        let limits = Limits {
            pending_connections_max: 4,
            internal_connections_max: 4,
            ..Limits::default()
        };
        let connections = Connections::new(&limits, usize::MAX);
        let address = IpAddr::from([127, 0, 0, 1]);
        let public = connections.public.pending.admit(address, 1);
        let local: Vec<_> = (0..100)
            .map(|_| connections.internal.pending.admit(address, 1))
            .collect();
        assert_eq!(connections.internal.pending.evicted(), 96);
        assert_eq!(connections.public.pending.evicted(), 0);
        assert_eq!(connections.pending(), 5);
        drop((public, local));
    }

    #[test]
    fn descriptor_shortage_evicts_at_fullest_listener() {
        let connections = Connections::new(&Limits::default(), 4);
        let address = IpAddr::from([127, 0, 0, 1]);
        let held: Vec<_> = (0..4)
            .map(|_| connections.public.pending.admit(address, 1))
            .collect();
        let _one = connections.internal.pending.admit(address, 1);
        let open: Vec<_> = (0..5).filter_map(|_| connections.open()).collect();
        assert_eq!(open.len(), 5);
        assert_eq!(connections.public.pending.evicted(), 3);
        drop(held);
        let more: Vec<_> = (0..5).filter_map(|_| connections.open()).collect();
        assert_eq!(more.len(), 1, "the last one that was pending");
        assert!(connections.open().is_none());
        drop((open, more));
        assert_eq!(connections.count(), 0);
    }
}
