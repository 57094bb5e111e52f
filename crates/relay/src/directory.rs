//! Tenants, keys and bridges in memory, so that the data path does not read the database.
//!
//! ```text
//! Storage --- revision, every 500 ms, and at once after a change here ---> Directory
//! Directory --- changed() ---> exchanges and tunnels whose key or bridge is no longer valid are closed
//! ```
//!
//! Each read takes only rows of a newer revision. While the database does not respond, the last state stays
//! valid for `directory.stale_max`; after that no key and no bridge is valid. Keys expire by time
//! meanwhile.
//!
//! Before a caller or a bridge is refused as unknown, the database is read again
//! ([`Directory::refresh_for`]).

mod lookup_limiter;
mod services;
mod state;

pub(crate) use services::ServiceReports;
pub(crate) use state::{BridgeSummary, TunnelClaim};

use crate::access::{Credentials, Principal};
use crate::admission::network;
use crate::denials::DeniedClient;
use crate::registry::{Installation, Standing, TunnelOwner};
use crate::routing::Identities;
use crate::routing::select_tunnel::{Paired, PairedBridge};
use crate::storage::tenants::SITE;
use crate::storage::{ClientId, SecretHash, Storage, StorageError, TenantId, TenantState, now};
use lookup_limiter::LookupLimiter;
use protocol::session::EndReason;
use protocol::{Code, Execution, Failure};
use state::State;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};
use tokio::sync::{Mutex, watch};

/// How often the database is queried for a newer revision. The tunnels and exchanges of a key that another
/// process revoked are closed within this interval and the time of a read, well within the promised 2 s.
pub(crate) const REFRESH: Duration = Duration::from_millis(500);

/// Shortest interval between two reads because of unknown keys.
pub(crate) const LOOKUP_INTERVAL: Duration = Duration::from_millis(50);

/// Time limit of a read.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// How long an unknown peer waits for the next regular read.
const REGULAR_READ_TIMEOUT: Duration = Duration::from_secs(7);

/// Shortest outage of the database that raises a notice.
const OUTAGE_NOTICED: Duration = Duration::from_secs(60);

/// The tenants, keys and bridges in memory.
#[derive(Debug)]
pub(crate) struct Directory {
    storage: Storage,
    state: RwLock<State>,
    changed: watch::Sender<i64>,
    /// When the last read began. Held during a read, so that reads do not overlap.
    asked: Mutex<Instant>,
    /// When the last successful read began.
    read: watch::Sender<Instant>,
    /// The same for the data path, without a lock: milliseconds since `origin`.
    read_ms: AtomicU64,
    origin: Instant,
    stale_max: Duration,
    /// Limits the reads that unknown peers cause, by address.
    lookups: LookupLimiter,
    /// The last long outage of the database that has ended, until a notice takes it.
    outage: std::sync::Mutex<Option<Duration>>,
}

impl Directory {
    /// Reads all tenants, keys and bridges, which stay valid for `stale_max` without the database.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not respond.
    pub(crate) async fn load(
        storage: Storage,
        stale_max: Duration,
    ) -> Result<Arc<Self>, StorageError> {
        let directory = Arc::new(Self {
            storage,
            state: RwLock::default(),
            changed: watch::Sender::new(0),
            asked: Mutex::new(Instant::now()),
            read: watch::Sender::new(Instant::now()),
            read_ms: AtomicU64::new(0),
            origin: Instant::now(),
            stale_max,
            lookups: LookupLimiter::default(),
            outage: std::sync::Mutex::default(),
        });
        directory.refresh().await?;
        Ok(directory)
    }

    fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn state_mut(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the database.
    pub(crate) fn storage(&self) -> &Storage {
        &self.storage
    }

    /// Reads what has changed. Called after every change that this process makes.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not respond; the last state stays.
    pub(crate) async fn refresh(&self) -> Result<(), StorageError> {
        // One read at a time: concurrent ones would apply older changes after newer ones.
        let mut asked = self.asked.lock().await;
        *asked = Instant::now();
        self.read_newer().await
    }

    /// Reads what this process has just changed. An error is only logged: the change is committed, and the
    /// next read finds it.
    pub(crate) async fn follow_change(&self) {
        if let Err(error) = self.refresh().await {
            tracing::warn!(%error, "a change is stored, and takes effect when the database responds again");
        }
    }

    /// Reads what has changed until now. Concurrent callers share one read, and there is at most one every
    /// [`LOOKUP_INTERVAL`]. Returns whether the database responded.
    pub(crate) async fn refresh_shared(&self) -> bool {
        let arrived = Instant::now();
        let mut asked = self.asked.lock().await;
        // A read that began after the arrival has everything that the caller waits for.
        if *asked <= arrived {
            tokio::time::sleep(LOOKUP_INTERVAL.saturating_sub(asked.elapsed())).await;
            *asked = Instant::now();
            if let Err(error) = self.read_newer().await {
                tracing::debug!(%error, "database unavailable");
            }
        }
        *self.read.borrow() >= arrived
    }

    /// Reads what has changed until now, because of an unknown peer. An address that causes many reads
    /// waits for the next regular one. Returns whether the database responded.
    pub(crate) async fn refresh_for(&self, peer: IpAddr) -> bool {
        if self.lookups.take(network(peer), Instant::now()) {
            return self.refresh_shared().await;
        }
        let arrived = Instant::now();
        let mut read = self.read.subscribe();
        let looked = read.wait_for(|began| *began > arrived);
        matches!(
            tokio::time::timeout(REGULAR_READ_TIMEOUT, looked).await,
            Ok(Ok(_))
        )
    }

    async fn read_newer(&self) -> Result<(), StorageError> {
        let began = Instant::now();
        let was_stale = self.is_stale();
        // By time, whether the database responds or not.
        let expired = self.state_mut().expire(now());
        // The first read may be large.
        let limit = match self.state().revision() {
            0 => Duration::MAX,
            _ => READ_TIMEOUT,
        };
        let read = match tokio::time::timeout(limit, self.changes()).await {
            Ok(read) => read,
            Err(_) => {
                let detail = format!("no response within {READ_TIMEOUT:?}");
                let error = std::io::Error::new(std::io::ErrorKind::TimedOut, detail);
                Err(StorageError::from(sqlx::Error::Io(error)))
            }
        };
        let mut newer = false;
        if let Ok(changes) = &read {
            newer = changes.is_some();
        }
        let read = read.map(|changes| {
            if let Some(changes) = changes {
                self.state_mut().apply(changes);
            }
            // The start of the read, since changes that were committed during it may be missing.
            self.read_ms.store(self.millis(began), Ordering::Release);
            self.read.send_replace(began);
        });
        // Subscribers abort what is no longer valid, so every reason for that is a change.
        if newer || expired || was_stale != self.is_stale() {
            self.changed.send_modify(|turn| *turn += 1);
        }
        read
    }

    async fn changes(&self) -> Result<Option<crate::storage::Changes>, StorageError> {
        let known = self.state().revision();
        match self.storage.revision().await? != known {
            true => self.storage.changes_since(known).await.map(Some),
            false => Ok(None),
        }
    }

    /// Returns the age of the state: the time since the last successful read began.
    pub(crate) fn age(&self) -> Duration {
        let read = self.read_ms.load(Ordering::Acquire);
        Duration::from_millis(self.millis(Instant::now()).saturating_sub(read))
    }

    fn millis(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.origin);
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    /// Returns whether the state is too old to authenticate anything.
    pub(crate) fn is_stale(&self) -> bool {
        self.age() > self.stale_max
    }

    /// Checks that the state is recent enough to authenticate by.
    ///
    /// # Errors
    /// `directory_stale`.
    pub(crate) fn check_fresh(&self) -> Result<(), Failure> {
        if !self.is_stale() {
            return Ok(());
        }
        let (age, max) = (self.age().as_secs(), self.stale_max);
        let detail = format!(
            "the relay's database has not responded for {age} s; the known state is valid for {max:?} \
             (directory.stale_max)"
        );
        Err(Failure::not_sent(Code::DirectoryStale, detail))
    }

    /// Returns the last long outage of the database that has ended, once.
    pub(crate) fn take_outage(&self) -> Option<Duration> {
        let mut outage = self.outage.lock().unwrap_or_else(PoisonError::into_inner);
        outage.take()
    }

    /// Keeps the state up to date until the task is dropped.
    pub(crate) async fn keep_fresh(self: Arc<Self>) {
        let mut failing_since = None;
        let mut was_stale = false;
        let mut seen_stale = false;
        loop {
            tokio::time::sleep(REFRESH).await;
            let before = *self.read.borrow();
            match self.refresh().await {
                Ok(()) => {
                    let outage = failing_since.take().map(|since: Instant| since.elapsed());
                    if let Some(outage) = outage {
                        tracing::info!(outage_s = outage.as_secs(), "database responds again");
                        if outage >= OUTAGE_NOTICED || was_stale {
                            let mut last =
                                self.outage.lock().unwrap_or_else(PoisonError::into_inner);
                            *last = Some(outage);
                        }
                    }
                    was_stale = false;
                }
                Err(error) if failing_since.is_none() => {
                    failing_since = Some(before);
                    tracing::warn!(%error, "database unavailable; the known state stays valid for directory.stale_max");
                }
                Err(_) => {}
            }
            let is_stale = self.is_stale();
            if is_stale && !was_stale {
                was_stale = true;
                tracing::error!(
                    age_s = self.age().as_secs(),
                    "database unavailable for directory.stale_max: no key and no bridge is valid until it responds"
                );
            }
            // The state may have become stale between two reads, without a change that would report it.
            if std::mem::replace(&mut seen_stale, is_stale) != is_stale {
                self.changed.send_modify(|turn| *turn += 1);
            }
        }
    }

    /// Returns a receiver that is notified of every change.
    pub(crate) fn changed(&self) -> watch::Receiver<i64> {
        self.changed.subscribe()
    }

    /// Returns the API key that the credentials prove.
    ///
    /// # Errors
    /// `unauthorized`, with the same text and after the same work for an unknown client id and a wrong
    /// secret; `tenant_suspended`; `directory_stale`.
    pub(crate) fn authenticate(&self, credentials: &Credentials) -> Result<Principal, Failure> {
        self.check_fresh()?;
        let presented = credentials.hash;
        let state = self.state();
        let entry = state.key(&credentials.client_id);
        let now = now();
        let matches = match entry {
            Some(entry) => entry.matches(&presented, now),
            // The same work as for a known key, so that the time does not reveal which client ids exist.
            None => presented.matches(&SecretHash::unmatchable()) & presented.matches(&presented),
        };
        let valid = entry.filter(|entry| matches && !entry.is_expired(now));
        let Some(entry) = valid else {
            return Err(Failure::not_sent(
                Code::Unauthorized,
                "the client id or the secret is wrong, or the key is no longer valid",
            ));
        };
        let tenant = state.tenant(&entry.key.tenant);
        let Some(tenant) = tenant.filter(|tenant| tenant.state == TenantState::Active) else {
            return Err(Failure::not_sent(
                Code::TenantSuspended,
                "the tenant is suspended",
            ));
        };
        entry.touch(now);
        Ok(Principal {
            tenant: entry.key.tenant.shared(),
            tenant_name: tenant.name.clone(),
            client_id: entry.key.client_id.shared(),
            role: entry.key.role,
            existing: entry.key.existing,
            scope: entry.scope.clone(),
        })
    }

    /// Returns the client that names this client id, if a valid key has it. Nothing is proved by naming it.
    pub(crate) fn client_of(&self, client_id: &str) -> DeniedClient {
        let state = self.state();
        let found = state.key(client_id).map(|entry| DeniedClient {
            tenant: entry.key.tenant.shared(),
            object: entry.key.client_id.shared(),
            is_proved: false,
        });
        found.unwrap_or_default()
    }

    /// Returns when keys were last used, for those used since `since`, in seconds since 1970.
    pub(crate) fn used_since(&self, since: i64) -> HashMap<ClientId, i64> {
        self.state().used_since(since)
    }

    /// Returns the id of the tenant with this name.
    pub(crate) fn tenant_named(&self, name: &str) -> Option<Arc<str>> {
        let state = self.state();
        let found = state.tenant_named(name).map(|(id, _)| id.shared());
        found.filter(|id| &**id != SITE)
    }

    /// Returns a tenant's name, by its id.
    pub(crate) fn tenant_name(&self, id: &str) -> Option<Arc<str>> {
        let state = self.state();
        state
            .tenant(&TenantId::from(id))
            .map(|entry| entry.name.clone())
    }

    /// Returns a tenant's name for the log, by its id; the id itself of a tenant that has no name here.
    pub(crate) fn tenant_label(&self, id: &str) -> Arc<str> {
        self.tenant_name(id).unwrap_or_else(|| id.into())
    }

    /// Returns whether a tenant (its id) is active.
    pub(crate) fn is_active(&self, id: &str) -> bool {
        let state = self.state();
        let found = state.tenant(&TenantId::from(id));
        found.is_some_and(|entry| entry.state == TenantState::Active)
    }

    /// Returns the URL patterns that the relay may call directly for a tenant (its id).
    pub(crate) fn direct_urls(&self, id: &str) -> Arc<[String]> {
        let state = self.state();
        let found = state.tenant(&TenantId::from(id));
        found.map_or_else(Arc::default, |entry| entry.direct_urls.clone())
    }

    /// Checks that a request may go on: its caller's key is still valid, and its tenant active.
    ///
    /// # Errors
    /// `unauthorized` for a key that was revoked or has expired; `tenant_suspended`; `directory_stale`. How far the
    /// request came is not known here.
    pub(crate) fn check_principal(&self, principal: &Principal) -> Result<(), Failure> {
        self.check_fresh().map_err(|stale| Failure {
            execution: Execution::PossiblyExecuted,
            ..stale
        })?;
        self.state().check_principal(principal)
    }

    /// Returns the bridge that a HELLO claims to be: its owner, the key (32 bytes) that must have signed,
    /// and whether it may connect. `None` if it was never registered. `tenant` is an id or a name.
    pub(crate) fn identity(
        &self,
        tenant: &str,
        bridge: &str,
        instance: &[u8; 16],
    ) -> Option<TunnelClaim> {
        self.state().identity(tenant, bridge, instance)
    }

    /// Returns what a bridge may do with each endpoint that it declares, in their order; and whether it may
    /// serve hosts. A bridge whose key lists endpoints may not.
    pub(crate) fn endpoints_of<'a>(
        &self,
        owner: &TunnelOwner,
        declared: impl Iterator<Item = &'a str>,
    ) -> (Vec<Standing>, bool) {
        self.state().endpoints_of(owner, declared)
    }

