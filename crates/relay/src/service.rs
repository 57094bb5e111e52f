//! One request: which handler it goes to, and which keys may send it there.
//!
//! | path | method | role |
//! | --- | --- | --- |
//! | `/healthz`, `/readyz` | GET, HEAD, OPTIONS | |
//! | `/` and `*`, as `/readyz` | OPTIONS | |
//! | `/metrics` (admin listener only) | GET | |
//! | `/v1/tunnel` | GET | none: the bridge authenticates in the tunnel |
//! | `/v1/calls` | POST | caller |
//! | `/v1/endpoints/{endpoint}/{path}` | any | caller, synchronizer |
//! | anything else | | by the table of operations (`api`) |
//! | absolute URLs and CONNECT (proxy listener only) | any | caller, synchronizer |
//!
//! `admin` may do everything that needs a key.

use crate::access::{Permission, Principal};
use crate::api;
use crate::body::{self, Body};
use crate::calls;
use crate::connection::bare_lf_guard::{ASTERISK_PATH, Cut, FRAGMENT_MARK};
use crate::connection::{Connection, ListenerKind};
use crate::control_plane::ControlPlane;
use crate::ingress::failure_log::LoggedRequest;
use crate::ingress::{self, Expectation, endpoints, forward_proxy};
use crate::listener::RequestHandler;
use crate::metrics::{Format, Snapshot};
use crate::problem::{Problem, help};
use crate::request_name::{LABEL, REQUEST_ID, RequestName};
use crate::sending::{Progress, ResponseBody};
use crate::tunnel::upgrade;
use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::uri::{Authority, PathAndQuery};
use http::{Method, Request, Response, StatusCode, Uri, Version};
use http_body::Body as _;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use policy::TargetError;
use protocol::Code;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Handles the requests of every listener.
#[derive(Debug)]
pub(crate) struct Service {
    /// The state of the relay.
    pub(crate) control: Arc<ControlPlane>,
}

/// How much of a rejected request's body is read before the response, and for how long.
const DISCARD_MAX_BYTES: usize = 64 * 1024;
const DISCARD_WITHIN: Duration = Duration::from_secs(1);

/// Characters of an unknown expectation that its problem shows.
const EXPECT_SHOWN_MAX: usize = 64;

impl RequestHandler for Service {
    async fn respond(
        &self,
        connection: &Arc<Connection>,
        progress: &Arc<Progress>,
        request: Request<Incoming>,
    ) -> Response<ResponseBody> {
        let version = request.version();
        let is_http2 = version == Version::HTTP_2;
        let mut response = self.handle(connection, request).await;
        if version == Version::HTTP_10 {
            let is_unbounded = response.body().size_hint().exact().is_none();
            if is_unbounded {
                connection.ends_response();
            }
            // The end of the connection follows this response, so hyper must not announce that it is kept (RFC 9112,
            // 9.3). It does so unless the response itself is HTTP/1.0.
            if is_unbounded || response.headers().contains_key(header::CONNECTION) {
                *response.version_mut() = Version::HTTP_10;
            }
        }
        response.map(|body| ResponseBody::new(body, connection, progress, is_http2))
    }
}

impl Service {
    /// Handles a request; a failure becomes a problem document.
    async fn handle(
        &self,
        connection: &Arc<Connection>,
        request: Request<Incoming>,
    ) -> Response<Body> {
        let may_turn_raw = may_turn_raw(&request);
        let named = name_of(connection, &request);
        let mut request = Some(request);
        let (name, result) = match named {
            Ok(name) => {
                let exchange = name.as_ref().map(|name| NamedRequest {
                    name,
                    started: Instant::now(),
                });
                let result = self.dispatch(connection, &mut request, exchange).await;
                (name, result)
            }
            Err(problem) => (None, Err(problem)),
        };
        match result {
            Ok(mut response) => {
                if let Some(name) = &name {
                    // A call that was repeated has the id of the first one.
                    let id = response.headers_mut().entry(REQUEST_ID);
                    id.or_insert_with(|| name.header());
                }
                response
            }
            Err(mut problem) => {
                if let Some(request) = request {
                    problem = Box::pin(discard(request, problem)).await;
                }
                // A client that does not wait for the response to CONNECT, or to a request to switch protocols, has
                // already sent bytes for the target. They must not be read as the next request (RFC 9110, 9.3.6).
                let problem = if may_turn_raw {
                    problem.closing()
                } else {
                    problem
                };
                let problem = match name {
                    Some(name) if problem.id.is_none() => problem.of_request(name.id()),
                    Some(_) | None => problem,
                };
                problem.into_response()
            }
        }
    }

