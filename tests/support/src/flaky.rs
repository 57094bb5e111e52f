//! A TCP proxy that imitates network faults.
//!
//! ```text
//! client        ── upstream ──>  FlakyProxy  ── upstream ──>  the upstream address
//!               <─ downstream ─              <─ downstream ─
//! ```
//!
//! It stands between two well-behaved peers and is the network between them: slow, silent, gone. One
//! connection is in `flaky/line.rs`.

mod line;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::{ports, tasks::AbortOnDrop};

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the upstream address.
    Upstream,
    /// From the upstream address to the client.
    Downstream,
    /// Both.
    Both,
}

impl Direction {
    fn covers(self, other: Self) -> bool {
        self == other || self == Self::Both
    }
}

/// The proxy; everything it holds open closes when it is dropped.
#[derive(Debug)]
pub struct FlakyProxy {
    addr: SocketAddr,
    shared: Arc<Shared>,
    _accepting: AbortOnDrop,
}

/// What the network is like at present.
#[derive(Debug, Clone)]
struct Conditions {
    upstream: SocketAddr,
    frozen: Option<Direction>,
    /// Connections accepted before this one are frozen in both directions.
    frozen_before: u64,
    delay: Duration,
    bytes_per_s: Option<u64>,
    refuse: bool,
    /// Connections of an earlier generation end with `ending`.
    generation: u64,
    ending: Ending,
}

#[derive(Debug, Clone, Copy)]
enum Ending {
    Close,
    Reset,
}

#[derive(Debug)]
struct Shared {
    conditions: watch::Sender<Conditions>,
    listening: watch::Sender<bool>,
    fuse: Mutex<Option<Fuse>>,
    live: AtomicUsize,
    accepted: AtomicU64,
    up_bytes: AtomicU64,
    down_bytes: AtomicU64,
}

/// What is left before [`FlakyProxy::cut_after`] cuts.
#[derive(Debug)]
struct Fuse {
    direction: Direction,
    left_bytes: u64,
}

impl FlakyProxy {
    /// Listens on loopback and passes everything on to `upstream`, unchanged until a fault is set.
    pub async fn start(upstream: SocketAddr) -> Self {
        // Not port 0: `refuse` gives the port up and wants the same one back.
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, ports::free()));
        let listener = TcpListener::bind(addr)
            .await
            .unwrap_or_else(|error| panic!("cannot listen on {addr}: {error}"));
        let conditions = Conditions {
            upstream,
            frozen: None,
            frozen_before: 0,
            delay: Duration::ZERO,
            bytes_per_s: None,
            refuse: false,
            generation: 0,
            ending: Ending::Close,
        };
        let shared = Arc::new(Shared {
            conditions: watch::Sender::new(conditions),
            listening: watch::Sender::new(true),
            fuse: Mutex::new(None),
            live: AtomicUsize::new(0),
            accepted: AtomicU64::new(0),
            up_bytes: AtomicU64::new(0),
            down_bytes: AtomicU64::new(0),
        });
        let accepting = tokio::spawn(accept(addr, listener, Arc::clone(&shared)));
        Self {
            addr,
            shared,
            _accepting: AbortOnDrop(accepting),
        }
    }

    /// Where to connect.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Stops moving bytes silently, like a firewall that lost its state: no reset, no end,
    /// and an end that a peer sends is not passed on either.
    ///
    /// New connections are accepted; while both directions are frozen they do not reach the upstream address.
    pub fn freeze(&self, direction: Direction) {
        self.change(|now| now.frozen = Some(direction));
    }

    /// Freezes the connections that exist, in both directions; those made after this are served.
    /// As when a firewall forgets the flows that it knew.
    pub fn freeze_existing(&self) {
        let accepted = self.accepted();
        self.change(|now| now.frozen_before = accepted);
    }

    /// Moves bytes again, first those that waited.
    pub fn thaw(&self) {
        self.change(|now| {
            now.frozen = None;
            now.frozen_before = 0;
        });
    }

    /// Closes all connections now, in an orderly way: each side reads an end.
    pub fn cut(&self) {
        self.shared.end_all(Ending::Close);
    }

    /// Resets all connections now: each side reads an error.
    pub fn reset(&self) {
        self.shared.end_all(Ending::Reset);
    }

    /// Passes exactly `bytes` more in `direction`, counted over all connections, and then
    /// [cuts](Self::cut), once: connections made after that live. With [`Direction::Both`] either
    /// direction's bytes count.
    pub fn cut_after(&self, direction: Direction, bytes: u64) {
        if bytes == 0 {
            return self.cut();
        }
        *self.shared.fuse() = Some(Fuse {
            direction,
            left_bytes: bytes,
        });
    }

    /// Makes every byte arrive this much later, in each direction: the round trip grows by twice
    /// that. Throughput stays.
    pub fn delay(&self, one_way: Duration) {
        self.change(|now| now.delay = one_way);
    }

    /// Bytes a second that pass in each direction of each connection; `None` is no limit.
    pub fn rate(&self, bytes_per_s: Option<u64>) {
        self.change(|now| now.bytes_per_s = bytes_per_s.map(|rate| rate.max(1)));
    }

    /// Whether new connections are refused, as by a closed port. Those that exist
    /// live on. Holds when this returns.
    pub async fn refuse(&self, refuse: bool) {
        self.change(|now| now.refuse = refuse);
        let mut listening = self.shared.listening.subscribe();
        tokio::time::timeout(
            Duration::from_secs(10),
            listening.wait_for(|now| *now != refuse),
        )
        .await
        .unwrap_or_else(|_| panic!("{} could not be listened on again", self.addr))
        .expect("the accepting task lives as long as the proxy");
    }

    /// Where new connections go from now on.
    pub fn retarget(&self, upstream: SocketAddr) {
        self.change(|now| now.upstream = upstream);
    }

    /// Connections that are open at present.
    pub fn connections(&self) -> usize {
        self.shared.live.load(Ordering::Relaxed)
    }

    /// Connections that were ever accepted.
    pub fn accepted(&self) -> u64 {
        self.shared.accepted.load(Ordering::Relaxed)
    }

    /// Bytes delivered so far in `direction`, over all connections.
    pub fn moved_bytes(&self, direction: Direction) -> u64 {
        let up = self.shared.up_bytes.load(Ordering::Relaxed);
        let down = self.shared.down_bytes.load(Ordering::Relaxed);
        match direction {
            Direction::Upstream => up,
            Direction::Downstream => down,
            Direction::Both => up + down,
        }
    }

    fn change(&self, change: impl FnOnce(&mut Conditions)) {
        self.shared.conditions.send_modify(change);
    }
}

