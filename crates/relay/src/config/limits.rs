//! `[limits]`: what callers and bridges may use.
//!
//! A limit without `skip_serializing` sizes something that is built once, so a change of it needs a restart.

use protocol::limits::{HEAD_MAX_BYTES, HEADERS_MAX};
use runtime::config::{ByteSize, ConfigDuration, Mistake, at_least_one, longer_than_zero};
use serde::{Deserialize, Serialize};

/// `[limits]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Tunnels of all tenants. Defaults to 10000.
    #[serde(deserialize_with = "at_least_one")]
    pub sessions_max: u32,
    /// Tunnels of one tenant. Defaults to 1000.
    #[serde(deserialize_with = "at_least_one")]
    pub sessions_per_tenant: u32,
    /// Concurrent TLS handshakes; further ones wait in a fair queue. Callers that offer HTTP/2 have a separate
    /// quarter of it. Defaults to 128.
    #[serde(deserialize_with = "at_least_one")]
    pub handshakes_max: u32,
    /// Concurrent TLS handshakes with one address; further ones wait. Defaults to 32.
    #[serde(deserialize_with = "at_least_one")]
    pub handshakes_per_address: u32,
    /// Tunnels that have not authenticated yet; one more evicts the oldest. Defaults to 1024.
    #[serde(deserialize_with = "at_least_one")]
    pub unauthenticated_tunnels_max: u32,
    /// Tunnels of one address that have not authenticated yet. Defaults to 512.
    #[serde(deserialize_with = "at_least_one")]
    pub unauthenticated_tunnels_per_address: u32,
    /// Connections on the public listener that have not authenticated: no bridge proved its identity, and no API
    /// key was accepted. One more evicts the oldest of the largest address. Defaults to 10000.
    #[serde(deserialize_with = "at_least_one")]
    pub pending_connections_max: u32,
    /// Memory of these connections: TLS, and incomplete header sections. At least 1 MiB. Defaults to `"64MiB"`.
    pub pending_memory_max: ByteSize,
    /// Connections on the public listener with an accepted API key; further ones stay pending. Each tenant may use
    /// as many as it leaves for others. Defaults to 20000.
    #[serde(deserialize_with = "at_least_one")]
    pub connections_max: u32,
    /// The same for one address. Defaults to 10000.
    #[serde(deserialize_with = "at_least_one")]
    pub connections_per_address: u32,
    /// Connections on the internal listener: pending ones, and as many with an accepted key. Defaults to 5000.
    #[serde(deserialize_with = "at_least_one")]
    pub internal_connections_max: u32,
    /// The same on the listener of the forward proxy. Defaults to 5000.
    #[serde(deserialize_with = "at_least_one")]
    pub proxy_connections_max: u32,
    /// Connections on the admin listener; one more evicts the oldest. Defaults to 64.
    #[serde(deserialize_with = "at_least_one")]
    pub admin_connections_max: u32,
    /// Concurrent exchanges in one tunnel. Defaults to 4096.
    #[serde(deserialize_with = "at_least_one", skip_serializing)]
    pub streams_per_session: u32,
    /// Concurrent exchanges of all tenants. Each tenant may use its weight times what is left, see `[weights]`.
    /// Defaults to 20000.
    #[serde(deserialize_with = "at_least_one")]
    pub streams_max: u32,
    /// Concurrent exchanges of one tenant. Defaults to 4096.
    #[serde(deserialize_with = "at_least_one")]
    pub streams_per_tenant: u32,
    /// Concurrent exchanges of one API key, which may use its weight times what its tenant has left. Defaults to
    /// 3072.
    #[serde(deserialize_with = "at_least_one")]
    pub streams_per_key: u32,
    /// The JSON document of a call. Defaults to `"1MiB"`.
    #[serde(skip_serializing)]
    pub call_request_max: ByteSize,
    /// The target's response to a call. Defaults to `"1MiB"`.
    #[serde(skip_serializing)]
    pub call_response_max: ByteSize,
    /// Memory for request and response bodies of all tenants: calls, API documents, and responses that callers have
    /// not read. Each tenant, and each key in a tenant, may use its weight times what is left, see `[weights]`.
    /// Defaults to `"64MiB"`.
    pub call_memory_max: ByteSize,
    /// The part of that memory that one connection may use. Defaults to `"8MiB"`.
    #[serde(skip_serializing)]
    pub connection_memory_max: ByteSize,
    /// Concurrent API requests other than calls and endpoint requests, shared by tenants and keys likewise. A
    /// request counts until its response is read. Defaults to 1024.
    #[serde(deserialize_with = "at_least_one")]
    pub operations_max: u32,
    /// A request's header section, at most 80 KiB. Defaults to `"64KiB"`.
    #[serde(skip_serializing)]
    pub header_bytes_max: ByteSize,
    /// Fields in a request's header section, at most 256. Defaults to 96.
    #[serde(deserialize_with = "at_least_one", skip_serializing)]
    pub headers_max: u32,
    /// Time for a call that sets none. Defaults to `"30s"`.
    #[serde(deserialize_with = "longer_than_zero", skip_serializing)]
    pub call_timeout: ConfigDuration,
    /// The longest time that a call may set. Defaults to `"300s"`.
    #[serde(deserialize_with = "longer_than_zero", skip_serializing)]
    pub call_timeout_max: ConfigDuration,
    /// The longest time that a bridge may wait for an endpoint's response head; the bridge's config sets the actual
    /// time by endpoint. Defaults to `"12h"`.
    #[serde(deserialize_with = "longer_than_zero", skip_serializing)]
    pub endpoint_head_timeout: ConfigDuration,
    /// The same between two pieces of an endpoint's response. Defaults to `"12h"`.
    #[serde(deserialize_with = "longer_than_zero", skip_serializing)]
    pub endpoint_idle_timeout: ConfigDuration,
    /// Time in which a caller neither sends body data nor reads the response (64 KiB in one piece at most).
    /// Defaults to `"2m"`.
    #[serde(deserialize_with = "longer_than_zero", skip_serializing)]
    pub caller_idle_timeout: ConfigDuration,
    /// Time without a byte in either direction of a raw stream (CONNECT, WebSocket). Defaults to `"1h"`.
    #[serde(deserialize_with = "longer_than_zero", skip_serializing)]
    pub raw_idle_timeout: ConfigDuration,
    /// Time for a request's header section. Defaults to `"10s"`.
    #[serde(deserialize_with = "longer_than_zero", skip_serializing)]
    pub header_read_timeout: ConfigDuration,
    /// Authentication failures of one address in a minute; further ones get `rate_limited`. Defaults to 60.
    pub auth_failures_per_minute: u32,
    /// Bridges of one tenant. Defaults to 1000.
    #[serde(deserialize_with = "at_least_one", skip_serializing)]
    pub bridges_per_tenant: u32,
    /// Time for which a shutdown waits for running exchanges. Defaults to `"30s"`.
    #[serde(skip_serializing)]
    pub drain_timeout: ConfigDuration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            sessions_max: 10_000,
            sessions_per_tenant: 1_000,
            handshakes_max: 128,
            handshakes_per_address: 32,
            unauthenticated_tunnels_max: 1024,
            unauthenticated_tunnels_per_address: 512,
            pending_connections_max: 10_000,
            pending_memory_max: ByteSize::mib(64),
            connections_max: 20_000,
            connections_per_address: 10_000,
            internal_connections_max: 5_000,
            proxy_connections_max: 5_000,
            admin_connections_max: 64,
            streams_per_session: 4096,
            streams_max: 20_000,
            streams_per_tenant: 4096,
            streams_per_key: 3072,
            call_request_max: ByteSize::mib(1),
            call_response_max: ByteSize::mib(1),
            call_memory_max: ByteSize::mib(64),
            connection_memory_max: ByteSize::mib(8),
            operations_max: 1024,
            header_bytes_max: ByteSize::kib(64),
            headers_max: 96,
            call_timeout: ConfigDuration::secs(30),
            call_timeout_max: ConfigDuration::secs(300),
            endpoint_head_timeout: ConfigDuration::secs(12 * 3600),
            endpoint_idle_timeout: ConfigDuration::secs(12 * 3600),
            caller_idle_timeout: ConfigDuration::secs(120),
            raw_idle_timeout: ConfigDuration::secs(3600),
            header_read_timeout: ConfigDuration::secs(10),
            auth_failures_per_minute: 60,
            bridges_per_tenant: 1000,
            drain_timeout: ConfigDuration::secs(30),
        }
    }
}

