//! Which way a stored call goes: through the tunnel of a bridge that keeps a journal, or directly.

use crate::direct::Direct;
use crate::registry::Entry;
use crate::router::{self, Wanted};
use crate::state::State;
use crate::storage::calls::{StoredCall, Via};
use policy::{Host, Target};
use protocol::{Code, Failure};
use std::sync::Arc;

/// The way of an attempt.
#[derive(Debug, Clone)]
pub(super) enum Way {
    /// Through this tunnel.
    Bridge(Arc<Entry>),
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

/// The way for a call.
pub(super) async fn way(state: &State, call: &StoredCall) -> Result<Way, Failure> {
    let bridge = call.bridge.as_deref();
    if !state.directory.is_active(&call.tenant) {
        let detail = "the tenant is suspended";
        return Err(Failure::not_sent(Code::TenantSuspended, detail));
    }
    let failure = match tunnel_for(state, &call.tenant, &call.host, bridge) {
        Ok(entry) => return Ok(Way::Bridge(entry)),
        Err(failure) => failure,
    };
    if bridge.is_none() && !state.directory.direct_urls(&call.tenant).is_empty() {
        // Whether the URL is one of them is seen when it is opened.
        return Ok(Way::Direct);
    }
    if failure.code == Code::RefusedByPolicy {
        let host = host_of(&call.host)?;
        if Direct::are_public(&state.direct.addresses(&call.tenant, &host).await) {
            let detail = format!(
                "{} is public, and this tenant may not call it directly: a site administrator can \
                 enable it (direct_urls), or a bridge can serve it",
                call.host
            );
            return Err(Failure::not_sent(Code::RefusedByPolicy, detail));
        }
    }
    Err(failure)
}

fn host_of(text: &str) -> Result<Host, Failure> {
    let target = Target::parse(&format!("http://{text}/"))
        .map_err(|error| Failure::not_sent(Code::InvalidRequest, error.to_string()))?;
    Ok(target.host().clone())
}

/// The tunnel for a host, of those whose journal is known.
pub(super) fn tunnel_for(
    state: &State,
    tenant: &Arc<str>,
    host: &str,
    bridge: Option<&str>,
) -> Result<Arc<Entry>, Failure> {
    let host = host_of(host)?;
    let all = state.registry.of_tenant(tenant);
    let (unfit, fit): (Vec<_>, Vec<_>) = all.into_iter().partition(|entry| !entry.is_delivering());
    let chosen = router::choose(
        &state.registry,
        &*state.directory,
        tenant,
        bridge,
        Wanted::Host(&host),
        &[],
        &unfit,
    );
    chosen.map_err(|failure| {
        if fit.is_empty() && !unfit.is_empty() {
            let detail = "no connected bridge keeps a journal of deliveries";
            return Failure::not_sent(Code::BridgeOffline, detail);
        }
        failure
    })
}
