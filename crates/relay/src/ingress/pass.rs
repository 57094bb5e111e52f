//! A request that passes through unchanged: to a named endpoint, or to a URL through the forward proxy.
//!
//! Path and query pass byte for byte. Header fields pass unchanged, except for those of the connection and
//! the relay's own. A body of known length up to 16 KiB travels with the head; any other streams, in both
//! directions at once. After a switch of protocols that the target accepts (WebSocket and others), raw bytes pass.

use super::bodies::{DrainOnDrop, with_declared_length};
use super::fields::{
    expects_continue, request_headers, response_head, response_headers, upgrade_headers,
};
use super::hop_headers::{self, Caller};
use super::raw;
use super::recording::RecordingGuard;
use super::shared_origin;
use crate::access::Principal;
use crate::body::{self, Body};
use crate::capacity::{BodyLimits, ExchangePermit, collect_body};
use crate::config::{ConfigDuration, Hops};
use crate::connection::{Connection, ListenerKind};
use crate::data_plane::DataPlane;
use crate::exchange::{self, ExchangeRequest, Outbound, TunnelBody, UploadError};
use crate::problem::Problem;
use crate::progress::Progress;
use crate::request_name::RequestName;
use crate::routing::select_tunnel::RouteTarget;
use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode, Uri, Version};
use http_body::Body as _;
use hyper::body::Incoming;
use protocol::frame::{BodyLength, Headers, RequestHead, RequestTarget, TimeLeft};
use runtime::body::IdleTimeoutBody;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use transport::handle::INLINE_MAX_BYTES;
use transport::http::{WEBSOCKET, has_websocket, upgrade_protocols, wire_upgrade};

/// Makes the error of a caller that sends nothing of its body.
type IdleError = fn(Duration) -> UploadError;

/// Where a request goes, and which of its fields are not for the target.
#[derive(Debug)]
pub(crate) struct IngressKind<'a> {
    /// The target, for the bridge.
    pub(crate) target: RequestTarget,
    /// The endpoint or host, for the choice of a tunnel.
    pub(crate) route: RouteTarget<'a>,
    /// What the request is called.
    pub(crate) request: &'a RequestName,
    /// The endpoint, or its replacement in the audit record's sums.
    pub(crate) name: &'a str,
    /// The target's host, of a request to a URL, for the log.
    pub(crate) host: Option<&'a str>,
    /// The field that carries the relay's own key.
    pub(crate) own_header: Option<HeaderName>,
}

impl<'a> IngressKind<'a> {
    /// Returns the endpoint's name, if the request goes to one.
    fn endpoint(&self) -> Option<&'a str> {
        match self.route {
            RouteTarget::Endpoint(name) => Some(name),
            RouteTarget::Host(_) => None,
        }
    }
}

/// Passes a request on.
///
/// # Errors
/// A problem of the relay's own; an error of the target is a response.
pub(crate) async fn on(
    data: &Arc<DataPlane>,
    principal: &Principal,
    connection: &Arc<Connection>,
    request: Request<Incoming>,
    kind: IngressKind<'_>,
) -> Result<Response<Body>, Problem> {
    if request.version() == Version::HTTP_11
        && let Some(protocols) = upgrade_protocols(request.headers())
    {
        match may_switch(&protocols, request.body()) {
            Ok(true) => {
                let request = (request, protocols);
                let passing = upgrade(data, principal, connection, request, kind);
                return Box::pin(passing).await;
            }
            Ok(false) => {}
            Err(problem) => return Err(rejected(request, problem)),
        }
    }
    let endpoint = kind.endpoint();
    let permit = match data.begin(principal) {
        Ok(permit) => permit,
        Err(failure) => return Err(rejected(request, failure.into())),
    };
    // A problem document keeps the permit until it is written, as any response does.
    let held = permit.clone();
    let holding = move |problem: Problem| problem.holding(held);
    let recording = RecordingGuard::begin(data, principal, &kind, &request);
    let (mut parts, body) = request.into_parts();
    let is_for_head = parts.method == Method::HEAD;
    let expects = !body.is_end_stream() && expects_continue(&parts.headers, parts.version);
    let is_http2 = parts.version == Version::HTTP_2;
    let length =
        transport::http::body_length(&parts.headers, &body.size_hint(), body.is_end_stream());
    let length = match length {
        // Over HTTP/2 the end of the stream states that there is no body. Over HTTP/1.1, which the target may use,
        // only a length does, for methods that usually have a body (RFC 9110, 8.6).
        BodyLength::None if is_http2 => transport::http::composed_length(parts.method.as_str(), 0),
        length => length,
    };
    let declared = match length {
        BodyLength::Known(bytes) => Some(bytes),
        BodyLength::None | BodyLength::Unknown => None,
    };
    add_hop_headers(
        data,
        connection,
        (&parts.uri, parts.version),
        &mut parts.headers,
    );
    let headers = match request_headers(parts.headers, parts.version, &kind) {
        Ok(headers) => headers,
        Err(problem) => {
            super::drain(body);
            return Err(holding(problem));
        }
    };
    let caller_idle = data.limits().caller_idle_timeout.0;
    let idle = data.limits().endpoint_idle_timeout;
    let (head, known) = ((&parts.method, headers), (length, expects));
    let exchange_request = exchange_request(data, principal, head, known, idle, kind);
    // Whether the body was requested from a caller that holds it back.
    let is_requested = expects.then(Arc::<AtomicBool>::default);
    let framing = (declared, is_requested.clone(), is_http2);
    let body = match outbound(body, framing, caller_idle, &permit).await {
        Ok(body) => body,
        Err(problem) => return Err(holding(problem)),
    };
    // After a final response the caller may send its body or not, so no other request can follow it on the
    // connection (RFC 9110, 10.1.1).
    let must_close = || {
        let is_requested = is_requested.as_ref();
        is_requested.is_some_and(|is_requested| !is_requested.load(Ordering::Relaxed))
    };
    let up = body.known_bytes().or(declared).unwrap_or(0);
    let progress = Progress::default();
    let running = exchange::run(&data.exchange, exchange_request, body, permit, &progress);
    let mut result = running.await;
    let bridge = progress.bridge();
    recording.end(result.as_mut().map_err(|failure| &*failure), up);
    let responded = result.and_then(|received| {
        let response = response_head(&received.head, is_for_head)?;
        Ok((received, response))
    });
    let (mut received, mut response) = responded.map_err(|failure| {
        let problem = holding(Problem::from(failure).through(bridge));
        if must_close() {
            problem.closing()
        } else {
            problem
        }
    })?;
    let to_finish = (response.headers_mut(), &mut received.body);
    finish_response(data, principal, endpoint, to_finish);
    if must_close() {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
    }
    *response.body_mut() = with_declared_length(&received.head, received.body, parts.version);
    Ok(response)
}

