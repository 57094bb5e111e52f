//! `[tunnel]`: liveness of tunnels, and the memory that their windows may use.

use protocol::limits::{
    DEAD_AFTER, HEARTBEAT, SESSION_WINDOW_BYTES, STREAM_WINDOW_CAP_BYTES,
    STREAM_WINDOW_INITIAL_BYTES, STREAM_WINDOW_MIN_BYTES,
};
use runtime::config::{ByteSize, ConfigDuration, Mistake};
use serde::{Deserialize, Serialize};

/// `[tunnel]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tunnel {
    /// Silence after which a keepalive is sent. Defaults to `"15s"`.
    pub heartbeat: ConfigDuration,
    /// Silence after which the other side counts as dead. Defaults to `"25s"`.
    pub dead_after: ConfigDuration,
    /// Initial flow-control window of one exchange. Defaults to `"256KiB"`.
    pub stream_window: ByteSize,
    /// Initial flow-control window of all exchanges of one tunnel. Defaults to `"4MiB"`.
    pub session_window: ByteSize,
    /// Size up to which the window of one exchange may grow. Defaults to `"38MiB"`.
    pub stream_window_max: ByteSize,
    /// Memory that all tunnels share for windows beyond the initial size. Defaults to `"64MiB"`.
    pub window_budget: ByteSize,
}

impl Default for Tunnel {
    fn default() -> Self {
        Self {
            heartbeat: ConfigDuration(HEARTBEAT),
            dead_after: ConfigDuration(DEAD_AFTER),
            stream_window: ByteSize(STREAM_WINDOW_INITIAL_BYTES),
            session_window: ByteSize(SESSION_WINDOW_BYTES),
            stream_window_max: ByteSize(STREAM_WINDOW_CAP_BYTES),
            window_budget: ByteSize::mib(64),
        }
    }
}

impl Tunnel {
    /// Checks values against each other and against limits that their types do not have.
    ///
    /// # Errors
    /// The first mistake.
    pub(super) fn validate(&self) -> Result<(), Mistake> {
        let (heartbeat, dead_after) = (self.heartbeat, self.dead_after);
        // Otherwise every idle tunnel would count as dead before its first keepalive.
        if heartbeat.0.is_zero() || dead_after <= heartbeat {
            let message = format!(
                "is {dead_after}: it must be longer than tunnel.heartbeat ({heartbeat}), which must be longer \
                 than zero"
            );
            return Err(Mistake::of_key("tunnel.dead_after", message));
        }
        if self.stream_window.0 < STREAM_WINDOW_MIN_BYTES {
            let min = ByteSize(STREAM_WINDOW_MIN_BYTES);
            let message = format!("is {}: it must be at least {min}", self.stream_window);
            return Err(Mistake::of_key("tunnel.stream_window", message));
        }
        Ok(())
    }
}
