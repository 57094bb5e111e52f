//! The route of a URL: the one decision for calls, stored calls, their retries and `explain`.
//!
//! | the URL | route |
//! | --- | --- |
//! | the request names a bridge, or a connected bridge serves the host | through that bridge |
//! | it matches a pattern of the tenant's `direct_urls`, and is not pinned to a bridge | direct |
//! | a bridge that could serve it is offline, not ready or disabled, or none is paired | none now: a call fails, a stored call waits |
//! | every bridge is ready and none serves it | rejected |
//!
//! [`rule`] is that table. It is pure. What it needs of a stored call's URL is stored with the call
//! ([`DirectClass`]), because the URL itself is encrypted.

use super::no_tunnel::{NoTunnel, Reason};
use crate::direct::{self, Direct};
use crate::registry::{Registry, TunnelEntry};
use crate::routing::identities::Identities;
use crate::routing::select_tunnel::{self, Purpose, RouteTarget, Search};
pub(crate) use crate::storage::calls::DirectClass;
use policy::{Host, Policy, Target};
use protocol::{Code, Failure};
use std::sync::Arc;

/// What a decision depends on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Routes<'a> {
    /// The connected tunnels.
    pub registry: &'a Registry,
    /// Tenants and the bridges that they have paired.
    pub identities: &'a dyn Identities,
    /// The calls that the relay makes itself.
    pub direct: &'a Direct,
}

/// The route of a request.
#[derive(Debug)]
pub(crate) enum Route {
    /// Through a bridge; the tunnel that would be chosen now.
    Bridge(Arc<TunnelEntry>),
    /// Sent by the relay itself, under this policy.
    Direct(Box<Policy>),
    /// No route.
    Refused(Failure),
}

/// A request to be routed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RouteRequest<'a> {
    /// The tenant's id.
    pub tenant: &'a Arc<str>,
    /// The bridge that the request names.
    pub bridge: Option<&'a str>,
    /// Bridges that the key is limited to; empty for any.
    pub within: &'a [String],
    /// The parsed URL.
    pub target: &'a Target,
    /// The URL as it was given.
    pub url: &'a str,
    /// Its method.
    pub method: &'a str,
    /// Whether it needs a credential, which only bridges have.
    pub has_credential: bool,
    /// Tunnels that are excluded.
    pub except: &'a [Arc<TunnelEntry>],
}

/// The result of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RouteDecision<T> {
    /// Through this tunnel.
    Bridge(T),
    /// Sent by the relay itself.
    Direct,
    /// No route now. No bridge has rejected it, so it may have one later.
    Deferred(NoTunnel),
    /// Every bridge is ready, and none of them serves it.
    Refused(NoTunnel),
}

/// The table. `tunnel` is the selected tunnel; `is_pinned` excludes a direct call, and `is_direct` states that the
/// URL matches a pattern of the tenant.
pub(crate) fn rule<T>(
    tunnel: Result<T, NoTunnel>,
    is_pinned: bool,
    is_direct: bool,
) -> RouteDecision<T> {
    match tunnel {
        Ok(tunnel) => RouteDecision::Bridge(tunnel),
        Err(_) if is_direct && !is_pinned => RouteDecision::Direct,
        Err(none) if none.reason.is_refusal() => RouteDecision::Refused(none),
        Err(none) => RouteDecision::Deferred(none),
    }
}

