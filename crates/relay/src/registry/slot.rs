//! The slots of a bridge: the last epoch of each, its tunnels, and whether two processes use it.

use super::clones::{Clones, Live, SessionId};
use super::entry::{TunnelEntry, TunnelOwner};
use protocol::frame::Hello;
use std::sync::Arc;
use std::time::Instant;

/// A connection of an installation. Ordered by bridge first, so that a bridge's slots are adjacent.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Slot {
    pub(super) bridge: Arc<str>,
    pub(super) instance: [u8; 16],
    pub(super) number: u8,
}

/// What is known of a slot.
#[derive(Debug)]
pub(super) struct SlotHistory {
    pub(super) owner: TunnelOwner,
    /// The highest epoch that was admitted.
    pub(super) epoch: u64,
    pub(super) clones: Clones,
    /// Its tunnels: the current one, and one that drains. Oldest first.
    pub(super) tunnels: Vec<Arc<TunnelEntry>>,
}

/// Returns the session that the process had before, as it reports.
pub(super) fn previous_session(hello: &Hello) -> Option<SessionId> {
    hello.previous.as_ref().map(|previous| previous.session)
}

/// Returns the slot of a connection.
pub(super) fn slot_of(owner: &TunnelOwner, hello: &Hello) -> Slot {
    Slot {
        bridge: owner.bridge.clone(),
        instance: hello.instance,
        number: hello.slot,
    }
}

impl SlotHistory {
    pub(super) fn new(owner: &TunnelOwner) -> Self {
        Self {
            owner: owner.clone(),
            epoch: 0,
            clones: Clones::default(),
            tunnels: Vec::new(),
        }
    }
}

impl SlotHistory {
    /// Returns whether a connection may replace the slot's session, if there is an open one.
    pub(super) fn may_replace(&mut self, hello: &Hello, now: Instant) -> bool {
        // Only an open session can be contested. A draining one is replaced in any case.
        let Some(current) = self.tunnels.iter().rfind(|own| own.session.is_open()) else {
            return true;
        };
        let live = Live {
            id: current.session.id(),
            before: current.before,
        };
        let was_cloned = self.clones.is_cloned(now);
        let may = self.clones.may_replace(live, previous_session(hello), now);
        // Logged once, and not for each attempt of the copy.
        if !was_cloned && self.clones.is_cloned(now) {
            tracing::warn!(
                // The registry does not know names; the notice that follows has it.
                tenant_id = %self.owner.tenant,
                bridge = %self.owner.name,
                host = %current.host,
                "two processes connect as this bridge: was its data directory copied? The one that \
                 connected first stays connected"
            );
        }
        may
    }
}