/// Largest `header_bytes_max`. A head on the wire has 128 KiB, with the URL, and each field costs 4 bytes there.
const HEADER_BYTES_CAP: ByteSize = ByteSize::kib(80);

/// Smallest `pending_memory_max`: several connections with TLS and a long header section each.
const PENDING_MEMORY_MIN: ByteSize = ByteSize::mib(1);

impl Limits {
    /// Checks values against each other and against limits that their types do not have.
    ///
    /// # Errors
    /// The first mistake.
    pub(super) fn validate(&self) -> Result<(), Mistake> {
        let mistake = |key, message: String| Err(Mistake::of_key(key, message));
        let (usual, most) = (self.call_timeout, self.call_timeout_max);
        if usual > most {
            let message = format!("is {usual}: the limit is limits.call_timeout_max ({most})");
            return mistake("limits.call_timeout", message);
        }
        // Otherwise a call within its own limits would never get memory.
        let largest = self.call_request_max.max(self.call_response_max);
        let memory = [
            ("limits.call_memory_max", self.call_memory_max),
            ("limits.connection_memory_max", self.connection_memory_max),
        ];
        for (key, size) in memory {
            if size < largest {
                let message = format!(
                    "is {size}: it must be at least {largest}, the largest call \
                     (limits.call_request_max, limits.call_response_max)"
                );
                return mistake(key, message);
            }
        }
        let pending = self.pending_memory_max;
        if pending < PENDING_MEMORY_MIN {
            let message = format!("is {pending}: it must be at least {PENDING_MEMORY_MIN}");
            return mistake("limits.pending_memory_max", message);
        }
        let header_bytes = self.header_bytes_max;
        if header_bytes > HEADER_BYTES_CAP {
            let wire = HEAD_MAX_BYTES / 1024;
            let message = format!(
                "is {header_bytes}: the limit is {HEADER_BYTES_CAP}, because a head on the wire has {wire}KiB"
            );
            return mistake("limits.header_bytes_max", message);
        }
        let headers = self.headers_max;
        if usize::try_from(headers).is_ok_and(|fields| fields > HEADERS_MAX) {
            let message = format!("is {headers}: the limit is {HEADERS_MAX}");
            return mistake("limits.headers_max", message);
        }
        Ok(())
    }
}
