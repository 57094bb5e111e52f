//! Admission by address: permits with fair queues, and the budgets of connections.
//!
//! ```text
//! address ---> permits of the address (a part of all) ---> all permits ---> HandshakePermit
//! ```
//!
//! Both queues are first come, first served, and no single address can take all permits. Every waiter is a
//! connection, so the queues are bounded by `limits.pending_connections_max`.
//!
//! [`Connections`] counts connections by listener: before they authenticate ([`PendingPool`]), and afterwards
//! ([`EstablishedPool`]; the registry counts tunnels).

mod authenticated;
mod connections;
mod established;
mod pending;

pub(crate) use authenticated::ProvenAddresses;
pub(crate) use connections::{Connections, ListenerConnections, OpenConnection};
pub(crate) use established::{EstablishedPermit, EstablishedPool};
pub(crate) use pending::{PendingLimits, PendingPermit, PendingPool};

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Returns what counts as one address: an IPv4 address, or an IPv6 /64, in which a single client may choose its
/// address.
pub(crate) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            let prefix = u128::from(address) >> 64 << 64;
            IpAddr::V6(prefix.into())
        }
    }
}

/// Returns whether an owner with `own` permits may have one more, of `room` where `taken` are in use: at most as
/// many as it leaves for others (the dynamic threshold of Choudhury and Hahne).
pub(crate) fn may_have(own: u32, taken: u32, room: u32) -> bool {
    own < room.saturating_sub(taken)
}

/// Limits concurrent work, in all and for each address.
#[derive(Debug)]
pub(crate) struct AdmissionControl {
    all: Arc<Semaphore>,
    max: usize,
    per_address_max: usize,
    addresses: Arc<Shares<Arc<Semaphore>>>,
}

/// A permit of an [`AdmissionControl`]. Released when dropped.
#[derive(Debug)]
pub(crate) struct HandshakePermit {
    _all: OwnedSemaphorePermit,
    _own: OwnedSemaphorePermit,
    _share: PerAddress<Arc<Semaphore>>,
}

impl AdmissionControl {
    /// Returns a control with `max` permits, `per_address_max` for one address.
    pub(crate) fn new(max: u32, per_address_max: u32) -> Self {
        let max = (max as usize).min(Semaphore::MAX_PERMITS);
        Self {
            all: Arc::new(Semaphore::new(max)),
            max,
            // At least one: an address without a permit could never connect.
            per_address_max: (per_address_max as usize).clamp(1, max),
            addresses: Arc::default(),
        }
    }

    /// Waits for a permit for `address`, at most for `timeout`. Cancel safe.
    pub(crate) async fn acquire(
        &self,
        address: IpAddr,
        timeout: Duration,
    ) -> Option<HandshakePermit> {
        let make = || Arc::new(Semaphore::new(self.per_address_max));
        // Joined before it waits, so that all waiters of an address queue at the same semaphore.
        let share = Shares::join(&self.addresses, network(address), make);
        let own = share.with(Arc::clone);
        let acquiring = async {
            // The address's own permit first: a waiter that has none must not hold one of the permits of all.
            let own = own.acquire_owned().await.ok()?;
            let all = Arc::clone(&self.all).acquire_owned().await.ok()?;
            Some(HandshakePermit {
                _all: all,
                _own: own,
                _share: share,
            })
        };
        // Dropping the future at the timeout removes the waiter from both queues.
        tokio::time::timeout(timeout, acquiring).await.ok()?
    }

    /// Returns the number of permits in use.
    pub(crate) fn taken(&self) -> usize {
        self.max.saturating_sub(self.all.available_permits())
    }
}

/// A value that all members of an address share. It is removed with the last member.
#[derive(Debug)]
struct Shares<T> {
    by_address: Mutex<HashMap<IpAddr, (usize, T)>>,
}

/// One member's reference to the value of its address.
#[derive(Debug)]
pub(crate) struct PerAddress<T> {
    shares: Arc<Shares<T>>,
    address: IpAddr,
}

impl<T> Default for Shares<T> {
    fn default() -> Self {
        Self {
            by_address: Mutex::default(),
        }
    }
}

impl<T> Shares<T> {
    fn join(this: &Arc<Self>, address: IpAddr, make: impl FnOnce() -> T) -> PerAddress<T> {
        let mut all = this.lock();
        let (members, _) = all.entry(address).or_insert_with(|| (0, make()));
        *members += 1;
        PerAddress {
            shares: Arc::clone(this),
            address,
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, (usize, T)>> {
        self.by_address
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> PerAddress<T> {
    fn with<R>(&self, read: impl FnOnce(&T) -> R) -> R {
        let all = self.shares.lock();
        let (_, shared) = all
            .get(&self.address)
            .expect("an entry stays while it has members");
        read(shared)
    }
}

impl<T> Drop for PerAddress<T> {
    fn drop(&mut self) {
        let mut all = self.shares.lock();
        if let Some((members, _)) = all.get_mut(&self.address) {
            *members -= 1;
            // Removed with the last member, so that the map is bounded by the waiters.
            if *members == 0 {
                all.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(50);

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[tokio::test]
    async fn surplus_client_waits_for_permit_until_timeout() {
        let admission = Arc::new(AdmissionControl::new(2, 2));
        let first = admission.acquire(address("10.0.0.1"), SOON).await.unwrap();
        let _second = admission.acquire(address("10.0.0.2"), SOON).await.unwrap();
        assert_eq!(admission.taken(), 2);
        assert!(admission.acquire(address("10.0.0.3"), SOON).await.is_none());
        let waiting = {
            let admission = Arc::clone(&admission);
            tokio::spawn(async move {
                admission
                    .acquire(address("10.0.0.3"), 10 * SOON)
                    .await
                    .is_some()
            })
        };
        tokio::time::sleep(SOON).await;
        assert!(!waiting.is_finished());
        drop(first);
        assert!(waiting.await.unwrap());
    }

    #[tokio::test]
    async fn one_address_cannot_take_or_block_all_permits() {
        let admission = Arc::new(AdmissionControl::new(4, 2));
        let greedy = address("10.0.0.1");
        let _held = (
            admission.acquire(greedy, SOON).await.unwrap(),
            admission.acquire(greedy, SOON).await.unwrap(),
        );
        let waiting: Vec<_> = (0..100)
            .map(|_| {
                let admission = Arc::clone(&admission);
                tokio::spawn(async move { admission.acquire(greedy, 10 * SOON).await.is_some() })
            })
            .collect();
        tokio::task::yield_now().await;
        assert!(admission.acquire(address("10.0.0.2"), SOON).await.is_some());
        for one in waiting {
            assert!(!one.await.unwrap());
        }
    }

    #[tokio::test]
    async fn absent_addresses_are_removed() {
        let admission = AdmissionControl::new(4, 2);
        drop(admission.acquire(address("10.0.0.1"), SOON).await);
        assert!(admission.addresses.lock().is_empty());
    }

    #[test]
    fn ipv6_network_is_one_address() {
        let one = network(address("2001:db8::1"));
        assert_eq!(one, network(address("2001:db8::2")));
        assert_ne!(one, network(address("2001:db8:0:1::1")));
        assert_eq!(network(address("::ffff:10.0.0.1")), address("10.0.0.1"));
    }
}
