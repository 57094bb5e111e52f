//! A part of the bridges, in a process of their own: each dials, keeps its session, and dials again
//! when that ends, with the bridge's own code and after the bridge's own waits.
//!
//! Every 100 ms it prints a line with what happened since the last one; see [`Tick`].

use std::collections::BTreeMap;
use std::error::Error;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use protocol::frame::{Bounded, PreviousSession, RefusedCode, Serves, Windows};
use protocol::limits::STREAM_WINDOW_CAP_BYTES;
use protocol::session::{Budget, EndReason};
use rustls::client::Resumption;
use tokio::sync::Semaphore;
use transport::backoff::Reconnect;
use transport::dial::{DialError, Dialer, Proxy, RelayUrl};
use transport::handle::Settings;
use transport::handshake::{Identity, Introduction};

use super::pairing::Roster;
use super::ticks::{Tick, now_ms};

/// Which bridges, and where to.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[arg(long)]
    relay: SocketAddr,
    #[arg(long)]
    ca_file: PathBuf,
    #[arg(long)]
    roster: PathBuf,
    #[arg(long)]
    first: usize,
    #[arg(long)]
    count: usize,
}

/// First dials at once. Later ones come as the bridges' own waits have it.
const FIRST_DIALS: usize = 32;

/// How often a line is written.
const TICK: Duration = Duration::from_millis(100);

/// What happened since the last line, and how many are up.
#[derive(Default)]
struct Counters {
    up: AtomicU64,
    came: AtomicU64,
    dialled: AtomicU64,
    turned_away: AtomicU64,
    failed: AtomicU64,
    lost_for_good: AtomicU64,
    /// How often each kind of failure came.
    kinds: Mutex<BTreeMap<String, u64>>,
}

/// What the bridges of this process share.
struct Swarm {
    counters: Counters,
    budget: Arc<Budget>,
    first_dials: Semaphore,
}

/// Runs until it is killed.
pub(crate) async fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    let swarm = Arc::new(Swarm {
        counters: Counters::default(),
        budget: Budget::new(1 << 20),
        first_dials: Semaphore::new(FIRST_DIALS),
    });
    let url: RelayUrl = format!("https://{}", args.relay).parse()?;
    let tls = transport::tls::client_config(std::slice::from_ref(&args.ca_file), &[])?;
    let roster = Roster::read(&args.roster, args.first, args.count)?;
    for (number, identity) in roster.into_iter().enumerate() {
        let mut tls = (*tls).clone();
        // A bridge remembers its own TLS sessions only.
        tls.resumption = Resumption::in_memory_sessions(4);
        let dialer = Dialer::new(url.clone(), &tls, Proxy::Direct);
        let dialer = dialer.with_source_address(address(args.first + number));
        let bridge = Bridge {
            swarm: Arc::clone(&swarm),
            dialer,
            identity,
            reconnect: Reconnect::new(),
            epoch: 0,
            previous: None,
        };
        tokio::spawn(bridge.run());
    }
    loop {
        tokio::time::sleep(TICK).await;
        swarm.counters.write_line()?;
    }
}

/// An address of loopback for each bridge, from 127.64.0.0 on.
fn address(number: usize) -> IpAddr {
    let base = u32::from(Ipv4Addr::new(127, 64, 0, 0));
    let offset = u32::try_from(number % 0x003f_ffff).expect("it is below 2^22");
    Ipv4Addr::from(base + offset).into()
}

struct Bridge {
    swarm: Arc<Swarm>,
    dialer: Dialer,
    identity: Identity,
    reconnect: Reconnect,
    epoch: u64,
    previous: Option<PreviousSession>,
}

impl Bridge {
    async fn run(mut self) {
        let swarm = Arc::clone(&self.swarm);
        let mut first = swarm.first_dials.acquire().await.ok();
        loop {
            let wait = self.attempt(&mut first).await;
            first = None;
            match wait {
                Some(wait) => tokio::time::sleep(wait).await,
                None => {
                    swarm.counters.add(|counters| &counters.lost_for_good);
                    return;
                }
            }
        }
    }

    /// Dials, and carries the session to its end. How long to wait then; `None` where only a person
    /// could help.
    async fn attempt(
        &mut self,
        first: &mut Option<tokio::sync::SemaphorePermit<'_>>,
    ) -> Option<Duration> {
        let counters = &self.swarm.counters;
        self.epoch += 1;
        let introduction = Introduction {
            slot: 0,
            epoch: self.epoch,
            serves: Serves {
                endpoints: Bounded::truncated(["alm".to_owned()]),
                hosts: Some(Bounded::truncated(["*.corp.example".to_owned()])),
                repeatable: Bounded::default(),
            },
            previous: self.previous.clone(),
            journal: None,
        };
        let settings = Settings {
            windows: Windows::default(),
            budget: Arc::clone(&self.swarm.budget),
            stream_window_cap: STREAM_WINDOW_CAP_BYTES,
            on_open: None,
            on_result: None,
            on_result_ack: None,
        };
        counters.add(|counters| &counters.dialled);
        let tunnel = match self
            .dialer
            .tunnel(&self.identity, introduction, settings)
            .await
        {
            Ok(tunnel) => tunnel,
            Err(error) => return self.failed(&error),
        };
        *first = None;
        let since = Instant::now();
        counters.add(|counters| &counters.came);
        counters.up.fetch_add(1, Ordering::Relaxed);
        let reason = tunnel.driver.await;
        counters.up.fetch_sub(1, Ordering::Relaxed);
        self.previous = Some(tunnel.session.previous_session_report());
        self.reconnect.ended_after(since.elapsed());
        if matches!(reason, EndReason::Replaced | EndReason::Revoked) {
            return None;
        }
        Some(self.reconnect.next_wait(None))
    }

    fn failed(&mut self, error: &DialError) -> Option<Duration> {
        let counters = &self.swarm.counters;
        counters.note(error);
        if let Some(RefusedCode::StaleEpoch { current }) = error.refused() {
            self.epoch = current;
            counters.add(|counters| &counters.failed);
            return Some(Duration::ZERO);
        }
        if error.needs_operator() {
            return None;
        }
        if error.retry_after().is_some() {
            counters.add(|counters| &counters.turned_away);
        } else {
            counters.add(|counters| &counters.failed);
        }
        Some(self.reconnect.next_wait(error.retry_after()))
    }
}

impl Counters {
    fn add(&self, which: impl Fn(&Self) -> &AtomicU64) {
        which(self).fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a failure by its kind.
    fn note(&self, error: &DialError) {
        let kind = match error {
            DialError::Tcp { error, .. } => format!("TCP: {error}"),
            other => other.to_string(),
        };
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        if kinds.len() < 32 || kinds.contains_key(&kind) {
            *kinds.entry(kind).or_default() += 1;
        }
    }

    fn write_line(&self) -> std::io::Result<()> {
        let take = |counter: &AtomicU64| counter.swap(0, Ordering::Relaxed);
        let tick = Tick {
            at_ms: now_ms(),
            up: self.up.load(Ordering::Relaxed),
            came: take(&self.came),
            dialled: take(&self.dialled),
            turned_away: take(&self.turned_away),
            failed: take(&self.failed),
            lost_for_good: take(&self.lost_for_good),
        };
        let mut stdout = std::io::stdout();
        writeln!(stdout, "{tick}")?;
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        for (kind, count) in std::mem::take(&mut *kinds) {
            writeln!(std::io::stderr(), "{} {count} {kind}", tick.at_ms)?;
        }
        stdout.flush()
    }
}