    /// Returns the names of the valid bridges of a tenant (its id) that own an endpoint's name.
    pub(crate) fn holders_of(&self, tenant: &str, endpoint: &str) -> Vec<Arc<str>> {
        self.state().holders_of(tenant, endpoint)
    }

    /// Returns the endpoint names that a bridge (its id) of a tenant (its id) owns, in order.
    pub(crate) fn claimed_by(&self, tenant: &str, bridge: &str) -> Vec<String> {
        self.state().claimed_by(tenant, bridge)
    }

    /// Returns the revision at which the result of [`Self::endpoints_of`] may last have changed.
    pub(crate) fn claims_revision(&self) -> i64 {
        self.state().claims_revision()
    }

    /// Returns whether an installation is paired, and not revoked. That of a suspended tenant is paired.
    pub(crate) fn has_installation(&self, installation: &Installation) -> bool {
        self.state().has_installation(installation)
    }

    /// Returns why a tunnel must close now, if it must.
    pub(crate) fn close_reason(&self, owner: &TunnelOwner) -> Option<EndReason> {
        // `Draining`, since the bridge may reconnect when the database responds again.
        let stale = self.is_stale().then_some(EndReason::Draining);
        self.state().close_reason(owner).or(stale)
    }

    /// Returns the valid bridges of a tenant (its id), by name.
    pub(crate) fn bridges_of(&self, tenant: &str) -> Vec<BridgeSummary> {
        self.state().bridges_of(tenant)
    }
}

impl Identities for Directory {
    fn check_principal(&self, principal: &Principal) -> Result<(), Failure> {
        Self::check_principal(self, principal)
    }

    fn is_active(&self, tenant: &str) -> bool {
        Self::is_active(self, tenant)
    }

    fn direct_urls(&self, tenant: &str) -> Arc<[String]> {
        Self::direct_urls(self, tenant)
    }
}

impl Paired for Directory {
    fn bridges(&self, tenant: &str) -> Vec<PairedBridge> {
        let bridges = self.state().bridges_of(tenant).into_iter();
        let paired = bridges.map(|bridge| PairedBridge {
            name: bridge.name,
            installations: bridge.installations,
            identities: bridge.identities,
        });
        paired.collect()
    }
}

#[cfg(test)]
mod tests;
