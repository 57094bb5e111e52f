//! Maps the policy's refusals to failures for the relay, and to log lines for the administrator.

use super::named::NamedRequest;
use policy::{Refusal, RefusalKind};
use protocol::frame::{RequestContext, RequestHead};
use protocol::{Code, Failure};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Log lines about refusals in one second: a relay can send any number of refused requests.
const LINES_MAX: u64 = 10;

static LINES: Lines = Lines::new();
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Counts the lines of a second, and those left out since the last one. The counters are not synchronised with
/// each other: a line too many does no harm.
struct Lines {
    second: AtomicU64,
    written: AtomicU64,
    left_out: AtomicU64,
}

impl Lines {
    const fn new() -> Self {
        Self {
            second: AtomicU64::new(0),
            written: AtomicU64::new(0),
            left_out: AtomicU64::new(0),
        }
    }

    /// Returns how many lines were left out before this one, or `None` if this one is left out, too.
    fn next(&self, second: u64) -> Option<u64> {
        // Of the threads that enter a new second, exactly one sees the older value and resets the count.
        if self.second.fetch_max(second, Ordering::Relaxed) < second {
            self.written.store(0, Ordering::Relaxed);
        }
        if self.written.fetch_add(1, Ordering::Relaxed) < LINES_MAX {
            return Some(self.left_out.swap(0, Ordering::Relaxed));
        }
        self.left_out.fetch_add(1, Ordering::Relaxed);
        None
    }
}

/// Maps a refusal to a failure, and logs the request and the reason; never a query or a header field. Nothing was
/// dispatched.
pub(super) fn refused(refusal: &Refusal, head: &RequestHead, context: &RequestContext) -> Failure {
    let code = code(refusal.kind());
    // The failure is returned in any case; only the log is limited.
    if let Some(left_out) = LINES.next(START.elapsed().as_secs()) {
        let named = NamedRequest::new(head, context);
        log(refusal, (&head.method, named), code, left_out);
    }
    Failure::not_dispatched(code, refusal.to_string())
}

/// Logs about a relay's request, unless this second already has its lines.
pub(super) fn limited(log: impl FnOnce()) {
    if LINES.next(START.elapsed().as_secs()).is_some() {
        log();
    }
}

fn log(refusal: &Refusal, (method, named): (&str, NamedRequest), code: Code, left_out: u64) {
    let left_out = (left_out > 0).then_some(left_out);
    let NamedRequest {
        id,
        label,
        host,
        endpoint,
        path,
    } = named;
    tracing::warn!(
        id, label, %code, host, endpoint, method, path, reason = %refusal, left_out,
        "request refused"
    );
}

fn code(kind: RefusalKind) -> Code {
    match kind {
        RefusalKind::InvalidUrl => Code::InvalidRequest,
        RefusalKind::UnknownEndpoint => Code::UnknownEndpoint,
        RefusalKind::NoAddress => Code::TargetDns,
        RefusalKind::NoRule
        | RefusalKind::Scheme
        | RefusalKind::Port
        | RefusalKind::Method
        | RefusalKind::Connect
        | RefusalKind::Path
        | RefusalKind::AlwaysRefused
        | RefusalKind::AddressNotAllowed => Code::RefusedByPolicy,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_lines_are_limited_per_second() {
        let lines = Lines::new();
        for _ in 0..LINES_MAX {
            assert_eq!(lines.next(7), Some(0));
        }
        for _ in 0..5 {
            assert_eq!(lines.next(7), None);
        }
        assert_eq!(lines.next(8), Some(5));
        assert_eq!(lines.next(8), Some(0));
    }
}
