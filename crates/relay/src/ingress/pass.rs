//! A request that passes through as it is: to a named endpoint, or to a URL by the forward proxy.
//!
//! Path and query pass byte for byte, header fields as they are but for those of the connection
//! and the relay's own. A body of known length up to 16 KiB travels with the head; anything else
//! streams, both ways at once. Who asks to speak WebSocket, and whose target agrees, has raw bytes
//! from then on.

use super::hop_headers::{self, Caller};
use super::{BodyLimits, raw};
use crate::auth::Principal;
use crate::body::Body;
use crate::config::{ConfigDuration, Hops};
use crate::exchange::{self, ExchangeRequest, Outbound, TunnelBody, TunnelResponse};
use crate::listener::connection::{Connection, ListenerKind};
use crate::problem::{BRIDGE_ERROR, Problem};
use crate::routing::select_tunnel::RouteTarget;
use crate::state::State;
use crate::telemetry;
use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode, Uri, Version};
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use opentelemetry::trace::SpanKind;
use protocol::frame::{BodyLength, Headers, RequestHead, RequestTarget, ResponseHead, TimeLeft};
use protocol::{Code, Execution, Failure};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;
use transport::handle::INLINE_MAX_BYTES;
use transport::http::{FrameError, WEBSOCKET, asks_for_websocket, to_wire, to_wire_for_websocket};

/// Where a request goes, and what of it is not for its target.
#[derive(Debug)]
pub struct IngressKind<'a> {
    /// For the bridge.
    pub target: RequestTarget,
    /// For the router.
    pub wanted: RouteTarget<'a>,
    /// The endpoint, or what stands for it in the audit record's sums.
    pub name: &'a str,
    /// The field that carries the relay's own key.
    pub own: Option<HeaderName>,
}

/// Passes a request on.
///
/// # Errors
/// A problem of the relay's own; the target's errors are answers.
pub async fn on(
    state: &Arc<State>,
    principal: &Principal,
    connection: &Arc<Connection>,
    request: Request<Incoming>,
    way: IngressKind<'_>,
) -> Result<Response<Body>, Problem> {
    if request.version() < Version::HTTP_11 {
        // An answer of unknown length would end with the connection: broken off, it would look whole.
        return Err(Problem::invalid(
            "only HTTP/1.1 and HTTP/2 pass through; this request is HTTP/1.0",
        ));
    }
    if request.version() == Version::HTTP_11 && asks_for_websocket(request.headers()) {
        return Box::pin(websocket(state, principal, connection, request, way)).await;
    }
    let place = state.begin(principal)?;
    let permit = place.clone();
    let holding = move |problem: Problem| problem.holding(permit);
    let noting = Noting::begin(state, principal, &way, &request);
    let (mut parts, mut body) = request.into_parts();
    let is_head = parts.method == Method::HEAD;
    let expects = !body.is_end_stream() && expects_continue(&parts.headers);
    let length =
        transport::http::body_length(&parts.headers, &body.size_hint(), body.is_end_stream());
    let declared = match length {
        BodyLength::Known(bytes) => Some(bytes),
        BodyLength::None | BodyLength::Unknown => None,
    };
    note_request(
        state,
        connection,
        (&parts.uri, parts.version),
        &mut parts.headers,
    );
    let headers = request_headers(parts.headers, parts.version, &way);
    let headers = match headers {
        Ok(headers) => headers,
        Err(problem) => return Err(holding(problem)),
    };
    let patience = state.limits().caller_idle_timeout.0;
    let idle = state.limits().endpoint_idle_timeout;
    let (head, known) = ((&parts.method, headers), (length, expects));
    let asked = asked(state, principal, head, known, idle, way);
    let small = body
        .size_hint()
        .exact()
        .is_some_and(|bytes| bytes <= INLINE_MAX_BYTES as u64);
    let body = if body.is_end_stream() {
        Outbound::Whole(Bytes::new())
    } else if small && !expects {
        let limits = BodyLimits {
            max_bytes: INLINE_MAX_BYTES as u64,
            total: patience,
            idle: patience,
        };
        let mut memory = place.reservation();
        let bytes = match super::whole_body(&mut body, limits, &mut memory).await {
            Ok(bytes) => bytes,
            Err(problem) => return Err(holding(problem)),
        };
        if declared.is_some_and(|declared| declared != bytes.len() as u64) {
            let problem = Problem::invalid("the body ended before its length");
            return Err(holding(problem));
        }
        Outbound::Whole(bytes)
    } else {
        let is_http2 = parts.version == Version::HTTP_2;
        Outbound::Streaming {
            body: ToItsEnd {
                body: Some(body),
                is_http2,
            },
            idle: Some(patience),
        }
    };
    let up = body.known_bytes().or(declared).unwrap_or(0);
    let mut result = exchange::run(state, asked, body, place).await;
    noting.end(result.as_mut().map_err(|failure| &*failure), up);
    let answered = result.and_then(|answer| {
        let response = response_head(&answer.head, is_head)?;
        Ok((answer, response))
    });
    let (answer, mut response) = answered.map_err(|failure| holding(failure.into()))?;
    hop_headers::note_answer(state.config.hops, response.headers_mut());
    *response.body_mut() = as_said(&answer.head, answer.body, parts.version);
    Ok(response)
}

