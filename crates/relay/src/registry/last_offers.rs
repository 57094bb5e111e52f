//! What installations served when they were last connected.
//!
//! A request that no bridge takes may be one for a bridge that is offline. With its last declaration the relay can tell:
//! a target that no offline bridge served is not waited for. The memory is bounded; an installation that is not in it
//! may serve anything.
//!
//! Where the memory is full, the tenant that uses most of it loses a declaration for each new one of a tenant that uses
//! less. So no tenant can keep the others from being remembered.

use super::entry::TunnelOwner;
use super::offer::AdvertisedRoutes;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Installations that are remembered.
const INSTALLATIONS_MAX: usize = 20_000;

/// Endpoints and host patterns of all of them.
const NAMES_MAX: usize = 1_000_000;

/// An installation: the identity that authenticated, and the bridge that it belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Installation {
    /// The tenant's id.
    pub tenant: Arc<str>,
    /// The bridge's id.
    pub bridge: Arc<str>,
    /// The identity.
    pub identity: Arc<str>,
}

impl From<&TunnelOwner> for Installation {
    fn from(owner: &TunnelOwner) -> Self {
        Self {
            tenant: owner.tenant.clone(),
            bridge: owner.bridge.clone(),
            identity: owner.identity.clone(),
        }
    }
}

/// The last declarations, by identity.
#[derive(Debug)]
pub(super) struct LastOffers {
    by_identity: HashMap<Arc<str>, LastOffer>,
    by_tenant: HashMap<Arc<str>, TenantUsage>,
    names: usize,
    installations_max: usize,
    names_max: usize,
}

/// What a tenant uses of the memory.
#[derive(Debug, Default)]
struct TenantUsage {
    identities: HashSet<Arc<str>>,
    names: usize,
}

#[derive(Debug)]
struct LastOffer {
    of: Installation,
    offer: Arc<AdvertisedRoutes>,
    is_stored: bool,
}

impl Default for LastOffers {
    fn default() -> Self {
        Self::new(INSTALLATIONS_MAX, NAMES_MAX)
    }
}

impl LastOffers {
    fn new(installations_max: usize, names_max: usize) -> Self {
        Self {
            by_identity: HashMap::new(),
            by_tenant: HashMap::new(),
            names: 0,
            installations_max,
            names_max,
        }
    }

    /// Remembers a declaration. One that does not fit is not known from then on.
    pub(super) fn remember(&mut self, of: Installation, offer: Arc<AdvertisedRoutes>) {
        let before = self.remove(&of.identity);
        let names = names_of(&offer);
        if !self.make_room(&of.tenant, names) {
            return;
        }
        let is_stored =
            before.is_some_and(|last| last.is_stored && last.offer.serves == offer.serves);
        self.names += names;
        let usage = self.by_tenant.entry(of.tenant.clone()).or_default();
        usage.names += names;
        usage.identities.insert(of.identity.clone());
        let last = LastOffer {
            of,
            offer,
            is_stored,
        };
        self.by_identity.insert(last.of.identity.clone(), last);
    }

    /// Takes a declaration from the database, unless the installation has connected since.
    pub(super) fn recall(&mut self, of: Installation, offer: AdvertisedRoutes) {
        if self.by_identity.contains_key(&of.identity) {
            return;
        }
        let identity = of.identity.clone();
        self.remember(of, Arc::new(offer));
        if let Some(last) = self.by_identity.get_mut(&identity) {
            last.is_stored = true;
        }
    }

    /// Forgets the installations that do not exist any more.
    pub(super) fn retain(&mut self, exists: impl Fn(&Installation) -> bool) {
        let all = self.by_identity.values().map(|last| &last.of);
        let gone = all.filter(|of| !exists(of)).map(|of| of.identity.clone());
        for identity in gone.collect::<Vec<_>>() {
            self.remove(&identity);
        }
    }

    fn remove(&mut self, identity: &str) -> Option<LastOffer> {
        let last = self.by_identity.remove(identity)?;
        let names = names_of(&last.offer);
        self.names -= names;
        if let Some(usage) = self.by_tenant.get_mut(&last.of.tenant) {
            usage.names -= names;
            usage.identities.remove(identity);
            if usage.identities.is_empty() {
                self.by_tenant.remove(&last.of.tenant);
            }
        }
        Some(last)
    }

