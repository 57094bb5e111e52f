//! The time of a request: what is left of it for an attempt, and which side reports first that it is over.

use protocol::frame::TimeLeft;
use protocol::{Code, Failure};
use std::time::Duration;

/// Extra time for the side that must not report the timeout first.
const TIME_GRACE: Duration = Duration::from_secs(2);

/// Returns how long the relay waits for the head, and the times that the bridge gets.
///
/// The time of a call was set by its caller, so the relay reports `timeout` first. Where no caller set a
/// time, the bridge reports `target_timeout` first. The other side's limit is a fallback for a peer that
/// reports nothing.
pub(super) fn share_time(given: TimeLeft) -> (Option<Duration>, TimeLeft) {
    if given.total().is_none() {
        return (given.head().map(|limit| limit + TIME_GRACE), given);
    }
    let grace = u32::try_from(TIME_GRACE.as_millis()).unwrap_or(u32::MAX);
    // Zero means no limit, so nothing may be added to it.
    let later = |ms: u32| if ms == 0 { 0 } else { ms.saturating_add(grace) };
    let for_bridge = TimeLeft {
        head_ms: later(given.head_ms),
        idle_ms: later(given.idle_ms),
        total_ms: later(given.total_ms),
    };
    (given.head(), for_bridge)
}

/// Returns what is left of a request's time after `passed`.
///
/// # Errors
/// `timeout` when nothing is left.
pub(super) fn left_of(given: TimeLeft, passed: Duration) -> Result<TimeLeft, Failure> {
    // Without a total, each attempt has its own time: only the wait for the head is limited.
    if given.total().is_none() {
        return Ok(given);
    }
    let passed_ms = u32::try_from(passed.as_millis()).unwrap_or(u32::MAX);
    let left = |ms: u32| match ms {
        0 => Ok(0),
        ms => ms
            .checked_sub(passed_ms)
            // Zero would mean no limit to the bridge.
            .filter(|left| *left > 0)
            .ok_or_else(|| {
                Failure::not_sent(
                    Code::Timeout,
                    "the deadline passed before the request was sent",
                )
            }),
    };
    Ok(TimeLeft {
        head_ms: left(given.head_ms)?,
        idle_ms: given.idle_ms,
        total_ms: left(given.total_ms)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_has_the_time_that_is_left() {
        let given = TimeLeft {
            head_ms: 300,
            idle_ms: 50,
            total_ms: 300,
        };
        let left = left_of(given, Duration::from_millis(100)).unwrap();
        assert_eq!((left.head_ms, left.idle_ms, left.total_ms), (200, 50, 200));
        let over = left_of(given, Duration::from_millis(300)).unwrap_err();
        assert_eq!(
            (over.code, over.execution),
            (Code::Timeout, protocol::Execution::NotSent)
        );
        let endless = TimeLeft {
            total_ms: 0,
            ..given
        };
        assert_eq!(left_of(endless, Duration::from_secs(9)), Ok(endless));
    }

    #[test]
    fn call_times_out_at_relay_and_endpoint_at_bridge() {
        let call = TimeLeft {
            head_ms: 300,
            idle_ms: 0,
            total_ms: 300,
        };
        let (limit, for_bridge) = share_time(call);
        assert_eq!(limit, call.head());
        assert!(for_bridge.head() > limit && for_bridge.total() > limit);
        assert_eq!(for_bridge.idle(), None);
        let endpoint = TimeLeft {
            total_ms: 0,
            ..call
        };
        let (limit, for_bridge) = share_time(endpoint);
        assert_eq!(for_bridge, endpoint);
        assert!(limit > for_bridge.head());
        assert_eq!(share_time(TimeLeft::default()), (None, TimeLeft::default()));
    }
}
