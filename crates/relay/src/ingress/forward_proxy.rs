//! The forward proxy: any HTTP client reaches an internal host by setting its proxy.
//!
//! | request | goes |
//! | --- | --- |
//! | `GET http://host/path` (absolute-form, RFC 9112 3.2.2) | as a request to that URL; the bridge sends it |
//! | `CONNECT host:port` (RFC 9110 9.3.6) | as raw bytes: TLS is end to end, and the relay cannot read it |
//!
//! The key comes in `Proxy-Authorization`, as HTTP Basic; `service` checks it. The bridge's policy decides, as
//! for every request: by host, port and method, and for CONNECT whether its rule allows raw streams.

use super::pass::{self, IngressKind};
use super::raw;
use super::recording::RecordingGuard;
use crate::access::{BRIDGE_AUTHORIZATION, Object, Permission, Principal};
use crate::body::{self, Body};
use crate::connection::Connection;
use crate::connection::bare_lf_guard::ASTERISK_PATH;
use crate::data_plane::DataPlane;
use crate::problem::Problem;
use crate::progress::Progress;
use crate::request_name::RequestName;
use crate::routing::select_tunnel::RouteTarget;
use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::uri::PathAndQuery;
use http::{Method, Request, Response, StatusCode, Uri};
use hyper::body::Incoming;
use policy::{Target, TargetError};
use protocol::frame::{Headers, RequestTarget};
use protocol::{Code, Execution, Failure};
use std::sync::Arc;

/// Handles a request to the proxy's listener, from an authenticated caller. Takes the request out of
/// `pending` once it is accepted.
///
/// # Errors
/// A problem of the relay's own; an error of the target is a response.
pub(crate) async fn handle(
    data: &Arc<DataPlane>,
    principal: &Principal,
    connection: &Arc<Connection>,
    pending: &mut Option<Request<Incoming>>,
    request_name: &RequestName,
) -> Result<Response<Body>, Problem> {
    let Some(request) = pending.as_ref() else {
        return Err(Problem::not_found());
    };
    principal.admit(Permission::PROXY)?;
    let is_connect = *request.method() == Method::CONNECT;
    let target = match is_connect {
        true => connect_target(request.uri())?,
        false if is_asterisk(request.method(), request.uri()) => origin_target(request.uri())?,
        false => url_target(request.uri())?,
    };
    // Checked here, because the bridge does not know the scopes of keys.
    principal.scope.check(Object::Host {
        host: target.host(),
        bridge: None,
        credential: None,
    })?;
    let Some(mut request) = pending.take() else {
        return Err(Problem::not_found());
    };
    if is_connect {
        return connect(
            data,
            principal,
            connection,
            request,
            (&target, request_name),
        )
        .await;
    }
    if !count_forward(&mut request) {
        return respond_in_place(request);
    }
    let host = target.host().to_string();
    let name = format!("proxy {host}:{}", target.port());
    let url = match is_asterisk(request.method(), request.uri()) {
        // OPTIONS for a URL without a path: the bridge sends `*` (RFC 9112, 3.2.4).
        true => target.origin(),
        false => request.uri().to_string(),
    };
    let kind = IngressKind {
        target: RequestTarget::Url(url),
        route: RouteTarget::Host(target.host()),
        request: request_name,
        name: &name,
        host: Some(&host),
        own_header: Some(BRIDGE_AUTHORIZATION),
    };
    pass::on(data, principal, connection, request, kind).await
}

/// Counts one hop in `Max-Forwards` of OPTIONS and TRACE (RFC 9110, 7.6.2). Returns whether the request may be
/// forwarded. A value that is no number is passed on.
fn count_forward<B>(request: &mut Request<B>) -> bool {
    if !matches!(*request.method(), Method::OPTIONS | Method::TRACE) {
        return true;
    }
    let hops = request.headers().get(header::MAX_FORWARDS);
    let hops = hops.and_then(|hops| hops.to_str().ok()?.parse::<u64>().ok());
    match hops {
        None => true,
        Some(0) => false,
        Some(hops) => {
            let hops = HeaderValue::from(hops - 1);
            request.headers_mut().insert(header::MAX_FORWARDS, hops);
            true
        }
    }
}

/// Responds to OPTIONS or TRACE whose `Max-Forwards` is 0: the relay is its last recipient. A TRACE would send the
/// request's fields back, its key included, so it is rejected.
fn respond_in_place(request: Request<Incoming>) -> Result<Response<Body>, Problem> {
    let is_trace = *request.method() == Method::TRACE;
    super::drain(request.into_body());
    if is_trace {
        let detail = "Max-Forwards is 0, and the relay itself does not respond to TRACE";
        return Err(Problem {
            allow: Some("OPTIONS".into()),
            ..Problem::not_sent(Code::MethodNotAllowed, detail)
        });
    }
    Ok(Response::new(body::empty()))
}

/// Returns whether a request is OPTIONS for a URL without a path.
fn is_asterisk(method: &Method, uri: &Uri) -> bool {
    let path = uri.path_and_query().map(PathAndQuery::as_str);
    *method == Method::OPTIONS && uri.scheme().is_some() && path == Some(ASTERISK_PATH)
}

