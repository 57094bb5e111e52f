//! From an exchange that the relay opened to a target, and back.
//!
//! ```text
//! accept -> exchange: decide (policy) -> resolve -> approve (policy) -> connect -> dispatched -> response
//!              \-> refusal                                           \-> raw (CONNECT)
//! ```
//!
//! Each exchange is a task of its own: one that fails, or panics, resets its own stream and nothing else. The
//! config is replaced as a whole; an exchange keeps the one that it began with.

mod authorize;
mod deadlines;
mod delivery;
mod exchange;
mod named;
mod raw;
mod refusal;
mod response;
pub(crate) mod rewrite;
mod signed;
mod upgrade;

use self::signed::NonceStore;
use crate::audit::Audit;
use crate::config::{Config, HeaderCase};
use crate::credentials::Credentials;
use crate::deliveries::Deliveries;
use crate::proxy_login::{ProxyCredentialError, Route};
use crate::quota::Quotas;
use crate::signed::TenantKey;
use crate::stats::RuntimeStats;
use crate::target_access::TargetAccess;
use http_client::{Client, ClientOptions, PoolLimits};
use policy::PolicyError;
use protocol::frame::Serves;
use protocol::{Code, Failure};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use transport::Incoming;
use transport::dial::{Proxy, ProxyError};

/// Why a config cannot be applied.
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
    /// The setting of the proxy for targets is not valid.
    #[error("targets.proxy: {0}")]
    Proxy(#[from] ProxyError),
    /// The proxy's credential cannot be used.
    #[error("targets: {0}")]
    ProxyCredential(#[from] ProxyCredentialError),
}

/// The active config, as exchanges need it.
#[derive(Debug)]
pub(crate) struct Active {
    pub(crate) access: Arc<TargetAccess>,
    pub(crate) credentials: Arc<Credentials>,
    pub(crate) quotas: Quotas,
    /// The tenant's public key, where calls must be signed.
    pub(crate) tenant_key: Option<TenantKey>,
    own_addresses: Vec<IpAddr>,
}

impl std::ops::Deref for Active {
    type Target = TargetAccess;

    fn deref(&self) -> &TargetAccess {
        &self.access
    }
}

impl Active {
    /// Prepares a config for a machine with these addresses.
    ///
    /// # Errors
    /// [`ActiveError`] when there are too many rules, or the proxy for targets cannot be used.
    pub(crate) fn new(
        config: Config,
        own_addresses: Vec<IpAddr>,
        credentials: Arc<Credentials>,
    ) -> Result<Self, ActiveError> {
        let route = Route::to_targets(&config).resolve()?;
        let proxy = route.with_login(&credentials)?;
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
            quotas: Quotas::new(&config.rules),
            access: Arc::new(TargetAccess {
                policy: config.rules.policy(own_addresses.clone())?,
                client: client(&config, proxy),
                config,
            }),
            credentials,
            own_addresses,
        })
    }

    /// Returns the routes that the bridge advertises to the relay.
    pub(crate) fn serves(&self) -> Serves {
        self.config.rules.serves(self.config.bridge.advertise_hosts)
    }
}

/// Returns the client for the targets of a config.
fn client(config: &Config, proxy: Proxy) -> Client {
    let targets = &config.targets;
    Client::new(ClientOptions {
        ca_file: targets.ca_file.as_ref().map(|file| file.get().to_owned()),
        tls_oldest: targets.tls_min.oldest(),
        proxy,
        proxy_names: targets.proxy_names,
        connect_timeout: targets.connect_timeout.get(),
        http2: targets.http2,
        title_case: targets.header_case == HeaderCase::Title,
        pool: PoolLimits {
            idle_timeout: targets.pool_idle_timeout.get(),
            age_max: targets.connection_max_age.get(),
            per_target_max: targets.pool_idle_per_target.get(),
            total_max: targets.pool_idle_max.get(),
        },
    })
}

/// Returns the addresses of this machine, which are reached only if a rule names them.
pub(crate) fn own_addresses() -> Vec<IpAddr> {
    match if_addrs::get_if_addrs() {
        Ok(interfaces) => {
            let mut addresses: Vec<_> = interfaces.iter().map(if_addrs::Interface::ip).collect();
            addresses.sort_unstable();
            addresses.dedup();
            addresses
        }
        Err(error) => {
            tracing::warn!(%error, "cannot list this machine's addresses");
            Vec::new()
        }
    }
}

/// Gets the endpoint and the status of each response of an endpoint. The health of endpoints uses it, and itself
/// makes requests: a call keeps the dispatcher free of it.
#[derive(Clone)]
pub(crate) struct OnResponse(Arc<Note>);

/// Takes the endpoint and the status.
type Note = dyn Fn(&str, u16) + Send + Sync;

impl OnResponse {
    pub(crate) fn new(note: impl Fn(&str, u16) + Send + Sync + 'static) -> Self {
        Self(Arc::new(note))
    }

    fn note(&self, endpoint: &str, status: u16) {
        (self.0)(endpoint, status);
    }
}

impl std::fmt::Debug for OnResponse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OnResponse")
    }
}

/// Where the ends of exchanges are recorded.
#[derive(Debug, Clone)]
pub(crate) struct Records {
    pub(crate) board: Arc<RuntimeStats>,
    on_response: OnResponse,
    pub(crate) audit: Option<Arc<Audit>>,
    nonces: Arc<NonceStore>,
}

impl Records {
    /// `public_key` is the bridge's own.
    pub(crate) fn new(
        board: Arc<RuntimeStats>,
        on_response: OnResponse,
        audit: Option<Arc<Audit>>,
        public_key: &[u8],
    ) -> Self {
        let fingerprint = crate::signed::fingerprint(public_key);
        Self {
            board,
            on_response,
            audit,
            nonces: Arc::new(NonceStore::new(fingerprint)),
        }
    }

