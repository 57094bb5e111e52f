//! One attempt: the request with its signature, through one installation, and how that ended.

use super::request::StoredRequest;
use super::sign::{self, SigningSecret, WEBHOOK_ID, WEBHOOK_SIGNATURE, WEBHOOK_TIMESTAMP};
use super::state::AttemptEnd;
use crate::direct::{self, DirectRequest};
use crate::exchange;
use crate::registry::Entry;
use crate::state::State;
use bytes::Bytes;
use http::HeaderValue;
use http::header::{self, HeaderMap};
use http_body_util::{BodyExt, Full};
use protocol::frame::{
    BodyLength, CallAttempt, Class, DeliveryResult, RequestHead, RequestTarget, TimeLeft,
};
use protocol::{Code, Execution, Failure};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use transport::session::INLINE_MAX_BYTES;

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
    state: &Arc<State>,
    entry: &Arc<Entry>,
    attempt: CallAttempt,
    method: &str,
    request: StoredRequest,
    headers: &HeaderMap,
) -> AttemptEnd {
    let result = exchange_with(state, entry, attempt, method, request, headers).await;
    result.unwrap_or_else(failed)
}

async fn exchange_with(
    state: &Arc<State>,
    entry: &Arc<Entry>,
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
        share: protocol::frame::Share::default(),
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
    let head = match exchange::final_head(&mut recv, Some(limit), upload, None).await {
        Ok(head) => head,
        Err(failure) => {
            return Err(exchange::settle_lost(state, entry, &recv, failure).await);
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

/// Makes the attempt from here, if the tenant's patterns allow its URL.
pub(super) async fn directly(
    state: &State,
    tenant: Arc<str>,
    method: &str,
    request: StoredRequest,
    headers: HeaderMap,
) -> AttemptEnd {
    let patterns = state.directory.direct_urls(&tenant);
    let policy = match direct::pattern::policy(&patterns) {
        Ok(policy) => policy,
        Err(detail) => return failed(Failure::not_sent(Code::RefusedByPolicy, detail)),
    };
    if request.about.credential.is_some() {
        let detail = "a direct call has no credential: those are a bridge's";
        return failed(Failure::not_sent(Code::InvalidRequest, detail));
    }
    let within = Duration::from_millis(request.about.timeout_ms.into());
    let asked = DirectRequest {
        tenant,
        caller: "deliveries".into(),
        url: request.about.url,
        method: method.to_owned(),
        headers,
        body: request.body,
        deadline: tokio::time::Instant::now() + within,
        answer_max: state.limits().call_response_max.0,
    };
    match state.direct.call(&policy, asked).await {
        Ok(answer) => {
            let later = answer
                .headers
                .get(header::RETRY_AFTER)
                .and_then(retry_after);
            answered(answer.status.as_u16(), later)
        }
        // Nobody else knows more of it.
        Err(failure) => AttemptEnd {
            is_open: false,
            ..failed(failure)
        },
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
    }
}

/// The attempt failed, as the relay sees it: where that is because the way broke, its bridge's
/// journal knows more.
pub(super) fn failed(failure: Failure) -> AttemptEnd {
    let broke = matches!(
        failure.code,
        Code::TunnelLost | Code::Timeout | Code::Cancelled
    );
    AttemptEnd {
        status: None,
        code: Some(failure.code),
        execution: failure.execution,
        detail: failure.detail,
        retry_after: None,
        is_open: broke && failure.execution == Execution::PossiblyExecuted,
    }
}

/// Whether an end is the word of a bridge that has looked into its journal: an outcome, or a failure that
/// it comes to only after the journal had nothing of the attempt. What ends a question before that (the
/// bridge is leaving, has no place, or was not reached) is none.
pub(super) fn is_word(end: &AttemptEnd) -> bool {
    if end.status.is_some() {
        return true;
    }
    match end.execution {
        Execution::Executed | Execution::PossiblyExecuted => true,
        Execution::NotSent => false,
        Execution::NotDispatched => matches!(
            end.code,
            Some(
                Code::RefusedByPolicy
                    | Code::InvalidRequest
                    | Code::TargetDns
                    | Code::TargetRefused
                    | Code::TargetTls
            )
        ),
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
            assert!(!is_word(&failed(failure.clone())), "{failure:?}");
        }
        for failure in [
            Failure::not_dispatched(Code::TargetRefused, ""),
            Failure::not_dispatched(Code::RefusedByPolicy, ""),
            Failure::possibly_executed(Code::TargetClosed, ""),
        ] {
            assert!(is_word(&failed(failure.clone())), "{failure:?}");
        }
        assert!(is_word(&answered(500, None)));
    }

    #[test]
    fn a_lost_way_leaves_the_attempt_open_and_a_bridges_word_does_not() {
        let lost = Failure::possibly_executed(Code::TunnelLost, "");
        assert!(failed(lost).is_open);
        let closed = Failure::possibly_executed(Code::TargetClosed, "");
        assert!(!failed(closed).is_open);
        let never = Failure::not_dispatched(Code::TunnelLost, "");
        assert!(!failed(never).is_open);
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
