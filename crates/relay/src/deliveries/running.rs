//! The attempts that run in this process, so that none is made twice at once, and what bridges say
//! of them meanwhile.
//!
//! Limits: attempts in all (`concurrent_max`), of which a tenant may have as many as it leaves for the
//! others, and of each installation (`concurrent_per_bridge`).

use super::rate::Lane;
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
        // Without room the bridge sends RESULT again, and is answered then.
        self.ack_result(attempt);
    }
}

#[derive(Debug)]
struct Attempt<S> {
    number: u32,
    tenant: Arc<str>,
    via: Via,
    heard: Option<(DeliveryResult, S)>,
}

#[derive(Debug)]
struct Inner<S> {
    calls: HashMap<Arc<str>, Attempt<S>>,
    lanes: HashMap<(Arc<str>, Vec<u8>), Lane>,
    /// Attempts of each tenant.
    tenants: HashMap<Arc<str>, u32>,
}

/// What runs.
#[derive(Debug)]
pub(super) struct Running<S = transport::Session> {
    inner: Mutex<Inner<S>>,
}

impl<S> Default for Running<S> {
    fn default() -> Self {
        Self {
            inner: Mutex::new(Inner {
                calls: HashMap::new(),
                lanes: HashMap::new(),
                tenants: HashMap::new(),
            }),
        }
    }
}

/// The limits on a new attempt.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    /// Attempts at once in all.
    pub(super) total: u32,
    /// Attempts at once through the installation.
    pub(super) lane: u32,
    /// Attempts that are begun in a second through the installation.
    pub(super) per_second: u32,
}

impl Room {
    /// For an attempt that was begun before: the bridge has it already.
    pub(super) const UNLIMITED: Self = Self {
        total: u32::MAX,
        lane: u32::MAX,
        per_second: u32::MAX,
    };
}

impl<S: Acknowledge> Running<S> {
    fn lock(&self) -> MutexGuard<'_, Inner<S>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many attempts run.
    pub(super) fn count(&self) -> usize {
        self.lock().calls.len()
    }

    /// Whether an attempt of this call runs.
    pub(super) fn has(&self, id: &str) -> bool {
        self.lock().calls.contains_key(id)
    }

    /// Takes a call for this attempt, and a place in its lane; returns when the attempt may begin. `None`
    /// when the call has an attempt, or a limit is reached. From here on, what its bridge says of it is kept
    /// for it.
    pub(super) fn enter(
        &self,
        id: &Arc<str>,
        tenant: &Arc<str>,
        via: &Via,
        number: u32,
        room: Room,
    ) -> Option<Instant> {
        let now = Instant::now();
        let mut inner = self.lock();
        if inner.calls.contains_key(id) {
            return None;
        }
        let all = u32::try_from(inner.calls.len()).unwrap_or(u32::MAX);
        let own = inner.tenants.get(tenant).copied().unwrap_or(0);
        // A dynamic threshold: alone, a tenant gets half, and each further one finds room.
        let left = room.total.saturating_sub(all);
        if left == 0 || (own > 0 && own >= left) {
            return None;
        }
        let key = (via.bridge.clone(), via.instance.clone());
        let lane = inner.lanes.entry(key).or_default();
        let begin = lane.enter(now, room.lane, room.per_second)?;
        let attempt = Attempt {
            number,
            tenant: tenant.clone(),
            via: via.clone(),
            heard: None,
        };
        inner.calls.insert(id.clone(), attempt);
        *inner.tenants.entry(tenant.clone()).or_default() += 1;
        Some(begin)
    }

