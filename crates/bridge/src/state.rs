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
use protocol::frame::{Serves, Windows};
use protocol::session::{Budget, EndReason};
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
    dialer: Mutex<Dialer>,
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
            dialer: Mutex::new(dialer),
        }
    }

    /// Returns a copy of the dialer that new connections use now.
    pub(crate) fn dialer(&self) -> Dialer {
        lock(&self.dialer).clone()
    }

    /// Replaces the dialer for connections from now on.
    pub(crate) fn set_dialer(&self, dialer: Dialer) {
        *lock(&self.dialer) = dialer;
    }
}

/// The sessions of a bridge, including retired ones that still finish their exchanges.
pub(crate) struct SessionSet {
    live: watch::Sender<Vec<Session>>,
    /// Tasks that each wait for the end of a retired session.
    retired: Mutex<JoinSet<()>>,
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

    /// Runs a task that waits for a retired session. Finished tasks are removed as well.
    pub(crate) fn spawn_retired(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut retired = lock(&self.retired);
        while retired.try_join_next().is_some() {}
        retired.spawn(task);
    }

    /// Waits until all retired sessions have ended.
    pub(crate) async fn join_retired(&self) {
        // Taken out first: the lock must not be held while waiting.
        let mut retired = std::mem::take(&mut *lock(&self.retired));
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