    /// Opens the store of nonces where calls must be signed: it accepts signatures made from then on.
    pub(crate) fn open_nonces(&self, config: &Config) {
        if config.signed_calls.public_key_file.is_none() {
            return;
        }
        if let Err(error) = self.nonces.get(config.bridge.data_dir.get()).open() {
            tracing::warn!(
                error,
                "cannot open the nonce store yet; retrying with the next signed call"
            );
        }
    }
}

/// How often the config is checked for a memory limit, while it has none.
const LIMIT_CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// How often the memory is measured.
const MEMORY_CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// Accepts exchanges and runs them.
#[derive(Debug)]
pub(crate) struct Dispatcher {
    active: RwLock<Arc<Active>>,
    deliveries: Arc<Deliveries>,
    records: Records,
    running: AtomicUsize,
    /// The process uses more memory than its config allows.
    is_memory_full: AtomicBool,
}

/// Counts an exchange for as long as it exists, however it ends.
struct RunningGuard(Arc<Dispatcher>);

impl Drop for RunningGuard {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Dispatcher {
    /// Returns a dispatcher with its first config.
    pub(crate) fn new(active: Active, deliveries: Arc<Deliveries>, records: Records) -> Arc<Self> {
        records.open_nonces(&active.config);
        // Also at the start: a pause outlives the process that was told to pause.
        log_pause(false, active.config.bridge.paused);
        Arc::new(Self {
            active: RwLock::new(Arc::new(active)),
            deliveries,
            records,
            running: AtomicUsize::new(0),
            is_memory_full: AtomicBool::new(false),
        })
    }

    /// Returns the active config.
    pub(crate) fn active(&self) -> Arc<Active> {
        let active = self.active.read().unwrap_or_else(PoisonError::into_inner);
        active.clone()
    }

    /// Applies another config, for exchanges that begin from now on.
    pub(crate) fn replace(&self, active: Active) {
        self.records.open_nonces(&active.config);
        log_pause(
            self.active().config.bridge.paused,
            active.config.bridge.paused,
        );
        *self.active.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(active);
    }

    /// Reads this machine's addresses again: they change with its networks. Blocks briefly.
    pub(crate) fn refresh_addresses(&self) {
        let active = self.active();
        let addresses = own_addresses();
        // A new config drops the idle connections, so it is created only if something has changed.
        if addresses != active.own_addresses
            && let Ok(active) =
                Active::new(active.config.clone(), addresses, active.credentials.clone())
        {
            self.replace(active);
        }
    }

    /// Returns the fingerprint of the bridge's key.
    pub(crate) fn fingerprint(&self) -> &str {
        self.records.nonces.fingerprint()
    }

    /// Returns the number of exchanges in progress.
    pub(crate) fn running(&self) -> usize {
        self.running.load(Ordering::Relaxed)
    }

    /// Measures the memory of the process for as long as it is polled.
    pub(crate) async fn watch_memory(&self) {
        loop {
            let max = self.active().config.limits.memory_max;
            if max.is_none() {
                self.is_memory_full.store(false, Ordering::Relaxed);
                tokio::time::sleep(LIMIT_CHECK_INTERVAL).await;
                continue;
            }
            let is_above = |used: &u64| max.is_some_and(|max| *used > max.bytes());
            let mut used = malloc_trim::resident().filter(is_above);
            if used.is_some() {
                // Memory that the allocator kept after a burst is not in use: measure again without it.
                // Trimming walks the whole heap, which takes long when there is much of it.
                let _ = tokio::task::spawn_blocking(malloc_trim::trim).await;
                used = malloc_trim::resident().filter(is_above);
            }
            let is_full = used.is_some();
            if is_full && !self.is_memory_full.swap(is_full, Ordering::Relaxed) {
                tracing::warn!(used, "limits.memory_max reached; rejecting new exchanges");
            }
            self.is_memory_full.store(is_full, Ordering::Relaxed);
            tokio::time::sleep(MEMORY_CHECK_INTERVAL).await;
        }
    }

    /// Accepts an exchange, and returns immediately.
    pub(crate) fn accept(self: &Arc<Self>, mut incoming: Incoming) {
        // Rejected before a task is spawned: a rejection must cost no memory.
        if self.is_memory_full.load(Ordering::Relaxed) {
            let detail = "this bridge reached its memory limit (limits.memory_max)";
            let failure = Failure::not_dispatched(Code::Overloaded, detail);
            self.records.board.failed(&failure);
            incoming.send.reset(failure);
            return;
        }
        // Relaxed: the count alone matters, and no other data is published with it.
        self.running.fetch_add(1, Ordering::Relaxed);
        let running = RunningGuard(self.clone());
        // One config for the whole exchange: a reload in between must not mix two.
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
        // A panic ends this task alone; dropping the stream resets it.
        // Boxed: tokio moves a future several times until its task runs.
        tokio::spawn(Box::pin(async move {
            exchange::run(active, &records, incoming).await;
            drop(running);
        }));
    }
}

/// Logs that the config pauses the bridge, or does not any more.
fn log_pause(was_paused: bool, is_paused: bool) {
    match (was_paused, is_paused) {
        (false, true) => tracing::warn!(
            "this bridge is paused by its config (bridge.paused): it refuses every request"
        ),
        (true, false) => tracing::info!("this bridge is not paused any more"),
        (true, true) | (false, false) => {}
    }
}

/// How long an exchange may take where neither the relay nor the config limits it.
const TOTAL_MAX: Duration = Duration::from_secs(24 * 60 * 60);
