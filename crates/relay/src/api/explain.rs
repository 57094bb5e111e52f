//! `POST /v1/calls/explain`: which way a URL would go, and why. Nothing is sent.

use super::{Context, Handling, json};
use crate::access::Object;
use crate::problem::Problem;
use crate::routing::{self, Route, Sent};
use bytes::Bytes;
use http::{Request, StatusCode};
use policy::Target;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is asked about.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RouteQuery {
    /// An absolute `http` or `https` URL.
    #[schemars(length(max = 8192))]
    url: String,
    /// Default `POST`.
    method: Option<String>,
    /// Through this bridge.
    bridge: Option<String>,
}

/// The way, and why.
#[derive(Debug, Serialize, JsonSchema)]
pub struct RouteExplanation {
    /// `bridge`, `direct` or `refused`.
    route: &'static str,
    /// The bridge that would be chosen now.
    bridge: Option<String>,
    /// All connected bridges that could take it, by name.
    bridges: Vec<String>,
    /// Why, in words; and for a refusal what would help.
    reason: String,
    /// The code that the call would fail with.
    code: Option<&'static str>,
}

pub(crate) fn handle<'a>(cx: &'a Context<'a>, request: Request<Bytes>) -> Handling<'a> {
    Box::pin(async move {
        let query: RouteQuery = json::read(&request)?;
        let target = Target::parse(&query.url).map_err(|error| {
            Problem::invalid(format!("url: {error}; http or https is expected"))
        })?;
        let bridge = query.bridge.as_deref();
        let scope = &cx.principal.scope;
        scope.check(Object::Host {
            host: target.host(),
            bridge,
            credential: None,
        })?;
        let method = query.method.as_deref().unwrap_or("POST");
        let sent = Sent {
            tenant: &cx.principal.tenant,
            bridge,
            within: scope.bridges(),
            target: &target,
            url: &query.url,
            method,
            has_credential: false,
            except: &[],
        };
        let route = routing::decide(cx.state, sent).await;
        let mut bridges: Vec<String> = cx
            .state
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
        bridges.dedup();
        let host = target.host();
        let explanation = match route {
            Route::Bridge(entry) => RouteExplanation {
                route: "bridge",
                reason: format!(
                    "the connected bridge {} serves {host}; its own policy decides again",
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