/// Decides the route. The name is resolved only if there is no route, and only for the error message.
pub(crate) async fn decide(routes: Routes<'_>, request: RouteRequest<'_>) -> Route {
    let search = Search {
        tenant: request.tenant,
        bridge: request.bridge,
        target: RouteTarget::Host(request.target.host()),
        within: request.within,
        except: request.except,
        purpose: Purpose::Request,
    };
    let tunnel = select_tunnel::search_tunnel(routes.registry, routes.identities, search);
    // A caller that names a bridge wants that one, and a key that is limited to bridges may use no other route.
    let is_pinned =
        request.bridge.is_some() || !request.within.is_empty() || request.has_credential;
    let policy = match (&tunnel, is_pinned) {
        (Err(_), false) => direct_policy(routes, request),
        (Ok(_), _) | (Err(_), true) => None,
    };
    let none = match (rule(tunnel, is_pinned, policy.is_some()), policy) {
        (RouteDecision::Bridge(entry), _) => return Route::Bridge(entry),
        (RouteDecision::Direct, Some(policy)) => return Route::Direct(Box::new(policy)),
        // Unreachable: the rule returns direct only with a policy.
        (RouteDecision::Direct, None) => {
            let detail = "the URL matches no pattern of the tenant";
            return Route::Refused(Failure::not_sent(Code::RefusedByPolicy, detail));
        }
        (RouteDecision::Deferred(none) | RouteDecision::Refused(none), _) => none,
    };
    // A bridge that is offline may serve the host when it is back, so the address decides nothing then.
    let may_be_public = matches!(none.reason, Reason::NoBridge | Reason::NotServed);
    if request.bridge.is_some() || !request.within.is_empty() || !may_be_public {
        return Route::Refused(none.failure);
    }
    let addresses = routes
        .direct
        .addresses(request.tenant, request.target.host())
        .await;
    if Direct::are_public(&addresses) {
        let detail = format!(
            "{} is public, and this tenant may not call it directly: a site administrator can \
             enable it (direct_urls), or a bridge can serve it",
            request.target.host()
        );
        return Route::Refused(Failure::not_sent(Code::RefusedByPolicy, detail));
    }
    Route::Refused(none.failure)
}

/// Returns the tenant's policy for direct calls, if it allows this one.
fn direct_policy(routes: Routes<'_>, request: RouteRequest<'_>) -> Option<Policy> {
    let patterns = routes.identities.direct_urls(request.tenant);
    if patterns.is_empty() {
        return None;
    }
    // The patterns were validated when they were set.
    let policy = direct::pattern::policy(&patterns).ok()?;
    let allowed = policy.decide_url(request.method, request.url).is_ok();
    allowed.then_some(policy)
}

/// What the route of a stored call depends on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StoredRoute<'a> {
    /// The tenant's id.
    pub tenant: &'a Arc<str>,
    /// The bridge that the request names.
    pub bridge: Option<&'a str>,
    /// The URL's host.
    pub host: &'a str,
    /// Whether the URL matches a pattern of the tenant's.
    pub is_direct: bool,
}

/// Decides the route of a stored call without waiting: names are not resolved.
pub(crate) fn decide_stored(
    routes: Routes<'_>,
    stored: StoredRoute<'_>,
) -> RouteDecision<Arc<TunnelEntry>> {
    let deferred = |code, detail: String| {
        RouteDecision::Deferred(NoTunnel {
            reason: Reason::Away,
            failure: Failure::not_sent(code, detail),
        })
    };
    if !routes.identities.is_active(stored.tenant) {
        return deferred(Code::TenantSuspended, "the tenant is suspended".to_owned());
    }
    let host = match host_of(stored.host) {
        Ok(host) => host,
        // The host was parsed when the call was accepted. If it fails now, that is a defect here, and the call must
        // not be lost for it.
        Err(detail) => return deferred(Code::Internal, detail),
    };
    let tunnel = tunnel_for_delivery(routes, stored.tenant, stored.bridge, &host);
    rule(tunnel, stored.bridge.is_some(), stored.is_direct)
}

fn tunnel_for_delivery(
    routes: Routes<'_>,
    tenant: &str,
    bridge: Option<&str>,
    host: &Host,
) -> Result<Arc<TunnelEntry>, NoTunnel> {
    let search = Search {
        tenant,
        bridge,
        target: RouteTarget::Host(host),
        within: &[],
        except: &[],
        purpose: Purpose::Delivery,
    };
    select_tunnel::search_tunnel(routes.registry, routes.identities, search)
}

/// Returns whether a bridge that is offline or not ready may be the one that serves the host.
pub(crate) fn is_waited_for(routes: Routes<'_>, tenant: &str, host: &Host) -> bool {
    match tunnel_for_delivery(routes, tenant, None, host) {
        Ok(_) => true,
        Err(none) => matches!(none.reason, Reason::Away | Reason::NotReady),
    }
}

