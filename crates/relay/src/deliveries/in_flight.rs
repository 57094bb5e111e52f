//! The attempts that run in this process, so that no attempt runs twice at once, and what bridges
//! report of them meanwhile.
//!
//! Limits: attempts in all (`deliveries.concurrent_max`), of which a tenant may have as many as it leaves
//! for others, and attempts through each installation (`deliveries.concurrent_per_bridge`).
//!
//! ```text
//! acquire --> the task runs --> take_report_or_remove (no response) --> finish, release
//!                ^
//!                deliver_report: RESULT from the attempt's installation
//! ```

use super::rate::InstallationLimiter;
use crate::storage::calls::Via;
use protocol::frame::{CallAttempt, DeliveryResult};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Where an outcome is acknowledged.
pub(super) trait Acknowledge: Clone {
    /// Tells the bridge that the outcome is stored.
    fn acknowledge(&self, attempt: CallAttempt);
}

impl Acknowledge for transport::Session {
    fn acknowledge(&self, attempt: CallAttempt) {
        // If the session has no room for the frame, the bridge sends RESULT again and gets it then.
        self.ack_result(attempt);
    }
}

#[derive(Debug)]
struct Attempt<S> {
    number: u32,
    tenant: Arc<str>,
    via: Via,
    report: Option<(DeliveryResult, S)>,
}

#[derive(Debug)]
struct Inner<S> {
    calls: HashMap<Arc<str>, Attempt<S>>,
    installations: HashMap<(Arc<str>, Vec<u8>), InstallationLimiter>,
    /// Number of attempts of each tenant.
    tenants: HashMap<Arc<str>, u32>,
}

/// The attempts that run in this process.
#[derive(Debug)]
pub(super) struct AttemptsInFlight<S = transport::Session> {
    inner: Mutex<Inner<S>>,
}

impl<S> Default for AttemptsInFlight<S> {
    fn default() -> Self {
        Self {
            inner: Mutex::new(Inner {
                calls: HashMap::new(),
                installations: HashMap::new(),
                tenants: HashMap::new(),
            }),
        }
    }
}

/// The limits on a new attempt.
#[derive(Debug, Clone, Copy)]
pub(super) struct AttemptLimits {
    /// Attempts at once in all.
    pub(super) total_max: u32,
    /// Attempts at once through the installation.
    pub(super) installation_max: u32,
    /// Attempts that start in a second through the installation.
    pub(super) per_second: u32,
}

impl AttemptLimits {
    /// For an attempt that started before: it already counts at its bridge, so limiting it again could
    /// only delay its outcome.
    pub(super) const UNLIMITED: Self = Self {
        total_max: u32::MAX,
        installation_max: u32::MAX,
        per_second: u32::MAX,
    };
}

impl<S: Acknowledge> AttemptsInFlight<S> {
    fn lock(&self) -> MutexGuard<'_, Inner<S>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns how many attempts run.
    pub(super) fn count(&self) -> usize {
        self.lock().calls.len()
    }

    /// Returns whether an attempt of this call runs.
    pub(super) fn has(&self, id: &str) -> bool {
        self.lock().calls.contains_key(id)
    }

    /// Claims a call for this attempt and takes a permit of its installation; returns when the attempt may
    /// start. `None` when the call has an attempt, or a limit is reached. From here on, what the attempt's
    /// bridge reports is kept for it.
    pub(super) fn acquire(
        &self,
        id: &Arc<str>,
        tenant: &Arc<str>,
        via: &Via,
        number: u32,
        limits: AttemptLimits,
    ) -> Option<Instant> {
        let now = Instant::now();
        let mut inner = self.lock();
        if inner.calls.contains_key(id) {
            return None;
        }
        let all = u32::try_from(inner.calls.len()).unwrap_or(u32::MAX);
        let own = inner.tenants.get(tenant).copied().unwrap_or(0);
        // A dynamic threshold: a tenant may have as many attempts as permits are left. Alone it gets half,
        // and each further tenant still finds permits.
        let left = limits.total_max.saturating_sub(all);
        if left == 0 || (own > 0 && own >= left) {
            return None;
        }
        // By installation, not by bridge: two installations of a bridge are two machines.
        let key = (via.bridge.clone(), via.instance.clone());
        let installation = inner.installations.entry(key).or_default();
        let start = installation.acquire(now, limits.installation_max, limits.per_second)?;
        let attempt = Attempt {
            number,
            tenant: tenant.clone(),
            via: via.clone(),
            report: None,
        };
        inner.calls.insert(id.clone(), attempt);
        *inner.tenants.entry(tenant.clone()).or_default() += 1;
        Some(start)
    }

    /// Keeps a bridge's report for the attempt's task. Returns whether the attempt runs here and belongs
    /// to that bridge; the task then acknowledges.
    ///
    /// Tenant, bridge and installation must be those that the attempt went to. They are the session's own,
    /// as it authenticated them. Any session of the installation may bring the report: after a lost tunnel
    /// the next one does (W-55).
    pub(super) fn deliver_report(
        &self,
        id: &str,
        tenant: &str,
        via: &Via,
        result: DeliveryResult,
        session: &S,
    ) -> bool {
        let mut inner = self.lock();
        let Some(attempt) = inner.calls.get_mut(id) else {
            return false;
        };
        let is_its_own = *attempt.tenant == *tenant
            && attempt.via == *via
            && attempt.number == result.attempt.attempt;
        if is_its_own {
            attempt.report = Some((result, session.clone()));
        }
        is_its_own
    }

