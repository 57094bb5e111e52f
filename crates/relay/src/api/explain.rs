//! `POST /v1/calls/explain`: explains the route of a URL. Nothing is sent.

use super::{Context, Handling, json};
use crate::access::Object;
use crate::problem::Problem;
use crate::routing::{self, Route, RouteRequest};
use bytes::Bytes;
use http::{Request, StatusCode};
use policy::Target;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A URL whose route is to be explained.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RouteQuery {
    /// An absolute `http` or `https` URL.
    #[schemars(length(max = 32768))]
    url: String,
    /// The request's method. Defaults to `POST`.
    method: Option<String>,
    /// The bridge that the call would name. Defaults to any.
    bridge: Option<String>,
}

/// The route of a URL and its reason.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct RouteExplanation {
    /// `bridge`, `direct` or `refused`.
    route: &'static str,
    /// The bridge that the relay would choose now.
    bridge: Option<String>,
    /// Connected bridges that may serve the URL, by name.
    bridges: Vec<String>,
    /// The reason; for a refusal, with what would change it.
    reason: String,
    /// The code that the call would fail with; null if it has a route.
    code: Option<&'static str>,
}

pub(crate) fn handle<'a>(cx: &'a Context<'a>, request: Request<Bytes>) -> Handling<'a> {
    Box::pin(async move {
        let query: RouteQuery = json::read(&request)?;
        let target = Target::parse(&query.url).map_err(|error| {
            Problem::invalid(format!("url: {error}; expected an http or https URL"))
        })?;
        let bridge = query.bridge.as_deref();
        // Checked as for the call itself, so that explaining reveals nothing that calling would not.
        let scope = &cx.principal.scope;
        scope.check(Object::Host {
            host: target.host(),
            bridge,
            credential: None,
        })?;
        let method = query.method.as_deref().unwrap_or("POST");
        let sent = RouteRequest {
            tenant: &cx.principal.tenant,
            bridge,
            within: scope.bridges(),
            target: &target,
            url: &query.url,
            method,
            has_credential: false,
            except: &[],
        };
        let route = routing::decide(cx.state.data.routes(), sent).await;
        let mut bridges: Vec<String> = cx
            .state
            .data
            .registry
            .of_tenant(&cx.principal.tenant)
            .iter()
            .filter(|entry| entry.session.is_open())
            .filter(|entry| scope.sees(Object::Bridge(&entry.owner.name)))
            .filter(|entry| match bridge {
                Some(name) => &*entry.owner.name == name,
                None => entry.offer().may_serve(target.host()),
            })
            .map(|entry| entry.owner.name.to_string())
            .collect();
        bridges.sort_unstable();
        // A bridge with several tunnels is listed once.
        bridges.dedup();
        let host = target.host();
        let explanation = match route {
            Route::Bridge(entry) => RouteExplanation {
                route: "bridge",
                reason: format!(
                    "the connected bridge {} serves {host}; its own policy also decides",
                    entry.owner.name
                ),
                bridge: Some(entry.owner.name.to_string()),
                bridges,
                code: None,
            },
            Route::Direct(_) => RouteExplanation {
                route: "direct",
                bridge: None,
                bridges,
                reason: format!(
                    "no connected bridge serves {host}, and a site administrator has enabled this \
                     URL for direct calls; every address of it must be public"
                ),
                code: None,
            },
            Route::Refused(failure) => RouteExplanation {
                route: "refused",
                bridge: None,
                bridges,
                reason: failure.detail,
                code: Some(failure.code.as_str()),
            },
        };
        json::reply(StatusCode::OK, &explanation)
    })
}
