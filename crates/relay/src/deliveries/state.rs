//! The lifecycle of a delivery, as a pure function: what follows the end of an attempt.
//!
//! ```text
//!               +---------------- due again <-----------------+
//!               v                                             |
//! submit --> pending --(has a route)--> attempting -----------+--(2xx)----> succeeded
//!             |   ^                          |  ^             |--(last step, 410)--> failed
//!   no bridge |   | bridge connects          |  | the same    |--(policy)-> refused
//!             v   |                          v  | attempt     |--(cannot be known)--> outcome_unknown
//!        waiting_for_bridge              tunnel lost: waits   \--(requested)-> cancelled
//!                                        for the bridge's report
//! ```
//!
//! Only the target's own failures use up a step of the schedule. An offline bridge, a reached limit, a lost
//! tunnel, and a lack of the relay's or the bridge's own resources do not.
//!
//! Every final state, and all its causes:
//!
//! | final state | cause |
//! | --- | --- |
//! | `succeeded` | the target's status is 2xx, by its response or by the bridge's journal |
//! | `failed` | the target's status is 410; or the target used up the last step of the schedule |
//! | `refused` | every bridge of the tenant is connected and ready, and none of them serves the host; or the bridge that got the attempt refused it before it dispatched anything; or the head exceeds the limits of the wire |
//! | `outcome_unknown` | the target may have executed it, it must not be repeated, and the bridge's journal cannot tell: the journal reports so, was lost, or its installation was not connected for `instance_lost_after`; or a direct call got no status |
//! | `cancelled` | a caller or an administrator cancelled it |
//!
//! A bridge that is offline, reconnecting, not yet ready or disabled causes none of them: its calls wait.

pub(crate) use crate::storage::calls::CallState;
use protocol::{Code, Execution, Retry};
use std::time::Duration;

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AttemptEnd {
    /// The target's status, if it responded.
    pub status: Option<u16>,
    /// The failure's code, if it failed.
    pub code: Option<Code>,
    /// The execution status.
    pub execution: Execution,
    /// A description for people, without bodies or header values.
    pub detail: String,
    /// The target's `Retry-After`.
    pub retry_after: Option<Duration>,
    /// The bridge's journal may know more than this: the attempt stays open until the journal's outcome
    /// arrives.
    pub is_open: bool,
    /// The URL may not be called directly after all. The call is routed again, without using a step.
    pub is_misrouted: bool,
}

/// The facts of a delivery that decide what follows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts<'a> {
    /// The request's method.
    pub method: &'a str,
    /// The caller allows a repeat of what may have been executed.
    pub at_least_once: bool,
    /// Steps of the schedule that were used up before.
    pub step: u32,
    /// Attempts so far, including this one.
    pub attempt: u32,
    /// Its cancellation was requested.
    pub is_cancelled: bool,
}

/// What follows an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// The attempt stays open until its bridge reports.
    Stay,
    /// Another attempt.
    Retry {
        /// Delay from now.
        after: Duration,
        /// Steps of the schedule that are used up then.
        step: u32,
    },
    /// The delivery is finished.
    Final(CallState),
}

/// Longest delay that a target may request.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 3600);

/// Shortest and longest delay of a retry that uses no step.
const RETRY_MIN: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(60);

/// Returns whether repeating the method has no further effect (RFC 9110, 9.2.2).
pub(crate) fn is_idempotent(method: &str) -> bool {
    matches!(
        method,
        "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE"
    )
}

/// Returns what follows an attempt's end. `schedule` has the delays after the first attempt; `random` in
/// 0..1 spreads them.
pub(crate) fn next(facts: Facts<'_>, end: &AttemptEnd, schedule: &[Duration], random: f64) -> Next {
    if end.is_open {
        return Next::Stay;
    }
    let next = after_attempt(facts, end, schedule, random);
    match next {
        // A cancelled call still takes an outcome that came anyway.
        Next::Retry { .. } if facts.is_cancelled => Next::Final(CallState::Cancelled),
        Next::Retry { .. } | Next::Final(_) | Next::Stay => next,
    }
}

