//! The tasks that run in addition to the accept loops, until the relay stops.

use crate::control_plane::ControlPlane;
use crate::deliveries::{self, DeliveryContext};
use crate::registry::TunnelEntry;
use crate::vault::SealingKey;
use crate::{audit, notices};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;

/// How often free endpoint names are claimed again after the database did not decide.
const CLAIM_RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// Starts the background tasks of the control plane.
pub(super) fn spawn(state: &Arc<ControlPlane>, audit_key: SealingKey) -> Vec<JoinHandle<()>> {
    let cx = Arc::new(DeliveryContext {
        data: state.data.clone(),
        deliveries: state.deliveries.clone(),
        directory: state.directory.clone(),
        audit: state.audit.clone(),
        serving: state.serving.clone(),
    });
    // A closure, so that the audit record depends on tunnels only and not on the whole state.
    let tunnels = {
        let state = state.clone();
        move || state.data.registry.all()
    };
    vec![
        tokio::spawn(deliveries::run(cx.clone())),
        tokio::spawn(deliveries::expire(cx)),
        tokio::spawn(expire_idempotency_keys(state.clone())),
        tokio::spawn(notices::run(state.clone())),
        tokio::spawn(notices::watch_pause(state.clone())),
        tokio::spawn(audit::checkpoints::run(
            tunnels,
            state.directory.storage().clone(),
            state.audit.clone(),
        )),
        tokio::spawn(audit::sealing::run(
            state.directory.storage().clone(),
            audit_key,
            state.data.config.audit.keep.0,
        )),
        tokio::spawn(follow_endpoint_owners(state.clone())),
        tokio::spawn(abort_unauthorized(state.clone())),
        tokio::spawn(state.directory.clone().keep_fresh()),
    ]
}

/// Deletes expired idempotency keys, while this process serves.
async fn expire_idempotency_keys(state: Arc<ControlPlane>) {
    state.idempotency.keep_clean(&state.serving).await;
}

/// Follows the directory: aborts tunnels and exchanges whose bridge, key or tenant is no longer valid.
async fn abort_unauthorized(state: Arc<ControlPlane>) {
    let mut changed = state.directory.changed();
    while changed.changed().await.is_ok() {
        let directory = &state.directory;
        state
            .data
            .registry
            .retain_offers(|installation| directory.has_installation(installation));
        // The exchanges first: the end of a suspended tenant's tunnel would hide the reason from them and the bridge.
        let exchanges = state
            .data
            .exchanges
            .abort(|principal| directory.check_principal(principal).err());
        let tunnels = state
            .data
            .registry
            .abort(|owner| directory.close_reason(owner));
        if tunnels + exchanges > 0 {
            tracing::info!(
                tunnels,
                exchanges,
                "closed tunnels and exchanges: revoked, expired or suspended"
            );
        }
    }
}

/// Follows the directory: routes endpoint names that were assigned, released, or left by a revoked bridge.
async fn follow_endpoint_owners(state: Arc<ControlPlane>) {
    let mut changed = state.directory.changed();
    let mut seen = 0;
    loop {
        tokio::select! {
            change = changed.changed() => if change.is_err() { return },
            () = tokio::time::sleep(CLAIM_RETRY_INTERVAL) => {}
        }
        let revision = state.directory.claims_revision();
        let has_unclaimed = state.ownership.take_unclaimed();
        // Most changes of the directory concern keys; routing all tunnels again for them would be waste.
        if revision == seen && !has_unclaimed {
            continue;
        }
        seen = revision;
        let mut by_tenant: BTreeMap<Arc<str>, Vec<Arc<TunnelEntry>>> = BTreeMap::new();
        for entry in state.data.registry.all() {
            by_tenant
                .entry(entry.owner.tenant.clone())
                .or_default()
                .push(entry);
        }
        for entries in by_tenant.into_values() {
            let mut has_new_conflict = false;
            for entry in &entries {
                let ownership = &state.ownership;
                has_new_conflict |= ownership
                    .serves_changed(&state.directory, &state.data.registry, entry)
                    .await;
            }
            if has_new_conflict {
                state.notices_wanted.notify_one();
            }
            // Once for each tenant, after all its tunnels have their new routes.
            if let Some(entry) = entries.first() {
                state.deliveries.routes_changed(&entry.owner.tenant);
            }
        }
    }
}
