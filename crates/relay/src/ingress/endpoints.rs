//! `ANY /v1/endpoints/{endpoint}/{path}`: a named endpoint, as a reverse proxy.

use super::pass::{self, IngressKind};
use crate::access::{self, Object, Principal};
use crate::body::Body;
use crate::listener::connection::Connection;
use crate::problem::Problem;
use crate::routing::select_tunnel::RouteTarget;
use crate::state::State;
use http::{Method, Request, Response};
use hyper::body::Incoming;
use protocol::frame::RequestTarget;
use std::sync::Arc;

/// What came in the path behind `/v1/endpoints/`: the name, and the rest from its `/` or `?` on.
pub fn split_target(path_and_query: &str) -> Option<(&str, &str)> {
    let rest = path_and_query.strip_prefix("/v1/endpoints/")?;
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (name, rest) = rest.split_at(end);
    (!name.is_empty()).then_some((name, rest))
}

/// Passes a request on to a named endpoint.
///
/// # Errors
/// A problem of the relay's own; the target's errors are answers.
pub async fn handle(
    state: &Arc<State>,
    principal: &Principal,
    connection: &Arc<Connection>,
    request: Request<Incoming>,
    endpoint: &str,
    rest: &str,
) -> Result<Response<Body>, Problem> {
    principal.scope.check(Object::Endpoint(endpoint))?;
    if *request.method() == Method::CONNECT {
        return Err(Problem::method("any method but CONNECT"));
    }
    let way = IngressKind {
        target: RequestTarget::Endpoint {
            name: endpoint.to_owned(),
            path_and_query: rest.to_owned(),
        },
        wanted: RouteTarget::Endpoint(endpoint),
        name: endpoint,
        own: access::consumed_header(request.headers()),
    };
    pass::on(state, principal, connection, request, way).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_the_name_stays_as_it_is() {
        for (path, name, rest) in [
            ("/v1/endpoints/alm", "alm", ""),
            ("/v1/endpoints/alm/", "alm", "/"),
            ("/v1/endpoints/alm?x", "alm", "?x"),
            ("/v1/endpoints/alm/a%2Fb//c?d=/e", "alm", "/a%2Fb//c?d=/e"),
        ] {
            assert_eq!(split_target(path), Some((name, rest)));
        }
        assert_eq!(split_target("/v1/endpoints/"), None);
        assert_eq!(split_target("/v1/endpoints//x"), None);
    }
}