/// A request's body that ends in order or in an error. The HTTP library takes an HTTP/2 stream that its
/// caller resets without an error for ended.
struct ToItsEnd {
    body: Option<Incoming>,
    is_http2: bool,
}

impl Drop for ToItsEnd {
    fn drop(&mut self) {
        if let Some(body) = self.body.take()
            && self.is_http2
            && !body.is_end_stream()
        {
            super::drain(body);
        }
    }
}

/// The caller let go of its body before the end.
struct LetGo;

impl http_body::Body for ToItsEnd {
    type Data = Bytes;
    type Error = LetGo;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, LetGo>>> {
        let is_http2 = self.is_http2;
        let Some(body) = &mut self.body else {
            return Poll::Ready(None);
        };
        let frame = std::task::ready!(Pin::new(&mut *body).poll_frame(cx));
        let is_short = is_http2 && !body.is_end_stream();
        Poll::Ready(match frame {
            Some(Ok(frame)) => Some(Ok(frame)),
            None if !is_short => None,
            // Nothing more will come of it.
            None | Some(Err(_)) => {
                self.body = None;
                Some(Err(LetGo))
            }
        })
    }
}

/// The answer's body. The HTTP library takes one that has ended for one of no bytes, and says so in the
/// head; what the target said was another thing where it named no length, or that of another answer (RFC
/// 9110, 15.4.5).
fn as_said(head: &ResponseHead, body: TunnelBody, version: Version) -> Body {
    let is_304 = head.status == StatusCode::NOT_MODIFIED.as_u16();
    if !body.is_end_stream() || !(is_304 || head.body == BodyLength::Unknown) {
        return body.into();
    }
    let length = head.headers.iter().find_map(|(name, value)| {
        let value = std::str::from_utf8(value).ok()?;
        (name == header::CONTENT_LENGTH.as_str().as_bytes()).then(|| value.parse().ok())?
    });
    let hint = match length.filter(|_| is_304) {
        Some(length) => SizeHint::with_exact(length),
        None if is_304 => return body.into(),
        None => SizeHint::default(),
    };
    // HTTP/2 says in the head itself that nothing follows.
    let is_end = version == Version::HTTP_2;
    let permit = body.permit();
    Body::other(Ended { body, hint, is_end }, permit)
}

/// A body that has ended, of which something else is said.
struct Ended {
    body: TunnelBody,
    hint: SizeHint,
    is_end: bool,
}

impl http_body::Body for Ended {
    type Data = Bytes;
    type Error = Failure;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.is_end
    }

    fn size_hint(&self) -> SizeHint {
        self.hint
    }
}

