//! The exchanges in progress, and which tenant and key may begin another.
//!
//! Of a node's permits each tenant may use at most its weight times the number that is left, and of a tenant's
//! permits each key likewise. So a caller with many exchanges leaves permits for others, and a new caller always
//! gets one (the dynamic thresholds of Choudhury and Hahne). There is no queue: a request without a permit is
//! rejected with `Retry-After`.

use super::memory::{BodyMemory, KeyMemory, TenantMemory};
use super::reservation::Reservation;
use crate::access::Principal;
use crate::config::Weights;
use protocol::{Code, Failure};
use runtime::map::FastMap;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use transport::AbortHandle;

/// Capacities below this are not divided into shares: the first request gets the permit.
const SHARED_FROM: u32 = 64;

/// How many permits there are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Capacity {
    /// Exchanges on this node.
    pub node: u32,
    /// Exchanges of one tenant.
    pub tenant: u32,
    /// Exchanges of one key.
    pub key: u32,
    /// API operations on this node, except calls and endpoints.
    pub operations: u32,
}

/// What a permit is for. Each kind has its own capacity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A call, or a request that passes through.
    Exchange,
    /// Another operation of the API.
    Operation,
    /// An attempt of a delivery, which `deliveries` limits itself.
    Delivery,
}

/// An exchange or operation in progress.
#[derive(Debug)]
struct InProgress {
    principal: Principal,
    abort: Option<AbortHandle>,
}

/// A tenant or a key: its permits by kind, and the memory of its bodies.
#[derive(Debug)]
struct Member<M> {
    running: [u32; 3],
    memory: Arc<M>,
}

impl<M> Member<M> {
    fn new(memory: Arc<M>) -> Self {
        Self {
            running: [0; 3],
            memory,
        }
    }
}

#[derive(Debug, Default)]
struct Ledger {
    next: u64,
    all: BTreeMap<u64, InProgress>,
    /// On this node, by kind.
    on_node: [u32; 3],
    of_tenant: FastMap<Arc<str>, Member<TenantMemory>>,
    of_key: FastMap<Arc<str>, Member<KeyMemory>>,
}

impl Ledger {
    /// Counts a permit of a tenant's key. Returns the memory for its bodies.
    fn add(
        &mut self,
        kind: Kind,
        (tenant, tenant_weight): (&Arc<str>, u8),
        (key, key_weight): (&Arc<str>, u8),
        pool: &Arc<BodyMemory>,
    ) -> Arc<KeyMemory> {
        let kind = kind as usize;
        self.on_node[kind] += 1;
        let of_tenant = self
            .of_tenant
            .entry(tenant.clone())
            .or_insert_with(|| Member::new(TenantMemory::new(pool, tenant_weight)));
        of_tenant.running[kind] += 1;
        let of_key = self
            .of_key
            .entry(key.clone())
            .or_insert_with(|| Member::new(KeyMemory::new(&of_tenant.memory, key_weight)));
        of_key.running[kind] += 1;
        of_key.memory.clone()
    }

    /// Removes a permit.
    fn remove(&mut self, kind: Kind, tenant: &Arc<str>, key: &Arc<str>) {
        self.on_node[kind as usize] -= 1;
        decrement(&mut self.of_tenant, tenant, kind);
        decrement(&mut self.of_key, key, kind);
    }
}

/// Decrements a member's count, and removes a member without permits.
fn decrement<M>(members: &mut FastMap<Arc<str>, Member<M>>, of: &Arc<str>, kind: Kind) {
    if let Some(member) = members.get_mut(of) {
        member.running[kind as usize] -= 1;
        // Its memory counters live on in reservations that outlive the permits.
        if member.running == [0; 3] {
            members.remove(of);
        }
    }
}

/// Returns whether a member with `own` permits may have one more, of `room` where `taken` are in use.
fn may_have(own: u32, taken: u32, room: u32, weight: u8) -> bool {
    let left = room.saturating_sub(taken);
    left > 0 && (room < SHARED_FROM || own < left.saturating_mul(u32::from(weight)))
}

/// Returns how many permits a member can reach at most, where other members use `others` of `room`.
fn may_reach(others: u32, room: u32, weight: u8) -> u32 {
    let left = u64::from(room.saturating_sub(others));
    let weight = u64::from(weight);
    let reached = match room < SHARED_FROM {
        true => left,
        false => left * weight / (weight + 1),
    };
    u32::try_from(reached).unwrap_or(u32::MAX)
}

