//! The tunnels of one tenant, with an index by endpoint: a request to an endpoint does not visit the other tunnels,
//! of which there may be a thousand.

use super::TunnelEntry;
use super::offer::AdvertisedRoutes;
use std::collections::HashMap;
use std::sync::Arc;

/// A tenant's tunnels.
#[derive(Debug, Default)]
pub(crate) struct Tunnels {
    all: Vec<Arc<TunnelEntry>>,
    /// By the endpoint's name. No list is empty.
    by_endpoint: HashMap<Box<str>, Vec<Arc<TunnelEntry>>>,
}

fn remove_from(list: &mut Vec<Arc<TunnelEntry>>, entry: &Arc<TunnelEntry>) -> bool {
    let index = list.iter().position(|other| Arc::ptr_eq(other, entry));
    index.map(|index| list.remove(index)).is_some()
}

impl Tunnels {
    /// Returns all of them.
    pub(crate) fn all(&self) -> &[Arc<TunnelEntry>] {
        &self.all
    }

    /// Returns those that declare the endpoint.
    pub(crate) fn serving(&self, endpoint: &str) -> &[Arc<TunnelEntry>] {
        self.by_endpoint.get(endpoint).map_or(&[], Vec::as_slice)
    }

    pub(super) fn insert(&mut self, entry: &Arc<TunnelEntry>) {
        self.all.push(entry.clone());
        self.list(entry);
    }

    /// Removes a tunnel. Returns whether it was there.
    pub(super) fn remove(&mut self, entry: &Arc<TunnelEntry>) -> bool {
        let was_there = remove_from(&mut self.all, entry);
        if was_there {
            self.unlist(entry);
        }
        was_there
    }

    /// Changes what a tunnel serves. The index is updated in the same step.
    pub(super) fn set_offer(&mut self, entry: &Arc<TunnelEntry>, offer: AdvertisedRoutes) {
        if self.all.iter().any(|other| Arc::ptr_eq(other, entry)) {
            self.unlist(entry);
            entry.set_offer(offer);
            self.list(entry);
        }
    }

    fn list(&mut self, entry: &Arc<TunnelEntry>) {
        for endpoint in entry.offer().endpoints() {
            let list = self.by_endpoint.entry(endpoint.into()).or_default();
            // A bridge may declare an endpoint twice.
            if !list.iter().any(|other| Arc::ptr_eq(other, entry)) {
                list.push(entry.clone());
            }
        }
    }

    fn unlist(&mut self, entry: &Arc<TunnelEntry>) {
        for endpoint in entry.offer().endpoints() {
            if let Some(list) = self.by_endpoint.get_mut(endpoint) {
                remove_from(list, entry);
                if list.is_empty() {
                    self.by_endpoint.remove(endpoint);
                }
            }
        }
    }
}
