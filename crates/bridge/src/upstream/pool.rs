//! Idle connections, by what they are good for.
//!
//! Bounds: so many for each key, so many in all, so long each. The newest is taken first; those
//! that nobody takes grow old and are closed by a sweep.
//!
//! A target may close an idle connection at any moment, also at the moment when a request is on its way to
//! it. A request that can be repeated is then repeated; one that cannot takes an idle connection only if the
//! target has announced that it keeps it for longer ([`Reuse::allows`]), and a new one otherwise.

use super::client_cert::ClientCert;
use super::connect::Connection;
use http::HeaderMap;
use policy::Target;
use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

/// How often old connections are closed.
const SWEEP: Duration = Duration::from_secs(5);

/// How long a connection may take to become ready after its answer's end.
const READY_WITHIN: Duration = Duration::from_secs(1);

/// What must be left of the time for which a target has announced to keep an idle connection: what the
/// request's way there takes, and what clocks and loaded machines differ by.
const KEEP_ALIVE_MARGIN: Duration = Duration::from_secs(1);

/// What a request asks of an idle connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reuse {
    /// The request can be repeated: any connection that seems open will do.
    Repeatable,
    /// The request may leave only once.
    Once,
}

impl Reuse {
    /// Whether a connection may be used whose last response began so long ago, by what the target announced
    /// in it (`Keep-Alive: timeout=5`). The target counts from the response's end, which is later.
    fn allows(self, since_response: Duration, announced: Option<Duration>) -> bool {
        match self {
            Self::Repeatable => true,
            Self::Once => announced
                .and_then(|timeout| timeout.checked_sub(KEEP_ALIVE_MARGIN))
                .is_some_and(|left| since_response < left),
        }
    }
}

/// For how long a target says that it keeps a connection: the `timeout` of its `Keep-Alive` fields. None
/// where it says nothing that is understood, or takes no further request (`max=0`).
pub(super) fn announced(headers: &HeaderMap) -> Option<Duration> {
    let mut shortest = None;
    for value in headers.get_all("keep-alive") {
        for parameter in value.to_str().ok()?.split(',') {
            let Some((name, value)) = parameter.split_once('=') else {
                continue;
            };
            let (name, value) = (name.trim(), value.trim().trim_matches('"'));
            if name.eq_ignore_ascii_case("timeout") {
                let timeout = Duration::from_secs(value.parse::<u32>().ok()?.into());
                shortest = Some(shortest.map_or(timeout, |other: Duration| other.min(timeout)));
            } else if name.eq_ignore_ascii_case("max") && value.parse() == Ok(0_u32) {
                return None;
            }
        }
    }
    shortest
}

/// What a connection is good for: scheme, host, port, whose certificates are trusted, which one of our own
/// was shown, and which HTTP was offered.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    pub(super) is_tls: bool,
    pub(super) host: policy::Host,
    pub(super) port: u16,
    pub(super) ca_file: Option<Arc<Path>>,
    pub(super) own: Option<Arc<ClientCert>>,
    /// Whether the target may choose HTTP/2.
    pub(super) http2: bool,
}

impl Key {
    pub(super) fn new(
        target: &Target,
        ca_file: Option<&Path>,
        own: Option<&Arc<ClientCert>>,
    ) -> Self {
        Self {
            is_tls: target.scheme().is_tls(),
            host: target.host().clone(),
            port: target.port(),
            ca_file: ca_file.map(Arc::from),
            own: own.cloned(),
            http2: true,
        }
    }

    /// For what HTTP/1.1 alone can do.
    pub(crate) fn of_http1(self) -> Self {
        Self {
            http2: false,
            ..self
        }
    }

    /// `host:port`, for messages.
    pub(super) fn authority(&self) -> String {
        match &self.host {
            policy::Host::Name(name) => format!("{name}:{}", self.port),
            policy::Host::Addr(address) => {
                std::net::SocketAddr::new(*address, self.port).to_string()
            }
        }
    }
}

