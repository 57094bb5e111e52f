//! The deadlines of an exchange.
//!
//! | deadline | runs | set by |
//! | --- | --- | --- |
//! | head, from OPEN | always | the caller's total time, else none |
//! | head, from the request's last frame | while the request is sent | `head_timeout`, and the relay |
//! | idle | between two frames of the response | `idle_timeout`, and the relay |
//! | total | always | `total_timeout`, and the relay |

use super::{Active, TOTAL_MAX};
use crate::quota::Quota;
use protocol::frame::{RequestHead, TimeLeft};
use protocol::{Code, Execution, Failure};
use std::time::Duration;
use tokio::time::Instant;

/// The deadlines of one exchange.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadlines {
    /// The relay's limit for the head, where the caller limits the whole exchange.
    pub(super) head_by: Instant,
    /// The end of the whole exchange.
    pub(super) end_by: Instant,
    /// From the last frame of the request to the head.
    pub(super) head: Duration,
    /// Between two frames of the response.
    pub(super) idle: Duration,
}

impl Deadlines {
    pub(super) fn new(active: &Active, head: &RequestHead) -> Self {
        let (left, targets) = (head.time_left, &active.config.targets);
        let now = Instant::now();
        let (fixed, head) = head_limits(left, targets.head_timeout.get());
        Self {
            head_by: now + fixed,
            end_by: now + left.total().unwrap_or(TOTAL_MAX),
            head,
            idle: idle_limit(left, targets.idle_timeout.get()),
        }
    }

    /// Returns when the response's head must be there, for a request that is sent now and in full.
    pub(super) fn head_end(&self) -> Instant {
        (Instant::now() + self.head)
            .min(self.head_by)
            .min(self.end_by)
    }

    /// Applies what the entry that allows the request sets instead of `[targets]`.
    pub(super) fn apply(&mut self, left: TimeLeft, quota: &Quota) {
        if let Some(head) = quota.head_timeout() {
            self.head = head_limits(left, head).1;
        }
        if let Some(idle) = quota.idle_timeout() {
            self.idle = idle_limit(left, idle);
        }
        if let Some(total) = quota.total_timeout() {
            // The smaller one: neither the relay nor the administrator can extend the other's limit.
            self.end_by = self.end_by.min(Instant::now() + total);
        }
    }
}

/// Returns how long a response may stand still.
fn idle_limit(left: TimeLeft, own: Duration) -> Duration {
    left.idle().map_or(own, |left| left.min(own))
}

/// Returns how long the head may take from OPEN, and from the last frame of the request. Only a caller's
/// limit for the whole exchange runs while the request is sent: without one, an upload takes what it takes.
fn head_limits(left: TimeLeft, own: Duration) -> (Duration, Duration) {
    match (left.total(), left.head()) {
        (Some(_), head) => (head.unwrap_or(TOTAL_MAX), own),
        (None, head) => (TOTAL_MAX, head.map_or(own, |head| head.min(own))),
    }
}

pub(super) fn timed_out(execution: Execution, detail: impl Into<String>) -> Failure {
    Failure::new(Code::TargetTimeout, execution, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn head_limit_runs_from_open_only_with_callers_total() {
        let (own, second) = (Duration::from_secs(60), Duration::from_secs(1));
        let endpoint = TimeLeft {
            head_ms: 1000,
            ..TimeLeft::default()
        };
        assert_eq!(head_limits(endpoint, own), (TOTAL_MAX, second));
        assert_eq!(head_limits(TimeLeft::default(), own), (TOTAL_MAX, own));
        let call = TimeLeft {
            total_ms: 2000,
            ..endpoint
        };
        assert_eq!(head_limits(call, own), (second, own));
    }
}
