//! The control socket of the running bridge.
//!
//! It is a Unix socket in the data directory, which only its owner may enter. The bridge also checks the
//! peer's user: only its own user and root may send requests. Other systems have no such socket yet.

#[cfg(unix)]
mod unix;

use crate::control::message::{ControlRequest, ControlResponse};
use std::path::Path;

#[cfg(unix)]
pub(crate) use unix::listen;

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

/// Sends a request to the bridge that runs with this data directory. Blocks for 10 s at most in each step.
///
/// # Errors
/// [`ControlError`].
pub(crate) fn send(
    data_dir: &Path,
    request: &ControlRequest,
) -> Result<ControlResponse, ControlError> {
    #[cfg(unix)]
    let response = unix::send(data_dir, request);
    #[cfg(not(unix))]
    let response = {
        let _ = (data_dir, request);
        Err(ControlError::Unsupported)
    };
    match response? {
        ControlResponse::Failed(detail) => Err(ControlError::Failed(detail)),
        response @ (ControlResponse::Status(_) | ControlResponse::Done) => Ok(response),
    }
}