/// Returns the target of a URL without its path.
fn origin_target(uri: &Uri) -> Result<Target, Problem> {
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::from_static("/"));
    // The parts come from a URI, so they make one.
    let uri = Uri::from_parts(parts).map_err(|error| Problem::invalid(error.to_string()))?;
    url_target(&uri)
}

/// Returns the target of a request in absolute-form.
fn url_target(uri: &Uri) -> Result<Target, Problem> {
    if uri.scheme().is_none() {
        return Err(Problem::invalid(
            "this listener is a forward proxy: send an absolute URL, as in GET http://host/path, or CONNECT \
             host:port; the API is on another listener",
        ));
    }
    Target::parse(&uri.to_string()).map_err(|error| {
        let problem = Problem::invalid(format!("the URL is not supported: {error}"));
        match error {
            TargetError::TooLong { .. } => problem.with_status(StatusCode::URI_TOO_LONG),
            _ => problem,
        }
    })
}

/// Returns the target of CONNECT: `host:port` and nothing else (RFC 9112, 3.2.3). There is no scheme to derive a
/// default port from.
fn connect_target(uri: &Uri) -> Result<Target, Problem> {
    let is_authority = uri.scheme().is_none() && uri.path_and_query().is_none();
    let authority = uri
        .authority()
        .filter(|authority| is_authority && authority.port().is_some());
    let authority = authority.ok_or_else(|| Problem::invalid("CONNECT must name host:port"))?;
    // Parsed as a URL for the checks of its host. The scheme is not used.
    Target::parse(&format!("http://{authority}"))
        .map_err(|error| Problem::invalid(format!("CONNECT target is not supported: {error}")))
}

/// Opens a raw stream.
async fn connect(
    data: &Arc<DataPlane>,
    principal: &Principal,
    connection: &Arc<Connection>,
    mut request: Request<Incoming>,
    (target, request_name): (&Target, &RequestName),
) -> Result<Response<Body>, Problem> {
    let permit = data.begin(principal)?;
    let host = target.host().to_string();
    let name = format!("proxy {host}:{}", target.port());
    let kind = IngressKind {
        target: RequestTarget::Connect {
            host: host.clone(),
            port: target.port(),
        },
        route: RouteTarget::Host(target.host()),
        request: request_name,
        name: &name,
        host: Some(&host),
        own_header: None,
    };
    let recording = RecordingGuard::begin(data, principal, &kind, &request);
    let upgrade = hyper::upgrade::on(&mut request);
    let fields = Headers::default().with_context(request_name.context());
    let exchange_request = pass::raw_request(data, principal, &Method::CONNECT, fields, kind);
    let progress = Progress::default();
    let mut result = raw::open(data, exchange_request, Bytes::new(), permit, &progress).await;
    let bridge = progress.bridge();
    let recorded = result.as_mut().map(|(received, _)| received);
    recording.end(recorded.map_err(|failure| &*failure), 0);
    let (received, raw) =
        result.map_err(|failure| Problem::from(failure).through(bridge.clone()))?;
    if received.head.status != StatusCode::OK.as_u16() {
        let detail = format!(
            "the bridge did not open a stream: status {}",
            received.head.status
        );
        let failure = Failure::new(Code::TargetProtocol, Execution::Executed, detail);
        return Err(Problem::from(failure).through(bridge));
    }
    raw.begin(upgrade, received.body, connection.clone());
    Ok(Response::new(body::empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(text: &str) -> Uri {
        text.parse().unwrap()
    }

    #[test]
    fn proxy_requires_absolute_url_or_authority_with_port() {
        let target = url_target(&uri("http://a.example/x?y")).unwrap();
        assert_eq!((target.port(), target.path_and_query()), (80, "/x?y"));
        assert!(url_target(&uri("/x")).is_err());
        assert!(url_target(&uri("ftp://a.example/")).is_err());
        assert!(url_target(&uri("http://me:pw@a.example/")).is_err());
        let target = connect_target(&uri("a.example:443")).unwrap();
        assert_eq!(target.port(), 443);
        let target = connect_target(&uri("[::1]:22")).unwrap();
        assert_eq!(
            (target.host().to_string().as_str(), target.port()),
            ("[::1]", 22)
        );
        assert!(connect_target(&uri("a.example")).is_err());
        assert!(connect_target(&uri("a.example:0")).is_err());
        assert!(connect_target(&uri("http://a.example:80/")).is_err());
        assert!(connect_target(&uri("http://a.example:80")).is_err());
    }

    #[test]
    fn max_forwards_is_counted_for_two_methods() {
        for (method, given, expected) in [
            (Method::OPTIONS, "0", None),
            (Method::TRACE, "0", None),
            (Method::TRACE, "1", Some("0")),
            (Method::OPTIONS, "3", Some("2")),
            (Method::OPTIONS, "-1", Some("-1")),
            (Method::GET, "0", Some("0")),
        ] {
            let mut request = Request::builder()
                .method(method.clone())
                .header(header::MAX_FORWARDS, given)
                .body(())
                .unwrap();
            let is_forwarded = count_forward(&mut request);
            assert_eq!(is_forwarded, expected.is_some(), "{method} {given}");
            if let Some(expected) = expected {
                assert_eq!(request.headers()[header::MAX_FORWARDS], expected);
            }
        }
        assert!(count_forward(&mut Request::new(())));
    }
}
