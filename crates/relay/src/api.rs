//! The resources of the API: one table of operations drives both the routing and the OpenAPI document.
//!
//! ```text
//! service (data path: calls, endpoints, tunnel) -> dispatch: path, method, key, permission, query ->
//! handler
//! ```
//!
//! An operation is a row of [`operations`]. Its handler takes a [`Context`] and the request with its whole
//! body:
//!
//! ```ignore
//! fn show<'a>(cx: &'a Context<'a>, _: Request<Bytes>) -> Handling<'a> {
//!     Box::pin(async move {
//!         let thing = find(cx.tenant()?, cx.path("name"))?;
//!         json::reply(StatusCode::OK, &thing)
//!     })
//! }
//! ```
//!
//! Helpers: `json` reads and writes documents, `timestamp` has instants, `page` has cursors, `query`
//! rejects unknown parameters, `idempotency_key` replays the response to a POST that is repeated with its
//! `Idempotency-Key`, `etag` is for `If-Match`, `errors` maps errors of the database.

pub(crate) mod audit;
pub(crate) mod bridges;
pub(crate) mod calls;
mod errors;
pub(crate) mod etag;
pub(crate) mod explain;
mod idempotency_key;
pub(crate) mod json;
pub(crate) mod keys;
pub(crate) mod notices;
pub(crate) mod openapi;
pub(crate) mod page;
pub(crate) mod pairing;
pub(crate) mod pairing_files;
pub(crate) mod query;
pub(crate) mod secrets;
pub(crate) mod services;
mod table;
pub(crate) mod tenants;
pub(crate) mod timestamp;

pub(crate) use table::operations;

use crate::access::{Object, Permission, Principal, Resource};
use crate::body::Body;
use crate::capacity::ExchangePermit;
use crate::connection::Connection;
use crate::control_plane::ControlPlane;
use crate::problem::Problem;
use crate::storage::{Role, Storage};
use bytes::Bytes;
use http::{Method, Request, Response};
use hyper::body::Incoming;
use protocol::{Code, Failure};
use query::Query;
use schemars::{Schema, SchemaGenerator};
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;

/// The result of a handler.
pub(crate) type Handling<'a> =
    Pin<Box<dyn Future<Output = Result<Response<Body>, Problem>> + Send + 'a>>;

/// Handles a request.
pub(crate) type Handler = for<'a> fn(&'a Context<'a>, Request<Bytes>) -> Handling<'a>;

/// Returns a type's schema.
pub(crate) type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

/// Returns the schema of `T`.
pub(crate) fn schema<T: schemars::JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

/// A query parameter of an operation.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Parameter {
    /// Name, unique in its operation.
    pub name: &'static str,
    /// Description for the OpenAPI document.
    pub description: &'static str,
    /// The form of its value.
    pub kind: ParameterKind,
}

/// The form of a parameter's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ParameterKind {
    /// Any text.
    Text,
    /// The size of a page.
    PageSize,
    /// `true` or `false`.
    Flag,
    /// An RFC 3339 instant.
    Instant,
}

/// A successful response.
#[derive(Clone, Copy)]
pub(crate) struct Success {
    /// Status code.
    pub status: u16,
    /// When the response is sent.
    pub description: &'static str,
    /// The schema of its document; `None` if the body is empty or not described.
    pub schema: Option<SchemaOf>,
    /// The media type of a body without a schema.
    pub media_type: Option<&'static str>,
}

/// One operation of the API.
pub(crate) struct Operation {
    /// Operation id, unique.
    pub id: &'static str,
    /// Group of operations.
    pub tag: &'static str,
    /// Method.
    pub method: Method,
    /// Path template, with `{name}` for each parameter.
    pub path: &'static str,
    /// What the request needs of its key.
    pub permission: Permission,
    /// Summary in one line.
    pub summary: &'static str,
    /// Further description.
    pub description: &'static str,
    /// Query parameters; any other is rejected.
    pub query: &'static [Parameter],
    /// The schema of the request body.
    pub request_body: Option<SchemaOf>,
    /// Successful responses.
    pub success: &'static [Success],
    /// Errors besides those that every operation can return.
    pub errors: &'static [Code],
    /// Whether a repeated request with the same `Idempotency-Key` gets the first response.
    pub is_idempotent: bool,
    /// Whether the operation takes `If-Match`.
    pub has_if_match: bool,
    /// The handler; `None` for operations that the service handles itself.
    pub handler: Option<Handler>,
}

impl std::fmt::Debug for Operation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} ({})", self.method, self.path, self.id)
    }
}

