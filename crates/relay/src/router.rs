//! Which tunnel a request takes.
//!
//! | the request | goes |
//! | --- | --- |
//! | names a bridge | through that bridge, whose policy decides |
//! | to an endpoint | through a bridge that declares it |
//! | to a URL | through a bridge whose patterns match the host, or which keeps them to itself |
//!
//! Of several, the one with the fewest open streams. Nothing declares it: the failure says
//! whether a bridge is missing, away, or does not allow it.

use crate::registry::{Entry, Registry};
use policy::Host;
use protocol::{Code, Failure};
use std::sync::Arc;

/// What a request asks for.
#[derive(Debug, Clone, Copy)]
pub enum Wanted<'a> {
    /// A named endpoint.
    Endpoint(&'a str),
    /// The host of a URL.
    Host(&'a Host),
}

/// The bridges that a tenant has paired, up or not: their names.
pub trait Paired {
    /// Names of the tenant's bridges that are neither disabled nor revoked.
    fn bridges(&self, tenant: &str) -> Vec<Arc<str>>;
}

/// Chooses a tunnel; `except` are those that were tried already.
///
/// # Errors
/// A failure that never left the relay.
pub fn choose(
    registry: &Registry,
    paired: &impl Paired,
    tenant: &str,
    bridge: Option<&str>,
    wanted: Wanted<'_>,
    within: &[String],
    except: &[Arc<Entry>],
) -> Result<Arc<Entry>, Failure> {
    find(registry, tenant, bridge, wanted, within, except)
        .ok_or_else(|| explain(registry, paired, tenant, bridge, wanted, within))
}

/// As [`choose`], where nobody asks why there is none.
pub fn find(
    registry: &Registry,
    tenant: &str,
    bridge: Option<&str>,
    wanted: Wanted<'_>,
    within: &[String],
    except: &[Arc<Entry>],
) -> Option<Arc<Entry>> {
    let is_within =
        |entry: &Entry| within.is_empty() || within.iter().any(|n| **n == *entry.owner.name);
    let best = registry.with_tenant(tenant, |tunnels| {
        let declaring = match wanted {
            Wanted::Endpoint(name) => tunnels.serving(name),
            Wanted::Host(_) => tunnels.all(),
        };
        // Where there is a choice, one that reaches the target is better than one that does not.
        let has_choice = declaring.len() > 1;
        let is_ill = |entry: &Entry| match wanted {
            Wanted::Endpoint(name) => has_choice && entry.session.endpoint_is_down(name),
            Wanted::Host(_) => false,
        };
        let fit = declaring.iter().filter(|entry| {
            !except.iter().any(|tried| Arc::ptr_eq(tried, entry))
                && fits(entry, bridge, wanted)
                && is_within(entry)
        });
        least_busy(fit, is_ill)
    });
    best.flatten()
}

/// Whether a tunnel that declares the endpoint may take it. A bridge that was asked for by name is
/// asked for any host.
fn fits(entry: &Entry, bridge: Option<&str>, wanted: Wanted<'_>) -> bool {
    match (bridge, wanted) {
        (Some(name), _) => &*entry.owner.name == name,
        (None, Wanted::Endpoint(_)) => true,
        (None, Wanted::Host(host)) => entry.offer().may_serve(host),
    }
}

/// The one with the fewest streams of those that take more; one that is ill only if all are.
fn least_busy<'a>(
    entries: impl Iterator<Item = &'a Arc<Entry>>,
    is_ill: impl Fn(&Entry) -> bool,
) -> Option<Arc<Entry>> {
    let mut best = None;
    for entry in entries {
        let Some(streams) = entry.session.load() else {
            continue;
        };
        let rank = (is_ill(entry), streams);
        if best.is_none_or(|(least, _)| rank < least) {
            best = Some((rank, entry));
        }
        if rank == (false, 0) {
            break;
        }
    }
    best.map(|(_, entry)| entry.clone())
}

/// Why there is no tunnel.
fn explain(
    registry: &Registry,
    paired: &impl Paired,
    tenant: &str,
    bridge: Option<&str>,
    wanted: Wanted<'_>,
    within: &[String],
) -> Failure {
    let mut known = paired.bridges(tenant);
    // Other bridges cannot help a caller that is narrowed to some.
    known.retain(|name| within.is_empty() || within.iter().any(|other| **other == **name));
    if known.is_empty() && bridge.is_none() {
        let detail =
            "no bridge is paired with this tenant: install one where the target can be reached";
        return Failure::not_sent(Code::NoBridge, detail);
    }
    let online = registry.of_tenant(tenant);
    let is_up = |name: &str| {
        let mut up = online.iter();
        up.any(|entry| &*entry.owner.name == name && entry.session.is_open())
    };
    if let Some(name) = bridge {
        if !known.iter().any(|other| &**other == name) {
            let detail = format!("there is no bridge named {name}");
            return Failure::not_sent(Code::NotFound, detail);
        }
        if !is_up(name) {
            let detail = format!("the bridge {name} is not connected");
            return Failure::not_sent(Code::BridgeOffline, detail);
        }
    }
    let away: Vec<&str> = known
        .iter()
        .map(|name| &**name)
        .filter(|name| bridge.is_none_or(|wanted| wanted == *name) && !is_up(name))
        .collect();
    if !away.is_empty() {
        let detail = format!(
            "no connected bridge serves this, and these are away: {}",
            listed(&away)
        );
        return Failure::not_sent(Code::BridgeOffline, detail);
    }
    match wanted {
        Wanted::Endpoint(name) => {
            let detail = format!("no bridge declares an endpoint named {name}");
            Failure::not_sent(Code::UnknownEndpoint, detail)
        }
        Wanted::Host(host) => {
            let detail = format!(
                "no connected bridge allows the host {host}: add an [[allow]] rule for it on a bridge, \
                 or install a bridge where it can be reached"
            );
            Failure::not_sent(Code::RefusedByPolicy, detail)
        }
    }
}

/// Up to three of the names.
fn listed(names: &[&str]) -> String {
    let mut text = names.iter().take(3).copied().collect::<Vec<_>>().join(", ");
    if names.len() > 3 {
        text.push_str(", ...");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Names(&'static [&'static str]);

    impl Paired for Names {
        fn bridges(&self, _: &str) -> Vec<Arc<str>> {
            self.0.iter().map(|name| Arc::from(*name)).collect()
        }
    }

    #[test]
    fn without_a_tunnel_the_failure_tells_missing_from_away() {
        let registry = Registry::new(1, 1);
        let wanted = Wanted::Endpoint("alm");
        let code = |names, bridge| {
            let chosen = choose(&registry, &Names(names), "t", bridge, wanted, &[], &[]);
            chosen.unwrap_err().code
        };
        assert_eq!(code(&[], None), Code::NoBridge);
        assert_eq!(code(&["a"], None), Code::BridgeOffline);
        assert_eq!(code(&["a"], Some("a")), Code::BridgeOffline);
        assert_eq!(code(&["a"], Some("b")), Code::NotFound);
    }
}
