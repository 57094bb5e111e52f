//! The tunnels that are up, and who may replace whom.
//!
//! A bridge has instances (installations) and each instance has slots (connections). A slot's
//! connections are counted by its epoch: a higher one replaces the slot's own old session at once,
//! unless that is draining; an equal or lower one is stale. Two processes that run on one identity
//! replace each other once, and that is reported as a clone (`clones`).

mod clones;
mod offer;
mod tunnels;

use clones::{Clones, Live, SessionId};
pub use offer::{AdvertisedRoutes, Standing};
pub use tunnels::Tunnels;

use protocol::frame::{GoAwayReason, Hello, JournalMark, PreviousSession, RefusedCode};
use protocol::session::EndReason;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use transport::Session;

/// Slots whose last epoch is remembered, if not more may be up. A slot that is forgotten may begin
/// anew.
const REMEMBERED_MAX: usize = 100_000;

/// Lost sessions whose aftermath is kept, for the callers that wait for it.
const AFTERMATHS_MAX: usize = 256;

/// Slots of one instance.
const SLOT_MAX: u8 = 8;

/// Who a tunnel belongs to, as the directory knows it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TunnelOwner {
    /// The tenant's id.
    pub tenant: Arc<str>,
    /// The bridge's id.
    pub bridge: Arc<str>,
    /// The bridge's name in its tenant.
    pub name: Arc<str>,
    /// The identity (key pair) that proved itself.
    pub identity: Arc<str>,
}

/// Ordered by bridge first, so that a bridge's slots lie together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Slot {
    bridge: Arc<str>,
    instance: [u8; 16],
    number: u8,
}

#[derive(Debug)]
struct Seen {
    owner: TunnelOwner,
    epoch: u64,
    clones: Clones,
    /// Its tunnels: the one that is up, and one that drains. Oldest first.
    up: Vec<Arc<TunnelEntry>>,
}

/// One tunnel that is up.
#[derive(Debug)]
pub struct TunnelEntry {
    /// Whose it is.
    pub owner: TunnelOwner,
    /// The session.
    pub session: Session,
    /// What it serves, as it said last. The registry changes it, which lists tunnels by it.
    offer: Mutex<Arc<AdvertisedRoutes>>,
    /// The bridge's program version.
    pub software: String,
    /// The bridge's host.
    pub host: String,
    /// Since when it is up.
    pub since: Instant,
    /// The session that its process had before.
    before: Option<SessionId>,
    /// Its journal of deliveries, if it keeps one.
    pub journal: Option<JournalMark>,
    /// Its journal is known, and deliveries may go through.
    delivers: AtomicBool,
    /// Attempts that were begun and answered through it.
    delivered: AtomicU64,
    slot: Slot,
}

