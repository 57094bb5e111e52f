//! One attempt: the request with its signature, through one installation, and how that ended.
//!
//! An end without a status is final only where the bridge's journal, or the lack of any dispatch, stands
//! behind it. After a lost session or a cancel of the relay's own, the attempt stays open: the bridge
//! sends RESULT, or answers from its journal when it is asked again.

use super::request::StoredRequest;
use super::sign::{self, SigningSecret, WEBHOOK_ID, WEBHOOK_SIGNATURE, WEBHOOK_TIMESTAMP};
use super::state::AttemptEnd;
use crate::capacity::Reservation;
use crate::control_plane::ControlPlane;
use crate::direct::{self, DirectRequest};
use crate::exchange;
use crate::registry::TunnelEntry;
use crate::routing;
use bytes::Bytes;
use http::HeaderValue;
use http::header::{self, HeaderMap};
use http_body_util::{BodyExt, Full};
use policy::Target;
use protocol::frame::{
    BodyLength, CallAttempt, Class, DeliveryResult, RequestHead, RequestTarget, ResponseHead,
    TimeLeft,
};
use protocol::{Code, Execution, Failure};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::task::JoinHandle;
use transport::RecvStream;
use transport::handle::INLINE_MAX_BYTES;

/// The bridge ends an attempt first; the relay's own limit is there in case that no word comes.
const GRACE: Duration = Duration::from_secs(5);

/// How long what follows the answer's head may take: a bridge sends no more than a piece of it.
const REST_WITHIN: Duration = Duration::from_secs(10);

/// The header fields of an attempt. Those of the signature are ours alone.
pub(super) fn headers(
    given: &HeaderMap,
    secrets: &[SigningSecret],
    id: &str,
    now: i64,
    body: &[u8],
) -> HeaderMap {
    let mut headers = given.clone();
    headers.remove(WEBHOOK_SIGNATURE);
    if let Ok(value) = HeaderValue::from_str(id) {
        headers.insert(WEBHOOK_ID, value);
    }
    headers.insert(WEBHOOK_TIMESTAMP, HeaderValue::from(now));
    if let Some(value) = sign::signatures(secrets, id, now, body) {
        headers.insert(WEBHOOK_SIGNATURE, value);
    }
    headers
}

/// Makes the attempt through this tunnel.
pub(super) async fn through(
    state: &Arc<ControlPlane>,
    entry: &Arc<TunnelEntry>,
    attempt: CallAttempt,
    method: &str,
    request: StoredRequest,
    headers: &HeaderMap,
) -> AttemptEnd {
    let result = exchange_with(state, entry, attempt, method, request, headers).await;
    result.unwrap_or_else(failed)
}

/// How an exchange that was opened came to its head, or to none.
enum Ended {
    Head(ResponseHead),
    /// The bridge reset the stream, or the session ended.
    Failed(Failure),
    /// The relay's own limit passed, and it cancelled the stream.
    Cancelled(Failure),
}

