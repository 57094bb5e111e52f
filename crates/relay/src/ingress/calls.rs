//! `POST /v1/calls`: a Call URL request.
//!
//! ```json
//! {"url": "http://ci.corp.example/hooks/1", "method": "POST", "headers": {"x": "1"}, "body": "..."}
//! ```
//!
//! The caller waits; the answer tells what the target said, or a problem how far the call came.

pub(crate) mod described;
mod document;
mod remembered;

pub use remembered::Remembered;

use super::Within;
use crate::access::Object;
use crate::auth::Principal;
use crate::body::{self, Body};
use crate::deliveries::Handed;
use crate::direct::DirectRequest;
use crate::exchange::{self, Answer, Asked, Outbound};
use crate::problem::Problem;
use crate::route::{self, Route};
use crate::router::Wanted;
use crate::state::State;
use crate::storage::audit::Act;
use crate::telemetry::Span;
use bytes::Bytes;
use document::{CallRequest, Mode};
use http::header::{self, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body::Body as _;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use opentelemetry::trace::SpanKind;
use policy::{Policy, Target};
use protocol::frame::RequestTarget;
use protocol::{Code, Execution, Failure};
use remembered::Place;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::OwnedSemaphorePermit;
use transport::session::INLINE_MAX_BYTES;

/// A finished call: what its caller is told, and with which status.
#[derive(Debug, Clone)]
pub struct Told {
    status: u16,
    document: Arc<Value>,
    failure: Option<Failure>,
    /// About how much memory it takes.
    bytes: usize,
}

/// Makes a call.
///
/// # Errors
/// A problem; its `execution` says how far the call came.
pub async fn handle(
    state: &Arc<State>,
    principal: &Principal,
    request: Request<Incoming>,
) -> Result<Response<Body>, Problem> {
    let limits = &*state.limits();
    // The place comes before the body: what is held for callers is counted.
    let place = state.begin(principal)?;
    let max = limits.call_request_max.0;
    let _memory = hold(
        state,
        request.body().size_hint().upper().unwrap_or(max).min(max),
    )?;
    let trace = crate::trace::of(request.headers());
    let text =
        super::whole_body(request.into_body(), max, Within::All(limits.call_timeout.0)).await?;
    let mut call = CallRequest::parse(&text, limits)?;
    if let Some(trace) = trace {
        call.join_trace(&trace)?;
    }
    principal.scope.check(Object::Host {
        host: call.target.host(),
        bridge: call.bridge.as_deref(),
        credential: call.head.credential.as_deref(),
    })?;
    let id = crate::deliveries::fresh_id()
        .map_err(|error| Problem::not_sent(Code::Internal, error.to_string()))?;
    if call.mode == Mode::Deliver {
        let digest = ring::digest::digest(&ring::digest::SHA256, &text);
        return deliver(state, principal, call, id, digest.as_ref()).await;
    }
    let told = match call.idempotency_key.clone() {
        None => make(state, principal, call, &id, place).await,
        Some(key) => {
            let digest = ring::digest::digest(&ring::digest::SHA256, &text);
            once(state, principal, call, &id, &key, digest.as_ref(), place).await?
        }
    };
    Ok(answer(&told, &id))
}

/// Stores the call: what is acknowledged here is delivered, or its end is told.
async fn deliver(
    state: &State,
    principal: &Principal,
    call: CallRequest,
    id: String,
    digest: &[u8],
) -> Result<Response<Body>, Problem> {
    let RequestTarget::Url(url) = call.head.target else {
        return Err(Problem::invalid("a call goes to a URL"));
    };
    // A stored call goes through one bridge or any; a key that is narrowed to some names one.
    let bridge = match (call.bridge, principal.scope.bridges()) {
        (None, [only]) => Some(only.clone()),
        (None, [_, ..]) => {
            return Err(Problem::invalid(
                "this key is narrowed to several bridges: name one in \"bridge\"",
            ));
        }
        (bridge, _) => bridge,
    };
    let handed = Handed {
        id,
        url,
        host: call.target.host().to_string(),
        method: call.head.method,
        headers: call.head.headers,
        body: call.body,
        credential: call.head.credential,
        timeout_ms: call.timeout_ms,
        bridge,
        at_least_once: call.at_least_once,
        idempotency_key: call.idempotency_key,
        digest: digest.to_vec(),
    };
    let accepted = state
        .deliveries
        .accept(&principal.tenant, &principal.client_id, handed)
        .await?;
    let location = format!("/v1/calls/{}", accepted.id);
    let receipt = described::CallReceipt {
        id: accepted.id,
        mode: "deliver",
        state: accepted.state.as_str(),
    };
    let mut response = crate::api::json::reply(StatusCode::ACCEPTED, &receipt)?;
    let headers = response.headers_mut();
    if let Ok(location) = HeaderValue::from_str(&location) {
        headers.insert(header::LOCATION, location);
    }
    if accepted.is_repeat {
        headers.insert("idempotency-replayed", HeaderValue::from_static("true"));
    }
    Ok(response)
}

/// Makes the call unless one with this key was made, or runs: then its answer is this one's too.
async fn once(
    state: &Arc<State>,
    principal: &Principal,
    call: CallRequest,
    id: &str,
    key: &str,
    digest: &[u8],
    place: exchange::Place,
) -> Result<Told, Problem> {
    match state.remembered.place(&principal.tenant, key, digest)? {
        Place::Told(told) => Ok(told),
        Place::Running(running) => running.told().await,
        Place::Mine(mine) => {
            // The caller may go away; the call and what became of it stay.
            let (state, principal, id) = (state.clone(), principal.clone(), id.to_owned());
            let making = tokio::spawn(async move {
                let told = make(&state, &principal, call, &id, place).await;
                mine.tell(told.clone());
                told
            });
            making.await.map_err(|_| {
                Problem::from(Failure::possibly_executed(
                    Code::Internal,
                    "the call was not finished",
                ))
            })
        }
    }
}

/// Takes memory for so many bytes of a call out of what all calls together may use.
fn hold(state: &State, bytes: u64) -> Result<OwnedSemaphorePermit, Problem> {
    let kib = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX);
    let held = state.call_memory.clone().try_acquire_many_owned(kib);
    held.map_err(|_| {
        let detail = "the bodies of the calls that run take all the memory that they may";
        Problem::not_sent(Code::Overloaded, detail)
    })
}