impl TunnelEntry {
    /// What it serves now.
    pub fn offer(&self) -> Arc<AdvertisedRoutes> {
        self.offer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The installation.
    pub fn instance(&self) -> &[u8; 16] {
        &self.slot.instance
    }

    /// Whether deliveries may go through.
    pub fn is_delivering(&self) -> bool {
        self.delivers.load(Ordering::Acquire)
    }

    /// Its journal is known: deliveries may go through from now on.
    pub fn begin_delivering(&self) {
        self.delivers.store(true, Ordering::Release);
    }

    /// An attempt that was begun on this tunnel was answered on it: its journal has an intent and an
    /// outcome more than at its HELLO. What it must have reached by now.
    pub fn journal_reached(&self) -> Option<JournalMark> {
        let answered = self.delivered.fetch_add(1, Ordering::Relaxed) + 1;
        let mark = self.journal?;
        Some(JournalMark {
            sequence: mark.sequence.saturating_add(2 * answered),
            ..mark
        })
    }

    fn set_offer(&self, offer: AdvertisedRoutes) {
        *self.offer.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(offer);
    }
}

#[derive(Debug, Default)]
struct Inner {
    /// By tenant.
    sessions: HashMap<Arc<str>, Tunnels>,
    count: usize,
    seen: BTreeMap<Slot, Seen>,
}

/// What a bridge said of a session that was lost.
#[derive(Debug)]
struct Aftermath {
    bridge: Arc<str>,
    told: PreviousSession,
}

/// Every tunnel of this node.
#[derive(Debug)]
pub struct Registry {
    inner: Mutex<Inner>,
    aftermaths: watch::Sender<VecDeque<Aftermath>>,
    sessions_max: usize,
    sessions_per_tenant: usize,
}

impl Registry {
    /// An empty one, with bounds on tunnels in all and of one tenant.
    pub fn new(sessions_max: u32, sessions_per_tenant: u32) -> Self {
        Self {
            inner: Mutex::default(),
            aftermaths: watch::Sender::new(VecDeque::new()),
            sessions_max: sessions_max as usize,
            sessions_per_tenant: sessions_per_tenant as usize,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a tunnel may come in: its epoch is fresh and there is room. Called before WELCOME;
    /// a slot that passes is fenced from here on.
    ///
    /// # Errors
    /// The code to refuse it with.
    pub fn admit(
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
        let known = inner.seen.get(&slot);
        if let Some(current) = known.map(|seen| seen.epoch)
            && hello.epoch <= current
        {
            return Err(RefusedCode::StaleEpoch { current });
        }
        let is_known = known.is_some();
        if let Some(seen) = inner.seen.get_mut(&slot)
            && !seen.may_replace(hello, now)
        {
            let current = seen.epoch;
            return Err(RefusedCode::StaleEpoch { current });
        }
        let known = inner.seen.get(&slot);
        let replaces = known.is_some_and(|seen| seen.up.iter().any(|own| own.session.is_open()));
        let of_tenant = inner.sessions.get(&owner.tenant);
        let full = inner.count >= self.sessions_max
            || of_tenant.map_or(0, |tunnels| tunnels.all().len())
                >= self.sessions_per_tenant.max(1);
        if full && !replaces {
            return Err(RefusedCode::Overloaded);
        }
        // Forgetting looks at all of them, so at least half must be free to go each time.
        let remembered_max = REMEMBERED_MAX.max(2 * self.sessions_max);
        if !is_known && inner.seen.len() >= remembered_max {
            inner.forget_absent();
        }
        inner.seen_mut(slot, owner).epoch = hello.epoch;
        Ok(())
    }

    /// An installation was paired: it starts its epochs again, and so does this.
    pub fn reset_epochs(&self, bridge: &str, instance: &[u8; 16]) {
        let mut inner = self.lock();
        for (slot, seen) in &mut inner.seen {
            if *slot.bridge == *bridge && slot.instance == *instance {
                seen.epoch = 0;
            }
        }
    }

    /// A tunnel is up. Its slot's old session, if any, is ended.
    pub fn insert(
        &self,
        owner: &TunnelOwner,
        hello: &Hello,
        (session, offer): (Session, AdvertisedRoutes),
        now: Instant,
    ) -> Arc<TunnelEntry> {
        let slot = slot_of(owner, hello);
        let entry = Arc::new(TunnelEntry {
            offer: Mutex::new(Arc::new(offer)),
            session,
            software: hello.software.clone(),
            host: hello.host.clone(),
            since: now,
            before: before(hello),
            journal: hello.journal,
            delivers: AtomicBool::new(false),
            delivered: AtomicU64::new(0),
            slot: slot.clone(),
            owner: owner.clone(),
        });
        let mut inner = self.lock();
        let seen = inner.seen_mut(slot.clone(), owner);
        let newest = seen.epoch;
        // Its slot may have been forgotten while the WELCOME was on its way.
        seen.epoch = newest.max(hello.epoch);
        if newest > hello.epoch {
            // A newer connection of the slot was admitted while this one's WELCOME was on its way.
            drop(inner);
            entry.session.close(EndReason::Replaced);
            return entry;
        }
        let seen = inner.seen_mut(slot, owner);
        // A draining one is spared, but only the newest: the others had their time.
        let spared = seen.up.iter().rposition(|old| !old.session.is_open());
        let spared = spared.map(|index| seen.up.remove(index));
        let old = std::mem::take(&mut seen.up);
        seen.up.extend(spared);
        seen.up.push(entry.clone());
        for old in &old {
            seen.clones.replaces(old.session.id());
        }
        for old in &old {
            inner.take_out(old);
        }
        let tunnels = inner.sessions.entry(owner.tenant.clone()).or_default();
        tunnels.insert(&entry);
        inner.count += 1;
        drop(inner);
        for old in old {
            old.session.close(EndReason::Replaced);
        }
        entry
    }

    /// A bridge tells, with its next session, what became of the one that was lost.
    pub fn record_previous_session(&self, owner: &TunnelOwner, told: PreviousSession) {
        self.aftermaths.send_modify(|all| {
            if all.len() >= AFTERMATHS_MAX {
                all.pop_front();
            }
            let bridge = owner.bridge.clone();
            all.push_back(Aftermath { bridge, told });
        });
    }

    /// What the bridge of a tunnel that was lost says within `wait` of a stream of it (W-51): whether it
    /// certainly was not dispatched. With any word, the tunnel is over for the bridge, too.
    pub async fn query_fate(
        &self,
        entry: &TunnelEntry,
        stream: u32,
        wait: Duration,
    ) -> Option<bool> {
        let session = entry.session.id();
        let found = |all: &VecDeque<Aftermath>| {
            let mut fitting = all
                .iter()
                .filter(|one| one.told.session == session && one.bridge == entry.owner.bridge);
            fitting
                .next()
                .map(|one| stream > one.told.last_stream || one.told.undispatched.contains(&stream))
        };
        let mut aftermaths = self.aftermaths.subscribe();
        let told = aftermaths.wait_for(|all| found(all).is_some());
        match tokio::time::timeout(wait, told).await {
            Ok(Ok(all)) => found(&all),
            Ok(Err(_)) | Err(_) => None,
        }
    }

    /// A tunnel is down.
    pub fn remove(&self, entry: &Arc<TunnelEntry>) {
        let mut inner = self.lock();
        inner.take_out(entry);
        inner.take_out_of_slot(entry);
    }

    /// Changes what is routed to a tunnel.
    pub fn set_offer(&self, entry: &Arc<TunnelEntry>, offer: AdvertisedRoutes) {
        if let Some(tunnels) = self.lock().sessions.get_mut(&entry.owner.tenant) {
            tunnels.offer_anew(entry, offer);
        }
    }

    /// Every tunnel.
    pub fn all(&self) -> Vec<Arc<TunnelEntry>> {
        let inner = self.lock();
        let all = inner.sessions.values();
        all.flat_map(|tunnels| tunnels.all().iter().cloned())
            .collect()
    }

    /// The tunnels of a tenant.
    pub fn of_tenant(&self, tenant: &str) -> Vec<Arc<TunnelEntry>> {
        self.with_tenant(tenant, |tunnels| tunnels.all().to_vec())
            .unwrap_or_default()
    }

    /// Looks at the tunnels of a tenant, if it has any, without taking them out: the data path.
    pub fn with_tenant<T>(&self, tenant: &str, look: impl FnOnce(&Tunnels) -> T) -> Option<T> {
        self.lock().sessions.get(tenant).map(look)
    }

    /// The ids of the bridges that have a tunnel.
    pub fn bridges(&self) -> HashSet<Arc<str>> {
        let inner = self.lock();
        inner
            .all()
            .map(|entry| entry.owner.bridge.clone())
            .collect()
    }

    /// How many tunnels are up.
    pub fn count(&self) -> usize {
        self.lock().count
    }

    /// Whether two processes seem to run on a bridge's identity.
    pub fn is_cloned(&self, bridge: &str, now: Instant) -> bool {
        let inner = self.lock();
        let first = Slot {
            bridge: bridge.into(),
            instance: [0; 16],
            number: 0,
        };
        let onward = inner.seen.range(first..);
        let mut own = onward.take_while(|(slot, _)| &*slot.bridge == bridge);
        own.any(|(_, seen)| seen.clones.is_cloned(now))
    }

    /// The bridges on whose identity two processes seem to run.
    pub fn cloned(&self, now: Instant) -> Vec<TunnelOwner> {
        let inner = self.lock();
        let cloned = inner
            .seen
            .values()
            .filter(|seen| seen.clones.is_cloned(now));
        let mut owners: Vec<TunnelOwner> = cloned.map(|seen| seen.owner.clone()).collect();
        // A bridge's slots lie together.
        owners.dedup_by(|one, other| one.bridge == other.bridge);
        owners
    }

    /// How many endpoints bridges declare whose names are not their own.
    pub fn refused_endpoints(&self) -> usize {
        let inner = self.lock();
        inner
            .all()
            .map(|entry| entry.offer().refused().count())
            .sum()
    }

    /// Ends every tunnel that `why` gives a reason for. They are out of the registry at once, so
    /// that nothing new is sent to them.
    pub fn cut(&self, why: impl Fn(&TunnelOwner) -> Option<EndReason>) -> usize {
        let mut inner = self.lock();
        let cut: Vec<_> = inner
            .all()
            .filter_map(|entry| why(&entry.owner).map(|reason| (entry.clone(), reason)))
            .collect();
        for (entry, _) in &cut {
            inner.take_out(entry);
            inner.take_out_of_slot(entry);
        }
        drop(inner);
        let count = cut.len();
        for (entry, reason) in cut {
            entry.session.close(reason);
        }
        count
    }

    /// Asks every bridge to leave, spread over `spread`, because this node goes down.
    pub fn drain_all(&self, spread: Duration) {
        let inner = self.lock();
        for entry in inner.all() {
            entry.session.drain(GoAwayReason::Draining, spread);
        }
    }

    /// Ends every tunnel.
    pub fn close_all(&self) {
        let all: Vec<_> = self.lock().all().cloned().collect();
        for entry in all {
            entry.session.close(EndReason::Draining);
        }
    }
}

/// The session that the process had before, as it says.
fn before(hello: &Hello) -> Option<SessionId> {
    hello.previous.as_ref().map(|previous| previous.session)
}

fn slot_of(owner: &TunnelOwner, hello: &Hello) -> Slot {
    Slot {
        bridge: owner.bridge.clone(),
        instance: hello.instance,
        number: hello.slot,
    }
}

impl Inner {
    /// Forgets the epochs of slots that are not up.
    fn forget_absent(&mut self) {
        self.seen.retain(|_, seen| !seen.up.is_empty());
    }

    fn seen_mut(&mut self, slot: Slot, owner: &TunnelOwner) -> &mut Seen {
        self.seen.entry(slot).or_insert_with(|| Seen {
            owner: owner.clone(),
            epoch: 0,
            clones: Clones::default(),
            up: Vec::new(),
        })
    }

    fn all(&self) -> impl Iterator<Item = &Arc<TunnelEntry>> {
        self.sessions.values().flat_map(Tunnels::all)
    }

    /// Takes a tunnel out of its tenant's, if it is there.
    fn take_out(&mut self, entry: &Arc<TunnelEntry>) {
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

    fn take_out_of_slot(&mut self, entry: &Arc<TunnelEntry>) {
        if let Some(seen) = self.seen.get_mut(&entry.slot) {
            seen.up.retain(|other| !Arc::ptr_eq(other, entry));
        }
    }
}

impl Seen {
    /// Whether a connection may replace the slot's session, if one is up.
    fn may_replace(&mut self, hello: &Hello, now: Instant) -> bool {
        let Some(up) = self.up.iter().rfind(|own| own.session.is_open()) else {
            return true;
        };
        let live = Live {
            id: up.session.id(),
            before: up.before,
        };
        let was_cloned = self.clones.is_cloned(now);
        let may = self.clones.may_replace(live, before(hello), now);
        if !was_cloned && self.clones.is_cloned(now) {
            tracing::warn!(
                tenant = %self.owner.tenant,
                bridge = %self.owner.name,
                host = up.host.escape_debug().to_string(),
                "two processes connect as this bridge: was its data directory copied? The one that \
                 was there first stays connected"
            );
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::frame::{Serves, Windows};

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
    fn an_epoch_that_is_not_higher_is_stale_and_told_the_current_one() {
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
    fn a_clone_is_told_of_its_own_bridge_alone() {
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
            let seen = inner.seen_mut(slot, &owner("t", "b"));
            seen.clones.replaces([1; 16]);
            let live = Live {
                id: [2; 16],
                before: None,
            };
            assert!(seen.clones.may_replace(live, Some([1; 16]), now));
        }
        let named: Vec<_> = registry.cloned(now).into_iter().map(|o| o.bridge).collect();
        assert_eq!(named, ["b".into()]);
        let cloned = ["a", "b", "bb", "c"].map(|bridge| registry.is_cloned(bridge, now));
        assert_eq!(cloned, [false, true, false, false]);
    }
}
