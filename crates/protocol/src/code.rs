//! Failures: what went wrong, and how far the request had come.
//!
//! Every failure that a caller can see is a [`Failure`]: a stable [`Code`], an [`Execution`] state
//! that decides whether a retry is safe, and a detail for people. The numbers are those of the wire
//! (W-40), the names those of the HTTP API.
//!
//! A code is one row of the table below. The row holds everything that the programs decide by code:
//! HTTP status, origin, retry class, wait. Nothing else classifies codes.

use std::fmt;
use std::time::Duration;

/// How far a request came before it failed. It decides whether a retry is safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Execution {
    /// It never left the relay: a retry is safe.
    NotSent,
    /// The bridge received it and sent nothing to the target: a retry is safe.
    NotDispatched,
    /// The target may have received it, and no response came: the caller decides about a retry.
    PossiblyExecuted,
    /// The target responded: no retry is needed.
    Executed,
}

impl Execution {
    /// Returns the name in problem documents and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotSent => "not_sent",
            Self::NotDispatched => "not_dispatched",
            Self::PossiblyExecuted => "possibly_executed",
            Self::Executed => "executed",
        }
    }

    /// Returns the number on the wire (W-40).
    pub fn to_wire(self) -> u8 {
        match self {
            Self::NotSent => 0,
            Self::NotDispatched => 1,
            Self::PossiblyExecuted => 2,
            Self::Executed => 3,
        }
    }

    /// Reads a number from the wire. An unknown one promises nothing: `PossiblyExecuted`.
    pub fn from_wire(number: u8) -> Self {
        match number {
            0 => Self::NotSent,
            1 => Self::NotDispatched,
            3 => Self::Executed,
            _ => Self::PossiblyExecuted,
        }
    }

    /// Whether the target certainly received nothing, so that a retry cannot execute anything twice.
    pub fn is_safe_to_repeat(self) -> bool {
        matches!(self, Self::NotSent | Self::NotDispatched)
    }
}

impl fmt::Display for Execution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which program creates a code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Only the relay.
    Relay,
    /// Relay and bridge: what a bridge reports for its targets, a relay reports for direct calls.
    Both,
}

impl Origin {
    /// Returns the name in WIRE.md.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Relay => "relay",
            Self::Both => "both",
        }
    }
}

/// Whether a retry makes sense for a request that the target certainly did not receive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// Never: the request exceeds a limit, and will exceed it again.
    Never,
    /// Never once a bridge rejected it. From the relay it is provisional: a bridge may connect that serves it.
    NeverOnceRejected,
    /// Later, at the target's own pace: the target or its network is at fault.
    Later,
    /// Soon, and on another route if there is one: the target is not at fault.
    Elsewhere,
}

