//! What went wrong, and how far the request had come.
//!
//! Every failure that a caller can see is a [`Failure`]: a stable [`Code`], an [`Execution`] state
//! that says whether a repeat is safe, and a detail in words. The numbers are those of the wire
//! (W-40), the names those of the HTTP API.

use std::fmt;

/// How far a request came before it failed. Tells a caller whether a repeat is safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Execution {
    /// It never left the relay: a repeat is safe.
    NotSent,
    /// The bridge had it and never opened it towards the target: a repeat is safe.
    NotDispatched,
    /// The target may have seen it and no answer came back: a repeat is the caller's decision.
    PossiblyExecuted,
    /// The target answered: no repeat is needed.
    Executed,
}

impl Execution {
    /// The name in problem documents and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotSent => "not_sent",
            Self::NotDispatched => "not_dispatched",
            Self::PossiblyExecuted => "possibly_executed",
            Self::Executed => "executed",
        }
    }

    /// The number on the wire (W-40).
    pub fn to_wire(self) -> u8 {
        match self {
            Self::NotSent => 0,
            Self::NotDispatched => 1,
            Self::PossiblyExecuted => 2,
            Self::Executed => 3,
        }
    }

    /// From the wire. An unknown number claims nothing: `PossiblyExecuted`.
    pub fn from_wire(number: u8) -> Self {
        match number {
            0 => Self::NotSent,
            1 => Self::NotDispatched,
            3 => Self::Executed,
            _ => Self::PossiblyExecuted,
        }
    }

    /// Whether the target certainly saw nothing, so that a repeat cannot do anything twice.
    pub fn is_safe_to_repeat(self) -> bool {
        matches!(self, Self::NotSent | Self::NotDispatched)
    }
}

impl fmt::Display for Execution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $number:literal, $name:literal, $status:literal;)*) => {
        /// Why a request failed. Stable: programs may match on it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code {
            $($(#[$doc])* $variant,)*
        }

        impl Code {
            /// Every code, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The name in problem documents, in `Bridge-Error` and in logs.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The number on the wire (W-40).
            pub fn to_wire(self) -> u16 {
                match self { $(Self::$variant => $number,)* }
            }

            /// From the wire. A number from a newer peer becomes `Internal`.
            pub fn from_wire(number: u16) -> Self {
                match number { $($number => Self::$variant,)* _ => Self::Internal }
            }

            /// The HTTP status that a caller gets with it.
            pub fn http_status(self) -> u16 {
                match self { $(Self::$variant => $status,)* }
            }
        }
    };
}

