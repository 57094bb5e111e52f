//! Events for the delivery engine that it has not handled yet.
//!
//! Tenants are stored in sets, so their number is the bound. Outcomes are bounded for each tenant. An outcome
//! that finds no room is requested again by [`reconcile`](super::reconcile), because its attempt is still open.

use super::reconcile::DeliveryReport;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// Outcomes that one tenant's bridges have reported and that wait for the engine.
const RESULTS_PER_TENANT_MAX: usize = 1024;

#[derive(Debug)]
struct Inner<T> {
    due: HashSet<Arc<str>>,
    routes: HashSet<Arc<str>>,
    results: HashMap<Arc<str>, VecDeque<T>>,
    /// Tenants with results, in round-robin order.
    turns: VecDeque<Arc<str>>,
}

/// The engine's inbox.
#[derive(Debug)]
pub(super) struct Inbox<T = DeliveryReport> {
    inner: Mutex<Inner<T>>,
    news: Notify,
}

impl<T> Default for Inbox<T> {
    fn default() -> Self {
        Self {
            inner: Mutex::new(Inner {
                due: HashSet::new(),
                routes: HashSet::new(),
                results: HashMap::new(),
                turns: VecDeque::new(),
            }),
            news: Notify::new(),
        }
    }
}

impl<T> Inbox<T> {
    fn lock(&self) -> MutexGuard<'_, Inner<T>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reports that a call of a tenant may be due.
    pub(super) fn due(&self, tenant: &Arc<str>) {
        self.lock().due.insert(tenant.clone());
        self.news.notify_one();
    }

    /// Reports that a tenant's tunnels, or their routes, have changed.
    pub(super) fn routes(&self, tenant: &Arc<str>) {
        self.lock().routes.insert(tenant.clone());
        self.news.notify_one();
    }

    /// Adds an outcome that a bridge of this tenant reported.
    pub(super) fn result(&self, tenant: &Arc<str>, report: T) {
        let mut inner = self.lock();
        let inner = &mut *inner;
        let own = inner.results.entry(tenant.clone()).or_default();
        // A tenant is in `turns` exactly while it has results.
        if own.is_empty() {
            inner.turns.push_back(tenant.clone());
        }
        // A report that finds no room is not lost: its attempt is open, and the bridge keeps the outcome until the
        // relay has acknowledged it.
        if own.len() < RESULTS_PER_TENANT_MAX {
            own.push_back(report);
        }
        self.news.notify_one();
    }

    /// Takes the tenants with calls that may be due, and those whose routes may have changed.
    pub(super) fn take_tenants(&self) -> (HashSet<Arc<str>>, HashSet<Arc<str>>) {
        let mut inner = self.lock();
        (
            std::mem::take(&mut inner.due),
            std::mem::take(&mut inner.routes),
        )
    }

    /// Takes up to `limit` outcomes, from the tenants in round-robin order.
    pub(super) fn take_results(&self, limit: usize) -> Vec<T> {
        let mut inner = self.lock();
        let inner = &mut *inner;
        let mut taken = Vec::new();
        while taken.len() < limit
            && let Some(tenant) = inner.turns.pop_front()
        {
            let Some(own) = inner.results.get_mut(&tenant) else {
                continue;
            };
            taken.extend(own.pop_front());
            if own.is_empty() {
                inner.results.remove(&tenant);
            } else {
                inner.turns.push_back(tenant);
            }
        }
        taken
    }

    /// Returns whether outcomes wait.
    pub(super) fn has_results(&self) -> bool {
        !self.lock().turns.is_empty()
    }

    /// Waits for a new event. Cancel safe.
    pub(super) async fn news(&self) {
        // `notify_one` stores a permit: an event between the last take and this wait wakes it at once.
        self.news.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_are_taken_round_robin() {
        let inbox = Inbox::<u32>::default();
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        for number in 0..5 {
            inbox.result(&a, number);
        }
        inbox.result(&b, 100);
        assert_eq!(inbox.take_results(3), [0, 100, 1]);
        // A report that could not be handled is added again.
        inbox.result(&b, 100);
        let mut rest = inbox.take_results(100);
        rest.sort_unstable();
        assert_eq!(rest, [2, 3, 4, 100]);
        assert!(!inbox.has_results());
        assert!(inbox.take_results(1).is_empty());
    }

    #[test]
    fn outcomes_of_one_tenant_are_bounded() {
        let inbox = Inbox::<usize>::default();
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        for number in 0..RESULTS_PER_TENANT_MAX + 10 {
            inbox.result(&a, number);
        }
        inbox.result(&b, 7);
        let taken = inbox.take_results(usize::MAX);
        assert_eq!(taken.len(), RESULTS_PER_TENANT_MAX + 1);
    }

    #[test]
    fn tenant_events_are_merged_and_not_lost() {
        let inbox = Inbox::<u32>::default();
        for number in 0..10_000 {
            let tenant: Arc<str> = format!("t{}", number % 100).into();
            inbox.due(&tenant);
            inbox.routes(&tenant);
        }
        let (due, routes) = inbox.take_tenants();
        assert_eq!((due.len(), routes.len()), (100, 100));
        let (due, routes) = inbox.take_tenants();
        assert_eq!((due.len(), routes.len()), (0, 0));
    }
}
