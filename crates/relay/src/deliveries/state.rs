//! A delivery's life, as a pure function: what an attempt's end makes of it.
//!
//! ```text
//!               +---------------- due again <-----------------+
//!               v                                             |
//! accept --> pending --(a way is there)--> attempting --------+--(2xx)----> succeeded
//!             |   ^                          |  ^             |--(last step, 410)--> failed
//!   no bridge |   | it is back               |  | the same    |--(policy)-> refused
//!             v   |                          v  | attempt     |--(nobody can say)--> outcome_unknown
//!        waiting_for_bridge              the tunnel is lost:  \--(asked for)-> cancelled
//!                                        the bridge's word is waited for
//! ```
//!
//! Only what a target did uses up a step of the schedule. An offline bridge, a reached limit, a lost tunnel
//! and a want of the relay's or the bridge's own resources do not.
//!
//! Every final state, and all that can cause it:
//!
//! | final state | cause |
//! | --- | --- |
//! | `succeeded` | the target's status is 2xx, as the response or the bridge's journal says |
//! | `failed` | the target's status is 410; or the target used up the last step of the schedule |
//! | `refused` | every bridge of the tenant is connected and ready, and none of them serves the host; or the bridge that got the attempt refused it before it dispatched anything; or the head exceeds the limits of the wire |
//! | `outcome_unknown` | the target may have executed it, it must not be repeated, and the bridge's journal cannot tell: the journal says so, was lost, or its installation is gone for `instance_lost_after`; or a direct call got no status |
//! | `cancelled` | a caller or an administrator cancelled it |
//!
//! A bridge that is away, reconnecting, not yet ready or disabled causes none of them: its calls wait.

pub use crate::storage::calls::CallState;
use protocol::{Code, Execution};
use std::time::Duration;

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttemptEnd {
    /// The target's status, if it answered.
    pub status: Option<u16>,
    /// The failure's code, if it failed.
    pub code: Option<Code>,
    /// How far it came.
    pub execution: Execution,
    /// In words, for people; no body and no header value.
    pub detail: String,
    /// When the target wants to be asked again.
    pub retry_after: Option<Duration>,
    /// The bridge's journal may know more than this: the attempt stays open until the journal's outcome
    /// arrives.
    pub is_open: bool,
    /// The relay found that the URL is not one that it may call directly after all. The call is routed
    /// again, without a step.
    pub is_misrouted: bool,
}

/// What of a delivery decides.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// The request's method.
    pub method: &'a str,
    /// The caller allows a repeat of what may have been done.
    pub at_least_once: bool,
    /// Steps of the schedule that were used up before.
    pub step: u32,
    /// Attempts that were begun, this one included.
    pub attempt: u32,
    /// It is to be taken back.
    pub is_cancelled: bool,
}

/// What follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// The attempt stays open until its bridge has spoken.
    Stay,
    /// Another attempt after so long.
    Again {
        /// From now.
        after: Duration,
        /// Steps that are used up then.
        step: u32,
    },
    /// Nothing.
    Final(CallState),
}

/// Longest wait that a target may ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 3600);

/// Shortest and longest wait after something that is not the target's doing.
const NOT_DONE_MIN: Duration = Duration::from_millis(500);
const NOT_DONE_MAX: Duration = Duration::from_secs(60);

/// Methods that do nothing twice (RFC 9110, 9.2.2).
pub fn is_idempotent(method: &str) -> bool {
    matches!(
        method,
        "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE"
    )
}

/// What follows an attempt's end. `schedule` are the waits after the first attempt; `random` in
/// 0..1 spreads them.
pub fn next(facts: Facts<'_>, end: &AttemptEnd, schedule: &[Duration], random: f64) -> Next {
    if end.is_open {
        return Next::Stay;
    }
    let next = undisturbed(facts, end, schedule, random);
    match next {
        Next::Again { .. } if facts.is_cancelled => Next::Final(CallState::Cancelled),
        Next::Again { .. } | Next::Final(_) | Next::Stay => next,
    }
}

fn undisturbed(facts: Facts<'_>, end: &AttemptEnd, schedule: &[Duration], random: f64) -> Next {
    // The target's own status decides, whatever became of the rest of its response.
    match end.status {
        Some(200..=299) => return Next::Final(CallState::Succeeded),
        Some(410) => return Next::Final(CallState::Failed),
        Some(_) => return later(facts.step, end.retry_after, schedule, random),
        None => {}
    }
    match end.execution {
        Execution::NotSent | Execution::NotDispatched if end.is_misrouted => Next::Again {
            after: Duration::ZERO,
            step: facts.step,
        },
        Execution::NotSent | Execution::NotDispatched => not_done(facts, end, schedule, random),
        // `executed` without a status is no weaker than `possibly_executed`: a repeat could be the second.
        Execution::PossiblyExecuted | Execution::Executed => {
            if facts.at_least_once || is_idempotent(facts.method) {
                later(facts.step, None, schedule, random)
            } else {
                Next::Final(CallState::OutcomeUnknown)
            }
        }
    }
}

