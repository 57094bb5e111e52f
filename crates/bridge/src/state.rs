//! State that the tasks of one running bridge share, grouped by purpose.
//!
//! ```text
//! BridgeState
//!   relay      how sessions are established: dialer, identity, windows
//!   sessions   the sessions that exist now, and tasks that wait for retired ones
//!   lifecycle  running, draining, stopped; jumps of the clock
//!   dispatcher, deliveries, health, stats, audit   what the exchanges on the sessions use
//! ```
//!
//! A task holds the whole state only if it needs most of it; functions take the part that they use.

use crate::audit::Audit;
use crate::data_dir::DataDir;
use crate::deliveries::Deliveries;
use crate::dispatcher::Dispatcher;
use crate::health::Health;
use crate::stats::RuntimeStats;
use crate::versions::NamedVersions;
use protocol::frame::{Serves, Windows};
use protocol::session::{Budget, EndReason};
use std::collections::VecDeque;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;
use tokio::task::JoinSet;
use transport::Session;
use transport::dial::Dialer;
use transport::handshake::Identity;

/// Everything that belongs to one running bridge.
pub(crate) struct BridgeState {
    /// The tenant's name, for people.
    pub(crate) tenant: String,
    /// The bridge's name.
    pub(crate) name: String,
    pub(crate) data_dir: DataDir,
    pub(crate) relay: RelayLink,
    pub(crate) sessions: SessionSet,
    pub(crate) lifecycle: Lifecycle,
    pub(crate) dispatcher: Arc<Dispatcher>,
    pub(crate) deliveries: Arc<Deliveries>,
    pub(crate) health: Arc<Health>,
    pub(crate) stats: Arc<RuntimeStats>,
    pub(crate) audit: Option<Arc<Audit>>,
    /// When the active config was loaded, in seconds since 1970.
    pub(crate) config_loaded_at: AtomicU64,
    /// The bridge's runtime, for work that starts on a thread outside it.
    pub(crate) runtime: tokio::runtime::Handle,
}

impl BridgeState {
    /// Sends the bridge's health to the relay, on every session.
    pub(crate) fn report(&self) {
        for session in self.sessions.all() {
            self.report_on(&session);
        }
    }

    /// Sends the bridge's health to the relay, on one session.
    pub(crate) fn report_on(&self, session: &Session) {
        // The report lists endpoints by position, in the order that this session declared.
        let serves = session.serves();
        let names = serves.endpoints.iter().map(String::as_str);
        let mut report = self.health.report(names);
        report.audit = self.audit.as_ref().and_then(|audit| audit.head());
        session.send_report(report);
    }
}

/// How the bridge establishes sessions with its relay.
pub(crate) struct RelayLink {
    pub(crate) identity: Identity,
    pub(crate) windows: Windows,
    pub(crate) budget: Arc<Budget>,
    /// Nodes of the relay, from the latest WELCOME. One connection is used for each.
    pub(crate) nodes: watch::Sender<u16>,
    /// The versions of bridges that the operator named.
    pub(crate) versions: NamedVersions,
    dialer: Mutex<Dialer>,
    /// Counts the dialers, so that a connection that waits learns of another one.
    dialers: watch::Sender<u64>,
}

impl RelayLink {
    pub(crate) fn new(
        identity: Identity,
        dialer: Dialer,
        windows: Windows,
        budget: Arc<Budget>,
    ) -> Self {
        Self {
            identity,
            windows,
            budget,
            // Before the first WELCOME only the first connection is used.
            nodes: watch::Sender::new(1),
            versions: NamedVersions::default(),
            dialer: Mutex::new(dialer),
            dialers: watch::Sender::new(0),
        }
    }

    /// Returns the number of the current dialer.
    pub(crate) fn dialer_number(&self) -> u64 {
        *self.dialers.borrow()
    }

    /// Waits until another dialer than the one of this number is there. Cancel safe.
    pub(crate) async fn dialer_replaced(&self, number: u64) {
        // The sender is `self`, so the channel cannot be closed while this waits.
        let mut numbers = self.dialers.subscribe();
        let _ = numbers.wait_for(|now| *now != number).await;
    }

    /// Returns a copy of the dialer that new connections use now.
    pub(crate) fn dialer(&self) -> Dialer {
        lock(&self.dialer).clone()
    }

    /// Replaces the dialer for connections from now on. A connection that waits to dial again does so at once:
    /// the change may be what it waits for.
    pub(crate) fn set_dialer(&self, dialer: Dialer) {
        *lock(&self.dialer) = dialer;
        // After the dialer: a connection that sees the number finds the new one.
        self.dialers.send_modify(|number| *number += 1);
    }
}

/// Retired sessions of one bridge that may still finish their exchanges. A relay that asks for a new session
/// over and over would otherwise leave one more each time, for as long as a retired session may last.
const RETIRED_MAX: usize = 32;

/// The sessions of a bridge, including retired ones that still finish their exchanges.
pub(crate) struct SessionSet {
    live: watch::Sender<Vec<Session>>,
    retired: Mutex<Retired>,
}

/// Retired sessions, the oldest first, and the tasks that each wait for the end of one.
#[derive(Default)]
struct Retired {
    sessions: VecDeque<Session>,
    tasks: JoinSet<()>,
}

/// Adds the newest of a bounded number, and returns those that must go: the oldest.
fn add_bounded<T>(all: &mut VecDeque<T>, newest: T, max: usize) -> Vec<T> {
    all.push_back(newest);
    let above = all.len().saturating_sub(max);
    all.drain(..above).collect()
}

