//! One attempt: the request with its signature, through one installation or direct, and how it ended.
//!
//! An end without a status is final only if the bridge's journal reported it, or nothing was dispatched.
//! After a lost session, or a cancellation by the relay, the attempt stays open: the bridge sends RESULT,
//! or responds from its journal when the relay sends the attempt again.

use super::context::DeliveryContext;
use super::request::StoredRequest;
use super::sign::{self, SigningSecret, WEBHOOK_ID, WEBHOOK_SIGNATURE, WEBHOOK_TIMESTAMP};
use super::state::AttemptEnd;
use crate::capacity::Reservation;
use crate::direct::{self, DirectRequest};
use crate::exchange;
use crate::ingress::calls::add_user_agent;
use crate::registry::TunnelEntry;
use crate::request_name::RequestName;
use crate::routing;
use bytes::Bytes;
use http::HeaderValue;
use http::header::{self, HeaderMap};
use http_body_util::{BodyExt, Full};
use policy::Target;
use protocol::frame::{
    CallAttempt, Class, DeliveryResult, RequestHead, RequestTarget, ResponseHead, TimeLeft,
};
use protocol::session::OpenError;
use protocol::{Code, Execution, Failure};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::task::JoinHandle;
use transport::RecvStream;
use transport::handle::INLINE_MAX_BYTES;

/// The bridge ends an attempt first, so that its journal has the outcome. The relay's own limit is this
/// much longer, for a bridge that does not respond.
const GRACE: Duration = Duration::from_secs(5);

/// Time limit for the rest of the response after its head: a bridge sends no more than a piece of it.
const REST_TIMEOUT: Duration = Duration::from_secs(10);

/// Returns the header fields of an attempt. Those of the signature are always the relay's; `User-Agent` is, unless
/// the call has one.
pub(super) fn headers(
    given: &HeaderMap,
    secrets: &[SigningSecret],
    id: &str,
    now: i64,
    body: &[u8],
) -> HeaderMap {
    let mut headers = given.clone();
    // Removed first: a tenant without a secret must not pass a caller's own signature on.
    headers.remove(WEBHOOK_SIGNATURE);
    if let Ok(value) = HeaderValue::from_str(id) {
        headers.insert(WEBHOOK_ID, value);
    }
    headers.insert(WEBHOOK_TIMESTAMP, HeaderValue::from(now));
    if let Some(value) = sign::signatures(secrets, id, now, body) {
        headers.insert(WEBHOOK_SIGNATURE, value);
    }
    add_user_agent(&mut headers);
    headers
}

/// Makes the attempt through this tunnel.
pub(super) async fn through(
    cx: &DeliveryContext,
    entry: &Arc<TunnelEntry>,
    attempt: CallAttempt,
    method: &str,
    request: StoredRequest,
    (headers, name): (&HeaderMap, &RequestName),
) -> AttemptEnd {
    let result = exchange_with(cx, entry, attempt, method, request, (headers, name)).await;
    result.unwrap_or_else(failed)
}

/// How the wait for a response head ended.
enum HeadResult {
    Head(ResponseHead),
    /// The bridge reset the stream, or the session ended.
    Failed(Failure),
    /// The relay's own limit passed, and it cancelled the stream.
    Cancelled(Failure),
}

