//! One request: which handler it goes to, and who may send it there.
//!
//! | path | method | role |
//! | --- | --- | --- |
//! | `/healthz`, `/readyz` | GET | |
//! | `/metrics` (admin listener alone) | GET | |
//! | `/v1/tunnel` | GET | none: the bridge proves itself in the tunnel |
//! | `/v1/calls` | POST | caller |
//! | `/v1/endpoints/{endpoint}/{path}` | any | caller, synchronizer |
//! | everything else | | as the table of operations says (`api`) |
//! | whole URLs and CONNECT (proxy listener alone) | any | caller, synchronizer |
//!
//! `admin` may do all that needs a key.

use crate::access::{CALLING, Resource, SENDING};
use crate::api;
use crate::auth::{Authenticator, Principal};
use crate::body::{self, Body};
use crate::ingress::{calls, endpoints, forward_proxy};
use crate::listener::connection::{Connection, ListenerKind};
use crate::metrics::{CONTENT_TYPE, Snapshot};
use crate::problem::Problem;
use crate::sending::{Progress, ResponseBody};
use crate::state::State;
use crate::storage::Role;
use crate::tunnel::upgrade;
use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::uri::PathAndQuery;
use http::{Method, Request, Response, StatusCode, Version};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use protocol::Code;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What requests are answered with.
#[derive(Debug)]
pub struct Service {
    /// What the relay's parts share.
    pub state: Arc<State>,
    /// Checks keys.
    pub authenticator: Authenticator,
}

/// How much of a refused request's body is read, and for how long.
const DISCARD_MAX_BYTES: usize = 64 * 1024;
const DISCARD_WITHIN: Duration = Duration::from_secs(1);

impl Service {
    /// Answers a request; a failure becomes a problem document. `progress` says whether the caller reads the
    /// response.
    pub async fn answer(
        &self,
        connection: &Arc<Connection>,
        progress: &Arc<Progress>,
        request: Request<Incoming>,
    ) -> Response<ResponseBody> {
        let is_http2 = request.version() == Version::HTTP_2;
        let response = self.respond(connection, request).await;
        response.map(|body| ResponseBody::new(body, connection, progress, is_http2))
    }

    async fn respond(
        &self,
        connection: &Arc<Connection>,
        request: Request<Incoming>,
    ) -> Response<Body> {
        let is_connect = *request.method() == Method::CONNECT;
        let mut request = Some(request);
        match self.route(connection, &mut request).await {
            Ok(response) => response,
            Err(problem) => {
                if let Some(request) = request {
                    let is_http2 = request.version() == Version::HTTP_2;
                    let rest = Box::pin(discard(request.into_body())).await;
                    if let Some(rest) = rest.filter(|_| is_http2) {
                        crate::ingress::drain(rest);
                    }
                }
                // Whoever spoke on as if it were connected was not speaking to us (RFC 9110, 9.3.6).
                let problem = if is_connect {
                    problem.closing()
                } else {
                    problem
                };
                problem.into_response()
            }
        }
    }

    /// Takes the request out when it is handed on; a refused one stays, with its body unread. What
    /// is rare is boxed, so that the place which every request needs is small.
    async fn route(
        &self,
        connection: &Arc<Connection>,
        waiting: &mut Option<Request<Incoming>>,
    ) -> Result<Response<Body>, Problem> {
        let Some(request) = waiting.as_ref() else {
            return Err(Problem::not_found());
        };
        if connection.has_cut_head() {
            let max = self.state.limits().header_bytes_max;
            let detail =
                format!("the header section is longer than {max} (limits.header_bytes_max)");
            return Err(Problem::not_sent(Code::HeadersTooLarge, detail).closing());
        }
        check_host(request)?;
        if connection.arrived == ListenerKind::Proxy {
            self.state.serving.check().await?;
            self.check_head(request.headers())?;
            return Box::pin(forward_proxy::handle(self, connection, waiting)).await;
        }
        // Its bytes are shared, not copied.
        let target = request.uri().path_and_query().cloned();
        let target = target.as_ref().map_or("", PathAndQuery::as_str);
        let path = target.split('?').next().unwrap_or_default();
        match path {
            "/healthz" => return get(request.method()).map(|()| plain(StatusCode::OK, "ok\n")),
            "/readyz" => {
                get(request.method())?;
                return Ok(self.readiness().await);
            }
            "/metrics" if connection.arrived == ListenerKind::Admin => {
                return get(request.method()).map(|()| self.metrics());
            }
            _ if connection.arrived == ListenerKind::Admin => return Err(Problem::not_found()),
            _ => {}
        }
        self.state.serving.check().await?;
        if path == "/openapi.json" {
            get(request.method())?;
            let text = Bytes::from_static(api::openapi::text().as_bytes());
            return Ok(typed(StatusCode::OK, "application/json", text));
        }
        self.check_head(request.headers())?;
        let state = &self.state;
        match path {
            transport::websocket::TUNNEL_PATH => {
                get(request.method())?;
                upgrade::tunnel(state, connection, taken(waiting)?).await
            }
            "/v1/calls" if *request.method() == Method::POST => {
                let principal = self
                    .admit(
                        connection,
                        request,
                        (CALLING, Resource::Hosts),
                        Some("POST"),
                    )
                    .await?;
                let handled = calls::handle(state, &principal, connection, taken(waiting)?);
                Box::pin(handled)
                    .await
                    .inspect_err(|problem| note_denial(state, &principal, problem, connection))
            }
            _ => {
                if let Some((endpoint, rest)) = endpoints::split_target(target) {
                    let allowed = (SENDING, Resource::Endpoints);
                    let principal = self.admit(connection, request, allowed, None).await?;
                    let request = taken(waiting)?;
                    let result =
                        endpoints::handle(state, &principal, connection, request, endpoint, rest)
                            .await;
                    return result.inspect_err(|problem| {
                        note_denial(state, &principal, problem, connection);
                    });
                }
                Box::pin(api::dispatch(self, connection, waiting)).await
            }
        }
    }

