//! `ANY /v1/endpoints/{endpoint}/{path}`: a named endpoint, as a reverse proxy.

use super::pass::{self, IngressKind};
use crate::access::{Object, Principal, consumed_header};
use crate::body::Body;
use crate::connection::Connection;
use crate::data_plane::DataPlane;
use crate::problem::Problem;
use crate::request_name::RequestName;
use crate::routing::select_tunnel::RouteTarget;
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use policy::URL_MAX_BYTES;
use protocol::frame::RequestTarget;
use std::sync::Arc;

/// Splits a path below `/v1/endpoints/` into the endpoint's name and the rest from its `/` or `?` on.
pub(crate) fn split_target(path_and_query: &str) -> Option<(&str, &str)> {
    let rest = path_and_query.strip_prefix("/v1/endpoints/")?;
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (name, rest) = rest.split_at(end);
    (!name.is_empty()).then_some((name, rest))
}

/// Passes a request on to a named endpoint. Takes it out of `pending` once it is accepted.
///
/// # Errors
/// A problem of the relay's own; an error of the target is a response.
pub(crate) async fn handle(
    data: &Arc<DataPlane>,
    principal: &Principal,
    connection: &Arc<Connection>,
    pending: &mut Option<Request<Incoming>>,
    name: &RequestName,
    (endpoint, rest): (&str, &str),
) -> Result<Response<Body>, Problem> {
    principal.scope.check(Object::Endpoint(endpoint))?;
    // hyper switches a connection to raw bytes after a 2xx response to CONNECT.
    if pending.as_ref().map(Request::method) == Some(&Method::CONNECT) {
        return Err(Problem::method("any method but CONNECT"));
    }
    if policy::is_too_long(rest) {
        let detail = format!(
            "the path and query have {} bytes; the limit is {URL_MAX_BYTES} bytes",
            rest.len()
        );
        return Err(Problem::invalid(detail).with_status(StatusCode::URI_TOO_LONG));
    }
    let Some(request) = pending.take() else {
        return Err(Problem::not_found());
    };
    let kind = IngressKind {
        target: RequestTarget::Endpoint {
            name: endpoint.to_owned(),
            path_and_query: rest.to_owned(),
        },
        route: RouteTarget::Endpoint(endpoint),
        request: name,
        name: endpoint,
        host: None,
        own_header: consumed_header(request.headers()),
    };
    pass::on(data, principal, connection, request, kind).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_after_endpoint_name_is_unchanged() {
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
