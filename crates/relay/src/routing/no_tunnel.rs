//! Why no tunnel takes a request: a bridge that is missing, offline or not ready, or bridges that all reject it.
//!
//! Only bridges that are all connected and ready can reject a stored call: any other may be the one that serves it. A
//! request whose caller waits is also rejected if the offline bridges did not serve its target when they were last
//! connected. A stored call waits for them: they may serve more when they come back.

use super::select_tunnel::{PairedBridge, Purpose, RouteTarget, Search};
use crate::registry::TunnelEntry;
use protocol::{Code, Failure};
use std::sync::Arc;

/// Why no tunnel takes a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// No bridge is paired with the tenant.
    NoBridge,
    /// The bridge that the request names does not exist.
    UnknownBridge,
    /// A bridge that could take it, or one of its installations, is not connected.
    Away,
    /// A bridge that could take it is connected, and cannot take deliveries yet, or at all.
    NotReady,
    /// Every bridge is connected and ready, and none of them declares the target.
    NotServed,
}

impl Reason {
    /// Returns whether ready bridges have decided, as opposed to a bridge that is missing.
    pub(crate) fn is_refusal(self) -> bool {
        match self {
            Self::NotServed => true,
            Self::NoBridge | Self::UnknownBridge | Self::Away | Self::NotReady => false,
        }
    }
}

/// No tunnel takes a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NoTunnel {
    /// Why.
    pub reason: Reason,
    /// The failure for the caller. The request was not sent.
    pub failure: Failure,
}

impl NoTunnel {
    pub(super) fn new(reason: Reason, code: Code, detail: impl Into<String>) -> Self {
        Self {
            reason,
            failure: Failure::not_sent(code, detail),
        }
    }
}

/// What the decision depends on in a tunnel.
#[derive(Debug, Clone)]
pub(super) struct TunnelState {
    name: Arc<str>,
    identity: Arc<str>,
    instance: [u8; 16],
    /// It accepts new streams.
    is_open: bool,
    keeps_journal: bool,
    /// Its journal was compared with what the relay knows.
    is_delivering: bool,
    /// It declares the target.
    serves: bool,
}

impl TunnelState {
    pub(super) fn of(entry: &TunnelEntry, target: RouteTarget<'_>) -> Self {
        Self {
            name: entry.owner.name.clone(),
            identity: entry.owner.identity.clone(),
            instance: *entry.instance(),
            is_open: entry.session.is_open(),
            keeps_journal: entry.journal.is_some(),
            is_delivering: entry.is_delivering(),
            serves: super::select_tunnel::serves(entry, target),
        }
    }

    /// Returns whether its declaration decides: it is connected, and the relay knows everything about it.
    fn is_ready(&self, purpose: Purpose) -> bool {
        self.is_open && (purpose == Purpose::Request || self.is_delivering || !self.keeps_journal)
    }
}

