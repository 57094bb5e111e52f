//! What the policy refuses, as the relay is told and as the administrator reads it.

use policy::{Refusal, RefusalKind};
use protocol::frame::{RequestHead, RequestTarget};
use protocol::{Code, Failure};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Lines in the log about refusals, in a second: a relay may ask for as much as it likes.
const LINES_MAX: u64 = 10;

static LINES: Lines = Lines::new();
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Counts the lines of a second, and those left out since the last one. About right is enough.
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

    /// Whether a line may be written now, and how many were left out before it.
    fn next(&self, second: u64) -> Option<u64> {
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

/// The failure that a refusal becomes. Nothing was dispatched. Says it in the log: the host, the
/// method and the reason; never a path, a query or a header field. Of too many, only how many.
pub(super) fn refused(refusal: &Refusal, head: &RequestHead) -> Failure {
    let code = code(refusal.kind());
    if let Some(left_out) = LINES.next(START.elapsed().as_secs()) {
        say(refusal, head, code, left_out);
    }
    Failure::not_dispatched(code, refusal.to_string())
}

/// Says something about what a relay asked for, unless too much was said in this second.
pub(super) fn limited(say: impl FnOnce()) {
    if LINES.next(START.elapsed().as_secs()).is_some() {
        say();
    }
}

fn say(refusal: &Refusal, head: &RequestHead, code: Code, left_out: u64) {
    let (endpoint, host) = match &head.target {
        RequestTarget::Url(url) => (None, host(url)),
        RequestTarget::Endpoint { name, .. } => (Some(name.clone()), None),
        RequestTarget::Connect { host, .. } => (None, Some(host.clone())),
    };
    let left_out = (left_out > 0).then_some(left_out);
    tracing::warn!(
        %code, host, endpoint, method = head.method, reason = %refusal, left_out, "request refused"
    );
}

/// The host of a URL that may be anything.
fn host(url: &str) -> Option<String> {
    let target = policy::Target::parse(url).ok()?;
    Some(target.authority().to_owned())
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
    fn a_second_has_so_many_lines_and_the_next_one_says_how_many_were_left_out() {
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