fn after_attempt(facts: Facts<'_>, end: &AttemptEnd, schedule: &[Duration], random: f64) -> Next {
    // The target's own status decides, whether or not the rest of its response arrived.
    match end.status {
        Some(200..=299) => return Next::Final(CallState::Succeeded),
        // Gone: the target states that a retry is useless (RFC 9110, 15.5.11).
        Some(410) => return Next::Final(CallState::Failed),
        Some(_) => return schedule_next_step(facts.step, end.retry_after, schedule, random),
        None => {}
    }
    match end.execution {
        Execution::NotSent | Execution::NotDispatched if end.is_misrouted => Next::Retry {
            after: Duration::ZERO,
            step: facts.step,
        },
        Execution::NotSent | Execution::NotDispatched => {
            after_failure(facts, end, schedule, random)
        }
        // `executed` without a status is treated as `possibly_executed`: a repeat could execute it twice.
        Execution::PossiblyExecuted | Execution::Executed => {
            if facts.at_least_once || is_idempotent(facts.method) {
                schedule_next_step(facts.step, None, schedule, random)
            } else {
                Next::Final(CallState::OutcomeUnknown)
            }
        }
    }
}

/// Returns what follows a failure that the target certainly did not execute, by the side that caused it.
fn after_failure(facts: Facts<'_>, end: &AttemptEnd, schedule: &[Duration], random: f64) -> Next {
    match end.code.unwrap_or(Code::Internal).retry() {
        // The head or the body exceeds a limit of the relay or of the bridge; a retry would exceed it, too.
        Retry::Never => Next::Final(CallState::Refused),
        // Only a bridge refuses for good, and only after it got the attempt. The relay's own refusal may
        // end when bridges or patterns change.
        Retry::NeverOnceRejected if end.execution == Execution::NotDispatched => {
            Next::Final(CallState::Refused)
        }
        Retry::Later => schedule_next_step(facts.step, None, schedule, random),
        // Not the target's fault: an offline or busy bridge, a lost tunnel, or a lack of memory, file
        // descriptors, ports or disk on our side.
        Retry::NeverOnceRejected | Retry::Elsewhere => retry_step(facts, random),
    }
}

/// Returns a retry that uses no step. Its delay doubles with each such attempt, with jitter, so that calls
/// that failed together are not retried at the same time.
fn retry_step(facts: Facts<'_>, random: f64) -> Next {
    let without_step = facts.attempt.saturating_sub(facts.step).min(16);
    let spread = RETRY_MIN.saturating_mul(1 << without_step).min(RETRY_MAX);
    Next::Retry {
        after: RETRY_MIN + spread.mul_f64(random),
        step: facts.step,
    }
}

