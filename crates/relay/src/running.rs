//! A relay's life: start, run, drain, stop.
//!
//! ```text
//! start     database -> directory -> sockets -> lease -> accept loops (`keeper`)
//! shutdown  readyz says 503 -> no new connections -> GOAWAY to bridges -> what runs finishes
//!           (at most limits.drain_timeout) -> tunnels close -> admin listener closes
//! ```

use crate::admission::ListenerConnections;
use crate::auth::Authenticator;
use crate::config::Config;
use crate::deliveries::{self, Deliveries};
use crate::directory::Directory;
use crate::generation::{self, Generation};
use crate::listener::connection::ListenerKind;
use crate::listener::tls::TlsError;
use crate::listener::{self, ListenerContext, tls};
use crate::metrics::Metrics;
use crate::reload::{self, Acceptor, ReloadError};
use crate::service::Service;
use crate::state::State;
use crate::storage::{self, ServingLock};
use crate::storage::{ApiKey, Existing, Role, Secret, Storage, StorageError, Tenant};
use crate::telemetry::{Spans, TelemetryError};
use crate::vault::{KeyFileError, MasterKey, Vault};
use keeper::{ActivateError, Door, Identity, Keeper};
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

/// Between the last accepted connection and GOAWAY: requests that are on the wire get their
/// stream.
const BEFORE_GOAWAY: Duration = Duration::from_millis(100);

/// When bridges may come again after a GOAWAY: another node, or this one restarted.
const RETRY_AFTER_GOAWAY: Duration = Duration::from_secs(1);

/// How long tunnels have for their farewell.
const FAREWELL: Duration = Duration::from_secs(2);

/// How long giving the lease back may take.
const LEASE_BACK_WITHIN: Duration = Duration::from_secs(10);

/// How often it is looked whether requests still run.
const LOOK_AT_RUNNING: Duration = Duration::from_millis(20);