/// Runs the exchange. An error is a failure before the exchange was opened.
async fn exchange_with(
    cx: &DeliveryContext,
    entry: &Arc<TunnelEntry>,
    attempt: CallAttempt,
    method: &str,
    request: StoredRequest,
    (headers, name): (&HeaderMap, &RequestName),
) -> Result<AttemptEnd, Failure> {
    let headers = transport::http::to_wire(headers, |_| false).map_err(|error| {
        let detail = format!("the request head does not fit into the tunnel: {error}");
        Failure::not_sent(Code::HeadersTooLarge, detail)
    })?;
    let headers = match entry.reads_context {
        true => headers.with_context(name.context()),
        false => headers,
    };
    let timeout_ms = request.about.timeout_ms;
    let mut head = RequestHead {
        class: Class::Interactive,
        share: protocol::frame::CallerWeight::default(),
        target: RequestTarget::Url(request.about.url),
        method: method.to_owned(),
        headers,
        body: transport::http::composed_length(method, request.body.len()),
        expect_continue: false,
        time_left: TimeLeft {
            head_ms: timeout_ms,
            idle_ms: timeout_ms,
            total_ms: timeout_ms,
        },
        call: Some(attempt),
        credential: request.about.credential,
    };
    let body = request.body;
    let is_inline = body.len() <= INLINE_MAX_BYTES;
    let first: &[u8] = if is_inline { &body } else { &[] };
    let mut opened = entry.session.open(&head, first, is_inline);
    // Without the context the head may fit: no delivery fails for what is only for people.
    if matches!(opened, Err(OpenError::Head(_))) && head.headers.has_context() {
        head.headers.split_context();
        opened = entry.session.open(&head, first, is_inline);
    }
    let (send, mut recv) = match opened {
        Ok(streams) => streams,
        Err(error) => return Err(exchange::not_opened(&error).unwrap_or_else(|failure| failure)),
    };
    let metrics = &cx.data.metrics;
    metrics.bytes_up(body.len() as u64);
    // In a task: the target may respond before it has read the whole body.
    let upload = (!is_inline).then(|| tokio::spawn(exchange::pump(send, Full::new(body))));
    let limit = Duration::from_millis(timeout_ms.into()) + GRACE;
    let head = match await_head(&mut recv, limit, upload).await {
        HeadResult::Head(head) => head,
        HeadResult::Cancelled(failure) => return Ok(unsettled(failure)),
        HeadResult::Failed(failure) => {
            // Read before `settle_lost`, which may replace the code by what the bridge reports later.
            let is_lost = failure.code == Code::TunnelLost && entry.session.is_over();
            let failure = exchange::settle_lost(&cx.data.registry, entry, &recv, failure).await;
            return Ok(if is_lost {
                unsettled(failure)
            } else {
                failed(failure)
            });
        }
    };
    let fields = transport::http::from_wire(&head.headers).unwrap_or_default();
    let retry_after = fields.get(header::RETRY_AFTER).and_then(retry_after);
    // The status alone decides. The rest is read so that the stream ends in order instead of by a reset.
    let rest = async {
        while let Some(Ok(frame)) = recv.frame().await {
            let bytes = frame.data_ref().map_or(0, Bytes::len);
            metrics.bytes_down(bytes as u64);
        }
    };
    let _ = tokio::time::timeout(REST_TIMEOUT, rest).await;
    Ok(responded(head.status, retry_after))
}

/// Waits for the final response head. The limit runs from the end of the upload, so a slow upload does not
/// use it up.
async fn await_head(
    recv: &mut RecvStream,
    limit: Duration,
    upload: Option<JoinHandle<()>>,
) -> HeadResult {
    let deadline = async {
        if let Some(upload) = upload {
            // If the upload failed, the stream ends with the reason.
            let _ = upload.await;
        }
        tokio::time::sleep(limit).await;
    };
    tokio::select! {
        // The head first: a response that is already there is not discarded for the deadline.
        biased;
        result = exchange::await_response_head(recv, None, None, None) => {
            return result.map_or_else(HeadResult::Failed, HeadResult::Head);
        }
        () = deadline => {}
    }
    let detail = format!("no response within {} ms", limit.as_millis());
    let failure = Failure::possibly_executed(Code::Timeout, detail);
    HeadResult::Cancelled(recv.cancel(failure, exchange::RESET_ACK_TIMEOUT).await)
}

