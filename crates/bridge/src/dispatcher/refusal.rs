//! What the policy refuses, as the relay is told and as the administrator reads it.

use policy::{Refusal, RefusalKind};
use protocol::frame::{RequestHead, RequestTarget};
use protocol::{Code, Failure};

/// The failure that a refusal becomes. Nothing was dispatched. Says it in the log: the host, the
/// method and the reason; never a path, a query or a header field.
pub(super) fn refused(refusal: &Refusal, head: &RequestHead) -> Failure {
    let code = code(refusal.kind());
    let (endpoint, host) = match &head.target {
        RequestTarget::Url(url) => (None, host(url)),
        RequestTarget::Endpoint { name, .. } => (Some(name.clone()), None),
        RequestTarget::Connect { host, .. } => (None, Some(host.clone())),
    };
    tracing::warn!(
        %code, host, endpoint, method = head.method, reason = %refusal, "request refused"
    );
    Failure::not_dispatched(code, refusal.to_string())
}

/// The host of a URL that may be anything.
fn host(url: &str) -> Option<String> {
    let target = policy::Target::parse(url).ok()?;
    Some(target.authority())
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
        | RefusalKind::AddressNotAllowed
        | RefusalKind::Redirect => Code::RefusedByPolicy,
    }
}