/// An error is a failure before the exchange was opened.
async fn exchange_with(
    state: &Arc<ControlPlane>,
    entry: &Arc<TunnelEntry>,
    attempt: CallAttempt,
    method: &str,
    request: StoredRequest,
    headers: &HeaderMap,
) -> Result<AttemptEnd, Failure> {
    let headers = transport::http::to_wire(headers, |_| false).map_err(|error| {
        let detail = format!("the request's head does not fit the tunnel: {error}");
        Failure::not_sent(Code::HeadersTooLarge, detail)
    })?;
    let timeout_ms = request.about.timeout_ms;
    let head = RequestHead {
        class: Class::Interactive,
        share: protocol::frame::CallerWeight::default(),
        target: RequestTarget::Url(request.about.url),
        method: method.to_owned(),
        headers,
        body: match request.body.len() {
            0 => BodyLength::None,
            bytes => BodyLength::Known(bytes as u64),
        },
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
    let inlined = body.len() <= INLINE_MAX_BYTES;
    let first: &[u8] = if inlined { &body } else { &[] };
    let opened = entry.session.open(&head, first, inlined);
    let (send, mut recv) = match opened {
        Ok(streams) => streams,
        Err(error) => return Err(exchange::not_opened(&error).unwrap_or_else(|failure| failure)),
    };
    state.metrics.bytes_up(body.len() as u64);
    let upload = (!inlined).then(|| tokio::spawn(exchange::pump(send, Full::new(body))));
    let limit = Duration::from_millis(timeout_ms.into()) + GRACE;
    let head = match final_head(&mut recv, limit, upload).await {
        Ended::Head(head) => head,
        Ended::Cancelled(failure) => return Ok(cancelled(failure)),
        Ended::Failed(failure) => {
            let is_lost = failure.code == Code::TunnelLost && entry.session.is_over();
            let failure = exchange::settle_lost(&state.data.registry, entry, &recv, failure).await;
            return Ok(if is_lost {
                lost(failure)
            } else {
                failed(failure)
            });
        }
    };
    let fields = transport::http::from_wire(&head.headers).unwrap_or_default();
    let retry_after = fields.get(header::RETRY_AFTER).and_then(retry_after);
    // What the target said does not change what it did; but the stream ends in order.
    let rest = async {
        while let Some(Ok(frame)) = recv.frame().await {
            let bytes = frame.data_ref().map_or(0, Bytes::len);
            state.metrics.bytes_down(bytes as u64);
        }
    };
    let _ = tokio::time::timeout(REST_WITHIN, rest).await;
    Ok(answered(head.status, retry_after))
}

/// Waits for the final head. The limit runs from the end of the upload.
async fn final_head(
    recv: &mut RecvStream,
    limit: Duration,
    upload: Option<JoinHandle<()>>,
) -> Ended {
    let over = async {
        if let Some(upload) = upload {
            // However the upload ended, the response tells.
            let _ = upload.await;
        }
        tokio::time::sleep(limit).await;
    };
    tokio::select! {
        biased;
        result = exchange::await_response_head(recv, None, None, None) => {
            return result.map_or_else(Ended::Failed, Ended::Head);
        }
        () = over => {}
    }
    let detail = format!("no response within {} ms", limit.as_millis());
    let failure = Failure::possibly_executed(Code::Timeout, detail);
    Ended::Cancelled(recv.cancel(failure, exchange::RESET_ACK_TIMEOUT).await)
}

/// Makes the attempt from here, if the tenant's patterns allow its URL.
pub(super) async fn directly(
    state: &ControlPlane,
    tenant: Arc<str>,
    method: &str,
    request: StoredRequest,
    headers: HeaderMap,
    memory: Reservation,
) -> AttemptEnd {
    // The patterns may have changed since the call was routed.
    let misrouted = |failure: Failure| AttemptEnd {
        is_misrouted: true,
        ..failed(failure)
    };
    let patterns = state.directory.direct_urls(&tenant);
    let policy = match direct::pattern::policy(&patterns) {
        Ok(policy) => policy,
        Err(detail) => return misrouted(Failure::not_sent(Code::RefusedByPolicy, detail)),
    };
    let host = Target::parse(&request.about.url).map(|target| target.host().clone());
    let within = Duration::from_millis(request.about.timeout_ms.into());
    let asked = DirectRequest {
        tenant: tenant.clone(),
        caller: "deliveries".into(),
        url: request.about.url,
        method: method.to_owned(),
        headers,
        body: request.body,
        deadline: tokio::time::Instant::now() + within,
        response_max: state.data.limits().call_response_max.0,
        memory,
        is_status_enough: true,
    };
    match state.data.direct.call(&policy, asked).await {
        Ok(answer) => {
            let later = answer
                .headers
                .get(header::RETRY_AFTER)
                .and_then(retry_after);
            answered(answer.status.as_u16(), later)
        }
        Err(failure) if !failure.execution.is_safe_to_repeat() => failed(failure),
        // The name has an address that is not public, or a pattern was taken away.
        Err(failure) if failure.code == Code::RefusedByPolicy => misrouted(failure),
        // A name that only resolves inside the network of a bridge that is away.
        Err(failure)
            if failure.code == Code::TargetDns
                && host.is_ok_and(|host| {
                    routing::is_waited_for(state.data.routes(), &tenant, &host)
                }) =>
        {
            misrouted(failure)
        }
        Err(failure) => failed(failure),
    }
}

/// The target answered.
pub(super) fn answered(status: u16, retry_after: Option<Duration>) -> AttemptEnd {
    AttemptEnd {
        status: Some(status),
        code: None,
        execution: Execution::Executed,
        detail: format!("the target answered {status}"),
        retry_after,
        is_open: false,
        is_misrouted: false,
    }
}

/// The attempt failed, and nothing knows more of it: it was not opened, or the bridge itself reset it.
/// After the intent, a bridge resets with the outcome that it has just written into its journal.
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

/// The relay cancelled the attempt. What the bridge says then is how far the stream came; the request goes
/// on, and only the journal knows how it ends.
fn cancelled(failure: Failure) -> AttemptEnd {
    AttemptEnd {
        is_open: !failure.execution.is_safe_to_repeat(),
        ..failed(failure)
    }
}

/// The session ended first. The bridge's journal knows more, unless the attempt provably was not
/// dispatched.
fn lost(failure: Failure) -> AttemptEnd {
    cancelled(failure)
}

/// Whether an end is the word of a bridge that has looked into its journal: an outcome, or a failure that
/// it comes to only after the journal had nothing of the attempt. What ends a question before that (the
/// bridge is leaving, has no place, or was not reached) is none.
pub(super) fn is_authoritative(end: &AttemptEnd) -> bool {
    if end.status.is_some() {
        return true;
    }
    match end.execution {
        Execution::Executed | Execution::PossiblyExecuted => true,
        Execution::NotSent => false,
        Execution::NotDispatched => end.code.is_some_and(Code::is_authoritative),
    }
}

/// What a bridge's journal says.
pub(super) fn told(result: &DeliveryResult) -> AttemptEnd {
    let execution = Execution::from_wire(result.execution);
    match (result.status, result.code) {
        (Some(status), None) => answered(status, None),
        (status, code) => {
            let code = code.map_or(Code::Internal, Code::from_wire);
            AttemptEnd {
                status,
                code: Some(code),
                execution,
                detail: "the bridge's journal tells how it ended".to_owned(),
                retry_after: None,
                is_open: false,
                is_misrouted: false,
            }
        }
    }
}

/// Seconds, or a date (RFC 9110, 10.2.3).
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
    fn a_caller_cannot_bring_a_signature_of_its_own() {
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
    }

    #[test]
    fn a_question_that_came_to_nothing_is_no_word_on_the_attempt() {
        for failure in [
            Failure::not_dispatched(Code::TunnelLost, "the bridge was leaving"),
            Failure::not_dispatched(Code::Overloaded, "it has no place"),
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
        assert!(is_authoritative(&answered(500, None)));
    }

    #[test]
    fn lost_and_cancelled_attempts_stay_open_unless_not_dispatched() {
        for execution in [Execution::PossiblyExecuted, Execution::Executed] {
            for code in [Code::TunnelLost, Code::Timeout, Code::Cancelled] {
                let failure = Failure::new(code, execution, "");
                assert!(lost(failure.clone()).is_open, "{failure:?}");
                assert!(cancelled(failure.clone()).is_open, "{failure:?}");
                // The bridge's own reset is its journal's outcome.
                assert!(!failed(failure).is_open);
            }
        }
        for execution in [Execution::NotSent, Execution::NotDispatched] {
            let failure = Failure::new(Code::TunnelLost, execution, "");
            assert!(!lost(failure.clone()).is_open);
            assert!(!cancelled(failure).is_open);
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
        assert!(!told(&result).is_open);
    }
}