/// Makes the attempt from the relay, if the tenant's patterns allow its URL.
pub(super) async fn directly(
    cx: &DeliveryContext,
    tenant: Arc<str>,
    method: &str,
    request: StoredRequest,
    headers: HeaderMap,
    memory: Reservation,
) -> AttemptEnd {
    // The patterns may have changed since the call was routed: it is routed again, without using a step.
    let misrouted = |failure: Failure| AttemptEnd {
        is_misrouted: true,
        ..failed(failure)
    };
    let patterns = cx.directory.direct_urls(&tenant);
    let policy = match direct::pattern::policy(&patterns) {
        Ok(policy) => policy,
        Err(detail) => return misrouted(Failure::not_sent(Code::RefusedByPolicy, detail)),
    };
    let host = Target::parse(&request.about.url).map(|target| target.host().clone());
    let within = Duration::from_millis(request.about.timeout_ms.into());
    let direct_request = DirectRequest {
        tenant: tenant.clone(),
        caller: "deliveries".into(),
        url: request.about.url,
        method: method.to_owned(),
        headers,
        body: request.body,
        deadline: tokio::time::Instant::now() + within,
        response_max: cx.data.limits().call_response_max.0,
        memory,
        // Only status and `Retry-After` matter, so the body of the response is not read.
        is_status_enough: true,
        progress: None,
    };
    match cx.data.direct.call(&policy, direct_request).await {
        Ok(response) => {
            let retry_after = response
                .headers
                .get(header::RETRY_AFTER)
                .and_then(retry_after);
            responded(response.status.as_u16(), retry_after)
        }
        Err(failure) if !failure.execution.is_safe_to_repeat() => failed(failure),
        // The name has an address that is not public, or a pattern was removed.
        Err(failure) if failure.code == Code::RefusedByPolicy => misrouted(failure),
        // The name may resolve only inside the network of a bridge that is offline now.
        Err(failure)
            if failure.code == Code::TargetDns
                && host
                    .is_ok_and(|host| routing::is_waited_for(cx.data.routes(), &tenant, &host)) =>
        {
            misrouted(failure)
        }
        Err(failure) => failed(failure),
    }
}

/// Returns the end of an attempt that the target responded to.
pub(super) fn responded(status: u16, retry_after: Option<Duration>) -> AttemptEnd {
    AttemptEnd {
        status: Some(status),
        code: None,
        execution: Execution::Executed,
        detail: format!("the target responded with {status}"),
        retry_after,
        is_open: false,
        is_misrouted: false,
    }
}

/// Returns the end of an attempt that failed for good: it was not opened, or the bridge itself reset it.
/// After its intent, a bridge resets only with the outcome that its journal has just stored.
pub(super) fn failed(failure: Failure) -> AttemptEnd {
    AttemptEnd {
        status: None,
        code: Some(failure.code),
        execution: failure.execution,
        detail: failure.detail,
        retry_after: None,
        is_open: false,
        is_misrouted: false,
    }
}

/// Returns the end of an attempt whose session was lost, or which the relay cancelled. The failure only
/// states how far the stream came; the request may continue, and only the bridge's journal knows how it ends.
/// So the attempt stays open unless it provably was not dispatched.
fn unsettled(failure: Failure) -> AttemptEnd {
    AttemptEnd {
        is_open: !failure.execution.is_safe_to_repeat(),
        ..failed(failure)
    }
}

/// Returns whether the end of an attempt that was sent again is what the bridge's journal has: an outcome,
/// or a failure that the bridge comes to only after the journal had nothing of the attempt. Failures from
/// before that check (the bridge is leaving, has no permit, or was not reached) prove nothing.
pub(super) fn is_authoritative(end: &AttemptEnd) -> bool {
    if end.status.is_some() {
        return true;
    }
    match end.execution {
        Execution::Executed | Execution::PossiblyExecuted => true,
        Execution::NotSent => false,
        Execution::NotDispatched => end.code.is_some_and(is_after_journal),
    }
}

/// Returns whether a bridge fails with this code only after it checked its journal. Every code has its own
/// arm: a new code that is wrongly treated as authoritative would settle an attempt that may have been
/// executed.
fn is_after_journal(code: Code) -> bool {
    match code {
        Code::RefusedByPolicy
        | Code::InvalidRequest
        | Code::TargetDns
        | Code::TargetRefused
        | Code::TargetTls => true,
        Code::TargetTimeout
        | Code::TargetClosed
        | Code::TargetProtocol
        | Code::ResponseTooLarge
        | Code::RequestTooLarge
        | Code::HeadersTooLarge
        | Code::Forbidden
        | Code::UnknownEndpoint
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
        | Code::OutcomeUnknown
        | Code::KeySpent => false,
    }
}

