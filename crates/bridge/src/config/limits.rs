//! `[limits]`: how much may run at once.

use protocol::limits::STREAM_WINDOW_INITIAL_BYTES;
use runtime::config::{BoundedInt, ByteSize};
use serde::{Deserialize, Serialize};

/// `[limits]`.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsSection {
    /// Concurrent exchanges in one connection to the relay, 1 to 65536. Defaults to 4096.
    pub streams_max: BoundedInt<1, 65536>,
    /// Largest request body. Defaults to no limit.
    #[serde(skip_serializing)]
    pub request_max: Option<ByteSize>,
    /// Largest response body. Defaults to no limit.
    #[serde(skip_serializing)]
    pub response_max: Option<ByteSize>,
    /// Memory of the process above which new exchanges are rejected; running ones continue. At least 32 MiB.
    /// Defaults to no limit.
    #[serde(skip_serializing)]
    pub memory_max: Option<ByteSize>,
    /// Memory that the windows of all connections may grow into, beyond their initial 256 KiB. Defaults to
    /// `"32MiB"`.
    pub window_budget: ByteSize,
}

impl Default for LimitsSection {
    fn default() -> Self {
        Self {
            streams_max: BoundedInt::known(4096),
            request_max: None,
            response_max: None,
            memory_max: None,
            window_budget: ByteSize::mib(32),
        }
    }
}

impl LimitsSection {
    /// Returns what the relay may have outstanding here.
    pub(crate) fn windows(&self) -> protocol::frame::Windows {
        protocol::frame::Windows {
            streams_max: self.streams_max.get(),
            stream_bytes: STREAM_WINDOW_INITIAL_BYTES,
            session_bytes: protocol::limits::SESSION_WINDOW_BYTES,
        }
    }
}
