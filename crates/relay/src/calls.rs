//! `POST /v1/calls`: a Call URL request.
//!
//! ```json
//! {"url": "http://ci.corp.example/hooks/1", "method": "POST", "headers": {"x": "1"}, "body": "..."}
//! ```
//!
//! In mode `wait` the response has the target's response, or a problem with the execution status. In mode
//! `deliver` the call is stored, and `deliveries` sends it. `ingress::calls` reads a call and executes it; here
//! are idempotency, storage and the audit record, which belong to the control plane.

mod cancelled;

use crate::access::Object;
use crate::access::Principal;
use crate::body::{Body, CallBody};
use crate::capacity::{self, BodyLimits, ExchangePermit, NoMemory, Reservation};
use crate::connection::Connection;
use crate::control_plane::ControlPlane;
use crate::deliveries::SubmittedCall;
use crate::idempotency::{self, ExecutedRequest, KeyedRequest, StoredResponse};
use crate::ingress::calls::described::CallReceipt;
use crate::ingress::calls::{self, AdmittedCall, CallRequest, Collected, Mode};
use crate::problem::Problem;
use crate::progress::Progress;
use crate::recent_calls::{CallEnd, StartedCall};
use crate::request_name::{REQUEST_ID, RequestName, id_header};
use crate::routing;
use crate::storage::audit::AuditEvent;
use crate::storage::idempotency::{CALL, RequestDigest};
use bytes::Bytes;
use cancelled::CancelGuard;
use http::header::{self, HeaderValue};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use policy::Target;
use protocol::frame::RequestTarget;
use protocol::{Execution, Failure};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Instant;

/// The largest body of a target that a repeated request gets, in bytes.
const KEPT_BODY_MAX_BYTES: usize = 64 * 1024;

/// The outcome of a call, as its caller receives it.
#[derive(Debug, Clone)]
struct CallOutcome {
    status: u16,
    /// The document, without the target's body.
    document: Arc<Value>,
    /// The target's body.
    body: Option<Bytes>,
    failure: Option<Failure>,
    /// Approximate size of the target's body in memory.
    bytes: usize,
}

/// The outcome of a call, and the memory that its body takes until it is written.
struct FinishedCall {
    outcome: CallOutcome,
    memory: Reservation,
}

/// Handles a request to call a URL.
///
/// # Errors
/// A problem; its `execution` states how far the call came.
pub(crate) async fn handle(
    control: &Arc<ControlPlane>,
    principal: &Principal,
    connection: &Arc<Connection>,
    request: Request<Incoming>,
    name: &RequestName,
) -> Result<Response<Body>, Problem> {
    // The permit is acquired before the body is read, so that bodies without one use no memory. It is held
    // until the response is written.
    let permit = match control.data.begin(principal) {
        Ok(permit) => permit,
        Err(failure) => {
            let is_held_back = crate::ingress::holds_body_back(&request);
            crate::ingress::drain(request.into_body());
            let problem = Problem::from(failure);
            return Err(if is_held_back {
                problem.closing()
            } else {
                problem
            });
        }
    };
    let held = permit.clone();
    match admitted(control, principal, connection, request, (permit, name)).await {
        Ok(response) => Ok(response.map(|body| body.with_permit(held))),
        Err(problem) => Err(problem.holding(held)),
    }
}

