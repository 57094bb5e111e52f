//! Decides the routes of a tenant's waiting calls: which may go direct, and which wait for a bridge.

use super::{
    CLASSIFIED_PER_SLICE, Engine, MOVED_PER_TRANSACTION, ROUTED_TENANTS_PER_SLICE,
    TUNNELS_PER_SLICE, needs_comparison,
};
use crate::deliveries::error::EngineError;
use crate::deliveries::reconcile;
use crate::deliveries::request::StoredRequest;
use crate::deliveries::seal_context;
use crate::deliveries::state::CallState;
use crate::registry::TunnelEntry;
use crate::routing::{self, StoredRoute};
use crate::storage::StorageError;
use crate::storage::calls::{Group, StoredCall};
use crate::storage::now_ms;
use crate::vault::VaultError;
use std::sync::Arc;

impl Engine {
    /// Decides the routes of some tenants.
    pub(super) async fn handle_routes(&mut self) -> Result<(), EngineError> {
        for _ in 0..ROUTED_TENANTS_PER_SLICE {
            let Some(tenant) = self.routes.pop() else {
                return Ok(());
            };
            match self.decide_routes(&tenant).await {
                Ok(true) => self.routes.push(tenant),
                Ok(false) => {}
                Err(error) if error.is_local() => {
                    let name = self.cx.directory.tenant_label(&tenant);
                    tracing::error!(%error, tenant = &*name, tenant_id = %tenant, "cannot route stored calls");
                }
                Err(error) => {
                    self.routes.push(tenant);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// A tenant's tunnels, or its patterns, may have changed: calls with a route become pending, calls
    /// without one wait for a bridge with their clock stopped. Returns whether more is left to be done.
    async fn decide_routes(&mut self, tenant: &Arc<str>) -> Result<bool, EngineError> {
        let mut has_more = false;
        let tunnels = self.cx.data.registry.of_tenant(tenant);
        let mut new = tunnels.iter().filter(|entry| needs_comparison(entry));
        for entry in new.by_ref().take(TUNNELS_PER_SLICE) {
            reconcile::tunnel_up(&self.cx, entry).await?;
        }
        // Counted before routing: the remaining tunnels are compared in the next slice.
        has_more |= new.next().is_some();
        has_more |= self.classify(tenant).await?;
        let storage = self.cx.deliveries.storage.clone();
        let patterns = routing::patterns_mark(&self.cx.directory.direct_urls(tenant));
        for (from, wants_route) in [
            (CallState::WaitingForBridge, true),
            (CallState::Pending, false),
        ] {
            for group in storage.call_groups(tenant, from).await? {
                let is_classified = group.class.mark == patterns;
                let is_later = match self.route_of_group(tenant, &group) {
                    routing::RouteDecision::Deferred(_) => true,
                    // A refused call stays pending until it is due; then it ends with its reason.
                    routing::RouteDecision::Bridge(_)
                    | routing::RouteDecision::Direct
                    | routing::RouteDecision::Refused(_) => false,
                };
                // Calls that are not classified by the current patterns are not parked: they may go direct.
                // `classify` moves them to a group of the current class, which is decided then.
                if is_later == wants_route || (is_later && !is_classified) {
                    continue;
                }
                let now = now_ms();
                let moved = if wants_route {
                    let unparked = storage.unpark(tenant, &group, now, MOVED_PER_TRANSACTION);
                    unparked.await?
                } else {
                    let parked = storage.park(tenant, &group, now, MOVED_PER_TRANSACTION);
                    parked.await?
                };
                if wants_route && moved > 0 {
                    // The unparked calls may be due at once.
                    self.due.insert(tenant.clone(), 0);
                }
                has_more |= moved >= u64::from(MOVED_PER_TRANSACTION);
            }
        }
        Ok(has_more)
    }

    fn route_of_group(
        &self,
        tenant: &Arc<str>,
        group: &Group,
    ) -> routing::RouteDecision<Arc<TunnelEntry>> {
        let stored = StoredRoute {
            tenant,
            bridge: group.bridge.as_deref(),
            host: &group.host,
            is_direct: group.class.is_direct,
        };
        routing::decide_stored(self.cx.data.routes(), stored)
    }

    /// Decides again which calls of a tenant may go direct, after its patterns have changed. Returns
    /// whether more are left.
    async fn classify(&mut self, tenant: &Arc<str>) -> Result<bool, EngineError> {
        let patterns = self.cx.directory.direct_urls(tenant);
        let mark = routing::patterns_mark(&patterns);
        // Without this every round would decrypt all waiting calls.
        if self.classified.get(tenant) == Some(&mark) {
            return Ok(false);
        }
        let storage = &self.cx.deliveries.storage;
        let calls = storage
            .calls_of_other_patterns(tenant, mark, CLASSIFIED_PER_SLICE)
            .await?;
        let mut classes = Vec::with_capacity(calls.len());
        for call in &calls {
            let mut class = routing::DirectClass {
                is_direct: false,
                mark,
            };
            if !patterns.is_empty() && call.bridge.is_none() {
                match self.open(call).await? {
                    Some(request) => {
                        // A credential belongs to a bridge, so the call cannot go direct.
                        let has_credential = request.about.credential.is_some();
                        let url = &request.about.url;
                        class = routing::classify(&patterns, &call.method, url, has_credential);
                    }
                    None => tracing::error!(call = %call.id, "cannot read a stored call"),
                }
            }
            classes.push((call.id.clone(), class));
        }
        storage.classify_calls(&classes).await?;
        if calls.len() < CLASSIFIED_PER_SLICE as usize {
            self.classified.insert(tenant.clone(), mark);
            return Ok(false);
        }
        Ok(true)
    }

    /// Returns the request of a stored call; `None` when it cannot be decrypted.
    async fn open(&self, call: &StoredCall) -> Result<Option<StoredRequest>, EngineError> {
        let deliveries = &self.cx.deliveries;
        let sealed = match deliveries.storage.sealed_request(&call.id).await {
            Err(StorageError::NotFound(_)) => return Ok(None),
            sealed => sealed?,
        };
        let key = match deliveries.vault.of_tenant(&call.tenant).await {
            Ok(key) => key,
            Err(VaultError::Storage(error)) => return Err(error.into()),
            Err(_) => return Ok(None),
        };
        let plain = key.open(&seal_context(&call.id), sealed).ok();
        Ok(plain.and_then(StoredRequest::decode))
    }
}
