//! `[limits]`: how much may run at once.

use protocol::limits::STREAM_WINDOW_INITIAL_BYTES;
use runtime::config::{BoundedInt, ByteSize, Mistake};
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

/// Smallest `memory_max`: a bridge without requests needs about half of it.
const MEMORY_MIN: ByteSize = ByteSize::mib(32);

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
    /// Checks what no single value shows.
    ///
    /// # Errors
    /// `memory_max` is so small that the bridge would reject every request.
    pub(super) fn validate(&self) -> Result<(), Mistake> {
        match self.memory_max {
            Some(max) if max.bytes() < MEMORY_MIN.bytes() => Err(Mistake::of_key(
                "limits.memory_max",
                format!(
                    "is {max}: write at least {MEMORY_MIN}, or the bridge would reject every request"
                ),
            )),
            Some(_) | None => Ok(()),
        }
    }

    /// Returns what the relay may have outstanding here.
    pub(crate) fn windows(&self) -> protocol::frame::Windows {
        protocol::frame::Windows {
            streams_max: self.streams_max.get(),
            stream_bytes: STREAM_WINDOW_INITIAL_BYTES,
            session_bytes: protocol::limits::SESSION_WINDOW_BYTES,
        }
    }
}
