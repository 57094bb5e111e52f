//! Takes the lease and renews it; opens the listeners for bridges and callers while this process has
//! it, and closes them when it is lost.
//!
//! A process that stands by has the addresses of its public and proxy listeners and does not listen
//! there: connections are refused, so that bridges, forward proxies on their way and balancers go on
//! to another address at once. The internal and the admin listener are open all the time and say why.

use crate::listener::connection::ListenerKind;
use crate::listener::{self, ListenerContext};
use crate::reload::Acceptor;
use crate::serving::{RENEW_EVERY, Role, TRY_EVERY};
use crate::state::State;
use crate::storage::{Storage, StorageError, random};
use protocol::session::EndReason;
use std::fs::{File, OpenOptions};
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use store::lease::{AcquireOutcome, LeaseConnection, RenewOutcome};
use tokio::net::TcpSocket;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// How long attempts of deliveries have to end before the lease is given back. The process that
/// takes it asks their bridges for the outcome of the others.
const ATTEMPTS_END_WITHIN: Duration = Duration::from_secs(5);

/// How often it is looked whether attempts still run.
const LOOK_AT_ATTEMPTS: Duration = Duration::from_millis(20);

/// How long a listener that closes is waited for.
const CLOSES_WITHIN: Duration = Duration::from_secs(1);

/// A listener that is open only while this process serves.
pub(super) struct Door {
    name: &'static str,
    arrived: ListenerKind,
    tls: Option<Acceptor>,
    address: SocketAddr,
    /// The address is taken, and no connection is accepted.
    reserved: Option<TcpSocket>,
    accepting: Option<JoinHandle<()>>,
}

impl Door {
    /// Takes the address.
    pub(super) fn reserve(
        name: &'static str,
        address: SocketAddr,
        arrived: ListenerKind,
        tls: Option<Acceptor>,
    ) -> io::Result<Self> {
        let socket = listener::reserve(address)?;
        Ok(Self {
            name,
            arrived,
            tls,
            address: socket.local_addr()?,
            reserved: Some(socket),
            accepting: None,
        })
    }

    /// Where it is, or will be.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    fn open(&mut self, doors: ListenerContext) -> io::Result<()> {
        let socket = match self.reserved.take() {
            Some(socket) => socket,
            None => listener::reserve(self.address)?,
        };
        let listener = listener::listen(socket)?;
        let (name, address, tls) = (self.name, self.address, self.tls.is_some());
        tracing::info!(listener = name, %address, tls, "listening");
        let of = &doors.service.state.connections;
        let connections = match self.arrived {
            ListenerKind::Proxy => of.proxy.clone(),
            ListenerKind::Tls | ListenerKind::Plain | ListenerKind::Admin => of.public.clone(),
        };
        let accepting =
            listener::accept(listener, self.arrived, connections, self.tls.clone(), doors);
        self.accepting = Some(tokio::spawn(accepting));
        Ok(())
    }

    /// Waits until the listener is closed, and takes the address again, so that no other program does.
    async fn closed(&mut self) {
        if let Some(mut accepting) = self.accepting.take()
            && tokio::time::timeout(CLOSES_WITHIN, &mut accepting)
                .await
                .is_err()
        {
            accepting.abort();
        }
        if self.reserved.is_none() {
            self.reserved = listener::reserve(self.address).ok();
        }
    }
}

/// Why a process could not begin to serve.
#[derive(Debug, thiserror::Error)]
pub(super) enum ActivateError {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error(transparent)]
    Listen(#[from] io::Error),
}

/// Keeps the lease.
pub(super) struct Keeper {
    state: Arc<State>,
    storage: Storage,
    lease: LeaseConnection,
    holder: Identity,
    doors: Vec<Door>,
    /// What the listeners need; gone when the process leaves.
    opened: Option<ListenerContext>,
    closing: watch::Sender<bool>,
    /// Of the lease that is held; zero for none.
    epoch: i64,
    is_silent: bool,
}

impl Keeper {
    pub(super) fn new(
        state: Arc<State>,
        holder: Identity,
        doors: Vec<Door>,
        opened: ListenerContext,
    ) -> Self {
        let storage = state.directory.storage().clone();
        Self {
            lease: storage.lease(),
            storage,
            state,
            holder,
            doors,
            opened: Some(opened),
            closing: watch::Sender::new(false),
            epoch: 0,
            is_silent: false,
        }
    }

