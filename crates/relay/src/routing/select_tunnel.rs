//! Which tunnel a request takes.
//!
//! | the request | goes |
//! | --- | --- |
//! | names a bridge | through that bridge, whose policy decides |
//! | to an endpoint | through a bridge that declares it |
//! | to a URL | through a bridge whose patterns match the host, or which keeps them to itself |
//!
//! Of several, the one with the fewest open streams. Where no tunnel takes the request, [`NoTunnel`] says why:
//! a bridge that is missing, away or not ready is one thing, and the word of bridges that are all connected
//! and ready is another. Only the latter is a refusal.

use crate::registry::{Registry, TunnelEntry};
use policy::Host;
use protocol::{Code, Failure};
use std::sync::Arc;

/// What a request asks for.
#[derive(Debug, Clone, Copy)]
pub enum RouteTarget<'a> {
    /// A named endpoint.
    Endpoint(&'a str),
    /// The host of a URL.
    Host(&'a Host),
}

/// What a tunnel is wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A request whose caller waits.
    Request,
    /// An attempt of a stored call: the bridge keeps a journal, and the relay has compared it with what it
    /// knows of earlier attempts.
    Delivery,
}

/// A bridge that a tenant has paired, connected or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PairedBridge {
    /// Its name.
    pub name: Arc<str>,
    /// Its installations that are not revoked.
    pub installations: usize,
}

/// The bridges that a tenant has paired.
pub trait Paired {
    /// The tenant's bridges that are not revoked. A disabled one counts: it may be enabled again.
    fn bridges(&self, tenant: &str) -> Vec<PairedBridge>;
}

/// Which tunnels come into question.
#[derive(Debug, Clone, Copy)]
pub struct Search<'a> {
    /// Whose request it is (the tenant's id).
    pub tenant: &'a str,
    /// The bridge that was asked for.
    pub bridge: Option<&'a str>,
    /// What it asks for.
    pub wanted: RouteTarget<'a>,
    /// Bridges that it may go through; empty for any.
    pub within: &'a [String],
    /// Tunnels that were tried already.
    pub except: &'a [Arc<TunnelEntry>],
    /// What the tunnel is wanted for.
    pub purpose: Purpose,
}

/// Why no tunnel takes a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// No bridge is paired with the tenant.
    NoBridge,
    /// There is no bridge of the name that was asked for.
    UnknownBridge,
    /// A bridge, or an installation of one, that could take it is not connected.
    Away,
    /// A bridge that could take it is connected and cannot take deliveries yet, or at all.
    NotReady,
    /// Every bridge is connected and ready, and none of them declares what is wanted.
    NotServed,
}

impl Reason {
    /// Whether a connected and ready bridge has decided, rather than the lack of one.
    pub fn is_refusal(self) -> bool {
        match self {
            Self::NotServed => true,
            Self::NoBridge | Self::UnknownBridge | Self::Away | Self::NotReady => false,
        }
    }
}

/// No tunnel takes a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoTunnel {
    /// Why.
    pub reason: Reason,
    /// The same for the caller: it never left the relay.
    pub failure: Failure,
}

impl NoTunnel {
    fn new(reason: Reason, code: Code, detail: impl Into<String>) -> Self {
        Self {
            reason,
            failure: Failure::not_sent(code, detail),
        }
    }
}

/// A tunnel as far as the decision depends on it.
#[derive(Debug, Clone)]
struct Seen {
    name: Arc<str>,
    instance: [u8; 16],
    /// It takes new streams.
    is_open: bool,
    keeps_journal: bool,
    /// Its journal was compared with what the relay knows.
    is_delivering: bool,
    /// It declares what is wanted.
    serves: bool,
}

impl Seen {
    fn of(entry: &TunnelEntry, wanted: RouteTarget<'_>) -> Self {
        Self {
            name: entry.owner.name.clone(),
            instance: *entry.instance(),
            is_open: entry.session.is_open(),
            keeps_journal: entry.journal.is_some(),
            is_delivering: entry.is_delivering(),
            serves: serves(entry, wanted),
        }
    }

    /// Whether what it declares is its word: it is connected, and nothing of it is still unknown.
    fn is_ready(&self, purpose: Purpose) -> bool {
        self.is_open && (purpose == Purpose::Request || self.is_delivering || !self.keeps_journal)
    }
}

