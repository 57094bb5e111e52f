//! A relay's life: start, run, drain, stop.
//!
//! ```text
//! start     database -> directory -> sockets -> accept loops
//! shutdown  readyz says 503 -> no new connections -> GOAWAY to bridges -> what runs finishes
//!           (at most limits.drain_timeout) -> tunnels close -> admin listener closes
//! ```

use crate::auth::Authenticator;
use crate::config::Config;
use crate::deliveries::{self, Deliveries};
use crate::directory::Directory;
use crate::listener::connection::Arrived;
use crate::listener::tls::TlsError;
use crate::listener::{self, Doors, tls};
use crate::metrics::Metrics;
use crate::reload::{self, Acceptor, ReloadError};
use crate::service::Service;
use crate::state::State;
use crate::storage::audit::Act;
use crate::storage::tenants::SITE;
use crate::storage::{self, ServingLock};
use crate::storage::{ApiKey, Existing, Role, Secret, Storage, StorageError, Tenant};
use crate::telemetry::{Spans, TelemetryError};
use crate::vault::{KeyFileError, MasterKey, Vault};
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinHandle;

/// Between the last accepted connection and GOAWAY: requests that are on the wire get their
/// stream.
const BEFORE_GOAWAY: Duration = Duration::from_millis(100);

/// When bridges may come again after a GOAWAY: another node, or this one restarted.
const RETRY_AFTER_GOAWAY: Duration = Duration::from_secs(1);

/// How long tunnels have for their farewell.
const FAREWELL: Duration = Duration::from_secs(2);

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
    closing: watch::Sender<bool>,
    admin_closing: watch::Sender<bool>,
    alive: mpsc::Receiver<Infallible>,
    tasks: Vec<JoinHandle<()>>,
    acceptor: Option<Acceptor>,
    /// Nobody else serves from the database.
    _lock: ServingLock,
}

impl Relay {
    /// Opens the database and the sockets, and serves. Needs a tokio runtime with IO and time.
    ///
    /// # Errors
    /// [`StartError`], naming the file or the address.
    pub async fn start(config: Config) -> Result<RunningRelay, StartError> {
        let lock = storage::lock(&config.database)?;
        let storage = Storage::open(&config.database).await?;
        generation(&storage, &config.key_file).await?;
        let master = MasterKey::load_or_create(&config.key_file)?;
        let vault = Vault::new(storage.clone(), master).await?;
        let deliveries = Deliveries::new(storage.clone(), vault, config.deliveries.clone());
        let directory = Directory::load(storage).await?;
        let tls = config.tls.as_ref().map(tls::prepare).transpose()?;
        let open = |address: Option<SocketAddr>| address.map(listener::bind).transpose();
        let public = open(config.listen.public)?;
        let internal = open(config.listen.internal)?;
        let proxy = open(config.listen.proxy)?;
        let has_proxy_tls = config.listen.proxy_tls;
        let admin = open(config.listen.admin)?;

        let failures = config.limits.auth_failures_per_minute;
        let places = config.limits.connections_max as usize;
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
            connections: Arc::new(Semaphore::new(places)),
        });
        let (closing, closing_seen) = watch::channel(false);
        let (admin_closing, admin_closing_seen) = watch::channel(false);
        let (alive_held, alive) = mpsc::channel(1);
        let (admin_held, _) = mpsc::channel(1);
        let doors = Doors {
            service: service.clone(),
            closing: closing_seen,
            alive: alive_held,
        };
        let admin_doors = Doors {
            service,
            closing: admin_closing_seen,
            alive: admin_held,
        };
        let mut running = RunningRelay {
            public: address(public.as_ref())?,
            internal: address(internal.as_ref())?,
            proxy: address(proxy.as_ref())?,
            admin: address(admin.as_ref())?,
            ca_path: tls.as_ref().and_then(|ready| ready.ca_path.clone()),
            state: state.clone(),
            closing,
            admin_closing,
            alive,
            tasks: Vec::new(),
            acceptor: None,
            _lock: lock,
        };
        let acceptor = tls.map(|ready| Acceptor::new(ready.acceptor));
        running.acceptor.clone_from(&acceptor);
        let arrived = match acceptor {
            Some(_) => Arrived::Tls,
            None => Arrived::Plain,
        };
        let at_proxy = acceptor.clone().filter(|_| has_proxy_tls);
        running.open("public", public, arrived, acceptor, doors.clone());
        running.open("proxy", proxy, Arrived::Proxy, at_proxy, doors.clone());
        running.open("internal", internal, Arrived::Plain, None, doors);
        running.open("admin", admin, Arrived::Admin, None, admin_doors);
        let following = running.acceptor.clone();
        let tasks = &mut running.tasks;
        tasks.extend(sending);
        if let Some(acceptor) = following {
            tasks.push(tokio::spawn(reload::follow(state.clone(), acceptor)));
        }
        tasks.push(tokio::spawn(deliveries::run(state.clone())));
        tasks.push(tokio::spawn(crate::notices::run(state.clone())));
        tasks.push(tokio::spawn(crate::notices::watch_pause(state.clone())));
        tasks.push(tokio::spawn(crate::audit_heads::run(state.clone())));
        tasks.push(tokio::spawn(crate::ownership::follow(state.clone())));
        tasks.push(tokio::spawn(cut_what_is_not_taken(state.clone())));
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
        arrived: Arrived,
        tls: Option<Acceptor>,
        doors: Doors,
    ) {
        let Some(listener) = listener else { return };
        if let Ok(address) = listener.local_addr() {
            tracing::info!(listener = name, %address, tls = tls.is_some(), "listening");
        }
        let accepting = listener::accept(listener, arrived, tls, doors);
        self.tasks.push(tokio::spawn(accepting));
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
        self.state.deliveries.stop().await;
        self.state.audit.flush().await;
        self.state.directory.storage().close().await;
        tracing::info!("stopped");
    }
}

/// Notices a database that is older than it was: an earlier copy was put in its place, and what was
/// delivered since is not known. Deliveries are then paused.
async fn generation(storage: &Storage, key_file: &Path) -> Result<(), StartError> {
    let file = key_file.with_extension("generation");
    let noted = std::fs::read_to_string(&file).ok();
    let noted = noted.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    let (next, is_older) = storage.raise_generation(noted).await?;
    if is_older {
        let act = Act {
            tenant: SITE.into(),
            action: "database.older_copy",
            result: "ok",
            count: 1,
            ..Act::default()
        };
        storage.audit(&[act]).await?;
        tracing::warn!(
            "the database is an earlier copy: deliveries are paused, for what was delivered since is \
             not known; `integration-relay deliveries resume` lets them go on"
        );
    }
    std::fs::write(&file, format!("{next}\n"))?;
    Ok(())
}

/// Ends the exchanges whose callers take nothing of their answers.
async fn cut_what_is_not_taken(state: Arc<State>) {
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let limit = state.limits().caller_idle_timeout.0.as_secs();
        let cut = state
            .exchanges
            .tick(u32::try_from(limit).unwrap_or(u32::MAX));
        if cut > 0 {
            tracing::info!(cut, "ended: their callers took nothing of the answers");
        }
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

#[cfg(test)]
mod tests;
