//! `POST /v1/calls`: a Call URL request.
//!
//! ```json
//! {"url": "http://ci.corp.example/hooks/1", "method": "POST", "headers": {"x": "1"}, "body": "..."}
//! ```
//!
//! The caller waits; the answer tells what the target said, or a problem how far the call came.

pub(crate) mod described;
mod document;
mod response;

pub use response::CallBody;

use super::{BodyLimits, Unread};
use crate::access::Object;
use crate::auth::Principal;
use crate::body::Body;
use crate::deliveries::Handed;
use crate::direct::DirectRequest;
use crate::exchange::{self, ExchangeRequest, Outbound, Reservation, TunnelResponse};
use crate::idempotency::{ExecutedRequest, KeyedRequest, StoredResponse};
use crate::listener::connection::Connection;
use crate::problem::Problem;
use crate::routing::select_tunnel::RouteTarget;
use crate::routing::{self, Route};
use crate::state::State;
use crate::storage::audit::AuditEvent;
use crate::storage::idempotency::CALL;
use crate::telemetry::Span;
use bytes::Bytes;
use document::{CallRequest, Mode};
use http::header::{self, HeaderValue};
use http::{Request, Response, StatusCode, Version};
use http_body_util::Full;
use hyper::body::Incoming;
use opentelemetry::trace::SpanKind;
use policy::{Policy, Target};
use protocol::frame::RequestTarget;
use protocol::{Code, Execution, Failure};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};
use transport::handle::INLINE_MAX_BYTES;

/// The largest body that a repeat gets with its response.
const BODY_KEPT_BYTES: usize = 64 * 1024;

/// A finished call: what its caller is told, and with which status.
#[derive(Debug, Clone)]
pub struct Told {
    status: u16,
    /// The document, without the target's body.
    document: Arc<Value>,
    /// The target's body.
    body: Option<Bytes>,
    failure: Option<Failure>,
    /// About how much memory it takes.
    bytes: usize,
}

/// A finished call, and the memory that its body takes until it is written.
struct Finished {
    told: Told,
    memory: Reservation,
}