/// Returns the end that a bridge's journal reports.
pub(super) fn reported(result: &DeliveryResult) -> AttemptEnd {
    let execution = Execution::from_wire(result.execution);
    match (result.status, result.code) {
        // The journal has no header fields, so there is no `Retry-After`.
        (Some(status), None) => responded(status, None),
        (status, code) => {
            let code = code.map_or(Code::Internal, Code::from_wire);
            AttemptEnd {
                status,
                code: Some(code),
                execution,
                detail: "reported by the bridge's journal".to_owned(),
                retry_after: None,
                is_open: false,
                is_misrouted: false,
            }
        }
    }
}

/// Reads `Retry-After`: seconds, or a date (RFC 9110, 10.2.3).
pub(super) fn retry_after(value: &HeaderValue) -> Option<Duration> {
    let text = value.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(SystemTime::now()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let read = |text: &str| retry_after(&HeaderValue::from_str(text).unwrap());
        assert_eq!(read("120"), Some(Duration::from_secs(120)));
        assert_eq!(read("soon"), None);
        assert_eq!(read("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::ZERO));
        let later = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(100));
        let wait = read(&later).unwrap();
        assert!(wait > Duration::from_secs(90) && wait <= Duration::from_secs(100));
    }

    #[test]
    fn signature_headers_of_callers_are_replaced() {
        let mut given = HeaderMap::new();
        for name in [
            "webhook-signature",
            "webhook-id",
            "webhook-timestamp",
            "x-own",
        ] {
            given.append(name, HeaderValue::from_static("forged"));
        }
        let secret = SigningSecret::random().unwrap();
        let made = headers(&given, &[secret], "call_1", 7, b"x");
        assert_eq!(made["webhook-id"], "call_1");
        assert_eq!(made["webhook-timestamp"], "7");
        assert_ne!(made["webhook-signature"], "forged");
        assert_eq!(made.get_all("webhook-signature").iter().count(), 1);
        assert_eq!(made["x-own"], "forged");
        assert!(
            made["user-agent"]
                .to_str()
                .unwrap()
                .starts_with("integration-relay/")
        );
    }

    #[test]
    fn failed_resend_is_not_authoritative() {
        for failure in [
            Failure::not_dispatched(Code::TunnelLost, "the bridge was leaving"),
            Failure::not_dispatched(Code::Overloaded, "it has no permit"),
            Failure::not_dispatched(Code::TargetTimeout, "its body was not whole"),
            Failure::not_sent(Code::BridgeOffline, ""),
            Failure::not_sent(Code::InvalidRequest, "the stored call cannot be read"),
        ] {
            assert!(!is_authoritative(&failed(failure.clone())), "{failure:?}");
        }
        for failure in [
            Failure::not_dispatched(Code::TargetRefused, ""),
            Failure::not_dispatched(Code::RefusedByPolicy, ""),
            Failure::possibly_executed(Code::TargetClosed, ""),
        ] {
            assert!(is_authoritative(&failed(failure.clone())), "{failure:?}");
        }
        assert!(is_authoritative(&responded(500, None)));
    }

    #[test]
    fn lost_attempt_stays_open_unless_not_dispatched() {
        for execution in [Execution::PossiblyExecuted, Execution::Executed] {
            for code in [Code::TunnelLost, Code::Timeout, Code::Cancelled] {
                let failure = Failure::new(code, execution, "");
                assert!(unsettled(failure.clone()).is_open, "{failure:?}");
                // The bridge's own reset is its journal's outcome.
                assert!(!failed(failure).is_open);
            }
        }
        for execution in [Execution::NotSent, Execution::NotDispatched] {
            let failure = Failure::new(Code::TunnelLost, execution, "");
            assert!(!unsettled(failure).is_open);
        }
        let result = DeliveryResult {
            attempt: CallAttempt {
                call: [0; 16],
                attempt: 1,
            },
            status: None,
            code: Some(Code::TunnelLost.to_wire()),
            execution: Execution::PossiblyExecuted.to_wire(),
        };
        assert!(!reported(&result).is_open);
    }
}