/// Returns why there is no tunnel. `last_served` tells whether an installation served the target when it was last
/// connected, if that is known. Pure: a test below has its table.
pub(super) fn explain(
    known: &[PairedBridge],
    tunnels: &[TunnelState],
    last_served: &dyn Fn(&str) -> Option<bool>,
    search: Search<'_>,
) -> NoTunnel {
    let Search {
        bridge,
        target,
        within,
        purpose,
        ..
    } = search;
    if known.is_empty() && bridge.is_none() {
        let detail =
            "no bridge is paired with this tenant: install one where the target can be reached";
        return NoTunnel::new(Reason::NoBridge, Code::NoBridge, detail);
    }
    // Counts installations, not tunnels: an installation may have several tunnels while it reconnects.
    let count = |name: &str, is: &dyn Fn(&TunnelState) -> bool| {
        let own = tunnels
            .iter()
            .filter(|seen| *seen.name == *name && is(seen));
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
        .filter(|known| bridge.is_none_or(|named| *named == *known.name))
        .filter(|known| within.is_empty() || within.iter().any(|name| **name == *known.name))
        .collect();
    // An installation that is offline and is not known to serve something else.
    let may_serve = |known: &PairedBridge| {
        let is_online = |identity: &str| {
            tunnels
                .iter()
                .any(|seen| seen.is_open && *seen.identity == *identity)
        };
        let mut offline = known.identities.iter().filter(|own| !is_online(own));
        known.identities.is_empty() || offline.any(|own| last_served(own).unwrap_or(true))
    };
    let waits =
        |known: &PairedBridge| purpose == Purpose::Delivery || bridge.is_some() || may_serve(known);
    // The installation that is offline may be the one that serves the target.
    let away: Vec<&str> = asked
        .iter()
        .filter(|known| waits(known))
        // At least one: a bridge whose installations are all revoked counts as offline, because it may be paired again.
        .filter(|known| count(&known.name, &|seen| seen.is_open) < known.installations.max(1))
        .map(|known| &*known.name)
        .collect();
    if !away.is_empty() {
        let detail = format!(
            "no connected bridge serves this, and these are offline: {}",
            listed(&away)
        );
        return NoTunnel::new(Reason::Away, Code::BridgeOffline, detail);
    }
    let unready: Vec<&str> = asked
        .iter()
        .filter(|known| waits(known))
        .filter(|known| {
            count(&known.name, &|seen| seen.is_ready(purpose)) < known.installations.max(1)
        })
        .map(|known| &*known.name)
        .collect();
    if !unready.is_empty() {
        let detail = format!(
            "these bridges have just connected, and the relay does not know the outcome of earlier \
             deliveries yet: {}",
            listed(&unready)
        );
        return NoTunnel::new(Reason::NotReady, Code::BridgeOffline, detail);
    }
    let is_asked = |seen: &&TunnelState| asked.iter().any(|known| *known.name == *seen.name);
    let mut serving = tunnels
        .iter()
        .filter(|seen| seen.is_open && (bridge.is_some() || seen.serves));
    if purpose == Purpose::Delivery && serving.any(|seen| is_asked(&seen)) {
        let detail = "no connected bridge that serves this keeps a journal of deliveries";
        return NoTunnel::new(Reason::NotReady, Code::BridgeOffline, detail);
    }
    match target {
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

/// Returns up to three of the names, for an error message.
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

    fn paired(name: &str, installations: usize) -> PairedBridge {
        PairedBridge {
            name: name.into(),
            installations,
            identities: (1..=installations)
                .map(|number| format!("{name}-{number}").into())
                .collect(),
        }
    }

    /// A ready tunnel that serves something else.
    fn ready(name: &str, instance: u8) -> TunnelState {
        TunnelState {
            name: name.into(),
            identity: format!("{name}-{instance}").into(),
            instance: [instance; 16],
            is_open: true,
            keeps_journal: true,
            is_delivering: true,
            serves: false,
        }
    }

    /// A tunnel that the relay has just registered.
    fn unknown_journal(name: &str, instance: u8) -> TunnelState {
        TunnelState {
            is_delivering: false,
            ..ready(name, instance)
        }
    }

    /// A tunnel that drains.
    fn leaving(name: &str, instance: u8) -> TunnelState {
        TunnelState {
            is_open: false,
            ..ready(name, instance)
        }
    }

    fn no_journal(name: &str, instance: u8) -> TunnelState {
        TunnelState {
            keeps_journal: false,
            ..unknown_journal(name, instance)
        }
    }

    fn serving(seen: TunnelState) -> TunnelState {
        TunnelState {
            serves: true,
            ..seen
        }
    }

    /// Case, paired bridges, tunnels, and the reason for a stored call and for a request.
    type Row = (
        &'static str,
        Vec<PairedBridge>,
        Vec<TunnelState>,
        Reason,
        Reason,
    );

    #[test]
    fn request_is_refused_only_if_all_bridges_are_ready() {
        use Reason::{Away, NoBridge, NotReady, NotServed, UnknownBridge};
        let host = policy::Target::parse("http://ci.corp.example/").unwrap();
        let reason = |known: &[PairedBridge],
                      tunnels: &[TunnelState],
                      bridge,
                      within: &[String],
                      purpose| {
            let search = Search {
                tenant: "t",
                bridge,
                target: RouteTarget::Host(host.host()),
                within,
                except: &[],
                purpose,
            };
            explain(known, tunnels, &|_| None, search).reason
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
        let named = |name, tunnels: &[TunnelState]| {
            reason(&both(), tunnels, Some(name), &[], Purpose::Delivery)
        };
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
        // Offline bridges that are known to serve something else are not waited for, unless by a stored call.
        let served = |identity: &str, serves: bool| identity.starts_with("a-").then_some(serves);
        let with = |bridge, serves, purpose| {
            let search = Search {
                tenant: "t",
                bridge,
                target: RouteTarget::Host(host.host()),
                within: &[],
                except: &[],
                purpose,
            };
            let last = |identity: &str| served(identity, serves);
            explain(&both(), &[ready("b", 1)], &last, search).reason
        };
        assert_eq!(with(None, false, Purpose::Request), NotServed);
        assert_eq!(with(None, true, Purpose::Request), Away);
        assert_eq!(with(None, false, Purpose::Delivery), Away);
        assert_eq!(with(Some("a"), false, Purpose::Request), Away);
        for waits in [NoBridge, UnknownBridge, Away, NotReady] {
            assert!(!waits.is_refusal());
        }
    }
}
