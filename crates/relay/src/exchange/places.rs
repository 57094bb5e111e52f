//! The exchanges that run, and who may begin another.
//!
//! Of a node's places each tenant may take as many as its weight times what is left, and of a tenant's
//! places each key likewise: whoever has many leaves some, and a newcomer always finds a place (the dynamic
//! thresholds of Choudhury and Hahne). Nobody waits in a queue: who finds none is told when to come again.

use crate::auth::Principal;
use crate::config::Weights;
use protocol::{Code, Failure};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use transport::Cutter;

/// Fewer places than these are nobody's to share: the first to come has them.
const SHARED_FROM: u32 = 64;

/// How many places there are.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    /// On this node.
    pub node: u32,
    /// Of one tenant.
    pub tenant: u32,
    /// Of one key.
    pub key: u32,
}

/// An exchange that runs.
#[derive(Debug)]
struct One {
    principal: Principal,
    cutter: Option<Cutter>,
    /// What its caller has not taken, see [`Taking`].
    taking: Arc<Taking>,
}

#[derive(Debug, Default)]
struct Running {
    next: u64,
    all: BTreeMap<u64, One>,
    of_tenant: HashMap<Arc<str>, u32>,
    of_key: HashMap<Arc<str>, u32>,
}

impl Running {
    /// Takes one out. Its place is free.
    fn remove(&mut self, id: u64) -> Option<One> {
        let one = self.all.remove(&id)?;
        less(&mut self.of_tenant, &one.principal.tenant);
        less(&mut self.of_key, &one.principal.client_id);
        Some(one)
    }
}

/// Takes one away, and what has none left.
fn less(counts: &mut HashMap<Arc<str>, u32>, of: &Arc<str>) {
    if let Some(count) = counts.get_mut(of) {
        *count -= 1;
        if *count == 0 {
            counts.remove(of);
        }
    }
}

/// Whether somebody with `own` places may have one more, of `room` where `taken` are taken.
fn may_have(own: u32, taken: u32, room: u32, weight: u8) -> bool {
    let left = room.saturating_sub(taken);
    left > 0 && (room < SHARED_FROM || own < left.saturating_mul(u32::from(weight)))
}

/// How many somebody comes to who takes all it may have, where others have `others` of `room`.
fn may_reach(others: u32, room: u32, weight: u8) -> u32 {
    let left = u64::from(room.saturating_sub(others));
    let weight = u64::from(weight);
    let reached = match room < SHARED_FROM {
        true => left,
        false => left * weight / (weight + 1),
    };
    u32::try_from(reached).unwrap_or(u32::MAX)
}

/// Since when a caller has not taken a piece of an answer that was there for it: the tick of
/// [`Exchanges::tick`], or zero while it takes all that comes.
#[derive(Debug, Default)]
pub(super) struct Taking(AtomicU32);

impl Taking {
    /// It was given a piece, at this tick.
    pub(super) fn given(&self, tick: u32) {
        self.0.store(tick, Ordering::Relaxed);
    }