fn host_of(text: &str) -> Result<Host, String> {
    let target = Target::parse(&format!("http://{text}/")).map_err(|error| error.to_string())?;
    Ok(target.host().clone())
}

/// Decides whether a call to a URL may be sent directly. A call that names a bridge, or needs a credential of a
/// bridge, may not.
pub(crate) fn classify(
    patterns: &[String],
    method: &str,
    url: &str,
    is_pinned: bool,
) -> DirectClass {
    let is_direct = !is_pinned
        && !patterns.is_empty()
        && direct::pattern::policy(patterns)
            .is_ok_and(|policy| policy.decide_url(method, url).is_ok());
    DirectClass {
        is_direct,
        mark: patterns_mark(patterns),
    }
}

/// Returns a number that identifies a list of patterns; 0 for the empty list.
pub(crate) fn patterns_mark(patterns: &[String]) -> i64 {
    if patterns.is_empty() {
        return 0;
    }
    let text = serde_json::to_vec(patterns).unwrap_or_default();
    let digest = ring::digest::digest(&ring::digest::SHA256, &text);
    let first = digest.as_ref().first_chunk::<8>().copied();
    i64::from_be_bytes(first.unwrap_or_default()) | 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn none(reason: Reason) -> NoTunnel {
        NoTunnel {
            reason,
            failure: Failure::not_sent(Code::BridgeOffline, ""),
        }
    }

    #[test]
    fn rule_prefers_bridge_then_direct_on_match() {
        const REASONS: [Reason; 5] = [
            Reason::NoBridge,
            Reason::UnknownBridge,
            Reason::Away,
            Reason::NotReady,
            Reason::NotServed,
        ];
        for is_pinned in [false, true] {
            for is_direct in [false, true] {
                // A tunnel that serves it comes first.
                assert_eq!(rule(Ok(1), is_pinned, is_direct), RouteDecision::Bridge(1));
                for reason in REASONS {
                    let decision = rule::<u8>(Err(none(reason)), is_pinned, is_direct);
                    let expected = match (is_direct && !is_pinned, reason) {
                        (true, _) => RouteDecision::Direct,
                        (false, Reason::NotServed) => RouteDecision::Refused(none(reason)),
                        (false, _) => RouteDecision::Deferred(none(reason)),
                    };
                    assert_eq!(decision, expected, "{reason:?} {is_pinned} {is_direct}");
                }
            }
        }
    }

    #[test]
    fn class_depends_on_scheme_host_port_and_path() {
        let patterns = [
            "https://hooks.example.com/in/*",
            "http://*.example.com:8080",
        ]
        .map(str::to_owned);
        for (url, is_direct) in [
            ("https://hooks.example.com/in/1?x=y", true),
            ("https://hooks.example.com:443/in/1", true),
            ("http://a.example.com:8080/x", true),
            ("https://hooks.example.com/out", false),
            ("https://hooks.example.com:8443/in/1", false),
            ("http://hooks.example.com/in/1", false),
            ("http://a.example.com/x", false),
            ("https://ci.corp.example/in/1", false),
        ] {
            let class = classify(&patterns, "POST", url, false);
            assert_eq!(class.is_direct, is_direct, "{url}");
            assert_eq!(class.mark, patterns_mark(&patterns));
            assert!(!classify(&patterns, "POST", url, true).is_direct, "{url}");
            assert_eq!(classify(&[], "POST", url, false), DirectClass::default());
        }
    }

    #[test]
    fn pattern_mark_differs_between_lists() {
        let mark = |patterns: &[&str]| {
            let patterns: Vec<String> = patterns.iter().map(|&text| text.to_owned()).collect();
            patterns_mark(&patterns)
        };
        assert_eq!(mark(&[]), 0);
        let one = mark(&["https://a.example/*"]);
        assert_ne!(one, 0);
        assert_eq!(one, mark(&["https://a.example/*"]));
        assert_ne!(one, mark(&["https://b.example/*"]));
        assert_ne!(
            mark(&["https://a.example/", "https://b.example/"]),
            mark(&["https://a.example/https://b.example/"])
        );
    }
}