/// Handles a call that has a permit.
async fn admitted(
    control: &Arc<ControlPlane>,
    principal: &Principal,
    connection: &Arc<Connection>,
    request: Request<Incoming>,
    (permit, name): (ExchangePermit, &RequestName),
) -> Result<Response<Body>, Problem> {
    let limits = &*control.data.limits();
    let mut memory = control.data.reservation(connection, &permit);
    let limit = BodyLimits {
        max_bytes: limits.call_request_max.0,
        total: limits.call_timeout.0,
        idle: limits.caller_idle_timeout.0,
    };
    let trace = crate::trace::of(request.headers());
    let key = idempotency::key_of(request.headers());
    let mut incoming = request.into_body();
    let text = capacity::collect_body(&mut incoming, limit, &mut memory).await;
    if text.is_err() {
        crate::ingress::drain(incoming);
    }
    let text = text?;
    // The key is checked after the body is read, so that its caller gets the response.
    let mut call = CallRequest::parse(&text, limits, key?)?;
    if let Some(trace) = trace {
        call.join_trace(&trace)?;
    }
    principal.scope.check(Object::Host {
        host: call.target.host(),
        bridge: call.bridge.as_deref(),
        credential: call.head.credential.as_deref(),
    })?;
    let name = match &call.label {
        Some(label) => name
            .clone()
            .labelled(label)
            .map_err(|error| Problem::invalid(error.to_string()))?,
        None => name.clone(),
    };
    call.label = name.label().map(str::to_owned);
    let digest = call.digest.take();
    // From here on the parsed call uses the memory that was reserved for the text.
    drop(text);
    if let (Mode::Deliver, Some(digest)) = (call.mode, digest.clone()) {
        // Until it is stored, an encrypted copy of the body is in memory as well.
        let bytes = memory.bytes() + call.body.len() as u64;
        memory.try_grow_to(bytes).map_err(NoMemory::failure)?;
        let id = name.id().to_owned();
        return Box::pin(deliver(control, principal, call, id, digest)).await;
    }
    let key = call.idempotency_key.clone();
    let mut repeated = memory.sibling();
    // Boxed: it is handed on through several futures, each of which would have room for it.
    let call = Box::new(AdmittedCall {
        call,
        memory,
        permit,
    });
    let (Some(key), Some(digest)) = (key, digest) else {
        let finished = execute(control, principal, call, &name).await;
        return Ok(finished.into_response(name.id()));
    };
    let digest = match principal.scope.given.is_all() {
        true => digest,
        // A narrowed key may be allowed less than the key that made the call. With the client id in the
        // digest it never gets the response of the other key.
        false => digest.of_client(&principal.client_id),
    };
    let keyed = KeyedRequest {
        tenant: principal.tenant.clone(),
        client_id: principal.client_id.clone(),
        operation: CALL,
        key,
        digest,
    };
    let (own, principal) = (control.clone(), principal.clone());
    let executing = async move {
        let finished = execute(&own, &principal, call, &name).await;
        finished.executed(name.id()).await
    };
    let response = Box::pin(control.idempotency.execute(keyed, executing)).await?;
    // Only a stored response to a repeated request has bytes without a reservation. They are in memory
    // already, so they are counted without asking.
    let bytes = response.body().unreserved_bytes();
    if bytes == 0 {
        return Ok(response);
    }
    repeated.grow_anyway_to(bytes);
    Ok(response.map(|body| body.with_memory(repeated)))
}

impl FinishedCall {
    /// Returns the response, and what a repeated request gets: at most [`KEPT_BODY_MAX_BYTES`] of the target's
    /// body.
    async fn executed(self, id: &str) -> ExecutedRequest {
        let outcome = &self.outcome;
        let small = outcome.without_body();
        let replay = match &small {
            Some(small) if outcome.bytes > KEPT_BODY_MAX_BYTES => small.stored(id).await,
            _ => outcome.stored(id).await,
        };
        let replay_without_body = match &small {
            Some(small) => Some(small.stored(id).await),
            None => None,
        };
        let failure = outcome.failure.as_ref();
        ExecutedRequest {
            replay,
            replay_without_body,
            had_no_effect: failure.is_some_and(|failure| failure.execution.is_safe_to_repeat()),
            response: self.into_response(id),
        }
    }

    /// Returns the response, which keeps the memory of its body until it is written.
    fn into_response(self, id: &str) -> Response<Body> {
        let Self {
            outcome,
            mut memory,
        } = self;
        let response = outcome.into_response(id);
        let document_bytes = response.body().document_bytes();
        // The target has executed the request, so its response cannot be rejected for want of memory.
        memory.grow_anyway_to(memory.bytes() + document_bytes);
        response.map(|body| body.with_memory(memory))
    }
}

