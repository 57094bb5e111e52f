//! Name lookups, when several owners share the threads for them.
//!
//! ```text
//! owner ---> group (at most as many as it leaves) ---> pool (at most as many as the group leaves) ---> a thread
//! ```
//!
//! The system resolves names (`getaddrinfo`), so the operator's settings apply: nsswitch, the hosts
//! file, search domains. Such a lookup blocks a thread and cannot be cancelled. Its permit outlives a
//! caller that stopped waiting, and stays charged to its owner.
//!
//! Each group, and each owner in a group, may have as many lookups as it leaves for others (a dynamic
//! threshold). Slow names therefore delay only their own owner. The number of threads never exceeds the
//! pool's bound.

use runtime::shortage::is_shortage;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

/// Why a name has no addresses.
#[derive(Debug, thiserror::Error)]
pub enum LookupError {
    /// The owner reached its limit of concurrent lookups.
    #[error("too many concurrent name lookups for this {0}")]
    Busy(&'static str),
    /// This host lacks descriptors or memory for a lookup.
    #[error("this host lacks file descriptors or memory to look a name up: {0}")]
    Shortage(io::Error),
    /// The resolver's error.
    #[error("{0}")]
    Failed(io::Error),
    /// The resolver did not respond in time.
    #[error("no response within {0:?}")]
    Timeout(Duration),
    /// The name exists and has no address.
    #[error("it has no address")]
    Empty,
}

impl LookupError {
    /// Whether the lookup failed because this host lacks a resource. Nothing is known of the name then.
    pub fn is_shortage(&self) -> bool {
        match self {
            Self::Busy(_) | Self::Shortage(_) => true,
            Self::Failed(_) | Self::Timeout(_) | Self::Empty => false,
        }
    }
}

/// The owner of a lookup.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Owner {
    /// The tenant, or another group that shares the pool.
    pub group: Arc<str>,
    /// The caller in that group; empty if the group has no members.
    pub member: Arc<str>,
}

/// A pool of concurrent lookups.
#[derive(Debug)]
pub struct Lookups {
    max: usize,
    running: Mutex<Running>,
    released: Notify,
}

#[derive(Debug, Default)]
struct Running {
    all: usize,
    of_group: HashMap<Arc<str>, usize>,
    of_owner: HashMap<Owner, usize>,
}

/// A running lookup, charged to its owner until it is dropped.
#[derive(Debug)]
struct Permit {
    lookups: Arc<Lookups>,
    owner: Owner,
}

impl Lookups {
    /// Creates a pool of at most `max` concurrent lookups, each on its own thread.
    pub fn new(max: usize) -> Arc<Self> {
        Arc::new(Self {
            max: max.max(1),
            running: Mutex::default(),
            released: Notify::new(),
        })
    }

    /// Resolves a name to its addresses, each once, in the resolver's order. `within` includes the wait
    /// for a permit. Cancel safe: the lookup itself goes on, charged to its owner.
    ///
    /// # Errors
    /// [`LookupError`].
    pub async fn resolve(
        self: &Arc<Self>,
        owner: &Owner,
        name: &str,
        within: Duration,
    ) -> Result<Vec<IpAddr>, LookupError> {
        let name = name.to_owned();
        let find = move || (name.as_str(), 0).to_socket_addrs().map(Iterator::collect);
        let found = self.run(owner, find, within).await?;
        let mut addresses: Vec<IpAddr> = Vec::new();
        for address in found.iter().map(SocketAddr::ip) {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        match addresses.is_empty() {
            true => Err(LookupError::Empty),
            false => Ok(addresses),
        }
    }

    async fn run(
        self: &Arc<Self>,
        owner: &Owner,
        find: impl FnOnce() -> io::Result<Vec<SocketAddr>> + Send + 'static,
        within: Duration,
    ) -> Result<Vec<SocketAddr>, LookupError> {
        // One deadline for both waits: the caller's time includes the wait for a permit.
        let by = Instant::now() + within;
        let permit = timeout_at(by, self.permit(owner)).await;
        let permit = permit.map_err(|_| LookupError::Busy("caller"))?;
        let finding = tokio::task::spawn_blocking(move || {
            // The permit lives as long as the thread is blocked, whether or not the caller still waits.
            let _permit = permit;
            // The system's resolver reports a name as unknown when it cannot open a file or a socket.
            // Without this check a shortage of descriptors would look like a wrong name.
            spare_files().map_err(LookupError::Shortage)?;
            find().map_err(|error| match spare_files() {
                Err(want) => LookupError::Shortage(want),
                Ok(()) if is_shortage(&error) => LookupError::Shortage(error),
                Ok(()) => LookupError::Failed(error),
            })
        });
        match timeout_at(by, finding).await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => Err(LookupError::Failed(io::Error::other(error))),
            Err(_) => Err(LookupError::Timeout(within)),
        }
    }

    /// Waits for a permit. Cancel safe.
    async fn permit(self: &Arc<Self>, owner: &Owner) -> Permit {
        loop {
            let mut released = std::pin::pin!(self.released.notified());
            // Registered before the check, so that a release between check and wait is not missed.
            released.as_mut().enable();
            if let Some(permit) = self.try_permit(owner) {
                return permit;
            }
            released.await;
        }
    }

