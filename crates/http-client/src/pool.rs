//! Idle connections, by what they can be reused for.
//!
//! Bounds: connections for each key, connections in all, idle time, and age. The newest is taken first; a sweep
//! closes those that were not taken.
//!
//! A target may close an idle connection at any time, also while a request is being sent on it. A request
//! that can be repeated is then repeated. A request that cannot takes an idle connection only if the target
//! announced that it keeps it for longer ([`Reuse::allows`]), and a new connection otherwise.

use crate::connection::Connection;
use crate::reuse::{PoolKey, Pooled};
use runtime::map::FastMap;
use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::time::Instant;

/// How often old connections are closed.
const SWEEP: Duration = Duration::from_secs(5);

/// How long a connection may take to become ready after its response's end.
const READY_WITHIN: Duration = Duration::from_secs(1);

/// What must be left of the keep-alive time that a target announced: the request's travel time, and the
/// delays of loaded machines.
const KEEP_ALIVE_MARGIN: Duration = Duration::from_secs(1);

/// Which idle connections a request may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reuse {
    /// Any that seems open: the request can be repeated.
    Repeatable,
    /// Only one that its target keeps open for long enough: the request may be sent once.
    Once,
}

impl Reuse {
    /// Returns whether a connection may be used whose last response began `since_response` ago, by the time
    /// that the target announced in it (`Keep-Alive: timeout=5`). The target counts from the response's end,
    /// which is later.
    fn allows(self, since_response: Duration, keep_alive: Option<Duration>) -> bool {
        match self {
            Self::Repeatable => true,
            Self::Once => keep_alive
                .and_then(|timeout| timeout.checked_sub(KEEP_ALIVE_MARGIN))
                .is_some_and(|left| since_response < left),
        }
    }
}

#[derive(Debug)]
struct Idle<C> {
    connection: C,
    since: Instant,
}

#[derive(Debug)]
struct Shelves<C> {
    /// At most `count_max` keys, or as many as have connections.
    by_key: FastMap<PoolKey, VecDeque<Idle<C>>>,
    count: usize,
    is_swept: bool,
}

/// The idle connections.
#[derive(Debug)]
pub(super) struct Pool<C = Connection> {
    shelves: Mutex<Shelves<C>>,
    idle_timeout: Duration,
    age_max: Duration,
    per_key_max: usize,
    count_max: usize,
}

