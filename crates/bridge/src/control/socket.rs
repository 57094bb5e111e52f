//! The local socket: what commands on this machine ask the running bridge.
//!
//! ```text
//! status, doctor, ...  --one line of JSON-->  control.sock  --one line of JSON-->
//! ```
//!
//! A Unix socket in the data directory, which only its owner may enter. The peer's user is looked at,
//! too: the bridge's own and root may ask, nobody else. There is none on other systems yet.

#[cfg(unix)]
mod unix;

use crate::status::Status;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::time::Duration;

/// The socket's name in the data directory.
pub(crate) const SOCKET: &str = "control.sock";

/// Longest question and answer, in bytes.
const LINE_MAX_BYTES: u64 = 4 * 1024 * 1024;

/// How long an answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum ControlRequest {
    /// How are you?
    Status,
    /// Look at the endpoints now.
    Health,
    /// Read the config again.
    Reload,
    /// Log as this filter says.
    LogLevel {
        /// A level, or filters as `BRIDGE_LOG` has them.
        filter: String,
    },
}

/// What is answered.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Reply {
    /// How it is.
    Status(Box<Status>),
    /// It is done.
    Done,
    /// It cannot be done.
    Failed(String),
}

/// Why the running bridge cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody listens.
    #[error("no running bridge answers at {path}: is it running, and are you its user or root?")]
    NotRunning {
        /// The socket.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// It did not answer.
    #[error("the running bridge gave no answer: {0}")]
    NoAnswer(String),
    /// It could not do it.
    #[error("{0}")]
    Failed(String),
    /// There is no socket on this system.
    #[error("a running bridge cannot be asked on this system yet; its log says how it is")]
    #[cfg(not(unix))]
    Unsupported,
}

/// Asks the bridge that runs on this data directory.
///
/// # Errors
/// [`AskError`].
pub(crate) fn ask(data_dir: &Path, question: &ControlRequest) -> Result<Reply, AskError> {
    #[cfg(unix)]
    let reply = unix::ask(data_dir, question);
    #[cfg(not(unix))]
    let reply = {
        let _ = (data_dir, question, LINE_MAX_BYTES, ANSWER_WITHIN);
        Err(AskError::Unsupported)
    };
    match reply? {
        Reply::Failed(detail) => Err(AskError::Failed(detail)),
        reply => Ok(reply),
    }
}

#[cfg(unix)]
pub(crate) use unix::listen;
