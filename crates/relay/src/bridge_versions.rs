//! The versions of bridges that the operator wants (W-70), and the bridges that are older.
//!
//! ```text
//! [bridges], a reload --> BridgeVersions --> VERSIONS to every session
//! HELLO.software ------------^    \--> refused (only if it is enforced), notices, GET /v1/bridges
//! ```
//!
//! A bridge reports its own version, so this protects nothing: it keeps old programs from being forgotten.

use crate::registry::{Registry, TunnelOwner};
use protocol::version::{AcceptedVersions, ProgramVersion, UpdateState};
use runtime::peer_text::PeerText;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use transport::Session;

/// How long a refusal is kept after the last one. A refused bridge retries every few minutes.
const REFUSAL_KEPT: Duration = Duration::from_secs(30 * 60);

/// Installations whose refusal is kept in memory.
const REFUSALS_MAX: usize = 10_000;

/// Bridges that are reported in one round of notices: all bridges become outdated at once when the operator raises the
/// oldest version.
const OUTDATED_MAX: usize = 1_000;

/// Longest version of a refused bridge that is shown, in characters.
const SOFTWARE_MAX_CHARS: usize = 128;

/// A bridge that is older than the oldest version that the operator supports.
#[derive(Debug, Clone)]
pub(crate) struct Outdated {
    /// The bridge.
    pub owner: TunnelOwner,
    /// Its version, as it reports it.
    pub software: PeerText,
    /// Whether its tunnel was refused.
    pub is_refused: bool,
}

impl Outdated {
    fn rank(&self) -> (bool, &str, &str) {
        (!self.is_refused, &*self.owner.tenant, &*self.owner.name)
    }
}

/// An installation: its bridge's id, then its own identity. A map sorted by it has the installations of a bridge in a row.
type Installation = (Arc<str>, Arc<str>);

fn installation(owner: &TunnelOwner) -> Installation {
    (owner.bridge.clone(), owner.identity.clone())
}