    /// A bridge says what became of an attempt. Returns whether it runs here and is that bridge's; then
    /// the task that runs it acknowledges.
    ///
    /// The tenant, the bridge and the installation must be those that the attempt went to. They are the
    /// session's own, as it proved them. Any session of the installation may bring the outcome: after a
    /// lost tunnel the next one does (W-55).
    pub(super) fn hear(
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
            attempt.heard = Some((result, session.clone()));
        }
        is_its_own
    }

    /// What was heard of an attempt that has no response; if nothing was, it does not run any more.
    pub(super) fn heard_or_gone(&self, id: &str) -> Option<DeliveryResult> {
        let mut inner = self.lock();
        let heard = inner
            .calls
            .get(id)
            .and_then(|attempt| attempt.heard.as_ref());
        let heard = heard.map(|(result, _)| *result);
        if heard.is_none() {
            inner.remove(id);
        }
        heard
    }

    /// The attempt is over. With `is_stored`, its outcome is on disk: it is acknowledged if its bridge
    /// waits for that. Without, the bridge must keep it.
    pub(super) fn over(&self, id: &str, is_stored: bool) {
        let gone = self.lock().remove(id);
        if let Some((result, session)) = gone.and_then(|gone| gone.heard)
            && is_stored
        {
            session.acknowledge(result.attempt);
        }
    }

    /// A place in a lane is free.
    pub(super) fn leave(&self, lane: &Via) {
        let now = Instant::now();
        let mut inner = self.lock();
        if let Some(lane) = inner
            .lanes
            .get_mut(&(lane.bridge.clone(), lane.instance.clone()))
        {
            lane.leave();
        }
        inner.lanes.retain(|_, lane| !lane.is_idle(now));
    }
}

impl<S> Inner<S> {
    fn remove(&mut self, id: &str) -> Option<Attempt<S>> {
        let gone = self.calls.remove(id)?;
        if let Some(count) = self.tenants.get_mut(&gone.tenant) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.tenants.remove(&gone.tenant);
            }
        }
        Some(gone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::Execution;

    /// Counts what is acknowledged.
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
    fn result_counts_only_from_the_installation_asked() {
        let running = Running::<Acks>::default();
        let (id, tenant): (Arc<str>, Arc<str>) = ("call_1".into(), "t".into());
        let own = via("b", 1);
        running
            .enter(&id, &tenant, &own, 3, Room::UNLIMITED)
            .unwrap();
        let acks = Acks::default();
        for (tenant, via, number) in [
            ("other", own.clone(), 3),
            ("t", via("other", 1), 3),
            ("t", via("b", 2), 3),
            ("t", own.clone(), 2),
            ("t", own.clone(), 4),
        ] {
            let heard = running.hear(&id, tenant, &via, result(number), &acks);
            assert!(!heard, "{tenant} {via:?} {number}");
        }
        assert!(running.hear(&id, "t", &own, result(3), &acks));
        assert_eq!(running.heard_or_gone(&id), Some(result(3)));
        running.over(&id, true);
        assert_eq!(acks.0.lock().unwrap().len(), 1);
        assert!(!running.has(&id));
    }

    #[test]
    fn outcome_not_stored_is_not_acknowledged() {
        let running = Running::<Acks>::default();
        let (id, tenant): (Arc<str>, Arc<str>) = ("call_1".into(), "t".into());
        let own = via("b", 1);
        running
            .enter(&id, &tenant, &own, 1, Room::UNLIMITED)
            .unwrap();
        let acks = Acks::default();
        assert!(running.hear(&id, "t", &own, result(1), &acks));
        running.over(&id, false);
        assert!(acks.0.lock().unwrap().is_empty());
        assert!(!running.has(&id));
    }

    #[test]
    fn tenant_leaves_room_for_others() {
        let running = Running::<Acks>::default();
        let room = Room {
            total: 8,
            lane: u32::MAX,
            per_second: u32::MAX,
        };
        let enter = |tenant: &str, number: u32| {
            let id: Arc<str> = format!("{tenant}{number}").into();
            // Each through a bridge of its own: a tenant can have many.
            let via = via(&format!("{tenant}{number}"), 1);
            running.enter(&id, &tenant.into(), &via, 1, room).is_some()
        };
        let begun = (0..20).filter(|number| enter("a", *number)).count();
        assert_eq!(begun, 4);
        for tenant in ["b", "c", "d"] {
            assert!(enter(tenant, 0), "{tenant}");
        }
        running.over("a0", true);
        // The place that came free is not the first tenant's again.
        assert!(!enter("a", 0));
        assert!(enter("e", 0));
    }
}
