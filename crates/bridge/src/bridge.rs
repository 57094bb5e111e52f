//! A running bridge: how it starts and how it stops.

use crate::audit::Audit;
use crate::clock;
use crate::config::{Config, DeliveriesSection};
use crate::connection::{Connection, DRAIN_TIMEOUT};
use crate::control::handler;
use crate::credentials::{self, StoreError, alm};
use crate::data_dir::DataDirError;
use crate::deliveries::Deliveries;
use crate::dispatcher::{Active, ActiveError, Dispatcher, OnResponse, Records, own_addresses};
use crate::health::Health;
use crate::identity::{self, Identity, IdentityError, OtherPairing};
use crate::journal::{Bounds, Journal, OpenError as JournalError};
use crate::pairing::{PairError, dialer};
use crate::reload::{self, ReloadError};
use crate::state::{BridgeState, Lifecycle, RelayLink, SessionSet, Stage};
use crate::stats::{RuntimeStats, now_s};
use protocol::session::{Budget, EndReason};
use runtime::liveness::Liveness;
use runtime::output::counted;
use runtime::service_manager::ServiceManager;
use runtime::shortage::in_words;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use tokio::task::JoinSet;

/// The journal's file in the data directory.
const JOURNAL_FILE: &str = "journal.redb";

/// How long after the drain timeout the connections get to send their last frames.
const CLOSE_GRACE: Duration = Duration::from_secs(2);

/// How often a shutdown checks whether deliveries still run.
const DELIVERIES_POLL: Duration = Duration::from_millis(20);

/// Why a bridge does not start. Nothing of it runs then.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// There is no usable identity.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// It was paired with another relay or under another name.
    #[error(transparent)]
    OtherPairing(#[from] OtherPairing),
    /// The config's rules, proxy or keys cannot be used.
    #[error(transparent)]
    Active(#[from] ActiveError),
    /// The credentials cannot be read.
    #[error(transparent)]
    Credentials(#[from] StoreError),
    /// The audit file cannot be written.
    #[error("cannot open the audit file {path} (audit.file): {why}", why = in_words(.source))]
    Audit {
        /// The file.
        path: String,
        /// The system's error.
        source: std::io::Error,
    },
    /// The metrics address is in use, or does not belong to this machine.
    #[error("cannot listen on metrics.listen = \"{address}\": {}", not_listening(.source))]
    Metrics {
        /// The address.
        address: std::net::SocketAddr,
        /// The system's error.
        source: std::io::Error,
    },
    /// The journal of deliveries cannot be opened.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The proxy or the certificates for the relay cannot be used.
    #[error(transparent)]
    Dial(PairError),
}

/// Returns why an address cannot be listened on, and what to do.
fn not_listening(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            "another program uses this address; stop it, or change metrics.listen".to_owned()
        }
        _ => format!("{}; change metrics.listen", in_words(error)),
    }
}

/// Starts bridges.
#[derive(Debug, Clone, Copy)]
pub struct Bridge;