/// Passes a request to speak WebSocket on; what the target answers with is for it to say.
async fn websocket(
    state: &Arc<State>,
    principal: &Principal,
    connection: &Arc<Connection>,
    mut request: Request<Incoming>,
    way: IngressKind<'_>,
) -> Result<Response<Body>, Problem> {
    if !request.body().is_end_stream() {
        return Err(Problem::invalid(
            "a request to speak WebSocket has no body (RFC 6455, 4.1)",
        ));
    }
    let place = state.begin(principal)?;
    let noting = Noting::begin(state, principal, &way, &request);
    let upgrade = hyper::upgrade::on(&mut request);
    let (uri, version) = (request.uri().clone(), request.version());
    note_request(state, connection, (&uri, version), request.headers_mut());
    let fields = to_wire_for_websocket(request.headers(), |name| is_not_for_target(name, &way));
    let asked = asked_raw(
        state,
        principal,
        request.method(),
        fields.map_err(too_large)?,
        way,
    );
    let mut result = raw::ask(state, asked, place).await;
    let noted = result.as_mut().map(|(answer, _)| answer);
    noting.end(noted.map_err(|failure| &*failure), 0);
    let (answer, raw) = result?;
    if answer.head.status != StatusCode::SWITCHING_PROTOCOLS.as_u16() {
        let mut response = response_head(&answer.head, false)?;
        hop_headers::note_answer(state.config.hops, response.headers_mut());
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
        *response.body_mut() = answer.body.into();
        return Ok(response);
    }
    let mut response = Response::new(crate::body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    *headers = response_headers(&answer.head)?;
    hop_headers::note_answer(state.config.hops, headers);
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static(WEBSOCKET));
    raw.begin(upgrade, answer.body, connection.clone());
    Ok(response)
}

/// Says of the way that a request took what `[hops]` asks for.
fn note_request(
    state: &State,
    connection: &Connection,
    (uri, version): (&Uri, Version),
    headers: &mut HeaderMap,
) {
    let config = &state.config;
    if config.hops == Hops::default() {
        return;
    }
    let authority = uri
        .authority()
        .map(|authority| authority.as_str().to_owned());
    let host = authority.or_else(|| Some(headers.get(header::HOST)?.to_str().ok()?.to_owned()));
    let caller = Caller {
        address: connection.peer.ip(),
        host: host.as_deref(),
        is_tls: match connection.arrived {
            ListenerKind::Tls => true,
            ListenerKind::Proxy => config.listen.proxy_tls,
            ListenerKind::Plain | ListenerKind::Admin => false,
        },
    };
    hop_headers::note_request(config.hops, headers, version, caller);
}

/// Whether the caller holds its body back until it is wanted.
fn expects_continue(headers: &HeaderMap) -> bool {
    let value = headers.get(header::EXPECT).map(HeaderValue::as_bytes);
    value.is_some_and(|value| value.eq_ignore_ascii_case(b"100-continue"))
}

/// What the bridge is asked for: with a body of which so much is known, which may be held back until it is
/// wanted, and so much time without a sign of progress.
fn asked<'a>(
    state: &State,
    principal: &'a Principal,
    (method, headers): (&Method, Headers),
    (body, expect_continue): (BodyLength, bool),
    idle: ConfigDuration,
    way: IngressKind<'a>,
) -> ExchangeRequest<'a> {
    ExchangeRequest {
        call: None,
        principal,
        bridge: None,
        wanted: way.wanted,
        head: RequestHead {
            class: principal.role.class(),
            share: state.share_of(principal),
            target: way.target,
            method: method.as_str().to_owned(),
            headers,
            body,
            expect_continue,
            time_left: TimeLeft {
                head_ms: state.limits().endpoint_head_timeout.millis(),
                idle_ms: idle.millis(),
                total_ms: 0,
            },
            call: None,
            credential: None,
        },
    }
}

/// What the bridge is asked for where bytes are raw once it agreed.
pub(super) fn asked_raw<'a>(
    state: &State,
    principal: &'a Principal,
    method: &Method,
    headers: Headers,
    way: IngressKind<'a>,
) -> ExchangeRequest<'a> {
    let idle = state.limits().raw_idle_timeout;
    let body = (BodyLength::Unknown, false);
    asked(state, principal, (method, headers), body, idle, way)
}

/// Writes down how a request ended: in the audit record's sums, the metrics and the trace.
pub(super) struct Noting<'a> {
    state: &'a Arc<State>,
    principal: &'a Principal,
    name: &'a str,
    began: Instant,
    span: Option<telemetry::Span>,
}