codes! {
    /// No key, or one that is wrong, revoked or expired.
    Unauthorized = 1, "unauthorized", 401;
    /// The key's role or scope does not cover this.
    Forbidden = 2, "forbidden", 403;
    /// The tenant is suspended.
    TenantSuspended = 3, "tenant_suspended", 403;
    /// The request cannot be understood or is not acceptable as it stands.
    InvalidRequest = 4, "invalid_request", 400;
    /// The tenant has no bridge paired.
    NoBridge = 5, "no_bridge", 503;
    /// A bridge is paired, but none that could serve this is connected.
    BridgeOffline = 6, "bridge_offline", 503;
    /// A limit on what may run at once is reached; `Retry-After` says when to come again.
    Overloaded = 7, "overloaded", 503;
    /// The bridge's local policy (or what it declared of it) does not allow the request.
    RefusedByPolicy = 8, "refused_by_policy", 403;
    /// No bridge declares an endpoint of that name.
    UnknownEndpoint = 9, "unknown_endpoint", 404;
    /// The target's name could not be resolved.
    TargetDns = 10, "target_dns", 502;
    /// The target did not accept the connection.
    TargetRefused = 11, "target_refused", 502;
    /// TLS with the target failed.
    TargetTls = 12, "target_tls", 502;
    /// The target did not answer in time.
    TargetTimeout = 13, "target_timeout", 504;
    /// The target closed the connection before its answer was whole.
    TargetClosed = 14, "target_closed", 502;
    /// The target's answer is larger than may be passed on.
    ResponseTooLarge = 15, "response_too_large", 502;
    /// The tunnel broke while the request was on its way.
    TunnelLost = 16, "tunnel_lost", 502;
    /// The time that the caller gave was over.
    Timeout = 17, "timeout", 504;
    /// The caller went away or took the request back.
    Cancelled = 18, "cancelled", 499;
    /// The request's body is larger than is accepted.
    RequestTooLarge = 19, "request_too_large", 413;
    /// The request's header section is larger than is accepted.
    HeadersTooLarge = 20, "headers_too_large", 431;
    /// There is nothing at this path, or nothing that this key may see.
    NotFound = 21, "not_found", 404;
    /// The path exists; it does not take this method.
    MethodNotAllowed = 22, "method_not_allowed", 405;
    /// It clashes with what exists.
    Conflict = 23, "conflict", 409;
    /// The target's answer is not HTTP that can be passed on.
    TargetProtocol = 24, "target_protocol", 502;
    /// A defect on our side.
    Internal = 25, "internal", 500;
    /// It is not as the caller has seen it any more (`If-Match`).
    PreconditionFailed = 26, "precondition_failed", 412;
    /// More than may be asked for in this time; `Retry-After` says when to come again.
    RateLimited = 27, "rate_limited", 429;
    /// This relay stands by: another one serves.
    Standby = 28, "standby", 503;
    /// The relay could not read its database for too long: no key and no bridge can be checked.
    DirectoryStale = 29, "directory_stale", 503;
    /// A request with this idempotency key was begun, and its outcome is not known.
    OutcomeUnknown = 30, "outcome_unknown", 409;
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A failed request: what, how far it had come, and the fact in words.
///
/// The detail is for people, lower case, and never holds a body, a header value or a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code} ({execution}): {detail}")]
pub struct Failure {
    /// The stable reason.
    pub code: Code,
    /// How far the request came.
    pub execution: Execution,
    /// The fact in words, at most [`crate::limits::DETAIL_MAX_BYTES`] on the wire.
    pub detail: String,
}

impl Failure {
    /// A failure with its three parts.
    pub fn new(code: Code, execution: Execution, detail: impl Into<String>) -> Self {
        Self {
            code,
            execution,
            detail: detail.into(),
        }
    }

    /// A failure of a request that never left the relay.
    pub fn not_sent(code: Code, detail: impl Into<String>) -> Self {
        Self::new(code, Execution::NotSent, detail)
    }

    /// A failure of a request that the bridge had and never opened towards the target.
    pub fn not_dispatched(code: Code, detail: impl Into<String>) -> Self {
        Self::new(code, Execution::NotDispatched, detail)
    }

    /// A failure of a request that the target may have seen.
    pub fn possibly_executed(code: Code, detail: impl Into<String>) -> Self {
        Self::new(code, Execution::PossiblyExecuted, detail)
    }

    /// The same failure, which says after how long a repeat makes sense. The wait is rounded up to seconds
    /// and is at most [`RETRY_AFTER_MAX_S`]. It travels at the end of the detail.
    #[must_use]
    pub fn with_retry_after(mut self, wait: std::time::Duration) -> Self {
        let whole = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        if self.retry_after().is_some()
            && let Some(at) = self.detail.rfind(RETRY_AFTER)
        {
            self.detail.truncate(at);
        }
        let seconds = whole.clamp(1, RETRY_AFTER_MAX_S);
        self.detail.push_str(&format!("{RETRY_AFTER}{seconds} s"));
        self
    }

    /// Returns after how long a repeat makes sense, where the failure says it.
    pub fn retry_after(&self) -> Option<std::time::Duration> {
        let at = self.detail.rfind(RETRY_AFTER)?;
        let text = self.detail[at + RETRY_AFTER.len()..].strip_suffix(" s")?;
        let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
        let seconds: u64 = text.parse().ok().filter(|_| is_number)?;
        Some(std::time::Duration::from_secs(
            seconds.clamp(1, RETRY_AFTER_MAX_S),
        ))
    }
}

/// How a detail ends that says after how long a repeat makes sense: `; retry after 30 s`.
const RETRY_AFTER: &str = "; retry after ";

/// The longest wait that a failure names, in seconds.
pub const RETRY_AFTER_MAX_S: u64 = 3600;

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_code_survives_the_wire_and_has_a_name_of_its_own() {
        let mut names = HashSet::new();
        for code in Code::ALL {
            assert_eq!(Code::from_wire(code.to_wire()), *code);
            assert!(names.insert(code.as_str()), "{code} twice");
            assert!((400..600).contains(&code.http_status()));
        }
        assert_eq!(Code::from_wire(60_000), Code::Internal);
    }

    #[test]
    fn a_wait_travels_at_the_end_of_the_detail() {
        use std::time::Duration;
        let busy = Failure::not_dispatched(Code::Overloaded, "ALM is busy");
        assert_eq!(busy.retry_after(), None);
        let later = busy.with_retry_after(Duration::from_millis(1500));
        assert_eq!(later.detail, "ALM is busy; retry after 2 s");
        assert_eq!(later.retry_after(), Some(Duration::from_secs(2)));
        let again = later.with_retry_after(Duration::from_secs(1_000_000));
        assert_eq!(again.detail, "ALM is busy; retry after 3600 s");
        for wrong in [
            "; retry after  s",
            "; retry after +1 s",
            "; retry after 1 s.",
        ] {
            let failure = Failure::not_dispatched(Code::Overloaded, wrong);
            assert_eq!(failure.retry_after(), None, "{wrong}");
        }
    }

    #[test]
    fn an_unknown_execution_claims_nothing() {
        assert_eq!(Execution::from_wire(200), Execution::PossiblyExecuted);
        for state in [
            Execution::NotSent,
            Execution::NotDispatched,
            Execution::PossiblyExecuted,
            Execution::Executed,
        ] {
            assert_eq!(Execution::from_wire(state.to_wire()), state);
        }
    }
}