impl Bridge {
    /// Starts a paired bridge in the current runtime. It connects in the background and retries without
    /// end; [`RunningBridge::wait_connected`] waits for the first session.
    ///
    /// # Errors
    /// [`StartError`], for example if the bridge is not paired or its data directory is in use.
    pub fn start(config: Config) -> Result<RunningBridge, StartError> {
        // First, because it locks the directory: everything below may then rely on being alone.
        let data_dir = config.bridge.lock_data_dir()?;
        let identity = Identity::load(&data_dir)?;
        identity.check(&config.relay.url, &config.bridge.name)?;
        let credentials = credentials::load(&config)?;
        let dialer = dialer(&config, &credentials).map_err(StartError::Dial)?;
        tracing::info!(
            relay = identity.relay,
            tenant = identity.tenant,
            bridge = identity.name,
            endpoints = config.rules.endpoints.len(),
            allow = config.rules.allow.len(),
            "bridge starting"
        );
        let bounds = journal_bounds(&config.deliveries);
        let journal = Journal::open(&data_dir, JOURNAL_FILE, bounds)?;
        let deliveries = Deliveries::new(journal, delivery_limits(&config.deliveries));
        let path = config.path.clone();
        let connections = u8::try_from(config.relay.connections.get()).unwrap_or(u8::MAX);
        let windows = config.limits.windows();
        let budget = Budget::new(config.limits.window_budget.bytes());
        let active = Active::new(config, own_addresses(), credentials)?;
        let stats = Arc::new(RuntimeStats::default());
        // Late, so that a start that fails in one of the steps above writes no line.
        let audit = open_audit(&active.config, &identity)?;
        if let Some(audit) = &audit {
            audit.add(json!({"event": "start", "software": identity::software()}));
        }
        let metrics = active.config.metrics.listen;
        let health = Arc::new(Health::default());
        let noted = health.clone();
        let on_response =
            OnResponse::new(move |endpoint, status| noted.responded(endpoint, status));
        let records = Records::new(
            stats.clone(),
            on_response,
            audit.clone(),
            identity.key.public(),
        );
        let state = Arc::new(BridgeState {
            tenant: identity.tenant.clone(),
            name: identity.name.clone(),
            data_dir,
            relay: RelayLink::new(identity.for_tunnel(), dialer, windows, budget),
            sessions: SessionSet::new(),
            lifecycle: Lifecycle::new(),
            dispatcher: Dispatcher::new(active, deliveries.clone(), records),
            deliveries,
            health,
            stats,
            audit,
            config_loaded_at: AtomicU64::new(now_s()),
            runtime: tokio::runtime::Handle::current(),
        });
        let mut tasks = background_tasks(&state);
        if let Some(address) = metrics {
            crate::metrics::listen(&state, address, &mut tasks)
                .map_err(|source| StartError::Metrics { address, source })?;
        }
        let liveness = Liveness::default();
        let mut connections_up = JoinSet::new();
        for number in 0..connections {
            let connection = Connection::new(number, state.clone()).run();
            connections_up.spawn(liveness.guard(&format!("connection {number}"), connection));
        }
        Ok(RunningBridge {
            state,
            connections: connections_up,
            liveness,
            tasks,
            path,
        })
    }
}

/// Starts everything that runs in addition to the connections.
fn background_tasks(state: &Arc<BridgeState>) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    tasks.spawn(clock::watch(state.lifecycle.clock_jumps.clone()));
    let deliveries = state.deliveries.clone();
    tasks.spawn(deliveries.report(state.sessions.subscribe()));
    tasks.spawn(watch_health(state.clone()));
    tasks.spawn(reload::watch_files(state.clone()));
    let dispatcher = state.dispatcher.clone();
    tasks.spawn(async move { dispatcher.watch_memory().await });
    handler::listen(state, &mut tasks);
    tasks
}

/// Checks the endpoints, and reports to the relay after each round.
async fn watch_health(state: Arc<BridgeState>) {
    let active = || state.dispatcher.active();
    state.health.watch(active, || state.report()).await;
}

/// Returns the bounds of the delivery journal.
fn journal_bounds(section: &DeliveriesSection) -> Bounds {
    Bounds {
        entries_max: section.journal_entries_max.get().into(),
        bytes_max: section.journal_bytes_max.bytes(),
    }
}

fn open_audit(config: &Config, identity: &Identity) -> Result<Option<Arc<Audit>>, StartError> {
    let section = &config.audit;
    if !section.enabled {
        return Ok(None);
    }
    let data_dir = config.bridge.data_dir.get();
    let path = section.path(data_dir);
    let left = section
        .file
        .as_ref()
        .and_then(|file| file.left_behind(data_dir));
    if let Some(left) = left {
        tracing::warn!(
            former = %left.display(), now = %path.display(),
            "audit.file is a relative path, which is resolved against the data directory; a former version wrote next to \
             the config file: stop the bridge and move the files, or the record begins again"
        );
    }
    let opened = Audit::open(&path, section.keep(), identity.key.clone());
    opened.map(Some).map_err(|source| StartError::Audit {
        path: path.display().to_string(),
        source,
    })
}

/// A running bridge. Dropping it ends its sessions at once; [`Self::shutdown`] drains them first.
pub struct RunningBridge {
    state: Arc<BridgeState>,
    connections: JoinSet<()>,
    /// Guards the connections.
    liveness: Liveness,
    /// Aborted when the value is dropped.
    tasks: JoinSet<()>,
    path: PathBuf,
}

impl std::fmt::Debug for RunningBridge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RunningBridge")
            .field("config", &self.path)
            .field("is_connected", &self.is_connected())
            .finish_non_exhaustive()
    }
}

impl Drop for RunningBridge {
    fn drop(&mut self) {
        // The stage first: a connection whose session ends must not dial again.
        self.state.lifecycle.enter(Stage::Stopped);
        self.state.sessions.close_all(&EndReason::Draining);
    }
}

