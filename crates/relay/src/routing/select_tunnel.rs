//! Selects the tunnel for a request.
//!
//! | the request | goes |
//! | --- | --- |
//! | names a bridge | through that bridge, whose policy decides |
//! | to an endpoint | through a bridge that declares it |
//! | to a URL | through a bridge whose patterns match the host, or that declares no patterns |
//!
//! Of several tunnels, the one with the fewest open streams. `no_tunnel` explains why there is none.

use super::no_tunnel::{NoTunnel, TunnelState, explain};
use crate::registry::{Registry, TunnelEntry};
use policy::Host;
use protocol::Failure;
use std::sync::Arc;

/// The target of a request.
#[derive(Debug, Clone, Copy)]
pub(crate) enum RouteTarget<'a> {
    /// A named endpoint.
    Endpoint(&'a str),
    /// The host of a URL.
    Host(&'a Host),
}

/// What a tunnel is selected for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A request whose caller waits.
    Request,
    /// An attempt of a stored call: the bridge must keep a journal, and the relay must have compared it with what it
    /// knows of earlier attempts.
    Delivery,
}

/// A bridge that a tenant has paired, connected or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PairedBridge {
    /// Its name.
    pub name: Arc<str>,
    /// The number of its installations that are not revoked.
    pub installations: usize,
    /// Their identities.
    pub identities: Vec<Arc<str>>,
}

/// Knows the bridges that a tenant has paired.
pub(crate) trait Paired {
    /// Returns the tenant's bridges that are not revoked. A disabled bridge counts, because it may be enabled again.
    fn bridges(&self, tenant: &str) -> Vec<PairedBridge>;
}

/// The criteria for a tunnel.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Search<'a> {
    /// The tenant's id.
    pub tenant: &'a str,
    /// The bridge that the request names.
    pub bridge: Option<&'a str>,
    /// The target.
    pub target: RouteTarget<'a>,
    /// Bridges that the key is limited to; empty for any.
    pub within: &'a [String],
    /// Tunnels that were tried already.
    pub except: &'a [Arc<TunnelEntry>],
    /// What the tunnel is selected for.
    pub purpose: Purpose,
}

/// Chooses a tunnel for a request; `except` were tried already.
///
/// # Errors
/// Why there is none. The request was not sent.
pub(crate) fn choose(
    registry: &Registry,
    paired: &(impl Paired + ?Sized),
    tenant: &str,
    bridge: Option<&str>,
    target: RouteTarget<'_>,
    within: &[String],
    except: &[Arc<TunnelEntry>],
) -> Result<Arc<TunnelEntry>, Failure> {
    let search = Search {
        tenant,
        bridge,
        target,
        within,
        except,
        purpose: Purpose::Request,
    };
    search_tunnel(registry, paired, search).map_err(|none| none.failure)
}

/// Chooses a tunnel for any purpose.
///
/// # Errors
/// Why there is none.
pub(crate) fn search_tunnel(
    registry: &Registry,
    paired: &(impl Paired + ?Sized),
    search: Search<'_>,
) -> Result<Arc<TunnelEntry>, NoTunnel> {
    if let Some(entry) = find_for(registry, search) {
        return Ok(entry);
    }
    let online = registry.of_tenant(search.tenant);
    let states: Vec<TunnelState> = online
        .iter()
        .map(|entry| TunnelState::of(entry, search.target))
        .collect();
    let last_served = |identity: &str| {
        let offer = registry.last_offer(identity)?;
        Some(match search.target {
            RouteTarget::Endpoint(name) => offer.declares(name),
            RouteTarget::Host(host) => offer.may_serve(host),
        })
    };
    let known = paired.bridges(search.tenant);
    Err(explain(&known, &states, &last_served, search))
}

/// As [`choose`], without the reason if there is none.
pub(crate) fn find(
    registry: &Registry,
    tenant: &str,
    bridge: Option<&str>,
    target: RouteTarget<'_>,
    within: &[String],
    except: &[Arc<TunnelEntry>],
) -> Option<Arc<TunnelEntry>> {
    let search = Search {
        tenant,
        bridge,
        target,
        within,
        except,
        purpose: Purpose::Request,
    };
    find_for(registry, search)
}

