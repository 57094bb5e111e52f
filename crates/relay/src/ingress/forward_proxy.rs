//! The forward proxy: any HTTP client reaches an internal host by setting its proxy.
//!
//! | request | goes |
//! | --- | --- |
//! | `GET http://host/path` (absolute-form, RFC 9112 3.2.2) | as a request to that URL; the bridge makes it |
//! | `CONNECT host:port` (RFC 9110 9.3.6) | as raw bytes: TLS goes end to end, and the relay sees nothing of it |
//!
//! The key comes in `Proxy-Authorization`, as HTTP Basic. The bridge's policy decides, as everywhere: by
//! host, port and method, and for CONNECT whether its rule allows raw streams.

use super::pass::{self, IngressKind, Noting};
use super::raw;
use crate::access::{BRIDGE_AUTHORIZATION, Object, Permission, Principal};
use crate::body::{self, Body};
use crate::listener::connection::Connection;
use crate::problem::Problem;
use crate::routing::select_tunnel::RouteTarget;
use crate::service::Service;
use http::{Method, Request, Response, StatusCode, Uri};
use hyper::body::Incoming;
use policy::Target;
use protocol::frame::{Headers, RequestTarget};
use protocol::{Code, Execution, Failure};
use std::sync::Arc;

/// Answers a request that came to the proxy's listener.
///
/// # Errors
/// A problem; that of a key is for a proxy's client to understand (407).
pub async fn handle(
    service: &Service,
    connection: &Arc<Connection>,
    waiting: &mut Option<Request<Incoming>>,
) -> Result<Response<Body>, Problem> {
    let Some(request) = waiting.as_ref() else {
        return Err(Problem::not_found());
    };
    let (authenticator, peer) = (&service.authenticator, connection.peer.ip());
    let name = http::header::PROXY_AUTHORIZATION;
    let principal = authenticator.authenticate_by(request.headers(), &name, peer);
    let principal = principal.await.map_err(Problem::at_proxy)?;
    connection.authenticated(&principal.tenant);
    let state = &service.state;
    let result = admitted(service, &principal, connection, waiting).await;
    result.inspect_err(|problem| state.note_denial(&principal, problem.failure.code, peer))
}

/// The same, for a key that proved itself.
async fn admitted(
    service: &Service,
    principal: &Principal,
    connection: &Arc<Connection>,
    waiting: &mut Option<Request<Incoming>>,
) -> Result<Response<Body>, Problem> {
    let Some(request) = waiting.as_ref() else {
        return Err(Problem::not_found());
    };
    principal.admit(Permission::PROXY)?;
    let is_connect = *request.method() == Method::CONNECT;
    let target = match is_connect {
        true => of_authority(request.uri())?,
        false => of_url(request.uri())?,
    };
    principal.scope.check(Object::Host {
        host: target.host(),
        bridge: None,
        credential: None,
    })?;
    let Some(request) = waiting.take() else {
        return Err(Problem::not_found());
    };
    if is_connect {
        return connect(service, principal, connection, request, &target).await;
    }
    let name = format!("proxy {}:{}", target.host(), target.port());
    let way = IngressKind {
        target: RequestTarget::Url(request.uri().to_string()),
        wanted: RouteTarget::Host(target.host()),
        name: &name,
        own: Some(BRIDGE_AUTHORIZATION),
    };
    pass::on(&service.state, principal, connection, request, way).await
}

/// The target of a request in absolute-form.
fn of_url(uri: &Uri) -> Result<Target, Problem> {
    if uri.scheme().is_none() {
        return Err(Problem::invalid(
            "this is a forward proxy: a request names its whole URL, as in \
             GET http://host/path, or says CONNECT host:port; the API is on another listener",
        ));
    }
    Target::parse(&uri.to_string())
        .map_err(|error| Problem::invalid(format!("the URL cannot be asked for: {error}")))
}

/// The target of CONNECT. Its port is never a guess.
fn of_authority(uri: &Uri) -> Result<Target, Problem> {
    let authority = uri
        .authority()
        .filter(|authority| authority.port().is_some());
    let authority = authority.ok_or_else(|| Problem::invalid("CONNECT names host:port"))?;
    Target::parse(&format!("http://{authority}"))
        .map_err(|error| Problem::invalid(format!("CONNECT cannot go there: {error}")))
}

/// Opens a raw stream.
async fn connect(
    service: &Service,
    principal: &Principal,
    connection: &Arc<Connection>,
    mut request: Request<Incoming>,
    target: &Target,
) -> Result<Response<Body>, Problem> {
    let state = &service.state;
    let place = state.begin(principal)?;
    let name = format!("proxy {}:{}", target.host(), target.port());
    let way = IngressKind {
        target: RequestTarget::Connect {
            host: target.host().to_string(),
            port: target.port(),
        },
        wanted: RouteTarget::Host(target.host()),
        name: &name,
        own: None,
    };
    let noting = Noting::begin(state, principal, &way, &request);
    let upgrade = hyper::upgrade::on(&mut request);
    let asked = pass::asked_raw(state, principal, &Method::CONNECT, Headers::default(), way);
    let mut result = raw::ask(state, asked, place).await;
    let noted = result.as_mut().map(|(answer, _)| answer);
    noting.end(noted.map_err(|failure| &*failure), 0);
    let (answer, raw) = result?;
    if answer.head.status != StatusCode::OK.as_u16() {
        let detail = "the bridge did not open a stream";
        return Err(Failure::new(Code::TargetProtocol, Execution::Executed, detail).into());
    }
    raw.begin(upgrade, answer.body, connection.clone());
    Ok(Response::new(body::empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(text: &str) -> Uri {
        text.parse().unwrap()
    }

    #[test]
    fn a_proxy_takes_whole_urls_and_authorities_with_a_port() {
        let target = of_url(&uri("http://a.example/x?y")).unwrap();
        assert_eq!((target.port(), target.path_and_query()), (80, "/x?y"));
        assert!(of_url(&uri("/x")).is_err());
        assert!(of_url(&uri("ftp://a.example/")).is_err());
        assert!(of_url(&uri("http://me:pw@a.example/")).is_err());
        let target = of_authority(&uri("a.example:443")).unwrap();
        assert_eq!(target.port(), 443);
        let target = of_authority(&uri("[::1]:22")).unwrap();
        assert_eq!(
            (target.host().to_string().as_str(), target.port()),
            ("[::1]", 22)
        );
        assert!(of_authority(&uri("a.example")).is_err());
        assert!(of_authority(&uri("a.example:0")).is_err());
    }
}
