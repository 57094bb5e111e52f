//! The connected tunnels, and which connection may replace which.
//!
//! A bridge has instances (installations), and each instance has slots (connections). The epoch counts the
//! connections of a slot: a higher one replaces the slot's old session at once, unless that is draining; an equal
//! or lower one is stale. Two processes that run with one identity replace each other once, and that is reported
//! as a clone (`clones`).
//!
//! `entry`: a tunnel; `slot`: the history of a slot; `offer`: what a bridge serves; `last_offers`: what it served before
//! it went offline; `tunnels`: the index of a tenant.

mod clones;
mod entry;
mod last_offers;
mod offer;
mod slot;
mod tunnels;

pub(crate) use entry::{TunnelEntry, TunnelOwner};
pub(crate) use last_offers::Installation;
pub(crate) use offer::{AdvertisedRoutes, Standing};
pub(crate) use tunnels::Tunnels;

use last_offers::LastOffers;
use protocol::frame::{GoAwayReason, Hello, PreviousSession, RefusedCode, Serves};
use protocol::session::EndReason;
use runtime::map::FastMap;
use slot::{Slot, SlotHistory, slot_of};
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use transport::Session;

/// Slots whose last epoch is kept, unless more may be connected. A slot that is evicted may start with any epoch.
const SLOTS_KEPT_MAX: usize = 100_000;

/// Reports of lost sessions that are kept for the requests that wait for them.
const REPORTS_MAX: usize = 256;

/// Slots of one instance.
const SLOT_MAX: u8 = 8;

#[derive(Debug, Default)]
struct Inner {
    /// By tenant.
    sessions: FastMap<Arc<str>, Tunnels>,
    count: usize,
    last_offers: LastOffers,
    slots: BTreeMap<Slot, SlotHistory>,
}

/// A bridge's report of a lost session.
#[derive(Debug)]
struct PreviousSessionReport {
    bridge: Arc<str>,
    session: PreviousSession,
}

/// Every tunnel of this node.
#[derive(Debug)]
pub(crate) struct Registry {
    inner: Mutex<Inner>,
    reports: watch::Sender<VecDeque<PreviousSessionReport>>,
    sessions_max: usize,
    sessions_per_tenant: usize,
}

