//! Connections of callers whose API key was accepted on them.
//!
//! Each tenant may have as many as it leaves for others (a dynamic threshold), and each address has a fixed
//! limit. A connection without a permit stays pending: it is served, and a new connection may evict it.

use super::{may_have, network};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The callers' connections of one listener.
#[derive(Debug)]
pub(crate) struct EstablishedPool {
    count_max: u32,
    per_address_max: u32,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    count: u32,
    of_tenant: HashMap<Arc<str>, u32>,
    of_address: HashMap<IpAddr, u32>,
}

/// A connection's permit in an [`EstablishedPool`]. Released when dropped.
#[derive(Debug)]
pub(crate) struct EstablishedPermit {
    pool: Arc<EstablishedPool>,
    tenant: Arc<str>,
    address: IpAddr,
}

impl EstablishedPool {
    /// Returns an empty pool.
    pub(crate) fn new(count_max: u32, per_address_max: u32) -> Arc<Self> {
        Arc::new(Self {
            count_max,
            per_address_max,
            inner: Mutex::default(),
        })
    }

    /// Returns a permit for a connection of this tenant from `address`, if both may have one more.
    pub(crate) fn acquire(
        self: &Arc<Self>,
        tenant: &Arc<str>,
        address: IpAddr,
    ) -> Option<EstablishedPermit> {
        let address = network(address);
        // Check and increment under one lock, so that two connections cannot take the last permit.
        let mut inner = self.lock();
        let of_tenant = inner.of_tenant.get(tenant).copied().unwrap_or(0);
        let of_address = inner.of_address.get(&address).copied().unwrap_or(0);
        if !may_have(of_tenant, inner.count, self.count_max) || of_address >= self.per_address_max {
            return None;
        }
        inner.count += 1;
        *inner.of_tenant.entry(tenant.clone()).or_default() += 1;
        *inner.of_address.entry(address).or_default() += 1;
        Some(EstablishedPermit {
            pool: self.clone(),
            tenant: tenant.clone(),
            address,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for EstablishedPermit {
    fn drop(&mut self) {
        let mut inner = self.pool.lock();
        inner.count -= 1;
        // Entries without connections are removed, so that the maps are bounded by the open connections.
        if let Some(count) = inner.of_tenant.get_mut(&self.tenant) {
            *count -= 1;
            if *count == 0 {
                inner.of_tenant.remove(&self.tenant);
            }
        }
        if let Some(count) = inner.of_address.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                inner.of_address.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenant_leaves_room_and_address_has_limit() {
        let pool = EstablishedPool::new(100, 40);
        let acquire = |tenant: &str, address: [u8; 4]| pool.acquire(&tenant.into(), address.into());
        let one: Vec<_> = std::iter::from_fn(|| acquire("a", [10, 0, 0, 1])).collect();
        assert_eq!(one.len(), 40);
        let more: Vec<_> = std::iter::from_fn(|| acquire("a", [10, 0, 0, 2])).collect();
        assert_eq!(one.len() + more.len(), 50);
        assert!(acquire("b", [10, 0, 0, 3]).is_some());
        drop((one, more));
        let inner = pool.lock();
        assert_eq!(inner.count, 0);
        assert!(inner.of_tenant.is_empty() && inner.of_address.is_empty());
    }
}