/// Returns the problem of a request whose body was not read. A task reads it, unless its caller holds it back.
fn rejected(request: Request<Incoming>, problem: Problem) -> Problem {
    let is_held_back = super::holds_body_back(&request);
    super::drain(request.into_body());
    if is_held_back {
        problem.closing()
    } else {
        problem
    }
}

/// Returns the body to send: collected if it is small, else as it arrives.
async fn outbound(
    mut body: Incoming,
    (declared, is_requested, is_http2): (Option<u64>, Option<Arc<AtomicBool>>, bool),
    caller_idle: Duration,
    permit: &ExchangePermit,
) -> Result<Outbound<IdleTimeoutBody<DrainOnDrop, IdleError>>, Problem> {
    if body.is_end_stream() {
        return Ok(Outbound::Whole(Bytes::new()));
    }
    let is_small = body
        .size_hint()
        .exact()
        .is_some_and(|bytes| bytes <= INLINE_MAX_BYTES as u64);
    // A body that its caller holds back must not be read: hyper would send the 100 before the target did.
    if !is_small || is_requested.is_some() {
        let body = DrainOnDrop::new(body, is_http2, is_requested);
        let body = IdleTimeoutBody::new(body, caller_idle, UploadError::Idle as IdleError);
        return Ok(Outbound::Streaming(body));
    }
    let limits = BodyLimits {
        max_bytes: INLINE_MAX_BYTES as u64,
        total: caller_idle,
        idle: caller_idle,
    };
    let mut memory = permit.reservation();
    let bytes = match collect_body(&mut body, limits, &mut memory).await {
        Ok(bytes) => bytes,
        Err(failure) => {
            super::drain(body);
            return Err(failure.into());
        }
    };
    // hyper reports an HTTP/2 body as complete although its caller reset the stream (NO_ERROR, CANCEL).
    if declared.is_some_and(|declared| declared != bytes.len() as u64) {
        return Err(Problem::invalid(
            "the body is shorter than its content-length",
        ));
    }
    Ok(Outbound::Whole(bytes))
}

/// Whether a request may switch protocols. A body must be small, because the bytes after it are not HTTP: with a
/// larger one the request is passed on without the switch, which any server may ignore (RFC 9110, 7.8).
fn may_switch(protocols: &HeaderValue, body: &Incoming) -> Result<bool, Problem> {
    if body.is_end_stream() {
        return Ok(true);
    }
    if has_websocket(protocols) {
        return Err(Problem::invalid(
            "a WebSocket handshake must not have a body (RFC 6455, 4.1)",
        ));
    }
    let bytes = body.size_hint().exact();
    Ok(bytes.is_some_and(|bytes| bytes <= INLINE_MAX_BYTES as u64))
}

