//! The route of an attempt: a tunnel's installation, or the relay itself.

use crate::registry::TunnelEntry;
use crate::storage::calls::Via;
use std::sync::Arc;

/// The route of an attempt, as [`routing`](crate::routing) has decided it.
#[derive(Debug, Clone)]
pub(super) enum Route {
    /// Through this tunnel.
    Bridge(Arc<TunnelEntry>),
    /// By the relay itself, as far as the tenant's patterns allow the URL.
    Direct,
}

impl Route {
    /// Returns what the attempt is bound to: an installation, or nothing. Direct attempts share one
    /// installation limiter for each tenant, so the tenant stands in for the instance.
    pub(super) fn via(&self, tenant: &Arc<str>) -> Via {
        match self {
            Self::Bridge(entry) => via(entry),
            Self::Direct => Via {
                bridge: "".into(),
                instance: tenant.as_bytes().to_vec(),
            },
        }
    }

    /// Returns the bridge's name; empty for a direct attempt.
    pub(super) fn bridge_name(&self) -> Arc<str> {
        match self {
            Self::Bridge(entry) => entry.owner.name.clone(),
            Self::Direct => "".into(),
        }
    }
}

/// Returns the installation at the other end of a tunnel.
pub(super) fn via(entry: &TunnelEntry) -> Via {
    Via {
        bridge: entry.owner.bridge.clone(),
        instance: entry.instance().to_vec(),
    }
}