async fn make(
    state: &Arc<State>,
    principal: &Principal,
    mut call: CallRequest,
    id: &str,
    place: exchange::Place,
) -> Told {
    call.head.share = state.share_of(principal);
    let start = Instant::now();
    let span = begin_span(state, principal, &call, id);
    let limit = Duration::from_millis(call.timeout_ms.into());
    let deadline = start + limit;
    let sent = Later {
        url: match &call.head.target {
            RequestTarget::Url(url) => url.clone(),
            RequestTarget::Endpoint { .. } | RequestTarget::Connect { .. } => String::new(),
        },
        method: call.head.method.clone(),
        headers: call.head.headers.clone(),
        body: call.body.clone(),
        has_credential: call.head.credential.is_some(),
    };
    let asked = Asked {
        call: Some(id),
        principal,
        bridge: call.bridge.as_deref(),
        wanted: Wanted::Host(call.target.host()),
        head: call.head,
    };
    let outbound = if call.body.len() <= INLINE_MAX_BYTES {
        Outbound::Whole(call.body)
    } else {
        Outbound::Streaming {
            body: Full::new(call.body),
            idle: None,
        }
    };
    let result = match exchange::run(state, asked, outbound, place).await {
        Ok(answer) => collect(state, answer, id, start, deadline).await,
        // No bridge was there for it: is there another way?
        Err(failure) if failure.execution == Execution::NotSent && call.bridge.is_none() => {
            let way = elsewhere(state, principal, &call.target, &sent, failure).await;
            match way {
                Ok(policy) => direct(state, principal, &policy, sent, id, start, deadline).await,
                Err(failure) => Err(failure),
            }
        }
        Err(failure) => Err(failure),
    };
    end_span(span, &result);
    written_down(state, principal, id, &call.target, &result, start).await;
    match result {
        Ok(document) => Told {
            status: 200,
            bytes: text_bytes(&document["response"]),
            document: Arc::new(document),
            failure: None,
        },
        Err(failure) => {
            let problem = Problem::from(failure.clone()).of_call(id);
            Told {
                status: failure.code.http_status(),
                document: Arc::new(problem.document()),
                failure: Some(failure),
                bytes: 0,
            }
        }
    }
}

