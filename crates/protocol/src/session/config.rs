//! What a session is told when it begins.

use super::budget::Budget;
use crate::frame::{GoAwayReason, Windows};
use crate::limits::{
    DEAD_AFTER, HEARTBEAT, SESSION_WINDOW_BYTES, STREAM_WINDOW_CAP_BYTES,
    STREAM_WINDOW_INITIAL_BYTES, STREAMS_MAX,
};
use std::sync::Arc;
use std::time::Duration;

/// Which end of the tunnel a session is. Only the relay opens streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Opens streams.
    Relay,
    /// Takes streams.
    Bridge,
}

/// Everything that the opening settled, and this side's own bounds.
#[derive(Debug, Clone)]
pub struct Config {
    /// Which end this is.
    pub side: Side,
    /// What the peer may have outstanding here.
    pub local: Windows,
    /// What this side may have outstanding at the peer.
    pub peer: Windows,
    /// PING after this much silence.
    pub heartbeat: Duration,
    /// The peer is dead after this much silence.
    pub dead_after: Duration,
    /// Round trip measured in the opening; replaced by smaller ones.
    pub rtt: Duration,
    /// Largest window that one stream may grow to, in bytes.
    pub stream_window_cap: u64,
    /// Where growth is borrowed from.
    pub budget: Arc<Budget>,
}

impl Config {
    /// The defaults for one side, with nothing to grow.
    pub fn new(side: Side) -> Self {
        Self {
            side,
            local: Windows::default(),
            peer: Windows::default(),
            heartbeat: HEARTBEAT,
            dead_after: DEAD_AFTER,
            rtt: Duration::from_millis(50),
            stream_window_cap: STREAM_WINDOW_CAP_BYTES,
            budget: Budget::new(0),
        }
    }
}

impl Default for Windows {
    fn default() -> Self {
        Self {
            streams_max: STREAMS_MAX,
            stream_bytes: STREAM_WINDOW_INITIAL_BYTES,
            session_bytes: SESSION_WINDOW_BYTES,
        }
    }
}

/// Why a session is over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EndReason {
    /// The peer said GOAWAY and closed.
    #[error("the peer left: {0}")]
    PeerLeft(GoAwayReason),
    /// Both sides were done.
    #[error("closed")]
    Closed,
    /// Nothing came from the peer for the agreed time.
    #[error("the peer was silent for {0:?}")]
    Dead(Duration),
    /// A write made no progress.
    #[error("a write made no progress for {0:?}")]
    WriteStalled(Duration),
    /// The peer broke the protocol.
    #[error("the peer broke the protocol: {0}")]
    Protocol(String),
    /// The connection failed.
    #[error("the connection failed: {0}")]
    Io(String),
    /// A newer session of the same slot took over.
    #[error("replaced by a newer session of the same slot")]
    Replaced,
    /// The bridge or its key was revoked.
    #[error("revoked")]
    Revoked,
    /// This side is shutting down.
    #[error("shutting down")]
    Draining,
}
