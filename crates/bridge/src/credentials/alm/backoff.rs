//! When the bridge may sign in again: the wait after a failed sign-in, and how often responses may end a session.

use protocol::{Code, Failure};
use std::time::{Duration, Instant};

/// The wait after a sign-in that ALM rejected, at first and at most. It doubles each time, because ALM locks
/// accounts after several failures.
const REFUSED_WAIT_MIN: Duration = Duration::from_secs(60);
const REFUSED_WAIT_MAX: Duration = Duration::from_secs(60 * 60);

/// The wait after a sign-in that failed otherwise, at first and at most. It doubles each time.
const FAILED_WAIT_MIN: Duration = Duration::from_millis(500);
const FAILED_WAIT_MAX: Duration = Duration::from_secs(10);

/// The wait after a sign-in that ALM was too busy for: where it sends no `Retry-After`, and at most.
const BUSY_WAIT: Duration = Duration::from_secs(5);
const BUSY_WAIT_MAX: Duration = Duration::from_secs(5 * 60);

/// Sessions of an endpoint that responses may end in a burst, and the interval at which one more may. A resource
/// that always responds with 401 must not make the bridge sign in for every request.
const ENDINGS_MAX: u32 = 60;
const ENDING_EVERY: Duration = Duration::from_secs(1);

/// Returns how long no further sign-in is tried after a failure. `before` is the last wait.
pub(super) fn wait_after(failure: &Failure, before: Option<Duration>) -> Duration {
    let (min, max) = match failure.code {
        Code::Forbidden => (REFUSED_WAIT_MIN, REFUSED_WAIT_MAX),
        Code::Overloaded => {
            // ALM states how long it is busy, so this wait does not double.
            return failure
                .retry_after()
                .unwrap_or(BUSY_WAIT)
                .min(BUSY_WAIT_MAX);
        }
        // Every other failure may pass soon, and does not lock an account.
        Code::Unauthorized
        | Code::TenantSuspended
        | Code::InvalidRequest
        | Code::NoBridge
        | Code::BridgeOffline
        | Code::RefusedByPolicy
        | Code::UnknownEndpoint
        | Code::TargetDns
        | Code::TargetRefused
        | Code::TargetTls
        | Code::TargetTimeout
        | Code::TargetClosed
        | Code::ResponseTooLarge
        | Code::TunnelLost
        | Code::Timeout
        | Code::Cancelled
        | Code::RequestTooLarge
        | Code::HeadersTooLarge
        | Code::NotFound
        | Code::MethodNotAllowed
        | Code::Conflict
        | Code::TargetProtocol
        | Code::Internal
        | Code::PreconditionFailed
        | Code::RateLimited
        | Code::Standby
        | Code::DirectoryStale
        | Code::OutcomeUnknown
        | Code::KeySpent => (FAILED_WAIT_MIN, FAILED_WAIT_MAX),
    };
    before.map_or(min, |before| (before * 2).clamp(min, max))
}

/// Returns the failure of a sign-in, for a caller that may retry after `left`.
pub(super) fn with_retry(failure: &Failure, left: Duration) -> Failure {
    if failure.code == Code::Overloaded {
        return failure.clone().with_retry_after(left);
    }
    failure.clone()
}

/// How often responses may still end the endpoint's session: a token bucket.
pub(super) struct EndBudget {
    left: u32,
    since: Instant,
}

impl Default for EndBudget {
    fn default() -> Self {
        Self {
            left: ENDINGS_MAX,
            since: Instant::now(),
        }
    }
}

impl EndBudget {
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.since).as_secs() / ENDING_EVERY.as_secs();
        let more = u32::try_from(passed).unwrap_or(u32::MAX);
        if more > 0 {
            // Whole intervals only: the rest of one is dropped, which makes the limit slightly stricter.
            self.since = now;
            self.left = self.left.saturating_add(more).min(ENDINGS_MAX);
        }
        self.left = match self.left.checked_sub(1) {
            Some(left) => left,
            None => return false,
        };
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wait_after_failed_sign_in_is_bounded() {
        let refused = Failure::not_dispatched(Code::Forbidden, "");
        let mut wait = wait_after(&refused, None);
        assert_eq!(wait, REFUSED_WAIT_MIN);
        for _ in 0..10 {
            wait = wait_after(&refused, Some(wait));
        }
        assert_eq!(wait, REFUSED_WAIT_MAX);
        let closed = Failure::not_dispatched(Code::TargetClosed, "");
        assert_eq!(wait_after(&closed, None), FAILED_WAIT_MIN);
        assert_eq!(wait_after(&closed, Some(wait)), FAILED_WAIT_MAX);
        let busy = Failure::not_dispatched(Code::Overloaded, "");
        assert_eq!(wait_after(&busy, Some(wait)), BUSY_WAIT);
        let named = busy.clone().with_retry_after(Duration::from_secs(30));
        assert_eq!(wait_after(&named, None), Duration::from_secs(30));
        let long = busy.with_retry_after(Duration::from_secs(1_000_000));
        assert_eq!(wait_after(&long, None), BUSY_WAIT_MAX);
    }

    #[test]
    fn ended_sessions_are_bounded() {
        let mut endings = EndBudget::default();
        let start = endings.since;
        for _ in 0..ENDINGS_MAX {
            assert!(endings.take(start));
        }
        assert!(!endings.take(start));
        assert!(endings.take(start + ENDING_EVERY));
        assert!(!endings.take(start + ENDING_EVERY));
    }
}