/// Why a relay did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The database.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The certificate.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The key file.
    #[error(transparent)]
    KeyFile(#[from] KeyFileError),
    /// Where traces go.
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
    /// A socket.
    #[error(transparent)]
    Listen(#[from] io::Error),
}

impl From<ActivateError> for StartError {
    fn from(error: ActivateError) -> Self {
        match error {
            ActivateError::Storage(error) => error.into(),
            ActivateError::Listen(error) => error.into(),
        }
    }
}

/// Starts relays.
#[derive(Debug)]
pub struct Relay;

/// A relay that runs in this process. Call [`Self::shutdown`] to end it in order; dropping it
/// ends its accept loops alone.
pub struct RunningRelay {
    state: Arc<State>,
    public: Option<SocketAddr>,
    internal: Option<SocketAddr>,
    proxy: Option<SocketAddr>,
    admin: Option<SocketAddr>,
    ca_path: Option<PathBuf>,
    /// Tells the keeper of the lease to give it back.
    stop: watch::Sender<bool>,
    keeper: Option<JoinHandle<()>>,
    closing: watch::Sender<bool>,
    admin_closing: watch::Sender<bool>,
    alive: mpsc::Receiver<Infallible>,
    tasks: Vec<JoinHandle<()>>,
    acceptor: Option<Acceptor>,
    generation: Arc<Generation>,
    /// Nobody else serves from the database.
    _lock: ServingLock,
}

impl Relay {
    /// Opens the database and the sockets, and serves. Needs a tokio runtime with IO and time.
    ///
    /// # Errors
    /// [`StartError`], naming the file or the address.
    pub async fn start(config: Config) -> Result<RunningRelay, StartError> {
        let lock = storage::lock(&config.database).map_err(StorageError::from)?;
        let storage = Storage::open(&config.database).await?.fenced();
        let generation = generation::begin(&storage, &config.key_file).await?;
        let master = MasterKey::load_or_create(&config.key_file)?;
        let vault = Vault::new(storage.clone(), master).await?;
        let deliveries = Deliveries::new(storage.clone(), vault, config.deliveries.clone());
        let directory = Directory::load_for(storage, config.directory.stale_max.0).await?;
        let tls = config.tls.as_ref().map(tls::prepare).transpose()?;
        let ca_path = tls.as_ref().and_then(|ready| ready.ca_path.clone());
        let acceptor = tls.map(|ready| Acceptor::new(ready.acceptor));
        let arrived = match acceptor {
            Some(_) => ListenerKind::Tls,
            None => ListenerKind::Plain,
        };
        let reserve = |name, address: Option<SocketAddr>, arrived, tls: Option<Acceptor>| {
            address
                .map(|address| Door::reserve(name, address, arrived, tls))
                .transpose()
        };
        let listen = &config.listen;
        let at_proxy = acceptor.clone().filter(|_| listen.proxy_tls);
        let public = reserve("public", listen.public, arrived, acceptor.clone())?;
        let proxy = reserve("proxy", listen.proxy, ListenerKind::Proxy, at_proxy)?;
        let open = |address: Option<SocketAddr>| address.map(listener::bind).transpose();
        let internal = open(listen.internal)?;
        let admin = open(listen.admin)?;
        let identity = Identity::of(&config.key_file.with_extension("node"))?;

        let failures = config.limits.auth_failures_per_minute;
        let node = node_name();
        let (spans, sending) = Spans::start(&config.telemetry, &node)?.unzip();
        let state = State::new(
            config,
            node,
            directory.clone(),
            Arc::new(deliveries),
            Metrics::new(),
            spans.map(Arc::new),
        );
        let state = Arc::new(state);
        let service = Arc::new(Service {
            state: state.clone(),
            authenticator: Authenticator::new(state.clone(), failures),
        });
        let (closing, closing_seen) = watch::channel(false);
        let (stop, stop_seen) = watch::channel(false);
        let (admin_closing, admin_closing_seen) = watch::channel(false);
        let (alive_held, alive) = mpsc::channel(1);
        let (admin_held, _) = mpsc::channel(1);
        let doors = ListenerContext {
            service: service.clone(),
            closing: closing_seen,
            alive: alive_held,
        };
        let admin_doors = ListenerContext {
            service,
            closing: admin_closing_seen,
            alive: admin_held,
        };
        let mut running = RunningRelay {
            public: public.as_ref().map(Door::address),
            internal: address(internal.as_ref())?,
            proxy: proxy.as_ref().map(Door::address),
            admin: address(admin.as_ref())?,
            ca_path,
            state: state.clone(),
            stop,
            keeper: None,
            closing,
            admin_closing,
            alive,
            tasks: Vec::new(),
            acceptor: acceptor.clone(),
            generation: generation.clone(),
            _lock: lock,
        };
        let of = &state.connections;
        let plain = ListenerKind::Plain;
        running.open(
            "internal",
            internal,
            plain,
            of.internal.clone(),
            None,
            doors.clone(),
        );
        running.open(
            "admin",
            admin,
            ListenerKind::Admin,
            of.admin.clone(),
            None,
            admin_doors,
        );
        let guarded = public.into_iter().chain(proxy).collect();
        let mut keeper = Keeper::new(state.clone(), identity, guarded, doors);
        // What cannot be had now may be had later, but an operator learns of it at once.
        keeper.try_take().await?;
        running.keeper = Some(tokio::spawn(keeper.run(stop_seen)));
        let following = acceptor;
        let tasks = &mut running.tasks;
        tasks.extend(sending);
        if let Some(acceptor) = following {
            tasks.push(tokio::spawn(reload::follow(state.clone(), acceptor)));
        }
        tasks.push(tokio::spawn(generation.follow()));
        tasks.push(tokio::spawn(deliveries::run(state.clone())));
        tasks.push(tokio::spawn(deliveries::expire(state.clone())));
        let own = state.clone();
        tasks.push(tokio::spawn(async move {
            own.idempotency.keep_clean(&own.serving).await;
        }));
        tasks.push(tokio::spawn(crate::notices::run(state.clone())));
        tasks.push(tokio::spawn(crate::notices::watch_pause(state.clone())));
        tasks.push(tokio::spawn(crate::audit::checkpoints::run(state.clone())));
        tasks.push(tokio::spawn(crate::ownership::follow(state.clone())));
        tasks.push(tokio::spawn(cut_what_may_not_stay(state)));
        tasks.push(tokio::spawn(directory.keep_fresh()));
        Ok(running)
    }
}

impl std::fmt::Debug for RunningRelay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RunningRelay")
            .field("public", &self.public)
            .field("internal", &self.internal)
            .finish_non_exhaustive()
    }
}

impl RunningRelay {
    fn open(
        &mut self,
        name: &str,
        listener: Option<TcpListener>,
        arrived: ListenerKind,
        connections: Arc<ListenerConnections>,
        tls: Option<Acceptor>,
        doors: ListenerContext,
    ) {
        let Some(listener) = listener else { return };
        if let Ok(address) = listener.local_addr() {
            tracing::info!(listener = name, %address, tls = tls.is_some(), "listening");
        }
        let accepting = listener::accept(listener, arrived, connections, tls, doors);
        self.tasks.push(tokio::spawn(accepting));
    }

    /// Waits until this relay serves. It stands by before while another one holds the lease.
    pub async fn active(&self) {
        self.state.serving.active().await;
    }

    /// Where the public listener really is.
    pub fn public_addr(&self) -> Option<SocketAddr> {
        self.public
    }