    /// Takes the lease if it is to be had, and serves.
    pub(super) async fn try_take(&mut self) -> Result<(), ActivateError> {
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
        self.epoch = epoch;
        self.storage.hold(epoch);
        self.state.deliveries.hold(epoch);
        let opened = match self.state.directory.refresh().await {
            Ok(()) => {
                let is_alone = self.storage.is_single_host();
                let began = (!is_alone).then_some(began);
                self.state.serving.activate(epoch, began);
                self.open().map_err(ActivateError::from)
            }
            Err(error) => Err(error.into()),
        };
        if let Err(error) = opened {
            // Another process may be able to.
            self.step_down("").await;
            let _ = self.lease.release(epoch).await;
            return Err(error);
        }
        if self.storage.is_single_host() {
            // It is not needed until the end.
            self.lease.close().await;
        }
        tracing::info!(epoch, "active: this relay serves");
        Ok(())
    }

    fn open(&mut self) -> io::Result<()> {
        let Some(opened) = &self.opened else {
            return Ok(());
        };
        self.closing = watch::Sender::new(false);
        for door in &mut self.doors {
            door.open(ListenerContext {
                closing: self.closing.subscribe(),
                ..opened.clone()
            })?;
        }
        Ok(())
    }

    /// Keeps the lease, or waits for it, until `stop` says that the process leaves.
    pub(super) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut pause = self.pause(true);
        loop {
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => break,
                () = tokio::time::sleep(pause) => {}
            }
            let is_answered = match self.epoch {
                0 => self.take_again().await,
                epoch => self.renew(epoch).await,
            };
            pause = self.pause(is_answered);
        }
        self.leave().await;
    }

    fn pause(&self, is_answered: bool) -> Duration {
        match (self.epoch, is_answered) {
            (1.., _) if self.storage.is_single_host() => Duration::MAX,
            (1.., true) => RENEW_EVERY,
            (_, _) => TRY_EVERY,
        }
    }

    async fn take_again(&mut self) -> bool {
        match self.try_take().await {
            Ok(()) => self.is_silent = false,
            Err(error) => {
                if !self.is_silent {
                    tracing::warn!(%error, "standby: the lease cannot be taken");
                }
                self.is_silent = true;
            }
        }
        !self.is_silent
    }

    async fn renew(&mut self, epoch: i64) -> bool {
        let began = Instant::now();
        match self.lease.renew(epoch).await {
            Ok(RenewOutcome::Renewed { is_contended }) => {
                if self.is_silent {
                    tracing::info!("the database answers again: the lease is renewed");
                }
                self.is_silent = false;
                self.state.serving.renewed(began, is_contended);
                true
            }
            Ok(RenewOutcome::Lost) => {
                self.is_silent = false;
                self.step_down("").await;
                tracing::warn!(
                    "another relay took the lease: this one stands by, and its tunnels and requests are ended"
                );
                true
            }
            Err(error) => {
                if !self.is_silent {
                    tracing::warn!(%error, "the lease cannot be renewed: what runs goes on");
                }
                self.is_silent = true;
                self.state.serving.looked(began);
                false
            }
        }
    }

    /// Serves no longer: what runs is ended.
    async fn step_down(&mut self, active: &str) {
        self.epoch = 0;
        self.state.serving.stand_by(active);
        self.storage.hold(0);
        self.state.deliveries.hold(0);
        self.closing.send_replace(true);
        let state = &self.state;
        state.registry.cut(|_| Some(EndReason::Draining));
        state.exchanges.cut(|_| false);
        state.idempotency.clear();
        for door in &mut self.doors {
            door.closed().await;
        }
    }

    /// The process drains: the lease is given back as soon as no attempt of a delivery needs it.
    async fn leave(mut self) {
        self.closing.send_replace(true);
        self.opened = None;
        let is_active = self.epoch != 0;
        self.state.serving.leave();
        if is_active {
            let deliveries = &self.state.deliveries;
            let ended = async {
                while deliveries.attempts_running() > 0 {
                    tokio::time::sleep(LOOK_AT_ATTEMPTS).await;
                }
            };
            let _ = tokio::time::timeout(ATTEMPTS_END_WITHIN, ended).await;
            deliveries.hold(0);
            if let Err(error) = self.lease.release(self.epoch).await {
                tracing::debug!(%error, "the lease ends by itself");
            }
        }
        self.lease.close().await;
    }
}

/// The identity of this process, for the lease. A process that is started again after it was killed is known
/// by its lock on a file, and need not wait until its lease has expired.
#[derive(Debug)]
pub(super) struct Identity {
    id: String,
    _lock: Option<File>,
}

impl Identity {
    /// By the lock on the file at `path`, which is one on this machine until it boots. Without it, a
    /// number that no other process has.
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
    use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).write(true).mode(0o600);
    let file = options.open(path).ok()?;
    file.try_lock().ok()?;
    let about = file.metadata().ok()?;
    let id = format!("{} {}:{}", boot.trim(), about.dev(), about.ino());
    Some((id, file))
}

#[cfg(not(unix))]
fn locked(_: &Path) -> Option<(String, File)> {
    None
}
