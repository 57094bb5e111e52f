//! Requests and responses of the control socket: one JSON document a line.

use crate::status::Status;
use serde::{Deserialize, Serialize};

/// Longest request, in bytes.
pub(super) const REQUEST_MAX_BYTES: u64 = 4096;

/// Longest response, in bytes. A status with all its endpoints is far below.
pub(super) const RESPONSE_MAX_BYTES: u64 = 4 * 1024 * 1024;

/// The user who may do everything.
#[cfg(any(unix, windows))]
const ROOT: &str = if cfg!(windows) {
    "administrator"
} else {
    "root"
};

/// A request of a command.
// Unknown fields are errors: an older bridge must reject what it would understand only in part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum ControlRequest {
    /// Returns the runtime status.
    Status,
    /// Checks the endpoints soon, outside the interval.
    Health,
    /// Reloads the config.
    Reload,
    /// Replaces the log filter.
    LogLevel {
        /// A level, or filters in the syntax of `BRIDGE_LOG`.
        filter: String,
    },
}

/// The running bridge's response.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ControlResponse {
    /// The runtime status.
    Status(Box<Status>),
    /// The request was carried out.
    Done,
    /// The request failed, and why.
    Failed(String),
}

/// Why a command gets no response from the running bridge.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ControlError {
    /// No bridge has ever listened there, or the last one has stopped.
    #[cfg(any(unix, windows))]
    #[error("no bridge runs with this config ({cause}): {remedy}")]
    NotRunning {
        /// What shows it.
        cause: String,
        /// What to do.
        remedy: &'static str,
    },
    /// The socket or pipe exists, and cannot be used.
    #[cfg(any(unix, windows))]
    #[error(
        "cannot reach the bridge at {path}: {cause}; run this command as the user of the bridge, or as {}",
        ROOT
    )]
    NotReachable {
        /// The socket or pipe.
        path: String,
        /// The cause.
        cause: String,
    },
    /// The connection failed before the response.
    #[cfg(any(unix, windows))]
    #[error("the running bridge did not respond: {0}")]
    NoResponse(String),
    /// The bridge could not carry out the request.
    #[error("{0}")]
    Failed(String),
    /// This system has no control socket.
    #[cfg(not(any(unix, windows)))]
    #[error("commands cannot reach the running bridge on this system yet; see its log")]
    Unsupported,
}

impl ControlError {
    /// Returns whether no bridge runs with this config, as far as this system can tell. Any other error says nothing of
    /// that.
    pub(crate) fn is_not_running(&self) -> bool {
        #[cfg(any(unix, windows))]
        let is_not_running = matches!(self, Self::NotRunning { .. });
        #[cfg(not(any(unix, windows)))]
        let is_not_running = matches!(self, Self::Unsupported);
        is_not_running
    }
}