    /// Where the listener without TLS really is.
    pub fn internal_addr(&self) -> Option<SocketAddr> {
        self.internal
    }

    /// Where the forward proxy really is.
    pub fn proxy_addr(&self) -> Option<SocketAddr> {
        self.proxy
    }

    /// Where the listener for health and metrics really is.
    pub fn admin_addr(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// The self-signed CA (PEM) to trust, if the certificate is of our own making.
    pub fn ca_path(&self) -> Option<&Path> {
        self.ca_path.as_deref()
    }

    /// Creates a tenant.
    ///
    /// # Errors
    /// As [`Storage::create_tenant`].
    pub async fn create_tenant(&self, name: &str) -> Result<Tenant, StorageError> {
        let directory = &self.state.directory;
        let tenant = directory.storage().create_tenant(name).await?;
        directory.refresh().await?;
        Ok(tenant)
    }

    /// Creates an API key, valid at once.
    ///
    /// # Errors
    /// As [`Storage::create_key`].
    pub async fn create_key(
        &self,
        tenant: &str,
        role: Role,
        name: &str,
        existing: Existing,
    ) -> Result<(ApiKey, Secret), StorageError> {
        let directory = &self.state.directory;
        let made = directory.storage().create_key(tenant, role, name, existing);
        let made = made.await?;
        directory.refresh().await?;
        Ok(made)
    }

    /// The database.
    pub fn storage(&self) -> &Storage {
        self.state.directory.storage()
    }

    /// What the relay's parts share, for a look inside.
    pub fn state(&self) -> &Arc<State> {
        &self.state
    }

    /// Puts another configuration in force for what begins from now on.
    ///
    /// # Errors
    /// [`ReloadError`]; nothing was changed.
    pub fn reload(&self, config: &Config) -> Result<(), ReloadError> {
        reload::take(&self.state, self.acceptor.as_ref(), config)
    }

    /// Drains and stops. Takes at most `limits.drain_timeout` and a little.
    pub async fn shutdown(mut self) {
        let limit = self.state.limits().drain_timeout.0;
        tracing::info!(limit_s = limit.as_secs(), "shutting down");
        self.state.begin_draining();
        self.stop.send_replace(true);
        self.closing.send_replace(true);
        let finished = async {
            tokio::time::sleep(BEFORE_GOAWAY).await;
            self.state.registry.drain_all(RETRY_AFTER_GOAWAY);
            // Nobody sends; the channel ends with the last connection.
            let _ = self.alive.recv().await;
            // Raw streams have left their connections.
            while self.state.exchanges.count() > 0 {
                tokio::time::sleep(LOOK_AT_RUNNING).await;
            }
        };
        if tokio::time::timeout(limit, finished).await.is_err() {
            let running = self.state.exchanges.count();
            tracing::warn!(running, "the time to finish is over; what runs is cut");
        }
        self.state.registry.close_all();
        let gone = async {
            while self.state.registry.count() > 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let _ = tokio::time::timeout(FAREWELL, gone).await;
        self.admin_closing.send_replace(true);
        for task in &self.tasks {
            task.abort();
        }
        if let Some(keeper) = self.keeper.take() {
            // The lease ends by itself if it cannot be given back.
            let _ = tokio::time::timeout(LEASE_BACK_WITHIN, keeper).await;
        }
        self.state.audit.flush().await;
        if let Err(error) = self.generation.advance().await {
            tracing::error!(%error, "the database's last generation was not noted");
        }
        self.state.directory.storage().close().await;
        tracing::info!("stopped");
    }
}

/// Follows the directory: who lost the right to be here is cut off.
async fn cut_what_may_not_stay(state: Arc<State>) {
    let mut changed = state.directory.changed();
    while changed.changed().await.is_ok() {
        let directory = &state.directory;
        let tunnels = state.registry.cut(|owner| directory.why_cut(owner));
        let exchanges = state
            .exchanges
            .cut(|principal| directory.principal_may_stay(principal));
        if tunnels + exchanges > 0 {
            tracing::info!(tunnels, exchanges, "cut off: revoked, expired or suspended");
        }
    }
}

fn address(listener: Option<&TcpListener>) -> io::Result<Option<SocketAddr>> {
    listener.map(TcpListener::local_addr).transpose()
}

/// This machine's name, for people.
fn node_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .ok()
        .or_else(|| std::env::var("COMPUTERNAME").ok());
    let name = name.map(|name| name.trim().to_owned());
    name.filter(|name| !name.is_empty() && name.len() <= 255)
        .unwrap_or_else(|| "relay".to_owned())
}

mod keeper;
#[cfg(test)]
mod tests;
