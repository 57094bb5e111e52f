//! Requests and responses of the control socket: one JSON document a line.

use crate::status::Status;
use serde::{Deserialize, Serialize};

/// Longest request, in bytes.
pub(super) const REQUEST_MAX_BYTES: u64 = 4096;

/// Longest response, in bytes. A status with all its endpoints is far below.
pub(super) const RESPONSE_MAX_BYTES: u64 = 4 * 1024 * 1024;

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
    /// No process listens.
    #[cfg(unix)]
    #[error(
        "no running bridge responds at {path}; check that it runs, and run this command as its user or \
         as root"
    )]
    NotRunning {
        /// The socket.
        path: String,
        /// The system's error.
        source: std::io::Error,
    },
    /// The connection failed before the response.
    #[cfg(unix)]
    #[error("the running bridge did not respond: {0}")]
    NoResponse(String),
    /// The bridge could not carry out the request.
    #[error("{0}")]
    Failed(String),
    /// This system has no control socket.
    #[cfg(not(unix))]
    #[error("commands cannot reach the running bridge on this system yet; see its log")]
    Unsupported,
}