    /// Returns the report on an attempt that got no response. Without one, the attempt is removed.
    ///
    /// Both happen under one lock: a report that comes later finds no attempt here, and goes to the engine's
    /// inbox instead of being kept for a task that has ended.
    pub(super) fn take_report_or_remove(&self, id: &str) -> Option<DeliveryResult> {
        let mut inner = self.lock();
        let report = inner
            .calls
            .get(id)
            .and_then(|attempt| attempt.report.as_ref());
        let report = report.map(|(result, _)| *result);
        if report.is_none() {
            inner.remove(id);
        }
        report
    }

    /// Removes an attempt that has ended. With `is_stored`, its outcome is on disk and is acknowledged if
    /// its bridge waits for that. Without, the bridge must keep it.
    pub(super) fn finish(&self, id: &str, is_stored: bool) {
        let removed = self.lock().remove(id);
        if let Some((result, session)) = removed.and_then(|attempt| attempt.report)
            && is_stored
        {
            session.acknowledge(result.attempt);
        }
    }

    /// Returns a permit of an installation.
    pub(super) fn release(&self, via: &Via) {
        let now = Instant::now();
        let mut inner = self.lock();
        if let Some(installation) = inner
            .installations
            .get_mut(&(via.bridge.clone(), via.instance.clone()))
        {
            installation.release();
        }
        inner
            .installations
            .retain(|_, installation| !installation.is_idle(now));
    }
}

impl<S> Inner<S> {
    fn remove(&mut self, id: &str) -> Option<Attempt<S>> {
        let removed = self.calls.remove(id)?;
        if let Some(count) = self.tenants.get_mut(&removed.tenant) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.tenants.remove(&removed.tenant);
            }
        }
        Some(removed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::Execution;

    /// Records the acknowledged attempts.
    #[derive(Debug, Clone, Default)]
    struct Acks(Arc<Mutex<Vec<CallAttempt>>>);

    impl Acknowledge for Acks {
        fn acknowledge(&self, attempt: CallAttempt) {
            self.0.lock().unwrap().push(attempt);
        }
    }

    fn via(bridge: &str, instance: u8) -> Via {
        Via {
            bridge: bridge.into(),
            instance: vec![instance; 16],
        }
    }

    fn result(attempt: u32) -> DeliveryResult {
        DeliveryResult {
            attempt: CallAttempt {
                call: [7; 16],
                attempt,
            },
            status: Some(200),
            code: None,
            execution: Execution::Executed.to_wire(),
        }
    }

    #[test]
    fn report_counts_only_from_its_installation() {
        let in_flight = AttemptsInFlight::<Acks>::default();
        let (id, tenant): (Arc<str>, Arc<str>) = ("call_1".into(), "t".into());
        let own = via("b", 1);
        in_flight
            .acquire(&id, &tenant, &own, 3, AttemptLimits::UNLIMITED)
            .unwrap();
        let acks = Acks::default();
        for (tenant, via, number) in [
            ("other", own.clone(), 3),
            ("t", via("other", 1), 3),
            ("t", via("b", 2), 3),
            ("t", own.clone(), 2),
            ("t", own.clone(), 4),
        ] {
            let taken = in_flight.deliver_report(&id, tenant, &via, result(number), &acks);
            assert!(!taken, "{tenant} {via:?} {number}");
        }
        assert!(in_flight.deliver_report(&id, "t", &own, result(3), &acks));
        assert_eq!(in_flight.take_report_or_remove(&id), Some(result(3)));
        in_flight.finish(&id, true);
        assert_eq!(acks.0.lock().unwrap().len(), 1);
        assert!(!in_flight.has(&id));
    }

    #[test]
    fn unstored_outcome_is_not_acknowledged() {
        let in_flight = AttemptsInFlight::<Acks>::default();
        let (id, tenant): (Arc<str>, Arc<str>) = ("call_1".into(), "t".into());
        let own = via("b", 1);
        in_flight
            .acquire(&id, &tenant, &own, 1, AttemptLimits::UNLIMITED)
            .unwrap();
        let acks = Acks::default();
        assert!(in_flight.deliver_report(&id, "t", &own, result(1), &acks));
        in_flight.finish(&id, false);
        assert!(acks.0.lock().unwrap().is_empty());
        assert!(!in_flight.has(&id));
    }

    #[test]
    fn tenant_leaves_room_for_others() {
        let in_flight = AttemptsInFlight::<Acks>::default();
        let limits = AttemptLimits {
            total_max: 8,
            installation_max: u32::MAX,
            per_second: u32::MAX,
        };
        let acquire = |tenant: &str, number: u32| {
            let id: Arc<str> = format!("{tenant}{number}").into();
            // Each through a different bridge: a tenant can have many.
            let via = via(&format!("{tenant}{number}"), 1);
            in_flight
                .acquire(&id, &tenant.into(), &via, 1, limits)
                .is_some()
        };
        let begun = (0..20).filter(|number| acquire("a", *number)).count();
        assert_eq!(begun, 4);
        for tenant in ["b", "c", "d"] {
            assert!(acquire(tenant, 0), "{tenant}");
        }
        in_flight.finish("a0", true);
        // The free permit does not go to the first tenant again.
        assert!(!acquire("a", 0));
        assert!(acquire("e", 0));
    }
}