    /// Takes the request out of `pending` when a handler accepts it. A rejected one stays, with its body unread.
    ///
    /// The futures of rare requests are boxed, so that the future of every request is small.
    async fn dispatch(
        &self,
        connection: &Arc<Connection>,
        pending: &mut Option<Request<Incoming>>,
        exchange: Option<NamedRequest<'_>>,
    ) -> Result<Response<Body>, Problem> {
        let Some(request) = pending.as_ref() else {
            return Err(Problem::not_found());
        };
        let (control, data) = (&self.control, &self.control.data);
        if let Some(cut) = connection.cut_head() {
            // Nothing after a cut head is read, so the connection must close.
            let limits = data.limits();
            let detail = match cut {
                Cut::Bytes => format!(
                    "the header section is longer than {} (limits.header_bytes_max)",
                    limits.header_bytes_max
                ),
                Cut::Fields => format!(
                    "the request has more header fields than {} (limits.headers_max)",
                    limits.headers_max
                ),
            };
            return Err(Problem::not_sent(Code::HeadersTooLarge, detail).closing());
        }
        check_target(request.uri())?;
        check_host(request)?;
        check_transfer_coding(request)?;
        check_expectation(request)?;
        if connection.arrived == ListenerKind::Proxy {
            control.serving.check().await?;
            self.check_head(request.headers())?;
            return Box::pin(self.proxy(connection, pending, exchange)).await;
        }
        // Shares the URI's bytes.
        let target = request.uri().path_and_query().cloned();
        let target = target.as_ref().map_or("", PathAndQuery::as_str);
        let path = target.split('?').next().unwrap_or_default();
        match path {
            "/healthz" => return probe(request.method()).map(|()| plain(StatusCode::OK, "ok\n")),
            "/readyz" => {
                probe(request.method())?;
                return Ok(self.readiness().await);
            }
            // What load balancers send when no path is configured for their check.
            "/" | "*" | ASTERISK_PATH if *request.method() == Method::OPTIONS => {
                return Ok(self.readiness().await);
            }
            "/metrics" if connection.arrived == ListenerKind::Admin => {
                get(request.method())?;
                let accept = request.headers().get_all(header::ACCEPT);
                let accept = accept.iter().filter_map(|value| value.to_str().ok());
                return Ok(self.metrics(Format::preferred(accept)));
            }
            // The admin listener has no TLS and no API.
            _ if connection.arrived == ListenerKind::Admin => return Err(Problem::not_found()),
            _ => {}
        }
        if let Some(code) = path.strip_prefix("/errors/") {
            get(request.method())?;
            let text = help::entry(code).ok_or_else(Problem::not_found)?;
            let text = Bytes::from_static(text.as_bytes());
            return Ok(typed(StatusCode::OK, "text/markdown; charset=utf-8", text));
        }
        control.serving.check().await?;
        // From here on only the active process responds. Health, readiness and metrics work on standby as well.
        if path == "/openapi.json" {
            get(request.method())?;
            let text = Bytes::from_static(api::openapi::text().as_bytes());
            return Ok(typed(StatusCode::OK, "application/json", text));
        }
        self.check_head(request.headers())?;
        match path {
            transport::websocket::TUNNEL_PATH => {
                get(request.method())?;
                upgrade::tunnel(control, connection, taken(pending)?).await
            }
            "/v1/calls" if *request.method() == Method::POST => {
                Box::pin(self.call(connection, pending, exchange)).await
            }
            _ => {
                if let Some((endpoint, rest)) = endpoints::split_target(target) {
                    let exchange = exchange.ok_or_else(Problem::not_found)?;
                    let allowed = Permission::ENDPOINTS;
                    let to = (Some(endpoint), None);
                    let admitted = self.admit(connection, request, allowed, None).await;
                    let principal =
                        admitted.inspect_err(|problem| self.log(exchange, None, to, problem))?;
                    let name = labelled(exchange.name, request.headers())?;
                    let path = (endpoint, rest);
                    let handling =
                        endpoints::handle(data, &principal, connection, pending, &name, path);
                    return handling.await.inspect_err(|problem| {
                        self.note_denial(&principal, problem, connection);
                        self.log(exchange.with(&name), Some(&principal), to, problem);
                    });
                }
                Box::pin(api::dispatch(control, connection, pending)).await
            }
        }
    }