fn find_for(registry: &Registry, search: Search<'_>) -> Option<Arc<TunnelEntry>> {
    let Search {
        target,
        within,
        except,
        ..
    } = search;
    let is_within =
        |entry: &TunnelEntry| within.is_empty() || within.iter().any(|n| **n == *entry.owner.name);
    let best = registry.with_tenant(search.tenant, |tunnels| {
        let declaring = match target {
            RouteTarget::Endpoint(name) => tunnels.serving(name),
            RouteTarget::Host(_) => tunnels.all(),
        };
        // An unhealthy endpoint is avoided only if there is another one: with a single one the request itself shows
        // whether the target is back.
        let has_choice = declaring.len() > 1;
        let is_unhealthy = |entry: &TunnelEntry| match target {
            RouteTarget::Endpoint(name) => has_choice && entry.session.endpoint_is_down(name),
            RouteTarget::Host(_) => false,
        };
        let fit = declaring.iter().filter(|entry| {
            !except.iter().any(|tried| Arc::ptr_eq(tried, entry))
                && (search.purpose == Purpose::Request || entry.is_delivering())
                && fits(entry, search.bridge, target)
                && is_within(entry)
        });
        least_busy(fit, is_unhealthy)
    });
    best.flatten()
}

/// Returns whether a tunnel may take the request. A bridge that the request names gets it for any host: its policy
/// decides.
fn fits(entry: &TunnelEntry, bridge: Option<&str>, target: RouteTarget<'_>) -> bool {
    match (bridge, target) {
        (Some(name), _) => &*entry.owner.name == name,
        (None, RouteTarget::Endpoint(_)) => true,
        (None, RouteTarget::Host(host)) => entry.offer().may_serve(host),
    }
}

/// Returns whether a tunnel declares the target.
pub(super) fn serves(entry: &TunnelEntry, target: RouteTarget<'_>) -> bool {
    match target {
        RouteTarget::Endpoint(name) => entry.offer().endpoints().any(|known| known == name),
        RouteTarget::Host(host) => entry.offer().may_serve(host),
    }
}

/// Returns the tunnel with the fewest streams of those that accept more; an unhealthy one only if all are.
fn least_busy<'a>(
    entries: impl Iterator<Item = &'a Arc<TunnelEntry>>,
    is_unhealthy: impl Fn(&TunnelEntry) -> bool,
) -> Option<Arc<TunnelEntry>> {
    let mut best = None;
    for entry in entries {
        // `None`: the session drains, or has reached its limit of streams.
        let Some(streams) = entry.session.load() else {
            continue;
        };
        let rank = (is_unhealthy(entry), streams);
        if best.is_none_or(|(least, _)| rank < least) {
            best = Some((rank, entry));
        }
        // Nothing can be better.
        if rank == (false, 0) {
            break;
        }
    }
    best.map(|(_, entry)| entry.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::Code;

    struct Names(&'static [&'static str]);

    impl Paired for Names {
        fn bridges(&self, _: &str) -> Vec<PairedBridge> {
            let paired = |name: &&str| PairedBridge {
                name: (*name).into(),
                installations: 1,
                identities: vec![(*name).into()],
            };
            self.0.iter().map(paired).collect()
        }
    }

    #[test]
    fn missing_bridge_and_offline_bridge_have_own_codes() {
        let registry = Registry::new(1, 1);
        let target = RouteTarget::Endpoint("alm");
        let code = |names, bridge| {
            let chosen = choose(&registry, &Names(names), "t", bridge, target, &[], &[]);
            chosen.unwrap_err().code
        };
        assert_eq!(code(&[], None), Code::NoBridge);
        assert_eq!(code(&["a"], None), Code::BridgeOffline);
        assert_eq!(code(&["a"], Some("a")), Code::BridgeOffline);
        assert_eq!(code(&["a"], Some("b")), Code::NotFound);
    }
}
