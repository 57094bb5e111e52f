//! Acquires the lease and renews it. Opens the listeners for bridges and callers while this process holds it,
//! and closes them when it is lost.
//!
//! A process in standby has bound the addresses of its public and proxy listeners, but does not listen:
//! connections are refused, so that bridges, chained proxies and load balancers try another address at
//! once. The internal and the admin listener are always open and report the state.

use crate::connection::ListenerKind;
use crate::control_plane::ControlPlane;
use crate::listener::tls::Acceptor;
use crate::listener::{self, ListenerContext};
use crate::service::Service;
use crate::serving::{RENEW_INTERVAL, RETRY_INTERVAL, Role};
use crate::storage::{Storage, StorageError, random};
use protocol::session::EndReason;
use protocol::{Execution, Failure};
use runtime::files::{Dir, Owner};
use runtime::liveness::Liveness;
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use store::lease::{AcquireOutcome, LeaseConnection, RenewOutcome};
use tokio::net::TcpSocket;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Time limit for attempts of deliveries to end before the lease is released. The process that takes the
/// lease requests from the bridges the outcome of the others.
const ATTEMPTS_TIMEOUT: Duration = Duration::from_secs(5);

/// How often the number of running attempts is checked.
const CHECK_INTERVAL: Duration = Duration::from_millis(20);

/// Time limit for a listener to close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// A listener that is open only while this process serves.
pub(super) struct GatedListener {
    name: &'static str,
    kind: ListenerKind,
    tls: Option<Acceptor>,
    address: SocketAddr,
    /// The socket that is bound and does not listen.
    reserved: Option<TcpSocket>,
    accepting: Option<JoinHandle<()>>,
}

impl GatedListener {
    /// Binds the address.
    pub(super) fn reserve(
        name: &'static str,
        address: SocketAddr,
        kind: ListenerKind,
        tls: Option<Acceptor>,
    ) -> io::Result<Self> {
        let socket = listener::reserve(address)?;
        Ok(Self {
            name,
            kind,
            tls,
            address: socket.local_addr()?,
            reserved: Some(socket),
            accepting: None,
        })
    }

    /// Returns the actual address, also while the listener is closed.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    fn open(&mut self, context: ListenerContext<Service>, liveness: &Liveness) -> io::Result<()> {
        let socket = match self.reserved.take() {
            Some(socket) => socket,
            None => listener::reserve(self.address)?,
        };
        let of_key = |error| listener::of_key(&format!("listen.{}", self.name), &error);
        let listener = listener::listen(socket).map_err(of_key)?;
        let (name, address, tls) = (self.name, self.address, self.tls.is_some());
        tracing::info!(listener = name, %address, tls, "listening");
        let all = &context.data.connections;
        let connections = match self.kind {
            ListenerKind::Proxy => all.proxy.clone(),
            ListenerKind::Tls | ListenerKind::Plain | ListenerKind::Admin => all.public.clone(),
        };
        let accepting =
            listener::accept(listener, self.kind, connections, self.tls.clone(), context);
        self.accepting = Some(tokio::spawn(liveness.guard(self.name, accepting)));
        Ok(())
    }

    /// Waits until the listener is closed, and binds the address again so that no other program takes it.
    async fn close(&mut self) {
        if let Some(mut accepting) = self.accepting.take()
            && tokio::time::timeout(CLOSE_TIMEOUT, &mut accepting)
                .await
                .is_err()
        {
            accepting.abort();
        }
        if self.reserved.is_none() {
            // If it fails now, `open` tries again.
            self.reserved = listener::reserve(self.address).ok();
        }
    }
}

/// Why a process could not start to serve.
#[derive(Debug, thiserror::Error)]
pub(super) enum ActivateError {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error(transparent)]
    Listen(#[from] io::Error),
}