impl<C: Pooled> Pool<C> {
    pub(super) fn new(
        (idle_timeout, age_max): (Duration, Duration),
        per_key_max: u32,
        count_max: u32,
    ) -> Arc<Self> {
        Arc::new(Self {
            shelves: Mutex::new(Shelves {
                by_key: FastMap::default(),
                count: 0,
                is_swept: false,
            }),
            idle_timeout,
            age_max,
            per_key_max: usize::try_from(per_key_max).unwrap_or(usize::MAX),
            count_max: usize::try_from(count_max).unwrap_or(usize::MAX),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Shelves<C>> {
        self.shelves.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the newest connection that is usable, young enough, allowed by `reuse`, and approved.
    pub(super) fn take<A>(
        &self,
        key: &PoolKey,
        reuse: Reuse,
        approve: impl Fn(IpAddr) -> Option<A>,
    ) -> Option<(A, C)> {
        let mut guard = self.lock();
        let shelves = &mut *guard;
        let shelf = shelves.by_key.get_mut(key)?;
        let mut found = None;
        // From the newest on: it is the most likely to be open still.
        let mut at = shelf.len();
        while at > 0 {
            at -= 1;
            let Some(idle) = shelf.get_mut(at) else { break };
            if idle.since.elapsed() > self.idle_timeout {
                // Those before it are older still; the sweep closes them.
                break;
            }
            // The config of the target's name may have changed since it was made.
            let is_young = idle.connection.since().elapsed() < self.age_max;
            let is_usable = is_young && idle.connection.is_usable();
            let keep_alive = idle.connection.keep_alive();
            let since_response = keep_alive.map_or(Duration::ZERO, |(since, _)| since.elapsed());
            if is_usable && !reuse.allows(since_response, keep_alive.map(|(_, timeout)| timeout)) {
                // It stays: it may still serve a request that can be repeated.
                continue;
            }
            let Some(idle) = shelf.remove(at) else { break };
            shelves.count -= 1;
            if !is_usable {
                continue;
            }
            // Its address was approved under an earlier config. Where that is no longer so, it is closed.
            if let Some(approved) = approve(idle.connection.address()) {
                found = Some((approved, idle.connection));
                break;
            }
        }
        // An empty shelf stays for the connection's return. The sweep removes it, and so does [`Self::keep`].
        found
    }

    /// Keeps a connection. At a bound, the oldest of its key is closed, or else this one.
    fn keep(&self, connection: C) {
        if connection.since().elapsed() >= self.age_max {
            return;
        }
        let mut guard = self.lock();
        let shelves = &mut *guard;
        if !shelves.by_key.contains_key(connection.key()) {
            if shelves.by_key.len() >= self.count_max {
                shelves.by_key.retain(|_, shelf| !shelf.is_empty());
            }
            let key = connection.key().clone();
            shelves.by_key.insert(key, VecDeque::new());
        }
        let Some(shelf) = shelves.by_key.get_mut(connection.key()) else {
            return;
        };
        // A request that is sent once never takes it, and makes another one: they would pile up.
        if connection.is_for_once() && connection.keep_alive().is_none() && !shelf.is_empty() {
            return;
        }
        // At the bound of all keys, only this key gives a connection up: one busy target must not close the
        // connections of the others.
        if shelf.len() >= self.per_key_max || shelves.count >= self.count_max {
            if shelf.pop_front().is_none() {
                shelves.by_key.retain(|_, shelf| !shelf.is_empty());
                return;
            }
            shelves.count -= 1;
        }
        shelf.push_back(Idle {
            connection,
            since: Instant::now(),
        });
        shelves.count += 1;
    }

    /// Closes connections that are old or were closed by their target. Returns the number left.
    fn sweep(&self) -> usize {
        let mut shelves = self.lock();
        let (timeout, age_max) = (self.idle_timeout, self.age_max);
        shelves.by_key.retain(|_, shelf| {
            // Polling an idle connection is also what notices that its target has closed it.
            shelf.retain_mut(|idle| {
                idle.connection.is_usable()
                    && idle.since.elapsed() < timeout
                    && idle.connection.since().elapsed() < age_max
            });
            !shelf.is_empty()
        });
        // Counted again rather than subtracted: the retained connections are known here.
        shelves.count = shelves.by_key.values().map(VecDeque::len).sum();
        if shelves.count == 0 {
            shelves.is_swept = false;
        }
        shelves.count
    }
}

impl Pool {
    /// Waits until the connection can take another request, and keeps it.
    pub(super) async fn put(self: &Arc<Self>, mut connection: Connection) {
        if self.per_key_max == 0 || self.count_max == 0 {
            return;
        }
        // hyper needs a moment after the last byte of a response until it takes the next request.
        if !connection.is_usable() {
            let ready = tokio::time::timeout(READY_WITHIN, connection.ready());
            if ready.await != Ok(true) {
                return;
            }
        }
        connection.mark_reused();
        self.keep(connection);
        // One sweeper at a time, and none while the pool is empty.
        let must_sweep = !std::mem::replace(&mut self.lock().is_swept, true);
        if must_sweep {
            tokio::spawn(sweep(Arc::downgrade(self)));
        }
    }
}

/// Sweeps while the pool has connections. It holds the pool weakly, so that a replaced client is dropped.
async fn sweep(pool: Weak<Pool>) {
    loop {
        tokio::time::sleep(SWEEP).await;
        match pool.upgrade() {
            Some(pool) if pool.sweep() > 0 => {}
            Some(_) | None => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[derive(Debug, PartialEq)]
    struct Fake {
        number: u8,
        key: PoolKey,
        is_usable: bool,
        keep_alive: Option<(Instant, Duration)>,
        is_for_once: bool,
        made: Instant,
    }

    impl Pooled for Fake {
        fn keep_alive(&self) -> Option<(Instant, Duration)> {
            self.keep_alive
        }

        fn is_for_once(&self) -> bool {
            self.is_for_once
        }

        fn since(&self) -> Instant {
            self.made
        }

        fn key(&self) -> &PoolKey {
            &self.key
        }

        fn address(&self) -> IpAddr {
            IpAddr::V4(Ipv4Addr::new(10, 0, 0, self.number))
        }

        fn is_usable(&mut self) -> bool {
            self.is_usable
        }
    }

    fn key(port: u16) -> PoolKey {
        PoolKey {
            is_tls: false,
            host: policy::Host::Name("ci".into()),
            port,
            ca_file: None,
            client_cert: None,
            http2: true,
        }
    }

    fn fake(number: u8, port: u16) -> Fake {
        Fake {
            number,
            key: key(port),
            is_usable: true,
            keep_alive: None,
            is_for_once: false,
            made: Instant::now(),
        }
    }

    /// Idle connections are kept for 30 s.
    fn pool(per_key_max: u32, count_max: u32) -> Arc<Pool<Fake>> {
        let times = (Duration::from_secs(30), Duration::from_secs(300));
        Pool::new(times, per_key_max, count_max)
    }

    fn taken(pool: &Pool<Fake>, port: u16) -> Option<u8> {
        pool.take(&key(port), Reuse::Repeatable, Some)
            .map(|(_, fake)| fake.number)
    }

    #[test]
    fn newest_connection_is_taken_by_its_own_key_only() {
        let pool = pool(2, 10);
        for number in 1..=3 {
            pool.keep(fake(number, 80));
        }
        assert_eq!(taken(&pool, 81), None);
        assert_eq!(taken(&pool, 80), Some(3));
        assert_eq!(taken(&pool, 80), Some(2));
        assert_eq!(taken(&pool, 80), None, "two of a key at most");
        assert_eq!(pool.lock().count, 0);
        assert_eq!(pool.sweep(), 0);
        assert!(pool.lock().by_key.is_empty());
    }

    #[test]
    fn keys_without_connections_are_bounded() {
        let pool = pool(5, 3);
        for port in 1..100 {
            pool.keep(fake(1, port));
            assert_eq!(taken(&pool, port), Some(1));
            assert!(pool.lock().by_key.len() <= 3);
        }
    }

    #[test]
    fn pool_is_bounded_over_all_keys() {
        let pool = pool(5, 2);
        pool.keep(fake(1, 1));
        pool.keep(fake(2, 2));
        pool.keep(fake(3, 3));
        assert_eq!(taken(&pool, 3), None);
        pool.keep(fake(4, 2));
        assert_eq!(taken(&pool, 2), Some(4));
        assert_eq!(pool.lock().count, 1);
    }

    #[test]
    fn connection_to_disallowed_address_is_closed() {
        let pool = pool(5, 5);
        pool.keep(fake(1, 80));
        pool.keep(fake(2, 80));
        let one = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
        let only_one = |address| (address == one).then_some(());
        let (_, connection) = pool.take(&key(80), Reuse::Repeatable, only_one).unwrap();
        assert_eq!(connection.number, 1);
        assert_eq!(pool.lock().count, 0);
    }

    #[test]
    fn request_sent_once_takes_announced_keep_alive() {
        let pool = pool(5, 5);
        let once = || {
            pool.take(&key(80), Reuse::Once, Some)
                .map(|(_, fake)| fake.number)
        };
        let ago = |ms| {
            Instant::now()
                .checked_sub(Duration::from_millis(ms))
                .unwrap()
        };
        let second = Duration::from_secs(1);
        let keeps = |number, keep_alive| Fake {
            keep_alive,
            ..fake(number, 80)
        };
        // Nothing announced, too short, too old: one of these may be closing.
        pool.keep(keeps(1, None));
        pool.keep(keeps(2, Some((ago(0), second))));
        pool.keep(keeps(3, Some((ago(4100), 5 * second))));
        assert_eq!(once(), None);
        pool.keep(keeps(4, Some((ago(0), 5 * second))));
        pool.keep(keeps(5, None));
        assert_eq!(once(), Some(4));
        assert_eq!(once(), None);
        // They still serve requests that can be repeated.
        for number in [5, 3, 2, 1] {
            assert_eq!(taken(&pool, 80), Some(number));
        }
        assert_eq!(pool.lock().count, 0);
    }

    #[test]
    fn connections_for_one_request_do_not_pile_up() {
        let pool = pool(5, 5);
        for number in 1..=3 {
            pool.keep(Fake {
                is_for_once: true,
                ..fake(number, 80)
            });
        }
        assert_eq!(taken(&pool, 80), Some(1));
        assert_eq!(taken(&pool, 80), None);
    }

    #[tokio::test(start_paused = true)]
    async fn old_connection_takes_no_request() {
        let times = (Duration::from_secs(30), Duration::from_secs(60));
        let pool = Pool::new(times, 5, 5);
        let first = fake(1, 80);
        // It is busy: each request returns it to the pool in time, until it is a minute old.
        for _ in 0..2 {
            pool.keep(Fake {
                key: first.key.clone(),
                ..first
            });
            tokio::time::advance(Duration::from_secs(29)).await;
            assert_eq!(taken(&pool, 80), Some(1));
        }
        pool.keep(Fake {
            key: first.key.clone(),
            ..first
        });
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(taken(&pool, 80), None);
        // One that was busy while it grew old is not kept.
        pool.keep(first);
        pool.keep(fake(2, 80));
        assert_eq!(pool.sweep(), 1);
        tokio::time::advance(Duration::from_secs(20)).await;
        assert_eq!(taken(&pool, 80), Some(2));
    }

    #[test]
    fn closed_and_old_connections_are_swept() {
        let times = (Duration::from_millis(20), Duration::from_secs(300));
        let pool = Pool::new(times, 5, 5);
        pool.keep(Fake {
            is_usable: false,
            ..fake(1, 80)
        });
        pool.keep(fake(2, 80));
        assert_eq!(pool.sweep(), 1);
        std::thread::sleep(Duration::from_millis(25));
        assert_eq!(pool.sweep(), 0);
        assert!(pool.lock().by_key.is_empty());
    }
}