impl CallOutcome {
    async fn stored(&self, id: &str) -> StoredResponse {
        StoredResponse::read(self.clone().into_response(id))
            .await
            .expect("the body is in memory and cannot fail")
    }

    /// Returns the same without the target's body, if it has one.
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

    /// Returns the response, without the memory of its body.
    fn into_response(self, id: &str) -> Response<Body> {
        if let Some(failure) = self.failure {
            let id = self.document["id"].as_str().unwrap_or(id);
            return Problem::from(failure).of_request(id).into_response();
        }
        // A repeated request gets the id of the call that was made.
        let id = id_header(self.document["id"].as_str().unwrap_or(id));
        let body = CallBody::new(&self.document, self.body);
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = StatusCode::from_u16(self.status).unwrap_or(StatusCode::OK);
        response.headers_mut().insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        response.headers_mut().insert(REQUEST_ID, id);
        response
    }
}

/// Stores a call. An acknowledged call is delivered, or its failure is reported.
async fn deliver(
    control: &ControlPlane,
    principal: &Principal,
    call: CallRequest,
    id: String,
    digest: RequestDigest,
) -> Result<Response<Body>, Problem> {
    let RequestTarget::Url(url) = call.head.target else {
        return Err(Problem::invalid("a call must have a URL"));
    };
    // A stored call goes through one bridge or through any. A key that is narrowed to several bridges must
    // therefore name one.
    let bridge = match (call.bridge, principal.scope.bridges()) {
        (None, [only]) => Some(only.clone()),
        (None, [_, ..]) => {
            return Err(Problem::invalid(
                "this key is limited to several bridges: name one in \"bridge\"",
            ));
        }
        (bridge, _) => bridge,
    };
    let class = routing::classify(
        &control.directory.direct_urls(&principal.tenant),
        &call.head.method,
        &url,
        bridge.is_some() || call.head.credential.is_some(),
    );
    let submitted = SubmittedCall {
        id,
        url,
        label: call.label,
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
        digest,
        expires_in: call.expires_in,
    };
    let accepted = control
        .deliveries
        .accept(&principal.tenant, &principal.client_id, submitted)
        .await?;
    let location = format!("/v1/calls/{}", accepted.id);
    let id = id_header(&accepted.id);
    let receipt = CallReceipt {
        id: accepted.id,
        mode: "deliver",
        state: accepted.state.as_str(),
    };
    let mut response = crate::api::json::reply(StatusCode::ACCEPTED, &receipt)?;
    let headers = response.headers_mut();
    headers.insert(REQUEST_ID, id);
    if let Ok(location) = HeaderValue::from_str(&location) {
        headers.insert(header::LOCATION, location);
    }
    if accepted.is_repeat {
        headers.insert("idempotency-replayed", HeaderValue::from_static("true"));
    }
    Ok(response)
}