/// Keeps the lease.
pub(super) struct Keeper {
    state: Arc<ControlPlane>,
    storage: Storage,
    lease: LeaseConnection,
    holder: Holder,
    listeners: Vec<GatedListener>,
    /// What the listeners need; `None` when the process leaves.
    context: Option<ListenerContext<Service>>,
    closing: watch::Sender<bool>,
    /// The epoch of the held lease; zero for none.
    epoch: i64,
    /// The last attempt to take or renew the lease got no response, and that was logged.
    is_failing: bool,
}

impl Keeper {
    pub(super) fn new(
        state: Arc<ControlPlane>,
        holder: Holder,
        listeners: Vec<GatedListener>,
        context: ListenerContext<Service>,
    ) -> Self {
        let storage = state.directory.storage().clone();
        Self {
            lease: storage.lease(),
            storage,
            state,
            holder,
            listeners,
            context: Some(context),
            closing: watch::Sender::new(false),
            epoch: 0,
            is_failing: false,
        }
    }

    /// Takes the lease if it is free, and serves.
    pub(super) async fn try_acquire(&mut self) -> Result<(), ActivateError> {
        // Before the statement: the lease must count as old as it can be.
        let began = Instant::now();
        let taken = self.lease.acquire(&self.holder.id, &self.state.node).await;
        match taken.map_err(StorageError::from)? {
            AcquireOutcome::Acquired(epoch) => self.activate(epoch, began).await,
            AcquireOutcome::HeldBy(node) => {
                if !matches!(self.state.serving.role(), Role::Standby { active } if active == node)
                {
                    tracing::info!(active = node, "standby: another relay holds the lease");
                }
                self.state.serving.stand_by(&node);
                Ok(())
            }
        }
    }

    async fn activate(&mut self, epoch: i64, began: Instant) -> Result<(), ActivateError> {
        // The epoch is set before anything is written, and the directory is read before a listener opens:
        // the process that served before may have changed keys very recently.
        self.epoch = epoch;
        self.storage.hold(epoch);
        self.state.deliveries.hold(epoch);
        let opened = match self.state.directory.refresh().await {
            Ok(()) => {
                let is_exclusive = self.storage.is_single_host();
                let began = (!is_exclusive).then_some(began);
                self.state.serving.activate(epoch, began);
                self.open().map_err(ActivateError::from)
            }
            Err(error) => Err(error.into()),
        };
        if let Err(error) = opened {
            // Released, since another process may be able to serve.
            self.step_down("").await;
            let _ = self.lease.release(epoch).await;
            return Err(error);
        }
        if self.storage.is_single_host() {
            // The file lock keeps other processes out, so the lease is not renewed until the end.
            self.lease.close().await;
        }
        tracing::info!(epoch, "active: this relay serves");
        Ok(())
    }

    fn open(&mut self) -> io::Result<()> {
        let Some(context) = &self.context else {
            return Ok(());
        };
        self.closing = watch::Sender::new(false);
        for listener in &mut self.listeners {
            let context = ListenerContext {
                closing: self.closing.subscribe(),
                ..context.clone()
            };
            listener.open(context, &self.state.liveness)?;
        }
        Ok(())
    }

