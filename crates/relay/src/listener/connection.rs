//! What is known of the connection that a request came on.

use crate::admission::{
    EstablishedPlace, ListenerConnections, OpenConnection, PendingPermit, ProvenAddresses,
};
use protocol::opening::CHANNEL_BINDING_BYTES;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// How a connection came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListenerKind {
    /// Over TLS that ends here.
    Tls,
    /// Without TLS.
    Plain,
    /// On the listener of the forward proxy.
    Proxy,
    /// On the listener for health and metrics.
    Admin,
}

/// A connection. A tunnel keeps it for as long as it lives.
#[derive(Debug)]
pub struct Connection {
    /// The other end: the client, or the balancer in front.
    pub peer: SocketAddr,
    /// How it came in.
    pub arrived: ListenerKind,
    /// What its TLS is bound to (RFC 9266).
    pub exporter: Option<[u8; CHANNEL_BINDING_BYTES]>,
    /// Whether it is no longer HTTP.
    pub(super) is_raw: AtomicBool,
    /// Bytes of request and response bodies that are held in memory for it.
    pub(super) memory: ByteCount,
    /// Bytes of responses in the HTTP library's queue.
    pub(super) unsent: ByteCount,
    /// Whether the head of its last request was cut.
    pub(super) is_cut: AtomicBool,
    /// Its place among those that have not authenticated, which it leaves when it has.
    pub(super) pending: PendingPermit,
    /// Its place among those of callers.
    pub(super) established: OnceLock<EstablishedPlace>,
    /// The connections of its listener.
    pub(super) listener: Arc<ListenerConnections>,
    /// Its place among those that are open.
    pub(super) _open: OpenConnection,
}

/// Bytes of one kind that a connection has in memory.
#[derive(Debug, Default)]
pub(crate) struct ByteCount {
    bytes: AtomicU64,
    /// Raised whenever some are released.
    moves: AtomicU32,
}

impl ByteCount {
    pub(crate) fn add(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn release(&self, bytes: u64) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.moves.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn moves(&self) -> u32 {
        self.moves.load(Ordering::Relaxed)
    }
}

impl Connection {
    /// An API key of this tenant was accepted on it. Where the tenant or the address has as many
    /// connections as it may have, this one stays pending: it is served, and a newcomer may evict it.
    pub(crate) fn authenticated(&self, tenant: &Arc<str>) {
        if !self.pending.is_pending() {
            return;
        }
        if let Some(place) = self.listener.establish(tenant, self.peer.ip())
            && self.established.set(place).is_ok()
        {
            self.pending.leave();
        }
    }

    /// A bridge proved itself on it.
    pub(crate) fn proved(&self, proven: &ProvenAddresses) {
        proven.remember(self.peer.ip());
        self.pending.leave();
    }

    /// The head of a request was cut, for it was longer than any that can pass.
    pub(super) fn head_is_cut(&self) {
        self.is_cut.store(true, Ordering::Relaxed);
    }

    /// Whether the head of its last request was cut.
    pub(crate) fn has_cut_head(&self) -> bool {
        self.is_cut.load(Ordering::Relaxed)
    }

    /// Whether it has not authenticated.
    pub(super) fn is_pending(&self) -> bool {
        self.pending.is_pending()
    }

    /// It costs so many bytes by now, see [`PendingPermit::charge`].
    pub(super) fn charge(&self, bytes: usize) {
        self.pending.charge(bytes);
    }

    /// Waits until it is evicted; for ever once it has authenticated. Cancel safe.
    pub(crate) async fn evicted(&self) {
        self.pending.evicted().await;
    }

    /// The next bytes on it will not be HTTP: it is about to be answered that protocols are switched.
    pub(crate) fn turns_raw(&self) {
        self.is_raw.store(true, Ordering::Relaxed);
    }

    /// Bytes of request and response bodies that are held in memory for it.
    pub(crate) fn memory(&self) -> &ByteCount {
        &self.memory
    }

    /// Bytes of responses in the HTTP library's queue.
    pub(crate) fn unsent(&self) -> &ByteCount {
        &self.unsent
    }

    /// Whether it is no longer HTTP.
    pub(super) fn is_raw(&self) -> bool {
        self.is_raw.load(Ordering::Relaxed)
    }
}
