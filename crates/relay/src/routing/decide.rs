//! Which way a URL goes: the one decision for calls, stored calls, their retries and `explain`.
//!
//! | the URL | goes |
//! | --- | --- |
//! | a bridge is named, or a connected one serves its host | through that bridge |
//! | it matches a pattern of the tenant's `direct_urls`, and nothing pins it to a bridge | direct |
//! | a bridge that could serve it is away, not ready or disabled, or none is paired | nowhere yet: a call fails, a stored call waits |
//! | every bridge is ready and none serves it | refused |
//!
//! [`rule`] is that table. It is pure. What it needs of a stored call's URL is stored with the call
//! ([`DirectClass`]), for the URL itself is sealed.

use crate::direct::{self, Direct};
use crate::registry::TunnelEntry;
use crate::routing::select_tunnel::{self, NoTunnel, Purpose, Reason, RouteTarget, Search};
use crate::state::State;
pub use crate::storage::calls::DirectClass;
use policy::{Host, Policy, Target};
use protocol::{Code, Failure};
use std::sync::Arc;

/// The way.
#[derive(Debug)]
pub enum Route {
    /// Through a bridge; the one that would be chosen now.
    Bridge(Arc<TunnelEntry>),
    /// By the relay itself, as far as this policy allows.
    Direct(Box<Policy>),
    /// No way.
    Refused(Failure),
}

/// What is to be sent.
#[derive(Debug, Clone, Copy)]
pub struct Sent<'a> {
    /// Whose it is (the tenant's id).
    pub tenant: &'a Arc<str>,
    /// The bridge that was asked for.
    pub bridge: Option<&'a str>,
    /// Bridges that it may go through; empty for any.
    pub within: &'a [String],
    /// Where it goes, and how it was written.
    pub target: &'a Target,
    /// As it was given.
    pub url: &'a str,
    /// Its method.
    pub method: &'a str,
    /// Whether it needs a credential, which only bridges have.
    pub has_credential: bool,
    /// Tunnels that it may not go through.
    pub except: &'a [Arc<TunnelEntry>],
}

/// What the table says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way<T> {
    /// Through this tunnel.
    Bridge(T),
    /// By the relay itself.
    Direct,
    /// There is none as long as things are as they are; no bridge has refused it.
    Later(NoTunnel),
    /// Every bridge that could decide is ready, and none of them serves it.
    Refused(NoTunnel),
}

/// The table. `tunnel` is what the router found; `is_pinned` says that only bridges come into question, and
/// `is_direct` that the URL matches a pattern of the tenant's.
pub fn rule<T>(tunnel: Result<T, NoTunnel>, is_pinned: bool, is_direct: bool) -> Way<T> {
    match tunnel {
        Ok(tunnel) => Way::Bridge(tunnel),
        Err(_) if is_direct && !is_pinned => Way::Direct,
        Err(none) if none.reason.is_refusal() => Way::Refused(none),
        Err(none) => Way::Later(none),
    }
}

/// Says the way. Names are resolved only where no bridge has it, and only to say why not.
pub async fn decide(state: &State, sent: Sent<'_>) -> Route {
    let search = Search {
        tenant: sent.tenant,
        bridge: sent.bridge,
        wanted: RouteTarget::Host(sent.target.host()),
        within: sent.within,
        except: sent.except,
        purpose: Purpose::Request,
    };
    let tunnel = select_tunnel::search_tunnel(&state.registry, &*state.directory, search);
    // A caller that names a bridge wants that one; a key that is narrowed to some has no other way.
    let is_pinned = sent.bridge.is_some() || !sent.within.is_empty() || sent.has_credential;
    let policy = match (&tunnel, is_pinned) {
        (Err(_), false) => enabled(state, sent),
        (Ok(_), _) | (Err(_), true) => None,
    };
    let none = match (rule(tunnel, is_pinned, policy.is_some()), policy) {
        (Way::Bridge(entry), _) => return Route::Bridge(entry),
        (Way::Direct, Some(policy)) => return Route::Direct(Box::new(policy)),
        // The rule says direct only with a policy.
        (Way::Direct, None) => {
            let detail = "the URL matches no pattern of the tenant";
            return Route::Refused(Failure::not_sent(Code::RefusedByPolicy, detail));
        }
        (Way::Later(none) | Way::Refused(none), _) => none,
    };
    // A bridge that is away may serve it when it is back.
    let may_be_public = matches!(none.reason, Reason::NoBridge | Reason::NotServed);
    if sent.bridge.is_some() || !sent.within.is_empty() || !may_be_public {
        return Route::Refused(none.failure);
    }
    let addresses = state
        .direct
        .addresses(sent.tenant, sent.target.host())
        .await;
    if Direct::are_public(&addresses) {
        let detail = format!(
            "{} is public, and this tenant may not call it directly: a site administrator can \
             enable it (direct_urls), or a bridge can serve it",
            sent.target.host()
        );
        return Route::Refused(Failure::not_sent(Code::RefusedByPolicy, detail));
    }
    Route::Refused(none.failure)
}