    /// Keeps the lease, or waits for it, until `stop` requests that the process leaves.
    pub(super) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut pause = self.pause(true);
        loop {
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => break,
                () = tokio::time::sleep(pause) => {}
            }
            let has_responded = match self.epoch {
                0 => self.retry_acquire().await,
                epoch => self.renew(epoch).await,
            };
            pause = self.pause(has_responded);
        }
        self.leave().await;
    }

    fn pause(&self, has_responded: bool) -> Duration {
        match (self.epoch, has_responded) {
            (1.., _) if self.storage.is_single_host() => Duration::MAX,
            (1.., true) => RENEW_INTERVAL,
            (_, _) => RETRY_INTERVAL,
        }
    }

    async fn retry_acquire(&mut self) -> bool {
        match self.try_acquire().await {
            Ok(()) => self.is_failing = false,
            Err(error) => {
                if !self.is_failing {
                    tracing::warn!(%error, "standby: cannot take the lease");
                }
                self.is_failing = true;
            }
        }
        !self.is_failing
    }

    async fn renew(&mut self, epoch: i64) -> bool {
        let began = Instant::now();
        match self.lease.renew(epoch).await {
            Ok(RenewOutcome::Renewed { is_contended }) => {
                if self.is_failing {
                    tracing::info!("database responds again; lease renewed");
                }
                self.is_failing = false;
                self.state.serving.renewed(began, is_contended);
                true
            }
            Ok(RenewOutcome::Lost) => {
                self.is_failing = false;
                self.step_down("").await;
                tracing::warn!(
                    "another relay took the lease; this one is in standby and has closed its tunnels and requests"
                );
                true
            }
            Err(error) => {
                if !self.is_failing {
                    tracing::warn!(%error, "cannot renew the lease; requests in progress continue");
                }
                self.is_failing = true;
                // No response is no loss: the epoch fences all writes, and if another process has taken
                // the lease, the next response shows it.
                self.state.serving.checked(began);
                false
            }
        }
    }

    /// Stops serving: ends tunnels and exchanges.
    async fn step_down(&mut self, active: &str) {
        self.epoch = 0;
        // First the role, so that no request begins; then the epochs, so that nothing more is written; then
        // the connections.
        self.state.serving.stand_by(active);
        self.storage.hold(0);
        self.state.deliveries.hold(0);
        self.closing.send_replace(true);
        let state = &self.state;
        let standby = Failure {
            execution: Execution::PossiblyExecuted,
            ..state.serving.standing_by()
        };
        state.data.exchanges.abort(|_| Some(standby.clone()));
        state.data.registry.abort(|_| Some(EndReason::Draining));
        state.idempotency.clear();
        for listener in &mut self.listeners {
            listener.close().await;
        }
    }

    /// Drains: releases the lease as soon as no attempt of a delivery needs it.
    async fn leave(mut self) {
        self.closing.send_replace(true);
        self.context = None;
        let is_active = self.epoch != 0;
        self.state.serving.leave();
        if is_active {
            let deliveries = &self.state.deliveries;
            let ended = async {
                while deliveries.attempts_running() > 0 {
                    tokio::time::sleep(CHECK_INTERVAL).await;
                }
            };
            let _ = tokio::time::timeout(ATTEMPTS_TIMEOUT, ended).await;
            deliveries.hold(0);
            if let Err(error) = self.lease.release(self.epoch).await {
                tracing::debug!(%error, "cannot release the lease; it expires by itself");
            }
        }
        self.lease.close().await;
    }
}

/// The identity of this process as a holder of the lease. A process that restarts after it was killed has
/// the same identity, by its lock on a file, and need not wait until its lease expires.
#[derive(Debug)]
pub(super) struct Holder {
    id: String,
    _lock: Option<File>,
}

impl Holder {
    /// Returns the identity by the lock on the file at `path`, which is the same on this machine until it
    /// reboots. If the file cannot be locked, returns a random identity.
    pub(super) fn of(path: &Path) -> Result<Self, StorageError> {
        if let Some((id, lock)) = locked(path) {
            return Ok(Self {
                id,
                _lock: Some(lock),
            });
        }
        let number: [u8; 16] = random()?;
        Ok(Self {
            id: format!("process {}", crate::audit::checkpoints::hex(&number)),
            _lock: None,
        })
    }
}

#[cfg(unix)]
fn locked(path: &Path) -> Option<(String, File)> {
    use std::os::unix::fs::MetadataExt as _;
    // The inode alone could come back on another machine; the boot id makes it unique.
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    let dir = Dir::open(dir.unwrap_or(Path::new("."))).ok()?;
    let file = dir.open_or_create(path.file_name()?.to_str()?, Owner::Directory);
    let file = file.ok()?;
    file.try_lock().ok()?;
    let about = file.metadata().ok()?;
    let id = format!("{} {}:{}", boot.trim(), about.dev(), about.ino());
    Some((id, file))
}

#[cfg(not(unix))]
fn locked(_: &Path) -> Option<(String, File)> {
    None
}