impl<'a> Noting<'a> {
    pub(super) fn begin(
        state: &'a Arc<State>,
        principal: &'a Principal,
        way: &IngressKind<'a>,
        request: &Request<Incoming>,
    ) -> Self {
        let mut span = state.span("endpoint", SpanKind::Server, request.headers());
        if let Some(span) = &mut span {
            span.set("http.request.method", request.method().to_string());
            span.set("bridge.tenant", principal.tenant_name.to_string());
            span.set("bridge.endpoint", way.name.to_owned());
        }
        Self {
            state,
            principal,
            name: way.name,
            began: Instant::now(),
            span,
        }
    }

    /// Notes the answer, whose bytes are counted from here on, or the failure.
    pub(super) fn end(self, result: Result<&mut TunnelResponse, &Failure>, up: u64) {
        let (audit, took) = (&self.state.audit, self.began.elapsed());
        match result {
            Ok(answer) => {
                let bridge = &answer.through.owner.name;
                if let Some(mut span) = self.span {
                    span.set("bridge.name", bridge.to_string());
                    span.answered(answer.head.status);
                }
                let sum = audit.endpoint(self.principal, self.name, bridge, "ok");
                self.state.metrics.endpoint_took(took);
                sum.answered(took, up);
                answer.body.count_into(sum);
            }
            Err(failure) => {
                let code = failure.code.as_str();
                let sum = audit.endpoint(self.principal, self.name, &Arc::default(), code);
                sum.answered(took, 0);
                if let Some(mut span) = self.span {
                    span.failed(failure);
                }
            }
        }
    }
}

/// The fields for the target: without the relay's own key, and without `Host`, which is the
/// bridge's to write.
fn request_headers(
    mut headers: HeaderMap,
    version: Version,
    way: &IngressKind<'_>,
) -> Result<Headers, Problem> {
    if version == Version::HTTP_2 {
        join_cookies(&mut headers);
    }
    // The bridge asks the question anew; what else may be expected is the target's to know.
    if expects_continue(&headers) {
        headers.remove(header::EXPECT);
    }
    to_wire(&headers, |name| is_not_for_target(name, way)).map_err(too_large)
}

fn is_not_for_target(name: &HeaderName, way: &IngressKind<'_>) -> bool {
    *name == header::HOST || way.own.as_ref() == Some(name)
}

fn too_large(error: FrameError) -> Problem {
    let detail = format!("the header section cannot be passed on: {error}");
    Problem::not_sent(Code::HeadersTooLarge, detail)
}

/// HTTP/2 cuts cookies into fields of their own; elsewhere they are one (RFC 9113, 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let crumbs: Vec<&[u8]> = headers
        .get_all(header::COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if crumbs.len() > 1
        && let Ok(joined) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..]))
    {
        headers.insert(header::COOKIE, joined);
    }
}

fn unusable(what: &str) -> Failure {
    let detail = format!("the target's answer cannot be passed on: {what}");
    Failure::new(Code::TargetProtocol, Execution::Executed, detail)
}

/// The answer's head, as the target wrote it.
fn response_head(head: &ResponseHead, to_head: bool) -> Result<Response<Body>, Failure> {
    let status = StatusCode::from_u16(head.status).map_err(|_| unusable("its status"))?;
    if status.is_informational() {
        return Err(unusable("it switches protocols, which nobody asked for"));
    }
    let mut headers = response_headers(head)?;
    // Of a message that cannot have a body, a length is all that may be said.
    if !to_head && (status == StatusCode::NO_CONTENT) {
        headers.remove(header::CONTENT_LENGTH);
    }
    let mut response = Response::new(crate::body::empty());
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    Ok(response)
}

fn response_headers(head: &ResponseHead) -> Result<HeaderMap, Failure> {
    let mut headers = transport::http::from_wire(&head.headers)
        .map_err(|_| unusable("a header field is not valid HTTP"))?;
    headers.remove(BRIDGE_ERROR);
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookies_that_http2_cut_are_one_again() {
        let mut headers = HeaderMap::new();
        for crumb in ["a=1", "b=2"] {
            headers.append(header::COOKIE, HeaderValue::from_static(crumb));
        }
        join_cookies(&mut headers);
        assert_eq!(headers[header::COOKIE], "a=1; b=2");
        assert_eq!(headers.len(), 1);
    }
}
