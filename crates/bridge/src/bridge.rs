//! A running bridge: its connections, its dispatcher, and how it stops.

use crate::audit::Audit;
use crate::config::Config;
use crate::connection::{DRAIN_WITHIN, Shared, Slot, Stage, watch_clock, watch_health};
use crate::control::handler;
use crate::credentials::{StoreError, alm};
use crate::data_dir::{DataDir, DataDirError};
use crate::deliveries::{self, Deliveries};
use crate::dispatcher::{Active, ActiveError, Dispatcher, Records, own_addresses};
use crate::health::Health;
use crate::identity::{Identity, IdentityError};
use crate::journal::{Journal, OpenError as JournalError};
use crate::pairing::{PairError, dialer};
use crate::reload;
pub use crate::reload::ReloadError;
use crate::stats::{RuntimeStats, now_s};
use protocol::session::{Budget, EndReason};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// The journal's file in the data directory.
const JOURNAL_FILE: &str = "journal.redb";

/// Why a bridge does not start. Nothing of it runs then.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// There is no usable identity.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// It was paired with another relay.
    #[error(
        "this bridge is paired with {paired}, and relay.url says {configured}; correct relay.url, \
         or pair it with the other relay"
    )]
    OtherRelay {
        /// The relay of the identity.
        paired: String,
        /// The relay of the config.
        configured: String,
    },
    /// What it says about exchanges cannot be.
    #[error(transparent)]
    Active(#[from] ActiveError),
    /// The credentials cannot be read.
    #[error(transparent)]
    Credentials(#[from] StoreError),
    /// The audit file cannot be written.
    #[error("the audit file {path} cannot be used")]
    Audit {
        /// The file.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The address for metrics is taken, or not this machine's.
    #[error("metrics.listen = \"{address}\" cannot be used")]
    Metrics {
        /// The address.
        address: std::net::SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// There is no journal for deliveries.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// Proxy or certificates cannot be used.
    #[error(transparent)]
    Dial(PairError),
}

/// Starts bridges.
#[derive(Debug, Clone, Copy)]
pub struct Bridge;

impl Bridge {
    /// Starts a paired bridge in the current runtime. It connects in the background and never
    /// gives up; [`RunningBridge::wait_connected`] waits for it.
    ///
    /// # Errors
    /// [`StartError`]: not paired, data directory in use, certificates not readable.
    pub fn start(config: Config) -> Result<RunningBridge, StartError> {
        let data_dir = DataDir::open(config.bridge.data_dir.get())?;
        let identity = Identity::load(&data_dir)?;
        let configured = config.relay.url.to_string();
        if identity.relay != configured {
            return Err(StartError::OtherRelay {
                paired: identity.relay,
                configured,
            });
        }
        let credentials = reload::load_credentials(&config)?;
        let dialer = dialer(&config, &credentials).map_err(StartError::Dial)?;
        tracing::info!(
            relay = configured,
            tenant = identity.tenant,
            bridge = identity.name,
            endpoints = config.rules.endpoints.len(),
            allow = config.rules.allow.len(),
            "bridge starts"
        );
        let bounds = deliveries::bounds(&config.deliveries);
        let journal = Journal::open(&data_dir, JOURNAL_FILE, bounds)?;
        let deliveries = Deliveries::new(journal, config.deliveries.limits());
        let path = config.path.clone();
        let connections = config.relay.connections.get();
        let windows = config.limits.windows();
        let budget = Budget::new(config.limits.window_budget.bytes());
        let active = Active::new(config, own_addresses(), credentials)?;
        let board = Arc::new(RuntimeStats::default());
        let audit = open_audit(&active.config, &identity)?;
        if let Some(audit) = &audit {
            audit.add(json!({"event": "start", "software": crate::identity::software()}));
        }
        let metrics = active.config.metrics.listen;
        let records = Records::new(board.clone(), audit.clone(), identity.key.public());
        let shared = Arc::new(Shared {
            board,
            audit,
            dialer: Mutex::new(dialer),
            tenant: identity.tenant.clone(),
            name: identity.name.clone(),
            config_taken: AtomicU64::new(now_s()),
            identity: identity.for_tunnel(),
            data_dir,
            windows,
            budget,
            dispatcher: Dispatcher::new(active, deliveries.clone(), records),
            deliveries: deliveries.clone(),
            stage: watch::Sender::new(Stage::Running),
            nodes: watch::Sender::new(1),
            sessions: watch::Sender::new(Vec::new()),
            clock_jumps: watch::Sender::new(0),
            old: Mutex::default(),
            health: Health::default(),
            runtime: tokio::runtime::Handle::current(),
        });
        let mut slots = JoinSet::new();
        for number in 0..u8::try_from(connections).unwrap_or(u8::MAX) {
            slots.spawn(Slot::new(number, shared.clone()).run());
        }
        let mut tasks = JoinSet::new();
        tasks.spawn(watch_clock(shared.clone()));
        tasks.spawn(deliveries.report(shared.sessions.subscribe()));
        tasks.spawn(watch_health(shared.clone()));
        tasks.spawn(reload::watch_files(shared.clone()));
        let dispatcher = shared.dispatcher.clone();
        tasks.spawn(async move { dispatcher.watch_memory().await });
        handler::listen(&shared, &mut tasks);
        if let Some(address) = metrics {
            crate::metrics::listen(&shared, address, &mut tasks)
                .map_err(|source| StartError::Metrics { address, source })?;
        }
        Ok(RunningBridge {
            shared,
            slots,
            _tasks: tasks,
            path,
        })
    }
}

fn open_audit(config: &Config, identity: &Identity) -> Result<Option<Arc<Audit>>, StartError> {
    let section = &config.audit;
    if !section.enabled {
        return Ok(None);
    }
    let path = section.path(config.bridge.data_dir.get());
    let opened = Audit::open(&path, section.keep(), identity.key.clone());
    opened.map(Some).map_err(|source| StartError::Audit {
        path: path.display().to_string(),
        source,
    })
}

/// A bridge that runs. Dropping it ends it without a word; [`Self::shutdown`] drains.
pub struct RunningBridge {
    shared: Arc<Shared>,
    slots: JoinSet<()>,
    /// What runs beside the sessions; it ends with the value.
    _tasks: JoinSet<()>,
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
        self.shared.stage.send_replace(Stage::Stopped);
        for session in self.shared.sessions.borrow().iter() {
            session.close(EndReason::Draining);
        }
    }
}

impl RunningBridge {
    /// Whether a session is up.
    pub fn is_connected(&self) -> bool {
        !self.shared.sessions.borrow().is_empty()
    }

    /// Waits up to `within` for a session. Returns whether one is up. Cancel safe.
    pub async fn wait_connected(&self, within: Duration) -> bool {
        let mut sessions = self.shared.sessions.subscribe();
        let up = sessions.wait_for(|sessions| !sessions.is_empty());
        matches!(tokio::time::timeout(within, up).await, Ok(Ok(_)))
    }

    /// Exchanges that are under way.
    pub fn exchanges(&self) -> usize {
        self.shared.dispatcher.running()
    }

    /// Reads the config file again and puts it in force for exchanges that begin from now on;
    /// the relay is told what is served. A file with a mistake changes nothing.
    ///
    /// # Errors
    /// [`ReloadError`]; the config before is still in force.
    pub fn reload(&self) -> Result<(), ReloadError> {
        reload::reload(&self.shared)
    }

    /// The file that [`Self::reload`] reads.
    pub fn config_path(&self) -> &Path {
        &self.path
    }

    /// Takes nothing new, finishes what runs (at most 30 s), and ends.
    pub async fn shutdown(mut self) {
        self.shared.stage.send_replace(Stage::Draining);
        let ending = async {
            while self.slots.join_next().await.is_some() {}
            let mut old = {
                let mut old = self
                    .shared
                    .old
                    .lock()
                    .unwrap_or_else(std::sync::PoisonError::into_inner);
                std::mem::take(&mut *old)
            };
            while old.join_next().await.is_some() {}
            // Deliveries outlive their sessions.
            while self.shared.dispatcher.running() > 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        // A little more than the sessions' own limit, for their last words.
        let _ = tokio::time::timeout(DRAIN_WITHIN + Duration::from_secs(2), ending).await;
        // ALM keeps a session and its locks for an hour.
        alm::sign_out_of_all(&self.shared.dispatcher.active()).await;
        if let Some(audit) = self.shared.audit.clone() {
            audit.add(json!({"event": "stop"}));
            let _ = tokio::task::spawn_blocking(move || audit.stop()).await;
        }
    }
}
