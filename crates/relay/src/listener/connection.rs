//! What is known of the connection that a request came on.

use crate::gate::AddressPlace;
use protocol::opening::CHANNEL_BINDING_BYTES;
use std::net::SocketAddr;
use tokio::sync::OwnedSemaphorePermit;

/// How a connection came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrived {
    /// Over TLS that ends here.
    Tls,
    /// Without TLS.
    Plain,
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
    /// Its place among the connections.
    pub(super) _place: Option<OwnedSemaphorePermit>,
    /// Its place among those of its address.
    pub(super) _own: Option<AddressPlace>,
}