    /// Handles a Call URL request.
    async fn call(
        &self,
        connection: &Arc<Connection>,
        pending: &mut Option<Request<Incoming>>,
        exchange: Option<NamedRequest<'_>>,
    ) -> Result<Response<Body>, Problem> {
        let Some((request, exchange)) = pending.as_ref().zip(exchange) else {
            return Err(Problem::not_found());
        };
        let principal = self
            .admit(connection, request, Permission::CALLS, Some("POST"))
            .await
            .inspect_err(|problem| self.log(exchange, None, (None, None), problem))?;
        let name = labelled(exchange.name, request.headers())?;
        let request = taken(pending)?;
        calls::handle(&self.control, &principal, connection, request, &name)
            .await
            .inspect_err(|problem| {
                self.note_denial(&principal, problem, connection);
                let exchange = exchange.with(&name);
                self.log(exchange, Some(&principal), (None, None), problem);
            })
    }

    /// Handles a request to the proxy's listener.
    async fn proxy(
        &self,
        connection: &Arc<Connection>,
        pending: &mut Option<Request<Incoming>>,
        exchange: Option<NamedRequest<'_>>,
    ) -> Result<Response<Body>, Problem> {
        let Some((request, exchange)) = pending.as_ref().zip(exchange) else {
            return Err(Problem::not_found());
        };
        let host = request.uri().authority().cloned();
        let host = host.as_ref().map(Authority::host);
        let name = labelled(exchange.name, request.headers())?;
        let exchange = exchange.with(&name);
        let control = &self.control;
        let principal = control.authenticator.authenticate_by(
            request.headers(),
            &header::PROXY_AUTHORIZATION,
            connection,
        );
        // A proxy's client expects 407 where another one expects 401.
        let principal = principal
            .await
            .map_err(Problem::at_proxy)
            .inspect_err(|problem| self.log(exchange, None, (None, host), problem))?;
        connection.authenticated(&principal.tenant);
        forward_proxy::handle(&control.data, &principal, connection, pending, &name)
            .await
            .inspect_err(|problem| {
                self.note_denial(&principal, problem, connection);
                self.log(exchange, Some(&principal), (None, host), problem);
            })
    }

    /// Logs what a caller received instead of a response. `to` is the endpoint or the host.
    fn log(
        &self,
        exchange: NamedRequest<'_>,
        principal: Option<&Principal>,
        (endpoint, host): (Option<&str>, Option<&str>),
        problem: &Problem,
    ) {
        let logged = LoggedRequest {
            name: exchange.name,
            principal,
            endpoint,
            host,
            bridge: problem.bridge.as_deref(),
            started: exchange.started,
        };
        logged.failed(&self.control.data, &problem.failure);
    }

    /// Returns the caller, if the method is right and the key may.
    async fn admit(
        &self,
        connection: &Connection,
        request: &Request<Incoming>,
        permission: Permission,
        method: Option<&'static str>,
    ) -> Result<Principal, Problem> {
        if let Some(allowed) = method
            && request.method().as_str() != allowed
        {
            return Err(Problem::method(allowed));
        }
        let (control, peer) = (&self.control, connection.peer.ip());
        let principal = control
            .authenticator
            .authenticate(request.headers(), connection)
            .await?;
        connection.authenticated(&principal.tenant);
        let admitted = principal.admit(permission);
        admitted.inspect_err(|failure| control.note_denial(&principal, failure.code, peer))?;
        Ok(principal)
    }

    /// Records what an authenticated key may not do, if that is the problem.
    fn note_denial(&self, principal: &Principal, problem: &Problem, connection: &Connection) {
        let code = problem.failure.code;
        self.control
            .note_denial(principal, code, connection.peer.ip());
    }

