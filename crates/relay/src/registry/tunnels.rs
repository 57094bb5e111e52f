//! The tunnels of one tenant that are up, and which of them declare an endpoint: a request does
//! not look at the others, of which there may be a thousand.

use super::TunnelEntry;
use super::offer::AdvertisedRoutes;
use std::collections::HashMap;
use std::sync::Arc;

/// A tenant's tunnels.
#[derive(Debug, Default)]
pub struct Tunnels {
    all: Vec<Arc<TunnelEntry>>,
    /// By the name of an endpoint; no list is empty.
    by_endpoint: HashMap<Box<str>, Vec<Arc<TunnelEntry>>>,
}

fn take_out(list: &mut Vec<Arc<TunnelEntry>>, entry: &Arc<TunnelEntry>) -> bool {
    let index = list.iter().position(|other| Arc::ptr_eq(other, entry));
    index.map(|index| list.remove(index)).is_some()
}

impl Tunnels {
    /// All of them.
    pub fn all(&self) -> &[Arc<TunnelEntry>] {
        &self.all
    }

    /// Those that declare the endpoint.
    pub fn serving(&self, endpoint: &str) -> &[Arc<TunnelEntry>] {
        self.by_endpoint.get(endpoint).map_or(&[], Vec::as_slice)
    }

    pub(super) fn insert(&mut self, entry: &Arc<TunnelEntry>) {
        self.all.push(entry.clone());
        self.list(entry);
    }

    /// Whether it was there.
    pub(super) fn remove(&mut self, entry: &Arc<TunnelEntry>) -> bool {
        let was_there = take_out(&mut self.all, entry);
        if was_there {
            self.unlist(entry);
        }
        was_there
    }

    /// It serves something else now.
    pub(super) fn offer_anew(&mut self, entry: &Arc<TunnelEntry>, offer: AdvertisedRoutes) {
        if self.all.iter().any(|other| Arc::ptr_eq(other, entry)) {
            self.unlist(entry);
            entry.set_offer(offer);
            self.list(entry);
        }
    }

    fn list(&mut self, entry: &Arc<TunnelEntry>) {
        for endpoint in entry.offer().endpoints() {
            let list = self.by_endpoint.entry(endpoint.into()).or_default();
            // A bridge may name one twice.
            if !list.iter().any(|other| Arc::ptr_eq(other, entry)) {
                list.push(entry.clone());
            }
        }
    }

    fn unlist(&mut self, entry: &Arc<TunnelEntry>) {
        for endpoint in entry.offer().endpoints() {
            if let Some(list) = self.by_endpoint.get_mut(endpoint) {
                take_out(list, entry);
                if list.is_empty() {
                    self.by_endpoint.remove(endpoint);
                }
            }
        }
    }
}
