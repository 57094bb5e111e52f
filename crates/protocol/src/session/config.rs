//! What a session is told when it begins.

use crate::frame::{GoAwayReason, Windows};
use crate::limits::{
    DEAD_AFTER, HEARTBEAT, SESSION_WINDOW_BYTES, STREAM_WINDOW_CAP_BYTES,
    STREAM_WINDOW_INITIAL_BYTES, STREAMS_MAX,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Which end of the tunnel a session is. Only the relay opens streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Opens streams.
    Relay,
    /// Takes streams.
    Bridge,
}

/// Bytes of memory that all sessions of a process share for windows beyond the initial one.
///
/// A [share](Budget::share) of it is one tenant's: it may take as much as its weight times twice of what is
/// left for others, so that whoever came first leaves some.
#[derive(Debug)]
pub struct Budget {
    left: AtomicU64,
    of: Option<Part>,
}

/// Whose a part of a budget is.
#[derive(Debug)]
struct Part {
    whole: Arc<Budget>,
    taken: AtomicU64,
    weight: u8,
}

impl Budget {
    /// A budget of so many bytes.
    pub fn new(bytes: u64) -> Arc<Self> {
        Arc::new(Self {
            left: AtomicU64::new(bytes),
            of: None,
        })
    }

    /// One tenant's part of it.
    pub fn share(whole: &Arc<Self>, weight: u8) -> Arc<Self> {
        Arc::new(Self {
            left: AtomicU64::new(0),
            of: Some(Part {
                whole: whole.clone(),
                taken: AtomicU64::new(0),
                weight: weight.max(1),
            }),
        })
    }

    /// Takes all of `bytes` or nothing.
    pub fn try_take(&self, bytes: u64) -> bool {
        let Some(part) = &self.of else {
            return self
                .left
                .try_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                    left.checked_sub(bytes)
                })
                .is_ok();
        };
        let taken = part.taken.fetch_add(bytes, Ordering::Relaxed);
        let left_then = part.whole.left().saturating_sub(bytes);
        let is_fair = taken.saturating_add(bytes) <= part.may_have(left_then);
        let is_taken = is_fair && part.whole.try_take(bytes);
        if !is_taken {
            part.taken.fetch_sub(bytes, Ordering::Relaxed);
        }
        is_taken
    }

    /// Gives back what was taken.
    pub fn give(&self, bytes: u64) {
        match &self.of {
            None => self.left.fetch_add(bytes, Ordering::Relaxed),
            Some(part) => {
                part.whole.give(bytes);
                part.taken.fetch_sub(bytes, Ordering::Relaxed)
            }
        };
    }

    /// Bytes that nobody has taken, as far as they may be taken here.
    pub fn left(&self) -> u64 {
        let Some(part) = &self.of else {
            return self.left.load(Ordering::Relaxed);
        };
        let left = part.whole.left();
        let taken = part.taken.load(Ordering::Relaxed);
        left.min(part.may_have(left).saturating_sub(taken))
    }
}

impl Part {
    /// What it may have in all, when so much is left for others.
    fn may_have(&self, left: u64) -> u64 {
        left.saturating_mul(2 * u64::from(self.weight))
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn all_that_it_gets(budget: &Budget) -> u64 {
        let taken = std::iter::from_fn(|| budget.try_take(1000).then_some(1000));
        taken.sum()
    }

    #[test]
    fn who_takes_all_it_gets_leaves_a_share_for_the_next() {
        let whole = Budget::new(900_000);
        let (first, second) = (Budget::share(&whole, 1), Budget::share(&whole, 1));
        assert_eq!(all_that_it_gets(&first), 600_000);
        assert_eq!(all_that_it_gets(&second), 200_000);
        assert_eq!(first.left(), 0);
        first.give(600_000);
        second.give(200_000);
        assert_eq!(whole.left(), 900_000);
        let heavy = Budget::share(&whole, 4);
        assert_eq!(all_that_it_gets(&heavy), 800_000);
    }

    #[test]
    fn what_was_not_taken_is_not_charged() {
        let whole = Budget::new(100);
        let share = Budget::share(&whole, 255);
        assert!(!share.try_take(101));
        assert_eq!((share.left(), whole.left()), (100, 100));
        assert!(share.try_take(90));
        share.give(90);
        assert_eq!(whole.left(), 100);
    }
}
