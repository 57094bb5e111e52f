//! What is known of the connection that a request came on.

use crate::gate::AddressPlace;
use protocol::opening::CHANNEL_BINDING_BYTES;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use tokio::sync::OwnedSemaphorePermit;

/// How a connection came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrived {
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
    pub arrived: Arrived,
    /// What its TLS is bound to (RFC 9266).
    pub exporter: Option<[u8; CHANNEL_BINDING_BYTES]>,
    /// Whether it is no longer HTTP.
    pub(super) is_raw: AtomicBool,
    /// Its place among the connections.
    pub(super) _place: Option<OwnedSemaphorePermit>,
    /// Its place among those of its address.
    pub(super) _own: Option<AddressPlace>,
    /// Bytes of request and response bodies that are held in memory for it.
    pub(super) memory: ByteCount,
    /// Bytes of responses in the HTTP library's queue.
    pub(super) unsent: ByteCount,
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
