//! The numbers of `relay.toml`: how much may run, how large, how long.

use super::units::{ByteSize, Span};
use protocol::limits::{
    DEAD_AFTER, HEAD_MAX_BYTES, HEADERS_MAX, HEARTBEAT, SESSION_WINDOW_BYTES,
    STREAM_WINDOW_CAP_BYTES, STREAM_WINDOW_INITIAL_BYTES, STREAM_WINDOW_MIN_BYTES,
};
use serde::Deserialize;
use std::time::Duration;

/// `[limits]`: what callers and bridges may use.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Tunnels of all tenants together. Default 10000.
    pub sessions_max: u32,
    /// Tunnels of one tenant. Default 1000.
    pub sessions_per_tenant: u32,
    /// TLS handshakes at once; more wait for their turn. Callers that offer HTTP/2 have a quarter
    /// as many places of their own. Default 128.
    pub handshakes_max: u32,
    /// TLS handshakes at once with one address; more wait. Default 32.
    pub handshakes_per_address: u32,
    /// Tunnels that have not proved themselves yet, all together; one more evicts the oldest. Default 1024.
    pub unproven_tunnels_max: u32,
    /// Tunnels that have not proved themselves yet, of one address. Default 512.
    pub unproven_per_address: u32,
    /// Connections on the public listener that have not authenticated, which one more evicts: neither a
    /// bridge has proved itself nor an API key was accepted. Default 10000.
    pub pending_connections_max: u32,
    /// Memory that they may cost: TLS, and header sections that are not complete. Default 64 MiB.
    pub pending_memory_max: ByteSize,
    /// Connections of callers on the public listener whose API key was accepted; beyond, they count as
    /// pending. Each tenant may have as many as are left. Default 20000.
    pub connections_max: u32,
    /// The same of one address. Default 10000.
    pub connections_per_address: u32,
    /// Connections on the internal listener: pending ones, and as many with an accepted key. Default 5000.
    pub internal_connections_max: u32,
    /// The same on the listener of the forward proxy. Default 5000.
    pub proxy_connections_max: u32,
    /// Connections on the admin listener; one more evicts the oldest. Default 64.
    pub admin_connections_max: u32,
    /// Exchanges at once on one tunnel. Default 4096.
    pub streams_per_session: u32,
    /// Exchanges at once of all tenants. Of these each tenant may have its weight times what is left, see
    /// `[weights]`. Default 20000.
    pub streams_max: u32,
    /// Exchanges at once of one tenant. Default 4096.
    pub streams_per_tenant: u32,
    /// Exchanges at once of one API key, which has no more than its weight times what its tenant has left.
    /// Default 3072.
    pub streams_per_key: u32,
    /// The JSON document of a call. Default 1 MiB.
    pub call_request_max: ByteSize,
    /// The target's answer to a call. Default 1 MiB.
    pub call_response_max: ByteSize,
    /// Memory for the bodies of requests and responses of all tenants: calls, documents of the API, and what
    /// callers have not read yet. Each tenant, and each key in a tenant, may use its weight times what is left,
    /// see `[weights]`. Default 64 MiB.
    pub call_memory_max: ByteSize,
    /// The part of it that one connection may use. Default 8 MiB.
    pub connection_memory_max: ByteSize,
    /// Requests to the API at once, calls and endpoints aside, shared by tenants and keys likewise. One counts
    /// until its response is read. Default 1024.
    pub operations_max: u32,
    /// A request's header section. Default 32 KiB, at most 40 KiB.
    pub header_bytes_max: ByteSize,
    /// Fields in a request's header section. Default 96, at most 256.
    pub headers_max: u32,
    /// How long a call may take that does not say how long. Default 30 s.
    pub call_timeout: Span,
    /// How long a call may take at most. Default 300 s.
    pub call_timeout_max: Span,
    /// The most that a bridge may wait for an endpoint's answer to begin: how long it does is in its own
    /// config, by endpoint. Default 12 h.
    pub endpoint_head_timeout: Span,
    /// The same between two pieces of an endpoint's answer. Default 12 h.
    pub endpoint_idle_timeout: Span,
    /// How long a caller may send nothing of its request's body, or take nothing of its response: at most
    /// 64 KiB in one piece. Default 2 m.
    pub caller_idle_timeout: Span,
    /// Without a byte in either direction of a raw stream (CONNECT, WebSocket). Default 1 h.
    pub raw_idle_timeout: Span,
    /// Until a request's header section is whole. Default 10 s.
    pub header_read_timeout: Span,
    /// Wrong keys from one address in a minute before they are answered with `rate_limited`.
    /// Default 60.
    pub auth_failures_per_minute: u32,
    /// Bridges of one tenant. Default 1000.
    pub bridges_per_tenant: u32,
    /// How long a shutdown waits for what runs. Default 30 s.
    pub drain_timeout: Span,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            sessions_max: 10_000,
            sessions_per_tenant: 1_000,
            handshakes_max: 128,
            handshakes_per_address: 32,
            unproven_tunnels_max: 1024,
            unproven_per_address: 512,
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
            header_bytes_max: ByteSize::kib(32),
            headers_max: 96,
            call_timeout: Span::secs(30),
            call_timeout_max: Span::secs(300),
            endpoint_head_timeout: Span::secs(12 * 3600),
            endpoint_idle_timeout: Span::secs(12 * 3600),
            caller_idle_timeout: Span::secs(120),
            raw_idle_timeout: Span::secs(3600),
            header_read_timeout: Span::secs(10),
            auth_failures_per_minute: 60,
            bridges_per_tenant: 1000,
            drain_timeout: Span::secs(30),
        }
    }
}