impl Retry {
    /// Returns the name in WIRE.md.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::NeverOnceRejected => "never once rejected",
            Self::Later => "later",
            Self::Elsewhere => "elsewhere",
        }
    }
}

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $number:literal, $name:literal, $status:literal {
        from: $origin:ident, retry: $retry:ident, wait_s: $wait:literal, journal: $journal:literal, exchange: $exchange:literal
    })*) => {
        /// Why a request failed. Stable: programs may match on it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code {
            $($(#[$doc])* $variant,)*
        }

        impl Code {
            /// Every code, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// Returns the name in problem documents, in `Bridge-Error` and in logs.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// Returns the number on the wire (W-40).
            pub fn to_wire(self) -> u16 {
                match self { $(Self::$variant => $number,)* }
            }

            /// Reads a number from the wire. A number from a newer peer becomes `Internal`.
            pub fn from_wire(number: u16) -> Self {
                match number { $($number => Self::$variant,)* _ => Self::Internal }
            }

            /// Returns the HTTP status that a caller gets with it.
            pub fn http_status(self) -> u16 {
                match self { $(Self::$variant => $status,)* }
            }

            /// Returns which program creates it.
            pub fn origin(self) -> Origin {
                match self { $(Self::$variant => Origin::$origin,)* }
            }

            /// Returns whether a retry makes sense for a request that the target did not receive.
            pub fn retry(self) -> Retry {
                match self { $(Self::$variant => Retry::$retry,)* }
            }

            /// Returns the usual wait before a retry, sent as `Retry-After`; `None` where waiting alone
            /// changes nothing. A failure may name another wait, see [`Failure::retry_after`].
            pub fn retry_after(self) -> Option<Duration> {
                let seconds: u64 = match self { $(Self::$variant => $wait,)* };
                (seconds > 0).then(|| Duration::from_secs(seconds))
            }

            /// Whether a bridge creates it, with `not_dispatched`, only after it found no entry of the attempt
            /// in its journal. Such a failure settles an attempt of a delivery. Any other one may come from
            /// a request that the bridge rejected before it read the journal.
            pub fn is_authoritative(self) -> bool {
                match self { $(Self::$variant => $journal,)* }
            }

            /// Whether a request to a target may end with it, in addition to the codes that every operation of
            /// the relay's API has in common.
            pub fn is_exchange_outcome(self) -> bool {
                match self { $(Self::$variant => $exchange,)* }
            }
        }
    };
}