/// The context of a request.
pub(crate) struct Context<'a> {
    /// The shared state of the relay.
    pub state: &'a Arc<ControlPlane>,
    /// The API key of the caller.
    pub principal: &'a Principal,
    /// The caller's address.
    pub peer: IpAddr,
    /// The query parameters.
    pub query: Query,
    path: Vec<(&'static str, String)>,
}

impl Context<'_> {
    /// Returns the value of `{name}` in the path.
    pub(crate) fn path(&self, name: &str) -> &str {
        let found = self.path.iter().find(|(known, _)| *known == name);
        found.map_or("", |(_, value)| value)
    }

    /// Returns the database, with the caller as the actor of the audit record.
    pub(crate) fn storage(&self) -> Storage {
        let storage = self.state.directory.storage();
        storage.acting(&self.principal.client_id)
    }

    /// Returns whether the caller is a site administrator.
    pub(crate) fn is_site_admin(&self) -> bool {
        self.principal.role == Role::SiteAdmin
    }

    /// Checks that an object is within the key's scope.
    ///
    /// # Errors
    /// `forbidden`.
    pub(crate) fn check(&self, object: Object<'_>) -> Result<(), Problem> {
        Ok(self.principal.scope.check(object)?)
    }

    /// Returns the id of the tenant that the request concerns: the key's own, or the one that a site
    /// administrator names.
    ///
    /// # Errors
    /// `invalid_request` when a site administrator names none, `not_found` for an unknown name, `forbidden`
    /// for another tenant's.
    pub(crate) fn tenant(&self) -> Result<Arc<str>, Problem> {
        self.tenant_of(self.query.text("tenant"))
    }

    /// Returns the same for a name that is not in the query.
    ///
    /// # Errors
    /// As [`Self::tenant`].
    pub(crate) fn tenant_of(&self, named: Option<&str>) -> Result<Arc<str>, Problem> {
        match named {
            None if self.is_site_admin() => Err(Problem::invalid(
                "name the tenant: a site administrator's key belongs to none",
            )),
            None => Ok(self.principal.tenant.clone()),
            Some(name) if self.is_site_admin() => {
                let found = self.state.directory.tenant_named(name);
                found.ok_or_else(|| Problem::not_sent(Code::NotFound, "there is no such tenant"))
            }
            Some(name) if *name == *self.principal.tenant_name => Ok(self.principal.tenant.clone()),
            Some(_) => Err(Problem::not_sent(
                Code::Forbidden,
                "only a site administrator's key may name another tenant",
            )),
        }
    }
}

/// Longest path, in segments.
const SEGMENTS_MAX: usize = 8;

/// Returns the values of the template's `{names}`, if the path matches.
fn fit(template: &'static str, path: &str) -> Option<Vec<(&'static str, String)>> {
    let mut found = Vec::new();
    let (mut expected, mut given) = (template.split('/'), path.split('/'));
    loop {
        match (expected.next(), given.next()) {
            (None, None) => return Some(found),
            (Some(part), Some(segment)) => {
                match part.strip_prefix('{').and_then(|p| p.strip_suffix('}')) {
                    // Names need no encoding, and decoding could make two paths name one object.
                    Some(name) if !segment.is_empty() && !segment.contains('%') => {
                        found.push((name, segment.to_owned()));
                    }
                    None if part == segment => {}
                    Some(_) | None => return None,
                }
            }
            (Some(_), None) | (None, Some(_)) => return None,
        }
    }
}