    /// Checks that the header section is within its limits.
    fn check_head(&self, headers: &HeaderMap) -> Result<(), Problem> {
        let limits = self.control.data.limits();
        let fields = headers.len();
        let bytes: usize = headers
            .iter()
            .map(|(name, value)| name.as_str().len() + value.len())
            .sum();
        let too_large = |detail: String| Err(Problem::not_sent(Code::HeadersTooLarge, detail));
        if fields > limits.headers_max as usize {
            let max = limits.headers_max;
            return too_large(format!(
                "the request has {fields} header fields; the limit is {max} (limits.headers_max)"
            ));
        }
        if bytes > limits.header_bytes_max.bytes_usize() {
            let max = limits.header_bytes_max.0;
            return too_large(format!(
                "the header section has {bytes} bytes; the limit is {max} (limits.header_bytes_max)"
            ));
        }
        Ok(())
    }

    async fn readiness(&self) -> Response<Body> {
        let control = &self.control;
        if control.data.is_draining() {
            return plain(StatusCode::SERVICE_UNAVAILABLE, "draining\n");
        }
        let serving = &control.serving;
        if !serving.is_active() {
            let why = format!("standby: {}\n", serving.why());
            return plain(StatusCode::SERVICE_UNAVAILABLE, why);
        }
        if let Err(stale) = control.directory.check_fresh() {
            let why = format!("stale: {}\n", stale.detail);
            return plain(StatusCode::SERVICE_UNAVAILABLE, why);
        }
        if !control
            .readiness
            .can_write(control.directory.storage())
            .await
        {
            let text = "not ready: the database cannot be written\n";
            return plain(StatusCode::SERVICE_UNAVAILABLE, text);
        }
        plain(StatusCode::OK, "ready\n")
    }

    fn metrics(&self, format: Format) -> Response<Body> {
        let control = &self.control;
        let data = &control.data;
        let now = Snapshot {
            sessions: data.registry.count(),
            exchanges: data.exchanges.count(),
            connections: data.connections.count(),
            connections_pending: data.connections.pending(),
            pending_bytes: data.connections.pending_bytes(),
            connections_evicted: data.connections.evicted() + data.unauthenticated.evicted(),
            handshakes: data.handshakes.taken() + data.caller_handshakes.taken(),
            unauthenticated: data.unauthenticated.count(),
            window_budget_left: data.window_budget.left(),
            audit_lost: control.audit.lost(),
            is_active: control.serving.is_active(),
            directory_age: control.directory.age(),
            bridges_cloned: data.registry.cloned(Instant::now()).len(),
            endpoints_refused: data.registry.refused_endpoints(),
            body_memory: data.exchanges.memory_bytes(),
        };
        let text = control.metrics.render(now, format);
        typed(StatusCode::OK, format.content_type(), text.into())
    }
}

/// A request that goes to a target.
#[derive(Debug, Clone, Copy)]
struct NamedRequest<'a> {
    name: &'a RequestName,
    started: Instant,
}

impl<'a> NamedRequest<'a> {
    fn with(self, name: &'a RequestName) -> Self {
        Self { name, ..self }
    }
}

/// Returns a new name for a request that goes to a target; `None` for any other.
fn name_of(
    connection: &Connection,
    request: &Request<Incoming>,
) -> Result<Option<RequestName>, Problem> {
    let path = request.uri().path();
    match connection.arrived {
        ListenerKind::Admin => Ok(None),
        ListenerKind::Proxy => Ok(Some(RequestName::of_request())),
        ListenerKind::Tls | ListenerKind::Plain => match path {
            "/v1/calls" if *request.method() == Method::POST => RequestName::of_call()
                .map(Some)
                .map_err(|error| Problem::not_sent(Code::Internal, error.to_string())),
            _ if path.starts_with("/v1/endpoints/") => Ok(Some(RequestName::of_request())),
            _ => Ok(None),
        },
    }
}

/// Returns the name with the caller's label, if the request has one.
fn labelled(name: &RequestName, headers: &HeaderMap) -> Result<RequestName, Problem> {
    let labelled = name.clone().with_label_of(headers);
    labelled.map_err(|error| Problem::invalid(format!("{LABEL}: {error}")))
}