/// Largest `header_bytes_max`: a head on the wire has 48 KiB, and each field costs 4 bytes there.
const HEADER_BYTES_CAP: ByteSize = ByteSize::kib(40);

/// Smallest `pending_memory_max`: several connections with TLS and a long header section each.
const PENDING_MEMORY_MIN: ByteSize = ByteSize::mib(1);

impl Limits {
    /// What is wrong with these numbers, if anything: the key and the fact.
    pub(super) fn mistake(&self) -> Option<String> {
        let counts = [
            ("sessions_max", self.sessions_max),
            ("sessions_per_tenant", self.sessions_per_tenant),
            ("handshakes_max", self.handshakes_max),
            ("handshakes_per_address", self.handshakes_per_address),
            ("unproven_tunnels_max", self.unproven_tunnels_max),
            ("unproven_per_address", self.unproven_per_address),
            ("pending_connections_max", self.pending_connections_max),
            ("connections_max", self.connections_max),
            ("connections_per_address", self.connections_per_address),
            ("internal_connections_max", self.internal_connections_max),
            ("proxy_connections_max", self.proxy_connections_max),
            ("admin_connections_max", self.admin_connections_max),
            ("streams_per_session", self.streams_per_session),
            ("streams_max", self.streams_max),
            ("streams_per_tenant", self.streams_per_tenant),
            ("streams_per_key", self.streams_per_key),
            ("operations_max", self.operations_max),
            ("headers_max", self.headers_max),
            ("bridges_per_tenant", self.bridges_per_tenant),
        ];
        if let Some((key, _)) = counts.iter().find(|(_, value)| *value == 0) {
            return Some(format!("limits.{key} must be at least 1"));
        }
        let spans = [
            ("call_timeout", self.call_timeout),
            ("call_timeout_max", self.call_timeout_max),
            ("endpoint_head_timeout", self.endpoint_head_timeout),
            ("raw_idle_timeout", self.raw_idle_timeout),
            ("endpoint_idle_timeout", self.endpoint_idle_timeout),
            ("caller_idle_timeout", self.caller_idle_timeout),
            ("header_read_timeout", self.header_read_timeout),
        ];
        if let Some((key, _)) = spans.iter().find(|(_, span)| span.0.is_zero()) {
            return Some(format!("limits.{key} must be longer than zero"));
        }
        if self.call_timeout > self.call_timeout_max {
            let (usual, most) = (self.call_timeout, self.call_timeout_max);
            return Some(format!(
                "limits.call_timeout ({usual}) is above limits.call_timeout_max ({most})"
            ));
        }
        let largest = self.call_request_max.max(self.call_response_max);
        if self.call_memory_max < largest {
            return Some(format!(
                "limits.call_memory_max ({}) must be at least as large as the largest call ({largest})",
                self.call_memory_max
            ));
        }
        if self.connection_memory_max < largest {
            return Some(format!(
                "limits.connection_memory_max ({}) must be at least as large as the largest call ({largest})",
                self.connection_memory_max
            ));
        }
        if self.pending_memory_max < PENDING_MEMORY_MIN {
            return Some(format!(
                "limits.pending_memory_max must be at least {PENDING_MEMORY_MIN}"
            ));
        }
        if self.header_bytes_max > HEADER_BYTES_CAP {
            return Some(format!(
                "limits.header_bytes_max must be at most {HEADER_BYTES_CAP}: \
                 a head on the wire has {}KiB",
                HEAD_MAX_BYTES / 1024
            ));
        }
        if usize::try_from(self.headers_max).is_ok_and(|fields| fields > HEADERS_MAX) {
            return Some(format!("limits.headers_max must be at most {HEADERS_MAX}"));
        }
        None
    }
}