    /// Who asks, if the method is right and the key may.
    async fn admit(
        &self,
        connection: &Connection,
        request: &Request<Incoming>,
        (roles, resource): (&[Role], Resource),
        method: Option<&'static str>,
    ) -> Result<Principal, Problem> {
        if let Some(allowed) = method
            && request.method().as_str() != allowed
        {
            return Err(Problem::method(allowed));
        }
        let (state, peer) = (&self.state, connection.peer.ip());
        let principal = self
            .authenticator
            .authenticate(request.headers(), peer)
            .await?;
        connection.authenticated(&principal.tenant);
        let admitted = principal.admit(roles, resource);
        admitted.inspect_err(|failure| state.note_denial(&principal, failure.code, peer))?;
        Ok(principal)
    }

    /// Whether the header section is within its limits.
    fn check_head(&self, headers: &HeaderMap) -> Result<(), Problem> {
        let limits = self.state.limits();
        let fields = headers.len();
        let bytes: usize = headers
            .iter()
            .map(|(name, value)| name.as_str().len() + value.len())
            .sum();
        let too_large = |detail: String| Err(Problem::not_sent(Code::HeadersTooLarge, detail));
        if fields > limits.headers_max as usize {
            let max = limits.headers_max;
            return too_large(format!(
                "the request has {fields} header fields, the limit is {max}"
            ));
        }
        if bytes > limits.header_bytes_max.bytes_usize() {
            let max = limits.header_bytes_max.0;
            return too_large(format!(
                "the header section has {bytes} bytes, the limit is {max}"
            ));
        }
        Ok(())
    }

    async fn readiness(&self) -> Response<Body> {
        let state = &self.state;
        if state.is_draining() {
            return plain(StatusCode::SERVICE_UNAVAILABLE, "draining\n");
        }
        let serving = &state.serving;
        if !serving.is_active() {
            let why = format!("standby: {}\n", serving.why());
            return plain(StatusCode::SERVICE_UNAVAILABLE, why);
        }
        if let Err(stale) = state.directory.check_fresh() {
            let why = format!("stale: {}\n", stale.detail);
            return plain(StatusCode::SERVICE_UNAVAILABLE, why);
        }
        if !state.readiness.can_write(state.directory.storage()).await {
            let text = "not ready: the database cannot be written\n";
            return plain(StatusCode::SERVICE_UNAVAILABLE, text);
        }
        plain(StatusCode::OK, "ready\n")
    }

    fn metrics(&self) -> Response<Body> {
        let state = &self.state;
        let text = state.metrics.render(Snapshot {
            sessions: state.registry.count(),
            exchanges: state.exchanges.count(),
            connections: state.connections.count(),
            connections_pending: state.connections.pending(),
            pending_bytes: state.connections.pending_bytes(),
            connections_evicted: state.connections.evicted() + state.unproven.evicted(),
            handshakes: state.handshakes.taken() + state.caller_handshakes.taken(),
            unauthenticated: state.unproven.count(),
            window_budget_left: state.budget.left(),
            audit_lost: state.audit.lost(),
            is_active: state.serving.is_active(),
            directory_age: state.directory.age(),
            bridges_cloned: state.registry.cloned(Instant::now()).len(),
            endpoints_refused: state.registry.refused_endpoints(),
            body_memory: state.exchanges.memory_bytes(),
        });
        typed(StatusCode::OK, CONTENT_TYPE, text.into())
    }
}

/// Notes what a key that proved itself may not do, if that is the problem.
fn note_denial(state: &State, principal: &Principal, problem: &Problem, connection: &Connection) {
    state.note_denial(principal, problem.failure.code, connection.peer.ip());
}

/// A request says once whom it is for, so that everybody on its way reads the same (RFC 9112, 3.2): in
/// `Host`, or in HTTP/2's `:authority` (RFC 9113, 8.3.1).
fn check_host(request: &Request<Incoming>) -> Result<(), Problem> {
    let hosts = request.headers().get_all(header::HOST).iter().count();
    let is_said_once = match request.version() {
        Version::HTTP_11 => hosts == 1,
        Version::HTTP_2 => match (request.uri().authority(), hosts) {
            (Some(_), 0) | (None, 1) => true,
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
    if !is_said_once {
        let detail =
            format!("the request has {hosts} Host fields; it must say once whom it is for");
        return Err(Problem::invalid(detail).closing());
    }
    Ok(())
}

fn taken(waiting: &mut Option<Request<Incoming>>) -> Result<Request<Incoming>, Problem> {
    waiting.take().ok_or_else(Problem::not_found)
}

/// Reads what is left of a small body, so that the answer is not lost to a client that still
/// sends: some give up on an HTTP/2 stream that is reset behind its answer. What is left of a larger one.
async fn discard(mut body: Incoming) -> Option<Incoming> {
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
    (!http_body::Body::is_end_stream(&body)).then_some(body)
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