/// Checks that the request names its host exactly once, in `Host` (RFC 9112, 3.2) or in HTTP/2's `:authority`
/// (RFC 9113, 8.3.1). Two different hosts could be read differently by two proxies on its path.
fn check_host(request: &Request<Incoming>) -> Result<(), Problem> {
    let hosts = request.headers().get_all(header::HOST).iter().count();
    let is_unambiguous = match request.version() {
        // HTTP/1.0 has no such field, but its clients may send it.
        Version::HTTP_10 => hosts <= 1,
        Version::HTTP_11 => hosts == 1,
        Version::HTTP_2 => match (request.uri().authority(), hosts) {
            (Some(_), 0) | (None, 1) => true,
            // Both are allowed over HTTP/2 if they agree (RFC 9113, 8.3.1).
            (Some(authority), 1) => {
                let host = request.headers().get(header::HOST);
                let is_same = |host: &HeaderValue| {
                    let host = host.as_bytes();
                    host.eq_ignore_ascii_case(authority.as_str().as_bytes())
                };
                host.is_some_and(is_same)
            }
            _ => false,
        },
        _ => true,
    };
    if !is_unambiguous {
        let detail = format!("the request has {hosts} Host fields; it must have exactly one");
        return Err(Problem::invalid(detail).closing());
    }
    // HTTP/1.0 has no such field, so its value means nothing there.
    if request.version() != Version::HTTP_10
        && let Some(host) = request.headers().get(header::HOST)
    {
        let host = host.as_bytes();
        if !host.iter().copied().all(is_host_byte) {
            let detail = "the Host field is not a host and a port (RFC 9112, 3.2)";
            return Err(Problem::invalid(detail).closing());
        }
        if host.is_empty() && request.uri().authority().is_some() {
            let detail =
                "the Host field is empty, and the request's target has a host (RFC 9112, 3.2)";
            return Err(Problem::invalid(detail).closing());
        }
    }
    Ok(())
}

/// Returns whether a host or port may have this byte (RFC 3986, 3.2.2).
fn is_host_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=[]:".contains(&byte)
}

/// Checks that the request's target had no fragment, which `http` has removed from it. The rest is another target than
/// the one that the caller wrote.
fn check_target(uri: &Uri) -> Result<(), Problem> {
    let target = uri.path_and_query().map_or("", PathAndQuery::as_str);
    match target.ends_with(FRAGMENT_MARK) {
        true => Err(Problem::invalid(TargetError::Fragment.to_string())),
        false => Ok(()),
    }
}

/// Checks that a body has no transfer coding but chunked (RFC 9112, 6.1). hyper decodes no other one, and the target
/// would get the coded bytes without the field that says so.
fn check_transfer_coding(request: &Request<Incoming>) -> Result<(), Problem> {
    let is_chunked = request.version() == Version::HTTP_11
        && !request.body().is_end_stream()
        && request.body().size_hint().exact().is_none();
    if !is_chunked {
        return Ok(());
    }
    let values = request.headers().get_all(header::TRANSFER_ENCODING);
    let codings = values.iter().flat_map(|value| {
        let codings = value.as_bytes().split(|byte| *byte == b',');
        codings.map(<[u8]>::trim_ascii)
    });
    let mut chunked = 0;
    for coding in codings.filter(|coding| !coding.is_empty()) {
        if !coding.eq_ignore_ascii_case(b"chunked") {
            let detail =
                "Transfer-Encoding has another coding than chunked, which is not supported";
            let problem = Problem::invalid(detail).with_status(StatusCode::NOT_IMPLEMENTED);
            return Err(problem.closing());
        }
        chunked += 1;
    }
    match chunked {
        0 | 1 => Ok(()),
        _ => Err(Problem::invalid("Transfer-Encoding has chunked twice").closing()),
    }
}

/// Checks that the caller expects nothing but `100-continue`.
fn check_expectation(request: &Request<Incoming>) -> Result<(), Problem> {
    match ingress::expectation(request.headers(), request.version()) {
        Expectation::None | Expectation::Continue => Ok(()),
        Expectation::Unknown(value) => {
            let text = String::from_utf8_lossy(value.as_bytes());
            let text: String = text.chars().take(EXPECT_SHOWN_MAX).collect();
            let detail = format!("Expect has {text}; only a single 100-continue is supported");
            Err(Problem::invalid(detail).with_status(StatusCode::EXPECTATION_FAILED))
        }
    }
}

