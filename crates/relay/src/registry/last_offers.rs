//! What installations served when they were last connected.
//!
//! A request that no bridge takes may be one for a bridge that is offline. With its last declaration the relay can tell:
//! a target that no offline bridge served is not waited for. The memory is bounded; an installation that is not in it
//! may serve anything.

use super::offer::AdvertisedRoutes;
use std::collections::HashMap;
use std::sync::Arc;

/// Installations that are remembered.
const INSTALLATIONS_MAX: usize = 20_000;

/// Endpoints and host patterns of all of them.
const NAMES_MAX: usize = 1_000_000;

/// The last declarations, by the identity that authenticated.
#[derive(Debug, Default)]
pub(super) struct LastOffers {
    by_identity: HashMap<Arc<str>, LastOffer>,
    names: usize,
}

#[derive(Debug)]
struct LastOffer {
    offer: Arc<AdvertisedRoutes>,
    is_stored: bool,
}

impl LastOffers {
    /// Remembers a declaration. One that does not fit is not known from then on.
    pub(super) fn remember(&mut self, identity: &Arc<str>, offer: Arc<AdvertisedRoutes>) {
        let before = self.by_identity.remove(identity);
        self.names -= before.as_ref().map_or(0, |last| names_of(&last.offer));
        let names = names_of(&offer);
        if self.by_identity.len() >= INSTALLATIONS_MAX || self.names + names > NAMES_MAX {
            return;
        }
        self.names += names;
        let is_stored =
            before.is_some_and(|last| last.is_stored && last.offer.serves == offer.serves);
        self.by_identity
            .insert(identity.clone(), LastOffer { offer, is_stored });
    }

    /// Takes a declaration from the database, unless the installation has connected since.
    pub(super) fn recall(&mut self, identity: &Arc<str>, offer: AdvertisedRoutes) {
        if self.by_identity.contains_key(identity) {
            return;
        }
        self.remember(identity, Arc::new(offer));
        if let Some(last) = self.by_identity.get_mut(identity) {
            last.is_stored = true;
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

    #[test]
    fn only_changed_offers_are_stored() {
        let mut last = LastOffers::default();
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        last.remember(&a, offer("one.example"));
        assert_eq!(last.take_unstored(10).len(), 1);
        last.remember(&a, offer("one.example"));
        assert!(last.take_unstored(10).is_empty());
        last.remember(&a, offer("two.example"));
        assert_eq!(last.take_unstored(10).len(), 1);
        last.unstore("a");
        assert_eq!(last.take_unstored(10).len(), 1);
        let old = AdvertisedRoutes::recalled(Serves::default());
        last.recall(&b, old);
        assert!(last.take_unstored(10).is_empty());
        // The database is older than a connection.
        last.recall(&a, AdvertisedRoutes::recalled(Serves::default()));
        assert_eq!(
            last.get("a").unwrap().serves.hosts.as_ref().unwrap().len(),
            1
        );
        assert_eq!(last.names, 1);
    }
}
