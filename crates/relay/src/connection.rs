//! A connection and what is known of it: shared by the listener and the requests that came on it.
//!
//! `bare_lf_guard` inspects the bytes of HTTP/1.1, on `inspected_io`; `write_timeout` closes a connection whose
//! peer reads nothing.

pub(crate) mod bare_lf_guard;
pub(crate) mod inspected_io;
pub(crate) mod write_timeout;

use crate::access::LastCredentials;
use crate::admission::{
    EstablishedPermit, ListenerConnections, OpenConnection, PendingPermit, ProvenAddresses,
};
use bare_lf_guard::Cut;
use protocol::opening::CHANNEL_BINDING_BYTES;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// What a pending connection is charged: a socket and its task; with TLS.
pub(crate) const SOCKET_BYTES: usize = 2 * 1024;
pub(crate) const TLS_BYTES: usize = 24 * 1024;

/// The listener that a connection came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ListenerKind {
    /// With TLS that ends here.
    Tls,
    /// Without TLS.
    Plain,
    /// The forward proxy.
    Proxy,
    /// Health and metrics.
    Admin,
}

/// A connection. A tunnel keeps it until the session ends.
#[derive(Debug)]
pub(crate) struct Connection {
    /// The peer: the client, or a load balancer in front of the relay.
    pub(crate) peer: SocketAddr,
    /// The listener that it came to.
    pub(crate) arrived: ListenerKind,
    /// The channel binding of its TLS (RFC 9266).
    pub(crate) exporter: Option<[u8; CHANNEL_BINDING_BYTES]>,
    /// The credentials of its last request that proved a key.
    pub(crate) last_credentials: LastCredentials,
    /// Whether it is no longer HTTP.
    is_raw: AtomicBool,
    /// Bytes of request and response bodies that are in memory for it.
    memory: ByteCount,
    /// Bytes of responses in hyper's queue.
    unsent: ByteCount,
    /// Whether its end is the end of its response (HTTP/1.0).
    is_end_of_response: AtomicBool,
    /// Why the head of its last request was cut, if it was. No other request follows.
    cut: OnceLock<Cut>,
    /// Its permit among the pending connections, which it releases when it authenticates.
    pending: PendingPermit,
    /// Its permit among the connections of callers.
    established: OnceLock<EstablishedPermit>,
    /// The connections of its listener.
    listener: Arc<ListenerConnections>,
    /// Counts it among the open connections.
    _open: OpenConnection,
}

/// Bytes of one kind that a connection has in memory.
#[derive(Debug, Default)]
pub(crate) struct ByteCount {
    bytes: AtomicU64,
    /// Incremented whenever bytes are released.
    moves: AtomicU32,
}

impl ByteCount {
    /// Adds bytes.
    pub(crate) fn add(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Subtracts bytes.
    pub(crate) fn release(&self, bytes: u64) {
        // Relaxed: the counters are statistics for limits and idle clocks, and publish no other data.
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.moves.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the number of bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Returns how often bytes were released. A change means that the peer makes progress.
    pub(crate) fn moves(&self) -> u32 {
        self.moves.load(Ordering::Relaxed)
    }
}

impl Connection {
    /// Returns a connection that was just accepted.
    pub(crate) fn new(
        peer: SocketAddr,
        arrived: ListenerKind,
        pending: PendingPermit,
        listener: Arc<ListenerConnections>,
        open: OpenConnection,
    ) -> Self {
        Self {
            peer,
            arrived,
            exporter: None,
            last_credentials: LastCredentials::default(),
            is_raw: AtomicBool::new(false),
            memory: ByteCount::default(),
            unsent: ByteCount::default(),
            is_end_of_response: AtomicBool::new(false),
            cut: OnceLock::new(),
            pending,
            established: OnceLock::new(),
            listener,
            _open: open,
        }
    }

    /// Notes that an API key of this tenant was accepted on it.
    ///
    /// If the tenant or the address has reached its limit of connections, this one stays pending: it is
    /// served, and a new connection may evict it.
    pub(crate) fn authenticated(&self, tenant: &Arc<str>) {
        if !self.pending.is_pending() {
            return;
        }
        // Two requests of one HTTP/2 connection may authenticate at once. The second permit is dropped, so
        // the connection is counted once.
        if let Some(permit) = self.listener.establish(tenant, self.peer.ip())
            && self.established.set(permit).is_ok()
        {
            self.pending.leave();
        }
    }

    /// Notes that a bridge has authenticated on it.
    pub(crate) fn proved(&self, proven: &ProvenAddresses) {
        proven.remember(self.peer.ip());
        self.pending.leave();
    }

    /// Notes that the head of a request was cut, because it was longer than any that can pass.
    pub(crate) fn head_is_cut(&self, why: Cut) {
        self.cut.get_or_init(|| why);
    }

    /// Returns why the head of its last request was cut, if it was.
    pub(crate) fn cut_head(&self) -> Option<Cut> {
        self.cut.get().copied()
    }

    /// Notes that the end of the connection ends the response (RFC 9112, 6.3): one of unknown length over
    /// HTTP/1.0.
    pub(crate) fn ends_response(&self) {
        self.is_end_of_response.store(true, Ordering::Relaxed);
    }

    /// Returns whether the end of the connection ends the response.
    pub(crate) fn is_end_of_response(&self) -> bool {
        self.is_end_of_response.load(Ordering::Relaxed)
    }

    /// Returns whether it has not authenticated.
    pub(crate) fn is_pending(&self) -> bool {
        self.pending.is_pending()
    }

    /// Raises what it is charged to this many bytes, see [`PendingPermit::charge`].
    pub(crate) fn charge(&self, bytes: usize) {
        self.pending.charge(bytes);
    }

    /// Waits until it is evicted; forever once it has authenticated. Cancel safe.
    pub(crate) async fn evicted(&self) {
        self.pending.evicted().await;
    }

    /// Notes that the bytes after the next response are not HTTP.
    pub(crate) fn turns_raw(&self) {
        self.is_raw.store(true, Ordering::Relaxed);
    }

    /// Returns the bytes of request and response bodies that are in memory for it.
    pub(crate) fn memory(&self) -> &ByteCount {
        &self.memory
    }

    /// Returns the bytes of responses in hyper's queue.
    pub(crate) fn unsent(&self) -> &ByteCount {
        &self.unsent
    }

    /// Returns whether it is no longer HTTP.
    pub(crate) fn is_raw(&self) -> bool {
        self.is_raw.load(Ordering::Relaxed)
    }
}
