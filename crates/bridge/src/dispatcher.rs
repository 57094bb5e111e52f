//! From an exchange that the relay opened to a target, and back.
//!
//! ```text
//! accept -> exchange: decide (policy) -> resolve -> approve (policy) -> connect -> dispatched -> answer
//!              \-> refusal                                           \-> raw (CONNECT)
//! ```
//!
//! Each exchange is a task of its own: one that fails, or panics, resets its own stream and
//! nothing else. What the config says is swapped as a whole; an exchange keeps what it began with.

mod answer;
mod authorize;
mod delivery;
mod exchange;
mod raw;
mod refusal;
mod resolve;
pub(crate) mod rewrite;
mod signed;
mod websocket;

use self::signed::NonceStore;
use crate::audit::Audit;
use crate::config::{Config, Quotas};
use crate::credentials::{Credentials, ProxyCredentialError, with_credential};
use crate::deliveries::Deliveries;
use crate::signed::TenantKey;
use crate::stats::RuntimeStats;
use crate::upstream::Upstream;
use policy::{Policy, PolicyError};
use protocol::frame::Serves;
use protocol::{Code, Failure};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use transport::Incoming;
use transport::dial::ProxyError;

pub use resolve::resolve;

/// Why a config cannot be put in force.
#[derive(Debug, thiserror::Error)]
pub enum ActiveError {
    /// There are too many rules.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The tenant's key cannot be used.
    #[error("signed_calls.public_key_file {path}: {detail}")]
    TenantKey {
        /// The file.
        path: String,
        /// What is wrong.
        detail: String,
    },
    /// The proxy for targets is no proxy.
    #[error("targets.proxy: {0}")]
    Proxy(#[from] ProxyError),
    /// Its credential cannot be used.
    #[error("targets: {0}")]
    ProxyCredential(#[from] ProxyCredentialError),
}

/// What the config in force says about exchanges.
#[derive(Debug)]
pub struct Active {
    pub(crate) policy: Policy,
    pub(crate) upstream: Upstream,
    pub(crate) config: Config,
    pub(crate) credentials: Arc<Credentials>,
    pub(crate) quotas: Quotas,
    /// The tenant's key, where calls must be signed.
    pub(crate) tenant_key: Option<TenantKey>,
    own_addresses: Vec<IpAddr>,
}

impl Active {
    /// From a config, for a host with these addresses.
    ///
    /// # Errors
    /// [`ActiveError`] when there are too many rules, or the proxy for targets cannot be used.
    pub(crate) fn new(
        config: Config,
        own_addresses: Vec<IpAddr>,
        credentials: Arc<Credentials>,
    ) -> Result<Self, ActiveError> {
        let name = config.targets.proxy_credential.as_deref();
        let proxy = with_credential(config.targets.proxy.resolve()?, name, &credentials)?;
        let key_file = config.signed_calls.public_key_file.as_ref();
        let tenant_key = key_file
            .map(|file| {
                let read = TenantKey::read(file.get());
                read.map_err(|detail| ActiveError::TenantKey {
                    path: file.get().display().to_string(),
                    detail,
                })
            })
            .transpose()?;
        Ok(Self {
            tenant_key,
            policy: config.rules.policy(own_addresses.clone())?,
            upstream: Upstream::new(&config.targets, proxy),
            quotas: config.rules.quotas(),
            config,
            credentials,
            own_addresses,
        })
    }

    /// What the bridge reports to the relay.
    pub fn serves(&self) -> Serves {
        self.config.rules.serves(self.config.bridge.advertise_hosts)
    }
}

/// The addresses of this host, which are only reached when they are named.
pub fn own_addresses() -> Vec<IpAddr> {
    match if_addrs::get_if_addrs() {
        Ok(interfaces) => {
            let mut addresses: Vec<_> = interfaces.iter().map(if_addrs::Interface::ip).collect();
            addresses.sort_unstable();
            addresses.dedup();
            addresses
        }
        Err(error) => {
            tracing::warn!(%error, "this host's own addresses are not known");
            Vec::new()
        }
    }
}

/// Where it is written down what became of exchanges.
#[derive(Debug, Clone)]
pub(crate) struct Records {
    pub(crate) board: Arc<RuntimeStats>,
    pub(crate) audit: Option<Arc<Audit>>,
    nonces: Arc<NonceStore>,
}

impl Records {
    /// `public_key` is the bridge's own.
    pub(crate) fn new(
        board: Arc<RuntimeStats>,
        audit: Option<Arc<Audit>>,
        public_key: &[u8],
    ) -> Self {
        let fingerprint = crate::signed::fingerprint(public_key);
        Self {
            board,
            audit,
            nonces: Arc::new(NonceStore::new(fingerprint)),
        }
    }

    /// Opens the store of nonces where calls must be signed: signatures from then on are taken.
    pub(crate) fn open_nonces(&self, config: &Config) {
        if config.signed_calls.public_key_file.is_none() {
            return;
        }
        if let Err(error) = self.nonces.get(config.bridge.data_dir.get()).open() {
            tracing::warn!(error, "the store of nonces cannot be opened yet");
        }
    }
}

/// How often it is looked whether there is a limit by now.
const LOOK_FOR_LIMIT: Duration = Duration::from_secs(5);

/// How often the memory is looked at.
const LOOK_AT_MEMORY: Duration = Duration::from_millis(500);

/// Takes exchanges and runs them.
#[derive(Debug)]
pub struct Dispatcher {
    active: RwLock<Arc<Active>>,
    deliveries: Arc<Deliveries>,
    records: Records,
    running: AtomicUsize,
    /// The process uses more memory than its config allows.
    is_full: AtomicBool,
}

/// Counts an exchange for as long as it lives, however it ends.
struct Running(Arc<Dispatcher>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Dispatcher {
    /// With the config that it begins with.
    pub(crate) fn new(active: Active, deliveries: Arc<Deliveries>, records: Records) -> Arc<Self> {
        records.open_nonces(&active.config);
        Arc::new(Self {
            active: RwLock::new(Arc::new(active)),
            deliveries,
            records,
            running: AtomicUsize::new(0),
            is_full: AtomicBool::new(false),
        })
    }

    /// What is in force.
    pub fn active(&self) -> Arc<Active> {
        let active = self.active.read().unwrap_or_else(PoisonError::into_inner);
        active.clone()
    }

    /// Puts another config in force, for exchanges that begin from now on.
    pub fn replace(&self, active: Active) {
        self.records.open_nonces(&active.config);
        *self.active.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(active);
    }

    /// Looks at this host's addresses again; they change with its networks. Blocks shortly.
    pub fn refresh_addresses(&self) {
        let active = self.active();
        let addresses = own_addresses();
        if addresses != active.own_addresses
            && let Ok(active) =
                Active::new(active.config.clone(), addresses, active.credentials.clone())
        {
            self.replace(active);
        }
    }

    /// The fingerprint of the bridge's key.
    pub(crate) fn fingerprint(&self) -> &str {
        self.records.nonces.fingerprint()
    }

    /// Exchanges that are under way.
    pub fn running(&self) -> usize {
        self.running.load(Ordering::Relaxed)
    }

    /// Looks at the memory of the process for as long as it is polled.
    pub(crate) async fn watch_memory(&self) {
        loop {
            let max = self.active().config.limits.memory_max;
            if max.is_none() {
                self.is_full.store(false, Ordering::Relaxed);
                tokio::time::sleep(LOOK_FOR_LIMIT).await;
                continue;
            }
            let is_above = |used: &u64| max.is_some_and(|max| *used > max.bytes());
            let mut used = malloc_trim::resident().filter(is_above);
            if used.is_some() {
                // What a burst left behind in the allocator is not in use.
                let _ = tokio::task::spawn_blocking(malloc_trim::trim).await;
                used = malloc_trim::resident().filter(is_above);
            }
            let is_full = used.is_some();
            if is_full && !self.is_full.swap(is_full, Ordering::Relaxed) {
                tracing::warn!(
                    used,
                    "limits.memory_max is reached: new exchanges are turned away"
                );
            }
            self.is_full.store(is_full, Ordering::Relaxed);
            tokio::time::sleep(LOOK_AT_MEMORY).await;
        }
    }

    /// Takes an exchange. Returns at once.
    pub fn accept(self: &Arc<Self>, mut incoming: Incoming) {
        if self.is_full.load(Ordering::Relaxed) {
            let detail = "this bridge uses all the memory that it may (limits.memory_max)";
            let failure = Failure::not_dispatched(Code::Overloaded, detail);
            self.records.board.failed(&failure);
            incoming.send.reset(failure);
            return;
        }
        self.running.fetch_add(1, Ordering::Relaxed);
        let running = Running(self.clone());
        let active = self.active();
        let records = self.records.clone();
        if incoming.head.call.is_some() {
            let deliveries = self.deliveries.clone();
            tokio::spawn(Box::pin(async move {
                exchange::deliver(active, deliveries, &records, incoming).await;
                drop(running);
            }));
            return;
        }
        // A panic ends this task alone; the streams' drop tells the relay.
        // Boxed: a task is moved several times until it runs.
        tokio::spawn(Box::pin(async move {
            exchange::run(active, &records, incoming).await;
            drop(running);
        }));
    }
}

/// How long an exchange may take where neither the relay nor the config says.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);