impl Registry {
    /// Returns an empty registry, with limits of tunnels in all and of one tenant.
    pub(crate) fn new(sessions_max: u32, sessions_per_tenant: u32) -> Self {
        Self {
            inner: Mutex::default(),
            reports: watch::Sender::new(VecDeque::new()),
            sessions_max: sessions_max as usize,
            sessions_per_tenant: sessions_per_tenant as usize,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Admits a tunnel, if its epoch is fresh and the limits allow it. Called before WELCOME: from here on the slot
    /// is fenced against lower epochs.
    ///
    /// # Errors
    /// The code to refuse it with.
    pub(crate) fn admit(
        &self,
        owner: &TunnelOwner,
        hello: &Hello,
        now: Instant,
    ) -> Result<(), RefusedCode> {
        let mut inner = self.lock();
        if hello.slot >= SLOT_MAX {
            return Err(RefusedCode::Unauthorized);
        }
        let slot = slot_of(owner, hello);
        let known = inner.slots.get(&slot);
        if let Some(current) = known.map(|history| history.epoch)
            && hello.epoch <= current
        {
            return Err(RefusedCode::StaleEpoch { current });
        }
        let is_known = known.is_some();
        if let Some(history) = inner.slots.get_mut(&slot)
            && !history.may_replace(hello, now)
        {
            let current = history.epoch;
            return Err(RefusedCode::StaleEpoch { current });
        }
        let known = inner.slots.get(&slot);
        let replaces =
            known.is_some_and(|history| history.tunnels.iter().any(|own| own.session.is_open()));
        let of_tenant = inner.sessions.get(&owner.tenant);
        let full = inner.count >= self.sessions_max
            || of_tenant.map_or(0, |tunnels| tunnels.all().len())
                >= self.sessions_per_tenant.max(1);
        // A connection that replaces another one needs no room of its own.
        if full && !replaces {
            return Err(RefusedCode::Overloaded);
        }
        // An eviction scans all slots. With twice the number of tunnels as the limit, each scan frees at least half
        // of them, so the cost of a connection is constant on average.
        let kept_max = SLOTS_KEPT_MAX.max(2 * self.sessions_max);
        if !is_known && inner.slots.len() >= kept_max {
            inner.evict_absent();
        }
        inner.history_mut(slot, owner).epoch = hello.epoch;
        Ok(())
    }

    /// Resets the epochs of an installation that was paired again: it starts to count again.
    pub(crate) fn reset_epochs(&self, bridge: &str, instance: &[u8; 16]) {
        let mut inner = self.lock();
        for (slot, history) in &mut inner.slots {
            if *slot.bridge == *bridge && slot.instance == *instance {
                history.epoch = 0;
            }
        }
    }

    /// Adds a tunnel. The old session of its slot, if any, is closed.
    pub(crate) fn insert(
        &self,
        owner: &TunnelOwner,
        hello: &Hello,
        peer: IpAddr,
        (session, offer): (Session, AdvertisedRoutes),
        now: Instant,
    ) -> Arc<TunnelEntry> {
        let slot = slot_of(owner, hello);
        let entry = TunnelEntry::new(owner, hello, slot.clone(), peer, (session, offer), now);
        let entry = Arc::new(entry);
        let mut inner = self.lock();
        let history = inner.history_mut(slot.clone(), owner);
        let newest = history.epoch;
        // The slot may have been evicted while the WELCOME was sent.
        history.epoch = newest.max(hello.epoch);
        if newest > hello.epoch {
            // A newer connection of the slot was admitted while this one's WELCOME was sent.
            drop(inner);
            entry.session.close(EndReason::Replaced);
            return entry;
        }
        let history = inner.history_mut(slot, owner);
        // The newest draining session may finish its requests. Older ones have had their time.
        let spared = history
            .tunnels
            .iter()
            .rposition(|old| !old.session.is_open());
        let spared = spared.map(|index| history.tunnels.remove(index));
        let old = std::mem::take(&mut history.tunnels);
        history.tunnels.extend(spared);
        history.tunnels.push(entry.clone());
        for old in &old {
            history.clones.replaces(old.session.id());
        }
        for old in &old {
            inner.remove_from_tenant(old);
        }
        let tunnels = inner.sessions.entry(owner.tenant.clone()).or_default();
        tunnels.insert(&entry);
        inner.count += 1;
        inner.last_offers.remember(owner.into(), entry.offer());
        // Closing takes the lock of the session, so it comes after the registry's lock is released.
        drop(inner);
        for old in old {
            old.session.close(EndReason::Replaced);
        }
        entry
    }

    /// Records a bridge's report, made with its next session, of the session that was lost.
    pub(crate) fn record_previous_session(&self, owner: &TunnelOwner, session: PreviousSession) {
        self.reports.send_modify(|all| {
            if all.len() >= REPORTS_MAX {
                all.pop_front();
            }
            let bridge = owner.bridge.clone();
            all.push_back(PreviousSessionReport { bridge, session });
        });
    }

    /// Waits at most `wait` for the report on a stream of a lost tunnel (W-51). Returns whether the request certainly
    /// was not dispatched. Any report means that the session has ended for the bridge as well.
    pub(crate) async fn query_fate(
        &self,
        entry: &TunnelEntry,
        stream: u32,
        wait: Duration,
    ) -> Option<bool> {
        let session = entry.session.id();
        let found = |all: &VecDeque<PreviousSessionReport>| {
            let mut fitting = all.iter().filter(|report| {
                report.session.session == session && report.bridge == entry.owner.bridge
            });
            fitting.next().map(|report| {
                let lost = &report.session;
                // A stream after the last one that the bridge received never arrived.
                stream > lost.last_stream || lost.undispatched.contains(&stream)
            })
        };
        let mut reports = self.reports.subscribe();
        let reported = reports.wait_for(|all| found(all).is_some());
        match tokio::time::timeout(wait, reported).await {
            Ok(Ok(all)) => found(&all),
            Ok(Err(_)) | Err(_) => None,
        }
    }

    /// Removes a tunnel that is down.
    pub(crate) fn remove(&self, entry: &Arc<TunnelEntry>) {
        let mut inner = self.lock();
        inner.remove_from_tenant(entry);
        inner.remove_from_slot(entry);
    }

    /// Changes what is routed to a tunnel.
    pub(crate) fn set_offer(&self, entry: &Arc<TunnelEntry>, offer: AdvertisedRoutes) {
        let mut inner = self.lock();
        if let Some(tunnels) = inner.sessions.get_mut(&entry.owner.tenant) {
            tunnels.set_offer(entry, offer);
            let of = Installation::from(&entry.owner);
            inner.last_offers.remember(of, entry.offer());
        }
    }

    /// Returns what an installation served when it was last connected, if that is known.
    pub(crate) fn last_offer(&self, identity: &str) -> Option<Arc<AdvertisedRoutes>> {
        self.lock().last_offers.get(identity).cloned()
    }

    /// Takes what an installation served from the database.
    pub(crate) fn recall_offer(&self, of: Installation, serves: Serves) {
        let offer = AdvertisedRoutes::recalled(serves);
        self.lock().last_offers.recall(of, offer);
    }

    /// Forgets what installations served that do not exist any more.
    pub(crate) fn retain_offers(&self, exists: impl Fn(&Installation) -> bool) {
        self.lock().last_offers.retain(exists);
    }

    /// Returns up to `max` declarations that are to be stored.
    pub(crate) fn unstored_offers(&self, max: usize) -> Vec<(Arc<str>, Arc<AdvertisedRoutes>)> {
        self.lock().last_offers.take_unstored(max)
    }

    /// Returns whether the database does not have what an installation serves.
    pub(crate) fn is_offer_unstored(&self, identity: &str) -> bool {
        self.lock().last_offers.is_unstored(identity)
    }

    /// Notes that a declaration could not be stored.
    pub(crate) fn offer_not_stored(&self, identity: &str) {
        self.lock().last_offers.unstore(identity);
    }

    /// Returns every tunnel.
    pub(crate) fn all(&self) -> Vec<Arc<TunnelEntry>> {
        let inner = self.lock();
        let all = inner.sessions.values();
        all.flat_map(|tunnels| tunnels.all().iter().cloned())
            .collect()
    }

    /// Returns the tunnels of a tenant.
    pub(crate) fn of_tenant(&self, tenant: &str) -> Vec<Arc<TunnelEntry>> {
        self.with_tenant(tenant, |tunnels| tunnels.all().to_vec())
            .unwrap_or_default()
    }

    /// Calls a function with the tunnels of a tenant, if it has any, under the registry's lock. For the data path,
    /// which would otherwise clone the list.
    pub(crate) fn with_tenant<T>(
        &self,
        tenant: &str,
        read: impl FnOnce(&Tunnels) -> T,
    ) -> Option<T> {
        self.lock().sessions.get(tenant).map(read)
    }

    /// Returns the ids of the bridges that have a tunnel.
    pub(crate) fn bridges(&self) -> HashSet<Arc<str>> {
        let inner = self.lock();
        inner
            .all()
            .map(|entry| entry.owner.bridge.clone())
            .collect()
    }

    /// Returns the number of tunnels.
    pub(crate) fn count(&self) -> usize {
        self.lock().count
    }

    /// Returns whether two processes seem to run with a bridge's identity.
    pub(crate) fn is_cloned(&self, bridge: &str, now: Instant) -> bool {
        let inner = self.lock();
        let first = Slot {
            bridge: bridge.into(),
            instance: [0; 16],
            number: 0,
        };
        let onward = inner.slots.range(first..);
        let mut own = onward.take_while(|(slot, _)| &*slot.bridge == bridge);
        own.any(|(_, history)| history.clones.is_cloned(now))
    }

    /// Returns the bridges with whose identity two processes seem to run.
    pub(crate) fn cloned(&self, now: Instant) -> Vec<TunnelOwner> {
        let inner = self.lock();
        let cloned = inner
            .slots
            .values()
            .filter(|history| history.clones.is_cloned(now));
        let mut owners: Vec<TunnelOwner> = cloned.map(|history| history.owner.clone()).collect();
        // A bridge's slots are adjacent.
        owners.dedup_by(|one, other| one.bridge == other.bridge);
        owners
    }

    /// Returns the number of declared endpoints whose names belong to another bridge.
    pub(crate) fn refused_endpoints(&self) -> usize {
        let inner = self.lock();
        inner
            .all()
            .map(|entry| entry.offer().refused().count())
            .sum()
    }

    /// Closes every tunnel that `why` returns a reason for. They are removed at once, so that no new request is
    /// sent to them. Returns how many.
    pub(crate) fn abort(&self, why: impl Fn(&TunnelOwner) -> Option<EndReason>) -> usize {
        let mut inner = self.lock();
        let cut: Vec<_> = inner
            .all()
            .filter_map(|entry| why(&entry.owner).map(|reason| (entry.clone(), reason)))
            .collect();
        for (entry, _) in &cut {
            inner.remove_from_tenant(entry);
            inner.remove_from_slot(entry);
        }
        drop(inner);
        let count = cut.len();
        for (entry, reason) in cut {
            entry.session.close(reason);
        }
        count
    }

    /// Sends GOAWAY to every bridge, spread over `spread`, because this node shuts down.
    pub(crate) fn drain_all(&self, spread: Duration) {
        let inner = self.lock();
        for entry in inner.all() {
            entry.session.drain(GoAwayReason::Draining, spread);
        }
    }

    /// Closes every tunnel.
    pub(crate) fn close_all(&self) {
        let all: Vec<_> = self.lock().all().cloned().collect();
        for entry in all {
            entry.session.close(EndReason::Draining);
        }
    }
}

impl Inner {
    /// Evicts the epochs of slots without a tunnel.
    fn evict_absent(&mut self) {
        self.slots.retain(|_, history| !history.tunnels.is_empty());
    }

    fn history_mut(&mut self, slot: Slot, owner: &TunnelOwner) -> &mut SlotHistory {
        self.slots
            .entry(slot)
            .or_insert_with(|| SlotHistory::new(owner))
    }

    fn all(&self) -> impl Iterator<Item = &Arc<TunnelEntry>> {
        self.sessions.values().flat_map(Tunnels::all)
    }

    /// Removes a tunnel from its tenant's, if it is there.
    fn remove_from_tenant(&mut self, entry: &Arc<TunnelEntry>) {
        let tenant = &entry.owner.tenant;
        let Some(tunnels) = self.sessions.get_mut(tenant) else {
            return;
        };
        if tunnels.remove(entry) {
            self.count -= 1;
        }
        if tunnels.all().is_empty() {
            self.sessions.remove(tenant);
        }
    }

    fn remove_from_slot(&mut self, entry: &Arc<TunnelEntry>) {
        if let Some(history) = self.slots.get_mut(&entry.slot) {
            history.tunnels.retain(|other| !Arc::ptr_eq(other, entry));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::clones::Live;
    use super::*;
    use protocol::frame::Windows;

    fn owner(tenant: &str, bridge: &str) -> TunnelOwner {
        TunnelOwner {
            tenant: tenant.into(),
            bridge: bridge.into(),
            name: bridge.into(),
            identity: "i".into(),
        }
    }

    fn hello(slot: u8, epoch: u64) -> Hello {
        Hello {
            version: 1,
            nonce: [0; 32],
            tenant: "t".into(),
            bridge: "b".into(),
            instance: [1; 16],
            slot,
            epoch,
            authority: "a".into(),
            channel: None,
            software: String::new(),
            host: String::new(),
            windows: Windows::default(),
            serves: Serves::default(),
            journal: None,
            previous: None,
        }
    }

    #[test]
    fn epoch_that_is_not_higher_is_stale() {
        let registry = Registry::new(10, 10);
        let now = Instant::now();
        let owner = owner("t", "b");
        assert_eq!(registry.admit(&owner, &hello(0, 5), now), Ok(()));
        for stale in [5, 4, 0] {
            let refused = registry.admit(&owner, &hello(0, stale), now);
            assert_eq!(refused, Err(RefusedCode::StaleEpoch { current: 5 }));
        }
        assert_eq!(registry.admit(&owner, &hello(0, 6), now), Ok(()));
        assert_eq!(registry.admit(&owner, &hello(1, 1), now), Ok(()));
        assert!(registry.admit(&owner, &hello(SLOT_MAX, 1), now).is_err());
    }

    #[test]
    fn pairing_resets_epochs_of_its_installation_only() {
        let registry = Registry::new(10, 10);
        let now = Instant::now();
        let (owner, other) = (owner("t", "b"), owner("t", "c"));
        let elsewhere = Hello {
            instance: [2; 16],
            ..hello(0, u64::MAX)
        };
        for (owner, hello) in [
            (&owner, hello(0, u64::MAX)),
            (&owner, hello(1, 7)),
            (&owner, elsewhere.clone()),
            (&other, hello(0, u64::MAX)),
        ] {
            assert_eq!(registry.admit(owner, &hello, now), Ok(()));
        }
        registry.reset_epochs("b", &[1; 16]);
        assert_eq!(registry.admit(&owner, &hello(0, 1), now), Ok(()));
        assert_eq!(registry.admit(&owner, &hello(1, 1), now), Ok(()));
        assert!(registry.admit(&owner, &elsewhere, now).is_err());
        assert!(registry.admit(&other, &hello(0, 1), now).is_err());
    }

    #[test]
    fn clone_is_reported_for_its_own_bridge_only() {
        let registry = Registry::new(10, 10);
        let now = Instant::now();
        for bridge in ["a", "b", "bb"] {
            let slots = [(0, 1), (1, 1)];
            for (slot, epoch) in slots {
                let admitted = registry.admit(&owner("t", bridge), &hello(slot, epoch), now);
                assert_eq!(admitted, Ok(()));
            }
        }
        let slot = slot_of(&owner("t", "b"), &hello(1, 1));
        {
            let mut inner = registry.lock();
            let history = inner.history_mut(slot, &owner("t", "b"));
            history.clones.replaces([1; 16]);
            let live = Live {
                id: [2; 16],
                before: None,
            };
            assert!(history.clones.may_replace(live, Some([1; 16]), now));
        }
        let named: Vec<_> = registry.cloned(now).into_iter().map(|o| o.bridge).collect();
        assert_eq!(named, ["b".into()]);
        let cloned = ["a", "b", "bb", "c"].map(|bridge| registry.is_cloned(bridge, now));
        assert_eq!(cloned, [false, true, false, false]);
    }
}
