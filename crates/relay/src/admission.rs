//! Places that are waited for in turn, and no single address can take them all.
//!
//! ```text
//! address ---> its own places (a part of all) ---> all places ---> HandshakePermit
//! ```
//!
//! Both queues are first come, first served. Whoever waits is a connection, and of those there are
//! `limits.pending_connections_max`, so that nothing here grows beyond that.
//!
//! [`Connections`] has the places of connections, by listener: before they have authenticated
//! ([`PendingPool`]), and afterwards ([`EstablishedPool`]; a tunnel's place is in the registry).

mod authenticated;
mod connections;
mod established;
mod pending;

pub use authenticated::ProvenAddresses;
pub use connections::{Connections, ListenerConnections, OpenConnection};
pub use established::{EstablishedPermit, EstablishedPool};
pub use pending::{PendingLimits, PendingPermit, PendingPool};

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What counts as one address: an IPv4 address, or the /64 that an IPv6 network hands out.
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            let prefix = u128::from(address) >> 64 << 64;
            IpAddr::V6(prefix.into())
        }
    }
}

/// Whether an owner that has `own` places may have one more, of `room` where `taken` are taken: as many
/// as it leaves for others (a dynamic threshold, as of Choudhury and Hahne).
pub(crate) fn may_have(own: u32, taken: u32, room: u32) -> bool {
    own < room.saturating_sub(taken)
}

/// Lets so many in at once, and so many of one address.
#[derive(Debug)]
pub struct AdmissionControl {
    all: Arc<Semaphore>,
    most: usize,
    most_of_one: usize,
    addresses: Arc<Shares<Arc<Semaphore>>>,
}

/// A place behind a [`AdmissionControl`], until it is dropped.
#[derive(Debug)]
pub struct HandshakePermit {
    _all: OwnedSemaphorePermit,
    _own: OwnedSemaphorePermit,
    _share: PerAddress<Arc<Semaphore>>,
}

impl AdmissionControl {
    /// With so many places in all, and so many for one address.
    pub fn new(most: u32, most_of_one: u32) -> Self {
        let most = (most as usize).min(Semaphore::MAX_PERMITS);
        Self {
            all: Arc::new(Semaphore::new(most)),
            most,
            most_of_one: (most_of_one as usize).clamp(1, most),
            addresses: Arc::default(),
        }
    }

    /// Waits for a place for `address`, so long at most. Cancel safe.
    pub async fn acquire(&self, address: IpAddr, within: Duration) -> Option<HandshakePermit> {
        let make = || Arc::new(Semaphore::new(self.most_of_one));
        let share = Shares::join(&self.addresses, network(address), make);
        let own = share.with(Arc::clone);
        let entering = async {
            let own = own.acquire_owned().await.ok()?;
            let all = Arc::clone(&self.all).acquire_owned().await.ok()?;
            Some(HandshakePermit {
                _all: all,
                _own: own,
                _share: share,
            })
        };
        tokio::time::timeout(within, entering).await.ok()?
    }

    /// How many are in.
    pub fn taken(&self) -> usize {
        self.most.saturating_sub(self.all.available_permits())
    }
}

/// Something that all members of an address share. It goes with the last of them.
#[derive(Debug)]
struct Shares<T> {
    by_address: Mutex<HashMap<IpAddr, (usize, T)>>,
}

/// One member's hold on what its address shares.
#[derive(Debug)]
pub struct PerAddress<T> {
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
    fn with<R>(&self, look: impl FnOnce(&T) -> R) -> R {
        let all = self.shares.lock();
        let (_, shared) = all
            .get(&self.address)
            .expect("it stays while it has members");
        look(shared)
    }
}

impl<T> Drop for PerAddress<T> {
    fn drop(&mut self) {
        let mut all = self.shares.lock();
        if let Some((members, _)) = all.get_mut(&self.address) {
            *members -= 1;
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
    async fn who_comes_too_many_waits_for_a_place_and_gives_up_in_time() {
        let gate = Arc::new(AdmissionControl::new(2, 2));
        let first = gate.acquire(address("10.0.0.1"), SOON).await.unwrap();
        let _second = gate.acquire(address("10.0.0.2"), SOON).await.unwrap();
        assert_eq!(gate.taken(), 2);
        assert!(gate.acquire(address("10.0.0.3"), SOON).await.is_none());
        let waiting = {
            let gate = Arc::clone(&gate);
            tokio::spawn(
                async move { gate.acquire(address("10.0.0.3"), 10 * SOON).await.is_some() },
            )
        };
        tokio::time::sleep(SOON).await;
        assert!(!waiting.is_finished());
        drop(first);
        assert!(waiting.await.unwrap());
    }

    #[tokio::test]
    async fn one_address_cannot_take_every_place_nor_stand_in_the_way() {
        let gate = Arc::new(AdmissionControl::new(4, 2));
        let greedy = address("10.0.0.1");
        let _held = (
            gate.acquire(greedy, SOON).await.unwrap(),
            gate.acquire(greedy, SOON).await.unwrap(),
        );
        let waiting: Vec<_> = (0..100)
            .map(|_| {
                let gate = Arc::clone(&gate);
                tokio::spawn(async move { gate.acquire(greedy, 10 * SOON).await.is_some() })
            })
            .collect();
        tokio::task::yield_now().await;
        assert!(gate.acquire(address("10.0.0.2"), SOON).await.is_some());
        for one in waiting {
            assert!(!one.await.unwrap());
        }
    }

    #[tokio::test]
    async fn addresses_that_are_gone_are_forgotten() {
        let gate = AdmissionControl::new(4, 2);
        drop(gate.acquire(address("10.0.0.1"), SOON).await);
        assert!(gate.addresses.lock().is_empty());
    }

    #[test]
    fn an_ipv6_network_is_one_address() {
        let one = network(address("2001:db8::1"));
        assert_eq!(one, network(address("2001:db8::2")));
        assert_ne!(one, network(address("2001:db8:0:1::1")));
        assert_eq!(network(address("::ffff:10.0.0.1")), address("10.0.0.1"));
    }
}
