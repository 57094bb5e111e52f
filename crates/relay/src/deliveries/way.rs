//! What the attempt of a stored call is bound to: a tunnel's installation, or the relay itself.

use crate::registry::TunnelEntry;
use crate::storage::calls::Via;
use std::sync::Arc;

/// The way of an attempt, as [`route`](crate::routing) has decided it.
#[derive(Debug, Clone)]
pub(super) enum Way {
    /// Through this tunnel.
    Bridge(Arc<TunnelEntry>),
    /// By the relay itself, as far as its tenant's patterns allow the URL.
    Direct,
}

impl Way {
    /// What the attempt is bound to: an installation, or nothing. Direct ones have a lane for each
    /// tenant.
    pub(super) fn via(&self, tenant: &Arc<str>) -> Via {
        match self {
            Self::Bridge(entry) => Via {
                bridge: entry.owner.bridge.clone(),
                instance: entry.instance().to_vec(),
            },
            Self::Direct => Via {
                bridge: "".into(),
                instance: tenant.as_bytes().to_vec(),
            },
        }
    }

    /// The bridge's name, for people.
    pub(super) fn name(&self) -> Arc<str> {
        match self {
            Self::Bridge(entry) => entry.owner.name.clone(),
            Self::Direct => "".into(),
        }
    }
}