/// Returns the next step of the schedule, or `failed` after the last one.
fn schedule_next_step(
    step: u32,
    retry_after: Option<Duration>,
    schedule: &[Duration],
    random: f64,
) -> Next {
    // The schedule has one delay for each retry, so its length is the number of retries.
    let Some(wait) = schedule.get(step as usize) else {
        return Next::Final(CallState::Failed);
    };
    // Up to a tenth more, so that calls that failed together are not retried at the same time.
    let wait = wait.mul_f64(1.0 + random / 10.0);
    let retry_after = retry_after.unwrap_or_default().min(RETRY_AFTER_MAX);
    Next::Retry {
        after: wait.max(retry_after),
        step: step + 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEDULE: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(300)];

    fn facts(method: &str, step: u32) -> Facts<'_> {
        Facts {
            method,
            at_least_once: false,
            step,
            attempt: step + 1,
            is_cancelled: false,
        }
    }

    fn responded(status: u16) -> AttemptEnd {
        AttemptEnd {
            status: Some(status),
            code: None,
            execution: Execution::Executed,
            detail: String::new(),
            retry_after: None,
            is_open: false,
            is_misrouted: false,
        }
    }

    fn failed(code: Code, execution: Execution) -> AttemptEnd {
        AttemptEnd {
            status: None,
            code: Some(code),
            execution,
            ..responded(0)
        }
    }

    fn after(facts: Facts<'_>, end: &AttemptEnd) -> Next {
        next(facts, end, &SCHEDULE, 0.0)
    }

    #[test]
    fn status_2xx_succeeds_410_fails_others_retry() {
        for status in [200, 204, 299] {
            let next = after(facts("POST", 0), &responded(status));
            assert_eq!(next, Next::Final(CallState::Succeeded));
        }
        let gone = after(facts("POST", 0), &responded(410));
        assert_eq!(gone, Next::Final(CallState::Failed));
        for status in [302, 400, 429, 500, 503] {
            for (step, wait) in [(0, 5), (1, 300)] {
                let expected = Next::Retry {
                    after: Duration::from_secs(wait),
                    step: step + 1,
                };
                assert_eq!(after(facts("POST", step), &responded(status)), expected);
            }
            let last = after(facts("POST", 2), &responded(status));
            assert_eq!(last, Next::Final(CallState::Failed));
        }
    }

    #[test]
    fn retry_after_is_bounded() {
        let ask = |seconds| AttemptEnd {
            retry_after: Some(Duration::from_secs(seconds)),
            ..responded(503)
        };
        let wait = |seconds| match after(facts("POST", 0), &ask(seconds)) {
            Next::Retry { after, .. } => after.as_secs(),
            other => panic!("{other:?}"),
        };
        assert_eq!(wait(1), 5);
        assert_eq!(wait(60), 60);
        assert_eq!(wait(1 << 40), 24 * 3600);
    }

    #[test]
    fn possibly_executed_is_repeated_only_if_allowed() {
        let lost = failed(Code::TunnelLost, Execution::PossiblyExecuted);
        let unknown = after(facts("POST", 0), &lost);
        assert_eq!(unknown, Next::Final(CallState::OutcomeUnknown));
        assert!(matches!(after(facts("PUT", 0), &lost), Next::Retry { .. }));
        let allowed = Facts {
            at_least_once: true,
            ..facts("POST", 0)
        };
        assert!(matches!(after(allowed, &lost), Next::Retry { step: 1, .. }));
    }

    #[test]
    fn attempt_without_report_stays_open() {
        let open = AttemptEnd {
            is_open: true,
            ..failed(Code::TunnelLost, Execution::PossiblyExecuted)
        };
        assert_eq!(after(facts("POST", 0), &open), Next::Stay);
        let cancelled = Facts {
            is_cancelled: true,
            ..facts("POST", 0)
        };
        assert_eq!(after(cancelled, &open), Next::Stay);
    }

    #[test]
    fn refused_offline_and_failed_differ() {
        let refused = failed(Code::RefusedByPolicy, Execution::NotDispatched);
        assert_eq!(
            after(facts("POST", 0), &refused),
            Next::Final(CallState::Refused)
        );
        let offline = failed(Code::BridgeOffline, Execution::NotSent);
        assert!(matches!(
            after(facts("POST", 1), &offline),
            Next::Retry { step: 1, .. }
        ));
        let down = failed(Code::TargetRefused, Execution::NotDispatched);
        assert!(matches!(
            after(facts("POST", 1), &down),
            Next::Retry { step: 2, .. }
        ));
    }

    #[test]
    fn retry_without_step_backs_off_to_a_minute() {
        let full = failed(Code::Overloaded, Execution::NotDispatched);
        let wait = |attempt| {
            let facts = Facts {
                attempt,
                ..facts("POST", 0)
            };
            match next(facts, &full, &SCHEDULE, 1.0) {
                Next::Retry { after, step: 0 } => after,
                other => panic!("{other:?}"),
            }
        };
        assert!(wait(1) < wait(3) && wait(3) < wait(6));
        assert!(wait(u32::MAX) <= RETRY_MIN + RETRY_MAX);
    }

    #[test]
    fn a_cancelled_one_ends_with_its_attempt() {
        let cancelled = Facts {
            is_cancelled: true,
            ..facts("POST", 0)
        };
        assert_eq!(
            after(cancelled, &responded(500)),
            Next::Final(CallState::Cancelled)
        );
        assert_eq!(
            after(cancelled, &responded(200)),
            Next::Final(CallState::Succeeded)
        );
    }

    /// Every code, execution status and method, with and without `at_least_once`, open or not.
    #[test]
    fn possibly_executed_post_is_not_repeated() {
        const METHODS: [&str; 8] = [
            "GET", "HEAD", "OPTIONS", "PUT", "DELETE", "POST", "PATCH", "LOCK",
        ];
        const EXECUTIONS: [Execution; 4] = [
            Execution::NotSent,
            Execution::NotDispatched,
            Execution::PossiblyExecuted,
            Execution::Executed,
        ];
        let codes = Code::ALL.iter().copied().map(Some).chain([None]);
        for code in codes {
            for execution in EXECUTIONS {
                for method in METHODS {
                    for (at_least_once, is_open) in
                        [(false, false), (false, true), (true, false), (true, true)]
                    {
                        let end = AttemptEnd {
                            status: None,
                            code,
                            execution,
                            is_open,
                            ..responded(0)
                        };
                        let facts = Facts {
                            at_least_once,
                            ..facts(method, 0)
                        };
                        let next = after(facts, &end);
                        let what =
                            format!("{code:?} {execution} {method} {at_least_once} {is_open}");
                        let may_repeat = at_least_once || is_idempotent(method);
                        if is_open {
                            assert_eq!(next, Next::Stay, "{what}");
                        } else if execution.is_safe_to_repeat() {
                            let is_permanent = matches!(
                                code,
                                Some(
                                    Code::RefusedByPolicy
                                        | Code::Forbidden
                                        | Code::UnknownEndpoint
                                        | Code::InvalidRequest
                                )
                            ) && execution == Execution::NotDispatched
                                || matches!(
                                    code,
                                    Some(Code::RequestTooLarge | Code::HeadersTooLarge)
                                );
                            match next {
                                Next::Retry { .. } => assert!(!is_permanent, "{what}"),
                                Next::Final(CallState::Refused) => assert!(is_permanent, "{what}"),
                                other => panic!("{what}: {other:?}"),
                            }
                        } else if may_repeat {
                            assert!(matches!(next, Next::Retry { step: 1, .. }), "{what}");
                        } else {
                            assert_eq!(next, Next::Final(CallState::OutcomeUnknown), "{what}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn lack_of_resources_uses_no_step() {
        for code in [Code::Overloaded, Code::Internal, Code::RateLimited] {
            for execution in [Execution::NotSent, Execution::NotDispatched] {
                // Not even after the last step.
                let next = after(facts("POST", 2), &failed(code, execution));
                assert!(
                    matches!(next, Next::Retry { step: 2, .. }),
                    "{code} {execution}"
                );
            }
        }
    }

    #[test]
    fn status_of_cut_response_decides() {
        let cut = AttemptEnd {
            code: Some(Code::TargetClosed),
            ..responded(201)
        };
        let next = after(facts("POST", 0), &cut);
        assert_eq!(next, Next::Final(CallState::Succeeded));
        let error = AttemptEnd {
            status: Some(500),
            ..cut
        };
        let next = after(facts("POST", 0), &error);
        assert!(matches!(next, Next::Retry { step: 1, .. }));
    }

    #[test]
    fn misrouted_call_uses_no_step() {
        let misrouted = AttemptEnd {
            is_misrouted: true,
            ..failed(Code::RefusedByPolicy, Execution::NotDispatched)
        };
        let next = after(facts("POST", 2), &misrouted);
        let expected = Next::Retry {
            after: Duration::ZERO,
            step: 2,
        };
        assert_eq!(next, expected);
    }
}