fn begin_span(state: &State, principal: &Principal, call: &CallRequest, id: &str) -> Option<Span> {
    state.spans.as_ref()?;
    let headers = transport::http::from_wire(&call.head.headers).unwrap_or_default();
    let mut span = state.span("call", SpanKind::Server, &headers)?;
    span.set("http.request.method", call.head.method.clone());
    span.set("server.address", call.target.host().to_string());
    span.set("bridge.tenant", principal.tenant_name.to_string());
    span.set("bridge.call", id.to_owned());
    Some(span)
}

fn end_span(span: Option<Span>, result: &Result<Value, Failure>) {
    let Some(mut span) = span else { return };
    match result {
        Ok(document) => {
            let status = document["response"]["status"].as_u64();
            span.answered(
                status
                    .and_then(|status| u16::try_from(status).ok())
                    .unwrap_or(0),
            );
            if let Some(bridge) = document["bridge"].as_str() {
                span.set("bridge.name", bridge.to_owned());
            }
        }
        Err(failure) => span.failed(failure),
    }
}

/// What a call needs that goes another way.
struct Later {
    url: String,
    method: String,
    headers: protocol::frame::Headers,
    body: Bytes,
    has_credential: bool,
}

/// The tenant's policy for a direct call; or the better word on why there is no way.
async fn elsewhere(
    state: &State,
    principal: &Principal,
    target: &Target,
    sent: &Later,
    failure: Failure,
) -> Result<Box<Policy>, Failure> {
    let may_help = matches!(
        failure.code,
        Code::NoBridge | Code::BridgeOffline | Code::RefusedByPolicy
    );
    if !may_help {
        return Err(failure);
    }
    let way = route::decide(
        state,
        route::Sent {
            tenant: &principal.tenant,
            bridge: None,
            within: principal.scope.bridges(),
            target,
            url: &sent.url,
            method: &sent.method,
            except: &[],
        },
    )
    .await;
    match way {
        Route::Direct(_) if sent.has_credential => {
            let detail = "a direct call has no credential: those are a bridge's";
            Err(Failure::not_sent(Code::InvalidRequest, detail))
        }
        Route::Direct(policy) => Ok(policy),
        Route::Refused(better) => Err(better),
        // It came back at this moment: the caller asks again.
        Route::Bridge(_) => Err(failure),
    }
}

/// Makes the call from here.
async fn direct(
    state: &State,
    principal: &Principal,
    policy: &Policy,
    sent: Later,
    id: &str,
    start: Instant,
    deadline: Instant,
) -> Result<Value, Failure> {
    let headers = transport::http::from_wire(&sent.headers).unwrap_or_default();
    let request = DirectRequest {
        tenant: principal.tenant.clone(),
        url: sent.url,
        method: sent.method,
        headers,
        body: sent.body,
        deadline: deadline.into(),
        answer_max: state.limits().call_response_max.0,
    };
    let answer = state.direct.call(policy, request).await?;
    let total_ms = millis(start.elapsed());
    let mut response = json!({
        "status": answer.status.as_u16(),
        "headers": document::headers(&answer.headers),
    });
    document::put_body(&mut response, &answer.body);
    Ok(json!({
        "id": id,
        "execution": Execution::Executed.as_str(),
        "route": "direct",
        "bridge": null,
        "response": response,
        "timing": {"head_ms": total_ms, "total_ms": total_ms},
    }))
}

