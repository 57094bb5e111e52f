//! The control socket of the running bridge.
//!
//! It is a Unix socket in the data directory, which only its owner may enter. The bridge also checks the
//! peer's user: only its own user and root may send requests. On Windows it is a named pipe, with a list of who may
//! open it. `exchange` has what both serve.

#[cfg(any(unix, windows))]
mod exchange;
#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

use crate::control::message::{ControlError, ControlRequest, ControlResponse};
use std::path::Path;

#[cfg(unix)]
pub(crate) use unix::listen;
#[cfg(windows)]
pub(crate) use windows::listen;

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
    #[cfg(windows)]
    let response = windows::send(data_dir, request);
    #[cfg(not(any(unix, windows)))]
    let response = {
        let _ = (data_dir, request);
        Err(ControlError::Unsupported)
    };
    match response? {
        ControlResponse::Failed(detail) => Err(ControlError::Failed(detail)),
        response @ (ControlResponse::Status(_) | ControlResponse::Done) => Ok(response),
    }
}