/// The tenant's policy for direct calls, if it allows this one.
fn enabled(state: &State, sent: Sent<'_>) -> Option<Policy> {
    let patterns = state.directory.direct_urls(sent.tenant);
    if patterns.is_empty() {
        return None;
    }
    // They were checked when they were set.
    let policy = direct::pattern::policy(&patterns).ok()?;
    let allowed = policy.decide_url(sent.method, sent.url).is_ok();
    allowed.then_some(policy)
}

/// What the route of a stored call depends on.
#[derive(Debug, Clone, Copy)]
pub struct StoredRoute<'a> {
    /// Whose it is (the tenant's id).
    pub tenant: &'a Arc<str>,
    /// The bridge that was asked for.
    pub bridge: Option<&'a str>,
    /// The URL's host.
    pub host: &'a str,
    /// Whether the URL matches a pattern of the tenant's.
    pub is_direct: bool,
}

/// Says the way of a stored call, without waiting for anything: names are not resolved.
pub fn decide_stored(state: &State, stored: StoredRoute<'_>) -> Way<Arc<TunnelEntry>> {
    let later = |code, detail: String| {
        Way::Later(NoTunnel {
            reason: Reason::Away,
            failure: Failure::not_sent(code, detail),
        })
    };
    if !state.directory.is_active(stored.tenant) {
        return later(Code::TenantSuspended, "the tenant is suspended".to_owned());
    }
    let host = match host_of(stored.host) {
        Ok(host) => host,
        // It was parsed when the call was accepted: a defect, and no reason to lose the call.
        Err(detail) => return later(Code::Internal, detail),
    };
    let tunnel = tunnel_for_delivery(state, stored.tenant, stored.bridge, &host);
    rule(tunnel, stored.bridge.is_some(), stored.is_direct)
}

fn tunnel_for_delivery(
    state: &State,
    tenant: &str,
    bridge: Option<&str>,
    host: &Host,
) -> Result<Arc<TunnelEntry>, NoTunnel> {
    let search = Search {
        tenant,
        bridge,
        wanted: RouteTarget::Host(host),
        within: &[],
        except: &[],
        purpose: Purpose::Delivery,
    };
    select_tunnel::search_tunnel(&state.registry, &*state.directory, search)
}

/// Whether a bridge that is not there now, or not ready, may be the one that serves the host.
pub fn is_waited_for(state: &State, tenant: &str, host: &Host) -> bool {
    match tunnel_for_delivery(state, tenant, None, host) {
        Ok(_) => true,
        Err(none) => matches!(none.reason, Reason::Away | Reason::NotReady),
    }
}

fn host_of(text: &str) -> Result<Host, String> {
    let target = Target::parse(&format!("http://{text}/")).map_err(|error| error.to_string())?;
    Ok(target.host().clone())
}

/// Decides whether a call to a URL may go direct. One that names a bridge, or needs a bridge's credential,
/// may not.
pub fn classify(patterns: &[String], method: &str, url: &str, is_pinned: bool) -> DirectClass {
    let is_direct = !is_pinned
        && !patterns.is_empty()
        && direct::pattern::policy(patterns)
            .is_ok_and(|policy| policy.decide_url(method, url).is_ok());
    DirectClass {
        is_direct,
        mark: patterns_mark(patterns),
    }
}

/// A number that tells one list of patterns from another; 0 for the empty list.
pub fn patterns_mark(patterns: &[String]) -> i64 {
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
    fn rule_goes_direct_only_on_a_match_and_refuses_only_by_bridges() {
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
                assert_eq!(rule(Ok(1), is_pinned, is_direct), Way::Bridge(1));
                for reason in REASONS {
                    let way = rule::<u8>(Err(none(reason)), is_pinned, is_direct);
                    let expected = match (is_direct && !is_pinned, reason) {
                        (true, _) => Way::Direct,
                        (false, Reason::NotServed) => Way::Refused(none(reason)),
                        (false, _) => Way::Later(none(reason)),
                    };
                    assert_eq!(way, expected, "{reason:?} {is_pinned} {is_direct}");
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
    fn mark_tells_lists_of_patterns_apart() {
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