/// The exchanges in progress: counted by tenant and by key, and aborted when their key is revoked.
#[derive(Debug)]
pub(crate) struct Exchanges {
    running: Mutex<Ledger>,
    room: Capacity,
    weights: Weights,
    memory: Arc<BodyMemory>,
}

impl Exchanges {
    /// Returns an empty set, whose bodies may use `memory_max_bytes`.
    pub(crate) fn new(room: Capacity, weights: Weights, memory_max_bytes: u64) -> Arc<Self> {
        Arc::new(Self {
            running: Mutex::default(),
            room,
            weights,
            memory: BodyMemory::new(memory_max_bytes),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a permit for an exchange of this caller. `streams_max` is the number of streams that its tenant's
    /// tunnels accept.
    ///
    /// # Errors
    /// `overloaded` when the share of the tenant or the key is used up.
    pub(crate) fn begin(
        self: &Arc<Self>,
        principal: &Principal,
        streams_max: u32,
    ) -> Result<ExchangePermit, Failure> {
        let room = Limits {
            node: self.room.node,
            tenant: self.room.tenant,
            key: self.room.key,
            streams_max,
            of_tenant: "limits.streams_per_tenant, and its share of limits.streams_max",
            of_key: "limits.streams_per_key, and its share of what its tenant may have",
        };
        self.take(principal, Kind::Exchange, &room)
    }

    /// Takes a permit for another operation of the API.
    ///
    /// # Errors
    /// `overloaded` when the share of the tenant or the key is used up.
    pub(crate) fn begin_operation(
        self: &Arc<Self>,
        principal: &Principal,
    ) -> Result<ExchangePermit, Failure> {
        let all = self.room.operations;
        let share = "its share of limits.operations_max";
        let room = Limits {
            node: all,
            tenant: all,
            key: all,
            streams_max: 0,
            of_tenant: share,
            of_key: share,
        };
        self.take(principal, Kind::Operation, &room)
    }

    /// Returns a permit for an attempt of a delivery. Its bodies use the tenant's share of memory, next to
    /// those of the keys.
    pub(crate) fn begin_delivery(
        self: &Arc<Self>,
        tenant: &Arc<str>,
        tenant_name: &str,
    ) -> ExchangePermit {
        // A tenant's id is no client id: its deliveries are a member of their own.
        let key = tenant.clone();
        let weights = (self.weights.of_tenant(tenant_name), 1);
        let mut running = self.lock();
        let tenant = (tenant, weights.0);
        let memory = running.add(Kind::Delivery, tenant, (&key, weights.1), &self.memory);
        ExchangePermit(Arc::new(Inner {
            exchanges: self.clone(),
            id: None,
            kind: Kind::Delivery,
            tenant: tenant.0.clone(),
            key,
            memory,
        }))
    }

    fn take(
        self: &Arc<Self>,
        principal: &Principal,
        kind: Kind,
        limits: &Limits,
    ) -> Result<ExchangePermit, Failure> {
        let full = |whose: &str, running: u32, room: u32, limits: &str| {
            let detail =
                format!("{whose} reached its concurrency limit: {running} of {room} ({limits})");
            Failure::not_sent(Code::Overloaded, detail)
        };
        let (tenant, key) = (&principal.tenant, &principal.client_id);
        // One lock for the check and the count, so that two requests cannot take the last permit.
        let mut running = self.lock();
        let count = |running: &[u32; 3]| running[kind as usize];
        let of_tenant = running.of_tenant.get(tenant);
        let of_tenant = of_tenant.map_or(0, |member| count(&member.running));
        let of_key = running.of_key.get(key);
        let of_key = of_key.map_or(0, |member| count(&member.running));
        let on_node = count(&running.on_node);
        let tenant_weight = self.weights.of_tenant(&principal.tenant_name);
        let room = limits.tenant;
        let room = room.min(may_reach(on_node - of_tenant, limits.node, tenant_weight));
        if of_tenant >= limits.tenant || !may_have(of_tenant, on_node, limits.node, tenant_weight) {
            return Err(full("the tenant", of_tenant, room, limits.of_tenant));
        }
        // Without a tunnel the request is admitted: routing then reports why there is none, which explains more
        // than `overloaded`.
        let room = match limits.streams_max {
            0 => room,
            most => room.min(most),
        };
        let key_weight = self.weights.of_key(key);
        if of_key >= limits.key || !may_have(of_key, of_tenant, room, key_weight) {
            return Err(full("the key", of_key, limits.key.min(room), limits.of_key));
        }
        let weights = (tenant_weight, key_weight);
        let memory = running.add(kind, (tenant, weights.0), (key, weights.1), &self.memory);
        running.next += 1;
        let id = running.next;
        let one = InProgress {
            principal: principal.clone(),
            abort: None,
        };
        running.all.insert(id, one);
        Ok(ExchangePermit(Arc::new(Inner {
            exchanges: self.clone(),
            id: Some(id),
            kind,
            tenant: tenant.clone(),
            key: key.clone(),
            memory,
        })))
    }

    /// Returns the number of exchanges in progress.
    pub(crate) fn count(&self) -> usize {
        self.lock().on_node[Kind::Exchange as usize] as usize
    }

    /// Returns how many bytes of memory the bodies use.
    pub(crate) fn memory_bytes(&self) -> u64 {
        self.memory.used_bytes()
    }

    /// Aborts every exchange for whose caller `why` returns a reason, which the caller gets. Returns how many.
    pub(crate) fn abort(&self, why: impl Fn(&Principal) -> Option<Failure>) -> usize {
        let aborts: Vec<(AbortHandle, Failure)> = self
            .lock()
            .all
            .values()
            .filter_map(|one| Some((one.abort.clone()?, why(&one.principal)?)))
            .collect();
        let count = aborts.len();
        // After the lock is released: an abort takes the lock of its session.
        for (abort, failure) in aborts {
            abort.abort(failure);
        }
        count
    }
}

/// The capacity for one kind of permit, and the config keys that set it.
struct Limits {
    node: u32,
    tenant: u32,
    key: u32,
    streams_max: u32,
    of_tenant: &'static str,
    of_key: &'static str,
}

/// The permit of a request, and of its response until it is written. Its last clone releases it when dropped,
/// and cancels the exchange.
#[derive(Debug, Clone)]
pub(crate) struct ExchangePermit(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    exchanges: Arc<Exchanges>,
    /// In [`Ledger::all`].
    id: Option<u64>,
    kind: Kind,
    tenant: Arc<str>,
    key: Arc<str>,
    memory: Arc<KeyMemory>,
}

impl ExchangePermit {
    /// Returns the memory for the bodies of its key.
    pub(crate) fn memory(&self) -> &Arc<KeyMemory> {
        &self.0.memory
    }

    /// Returns an empty reservation of that memory.
    pub(crate) fn reservation(&self) -> Reservation {
        Reservation::new(self.0.memory.clone())
    }

    /// Sets what a revocation, or dropping the last clone, aborts.
    pub(crate) fn attach(&self, abort: AbortHandle) {
        self.set_cutter(Some(abort));
    }

    /// Keeps the exchange when this is dropped: what is queued of it must still be sent.
    pub(crate) fn detach(&self) {
        self.set_cutter(None);
    }

    fn set_cutter(&self, abort: Option<AbortHandle>) {
        let Some(id) = self.0.id else { return };
        if let Some(one) = self.0.exchanges.lock().all.get_mut(&id) {
            one.abort = abort;
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let mut running = self.exchanges.lock();
        running.remove(self.kind, &self.tenant, &self.key);
        let removed = self.id.and_then(|id| running.all.remove(&id));
        // The lock is released first, because the abort takes the lock of the session.
        drop(running);
        if let Some(abort) = removed.and_then(|one| one.abort) {
            // No effect on an exchange that has ended.
            abort.abort(Failure::possibly_executed(
                Code::Cancelled,
                "the caller closed its connection",
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Weight;
    use crate::storage::{Existing, Role};

    fn principal(tenant: &str, key: &str) -> Principal {
        Principal {
            tenant: tenant.into(),
            tenant_name: tenant.into(),
            client_id: key.into(),
            role: Role::Caller,
            existing: Existing::Refuse,
            scope: Arc::default(),
        }
    }

    fn exchanges(node: u32, tenant: u32, key: u32, weights: Weights) -> Arc<Exchanges> {
        let room = Capacity {
            node,
            tenant,
            key,
            operations: 200,
        };
        Exchanges::new(room, weights, 1024 * 1024)
    }

    /// Takes permits until one is rejected.
    fn greedy(exchanges: &Arc<Exchanges>, tenant: &str, key: &str) -> Vec<ExchangePermit> {
        let principal = principal(tenant, key);
        std::iter::from_fn(|| exchanges.begin(&principal, 0).ok()).collect()
    }

    #[test]
    fn greedy_caller_leaves_share_for_later_callers() {
        let exchanges = exchanges(1000, 800, 800, Weights::default());
        let first = greedy(&exchanges, "a", "k");
        assert_eq!(first.len(), 250, "half of what its tenant may have");
        let all = [
            first,
            greedy(&exchanges, "a", "k1"),
            greedy(&exchanges, "b", "k2"),
            greedy(&exchanges, "c", "k3"),
        ];
        for (n, own) in all.iter().enumerate() {
            assert!(own.len() >= 90, "{n}: {}", own.len());
        }
        drop(all);
        assert_eq!(exchanges.count(), 0);
    }

    #[test]
    fn weight_enlarges_share() {
        let weights = Weights {
            tenants: [("b".to_owned(), Weight(3))].into(),
            keys: [("heavy".to_owned(), Weight(3))].into(),
        };
        let exchanges = exchanges(1000, 900, 900, weights);
        let heavy = greedy(&exchanges, "b", "heavy");
        let light = greedy(&exchanges, "b", "light");
        // Three quarters of the tenant's three quarters, and half of what is left of them.
        assert!((560..=565).contains(&heavy.len()), "{}", heavy.len());
        assert!((90..=95).contains(&light.len()), "{}", light.len());
    }

    #[test]
    fn small_capacity_is_not_divided() {
        let exchanges = exchanges(1000, 3, 2, Weights::default());
        assert_eq!(greedy(&exchanges, "a", "k").len(), 2);
        let held = (greedy(&exchanges, "a", "k"), greedy(&exchanges, "a", "k2"));
        assert_eq!((held.0.len(), held.1.len()), (2, 1));
    }

    #[test]
    fn streams_of_tunnels_are_shared() {
        let exchanges = exchanges(10_000, 4096, 768, Weights::default());
        let principal = principal("a", "k");
        let begun = std::iter::from_fn(|| exchanges.begin(&principal, 1024).ok());
        assert_eq!(begun.collect::<Vec<_>>().len(), 512);
    }

    #[test]
    fn permit_is_held_until_last_clone_is_dropped() {
        let exchanges = exchanges(10, 10, 10, Weights::default());
        let permit = exchanges.begin(&principal("a", "k"), 0).unwrap();
        let of_response = permit.clone();
        drop(permit);
        assert_eq!(exchanges.count(), 1);
        drop(of_response);
        assert_eq!(exchanges.count(), 0);
        let running = exchanges.lock();
        assert!(running.of_tenant.is_empty() && running.of_key.is_empty());
    }

    #[test]
    fn operations_have_their_own_shared_capacity() {
        let exchanges = exchanges(10, 10, 10, Weights::default());
        let _calls = greedy(&exchanges, "a", "k");
        let take = |tenant: &str, key: &str| -> Vec<ExchangePermit> {
            let principal = principal(tenant, key);
            std::iter::from_fn(|| exchanges.begin_operation(&principal).ok()).collect()
        };
        let first = take("a", "k");
        assert_eq!(first.len(), 50);
        let others = (take("a", "k1"), take("b", "k2"));
        assert!(others.0.len() >= 12 && others.1.len() >= 12);
        assert_eq!(exchanges.count(), 10);
    }

    #[test]
    fn delivery_bodies_use_memory_of_their_tenant() {
        let exchanges = exchanges(10, 10, 10, Weights::default());
        let delivery = exchanges.begin_delivery(&"a".into(), "a");
        let mut body = delivery.reservation();
        body.try_grow_to(64 * 1024).unwrap();
        assert_eq!(exchanges.memory_bytes(), 64 * 1024);
        assert_eq!(exchanges.count(), 0);
        drop((body, delivery));
        assert_eq!(exchanges.memory_bytes(), 0);
    }
}