/// Passes on a request to switch protocols. The target decides. `service` closes the connection after a problem.
async fn upgrade(
    data: &Arc<DataPlane>,
    principal: &Principal,
    connection: &Arc<Connection>,
    (mut request, protocols): (Request<Incoming>, HeaderValue),
    kind: IngressKind<'_>,
) -> Result<Response<Body>, Problem> {
    let endpoint = kind.endpoint();
    let permit = match data.begin(principal) {
        Ok(permit) => permit,
        Err(failure) => return Err(rejected(request, failure.into())),
    };
    let recording = RecordingGuard::begin(data, principal, &kind, &request);
    let upgrade = hyper::upgrade::on(&mut request);
    let (uri, version) = (request.uri().clone(), request.version());
    add_hop_headers(data, connection, (&uri, version), request.headers_mut());
    let fields = upgrade_headers(request.headers(), &protocols, &kind)?;
    let is_for_head = *request.method() == Method::HEAD;
    let exchange_request = raw_request(data, principal, request.method(), fields, kind);
    let body = switching_body(data, request.body_mut(), &permit).await?;
    let up = body.len() as u64;
    let progress = Progress::default();
    let mut result = raw::open(data, exchange_request, body, permit, &progress).await;
    let bridge = progress.bridge();
    let recorded = result.as_mut().map(|(received, _)| received);
    recording.end(recorded.map_err(|failure| &*failure), up);
    let (mut received, raw) = result.map_err(|failure| Problem::from(failure).through(bridge))?;
    if received.head.status != StatusCode::SWITCHING_PROTOCOLS.as_u16() {
        let mut response = response_head(&received.head, is_for_head)?;
        let to_finish = (response.headers_mut(), &mut received.body);
        finish_response(data, principal, endpoint, to_finish);
        // What the client sends next may be meant for the other protocol, so it must not be read as a request.
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
        *response.body_mut() = received.body.into();
        return Ok(response);
    }
    let mut response = Response::new(body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    *headers = response_headers(&received.head)?;
    hop_headers::add_to_response(data.config.hops, headers);
    if endpoint.is_some() {
        // A browser obeys the fields of a 101 as those of any response. There is no page that needs a sandbox.
        shared_origin::remove_fields(headers);
    }
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    // A bridge that knows no other protocol names none.
    let chosen = wire_upgrade(&received.head.headers);
    let chosen = chosen.unwrap_or_else(|| HeaderValue::from_static(WEBSOCKET));
    headers.insert(header::UPGRADE, chosen);
    raw.begin(upgrade, received.body, connection.clone());
    Ok(response)
}

/// Reads the small body of a request to switch protocols.
async fn switching_body(
    data: &DataPlane,
    body: &mut Incoming,
    permit: &ExchangePermit,
) -> Result<Bytes, Problem> {
    if body.is_end_stream() {
        return Ok(Bytes::new());
    }
    let idle = data.limits().caller_idle_timeout.0;
    let limits = BodyLimits {
        max_bytes: INLINE_MAX_BYTES as u64,
        total: idle,
        idle,
    };
    let mut memory = permit.reservation();
    Ok(collect_body(body, limits, &mut memory).await?)
}

/// Adds `Via` to a response, if the config enables it, and makes that of an endpoint safe for the others.
fn finish_response(
    data: &DataPlane,
    principal: &Principal,
    endpoint: Option<&str>,
    (headers, body): (&mut HeaderMap, &mut TunnelBody),
) {
    hop_headers::add_to_response(data.config.hops, headers);
    if let Some(endpoint) = endpoint {
        let endpoint = (&*principal.tenant_name, endpoint);
        shared_origin::protect(&data.config.endpoints, endpoint, headers);
        body.filter_trailers(shared_origin::remove_fields);
    }
}

/// Adds `Via` and `Forwarded` to a request, if the config enables them.
fn add_hop_headers(
    data: &DataPlane,
    connection: &Connection,
    (uri, version): (&Uri, Version),
    headers: &mut HeaderMap,
) {
    let config = &data.config;
    // The usual case, without a look at the request.
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
    hop_headers::add_to_request(config.hops, headers, version, caller);
}

/// Returns the request for the exchange. `body` is what is known of its body, and whether the caller holds it
/// back; `idle` is how long target and caller may make no progress.
fn exchange_request<'a>(
    data: &DataPlane,
    principal: &'a Principal,
    (method, headers): (&Method, Headers),
    (body, expect_continue): (BodyLength, bool),
    idle: ConfigDuration,
    kind: IngressKind<'a>,
) -> ExchangeRequest<'a> {
    ExchangeRequest {
        principal,
        bridge: None,
        target: kind.route,
        head: RequestHead {
            class: principal.role.class(),
            share: data.share_of(principal),
            target: kind.target,
            method: method.as_str().to_owned(),
            headers,
            body,
            expect_continue,
            time_left: TimeLeft {
                head_ms: data.limits().endpoint_head_timeout.millis(),
                idle_ms: idle.millis(),
                total_ms: 0,
            },
            call: None,
            credential: None,
        },
    }
}

/// Returns the request for an exchange that carries raw bytes once the bridge accepts it.
pub(super) fn raw_request<'a>(
    data: &DataPlane,
    principal: &'a Principal,
    method: &Method,
    headers: Headers,
    kind: IngressKind<'a>,
) -> ExchangeRequest<'a> {
    let idle = data.limits().raw_idle_timeout;
    let body = (BodyLength::Unknown, false);
    exchange_request(data, principal, (method, headers), body, idle, kind)
}