/// Chooses a tunnel; `except` are those that were tried already.
///
/// # Errors
/// A failure that never left the relay.
pub fn choose(
    registry: &Registry,
    paired: &(impl Paired + ?Sized),
    tenant: &str,
    bridge: Option<&str>,
    wanted: RouteTarget<'_>,
    within: &[String],
    except: &[Arc<TunnelEntry>],
) -> Result<Arc<TunnelEntry>, Failure> {
    let search = Search {
        tenant,
        bridge,
        wanted,
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
pub fn search_tunnel(
    registry: &Registry,
    paired: &(impl Paired + ?Sized),
    search: Search<'_>,
) -> Result<Arc<TunnelEntry>, NoTunnel> {
    if let Some(entry) = find_for(registry, search) {
        return Ok(entry);
    }
    let online = registry.of_tenant(search.tenant);
    let seen: Vec<Seen> = online
        .iter()
        .map(|entry| Seen::of(entry, search.wanted))
        .collect();
    Err(explain(&paired.bridges(search.tenant), &seen, search))
}

/// As [`choose`], where nobody asks why there is none.
pub fn find(
    registry: &Registry,
    tenant: &str,
    bridge: Option<&str>,
    wanted: RouteTarget<'_>,
    within: &[String],
    except: &[Arc<TunnelEntry>],
) -> Option<Arc<TunnelEntry>> {
    let search = Search {
        tenant,
        bridge,
        wanted,
        within,
        except,
        purpose: Purpose::Request,
    };
    find_for(registry, search)
}

fn find_for(registry: &Registry, search: Search<'_>) -> Option<Arc<TunnelEntry>> {
    let Search {
        wanted,
        within,
        except,
        ..
    } = search;
    let is_within =
        |entry: &TunnelEntry| within.is_empty() || within.iter().any(|n| **n == *entry.owner.name);
    let best = registry.with_tenant(search.tenant, |tunnels| {
        let declaring = match wanted {
            RouteTarget::Endpoint(name) => tunnels.serving(name),
            RouteTarget::Host(_) => tunnels.all(),
        };
        // Where there is a choice, one that reaches the target is better than one that does not.
        let has_choice = declaring.len() > 1;
        let is_ill = |entry: &TunnelEntry| match wanted {
            RouteTarget::Endpoint(name) => has_choice && entry.session.endpoint_is_down(name),
            RouteTarget::Host(_) => false,
        };
        let fit = declaring.iter().filter(|entry| {
            !except.iter().any(|tried| Arc::ptr_eq(tried, entry))
                && (search.purpose == Purpose::Request || entry.is_delivering())
                && fits(entry, search.bridge, wanted)
                && is_within(entry)
        });
        least_busy(fit, is_ill)
    });
    best.flatten()
}

/// Whether a tunnel that declares the endpoint may take it. A bridge that was asked for by name is
/// asked for any host.
fn fits(entry: &TunnelEntry, bridge: Option<&str>, wanted: RouteTarget<'_>) -> bool {
    match (bridge, wanted) {
        (Some(name), _) => &*entry.owner.name == name,
        (None, RouteTarget::Endpoint(_)) => true,
        (None, RouteTarget::Host(host)) => entry.offer().may_serve(host),
    }
}

/// Whether a tunnel declares what is wanted.
fn serves(entry: &TunnelEntry, wanted: RouteTarget<'_>) -> bool {
    match wanted {
        RouteTarget::Endpoint(name) => entry.offer().endpoints().any(|known| known == name),
        RouteTarget::Host(host) => entry.offer().may_serve(host),
    }
}

/// The one with the fewest streams of those that take more; one that is ill only if all are.
fn least_busy<'a>(
    entries: impl Iterator<Item = &'a Arc<TunnelEntry>>,
    is_ill: impl Fn(&TunnelEntry) -> bool,
) -> Option<Arc<TunnelEntry>> {
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

/// Why there is no tunnel. Pure: the table of it is a test below.
fn explain(known: &[PairedBridge], seen: &[Seen], search: Search<'_>) -> NoTunnel {
    let Search {
        bridge,
        wanted,
        within,
        purpose,
        ..
    } = search;
    if known.is_empty() && bridge.is_none() {
        let detail =
            "no bridge is paired with this tenant: install one where the target can be reached";
        return NoTunnel::new(Reason::NoBridge, Code::NoBridge, detail);
    }
    // Installations of a bridge that are connected, and those of them that are ready.
    let count = |name: &str, is: &dyn Fn(&Seen) -> bool| {
        let own = seen.iter().filter(|seen| *seen.name == *name && is(seen));
        let mut instances: Vec<_> = own.map(|seen| seen.instance).collect();
        instances.sort_unstable();
        instances.dedup();
        instances.len()
    };
    if let Some(name) = bridge {
        let Some(_) = known.iter().find(|other| *other.name == *name) else {
            let detail = format!("there is no bridge named {name}");
            return NoTunnel::new(Reason::UnknownBridge, Code::NotFound, detail);
        };
        if count(name, &|seen| seen.is_open) == 0 {
            let detail = format!("the bridge {name} is not connected");
            return NoTunnel::new(Reason::Away, Code::BridgeOffline, detail);
        }
    }
    let asked: Vec<&PairedBridge> = known
        .iter()
        .filter(|known| bridge.is_none_or(|wanted| *wanted == *known.name))
        .filter(|known| within.is_empty() || within.iter().any(|name| **name == *known.name))
        .collect();
    // A bridge of which one installation is away may be the one that serves it.
    let away: Vec<&str> = asked
        .iter()
        .filter(|known| count(&known.name, &|seen| seen.is_open) < known.installations.max(1))
        .map(|known| &*known.name)
        .collect();
    if !away.is_empty() {
        let detail = format!(
            "no connected bridge serves this, and these are away: {}",
            listed(&away)
        );
        return NoTunnel::new(Reason::Away, Code::BridgeOffline, detail);
    }
    let unready: Vec<&str> = asked
        .iter()
        .filter(|known| {
            count(&known.name, &|seen| seen.is_ready(purpose)) < known.installations.max(1)
        })
        .map(|known| &*known.name)
        .collect();
    if !unready.is_empty() {
        let detail = format!(
            "these bridges have just connected, and the relay does not know yet what became of \
             earlier deliveries: {}",
            listed(&unready)
        );
        return NoTunnel::new(Reason::NotReady, Code::BridgeOffline, detail);
    }
    let is_asked = |seen: &&Seen| asked.iter().any(|known| *known.name == *seen.name);
    let mut serving = seen
        .iter()
        .filter(|seen| seen.is_open && (bridge.is_some() || seen.serves));
    if purpose == Purpose::Delivery && serving.any(|seen| is_asked(&seen)) {
        let detail = "no connected bridge that serves this keeps a journal of deliveries";
        return NoTunnel::new(Reason::NotReady, Code::BridgeOffline, detail);
    }
    match wanted {
        RouteTarget::Endpoint(name) => {
            let detail = format!("no bridge declares an endpoint named {name}");
            NoTunnel::new(Reason::NotServed, Code::UnknownEndpoint, detail)
        }
        RouteTarget::Host(host) => {
            let detail = format!(
                "no connected bridge allows the host {host}: add an [[allow]] rule for it on a bridge, \
                 or install a bridge where it can be reached"
            );
            NoTunnel::new(Reason::NotServed, Code::RefusedByPolicy, detail)
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
        fn bridges(&self, _: &str) -> Vec<PairedBridge> {
            self.0.iter().map(|name| paired(name, 1)).collect()
        }
    }

    fn paired(name: &str, installations: usize) -> PairedBridge {
        PairedBridge {
            name: name.into(),
            installations,
        }
    }

    #[test]
    fn no_tunnel_tells_a_missing_bridge_from_one_away() {
        let registry = Registry::new(1, 1);
        let wanted = RouteTarget::Endpoint("alm");
        let code = |names, bridge| {
            let chosen = choose(&registry, &Names(names), "t", bridge, wanted, &[], &[]);
            chosen.unwrap_err().code
        };
        assert_eq!(code(&[], None), Code::NoBridge);
        assert_eq!(code(&["a"], None), Code::BridgeOffline);
        assert_eq!(code(&["a"], Some("a")), Code::BridgeOffline);
        assert_eq!(code(&["a"], Some("b")), Code::NotFound);
    }

    /// A ready tunnel that serves something else.
    fn ready(name: &str, instance: u8) -> Seen {
        Seen {
            name: name.into(),
            instance: [instance; 16],
            is_open: true,
            keeps_journal: true,
            is_delivering: true,
            serves: false,
        }
    }

    /// One that the relay has just registered.
    fn unknown_journal(name: &str, instance: u8) -> Seen {
        Seen {
            is_delivering: false,
            ..ready(name, instance)
        }
    }

    /// One that has said GOAWAY, or was told to leave.
    fn leaving(name: &str, instance: u8) -> Seen {
        Seen {
            is_open: false,
            ..ready(name, instance)
        }
    }

    fn no_journal(name: &str, instance: u8) -> Seen {
        Seen {
            keeps_journal: false,
            ..unknown_journal(name, instance)
        }
    }

    fn serving(seen: Seen) -> Seen {
        Seen {
            serves: true,
            ..seen
        }
    }

    /// What is the case, which bridges are paired, which tunnels there are, and why a stored call and a request
    /// find none.
    type Row = (&'static str, Vec<PairedBridge>, Vec<Seen>, Reason, Reason);

    #[test]
    fn only_bridges_that_are_all_ready_refuse() {
        use Reason::{Away, NoBridge, NotReady, NotServed, UnknownBridge};
        let host = policy::Target::parse("http://ci.corp.example/").unwrap();
        let reason = |known: &[PairedBridge], seen: &[Seen], bridge, within: &[String], purpose| {
            let search = Search {
                tenant: "t",
                bridge,
                wanted: RouteTarget::Host(host.host()),
                within,
                except: &[],
                purpose,
            };
            explain(known, seen, search).reason
        };
        let (a, b) = (paired("a", 1), paired("b", 1));
        let both = || vec![a.clone(), b.clone()];
        let table: Vec<Row> = vec![
            ("nothing is paired", vec![], vec![], NoBridge, NoBridge),
            (
                "all are ready",
                both(),
                vec![ready("a", 1), ready("b", 2)],
                NotServed,
                NotServed,
            ),
            ("one is away", both(), vec![ready("b", 2)], Away, Away),
            ("all are away", both(), vec![], Away, Away),
            (
                "one reconnects and its journal is not known",
                both(),
                vec![unknown_journal("a", 1), ready("b", 2)],
                NotReady,
                NotServed,
            ),
            (
                "it serves the host, too",
                both(),
                vec![serving(unknown_journal("a", 1)), ready("b", 2)],
                NotReady,
                NotServed,
            ),
            (
                "one drains",
                both(),
                vec![leaving("a", 1), ready("b", 2)],
                Away,
                Away,
            ),
            (
                "one drains and its next tunnel is ready",
                both(),
                vec![leaving("a", 1), ready("a", 1), ready("b", 2)],
                NotServed,
                NotServed,
            ),
            (
                "one drains and its next tunnel is not ready",
                both(),
                vec![leaving("a", 1), unknown_journal("a", 1), ready("b", 2)],
                NotReady,
                NotServed,
            ),
            (
                "one keeps no journal and serves something else",
                both(),
                vec![no_journal("a", 1), ready("b", 2)],
                NotServed,
                NotServed,
            ),
            (
                "one keeps no journal and serves it",
                both(),
                vec![serving(no_journal("a", 1)), ready("b", 2)],
                NotReady,
                NotServed,
            ),
            (
                "an installation of two is away",
                vec![paired("a", 2)],
                vec![ready("a", 1)],
                Away,
                Away,
            ),
            (
                "two tunnels of one installation are no two installations",
                vec![paired("a", 2)],
                vec![ready("a", 1), ready("a", 1)],
                Away,
                Away,
            ),
            (
                "both installations are ready",
                vec![paired("a", 2)],
                vec![ready("a", 1), ready("a", 2)],
                NotServed,
                NotServed,
            ),
            (
                "one of two installations is not ready",
                vec![paired("a", 2)],
                vec![ready("a", 1), unknown_journal("a", 2)],
                NotReady,
                NotServed,
            ),
            (
                "a bridge whose installations are all revoked",
                vec![paired("a", 0)],
                vec![],
                Away,
                Away,
            ),
        ];
        for (what, known, seen, delivery, request) in table {
            let got = reason(&known, &seen, None, &[], Purpose::Delivery);
            assert_eq!(got, delivery, "delivery: {what}");
            let got = reason(&known, &seen, None, &[], Purpose::Request);
            assert_eq!(got, request, "request: {what}");
        }
        // A bridge that was asked for by name.
        let named = |name, seen: &[Seen]| reason(&both(), seen, Some(name), &[], Purpose::Delivery);
        assert_eq!(named("c", &[ready("a", 1)]), UnknownBridge);
        assert_eq!(named("a", &[ready("b", 2)]), Away);
        assert_eq!(named("a", &[leaving("a", 1)]), Away);
        assert_eq!(
            named("a", &[unknown_journal("a", 1), ready("b", 2)]),
            NotReady
        );
        assert_eq!(named("a", &[no_journal("a", 1)]), NotReady);
        // A key that is narrowed to some bridges does not wait for others.
        let within = ["b".to_owned()];
        let got = reason(&both(), &[ready("b", 2)], None, &within, Purpose::Request);
        assert_eq!(got, NotServed);
        assert!(NotServed.is_refusal());
        for waits in [NoBridge, UnknownBridge, Away, NotReady] {
            assert!(!waits.is_refusal());
        }
    }
}