    /// Makes room for one more declaration of a tenant, at the cost of tenants that use more than it would. Returns
    /// whether there is room.
    fn make_room(&mut self, tenant: &Arc<str>, names: usize) -> bool {
        loop {
            let is_full = self.by_identity.len() >= self.installations_max;
            let has_too_many_names = self.names + names > self.names_max;
            if !is_full && !has_too_many_names {
                return true;
            }
            let measure = |usage: &TenantUsage| match is_full {
                true => usage.identities.len(),
                false => usage.names,
            };
            let added = if is_full { 1 } else { names };
            let own = self.by_tenant.get(tenant).map_or(0, measure) + added;
            let largest = self.by_tenant.values().max_by_key(|usage| measure(usage));
            let Some(largest) = largest.filter(|usage| measure(usage) > own) else {
                return false;
            };
            let has_names = |identity: &&Arc<str>| {
                let last = self.by_identity.get(&***identity);
                is_full || last.is_some_and(|last| names_of(&last.offer) > 0)
            };
            let Some(evicted) = largest.identities.iter().find(has_names).cloned() else {
                return false;
            };
            self.remove(&evicted);
        }
    }

    /// Returns whether the database does not have what an installation serves.
    pub(super) fn is_unstored(&self, identity: &str) -> bool {
        let last = self.by_identity.get(identity);
        last.is_some_and(|last| !last.is_stored)
    }

    pub(super) fn get(&self, identity: &str) -> Option<&Arc<AdvertisedRoutes>> {
        self.by_identity.get(identity).map(|last| &last.offer)
    }

    /// Returns up to `max` declarations that the database does not have, and counts them as stored.
    pub(super) fn take_unstored(&mut self, max: usize) -> Vec<(Arc<str>, Arc<AdvertisedRoutes>)> {
        let unstored = self.by_identity.iter_mut();
        let unstored = unstored.filter(|(_, last)| !last.is_stored).take(max);
        unstored
            .map(|(identity, last)| {
                last.is_stored = true;
                (identity.clone(), last.offer.clone())
            })
            .collect()
    }

    /// Makes a declaration count as not stored again.
    pub(super) fn unstore(&mut self, identity: &str) {
        if let Some(last) = self.by_identity.get_mut(identity) {
            last.is_stored = false;
        }
    }
}

fn names_of(offer: &AdvertisedRoutes) -> usize {
    let serves = &offer.serves;
    serves.endpoints.len() + serves.hosts.as_ref().map_or(0, |hosts| hosts.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::frame::{Bounded, Serves};

    fn offer(host: &str) -> Arc<AdvertisedRoutes> {
        let serves = Serves {
            hosts: Some(Bounded::truncated([host.to_owned()])),
            ..Serves::default()
        };
        Arc::new(AdvertisedRoutes::recalled(serves))
    }

    fn of(tenant: &str, identity: &str) -> Installation {
        Installation {
            tenant: tenant.into(),
            bridge: format!("brg_{identity}").into(),
            identity: identity.into(),
        }
    }

    #[test]
    fn full_memory_is_shared_between_tenants() {
        for (installations_max, names_max) in [(10, 1000), (1000, 10)] {
            let mut last = LastOffers::new(installations_max, names_max);
            for at in 0..20 {
                last.remember(of("large", &format!("l{at}")), offer("x.example"));
            }
            assert_eq!(last.by_identity.len(), 10);
            for at in 0..20 {
                last.remember(of("small", &format!("s{at}")), offer("y.example"));
            }
            for tenant in ["large", "small"] {
                assert_eq!(last.by_tenant[tenant].identities.len(), 5, "{tenant}");
            }
            last.remember(of("third", "t"), offer("z.example"));
            assert!(last.get("t").is_some());
            assert_eq!((last.by_identity.len(), last.names), (10, 10));
        }
    }

    #[test]
    fn offer_is_removed_with_its_identity() {
        let mut last = LastOffers::default();
        for identity in ["a", "b", "c"] {
            last.remember(of("t", identity), offer("x.example"));
        }
        last.retain(|installation| &*installation.bridge == "brg_b");
        assert!(last.get("a").is_none() && last.get("b").is_some() && last.get("c").is_none());
        assert_eq!((last.names, last.by_tenant["t"].names), (1, 1));
        last.retain(|_| false);
        assert!(last.by_tenant.is_empty() && last.names == 0);
    }

    #[test]
    fn only_changed_offers_are_stored() {
        let mut last = LastOffers::default();
        let (a, b) = (of("t", "a"), of("t", "b"));
        last.remember(a.clone(), offer("one.example"));
        assert_eq!(last.take_unstored(10).len(), 1);
        last.remember(a.clone(), offer("one.example"));
        assert!(last.take_unstored(10).is_empty());
        last.remember(a.clone(), offer("two.example"));
        assert_eq!(last.take_unstored(10).len(), 1);
        last.unstore("a");
        assert_eq!(last.take_unstored(10).len(), 1);
        let old = AdvertisedRoutes::recalled(Serves::default());
        last.recall(b, old);
        assert!(last.take_unstored(10).is_empty());
        // The database is older than a connection.
        last.recall(a, AdvertisedRoutes::recalled(Serves::default()));
        assert_eq!(
            last.get("a").unwrap().serves.hosts.as_ref().unwrap().len(),
            1
        );
        assert_eq!(last.names, 1);
    }
}
