//! `POST /v1/calls`, as far as the data plane executes it: through a bridge, or from here.
//!
//! `crate::calls` has the handler.

mod canonical;
pub(crate) mod described;
mod document;

pub(crate) use document::{CallRequest, Mode, add_user_agent};

use super::failure_log::LoggedRequest;
use crate::access::Principal;
use crate::capacity::{ExchangePermit, Reservation, Unread, collect_response};
use crate::data_plane::DataPlane;
use crate::direct::DirectRequest;
use crate::exchange::{self, ExchangeRequest, Outbound, TunnelResponse};
use crate::progress::Progress;
use crate::request_name::RequestName;
use crate::routing::select_tunnel::RouteTarget;
use crate::routing::{self, Route};
use crate::telemetry::Span;
use bytes::Bytes;
use http_body_util::Full;
use opentelemetry::trace::SpanKind;
use policy::{Policy, Target};
use protocol::frame::{Headers, RequestTarget};
use protocol::{Code, Execution, Failure};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};
use transport::handle::INLINE_MAX_BYTES;

/// The document of a call that got a response, without the target's body; and that body.
pub(crate) type Collected = (Value, Bytes);

/// A call with its permit and the memory of its request.
pub(crate) struct AdmittedCall {
    /// The call.
    pub(crate) call: CallRequest,
    /// The memory of its request.
    pub(crate) memory: Reservation,
    /// Its permit.
    pub(crate) permit: ExchangePermit,
}

/// The result of a call, and the memory of the response's body.
pub(crate) struct Executed {
    /// The response, or why there is none.
    pub(crate) result: Result<Collected, Failure>,
    /// The bridge that the last attempt was sent to, if any was.
    pub(crate) bridge: Option<Arc<str>>,
    /// The memory of the response's body.
    pub(crate) memory: Reservation,
}

/// The start and the deadline of a call.
#[derive(Debug, Clone, Copy)]
struct CallTime {
    started: Instant,
    deadline: Instant,
}

/// Executes a call: through a bridge, else directly if the tenant's patterns allow it. Returns its target as
/// well. `progress` says how far it came, also when the future is dropped.
pub(crate) async fn execute(
    data: &Arc<DataPlane>,
    principal: &Principal,
    admitted: Box<AdmittedCall>,
    name: &RequestName,
    (started, progress): (Instant, &Arc<Progress>),
) -> (Target, Executed) {
    let id = name.id();
    let AdmittedCall {
        mut call,
        memory: request_memory,
        permit,
    } = *admitted;
    call.head.share = data.share_of(principal);
    let span = begin_span(data, principal, &call, id);
    let limit = Duration::from_millis(call.timeout_ms.into());
    let time = CallTime {
        started,
        deadline: started + limit,
    };
    let mut memory = request_memory.sibling();
    let fallback = DirectFallback {
        url: match &call.head.target {
            RequestTarget::Url(url) => url.clone(),
            // Unreachable: `CallRequest::parse` sets a URL.
            RequestTarget::Endpoint { .. } | RequestTarget::Connect { .. } => String::new(),
        },
        method: call.head.method.clone(),
        headers: call.head.headers.clone(),
        body: call.body.clone(),
        has_credential: call.head.credential.is_some(),
    };
    // After the copy for a direct call: no target gets the context.
    call.head.headers = call.head.headers.with_context(name.context());
    let host = call.target.host().to_string();
    let request = ExchangeRequest {
        principal,
        bridge: call.bridge.as_deref(),
        target: RouteTarget::Host(call.target.host()),
        head: call.head,
    };
    // A small body travels in the frame of the head, and saves a round of flow control.
    let outbound = if call.body.len() <= INLINE_MAX_BYTES {
        Outbound::Whole(call.body)
    } else {
        Outbound::Streaming(Full::new(call.body))
    };
    let running = exchange::run(&data.exchange, request, outbound, permit, progress);
    let result = match running.await {
        Ok(response) => collect(data, response, id, time, &mut memory).await,
        // Only a request that was certainly not sent may use another route, and none that names its bridge.
        Err(failure) if failure.execution == Execution::NotSent && call.bridge.is_none() => {
            // Boxed: most calls have a bridge and need no memory for this.
            let policy = direct_policy(data, principal, &call.target, &fallback, failure);
            match Box::pin(policy).await {
                Ok(policy) => {
                    let sent = (id, time, progress);
                    let sending =
                        send_direct(data, principal, &policy, fallback, sent, &mut memory);
                    Box::pin(sending).await
                }
                Err(failure) => Err(failure),
            }
        }
        Err(failure) => Err(failure),
    };
    drop(request_memory);
    let bridge = progress.bridge();
    end_span(span, &result);
    let logged = LoggedRequest {
        name,
        principal: Some(principal),
        endpoint: None,
        host: Some(&host),
        bridge: bridge.as_deref().or(call.bridge.as_deref()),
        started,
    };
    match &result {
        Ok((document, _)) => logged.responded(status_of(document)),
        Err(failure) => logged.failed(data, failure),
    }
    let executed = Executed {
        result,
        bridge,
        memory,
    };
    (call.target, executed)
}