/// The target certainly did not execute it. Which side was the cause?
fn not_done(facts: Facts<'_>, end: &AttemptEnd, schedule: &[Duration], random: f64) -> Next {
    match end.code.unwrap_or(Code::Internal) {
        // The head or the body exceeds a limit of the relay or of the bridge, and will again.
        Code::RequestTooLarge | Code::HeadersTooLarge => Next::Final(CallState::Refused),
        // Only a bridge refuses for good, and only after it got the attempt.
        Code::RefusedByPolicy | Code::Forbidden | Code::UnknownEndpoint | Code::InvalidRequest
            if end.execution == Execution::NotDispatched =>
        {
            Next::Final(CallState::Refused)
        }
        Code::TargetDns
        | Code::TargetRefused
        | Code::TargetTls
        | Code::TargetTimeout
        | Code::TargetClosed
        | Code::TargetProtocol
        | Code::ResponseTooLarge => later(facts.step, None, schedule, random),
        // Not the target's doing: a bridge that is away or busy, a lost tunnel, or a want of memory, file
        // descriptors, ports or disk on our side (`overloaded`, `internal`).
        Code::RefusedByPolicy
        | Code::Forbidden
        | Code::UnknownEndpoint
        | Code::InvalidRequest
        | Code::Unauthorized
        | Code::TenantSuspended
        | Code::NoBridge
        | Code::BridgeOffline
        | Code::Overloaded
        | Code::TunnelLost
        | Code::Timeout
        | Code::Cancelled
        | Code::NotFound
        | Code::MethodNotAllowed
        | Code::Conflict
        | Code::Internal
        | Code::PreconditionFailed
        | Code::RateLimited
        | Code::Standby
        | Code::DirectoryStale
        | Code::OutcomeUnknown => {
            let elsewhere = facts.attempt.saturating_sub(facts.step).min(16);
            let most = NOT_DONE_MIN
                .saturating_mul(1 << elsewhere)
                .min(NOT_DONE_MAX);
            Next::Again {
                after: NOT_DONE_MIN + most.mul_f64(random),
                step: facts.step,
            }
        }
    }
}

