//! The control socket of a running relay, for commands that need the process and not only its database.
//!
//! ```text
//! integration-relay reload, bridge list --> relay-secrets.sock, next to the key file --> serve
//!                                       {"op":"reload"} --> {"done":null} or {"error":"..."}
//! ```
//!
//! Only the relay's own user and root may send requests. One request is served at a time. Other systems than Unix
//! have no such socket.

use crate::config::Config;
use crate::running::RunningRelay;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// A request, one line of JSON.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub(super) enum Request {
    /// Read the config again.
    Reload,
    /// List the connected tunnels.
    Tunnels,
}

/// A response, one line of JSON.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Response {
    /// It was done.
    Done,
    /// The connected tunnels.
    Tunnels(Vec<Tunnel>),
    /// It was not done.
    Error(String),
}

/// A connected tunnel.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Tunnel {
    /// The id of its bridge.
    pub bridge: String,
    /// The host's name, as the bridge reports it.
    pub host: String,
    /// The address that the tunnel comes from: the bridge's, its proxy's or a balancer's.
    pub address: String,
    /// The bridge's version.
    pub software: String,
    /// Seconds since it was opened.
    pub up_s: u64,
    /// Whether it accepts no new requests.
    pub draining: bool,
}

/// Why a request got no response.
#[derive(Debug, thiserror::Error)]
pub(super) enum ControlError {
    /// No process listens.
    #[error("no relay runs with this config: {path} does not respond ({source})")]
    NotRunning {
        /// The socket.
        path: String,
        /// The system's error.
        source: std::io::Error,
    },
    /// The process listens and does not respond.
    #[error("the running relay did not respond: {0}")]
    NoResponse(std::io::Error),
    /// The relay refused.
    #[error("{0}")]
    Refused(String),
}

/// Returns the socket's path.
fn socket_of(config: &Config) -> PathBuf {
    config.key_file.with_extension("sock")
}

/// Reads the config again, and logs the result.
pub(super) fn reload(running: &RunningRelay, path: &Path) -> Response {
    // An administrator, or another program that rotates logs, has renamed the log file.
    runtime::logging::reopen();
    let reloaded = Config::load(path)
        .map_err(|error| error.to_string())
        .and_then(|config| running.reload(&config).map_err(|error| error.to_string()));
    match reloaded {
        Ok(()) => {
            tracing::info!(config = %path.display(), "config reloaded");
            Response::Done
        }
        Err(error) => {
            tracing::error!(error, "config rejected; keeping the previous one");
            Response::Error(error)
        }
    }
}

#[cfg(unix)]
mod unix;
#[cfg(unix)]
pub(super) use unix::{send, serve};

#[cfg(not(unix))]
pub(super) async fn serve(_: &RunningRelay, _: &Config, _: &Path) {
    std::future::pending().await
}

#[cfg(not(unix))]
pub(super) fn send(config: &Config, _: &Request) -> Result<Response, ControlError> {
    Err(ControlError::NotRunning {
        path: socket_of(config).display().to_string(),
        source: std::io::ErrorKind::Unsupported.into(),
    })
}
