//! How many direct calls run at a time, shared between tenants.

use crate::admission::may_have;
use protocol::{Code, Failure};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Limits concurrent calls: in all, for each tenant, and by a tenant's share of all.
#[derive(Debug)]
pub(super) struct ConcurrencyLimiter {
    max: u32,
    per_tenant_max: u32,
    running: Arc<Running>,
}

/// The calls that run.
#[derive(Debug, Default)]
struct Running(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    all: u32,
    of_tenant: HashMap<Arc<str>, u32>,
}

impl Running {
    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The permit of a running call, released on drop.
pub(super) struct Permit {
    running: Arc<Running>,
    tenant: Arc<str>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut running = self.running.lock();
        running.all -= 1;
        if let Some(count) = running.of_tenant.get_mut(&self.tenant) {
            *count -= 1;
            // Removed at zero: the map must not grow with every tenant that ever made a call.
            if *count == 0 {
                running.of_tenant.remove(&self.tenant);
            }
        }
    }
}

impl ConcurrencyLimiter {
    pub(super) fn new(max: u32, per_tenant_max: u32) -> Self {
        Self {
            max,
            per_tenant_max,
            running: Arc::default(),
        }
    }

    /// Acquires a permit for a call of this tenant, without waiting. A tenant may have as many as it leaves
    /// for others.
    pub(super) fn acquire(&self, tenant: &Arc<str>) -> Result<Permit, Failure> {
        let mut running = self.running.lock();
        let own = running.of_tenant.get(tenant).copied().unwrap_or(0);
        let full = |limit: &str| {
            let detail = format!("the tenant reached its limit of direct calls: {own} ({limit})");
            Err(Failure::not_sent(Code::Overloaded, detail))
        };
        // Both limits: the first is the administrator's, the second keeps calls for other tenants.
        if own >= self.per_tenant_max {
            return full("direct.concurrent_per_tenant");
        }
        if !may_have(own, running.all, self.max) {
            return full("its share of direct.concurrent_max");
        }
        running.all += 1;
        *running.of_tenant.entry(tenant.clone()).or_default() += 1;
        Ok(Permit {
            running: self.running.clone(),
            tenant: tenant.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenant_leaves_direct_calls_for_others() {
        let limiter = ConcurrencyLimiter::new(8, 8);
        let greedy = |tenant: &str| -> Vec<Permit> {
            std::iter::from_fn(|| limiter.acquire(&tenant.into()).ok()).collect()
        };
        let all = ["a", "b", "c"].map(greedy);
        assert_eq!(all.each_ref().map(Vec::len), [4, 2, 1]);
        drop(all);
        let running = limiter.running.lock();
        assert!(running.all == 0 && running.of_tenant.is_empty());
    }
}