fn begin_span(
    data: &DataPlane,
    principal: &Principal,
    call: &CallRequest,
    id: &str,
) -> Option<Span> {
    // Without traces the header fields need not be converted.
    data.spans.as_ref()?;
    let headers = transport::http::from_wire(&call.head.headers).unwrap_or_default();
    let mut span = data.span("call", SpanKind::Server, &headers)?;
    span.set("http.request.method", call.head.method.clone());
    span.set("server.address", call.target.host().to_string());
    span.set("bridge.tenant", principal.tenant_name.to_string());
    span.set("bridge.call", id.to_owned());
    Some(span)
}

/// Returns the target's status in the document of a call that got a response.
pub(crate) fn status_of(document: &Value) -> u16 {
    let status = document["response"]["status"].as_u64();
    status
        .and_then(|status| u16::try_from(status).ok())
        .unwrap_or(0)
}

fn end_span(span: Option<Span>, result: &Result<Collected, Failure>) {
    let Some(mut span) = span else { return };
    match result {
        Ok((document, _)) => {
            span.answered(status_of(document));
            if let Some(bridge) = document["bridge"].as_str() {
                span.set("bridge.name", bridge.to_owned());
            }
        }
        Err(failure) => span.failed(failure),
    }
}

/// What a direct call needs of a request whose head went to the exchange. The clones share their bytes.
struct DirectFallback {
    url: String,
    method: String,
    headers: Headers,
    body: Bytes,
    has_credential: bool,
}

/// Returns the tenant's policy for a direct call.
///
/// # Errors
/// The failure with the best reason why the call has no route.
async fn direct_policy(
    data: &DataPlane,
    principal: &Principal,
    target: &Target,
    fallback: &DirectFallback,
    failure: Failure,
) -> Result<Box<Policy>, Failure> {
    let may_help = matches!(
        failure.code,
        Code::NoBridge | Code::BridgeOffline | Code::RefusedByPolicy
    );
    if !may_help {
        return Err(failure);
    }
    let route = routing::decide(
        data.routes(),
        routing::RouteRequest {
            tenant: &principal.tenant,
            bridge: None,
            within: principal.scope.bridges(),
            target,
            url: &fallback.url,
            method: &fallback.method,
            has_credential: fallback.has_credential,
            except: &[],
        },
    )
    .await;
    match route {
        Route::Direct(policy) => Ok(policy),
        Route::Refused(better) => Err(better),
        // A bridge has reconnected just now. The failure is safe to retry, so the caller does.
        Route::Bridge(_) => Err(failure),
    }
}

/// Sends the request from here.
async fn send_direct(
    data: &DataPlane,
    principal: &Principal,
    policy: &Policy,
    fallback: DirectFallback,
    (id, time, progress): (&str, CallTime, &Arc<Progress>),
    memory: &mut Reservation,
) -> Result<Collected, Failure> {
    let headers = transport::http::from_wire(&fallback.headers).unwrap_or_default();
    let request = DirectRequest {
        tenant: principal.tenant.clone(),
        caller: principal.client_id.clone(),
        url: fallback.url,
        method: fallback.method,
        headers,
        body: fallback.body,
        deadline: time.deadline.into(),
        response_max: data.limits().call_response_max.0,
        memory: memory.sibling(),
        is_status_enough: false,
        progress: Some(progress.clone()),
    };
    let response = data.direct.call(policy, request).await?;
    // The reservation of the bridge attempt is released with this, and that of the response stays.
    *memory = response.memory;
    let total_ms = millis(time.started.elapsed());
    let document = json!({
        "id": id,
        "execution": Execution::Executed.as_str(),
        "route": "direct",
        "bridge": null,
        "response": document::response(response.status.as_u16(), &response.headers),
        "timing": {"head_ms": total_ms, "total_ms": total_ms},
    });
    Ok((document, response.body))
}

/// Reads the target's response to its end, within its limits.
async fn collect(
    data: &DataPlane,
    response: TunnelResponse,
    id: &str,
    time: CallTime,
    memory: &mut Reservation,
) -> Result<Collected, Failure> {
    let head_ms = millis(time.started.elapsed());
    let max = data.limits().call_response_max.0;
    let reading = collect_response(response.body, max, memory);
    let body = match tokio::time::timeout_at(time.deadline.into(), reading).await {
        Ok(Ok(body)) => body,
        Ok(Err(Unread::TooLarge)) => {
            let detail = format!(
                "the target's response is larger than {max} bytes (limits.call_response_max)"
            );
            let code = Code::ResponseTooLarge;
            return Err(Failure::new(code, Execution::Executed, detail));
        }
        Ok(Err(Unread::Broken(failure))) => return Err(failure),
        Err(_) => {
            let detail = "the deadline passed before the target's response was complete";
            return Err(Failure::new(Code::Timeout, Execution::Executed, detail));
        }
    };
    let headers = transport::http::from_wire(&response.head.headers).map_err(|_| {
        let detail = "the target's response has a header field that is not valid HTTP";
        Failure::new(Code::TargetProtocol, Execution::Executed, detail)
    })?;
    let document = json!({
        "id": id,
        "execution": Execution::Executed.as_str(),
        "route": "bridge",
        "bridge": &*response.through.owner.name,
        "response": document::response(response.head.status, &headers),
        "timing": {"head_ms": head_ms, "total_ms": millis(time.started.elapsed())},
    });
    Ok((document, body))
}

/// Returns milliseconds with three decimals.
fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}
