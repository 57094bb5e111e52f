//! Starts the attempts that are due.

use super::{DUE_TENANTS_PER_SLICE, ERROR_RETRY_MS, Engine, FULL_RETRY_MS, PAGE};
use crate::deliveries::error::EngineError;
use crate::deliveries::in_flight::AttemptLimits;
use crate::deliveries::route::Route;
use crate::deliveries::state::CallState;
use crate::deliveries::task;
use crate::routing::{self, StoredRoute};
use crate::storage::calls::{StoredCall, Write, Written};
use crate::storage::now_ms;
use std::sync::Arc;

/// How often the engine checks whether paused deliveries were resumed, in milliseconds.
const PAUSED_RETRY_MS: i64 = 1_000;

enum Started {
    /// The attempt's task runs.
    Running,
    /// A limit is reached.
    Full,
    /// Whether the call may go direct is to be decided first.
    Unclassified,
    /// The call waits for a bridge, or ends.
    Moved(Box<Write>),
}

impl Engine {
    /// Starts what is due. Returns whether some tenants were not served.
    pub(super) async fn start_due(&mut self) -> Result<bool, EngineError> {
        let now = now_ms();
        let mut ready: Vec<(i64, Arc<str>)> = self
            .due
            .iter()
            .filter(|(_, due)| **due <= now)
            .map(|(tenant, due)| (*due, tenant.clone()))
            .collect();
        if ready.is_empty() {
            return Ok(false);
        }
        if self.cx.deliveries.storage.deliveries_paused().await? {
            // Any process can resume them, and sends no event.
            for (_, tenant) in ready {
                self.due.insert(tenant, now + PAUSED_RETRY_MS);
            }
            return Ok(false);
        }
        // The longest due first: a tenant that was served is due later, after the others.
        ready.sort_unstable();
        let has_more = ready.len() > DUE_TENANTS_PER_SLICE;
        for (_, tenant) in ready.into_iter().take(DUE_TENANTS_PER_SLICE) {
            let next = match self.start_due_of(&tenant, now).await {
                Err(error) if error.is_local() => {
                    let name = self.cx.directory.tenant_label(&tenant);
                    tracing::error!(%error, tenant = &*name, tenant_id = %tenant, "cannot deliver stored calls");
                    Some(now_ms() + ERROR_RETRY_MS)
                }
                next => next?,
            };
            match next {
                Some(at) => self.due.insert(tenant, at),
                None => self.due.remove(&tenant),
            };
        }
        Ok(has_more)
    }

    /// Starts what is due of one tenant. Returns when to check again.
    async fn start_due_of(
        &mut self,
        tenant: &Arc<str>,
        now: i64,
    ) -> Result<Option<i64>, EngineError> {
        let deliveries = self.cx.deliveries.clone();
        let calls = deliveries.storage.due_calls(tenant, now, PAGE).await?;
        // The mark names the patterns by which a stored class was decided.
        let mark = routing::patterns_mark(&self.cx.directory.direct_urls(tenant));
        let (mut is_full, mut is_unclassified, mut moved) = (false, false, Vec::new());
        for call in &calls {
            // Its row is still `pending` until its task has committed the start.
            if deliveries.in_flight.has(&call.id) {
                continue;
            }
            match self.start(call, mark) {
                Started::Running => {}
                Started::Full => is_full = true,
                Started::Unclassified => is_unclassified = true,
                Started::Moved(write) => moved.push(*write),
            }
        }
        if is_unclassified {
            self.classified.remove(tenant);
            self.routes.push(tenant.clone());
        }
        let has_moved = !moved.is_empty();
        let refused: Vec<bool> = moved
            .iter()
            .map(|write| matches!(write, Write::Drop { .. }))
            .collect();
        // One transaction for all of them: most are calls of one offline bridge.
        let written = deliveries.batch.write_all(moved).await;
        for (written, is_refused) in written.into_iter().zip(refused) {
            if written? == Written::Changed(true) && is_refused {
                deliveries.count_out(tenant);
                self.cx.data.metrics.delivery(CallState::Refused.as_str());
            }
        }
        if is_full || is_unclassified {
            // The end of an attempt wakes the engine; this is for one that ended just before the check.
            return Ok(Some(now_ms() + FULL_RETRY_MS));
        }
        if has_moved || calls.len() == PAGE as usize {
            return Ok(Some(now_ms() + 10));
        }
        let next = deliveries.storage.next_due_of(tenant).await?;
        // Calls that were just started are still `pending` in the database until their task commits.
        Ok(next.map(|due| due.max(now_ms() + 50)))
    }

    fn start(&self, call: &StoredCall, mark: i64) -> Started {
        let (cx, deliveries) = (&self.cx, &self.cx.deliveries);
        let is_classified = call.class.mark == mark;
        let stored = StoredRoute {
            tenant: &call.tenant,
            bridge: call.bridge.as_deref(),
            host: &call.host,
            is_direct: call.class.is_direct && is_classified,
        };
        let route = match routing::decide_stored(cx.data.routes(), stored) {
            routing::RouteDecision::Bridge(entry) => Route::Bridge(entry),
            routing::RouteDecision::Direct => Route::Direct,
            // By the current patterns it may have a route: that must be known before it is parked or ended.
            routing::RouteDecision::Deferred(_) | routing::RouteDecision::Refused(_)
                if !is_classified =>
            {
                return Started::Unclassified;
            }
            // The route is decided again when the tenant's tunnels or patterns change.
            routing::RouteDecision::Deferred(_) => {
                return Started::Moved(Box::new(Write::Park {
                    id: call.id.clone(),
                    left_ms: 0,
                }));
            }
            routing::RouteDecision::Refused(refusal) => {
                return Started::Moved(Box::new(Write::Drop {
                    id: call.id.clone(),
                    state: CallState::Refused,
                    code: refusal.failure.code,
                    detail: refusal.failure.detail,
                    now_ms: now_ms(),
                }));
            }
        };
        let config = &deliveries.config;
        let via = route.via(&call.tenant);
        let limits = AttemptLimits {
            total_max: config.concurrent_max,
            installation_max: config.concurrent_per_bridge,
            per_second: config.per_second_per_bridge,
        };
        let attempt = call.attempt + 1;
        let acquired = deliveries
            .in_flight
            .acquire(&call.id, &call.tenant, &via, attempt, limits);
        let Some(start_at) = acquired else {
            return Started::Full;
        };
        tokio::spawn(task::first(cx.clone(), call.clone(), route, via, start_at));
        Started::Running
    }
}