/// Executes a call and records its outcome.
async fn execute(
    control: &Arc<ControlPlane>,
    principal: &Principal,
    call: Box<AdmittedCall>,
    name: &RequestName,
) -> FinishedCall {
    let (id, started) = (name.id(), Instant::now());
    let listed = StartedCall {
        id: id.to_owned(),
        label: name.label().map(str::to_owned),
        client_id: principal.client_id.clone(),
        method: call.call.head.method.clone(),
        host: call.call.target.host().to_string(),
        bridge: call.call.bridge.clone(),
        bytes: call.call.body.len(),
    };
    let progress = Arc::<Progress>::default();
    let body_bytes = listed.bytes;
    let cancelled = CancelGuard {
        control,
        principal,
        name,
        host: listed.host.clone(),
        bridge: listed.bridge.clone(),
        body_bytes,
        progress: progress.clone(),
        started,
        listed: Some(control.recent_calls.begin(&principal.tenant, listed)),
    };
    let executing = (started, &progress);
    let (target, executed) = calls::execute(&control.data, principal, call, name, executing).await;
    let calls::Executed {
        result,
        bridge,
        mut memory,
    } = executed;
    let route = route_of(&result, bridge.as_deref());
    cancelled.disarm(&CallEnd {
        result: result
            .as_ref()
            .map(|(document, _)| calls::status_of(document)),
        route,
        bridge: bridge.as_deref(),
    });
    let sent = (&target, body_bytes);
    let ended = (&result, bridge.unwrap_or_default(), route);
    record(control, principal, name, sent, ended, started).await;
    let outcome = match result {
        Ok((document, body)) => CallOutcome {
            status: 200,
            bytes: body.len(),
            document: Arc::new(document),
            body: Some(body),
            failure: None,
        },
        Err(failure) => {
            memory.shrink_to(0);
            let problem = Problem::from(failure.clone()).of_request(id);
            CallOutcome {
                status: failure.code.http_status(),
                document: Arc::new(problem.document()),
                body: None,
                failure: Some(failure),
                bytes: 0,
            }
        }
    };
    FinishedCall { outcome, memory }
}

/// Returns the route that a call took: `bridge`, `direct`, or `none`.
fn route_of(result: &Result<Collected, Failure>, bridge: Option<&str>) -> &'static str {
    match (result, bridge) {
        (Ok((document, _)), _) if document["route"] == "direct" => "direct",
        (Ok(_), _) => "bridge",
        (Err(failure), bridge) => route_of_failure(failure, bridge),
    }
}

/// Returns the route that a call took which got no response.
fn route_of_failure(failure: &Failure, bridge: Option<&str>) -> &'static str {
    match (bridge, failure.execution) {
        (Some(_), _) => "bridge",
        (None, Execution::NotSent) => "none",
        // Without a bridge, it was the relay that sent it.
        (None, Execution::NotDispatched | Execution::PossiblyExecuted | Execution::Executed) => {
            "direct"
        }
    }
}

/// Returns how many bytes of a request's body went to the target, as far as the relay knows: none of a request that was
/// not dispatched, else all.
fn sent_bytes(execution: Execution, body_bytes: usize) -> u64 {
    match execution.is_safe_to_repeat() {
        true => 0,
        false => body_bytes as u64,
    }
}

/// Adds the outcome of a call to the metrics and to the audit record, with the host and without the rest of
/// the URL, which may have secrets.
async fn record(
    control: &ControlPlane,
    principal: &Principal,
    name: &RequestName,
    (target, body_bytes): (&Target, usize),
    (result, bridge, route): (&Result<Collected, Failure>, Arc<str>, &'static str),
    started: Instant,
) {
    let (code, execution, down) = match result {
        Ok((_, body)) => ("ok", Execution::Executed, body.len()),
        Err(failure) => (failure.code.as_str(), failure.execution, 0),
    };
    // The metric counts failures by their code alone.
    let counted = if result.is_ok() { route } else { "none" };
    control.metrics.call_took(counted, code, started.elapsed());
    let status = result
        .as_ref()
        .ok()
        .map(|(document, _)| &document["response"]["status"]);
    let event = AuditEvent {
        tenant: principal.tenant.clone(),
        actor: principal.client_id.clone(),
        action: "call",
        object: name.id().to_owned(),
        bridge,
        result: code,
        execution: execution.as_str(),
        bytes_up: sent_bytes(execution, body_bytes),
        bytes_down: down as u64,
        took_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        count: 1,
        detail: json!({
            "host": target.host().to_string(),
            "label": name.label(),
            "status": status,
            "detail": result.as_ref().err().map(|failure| &failure.detail),
        })
        .to_string(),
        ..AuditEvent::default()
    };
    // Awaited before the response is sent: a call that its caller knows of is in the record, is counted there, or is
    // counted as lost.
    control.audit.record_call(principal, execution, event).await;
}
