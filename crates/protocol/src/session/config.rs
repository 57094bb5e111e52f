//! The settings of a session, and the reasons for its end.

use super::budget::Budget;
use crate::frame::{GoAwayReason, VERSION, Windows};
use crate::limits::{
    DEAD_AFTER, HEAD_MAX_BYTES, HEAD_MAX_BYTES_V1, HEARTBEAT, SESSION_WINDOW_BYTES,
    STREAM_WINDOW_CAP_BYTES, STREAM_WINDOW_INITIAL_BYTES, STREAMS_MAX,
};
use std::sync::Arc;
use std::time::Duration;

/// Which end of the tunnel a session is. Only the relay opens streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Opens streams.
    Relay,
    /// Accepts streams.
    Bridge,
}

/// The first version of the wire whose heads have up to [`HEAD_MAX_BYTES`].
const LARGE_HEADS_SINCE_VERSION: u16 = 2;

/// What the opening agreed on, and this side's own bounds.
#[derive(Debug, Clone)]
pub struct Config {
    /// Which end this is.
    pub side: Side,
    /// The version of the wire.
    pub version: u16,
    /// What the peer may have outstanding here.
    pub local: Windows,
    /// What this side may have outstanding at the peer.
    pub peer: Windows,
    /// PING after this long without a frame.
    pub heartbeat: Duration,
    /// The peer is considered dead after this long without a frame.
    pub dead_after: Duration,
    /// Round trip measured in the opening; smaller measurements replace it.
    pub rtt: Duration,
    /// Largest window that one stream may grow to, in bytes.
    pub stream_window_cap: u64,
    /// The budget that window growth is taken from.
    pub budget: Arc<Budget>,
}

impl Config {
    /// Returns the defaults for one side, with an empty budget.
    pub fn new(side: Side) -> Self {
        Self {
            side,
            version: VERSION,
            local: Windows::default(),
            peer: Windows::default(),
            heartbeat: HEARTBEAT,
            dead_after: DEAD_AFTER,
            rtt: Duration::from_millis(50),
            stream_window_cap: STREAM_WINDOW_CAP_BYTES,
            budget: Budget::new(0),
        }
    }

    /// Returns the largest head, header block or control payload of this session, in bytes (W-60).
    pub(super) fn head_max_bytes(&self) -> usize {
        match self.has_large_heads() {
            true => HEAD_MAX_BYTES,
            false => HEAD_MAX_BYTES_V1,
        }
    }

    /// Whether heads and frames have the limits of version 2 (W-60).
    pub(super) fn has_large_heads(&self) -> bool {
        self.version >= LARGE_HEADS_SINCE_VERSION
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

/// Why a session ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EndReason {
    /// The peer sent GOAWAY and closed.
    #[error("the other side ended the session: {0}")]
    PeerLeft(GoAwayReason),
    /// Both sides closed in order.
    #[error("closed")]
    Closed,
    /// No frame came from the peer for the agreed time.
    #[error("no frame from the peer for {0:?}")]
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
    /// A newer session of the same slot replaced it.
    #[error("replaced by a newer session of the same slot")]
    Replaced,
    /// The bridge or its key was revoked.
    #[error("revoked")]
    Revoked,
    /// This side is shutting down.
    #[error("shutting down")]
    Draining,
}