/// Makes a call.
///
/// # Errors
/// A problem; its `execution` says how far the call came.
pub async fn handle(
    state: &Arc<State>,
    principal: &Principal,
    connection: &Arc<Connection>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Problem> {
    // The place comes before the body, and stays until the response is written.
    let place = state.begin(principal)?;
    let permit = place.clone();
    match admitted(state, principal, connection, request, place).await {
        Ok(response) => Ok(response.map(|body| body.with_permit(permit))),
        Err(problem) => Err(problem.holding(permit)),
    }
}

/// Makes a call that has a place.
async fn admitted(
    state: &Arc<State>,
    principal: &Principal,
    connection: &Arc<Connection>,
    request: Request<Incoming>,
    place: exchange::ExchangePermit,
) -> Result<Response<Body>, Problem> {
    let limits = &*state.limits();
    let mut memory = crate::api::reservation(state, connection, &place);
    let limit = BodyLimits {
        max_bytes: limits.call_request_max.0,
        total: limits.call_timeout.0,
        idle: limits.caller_idle_timeout.0,
    };
    let trace = crate::trace::of(request.headers());
    let is_http2 = request.version() == Version::HTTP_2;
    let mut incoming = request.into_body();
    let text = super::whole_body(&mut incoming, limit, &mut memory).await;
    if text.is_err() && is_http2 {
        super::drain(incoming);
    }
    let text = text?;
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
    let digest = match call.mode == Mode::Deliver || call.idempotency_key.is_some() {
        true => Some(ring::digest::digest(&ring::digest::SHA256, &text)),
        false => None,
    };
    // The call's parts take its memory from here on.
    drop(text);
    if let (Mode::Deliver, Some(digest)) = (call.mode, &digest) {
        // Until it is stored, it is in memory sealed, too.
        let bytes = memory.bytes() + call.body.len() as u64;
        memory
            .try_grow_to(bytes)
            .map_err(exchange::NoMemory::problem)?;
        return Box::pin(deliver(state, principal, call, id, digest.as_ref())).await;
    }
    let key = call.idempotency_key.clone();
    let mut repeated = memory.sibling();
    let held = Held {
        call,
        memory,
        place,
    };
    let (Some(key), Some(digest)) = (key, digest) else {
        let finished = make(state, principal, held, &id).await;
        return Ok(answer(finished, &id));
    };
    let mut digest = digest.as_ref().to_vec();
    if !principal.scope.given.is_all() {
        // It may be allowed less than the key that made the call, so it never gets that one's response.
        digest.extend_from_slice(principal.client_id.as_bytes());
    }
    let keyed = KeyedRequest {
        tenant: principal.tenant.clone(),
        client_id: principal.client_id.clone(),
        operation: CALL,
        key,
        digest,
    };
    let (own, principal) = (state.clone(), principal.clone());
    let making = async move {
        let finished = make(&own, &principal, held, &id).await;
        finished.made(&id).await
    };
    let response = Box::pin(state.idempotency.execute(keyed, making)).await?;
    // The stored response to a repeat is in memory already.
    let bytes = response.body().unreserved_bytes();
    if bytes == 0 {
        return Ok(response);
    }
    repeated.grow_anyway_to(bytes);
    Ok(response.map(|body| body.with_memory(repeated)))
}

impl Finished {
    /// The response, and what a repeat gets: not more than [`BODY_KEPT_BYTES`] of the target's body.
    async fn made(self, id: &str) -> ExecutedRequest {
        let told = &self.told;
        let small = told.without_body();
        let kept = match &small {
            Some(small) if told.bytes > BODY_KEPT_BYTES => small.kept(id).await,
            _ => told.kept(id).await,
        };
        let small = match &small {
            Some(small) => Some(small.kept(id).await),
            None => None,
        };
        let failure = told.failure.as_ref();
        ExecutedRequest {
            replay: kept,
            replay_without_body: small,
            had_no_effect: failure.is_some_and(|failure| failure.execution.is_safe_to_repeat()),
            response: answer(self, id),
        }
    }
}

impl Told {
    async fn kept(&self, id: &str) -> StoredResponse {
        StoredResponse::read(response(self.clone(), id))
            .await
            .expect("the body is whole, and no error")
    }

    /// The same without the target's body, where it has one.
    fn without_body(&self) -> Option<Self> {
        if self.bytes == 0 {
            return None;
        }
        let mut document = Value::clone(&self.document);
        if let Some(response) = document["response"].as_object_mut() {
            response.insert("body_omitted".to_owned(), Value::Bool(true));
        }
        Some(Self {
            document: Arc::new(document),
            body: None,
            failure: self.failure.clone(),
            bytes: 0,
            ..*self
        })
    }
}

/// A call, with its place and the memory of its request.
struct Held {
    call: CallRequest,
    memory: Reservation,
    place: exchange::ExchangePermit,
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
    let class = routing::classify(
        &state.directory.direct_urls(&principal.tenant),
        &call.head.method,
        &url,
        bridge.is_some() || call.head.credential.is_some(),
    );
    let handed = Handed {
        id,
        url,
        class,
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
        expires_in: call.expires_in,
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

async fn make(state: &Arc<State>, principal: &Principal, held: Held, id: &str) -> Finished {
    let Held {
        mut call,
        memory: request_memory,
        place,
    } = held;
    call.head.share = state.share_of(principal);
    let start = Instant::now();
    let span = begin_span(state, principal, &call, id);
    let limit = Duration::from_millis(call.timeout_ms.into());
    let deadline = start + limit;
    let mut memory = request_memory.sibling();
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
    let asked = ExchangeRequest {
        call: Some(id),
        principal,
        bridge: call.bridge.as_deref(),
        wanted: RouteTarget::Host(call.target.host()),
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
        Ok(answer) => collect(state, answer, id, start, deadline, &mut memory).await,
        // No bridge was there for it: is there another way?
        Err(failure) if failure.execution == Execution::NotSent && call.bridge.is_none() => {
            // Boxed: most calls need no room for it.
            let way = Box::pin(elsewhere(state, principal, &call.target, &sent, failure)).await;
            match way {
                Ok(policy) => {
                    let within = (start, deadline);
                    let made = direct(state, principal, &policy, sent, id, within, &mut memory);
                    Box::pin(made).await
                }
                Err(failure) => Err(failure),
            }
        }
        Err(failure) => Err(failure),
    };
    drop(request_memory);
    end_span(span, &result);
    written_down(state, principal, id, &call.target, &result, start).await;
    let told = match result {
        Ok((document, body)) => Told {
            status: 200,
            bytes: body.len(),
            document: Arc::new(document),
            body: Some(body),
            failure: None,
        },
        Err(failure) => {
            memory.shrink_to(0);
            let problem = Problem::from(failure.clone()).of_call(id);
            Told {
                status: failure.code.http_status(),
                document: Arc::new(problem.document()),
                body: None,
                failure: Some(failure),
                bytes: 0,
            }
        }
    };
    Finished { told, memory }
}

/// The document of a call that was made, without the target's body; and that body.
type Collected = (Value, Bytes);

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

fn end_span(span: Option<Span>, result: &Result<Collected, Failure>) {
    let Some(mut span) = span else { return };
    match result {
        Ok((document, _)) => {
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
    let way = routing::decide(
        state,
        routing::Sent {
            tenant: &principal.tenant,
            bridge: None,
            within: principal.scope.bridges(),
            target,
            url: &sent.url,
            method: &sent.method,
            has_credential: sent.has_credential,
            except: &[],
        },
    )
    .await;
    match way {
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
    (start, deadline): (Instant, Instant),
    memory: &mut Reservation,
) -> Result<Collected, Failure> {
    let headers = transport::http::from_wire(&sent.headers).unwrap_or_default();
    let request = DirectRequest {
        tenant: principal.tenant.clone(),
        caller: principal.client_id.clone(),
        url: sent.url,
        method: sent.method,
        headers,
        body: sent.body,
        deadline: deadline.into(),
        answer_max: state.limits().call_response_max.0,
        memory: memory.sibling(),
        is_status_enough: false,
    };
    let answer = state.direct.call(policy, request).await?;
    *memory = answer.memory;
    let total_ms = millis(start.elapsed());
    let document = json!({
        "id": id,
        "execution": Execution::Executed.as_str(),
        "route": "direct",
        "bridge": null,
        "response": {
            "status": answer.status.as_u16(),
            "headers": document::headers(&answer.headers),
        },
        "timing": {"head_ms": total_ms, "total_ms": total_ms},
    });
    Ok((document, answer.body))
}

/// Writes a call's outcome into the audit record: the host, never the rest of the URL.
async fn written_down(
    state: &State,
    principal: &Principal,
    id: &str,
    target: &Target,
    result: &Result<Collected, Failure>,
    start: Instant,
) {
    let (word, execution, bridge, down) = match result {
        Ok((document, body)) => {
            let bridge = document["bridge"].as_str().unwrap_or_default();
            ("ok", Execution::Executed, bridge, body.len())
        }
        Err(failure) => (failure.code.as_str(), failure.execution, "", 0),
    };
    let route = match result {
        Ok((document, _)) if document["route"] == "direct" => "direct",
        Ok(_) => "bridge",
        Err(_) => "none",
    };
    state.metrics.call_took(route, word, start.elapsed());
    let status = result
        .as_ref()
        .ok()
        .map(|(document, _)| &document["response"]["status"]);
    let act = AuditEvent {
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
        ..AuditEvent::default()
    };
    state.audit.record(act).await;
}

/// Reads the target's answer to its end, within its limits.
async fn collect(
    state: &Arc<State>,
    answer: TunnelResponse,
    id: &str,
    start: Instant,
    deadline: Instant,
    memory: &mut Reservation,
) -> Result<Collected, Failure> {
    let head_ms = millis(start.elapsed());
    let max = state.limits().call_response_max.0;
    let reading = super::whole_response(answer.body, max, memory);
    let body = match tokio::time::timeout_at(deadline.into(), reading).await {
        Ok(Ok(body)) => body,
        Ok(Err(Unread::TooLarge)) => {
            let detail =
                format!("the target's answer is larger than {max} bytes, the limit for calls");
            let code = Code::ResponseTooLarge;
            return Err(Failure::new(code, Execution::Executed, detail));
        }
        Ok(Err(Unread::Broken(failure))) => return Err(failure),
        Err(_) => {
            let detail = "the time was over before the target's answer was whole";
            return Err(Failure::new(Code::Timeout, Execution::Executed, detail));
        }
    };
    let headers = transport::http::from_wire(&answer.head.headers).map_err(|_| {
        let detail = "the target's answer has a header field that is not valid HTTP";
        Failure::new(Code::TargetProtocol, Execution::Executed, detail)
    })?;
    let document = json!({
        "id": id,
        "execution": Execution::Executed.as_str(),
        "route": "bridge",
        "bridge": &*answer.through.owner.name,
        "response": {
            "status": answer.head.status,
            "headers": document::headers(&headers),
        },
        "timing": {"head_ms": head_ms, "total_ms": millis(start.elapsed())},
    });
    Ok((document, body))
}

/// Milliseconds with their fraction, for people.
fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

fn answer(finished: Finished, id: &str) -> Response<Body> {
    let Finished { told, mut memory } = finished;
    let response = response(told, id);
    let document_bytes = response.body().document_bytes();
    memory.grow_anyway_to(memory.bytes() + document_bytes);
    response.map(|body| body.with_memory(memory))
}

/// The response, without the memory of its body.
fn response(told: Told, id: &str) -> Response<Body> {
    if let Some(failure) = told.failure {
        let id = told.document["id"].as_str().unwrap_or(id);
        return Problem::from(failure).of_call(id).into_response();
    }
    let body = CallBody::new(&told.document, told.body);
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = StatusCode::from_u16(told.status).unwrap_or(StatusCode::OK);
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}