// wait_s: 1 where a slot or a standby's successor is free within moments; 5 where a bridge has to redial, or a
// database to come back; 0 for no `Retry-After`.
codes! {
    /// No key, or one that is wrong, revoked or expired.
    Unauthorized = 1, "unauthorized", 401 { from: Relay, retry: Elsewhere, wait_s: 0, journal: false, exchange: false }
    /// The key's role or scope does not cover this.
    Forbidden = 2, "forbidden", 403 { from: Both, retry: NeverOnceRejected, wait_s: 0, journal: false, exchange: false }
    /// The tenant is suspended.
    TenantSuspended = 3, "tenant_suspended", 403 { from: Relay, retry: Elsewhere, wait_s: 0, journal: false, exchange: false }
    /// The request cannot be parsed or is not acceptable.
    InvalidRequest = 4, "invalid_request", 400 { from: Both, retry: NeverOnceRejected, wait_s: 0, journal: true, exchange: false }
    /// The tenant has no paired bridge.
    NoBridge = 5, "no_bridge", 503 { from: Relay, retry: Elsewhere, wait_s: 5, journal: false, exchange: true }
    /// A bridge is paired, but none that serves this request is connected.
    BridgeOffline = 6, "bridge_offline", 503 { from: Relay, retry: Elsewhere, wait_s: 5, journal: false, exchange: true }
    /// A concurrency limit is reached, or the machine lacks a resource; `Retry-After` states when to retry.
    Overloaded = 7, "overloaded", 503 { from: Both, retry: Elsewhere, wait_s: 1, journal: false, exchange: false }
    /// The bridge's local policy, or what the bridge announced of it, does not allow the request.
    RefusedByPolicy = 8, "refused_by_policy", 403 { from: Both, retry: NeverOnceRejected, wait_s: 0, journal: true, exchange: true }
    /// No bridge declares an endpoint of this name.
    UnknownEndpoint = 9, "unknown_endpoint", 404 { from: Both, retry: NeverOnceRejected, wait_s: 0, journal: false, exchange: true }
    /// The target's name could not be resolved.
    TargetDns = 10, "target_dns", 502 { from: Both, retry: Later, wait_s: 0, journal: true, exchange: true }
    /// The target did not accept the connection.
    TargetRefused = 11, "target_refused", 502 { from: Both, retry: Later, wait_s: 0, journal: true, exchange: true }
    /// TLS with the target failed.
    TargetTls = 12, "target_tls", 502 { from: Both, retry: Later, wait_s: 0, journal: true, exchange: true }
    /// The target did not respond in time.
    TargetTimeout = 13, "target_timeout", 504 { from: Both, retry: Later, wait_s: 0, journal: false, exchange: true }
    /// The target closed the connection before its response was complete.
    TargetClosed = 14, "target_closed", 502 { from: Both, retry: Later, wait_s: 0, journal: false, exchange: true }
    /// The target's response exceeds a limit.
    ResponseTooLarge = 15, "response_too_large", 502 { from: Both, retry: Later, wait_s: 0, journal: false, exchange: true }
    /// The tunnel was lost during the request.
    TunnelLost = 16, "tunnel_lost", 502 { from: Both, retry: Elsewhere, wait_s: 0, journal: false, exchange: true }
    /// The caller's deadline passed.
    Timeout = 17, "timeout", 504 { from: Relay, retry: Elsewhere, wait_s: 0, journal: false, exchange: true }
    /// The caller disconnected or cancelled the request.
    Cancelled = 18, "cancelled", 499 { from: Relay, retry: Elsewhere, wait_s: 0, journal: false, exchange: false }
    /// The request body exceeds a limit.
    RequestTooLarge = 19, "request_too_large", 413 { from: Both, retry: Never, wait_s: 0, journal: false, exchange: true }
    /// The request's header section exceeds a limit.
    HeadersTooLarge = 20, "headers_too_large", 431 { from: Relay, retry: Never, wait_s: 0, journal: false, exchange: false }
    /// The path does not exist, or this key may not see it.
    NotFound = 21, "not_found", 404 { from: Relay, retry: Elsewhere, wait_s: 0, journal: false, exchange: false }
    /// The path does not support this method.
    MethodNotAllowed = 22, "method_not_allowed", 405 { from: Relay, retry: Elsewhere, wait_s: 0, journal: false, exchange: false }
    /// The request conflicts with the current state.
    Conflict = 23, "conflict", 409 { from: Relay, retry: Elsewhere, wait_s: 0, journal: false, exchange: true }
    /// The target's response is not valid HTTP.
    TargetProtocol = 24, "target_protocol", 502 { from: Both, retry: Later, wait_s: 0, journal: false, exchange: true }
    /// A defect of the relay or the bridge, or a failure of its machine.
    Internal = 25, "internal", 500 { from: Both, retry: Elsewhere, wait_s: 0, journal: false, exchange: false }
    /// The resource has changed since the caller read it (`If-Match`).
    PreconditionFailed = 26, "precondition_failed", 412 { from: Relay, retry: Elsewhere, wait_s: 0, journal: false, exchange: false }
    /// A rate limit is reached; `Retry-After` states when to retry.
    RateLimited = 27, "rate_limited", 429 { from: Relay, retry: Elsewhere, wait_s: 1, journal: false, exchange: false }
    /// This relay is on standby: another one is active.
    Standby = 28, "standby", 503 { from: Relay, retry: Elsewhere, wait_s: 1, journal: false, exchange: false }
    /// The relay could not read its database for too long, so it cannot check keys and bridges.
    DirectoryStale = 29, "directory_stale", 503 { from: Relay, retry: Elsewhere, wait_s: 5, journal: false, exchange: false }
    /// A request with this idempotency key was started, and its outcome is unknown.
    OutcomeUnknown = 30, "outcome_unknown", 409 { from: Relay, retry: Elsewhere, wait_s: 0, journal: false, exchange: false }
    /// The key of a pairing file has paired a bridge already.
    KeySpent = 31, "key_spent", 403 { from: Relay, retry: Elsewhere, wait_s: 0, journal: false, exchange: false }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A failed request: why, how far it had come, and the details.
///
/// The detail is for people, in lower case, and never contains a body, a header value or a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code} ({execution}): {detail}")]
pub struct Failure {
    /// The reason; stable.
    pub code: Code,
    /// How far the request came.
    pub execution: Execution,
    /// The details for people, at most [`crate::limits::DETAIL_MAX_BYTES`] on the wire.
    pub detail: String,
}

impl Failure {
    /// Creates a failure from its three parts.
    pub fn new(code: Code, execution: Execution, detail: impl Into<String>) -> Self {
        Self {
            code,
            execution,
            detail: detail.into(),
        }
    }

    /// Creates the failure of a request that never left the relay.
    pub fn not_sent(code: Code, detail: impl Into<String>) -> Self {
        Self::new(code, Execution::NotSent, detail)
    }

    /// Creates the failure of a request of which the bridge sent nothing to the target.
    pub fn not_dispatched(code: Code, detail: impl Into<String>) -> Self {
        Self::new(code, Execution::NotDispatched, detail)
    }

    /// Creates the failure of a request that the target may have received.
    pub fn possibly_executed(code: Code, detail: impl Into<String>) -> Self {
        Self::new(code, Execution::PossiblyExecuted, detail)
    }

    /// Adds the wait after which a retry makes sense, rounded up to seconds and at most
    /// `RETRY_AFTER_MAX_S` (one hour). It replaces an earlier one.
    #[must_use]
    pub fn with_retry_after(mut self, wait: Duration) -> Self {
        // It travels at the end of the detail, since a payload cannot get a new field within a version of
        // the wire (W-60).
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

    /// Returns the wait that the failure names, if it names one.
    pub fn retry_after(&self) -> Option<Duration> {
        let at = self.detail.rfind(RETRY_AFTER)?;
        let text = self.detail[at + RETRY_AFTER.len()..].strip_suffix(" s")?;
        let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
        // `parse` would accept a sign as well.
        let seconds: u64 = text.parse().ok().filter(|_| is_number)?;
        Some(Duration::from_secs(seconds.clamp(1, RETRY_AFTER_MAX_S)))
    }
}

/// The end of a detail that names a wait, as in `; retry after 30 s` (W-40).
const RETRY_AFTER: &str = "; retry after ";

/// The longest wait that a failure names, in seconds.
const RETRY_AFTER_MAX_S: u64 = 3600;

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn code_survives_the_wire_and_has_a_unique_name() {
        let mut names = HashSet::new();
        for code in Code::ALL {
            assert_eq!(Code::from_wire(code.to_wire()), *code);
            assert!(names.insert(code.as_str()), "{code} twice");
            assert!((400..600).contains(&code.http_status()));
        }
        assert_eq!(Code::from_wire(60_000), Code::Internal);
    }

    /// The columns of a row depend on each other. A row that breaks one of these rules is a mistake.
    #[test]
    fn columns_of_a_code_agree() {
        for code in Code::ALL {
            let status = code.http_status();
            let wants_wait = matches!(status, 429 | 503);
            assert_eq!(code.retry_after().is_some(), wants_wait, "{code}: wait");
            if wants_wait {
                assert_eq!(code.retry(), Retry::Elsewhere, "{code}: retry");
            }
            match code.retry() {
                // Only failures of a target are left to the schedule of its retries.
                Retry::Later => {
                    assert!(matches!(status, 502 | 504), "{code}: status");
                    assert!(code.is_exchange_outcome(), "{code}: exchange");
                    assert_eq!(code.origin(), Origin::Both, "{code}: origin");
                }
                // A bridge must be able to reject with it.
                Retry::NeverOnceRejected => {
                    assert_eq!(code.origin(), Origin::Both, "{code}: origin");
                    assert!((400..500).contains(&status), "{code}: status");
                }
                Retry::Never => assert!(matches!(status, 413 | 431), "{code}: status"),
                Retry::Elsewhere => {}
            }
            if code.is_authoritative() {
                // What is settled by a bridge must not be retried as if no bridge had decided.
                assert_eq!(code.origin(), Origin::Both, "{code}: journal");
                assert_ne!(code.retry(), Retry::Elsewhere, "{code}: journal");
            }
        }
    }

    #[test]
    fn retry_after_travels_in_the_detail() {
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
    fn unknown_execution_promises_nothing() {
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