impl SessionSet {
    pub(crate) fn new() -> Self {
        Self {
            live: watch::Sender::new(Vec::new()),
            retired: Mutex::default(),
        }
    }

    /// Returns the sessions that exist now.
    pub(crate) fn all(&self) -> Vec<Session> {
        self.live.borrow().clone()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.live.borrow().is_empty()
    }

    /// Returns a receiver that follows the set.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Vec<Session>> {
        self.live.subscribe()
    }

    pub(crate) fn add(&self, session: &Session) {
        self.live
            .send_modify(|sessions| sessions.push(session.clone()));
    }

    pub(crate) fn remove(&self, session: &Session) {
        self.live
            .send_modify(|sessions| sessions.retain(|other| !other.is_same(session)));
    }

    /// Declares on every session what the bridge serves.
    pub(crate) fn set_serves(&self, serves: &Serves) {
        // On a copy: a session may end meanwhile, and its removal needs the channel's lock.
        for session in self.all() {
            session.set_serves(serves.clone());
        }
    }

    /// Closes every session at once; exchanges on them fail.
    pub(crate) fn close_all(&self, reason: &EndReason) {
        for session in self.all() {
            session.close(reason.clone());
        }
    }

    /// Runs a task that waits for a retired session. Finished tasks are removed as well. Above
    /// [`RETIRED_MAX`], the oldest retired session is closed, and the exchanges on it fail.
    pub(crate) fn spawn_retired(
        &self,
        session: &Session,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        let surplus = {
            let mut retired = lock(&self.retired);
            while retired.tasks.try_join_next().is_some() {}
            retired.tasks.spawn(task);
            retired.sessions.retain(|old| !old.is_over());
            add_bounded(&mut retired.sessions, session.clone(), RETIRED_MAX)
        };
        // Without the lock: closing a session wakes its task.
        for session in surplus {
            tracing::warn!(
                session = crate::text::hex(&session.id()),
                running = session.streams_open(),
                max = RETIRED_MAX,
                "the relay asked for many new sessions; closing the oldest one that still runs"
            );
            session.close(EndReason::Draining);
        }
    }

    /// Waits until all retired sessions have ended.
    pub(crate) async fn join_retired(&self) {
        // Taken out first: the lock must not be held while waiting.
        let mut retired = std::mem::take(&mut lock(&self.retired).tasks);
        while retired.join_next().await.is_some() {}
    }
}

/// How far the bridge is from its end. The order is the order in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// It runs.
    Running,
    /// Running exchanges may finish; nothing new starts.
    Draining,
    /// Everything ends now.
    Stopped,
}

/// The bridge's stage, and jumps of the clock.
pub(crate) struct Lifecycle {
    stage: watch::Sender<Stage>,
    /// Counts jumps; see [`crate::clock`].
    pub(crate) clock_jumps: watch::Sender<u64>,
}

impl Lifecycle {
    pub(crate) fn new() -> Self {
        Self {
            stage: watch::Sender::new(Stage::Running),
            clock_jumps: watch::Sender::new(0),
        }
    }

    /// Enters a stage.
    pub(crate) fn enter(&self, stage: Stage) {
        self.stage.send_replace(stage);
    }

    /// Returns the stage.
    pub(crate) fn stage(&self) -> Stage {
        *self.stage.borrow()
    }

    /// Waits until the bridge is in `stage` or a later one. Cancel safe.
    pub(crate) async fn reached(&self, stage: Stage) {
        // The sender is `self`, so the channel cannot be closed while this waits.
        let _ = self.stage.subscribe().wait_for(|now| *now >= stage).await;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No critical section in this file can leave the data half changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;
    use std::time::Duration;
    use transport::dial::Proxy;

    const CERT: &str = include_str!("../../runtime/src/pem/samples/cert.pem");

    #[test]
    fn oldest_of_a_bounded_number_goes() {
        let mut all = VecDeque::new();
        for number in 1..=3 {
            assert!(add_bounded(&mut all, number, 3).is_empty());
        }
        assert_eq!(add_bounded(&mut all, 4, 3), [1]);
        assert_eq!(all, [2, 3, 4]);
    }

    #[tokio::test(start_paused = true)]
    async fn replaced_dialer_ends_a_wait() {
        let dir = TempDir::new("dialer");
        let ca_file = dir.path().join("ca.pem");
        // The system of a test may have no roots at all.
        std::fs::write(&ca_file, CERT).unwrap();
        let tls = transport::tls::client_config(&[ca_file], &[]).unwrap();
        let url = "https://relay.example.com".parse().unwrap();
        let dialer = Dialer::new(url, &tls, Proxy::Direct);
        let identity = crate::identity::tests::example().for_tunnel();
        let windows = Windows {
            streams_max: 1,
            stream_bytes: 1,
            session_bytes: 1,
        };
        let link = RelayLink::new(identity, dialer.clone(), windows, Budget::new(0));
        let number = link.dialer_number();
        let waiting = tokio::time::timeout(Duration::from_secs(60), link.dialer_replaced(number));
        assert!(waiting.await.is_err(), "nothing was replaced");
        link.set_dialer(dialer);
        // Also if the replacement came before the wait.
        link.dialer_replaced(number).await;
        assert_ne!(link.dialer_number(), number);
    }
}