impl Shared {
    fn end_all(&self, ending: Ending) {
        *self.fuse() = None;
        self.conditions.send_modify(|now| {
            now.generation += 1;
            now.ending = ending;
        });
    }

    fn fuse(&self) -> std::sync::MutexGuard<'_, Option<Fuse>> {
        self.fuse.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many bytes may be written before the fuse burns out.
    fn allowed_bytes(&self, direction: Direction) -> u64 {
        match &*self.fuse() {
            Some(fuse) if fuse.direction.covers(direction) => fuse.left_bytes,
            Some(_) | None => u64::MAX,
        }
    }

    /// Counts bytes that were delivered; `true` marks the last ones.
    fn delivered(&self, direction: Direction, bytes: u64) -> bool {
        let counter = match direction {
            Direction::Upstream => &self.up_bytes,
            Direction::Downstream | Direction::Both => &self.down_bytes,
        };
        counter.fetch_add(bytes, Ordering::Relaxed);
        let burnt = match &mut *self.fuse() {
            Some(fuse) if fuse.direction.covers(direction) => {
                fuse.left_bytes = fuse.left_bytes.saturating_sub(bytes);
                fuse.left_bytes == 0
            }
            Some(_) | None => false,
        };
        if burnt {
            self.end_all(Ending::Close);
        }
        burnt
    }
}

/// Owns the listener and every connection.
async fn accept(addr: SocketAddr, listener: TcpListener, shared: Arc<Shared>) {
    let mut conditions = shared.conditions.subscribe();
    let mut listener = Some(listener);
    let mut lines = JoinSet::new();
    loop {
        let refuse = conditions.borrow_and_update().refuse;
        if refuse {
            listener = None;
        } else if listener.is_none() {
            listener = TcpListener::bind(addr).await.ok();
        }
        shared.listening.send_replace(listener.is_some());
        tokio::select! {
            // The proxy holds the sender as well, so this ends with the task alone.
            _ = conditions.changed() => {}
            accepted = accept_one(listener.as_ref()) => if let Some(client) = accepted {
                let serial = shared.accepted.fetch_add(1, Ordering::Relaxed);
                lines.spawn(line::run(client, serial, Arc::clone(&shared)));
            },
            Some(_) = lines.join_next() => {}
            // Another process has the port for a moment: retry.
            () = tokio::time::sleep(Duration::from_millis(20)), if listener.is_none() && !refuse => {}
        }
    }
}

/// The next connection; never, while nothing listens.
async fn accept_one(listener: Option<&TcpListener>) -> Option<TcpStream> {
    match listener {
        Some(listener) => listener.accept().await.ok().map(|(client, _)| client),
        None => std::future::pending().await,
    }
}
