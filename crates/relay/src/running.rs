//! The lifecycle of a relay: start, run, drain, stop.
//!
//! ```text
//! startup   database -> directory -> sockets -> lease -> accept loops (`keeper`) -> background tasks
//! shutdown  readyz fails -> no new connections -> GOAWAY to bridges -> requests in progress finish
//!           (at most limits.drain_timeout) -> tunnels close -> admin listener closes
//! ```

mod background;
mod keeper;
mod shutdown;
mod startup;
#[cfg(test)]
mod tests;

use crate::config::Config;
use crate::control_plane::ControlPlane;
use crate::generation::Generation;
use crate::listener::tls::Acceptor;
use crate::listener::tls::TlsError;
use crate::reload::{self, ReloadError};
use crate::serving;
use crate::storage::{ApiKey, Existing, Role, Secret, ServingLock, Storage, StorageError, Tenant};
use crate::telemetry::TelemetryError;
use crate::vault::KeyFileError;
use keeper::ActivateError;
use runtime::output::counted;
use runtime::service_manager::ServiceManager;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};

/// Why a relay did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The database failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The certificate cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The key file cannot be used.
    #[error(transparent)]
    KeyFile(#[from] KeyFileError),
    /// The `[telemetry]` section cannot be used.
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
    /// A socket cannot be opened.
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

impl Relay {
    /// Opens the database and the sockets, and serves. Needs a tokio runtime with IO and time.
    ///
    /// # Errors
    /// [`StartError`], naming the file or the address.
    pub async fn start(config: Config) -> Result<RunningRelay, StartError> {
        startup::start(config).await
    }
}

/// A relay that runs in this process. Call [`Self::shutdown`] to stop it in order; dropping it only ends
/// its accept loops.
pub struct RunningRelay {
    state: Arc<ControlPlane>,
    public: Option<SocketAddr>,
    internal: Option<SocketAddr>,
    proxy: Option<SocketAddr>,
    admin: Option<SocketAddr>,
    ca_path: Option<PathBuf>,
    /// Asks the keeper to release the lease.
    stop: watch::Sender<bool>,
    keeper: Option<JoinHandle<()>>,
    closing: watch::Sender<bool>,
    /// The admin listener closes last, so that `/readyz` and `/metrics` work during the shutdown.
    admin_closing: watch::Sender<bool>,
    /// Ends when the last connection has ended: each holds a sender, and none sends anything.
    connections_ended: mpsc::Receiver<Infallible>,
    tasks: Vec<JoinHandle<()>>,
    acceptor: Option<Acceptor>,
    generation: Arc<Generation>,
    /// No other process serves from the database while this is held.
    _lock: ServingLock,
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
    /// Waits until this relay serves. Until then it is in standby, while another one holds the lease.
    pub async fn active(&self) {
        self.state.serving.active().await;
    }

    /// Returns the actual address of the public listener.
    pub fn public_addr(&self) -> Option<SocketAddr> {
        self.public
    }

    /// Returns the actual address of the listener without TLS.
    pub fn internal_addr(&self) -> Option<SocketAddr> {
        self.internal
    }

    /// Returns the actual address of the forward proxy.
    pub fn proxy_addr(&self) -> Option<SocketAddr> {
        self.proxy
    }

    /// Returns the actual address of the listener for health and metrics.
    pub fn admin_addr(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// Returns the file of the self-signed CA (PEM), if the relay made its certificate itself.
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

    /// Creates an API key that is valid at once.
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
        let created = directory.storage().create_key(tenant, role, name, existing);
        let created = created.await?;
        directory.refresh().await?;
        Ok(created)
    }

    /// Returns the database.
    pub fn storage(&self) -> &Storage {
        self.state.directory.storage()
    }

    /// Returns the shared state of the relay.
    pub(crate) fn state(&self) -> &Arc<ControlPlane> {
        &self.state
    }

    /// Reports to the service manager until the returned tasks are dropped: a ping while the accept loops and the keeper
    /// of the lease make progress, and the status line.
    pub(crate) fn report_to(&self, manager: &ServiceManager) -> JoinSet<()> {
        let state = self.state.clone();
        let mut tasks = JoinSet::new();
        tasks.spawn(state.liveness.clone().keep_alive(manager.clone()));
        tasks.spawn(manager.clone().follow(move || status_line(&state)));
        tasks
    }

    /// Applies another config to everything that begins from now on.
    ///
    /// # Errors
    /// [`ReloadError`]; nothing was changed.
    pub fn reload(&self, config: &Config) -> Result<(), ReloadError> {
        reload::take(&self.state, self.acceptor.as_ref(), config)
    }
}

/// Returns the state of a relay in one line, as `systemctl status` shows it.
fn status_line(state: &ControlPlane) -> String {
    let running = counted(state.data.exchanges.count(), "request");
    match state.serving.role() {
        serving::Role::Active { .. } => {
            let tunnels = counted(state.data.registry.count(), "tunnel");
            format!("serving: {tunnels}, {running} in progress")
        }
        serving::Role::Standby { .. } => state.serving.why(),
        serving::Role::Leaving => format!("draining: {running} in progress"),
    }
}
