//! The resources of the API: one table of operations, which the router dispatches by and the
//! OpenAPI document is made from.
//!
//! ```text
//! service (data path: calls, endpoints, tunnel) -> dispatch: path, method, key, role, query -> handler
//! ```
//!
//! An operation is a row of [`operations`]; its handler takes a [`Context`] and the request, whose body was read:
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
//! Helpers: `json` reads bodies and writes answers, `page` has cursors, `query` refuses parameters
//! that an operation does not have, `idempotency_key` replays the answer to a POST that is repeated with its
//! `Idempotency-Key`, `etag` is for `If-Match`.

pub mod audit;
pub mod bridges;
pub mod calls;
pub mod etag;
pub mod explain;
mod idempotency_key;
pub mod json;
pub mod keys;
pub mod openapi;
pub mod page;
pub mod pairing;
pub mod query;
pub mod secrets;
pub mod services;
mod table;
pub mod tenants;

pub use table::operations;

use crate::access::{Object, Resource};
use crate::auth::Principal;
use crate::body::Body;
use crate::exchange::{ExchangePermit, Reservation};
use crate::listener::connection::Connection;
use crate::problem::Problem;
use crate::service::Service;
use crate::state::State;
use crate::storage::{Role, Storage};
use bytes::Bytes;
use http::{Method, Request, Response, Version};
use hyper::body::Incoming;
use protocol::{Code, Failure};
use query::Query;
use schemars::{Schema, SchemaGenerator};
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;

/// What a handler returns.
pub type Handling<'a> = Pin<Box<dyn Future<Output = Result<Response<Body>, Problem>> + Send + 'a>>;

/// Answers a request.
pub type Handler = for<'a> fn(&'a Context<'a>, Request<Bytes>) -> Handling<'a>;

/// Makes a type's schema.
pub type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

/// The schema of `T`.
pub fn schema<T: schemars::JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

/// A parameter of an operation, in the query.
#[derive(Debug, Clone, Copy)]
pub struct Parameter {
    /// Its name.
    pub name: &'static str,
    /// What it is.
    pub description: &'static str,
    /// `string`, `integer` or `boolean`.
    pub kind: &'static str,
}

/// An answer that is no problem.
#[derive(Clone, Copy)]
pub struct Success {
    /// Its status.
    pub status: u16,
    /// When it is given.
    pub description: &'static str,
    /// Its document; none for an empty answer.
    pub schema: Option<SchemaOf>,
    /// The media type of what is no document of ours.
    pub media: Option<&'static str>,
}

/// One operation of the API.
pub struct Operation {
    /// Its name, unique.
    pub id: &'static str,
    /// Its group.
    pub tag: &'static str,
    /// Its method.
    pub method: Method,
    /// Its path, with `{name}` for what varies.
    pub path: &'static str,
    /// Who may; empty for anybody, without a key.
    pub roles: &'static [Role],
    /// What it acts on, which decides what a narrowed key may do with it.
    pub resource: Resource,
    /// What it does, in a line.
    pub summary: &'static str,
    /// What else is to be known.
    pub description: &'static str,
    /// Parameters in the query; others are refused.
    pub query: &'static [Parameter],
    /// The document that it takes.
    pub request: Option<SchemaOf>,
    /// What it answers when all is well.
    pub success: &'static [Success],
    /// What else it may answer, beside what every operation may.
    pub problems: &'static [Code],
    /// Whether a repeat with the same `Idempotency-Key` gets the first answer.
    pub is_once: bool,
    /// Whether it takes `If-Match`.
    pub takes_match: bool,
    /// Who answers it; none for those that the service answers itself.
    pub handler: Option<Handler>,
}

impl std::fmt::Debug for Operation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} ({})", self.method, self.path, self.id)
    }
}

/// What a handler knows of its request.
pub struct Context<'a> {
    /// What the relay's parts share.
    pub state: &'a Arc<State>,
    /// Who asks.
    pub principal: &'a Principal,
    /// Where the request came from.
    pub peer: IpAddr,
    /// The parameters in the query.
    pub query: Query,
    path: Vec<(&'static str, String)>,
}