/// What the operator wants, and who was refused because of it.
#[derive(Debug)]
pub(crate) struct BridgeVersions {
    /// Held while a session gets VERSIONS, so that the last ones that it gets are the current ones. Taken before the
    /// locks of the registry and of sessions.
    accepted: Mutex<AcceptedVersions>,
    refused: Mutex<BTreeMap<Installation, (Outdated, Instant)>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No critical section in this file can leave the data half changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl BridgeVersions {
    /// Returns the state of a relay that starts.
    pub(crate) fn new(accepted: AcceptedVersions) -> Self {
        Self {
            accepted: Mutex::new(accepted),
            refused: Mutex::default(),
        }
    }

    /// Returns what the operator wants.
    pub(crate) fn accepted(&self) -> AcceptedVersions {
        lock(&self.accepted).clone()
    }

    /// Announces it on a session that is in the registry. Also if nothing is named: the bridge may remember versions from
    /// an earlier session.
    pub(crate) fn announce(&self, session: &Session) {
        let accepted = lock(&self.accepted);
        session.send_versions(accepted.clone());
    }

    /// Replaces it, and announces it on every session. Tunnels that are up stay up.
    pub(crate) fn replace(&self, accepted: AcceptedVersions, registry: &Registry) {
        let mut active = lock(&self.accepted);
        if *active == accepted {
            return;
        }
        *active = accepted;
        lock(&self.refused).clear();
        for entry in registry.all() {
            // Also if no version is named any more: the bridges forget the former ones.
            entry.session.send_versions(active.clone());
        }
    }

    /// Returns what the operator wants, if that refuses a bridge with this `software` in its HELLO.
    pub(crate) fn refusal(&self, software: &str) -> Option<AcceptedVersions> {
        let running = ProgramVersion::of_software(software);
        let accepted = lock(&self.accepted);
        accepted.refuses(running.as_ref()).then(|| accepted.clone())
    }

    /// Notes that a tunnel was refused. Returns whether that is the first refusal of its installation.
    pub(crate) fn note_refused(&self, owner: &TunnelOwner, software: &str, now: Instant) -> bool {
        let mut refused = lock(&self.refused);
        let installation = installation(owner);
        let is_new = !refused.contains_key(&installation);
        if is_new && refused.len() >= REFUSALS_MAX {
            return false;
        }
        let outdated = Outdated {
            owner: owner.clone(),
            software: PeerText::bounded(software, SOFTWARE_MAX_CHARS),
            is_refused: true,
        };
        refused.insert(installation, (outdated, now));
        is_new
    }

    /// Notes that an installation is connected.
    pub(crate) fn note_accepted(&self, owner: &TunnelOwner) {
        lock(&self.refused).remove(&installation(owner));
    }

    /// Returns the version with which a bridge was refused lately.
    pub(crate) fn refused_version(&self, bridge: &str) -> Option<PeerText> {
        // No scan: a list of bridges asks for each of them.
        let first: Installation = (bridge.into(), "".into());
        let refused = lock(&self.refused);
        let (_, (outdated, _)) = refused.range(first..).next()?;
        (&*outdated.owner.bridge == bridge).then(|| outdated.software.clone())
    }

    /// Returns whether a connected bridge should be updated.
    pub(crate) fn state_of(&self, software: &str) -> UpdateState {
        let running = ProgramVersion::of_software(software);
        lock(&self.accepted).state_of(running.as_ref())
    }

    /// Returns the bridges that must be updated, connected or refused lately, each once: the first [`OUTDATED_MAX`],
    /// refused ones before others.
    pub(crate) fn outdated(&self, registry: &Registry, now: Instant) -> Vec<Outdated> {
        let accepted = self.accepted();
        let connected = registry.all().into_iter().filter_map(|entry| {
            let running = ProgramVersion::of_software(entry.software.as_str());
            let is_old = accepted.state_of(running.as_ref()) == UpdateState::Required;
            is_old.then(|| Outdated {
                owner: entry.owner.clone(),
                software: entry.software.clone(),
                is_refused: false,
            })
        });
        let mut all: HashMap<Arc<str>, Outdated> = connected
            .map(|outdated| (outdated.owner.bridge.clone(), outdated))
            .collect();
        let mut refused = lock(&self.refused);
        refused.retain(|_, (_, at)| now.saturating_duration_since(*at) < REFUSAL_KEPT);
        for (outdated, _) in refused.values() {
            // Other installations of the bridge may be connected. What is refused does not work, and counts more.
            all.insert(outdated.owner.bridge.clone(), outdated.clone());
        }
        let mut all: Vec<Outdated> = all.into_values().collect();
        // In a fixed order: otherwise each round would raise notices of others, and clear those of the last one.
        all.sort_by(|a, b| a.rank().cmp(&b.rank()));
        all.truncate(OUTDATED_MAX);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(identity: &str) -> TunnelOwner {
        TunnelOwner {
            tenant: "t".into(),
            bridge: "b".into(),
            name: "berlin".into(),
            identity: identity.into(),
        }
    }

    fn accepted(oldest: &str, is_enforced: bool) -> AcceptedVersions {
        AcceptedVersions {
            newest: None,
            oldest: oldest.parse().ok(),
            is_enforced,
        }
    }

    #[test]
    fn old_bridge_is_refused_only_if_enforced() {
        let registry = Registry::new(1, 1);
        let versions = BridgeVersions::new(accepted("1.0.0", false));
        let old = "integration-bridge/0.9.0";
        assert!(versions.refusal(old).is_none());
        assert_eq!(versions.state_of(old), UpdateState::Required);
        versions.replace(accepted("1.0.0", true), &registry);
        assert!(versions.refusal(old).is_some());
        assert!(versions.refusal("integration-bridge/1.0.0").is_none());
        // Another program has versions of its own.
        assert!(versions.refusal("other-bridge/0.1.0").is_none());
    }

    #[test]
    fn refused_version_is_that_of_the_bridge() {
        let versions = BridgeVersions::new(accepted("1.0.0", true));
        let now = Instant::now();
        let of = |bridge: &str, identity: &str| TunnelOwner {
            bridge: bridge.into(),
            ..owner(identity)
        };
        // An identity may sort before or after those of other bridges.
        for (bridge, identity, minor) in [("a", "z", 1), ("c", "a", 3), ("c", "z", 4)] {
            let software = format!("integration-bridge/0.{minor}.0");
            versions.note_refused(&of(bridge, identity), &software, now);
        }
        let shown = |bridge: &str| {
            let version = versions.refused_version(bridge);
            version.map(|version| version.as_str().to_owned())
        };
        assert_eq!(shown("a").as_deref(), Some("integration-bridge/0.1.0"));
        for none in ["", "b", "d"] {
            assert_eq!(shown(none), None, "{none}");
        }
        versions.note_accepted(&of("c", "a"));
        assert_eq!(shown("c").as_deref(), Some("integration-bridge/0.4.0"));
        versions.note_accepted(&of("c", "z"));
        assert_eq!(shown("c"), None);
    }

    #[test]
    fn refused_bridge_is_outdated_until_it_is_accepted() {
        let registry = Registry::new(1, 1);
        let versions = BridgeVersions::new(accepted("1.0.0", true));
        let (old, now) = ("integration-bridge/0.9.0", Instant::now());
        assert!(versions.note_refused(&owner("i"), old, now));
        assert!(!versions.note_refused(&owner("i"), old, now));
        assert!(versions.note_refused(&owner("j"), old, now));
        let outdated = versions.outdated(&registry, now);
        assert_eq!(outdated.len(), 1, "one a bridge");
        assert!(outdated[0].is_refused);
        assert!(versions.refused_version("b").is_some());
        versions.note_accepted(&owner("i"));
        versions.note_accepted(&owner("j"));
        assert!(versions.outdated(&registry, now).is_empty());
        versions.note_refused(&owner("i"), old, now);
        let later = now + REFUSAL_KEPT;
        assert!(versions.outdated(&registry, later).is_empty());
        versions.note_refused(&owner("i"), old, now);
        // What is accepted now is not known before the bridge dials again.
        versions.replace(accepted("0.1.0", true), &registry);
        assert!(versions.outdated(&registry, now).is_empty());
    }
}