/// What the pool has to know of a connection.
pub(super) trait Pooled: Sized {
    fn key(&self) -> &Key;
    fn address(&self) -> IpAddr;
    /// Open, and able to take a request now.
    fn is_usable(&mut self) -> bool;
    /// When the head of its last response came, and for how long the target keeps it from there on.
    fn announced(&self) -> Option<(Instant, Duration)>;
    /// It was made for a request that may leave only once.
    fn is_for_once(&self) -> bool;
}

#[derive(Debug)]
struct Idle<C> {
    connection: C,
    since: Instant,
}

#[derive(Debug)]
struct Shelves<C> {
    by_key: HashMap<Key, VecDeque<Idle<C>>>,
    count: usize,
    is_swept: bool,
}

/// The idle connections.
#[derive(Debug)]
pub(super) struct Pool<C = Connection> {
    shelves: Mutex<Shelves<C>>,
    idle_timeout: Duration,
    per_key_max: usize,
    count_max: usize,
}

impl<C: Pooled> Pool<C> {
    pub(super) fn new(idle_timeout: Duration, per_key_max: u32, count_max: u32) -> Arc<Self> {
        Arc::new(Self {
            shelves: Mutex::new(Shelves {
                by_key: HashMap::new(),
                count: 0,
                is_swept: false,
            }),
            idle_timeout,
            per_key_max: usize::try_from(per_key_max).unwrap_or(usize::MAX),
            count_max: usize::try_from(count_max).unwrap_or(usize::MAX),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Shelves<C>> {
        self.shelves.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest connection that is usable, young enough, good for such a request, and allowed.
    pub(super) fn take<A>(
        &self,
        key: &Key,
        reuse: Reuse,
        approve: impl Fn(IpAddr) -> Option<A>,
    ) -> Option<(A, C)> {
        let mut guard = self.lock();
        let shelves = &mut *guard;
        let shelf = shelves.by_key.get_mut(key)?;
        let mut found = None;
        let mut at = shelf.len();
        while at > 0 {
            at -= 1;
            let Some(idle) = shelf.get_mut(at) else { break };
            if idle.since.elapsed() > self.idle_timeout {
                // So are all that are left; the sweep closes them.
                break;
            }
            let is_usable = idle.connection.is_usable();
            let announced = idle.connection.announced();
            let since_response = announced.map_or(Duration::ZERO, |(since, _)| since.elapsed());
            if is_usable && !reuse.allows(since_response, announced.map(|(_, timeout)| timeout)) {
                // It may still serve a request that can be repeated.
                continue;
            }
            let Some(idle) = shelf.remove(at) else { break };
            shelves.count -= 1;
            if !is_usable {
                continue;
            }
            // One that is no longer allowed is closed.
            if let Some(approved) = approve(idle.connection.address()) {
                found = Some((approved, idle.connection));
                break;
            }
        }
        if shelf.is_empty() {
            shelves.by_key.remove(key);
        }
        found
    }

    /// Keeps a connection; above a bound the oldest of its key goes, or this one.
    fn keep(&self, connection: C) {
        let mut guard = self.lock();
        let shelves = &mut *guard;
        let key = connection.key().clone();
        let shelf = shelves.by_key.entry(key).or_default();
        // The next such request makes another one: they would pile up.
        if connection.is_for_once() && connection.announced().is_none() && !shelf.is_empty() {
            return;
        }
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

    /// Closes what is old or was closed by its target. Returns how many are left.
    fn sweep(&self) -> usize {
        let mut shelves = self.lock();
        let timeout = self.idle_timeout;
        shelves.by_key.retain(|_, shelf| {
            shelf.retain_mut(|idle| idle.connection.is_usable() && idle.since.elapsed() < timeout);
            !shelf.is_empty()
        });
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
        if !connection.is_usable() {
            let ready = tokio::time::timeout(READY_WITHIN, connection.ready());
            if ready.await != Ok(true) {
                return;
            }
        }
        connection.mark_reused();
        self.keep(connection);
        let must_sweep = !std::mem::replace(&mut self.lock().is_swept, true);
        if must_sweep {
            tokio::spawn(sweep(Arc::downgrade(self)));
        }
    }
}

/// Runs while there is anything to sweep.
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
        key: Key,
        is_usable: bool,
        announced: Option<(Instant, Duration)>,
        is_for_once: bool,
    }

    impl Pooled for Fake {
        fn announced(&self) -> Option<(Instant, Duration)> {
            self.announced
        }

        fn is_for_once(&self) -> bool {
            self.is_for_once
        }

        fn key(&self) -> &Key {
            &self.key
        }

        fn address(&self) -> IpAddr {
            IpAddr::V4(Ipv4Addr::new(10, 0, 0, self.number))
        }

        fn is_usable(&mut self) -> bool {
            self.is_usable
        }
    }

    fn key(port: u16) -> Key {
        Key {
            is_tls: false,
            host: policy::Host::Name("ci".into()),
            port,
            ca_file: None,
            own: None,
            http2: true,
        }
    }

    fn fake(number: u8, port: u16) -> Fake {
        Fake {
            number,
            key: key(port),
            is_usable: true,
            announced: None,
            is_for_once: false,
        }
    }

    fn taken(pool: &Pool<Fake>, port: u16) -> Option<u8> {
        pool.take(&key(port), Reuse::Repeatable, Some)
            .map(|(_, fake)| fake.number)
    }

    #[test]
    fn the_newest_is_taken_and_only_by_its_own_key() {
        let pool = Pool::new(Duration::from_secs(30), 2, 10);
        for number in 1..=3 {
            pool.keep(fake(number, 80));
        }
        assert_eq!(taken(&pool, 81), None);
        assert_eq!(taken(&pool, 80), Some(3));
        assert_eq!(taken(&pool, 80), Some(2));
        assert_eq!(taken(&pool, 80), None, "two of a key at most");
        assert_eq!(pool.lock().count, 0);
        assert!(pool.lock().by_key.is_empty());
    }

    #[test]
    fn there_is_a_bound_for_all_keys_together() {
        let pool = Pool::new(Duration::from_secs(30), 5, 2);
        pool.keep(fake(1, 1));
        pool.keep(fake(2, 2));
        pool.keep(fake(3, 3));
        assert_eq!(taken(&pool, 3), None);
        pool.keep(fake(4, 2));
        assert_eq!(taken(&pool, 2), Some(4));
        assert_eq!(pool.lock().count, 1);
    }

    #[test]
    fn an_address_that_is_no_longer_allowed_is_closed() {
        let pool = Pool::new(Duration::from_secs(30), 5, 5);
        pool.keep(fake(1, 80));
        pool.keep(fake(2, 80));
        let one = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
        let only_one = |address| (address == one).then_some(());
        let (_, connection) = pool.take(&key(80), Reuse::Repeatable, only_one).unwrap();
        assert_eq!(connection.number, 1);
        assert_eq!(pool.lock().count, 0);
    }

    #[test]
    fn request_that_leaves_once_takes_what_its_target_keeps() {
        let pool: Arc<Pool<Fake>> = Pool::new(Duration::from_secs(30), 5, 5);
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
        let keeps = |number, announced| Fake {
            announced,
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
        let pool = Pool::new(Duration::from_secs(30), 5, 5);
        for number in 1..=3 {
            pool.keep(Fake {
                is_for_once: true,
                ..fake(number, 80)
            });
        }
        assert_eq!(taken(&pool, 80), Some(1));
        assert_eq!(taken(&pool, 80), None);
    }

    #[test]
    fn keep_alive_is_read_with_care() {
        let seconds = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append("keep-alive", value.parse().unwrap());
            }
            announced(&headers).map(|timeout| timeout.as_secs())
        };
        for (values, expected) in [
            (&["timeout=5"] as &[&str], Some(5)),
            (&["timeout=5, max=100"], Some(5)),
            (&["max=100,Timeout = \"15\""], Some(15)),
            (&["timeout=5", "timeout=3"], Some(3)),
            (&["timeout=5, max=0"], None),
            (&["max=7"], None),
            (&["timeout=-1"], None),
            (&["timeout=99999999999999"], None),
            (&["timeout"], None),
            (&[], None),
        ] {
            assert_eq!(seconds(values), expected, "{values:?}");
        }
    }

    #[test]
    fn what_is_closed_or_old_is_swept() {
        let pool = Pool::new(Duration::from_millis(20), 5, 5);
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