impl Context<'_> {
    /// What stands for `{name}` in the path.
    pub fn path(&self, name: &str) -> &str {
        let found = self.path.iter().find(|(known, _)| *known == name);
        found.map_or("", |(_, value)| value)
    }

    /// The database, for what is done in the caller's name.
    pub fn storage(&self) -> Storage {
        let storage = self.state.directory.storage();
        storage.acting(&self.principal.client_id)
    }

    /// Whether a site administrator asks.
    pub fn is_site_admin(&self) -> bool {
        self.principal.role == Role::SiteAdmin
    }

    /// Refuses what is not within the key's scope.
    ///
    /// # Errors
    /// `forbidden`.
    pub fn check(&self, object: Object<'_>) -> Result<(), Problem> {
        Ok(self.principal.scope.check(object)?)
    }

    /// The tenant (its id) that the request is about: the key's own, or the one that a site
    /// administrator names.
    ///
    /// # Errors
    /// `invalid_request` when none is named, `not_found` for one that is not there, `forbidden` for
    /// another's.
    pub fn tenant(&self) -> Result<Arc<str>, Problem> {
        self.tenant_of(self.query.text("tenant"))
    }

    /// The same, for a tenant that is named elsewhere than in the query.
    ///
    /// # Errors
    /// As [`Self::tenant`].
    pub fn tenant_of(&self, named: Option<&str>) -> Result<Arc<str>, Problem> {
        match named {
            None if self.is_site_admin() => {
                Err(Problem::invalid("a site administrator names the tenant"))
            }
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

/// The longest path that is looked at.
const SEGMENTS_MAX: usize = 8;

/// What the template's `{names}` stand for, if the path is one of its.
fn fit(template: &'static str, path: &str) -> Option<Vec<(&'static str, String)>> {
    let mut found = Vec::new();
    let (mut expected, mut given) = (template.split('/'), path.split('/'));
    loop {
        match (expected.next(), given.next()) {
            (None, None) => return Some(found),
            (Some(part), Some(segment)) => {
                match part.strip_prefix('{').and_then(|p| p.strip_suffix('}')) {
                    // Names need no encoding; what is encoded is no name.
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

/// Answers a request for one of the resources.
///
/// # Errors
/// A problem; `not_found` and `method_not_allowed` before anybody is asked for a key.
pub async fn dispatch(
    service: &Service,
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
        others.sort_unstable();
        others.dedup();
        return Err(match others.is_empty() {
            true => Problem::not_found(),
            false => Problem::methods(&others),
        });
    };
    let principal = service
        .authenticator
        .authenticate(request.headers(), connection.peer.ip())
        .await?;
    connection.authenticated(&principal.tenant);
    let state = &service.state;
    let note = |failure: &Failure| state.note_denial(&principal, failure.code, peer);
    principal
        .admit(operation.roles, operation.resource)
        .inspect_err(note)?;
    let query = Query::read(request.uri().query(), operation.query)?;
    let state = &service.state;
    // Held until the response is written, as is the memory that the response takes.
    let permit = state.exchanges.begin_operation(&principal)?;
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
    let result = admitted.answer(query, path, request).await;
    let result = result.inspect_err(|problem| match operation.resource {
        // It notes by itself whatever fails.
        Resource::Pairing => {}
        _ => note(&problem.failure),
    });
    let mut reservation = reservation(state, connection, &permit);
    let held = result.and_then(|response| {
        let bytes = response.body().unreserved_bytes();
        match reservation.try_grow_to(bytes) {
            Ok(()) => {}
            // What was done is said in any case.
            Err(_) if !is_read => reservation.grow_anyway_to(bytes),
            Err(none) => return Err(none.problem()),
        }
        let (permit, memory) = (permit.clone(), reservation);
        Ok(response.map(|body| body.with_permit(permit).with_memory(memory)))
    });
    held.map_err(|problem| problem.holding(permit))
}

/// An empty reservation for what a connection asks for.
pub(crate) fn reservation(
    state: &State,
    connection: &Arc<Connection>,
    permit: &ExchangePermit,
) -> Reservation {
    let max = state.limits().connection_memory_max.0;
    permit.reservation().on(connection, max)
}

/// A request that has a permit.
struct Admitted<'a> {
    state: &'a Arc<State>,
    principal: &'a Principal,
    permit: &'a ExchangePermit,
    operation: &'static Operation,
    handler: Handler,
    peer: IpAddr,
}

impl Admitted<'_> {
    async fn answer(
        self,
        query: Query,
        path: Vec<(&'static str, String)>,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Problem> {
        let (parts, mut incoming) = request.into_parts();
        let mut memory = self.permit.reservation();
        let body = match parts.method {
            Method::POST | Method::PUT | Method::PATCH => {
                let idle = self.state.limits().caller_idle_timeout.0;
                let body = json::body(&mut incoming, idle, &mut memory).await;
                if body.is_err() && parts.version == Version::HTTP_2 {
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
        if self.operation.is_once {
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
    fn every_operation_has_a_name_of_its_own_and_a_path_that_can_be_found() {
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
    fn a_path_fits_its_template_alone() {
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