/// Returns whether the client may send bytes that are not HTTP after the request: it asks for a tunnel, or for
/// another protocol.
fn may_turn_raw<B>(request: &Request<B>) -> bool {
    *request.method() == Method::CONNECT
        || (request.version() == Version::HTTP_11
            && transport::http::upgrade_protocols(request.headers()).is_some())
}

fn taken(pending: &mut Option<Request<Incoming>>) -> Result<Request<Incoming>, Problem> {
    pending.take().ok_or_else(Problem::not_found)
}

/// Reads the body of a rejected request, so that a client that still sends it does not lose the response: a small
/// one before the response, because some clients drop an HTTP/2 stream that is reset after its response. A task
/// reads the rest of a larger one.
///
/// A body that its caller holds back (`Expect: 100-continue`) is not read before the response, which would request
/// it. The caller may send it or not, so no other request can follow it on the connection (RFC 9110, 10.1.1).
async fn discard(request: Request<Incoming>, problem: Problem) -> Problem {
    let is_held_back = ingress::holds_body_back(&request);
    let mut body = request.into_body();
    if is_held_back {
        ingress::drain(body);
        return problem.before_body();
    }
    let reading = async {
        let mut bytes = 0;
        while let Some(Ok(frame)) = body.frame().await {
            bytes += frame.data_ref().map_or(0, Bytes::len);
            if bytes > DISCARD_MAX_BYTES {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(DISCARD_WITHIN, reading).await;
    // A body that failed or timed out is drained as well: its caller may still send.
    ingress::drain(body);
    problem
}

/// Checks the method of a health check. Some balancers use OPTIONS.
fn probe(method: &Method) -> Result<(), Problem> {
    match *method {
        Method::GET | Method::HEAD | Method::OPTIONS => Ok(()),
        _ => Err(Problem::method("GET, HEAD, OPTIONS")),
    }
}

fn get(method: &Method) -> Result<(), Problem> {
    match *method {
        Method::GET | Method::HEAD => Ok(()),
        _ => Err(Problem::method("GET")),
    }
}

fn plain(status: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    typed(status, "text/plain; charset=utf-8", text.into())
}

fn typed(status: StatusCode, content_type: &'static str, bytes: Bytes) -> Response<Body> {
    let mut response = Response::new(body::full(bytes));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_has_only_characters_of_a_host() {
        let is_host = |host: &str| host.bytes().all(is_host_byte);
        for host in ["", "a.example:80", "[::1]:8443", "a_b-c.d", "10.0.0.1"] {
            assert!(is_host(host), "{host}");
        }
        for host in ["a b", "a/b", "a@b", "a\tb", "b\u{fc}cher", "a?b", "a\\b"] {
            assert!(!is_host(host), "{host}");
        }
    }

    #[test]
    fn target_with_a_fragment_is_rejected() {
        for (target, is_valid) in [
            ("/v1/calls?a=1", true),
            ("/v1/calls?a=1\u{fdd0}#b", false),
            ("http://h/\u{fdd0}#b", false),
            ("h:1", true),
        ] {
            let uri: Uri = target.parse().unwrap();
            assert_eq!(check_target(&uri).is_ok(), is_valid, "{target}");
        }
    }

    #[test]
    fn problem_of_an_upgrade_closes_the_connection() {
        let check = |method: &str, version, fields: &[(&str, &str)]| {
            let mut request = Request::builder().method(method).version(version);
            for (name, value) in fields {
                request = request.header(*name, *value);
            }
            may_turn_raw(&request.body(()).unwrap())
        };
        let websocket = [("connection", "Upgrade"), ("upgrade", "websocket")];
        assert!(check("GET", Version::HTTP_11, &websocket));
        assert!(check("CONNECT", Version::HTTP_11, &[]));
        assert!(!check("GET", Version::HTTP_11, &[]));
        // Not a request to switch: without the option, in HTTP/1.0, or to a protocol that the relay ignores.
        assert!(!check("GET", Version::HTTP_11, &websocket[1..]));
        assert!(!check("GET", Version::HTTP_10, &websocket));
        let h2c = [("connection", "upgrade"), ("upgrade", "h2c")];
        assert!(!check("GET", Version::HTTP_11, &h2c));
    }
}