    /// It asked for more than there is.
    pub(super) fn waits(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

/// The exchanges that run: counted by tenant and by key, and cut when their key is revoked.
#[derive(Debug)]
pub struct Exchanges {
    running: Mutex<Running>,
    room: Room,
    weights: Weights,
    /// Seconds, about, from one on.
    tick: AtomicU32,
}

impl Exchanges {
    /// None yet.
    pub fn new(room: Room, weights: Weights) -> Arc<Self> {
        Arc::new(Self {
            running: Mutex::default(),
            room,
            weights,
            tick: AtomicU32::new(1),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place for an exchange of this caller, whose tenant's tunnels take so many at once.
    ///
    /// # Errors
    /// `overloaded` when it may not have one more.
    pub fn begin(
        self: &Arc<Self>,
        principal: &Principal,
        tunnels_take: u32,
    ) -> Result<Place, Failure> {
        let full = |whose: &str, running: u32, room: u32, limits: &str| {
            let detail = format!(
                "{whose} has {running} requests running, as many as it may have now of {room} ({limits})"
            );
            Failure::not_sent(Code::Overloaded, detail)
        };
        let mut running = self.lock();
        let of = |counts: &HashMap<Arc<str>, u32>, name| counts.get(name).copied().unwrap_or(0);
        let of_tenant = of(&running.of_tenant, &principal.tenant);
        let of_key = of(&running.of_key, &principal.client_id);
        let on_node = u32::try_from(running.all.len()).unwrap_or(u32::MAX);
        let weight = self.weights.of_tenant(&principal.tenant_name);
        let room = self.room.tenant;
        let room = room.min(may_reach(on_node - of_tenant, self.room.node, weight));
        if of_tenant >= self.room.tenant || !may_have(of_tenant, on_node, self.room.node, weight) {
            let limits = "limits.streams_per_tenant, and its share of limits.streams_max";
            return Err(full("the tenant", of_tenant, room, limits));
        }
        // Where no tunnel is up, that is for the router to say.
        let room = match tunnels_take {
            0 => room,
            most => room.min(most),
        };
        let weight = self.weights.of_key(&principal.client_id);
        if of_key >= self.room.key || !may_have(of_key, of_tenant, room, weight) {
            let limits = "limits.streams_per_key, and its share of what its tenant may have";
            return Err(full("the key", of_key, self.room.key.min(room), limits));
        }
        *running
            .of_tenant
            .entry(principal.tenant.clone())
            .or_default() += 1;
        *running
            .of_key
            .entry(principal.client_id.clone())
            .or_default() += 1;
        running.next += 1;
        let id = running.next;
        let taking = Arc::<Taking>::default();
        let one = One {
            principal: principal.clone(),
            cutter: None,
            taking: taking.clone(),
        };
        running.all.insert(id, one);
        Ok(Place {
            exchanges: self.clone(),
            id,
            taking,
        })
    }

    /// How many run.
    pub fn count(&self) -> usize {
        self.lock().all.len()
    }

    /// Cuts every exchange whose caller may no longer have one.
    pub fn cut(&self, may_stay: impl Fn(&Principal) -> bool) -> usize {
        let cutters: Vec<Cutter> = self
            .lock()
            .all
            .values()
            .filter(|one| !may_stay(&one.principal))
            .filter_map(|one| one.cutter.clone())
            .collect();
        for cutter in &cutters {
            let detail = "the API key was revoked while the request ran";
            cutter.cut(Failure::possibly_executed(Code::Unauthorized, detail));
        }
        cutters.len()
    }

    /// The current tick.
    pub(super) fn now(&self) -> u32 {
        self.tick.load(Ordering::Relaxed)
    }

    /// To be called once a second: cuts the exchanges whose callers have taken nothing for so many
    /// ticks of an answer that is there. Their places are free from then on. Returns how many.
    pub fn tick(&self, ticks_max: u32) -> usize {
        let now = self.tick.fetch_add(1, Ordering::Relaxed) + 1;
        let mut running = self.lock();
        let is_stuck = |one: &One| {
            let since = one.taking.0.load(Ordering::Relaxed);
            since != 0 && now.saturating_sub(since) > ticks_max
        };
        let stuck: Vec<u64> = running
            .all
            .iter()
            .filter(|(_, one)| is_stuck(one))
            .map(|(id, _)| *id)
            .collect();
        let cut: Vec<One> = stuck.iter().filter_map(|id| running.remove(*id)).collect();
        drop(running);
        for one in &cut {
            if let Some(cutter) = &one.cutter {
                let detail = "the caller took nothing of its answer";
                cutter.cut(Failure::possibly_executed(Code::Timeout, detail));
            }
        }
        cut.len()
    }
}

/// A running exchange's place; given back when dropped, and the exchange taken back with it.
#[derive(Debug)]
pub struct Place {
    exchanges: Arc<Exchanges>,
    id: u64,
    taking: Arc<Taking>,
}

impl Place {
    pub(super) fn attach(&self, cutter: Cutter) {
        if let Some(one) = self.exchanges.lock().all.get_mut(&self.id) {
            one.cutter = Some(cutter);
        }
    }

    /// What is queued of the exchange shall still leave: dropping this takes nothing back.
    pub(super) fn detach(&self) {
        if let Some(one) = self.exchanges.lock().all.get_mut(&self.id) {
            one.cutter = None;
        }
    }

    /// The caller was given a piece of its answer.
    pub(super) fn given(&self) {
        self.taking.given(self.exchanges.now());
    }

    /// The caller waits for more of it.
    pub(super) fn waits(&self) {
        self.taking.waits();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let removed = self.exchanges.lock().remove(self.id);
        if let Some(cutter) = removed.and_then(|one| one.cutter) {
            // Nothing happens to an exchange that is over.
            cutter.cut(Failure::possibly_executed(
                Code::Cancelled,
                "the caller went away",
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
        Exchanges::new(Room { node, tenant, key }, weights)
    }

    /// Takes all that it gets.
    fn greedy(exchanges: &Arc<Exchanges>, tenant: &str, key: &str) -> Vec<Place> {
        let principal = principal(tenant, key);
        std::iter::from_fn(|| exchanges.begin(&principal, 0).ok()).collect()
    }

    #[test]
    fn who_takes_all_it_gets_leaves_a_share_for_who_comes_later() {
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
    fn a_weight_is_a_larger_share() {
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
    fn few_places_are_for_who_comes_first() {
        let exchanges = exchanges(1000, 3, 2, Weights::default());
        assert_eq!(greedy(&exchanges, "a", "k").len(), 2);
        let held = (greedy(&exchanges, "a", "k"), greedy(&exchanges, "a", "k2"));
        assert_eq!((held.0.len(), held.1.len()), (2, 1));
    }

    #[test]
    fn as_many_as_the_tunnels_take_are_shared() {
        let exchanges = exchanges(10_000, 4096, 768, Weights::default());
        let principal = principal("a", "k");
        let begun = std::iter::from_fn(|| exchanges.begin(&principal, 1024).ok());
        assert_eq!(begun.collect::<Vec<_>>().len(), 512);
    }

    #[test]
    fn a_caller_that_takes_nothing_loses_its_place_and_one_that_waits_keeps_it() {
        let exchanges = exchanges(10, 10, 10, Weights::default());
        let stuck = exchanges.begin(&principal("a", "k"), 0).unwrap();
        let waiting = exchanges.begin(&principal("a", "k"), 0).unwrap();
        stuck.given();
        waiting.given();
        waiting.waits();
        assert_eq!((0..3).map(|_| exchanges.tick(2)).sum::<usize>(), 1);
        assert_eq!(exchanges.count(), 1);
        drop(stuck);
        assert_eq!(exchanges.count(), 1);
        drop(waiting);
        assert_eq!(exchanges.count(), 0);
    }
}
