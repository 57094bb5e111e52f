//! A running bridge: its connections, its dispatcher, and how it stops.

use crate::config::{Config, ConfigError, FilePath};
use crate::credentials::{Credentials, Store, StoreError};
use crate::data_dir::{DataDir, DataDirError};
use crate::deliveries::{self, Deliveries};
use crate::dispatcher::{Active, Dispatcher, own_addresses};
use crate::health::Health;
use crate::identity::{Identity, IdentityError};
use crate::journal::{Journal, OpenError as JournalError};
use crate::pairing::{PairError, dialer};
use crate::slot::{DRAIN_WITHIN, Shared, Slot, Stage, chain, watch_clock, watch_health};
use policy::PolicyError;
use protocol::session::{Budget, EndReason};
use std::path::{Path, PathBuf};
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
    /// There are too many rules.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The credentials cannot be read.
    #[error(transparent)]
    Credentials(#[from] StoreError),
    /// There is no journal for deliveries.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// Proxy or certificates cannot be used.
    #[error(transparent)]
    Dial(PairError),
}

/// Why a config was not taken; the one before is still in force.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// It has a mistake.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// There are too many rules.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The credentials cannot be read.
    #[error(transparent)]
    Credentials(#[from] StoreError),
    /// It cannot be taken without a restart.
    #[error("{key} has changed, which takes a restart; the rest of the file was not taken either")]
    NeedsRestart {
        /// The key.
        key: &'static str,
    },
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
        let dialer = dialer(&config).map_err(StartError::Dial)?;
        tracing::info!(
            relay = configured,
            tenant = identity.tenant,
            bridge = identity.name,
            endpoints = config.rules.endpoints.len(),
            allow = config.rules.allow.len(),
            "bridge starts"
        );
        let journal = Journal::open(
            &data_dir.path(JOURNAL_FILE),
            deliveries::bounds(&config.deliveries),
        )?;
        let deliveries = Deliveries::new(journal, config.deliveries.limits());
        let credentials = load_credentials(&config)?;
        let path = config.path.clone();
        let connections = config.relay.connections.get();
        let windows = config.limits.windows();
        let budget = Budget::new(config.limits.window_budget.bytes());
        let active = Active::new(config, own_addresses(), credentials)?;
        let shared = Arc::new(Shared {
            dialer,
            identity: identity.for_tunnel(),
            data_dir,
            windows,
            budget,
            dispatcher: Dispatcher::new(active, deliveries.clone()),
            deliveries: deliveries.clone(),
            stage: watch::Sender::new(Stage::Running),
            nodes: watch::Sender::new(1),
            sessions: watch::Sender::new(Vec::new()),
            clock_jumps: watch::Sender::new(0),
            old: Mutex::default(),
            health: Health::default(),
        });
        let mut slots = JoinSet::new();
        for number in 0..u8::try_from(connections).unwrap_or(u8::MAX) {
            slots.spawn(Slot::new(number, shared.clone()).run());
        }
        let clock = tokio::spawn(watch_clock(shared.clone()));
        let reporting = tokio::spawn(deliveries.report(shared.sessions.subscribe()));
        let looking = tokio::spawn(watch_health(shared.clone()));
        Ok(RunningBridge {
            shared,
            slots,
            clock,
            reporting,
            looking,
            path,
        })
    }
}

fn load_credentials(config: &Config) -> Result<Arc<Credentials>, StoreError> {
    let key_file = config.bridge.key_file.as_ref().map(FilePath::get);
    let store = Store::new(config.bridge.data_dir.get(), key_file)?;
    Ok(Arc::new(store.load()?))
}

/// A bridge that runs. Dropping it ends it without a word; [`Self::shutdown`] drains.
pub struct RunningBridge {
    shared: Arc<Shared>,
    slots: JoinSet<()>,
    clock: tokio::task::JoinHandle<()>,
    reporting: tokio::task::JoinHandle<()>,
    looking: tokio::task::JoinHandle<()>,
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
        self.clock.abort();
        self.reporting.abort();
        self.looking.abort();
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
        let taken = Config::load(&self.path)
            .map_err(ReloadError::from)
            .and_then(|config| self.take(config));
        let refused = taken.as_ref().err().map(|error| chain(error));
        self.shared.health.set_config_refused(refused);
        self.shared.report();
        self.shared.health.ask();
        taken
    }

    /// The file that [`Self::reload`] reads.
    pub fn config_path(&self) -> &Path {
        &self.path
    }

    fn take(&self, config: Config) -> Result<(), ReloadError> {
        let before = self.shared.dispatcher.active();
        let (old, new) = (&before.config, &config);
        let settled = [
            ("relay.url", old.relay.url == new.relay.url),
            ("relay.ca_file", old.relay.ca_file == new.relay.ca_file),
            ("relay.proxy", old.relay.proxy == new.relay.proxy),
            (
                "relay.connections",
                old.relay.connections == new.relay.connections,
            ),
            ("bridge.name", old.bridge.name == new.bridge.name),
            (
                "bridge.data_dir",
                old.bridge.data_dir == new.bridge.data_dir,
            ),
            (
                "limits.streams_max",
                old.limits.streams_max == new.limits.streams_max,
            ),
            ("deliveries", old.deliveries == new.deliveries),
            (
                "limits.window_budget",
                old.limits.window_budget == new.limits.window_budget,
            ),
        ];
        if let Some((key, _)) = settled.iter().find(|(_, is_same)| !is_same) {
            return Err(ReloadError::NeedsRestart { key });
        }
        let credentials = load_credentials(&config)?;
        let active = Active::new(config, own_addresses(), credentials)?;
        let serves = active.serves();
        self.shared.dispatcher.replace(active);
        for session in self.shared.sessions.borrow().iter() {
            session.set_serves(serves.clone());
        }
        Ok(())
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
    }
}