/// The target did not take it: the next step of the schedule, if there is one.
fn later(step: u32, asked: Option<Duration>, schedule: &[Duration], random: f64) -> Next {
    let Some(wait) = schedule.get(step as usize) else {
        return Next::Final(CallState::Failed);
    };
    // A tenth more, so that what failed together does not come back together.
    let wait = wait.mul_f64(1.0 + random / 10.0);
    let asked = asked.unwrap_or_default().min(RETRY_AFTER_MAX);
    Next::Again {
        after: wait.max(asked),
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

    fn answered(status: u16) -> AttemptEnd {
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
            ..answered(0)
        }
    }

    fn after(facts: Facts<'_>, end: &AttemptEnd) -> Next {
        next(facts, end, &SCHEDULE, 0.0)
    }

    #[test]
    fn two_hundreds_succeed_410_stops_and_the_rest_follows_the_schedule() {
        for status in [200, 204, 299] {
            let next = after(facts("POST", 0), &answered(status));
            assert_eq!(next, Next::Final(CallState::Succeeded));
        }
        let gone = after(facts("POST", 0), &answered(410));
        assert_eq!(gone, Next::Final(CallState::Failed));
        for status in [302, 400, 429, 500, 503] {
            for (step, wait) in [(0, 5), (1, 300)] {
                let expected = Next::Again {
                    after: Duration::from_secs(wait),
                    step: step + 1,
                };
                assert_eq!(after(facts("POST", step), &answered(status)), expected);
            }
            let last = after(facts("POST", 2), &answered(status));
            assert_eq!(last, Next::Final(CallState::Failed));
        }
    }

    #[test]
    fn a_target_may_ask_for_more_time_but_not_for_ever() {
        let ask = |seconds| AttemptEnd {
            retry_after: Some(Duration::from_secs(seconds)),
            ..answered(503)
        };
        let wait = |seconds| match after(facts("POST", 0), &ask(seconds)) {
            Next::Again { after, .. } => after.as_secs(),
            other => panic!("{other:?}"),
        };
        assert_eq!(wait(1), 5);
        assert_eq!(wait(60), 60);
        assert_eq!(wait(1 << 40), 24 * 3600);
    }

    #[test]
    fn what_may_have_been_done_is_repeated_only_where_that_is_allowed() {
        let lost = failed(Code::TunnelLost, Execution::PossiblyExecuted);
        let unknown = after(facts("POST", 0), &lost);
        assert_eq!(unknown, Next::Final(CallState::OutcomeUnknown));
        assert!(matches!(after(facts("PUT", 0), &lost), Next::Again { .. }));
        let allowed = Facts {
            at_least_once: true,
            ..facts("POST", 0)
        };
        assert!(matches!(after(allowed, &lost), Next::Again { step: 1, .. }));
    }

    #[test]
    fn an_attempt_without_its_bridges_word_stays_open() {
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
    fn refused_offline_and_failed_are_three_things() {
        let refused = failed(Code::RefusedByPolicy, Execution::NotDispatched);
        assert_eq!(
            after(facts("POST", 0), &refused),
            Next::Final(CallState::Refused)
        );
        let offline = failed(Code::BridgeOffline, Execution::NotSent);
        assert!(matches!(
            after(facts("POST", 1), &offline),
            Next::Again { step: 1, .. }
        ));
        let down = failed(Code::TargetRefused, Execution::NotDispatched);
        assert!(matches!(
            after(facts("POST", 1), &down),
            Next::Again { step: 2, .. }
        ));
    }

    #[test]
    fn being_turned_away_waits_longer_each_time_within_a_minute() {
        let full = failed(Code::Overloaded, Execution::NotDispatched);
        let wait = |attempt| {
            let facts = Facts {
                attempt,
                ..facts("POST", 0)
            };
            match next(facts, &full, &SCHEDULE, 1.0) {
                Next::Again { after, step: 0 } => after,
                other => panic!("{other:?}"),
            }
        };
        assert!(wait(1) < wait(3) && wait(3) < wait(6));
        assert!(wait(u32::MAX) <= NOT_DONE_MIN + NOT_DONE_MAX);
    }

    #[test]
    fn a_cancelled_one_ends_with_its_attempt() {
        let cancelled = Facts {
            is_cancelled: true,
            ..facts("POST", 0)
        };
        assert_eq!(
            after(cancelled, &answered(500)),
            Next::Final(CallState::Cancelled)
        );
        assert_eq!(
            after(cancelled, &answered(200)),
            Next::Final(CallState::Succeeded)
        );
    }

    /// Every code, how far it came, method, wish for a repeat, and whether the journal may know more.
    #[test]
    fn next_step_repeats_no_post_that_may_be_executed() {
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
                            ..answered(0)
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
                            let is_word = matches!(
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
                                Next::Again { .. } => assert!(!is_word, "{what}"),
                                Next::Final(CallState::Refused) => assert!(is_word, "{what}"),
                                other => panic!("{what}: {other:?}"),
                            }
                        } else if may_repeat {
                            assert!(matches!(next, Next::Again { step: 1, .. }), "{what}");
                        } else {
                            assert_eq!(next, Next::Final(CallState::OutcomeUnknown), "{what}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn own_want_of_resources_uses_no_step() {
        for code in [Code::Overloaded, Code::Internal, Code::RateLimited] {
            for execution in [Execution::NotSent, Execution::NotDispatched] {
                // Not even after the last step.
                let next = after(facts("POST", 2), &failed(code, execution));
                assert!(
                    matches!(next, Next::Again { step: 2, .. }),
                    "{code} {execution}"
                );
            }
        }
    }

    #[test]
    fn target_status_decides_without_a_whole_response() {
        let cut = AttemptEnd {
            code: Some(Code::TargetClosed),
            ..answered(201)
        };
        let next = after(facts("POST", 0), &cut);
        assert_eq!(next, Next::Final(CallState::Succeeded));
        let error = AttemptEnd {
            status: Some(500),
            ..cut
        };
        let next = after(facts("POST", 0), &error);
        assert!(matches!(next, Next::Again { step: 1, .. }));
    }

    #[test]
    fn misrouted_call_is_routed_again_without_a_step() {
        let misrouted = AttemptEnd {
            is_misrouted: true,
            ..failed(Code::RefusedByPolicy, Execution::NotDispatched)
        };
        let next = after(facts("POST", 2), &misrouted);
        let expected = Next::Again {
            after: Duration::ZERO,
            step: 2,
        };
        assert_eq!(next, expected);
    }
}