impl RunningBridge {
    /// Returns whether a session is up.
    pub fn is_connected(&self) -> bool {
        !self.state.sessions.is_empty()
    }

    /// Waits up to `timeout` for a session. Returns whether one is up. Cancel safe.
    pub async fn wait_connected(&self, timeout: Duration) -> bool {
        let mut sessions = self.state.sessions.subscribe();
        let up = sessions.wait_for(|sessions| !sessions.is_empty());
        matches!(tokio::time::timeout(timeout, up).await, Ok(Ok(_)))
    }

    /// Returns the number of exchanges in progress.
    pub fn exchanges(&self) -> usize {
        self.state.dispatcher.running()
    }

    /// Reports to the service manager until the returned tasks are dropped: a ping while the tasks of all connections
    /// make progress, and the status line.
    pub(crate) fn report_to(&self, manager: &ServiceManager) -> JoinSet<()> {
        let state = self.state.clone();
        let mut tasks = JoinSet::new();
        tasks.spawn(self.liveness.clone().keep_alive(manager.clone()));
        tasks.spawn(manager.clone().follow(move || status_line(&state)));
        tasks
    }

    /// Reads the config file again and applies it to exchanges that start from now on. The relay gets the
    /// new list of endpoints. A file with a mistake changes nothing.
    ///
    /// # Errors
    /// [`ReloadError`]; the previous config stays active.
    pub fn reload(&self) -> Result<(), ReloadError> {
        reload::reload(&self.state)
    }

    /// Returns the path of the file that [`Self::reload`] reads.
    pub fn config_path(&self) -> &Path {
        &self.path
    }

    /// Accepts no more exchanges, finishes the running ones (30 s at most), and stops.
    pub async fn shutdown(mut self) {
        self.state.lifecycle.enter(Stage::Draining);
        let drain = async {
            // Connections first: only they retire sessions.
            while self.connections.join_next().await.is_some() {}
            self.state.sessions.join_retired().await;
            // Deliveries continue without their session; their outcome must reach the journal.
            while self.state.dispatcher.running() > 0 {
                tokio::time::sleep(DELIVERIES_POLL).await;
            }
        };
        // Longer than the drain of a session, so that a session reports its own timeout first.
        let _ = tokio::time::timeout(DRAIN_TIMEOUT + CLOSE_GRACE, drain).await;
        // Without a sign-out, ALM keeps a session and its locks for an hour.
        let active = self.state.dispatcher.active();
        alm::sign_out_of_all(&active.access, &active.credentials).await;
        if let Some(audit) = self.state.audit.clone() {
            audit.add(json!({"event": "stop"}));
            // Writing blocks, and must be complete before the process exits.
            let _ = tokio::task::spawn_blocking(move || audit.stop()).await;
        }
        // Waits for their end: the process may exit before a task that is only aborted has removed its socket.
        let _ = tokio::time::timeout(CLOSE_GRACE, self.tasks.shutdown()).await;
    }
}

/// Returns the state of a bridge in one line, as `systemctl status` shows it.
fn status_line(state: &BridgeState) -> String {
    if state.lifecycle.stage() != Stage::Running {
        let running = counted(state.dispatcher.running(), "exchange");
        return format!("draining: {running} in progress");
    }
    let active = state.dispatcher.active();
    let relay = &active.config.relay.url;
    let paused = match active.config.bridge.paused {
        true => ", paused by its config",
        false => "",
    };
    match state.sessions.all().len() {
        0 => {}
        sessions => {
            let sessions = counted(sessions, "session");
            return format!("connected to {relay}, {sessions}{paused}");
        }
    }
    let mut slots = state.stats.slots().into_iter();
    match slots.find_map(|slot| slot.error) {
        Some(error) => format!("offline: {error}; it goes on trying"),
        None => format!("connecting to {relay}"),
    }
}

/// Returns the limits of deliveries in a config.
fn delivery_limits(config: &DeliveriesSection) -> crate::deliveries::Limits {
    crate::deliveries::Limits {
        concurrent_max: config.concurrent_max.get() as usize,
        body_max: config.body_max.bytes(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn used_port_of_the_metrics_is_in_plain_words() {
        let used = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = used.local_addr().unwrap();
        let source = std::net::TcpListener::bind(address).unwrap_err();
        let error = StartError::Metrics { address, source };
        assert_eq!(
            crate::text::error_chain(&error),
            format!(
                "cannot listen on metrics.listen = \"{address}\": another program uses this address; stop it, or \
                 change metrics.listen"
            )
        );
    }
}