    fn try_permit(self: &Arc<Self>, owner: &Owner) -> Option<Permit> {
        let mut running = self.lock();
        let of_group = running.of_group.get(&owner.group).copied().unwrap_or(0);
        let of_owner = running.of_owner.get(owner).copied().unwrap_or(0);
        let left = self.max - running.all;
        // The group's threshold, if all other groups stay as they are, and what it leaves for its members.
        let group_max = (left + of_group).div_ceil(2);
        let left_of_group = group_max.saturating_sub(of_group).max(1);
        let has_members = !owner.member.is_empty();
        if of_group >= left || (has_members && of_owner >= left_of_group) {
            return None;
        }
        running.all += 1;
        *running.of_group.entry(owner.group.clone()).or_default() += 1;
        *running.of_owner.entry(owner.clone()).or_default() += 1;
        Some(Permit {
            lookups: self.clone(),
            owner: owner.clone(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut running = self.lookups.lock();
        running.all -= 1;
        if let Some(count) = running.of_group.get_mut(&self.owner.group) {
            *count -= 1;
            if *count == 0 {
                running.of_group.remove(&self.owner.group);
            }
        }
        if let Some(count) = running.of_owner.get_mut(&self.owner) {
            *count -= 1;
            if *count == 0 {
                running.of_owner.remove(&self.owner);
            }
        }
        drop(running);
        // After the lock is released. All waiters are woken, because the thresholds of several owners may
        // have risen.
        self.lookups.released.notify_waiters();
    }
}

/// Descriptors that a lookup may need at the same time: sockets to the resolver, files of the system's
/// resolver.
const FILES_OF_LOOKUP: usize = 4;

/// Checks that the process can open as many descriptors as a lookup needs.
///
/// # Errors
/// The system's error, if it lacks descriptors or memory.
fn spare_files() -> io::Result<()> {
    let mut held = Vec::with_capacity(FILES_OF_LOOKUP);
    for _ in 0..FILES_OF_LOOKUP {
        match std::net::UdpSocket::bind((std::net::Ipv4Addr::LOCALHOST, 0)) {
            Ok(socket) => held.push(socket),
            Err(error) if is_shortage(&error) => return Err(error),
            // A host without this address family is no shortage.
            Err(_) => break,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    const SHORT: Duration = Duration::from_millis(50);
    const LONG: Duration = Duration::from_secs(30);

    fn owner(group: &str, member: &str) -> Owner {
        Owner {
            group: group.into(),
            member: member.into(),
        }
    }

    /// Takes all permits that an owner can get.
    fn greedy(lookups: &Arc<Lookups>, owner: &Owner) -> Vec<Permit> {
        std::iter::from_fn(|| lookups.try_permit(owner)).collect()
    }

    #[test]
    fn group_and_member_leave_permits_for_others() {
        let lookups = Lookups::new(64);
        let first = greedy(&lookups, &owner("a", "1"));
        let second = greedy(&lookups, &owner("a", "2"));
        let other = greedy(&lookups, &owner("b", "1"));
        let third = greedy(&lookups, &owner("c", "1"));
        assert_eq!(first.len(), 16);
        assert!(second.len() >= 8, "{}", second.len());
        assert!(other.len() >= 8, "{}", other.len());
        assert!(third.len() >= 4, "{}", third.len());
        drop((first, second, other, third));
        let running = lookups.lock();
        assert_eq!(running.all, 0);
        assert!(running.of_group.is_empty() && running.of_owner.is_empty());
    }

    #[test]
    fn pool_of_one_permit_has_one() {
        let lookups = Lookups::new(1);
        let held = lookups.try_permit(&owner("a", "1"));
        assert!(held.is_some());
        assert!(lookups.try_permit(&owner("b", "1")).is_none());
    }

    #[tokio::test]
    async fn abandoned_lookup_stays_charged_to_its_owner_alone() {
        let lookups = Lookups::new(4);
        let (slow, other) = (owner("a", "1"), owner("b", "1"));
        let mut released = Vec::new();
        loop {
            let (release, held) = mpsc::channel::<()>();
            released.push(release);
            let stuck = move || {
                let _ = held.recv();
                Ok(Vec::new())
            };
            match lookups.run(&slow, stuck, SHORT).await {
                Err(LookupError::Timeout(_)) => {}
                Err(LookupError::Busy(_)) => break,
                end => panic!("{end:?}"),
            }
        }
        let found = lookups.run(&other, || Ok(Vec::new()), LONG).await;
        assert!(found.is_ok(), "{found:?}");
        // Its own lookups end, which frees permits.
        drop(released);
        let again = lookups.run(&slow, || Ok(Vec::new()), LONG).await;
        assert!(again.is_ok(), "{again:?}");
    }

    #[tokio::test]
    async fn unknown_name_is_no_shortage() {
        let lookups = Lookups::new(4);
        let owner = owner("a", "1");
        let error = lookups
            .resolve(&owner, "no-such-host.invalid", LONG)
            .await
            .unwrap_err();
        assert!(!error.is_shortage(), "{error:?}");
        let found = lookups.resolve(&owner, "localhost", LONG).await.unwrap();
        assert!(found.iter().all(IpAddr::is_loopback), "{found:?}");
    }
}