/// Writes a call's outcome into the audit record: the host, never the rest of the URL.
async fn written_down(
    state: &State,
    principal: &Principal,
    id: &str,
    target: &Target,
    result: &Result<Value, Failure>,
    start: Instant,
) {
    let (word, execution, bridge, down) = match result {
        Ok(document) => {
            let bridge = document["bridge"].as_str().unwrap_or_default();
            let down = text_bytes(&document["response"]);
            ("ok", Execution::Executed, bridge, down)
        }
        Err(failure) => (failure.code.as_str(), failure.execution, "", 0),
    };
    let route = match result {
        Ok(document) if document["route"] == "direct" => "direct",
        Ok(_) => "bridge",
        Err(_) => "none",
    };
    state.metrics.call_took(route, word, start.elapsed());
    let status = result
        .as_ref()
        .ok()
        .map(|document| &document["response"]["status"]);
    let act = Act {
        tenant: principal.tenant.clone(),
        actor: principal.client_id.clone(),
        action: "call",
        object: id.to_owned(),
        bridge: bridge.into(),
        result: word,
        execution: execution.as_str(),
        bytes_down: down as u64,
        took_ms: u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX),
        count: 1,
        detail: json!({"host": target.host().to_string(), "status": status}).to_string(),
        ..Act::default()
    };
    state.audit.record(act).await;
}

/// Reads the target's answer to its end, within its limits.
async fn collect(
    state: &Arc<State>,
    answer: Answer,
    id: &str,
    start: Instant,
    deadline: Instant,
) -> Result<Value, Failure> {
    let head_ms = millis(start.elapsed());
    let max = state.limits().call_response_max.0;
    let too_large = || {
        let detail = format!("the target's answer is larger than {max} bytes, the limit for calls");
        Failure::new(Code::ResponseTooLarge, Execution::Executed, detail)
    };
    let max_bytes = usize::try_from(max).unwrap_or(usize::MAX);
    let expected = answer.body.size_hint().upper().unwrap_or(max);
    if expected > max {
        return Err(too_large());
    }
    // The target has answered: better to wait for memory than to lose the answer.
    let kib = u32::try_from(expected.div_ceil(1024)).unwrap_or(u32::MAX);
    let reading = async {
        let _memory = state.call_memory.acquire_many(kib).await;
        Limited::new(answer.body, max_bytes).collect().await
    };
    let body = match tokio::time::timeout_at(deadline.into(), reading).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => return Err(too_large()),
        Ok(Err(error)) => {
            let failure = error.downcast::<Failure>().map(|failure| *failure);
            return Err(failure.unwrap_or_else(|other| {
                Failure::new(Code::Internal, Execution::Executed, other.to_string())
            }));
        }
        Err(_) => {
            let detail = "the time was over before the target's answer was whole";
            return Err(Failure::new(Code::Timeout, Execution::Executed, detail));
        }
    };
    let headers = transport::http::from_wire(&answer.head.headers).map_err(|_| {
        let detail = "the target's answer has a header field that is not valid HTTP";
        Failure::new(Code::TargetProtocol, Execution::Executed, detail)
    })?;
    let mut response = json!({
        "status": answer.head.status,
        "headers": document::headers(&headers),
    });
    document::put_body(&mut response, &body);
    Ok(json!({
        "id": id,
        "execution": Execution::Executed.as_str(),
        "route": "bridge",
        "bridge": &*answer.through.owner.name,
        "response": response,
        "timing": {"head_ms": head_ms, "total_ms": millis(start.elapsed())},
    }))
}

/// Bytes of a response's body in its document.
fn text_bytes(response: &Value) -> usize {
    let bytes = |member: &str| response[member].as_str().map_or(0, str::len);
    bytes("body") + bytes("body_base64")
}

/// Milliseconds with their fraction, for people.
fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

fn answer(told: &Told, id: &str) -> Response<Body> {
    if let Some(failure) = &told.failure {
        let id = told.document["id"].as_str().unwrap_or(id);
        return Problem::from(failure.clone()).of_call(id).into_response();
    }
    let mut response = Response::new(body::full(Bytes::from(format!("{}\n", told.document))));
    *response.status_mut() = StatusCode::from_u16(told.status).unwrap_or(StatusCode::OK);
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}