/// Dispatches a request to the handler of its operation.
///
/// # Errors
/// The handler's. `not_found` and `method_not_allowed` come before authentication, since the table is
/// public.
pub(crate) async fn dispatch(
    state: &Arc<ControlPlane>,
    connection: &Arc<Connection>,
    waiting: &mut Option<Request<Incoming>>,
) -> Result<Response<Body>, Problem> {
    let Some(request) = waiting.as_ref() else {
        return Err(Problem::not_found());
    };
    let peer = connection.peer.ip();
    let path = request.uri().path();
    if path.split('/').count() > SEGMENTS_MAX {
        return Err(Problem::not_found());
    }
    // The GET handler also handles HEAD; the HTTP library drops the body.
    let wanted = match *request.method() {
        Method::HEAD => Method::GET,
        ref method => method.clone(),
    };
    let mut others: Vec<&str> = Vec::new();
    let mut chosen = None;
    for operation in operations() {
        if let Some(path) = fit(operation.path, path) {
            if let Some(handler) = operation.handler
                && operation.method == wanted
            {
                chosen = Some((operation, handler, path));
                break;
            }
            others.push(operation.method.as_str());
        }
    }
    let Some((operation, handler, path)) = chosen else {
        // Sorted, so that the `Allow` field does not depend on the order of the table.
        others.sort_unstable();
        others.dedup();
        return Err(match others.is_empty() {
            true => Problem::unknown_path(),
            false => Problem::methods(&others),
        });
    };
    // After the path lookup: a request to an unknown path costs no look at the database.
    let principal = state
        .authenticator
        .authenticate(request.headers(), connection)
        .await?;
    // Counts the connection for the tenant from now on, instead of as one of an unknown client.
    connection.authenticated(&principal.tenant);
    let note = |failure: &Failure| state.note_denial(&principal, failure.code, peer);
    principal.admit(operation.permission).inspect_err(note)?;
    // After `admit`, so that a client without permission learns nothing about parameters.
    let query = Query::read(request.uri().query(), operation.query)?;
    // Held until the response is written, as is the memory that the response takes.
    let permit = state.data.exchanges.begin_operation(&principal)?;
    let request = waiting.take().ok_or_else(Problem::not_found)?;
    let is_read = wanted == Method::GET;
    let admitted = Admitted {
        state,
        principal: &principal,
        permit: &permit,
        operation,
        handler,
        peer,
    };
    let result = admitted.handle(query, path, request).await;
    let result = result.inspect_err(|problem| match operation.permission.resource {
        // Pairing records its own denials, including those that are not about the key.
        Resource::Pairing => {}
        _ => note(&problem.failure),
    });
    let mut reservation = state.data.reservation(connection, &permit);
    let held = result.and_then(|response| {
        let bytes = response.body().unreserved_bytes();
        match reservation.try_grow_to(bytes) {
            Ok(()) => {}
            // The change is made: the caller must learn of it even if memory is short.
            Err(_) if !is_read => reservation.grow_anyway_to(bytes),
            Err(none) => return Err(none.failure().into()),
        }
        let (permit, memory) = (permit.clone(), reservation);
        Ok(response.map(|body| body.with_permit(permit).with_memory(memory)))
    });
    held.map_err(|problem| problem.holding(permit))
}

/// A request that has a permit.
struct Admitted<'a> {
    state: &'a Arc<ControlPlane>,
    principal: &'a Principal,
    permit: &'a ExchangePermit,
    operation: &'static Operation,
    handler: Handler,
    peer: IpAddr,
}

impl Admitted<'_> {
    async fn handle(
        self,
        query: Query,
        path: Vec<(&'static str, String)>,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Problem> {
        let (parts, mut incoming) = request.into_parts();
        // A reservation of its own: it is released with the request, while that of the response is held
        // longer.
        let mut memory = self.permit.reservation();
        let body = match parts.method {
            Method::POST | Method::PUT | Method::PATCH => {
                let idle = self.state.data.limits().caller_idle_timeout.0;
                let body = json::body(&mut incoming, idle, &mut memory).await;
                // Clients lose the response when their upload is reset, so the rest is read and discarded.
                if body.is_err() {
                    crate::ingress::drain(incoming);
                }
                body?
            }
            _ => Bytes::new(),
        };
        let request = Request::from_parts(parts, body);
        let cx = Context {
            state: self.state,
            principal: self.principal,
            peer: self.peer,
            query,
            path,
        };
        if self.operation.is_idempotent {
            return idempotency_key::execute(&cx, self.operation.id, self.handler, request).await;
        }
        (self.handler)(&cx, request).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn operations_have_unique_ids_and_paths() {
        let mut ids = HashSet::new();
        let mut ways = HashSet::new();
        for operation in operations() {
            assert!(ids.insert(operation.id), "{operation:?}");
            assert!(ways.insert((operation.method.clone(), operation.path)));
            assert!(operation.path.starts_with('/'), "{operation:?}");
            assert!(!operation.summary.is_empty() && !operation.success.is_empty());
            let filled = operation.path.replace(['{', '}'], "");
            assert!(fit(operation.path, &filled).is_some(), "{operation:?}");
        }
    }

    #[test]
    fn path_matches_only_its_template() {
        let fits = |path| fit("/v1/keys/{client_id}/rotate", path).is_some();
        assert!(fits("/v1/keys/ibk_1/rotate"));
        for path in [
            "/v1/keys//rotate",
            "/v1/keys/a%2Fb/rotate",
            "/v1/keys/ibk_1",
            "/v1/keys/ibk_1/rotate/",
            "/v1/keys/ibk_1/revoke",
        ] {
            assert!(!fits(path), "{path}");
        }
    }
}