/// `[tunnel]`: how tunnels live, and what memory they may use.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tunnel {
    /// A sign of life after this much silence. Default 15 s.
    pub heartbeat: Span,
    /// The other side is dead after this much silence. Default 25 s.
    pub dead_after: Span,
    /// What one exchange may have outstanding at first. Default 256 KiB.
    pub stream_window: ByteSize,
    /// What the exchanges of one tunnel together may have outstanding. Default 4 MiB.
    pub session_window: ByteSize,
    /// What one exchange's window may grow to. Default 38 MiB.
    pub stream_window_max: ByteSize,
    /// Memory that all tunnels share for windows beyond the initial one. Default 64 MiB.
    pub window_budget: ByteSize,
}

impl Default for Tunnel {
    fn default() -> Self {
        Self {
            heartbeat: Span(HEARTBEAT),
            dead_after: Span(DEAD_AFTER),
            stream_window: ByteSize(STREAM_WINDOW_INITIAL_BYTES),
            session_window: ByteSize(SESSION_WINDOW_BYTES),
            stream_window_max: ByteSize(STREAM_WINDOW_CAP_BYTES),
            window_budget: ByteSize::mib(64),
        }
    }
}

impl Tunnel {
    /// What is wrong with these numbers, if anything: the key and the fact.
    pub(super) fn mistake(&self) -> Option<String> {
        let (heartbeat, dead_after) = (self.heartbeat, self.dead_after);
        if heartbeat.0.is_zero() || dead_after <= heartbeat {
            return Some(format!(
                "tunnel.dead_after ({dead_after}) must be longer than tunnel.heartbeat ({heartbeat})"
            ));
        }
        if self.stream_window.0 < STREAM_WINDOW_MIN_BYTES {
            return Some(format!(
                "tunnel.stream_window must be at least {}",
                ByteSize(STREAM_WINDOW_MIN_BYTES)
            ));
        }
        None
    }
}

/// `[audit]`: the record of who did what.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Audit {
    /// How long a row is kept. Default 90 d.
    pub keep: Span,
    /// How often the sums of endpoint exchanges are written. Default 60 s.
    pub sums_every: Span,
}

impl Default for Audit {
    fn default() -> Self {
        Self {
            keep: Span::secs(90 * 24 * 3600),
            sums_every: Span::secs(60),
        }
    }
}

/// `[directory]`: keys and bridges as they are known from the database.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Directory {
    /// How long they are valid while the database does not answer. Default 24 h.
    pub stale_max: Span,
}

impl Default for Directory {
    fn default() -> Self {
        Self {
            stale_max: Span::secs(24 * 3600),
        }
    }
}

impl Directory {
    /// What is wrong with it, if anything: the key and the fact.
    pub(super) fn mistake(&self) -> Option<String> {
        let is_short = self.stale_max.0 < Duration::from_secs(1);
        is_short.then(|| "directory.stale_max must be at least 1s".to_owned())
    }
}

/// `[notices]`: what somebody is told of.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Notices {
    /// A bridge that is away for longer. Default 15 m.
    pub bridge_offline_after: Span,
    /// A key that expires within. Default 14 d.
    pub key_expires_within: Span,
    /// The relay's own certificate that expires within. Default 21 d.
    pub certificate_expires_within: Span,
}

impl Default for Notices {
    fn default() -> Self {
        const DAY: u64 = 24 * 3600;
        Self {
            bridge_offline_after: Span::secs(15 * 60),
            key_expires_within: Span::secs(14 * DAY),
            certificate_expires_within: Span::secs(21 * DAY),
        }
    }
}

/// `[log]`: what is written to standard error.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// For people or for programs. Default `text`.
    pub format: LogFormat,
    /// From which level on. Default `info`.
    pub level: LogLevel,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            format: LogFormat::Text,
            level: LogLevel::Info,
        }
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// From which level on lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Broken.
    Error,
    /// Worth a look.
    Warn,
    /// A session up or down.
    Info,
    /// Small turns.
    Debug,
    /// Frames.
    Trace,
}

impl LogLevel {
    /// The name that log filters know.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}
