//! Tenants, keys and bridges in memory: what the data path asks instead of the database.
//!
//! ```text
//! Storage --- revision, every 500 ms, and at once after a change here ---> Directory
//! Directory --- changed() ---> exchanges whose key and tunnels whose bridge is gone are cut
//! ```
//!
//! Only rows of a newer revision are read. While the database does not answer, the last state
//! stands, for `directory.stale_max`: then no key and no bridge is valid. Keys expire by time meanwhile.
//!
//! Before a caller or a bridge is refused as unknown, the database is asked ([`Directory::look_for`]).

mod looks;
mod state;

pub use state::{BridgeSummary, Standing, TunnelClaim};

use crate::admission::network;
use crate::auth::{Credentials, Principal};
use crate::denials::Who;
use crate::registry::TunnelOwner;
use crate::routing::select_tunnel::{Paired, PairedBridge};
use crate::storage::tenants::SITE;
use crate::storage::{ClientId, SecretHash, Storage, StorageError, TenantId, TenantState, now};
use looks::Buckets;
use protocol::session::EndReason;
use protocol::{Code, Failure};
use state::State;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};
use tokio::sync::{Mutex, watch};

/// How often the database is asked for a newer revision. A key that another process revoked is
/// cut within this, so well within the 2 s that are promised.
pub const REFRESH: Duration = Duration::from_millis(500);

/// How often, at most, the database is asked because of a key that is not known.
pub const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// How long the last state is valid while the database does not answer, unless the config says
/// otherwise.
pub const STALE_MAX: Duration = Duration::from_secs(24 * 3600);

/// How long a look at the database may take.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a peer that is not known waits for the next regular look.
const REGULAR_LOOK_WITHIN: Duration = Duration::from_secs(7);

/// A silence of the database that is worth a notice.
const SILENCE_NOTICED: Duration = Duration::from_secs(60);

/// The state in memory.
#[derive(Debug)]
pub struct Directory {
    storage: Storage,
    state: RwLock<State>,
    changed: watch::Sender<i64>,
    /// When it was asked last; held while it is asked.
    asked: Mutex<Instant>,
    /// When the last look began that was answered.
    read: watch::Sender<Instant>,
    /// The same for the data path: milliseconds since `origin`.
    read_ms: AtomicU64,
    origin: Instant,
    stale_max: Duration,
    /// Looks that addresses may cause.
    looks: Buckets,
    /// The last silence of the database that is over, until a notice is made of it.
    silence: std::sync::Mutex<Option<Duration>>,
}

impl Directory {
    /// Reads everything that is valid.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not answer.
    pub async fn load(storage: Storage) -> Result<Arc<Self>, StorageError> {
        Self::load_for(storage, STALE_MAX).await
    }

    /// The same, valid for `stale_max` without the database.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not answer.
    pub async fn load_for(
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
            looks: Buckets::default(),
            silence: std::sync::Mutex::default(),
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

    /// The database behind it.
    pub fn storage(&self) -> &Storage {
        &self.storage
    }

    /// Reads what changed. Called after every change that this process makes.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not answer; the last state stands.
    pub async fn refresh(&self) -> Result<(), StorageError> {
        let mut asked = self.asked.lock().await;
        *asked = Instant::now();
        self.read_newer().await
    }

    /// Reads what this process has just changed. The change is committed, so it has not failed if
    /// it cannot be read now: the next look finds it.
    pub async fn follow_change(&self) {
        if let Err(error) = self.refresh().await {
            tracing::warn!(%error, "a change is stored, and becomes known when the database answers again");
        }
    }

    /// Reads what changed until now. Callers that come together share one look, and there is at
    /// most one every [`LOOK_AGAIN`]. Returns whether the database answered.
    pub async fn look_again(&self) -> bool {
        let arrived = Instant::now();
        let mut asked = self.asked.lock().await;
        if *asked <= arrived {
            tokio::time::sleep(LOOK_AGAIN.saturating_sub(asked.elapsed())).await;
            *asked = Instant::now();
            if let Err(error) = self.read_newer().await {
                tracing::debug!(%error, "the database does not answer");
            }
        }
        *self.read.borrow() >= arrived
    }

    /// Reads what changed until now, because of a peer that is not known. An address that causes many
    /// looks waits for the next regular one. Returns whether the database answered.
    pub async fn look_for(&self, peer: IpAddr) -> bool {
        if self.looks.take(network(peer), Instant::now()) {
            return self.look_again().await;
        }
        let arrived = Instant::now();
        let mut read = self.read.subscribe();
        let looked = read.wait_for(|began| *began > arrived);
        matches!(
            tokio::time::timeout(REGULAR_LOOK_WITHIN, looked).await,
            Ok(Ok(_))
        )
    }

    async fn read_newer(&self) -> Result<(), StorageError> {
        let began = Instant::now();
        let was_stale = self.is_stale();
        // By time, whether the database answers or not.
        let expired = self.state_mut().expire(now());
        // The first look may have much to read.
        let limit = match self.state().revision() {
            0 => Duration::MAX,
            _ => LOOK_TIMEOUT,
        };
        let read = match tokio::time::timeout(limit, self.changes()).await {
            Ok(read) => read,
            Err(_) => {
                let detail = format!("no answer within {LOOK_TIMEOUT:?}");
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
            self.read_ms.store(self.millis(began), Ordering::Release);
            self.read.send_replace(began);
        });
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

    /// How old the state is: how long ago the database answered last.
    pub fn age(&self) -> Duration {
        let read = self.read_ms.load(Ordering::Acquire);
        Duration::from_millis(self.millis(Instant::now()).saturating_sub(read))
    }

    fn millis(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.origin);
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    /// Whether the state is too old to let anybody in.
    pub fn is_stale(&self) -> bool {
        self.age() > self.stale_max
    }

    /// Whether the state is fresh enough to let anybody in.
    ///
    /// # Errors
    /// `directory_stale`.
    pub fn check_fresh(&self) -> Result<(), Failure> {
        if !self.is_stale() {
            return Ok(());
        }
        let (age, most) = (self.age().as_secs(), self.stale_max);
        let detail = format!(
            "the relay's database has not answered for {age} s, and what is known is valid for \
             {most:?} (directory.stale_max)"
        );
        Err(Failure::not_sent(Code::DirectoryStale, detail))
    }

    /// The last long silence of the database that is over; told once.
    pub fn take_silence(&self) -> Option<Duration> {
        let mut silence = self.silence.lock().unwrap_or_else(PoisonError::into_inner);
        silence.take()
    }

    /// Keeps the state fresh until it is dropped.
    pub async fn keep_fresh(self: Arc<Self>) {
        let mut silent_since = None;
        let mut was_stale = false;
        let mut seen_stale = false;
        loop {
            tokio::time::sleep(REFRESH).await;
            let before = *self.read.borrow();
            match self.refresh().await {
                Ok(()) => {
                    let silent = silent_since.take().map(|since: Instant| since.elapsed());
                    if let Some(silent) = silent {
                        tracing::info!(silent_s = silent.as_secs(), "the database answers again");
                        if silent >= SILENCE_NOTICED || was_stale {
                            let mut last =
                                self.silence.lock().unwrap_or_else(PoisonError::into_inner);
                            *last = Some(silent);
                        }
                    }
                    was_stale = false;
                }
                Err(error) if silent_since.is_none() => {
                    silent_since = Some(before);
                    tracing::warn!(%error, "the database does not answer; what is known stays valid for directory.stale_max");
                }
                Err(_) => {}
            }
            let is_stale = self.is_stale();
            if is_stale && !was_stale {
                was_stale = true;
                tracing::error!(
                    age_s = self.age().as_secs(),
                    "the database has not answered for directory.stale_max: no key and no bridge is valid until it does"
                );
            }
            // It may have become so between two looks.
            if std::mem::replace(&mut seen_stale, is_stale) != is_stale {
                self.changed.send_modify(|turn| *turn += 1);
            }
        }
    }

    /// Notifies of every change.
    pub fn changed(&self) -> watch::Receiver<i64> {
        self.changed.subscribe()
    }

    /// Whose key this is.
    ///
    /// # Errors
    /// `unauthorized`, the same in words and work for an unknown client id and a wrong secret;
    /// `tenant_suspended`; `directory_stale`.
    pub fn authenticate(&self, credentials: &Credentials) -> Result<Principal, Failure> {
        self.check_fresh()?;
        let presented = credentials.secret.hash();
        let state = self.state();
        let entry = state.key(&credentials.client_id);
        let now = now();
        let matches = match entry {
            Some(entry) => entry.matches(&presented, now),
            // As much work as for a key that is known.
            None => presented.matches(&SecretHash::unmatchable()) & presented.matches(&presented),
        };
        let valid = entry.filter(|entry| matches && !entry.is_over(now));
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

    /// Whose a client id is, if there is a valid key with it: nothing is proved of who names it.
    pub fn whose(&self, client_id: &str) -> Who {
        let state = self.state();
        let found = state.key(client_id).map(|entry| Who {
            tenant: entry.key.tenant.shared(),
            object: entry.key.client_id.shared(),
            is_proved: false,
        });
        found.unwrap_or_default()
    }

    /// When keys were used, those since `since`, in seconds since 1970.
    pub fn used_since(&self, since: i64) -> HashMap<ClientId, i64> {
        self.state().used_since(since)
    }

    /// The id of the tenant of that name.
    pub fn tenant_named(&self, name: &str) -> Option<Arc<str>> {
        let state = self.state();
        let found = state.tenant_named(name).map(|(id, _)| id.shared());
        found.filter(|id| &**id != SITE)
    }

    /// A tenant's name, by its id.
    pub fn tenant_name(&self, id: &str) -> Option<Arc<str>> {
        let state = self.state();
        state
            .tenant(&TenantId::from(id))
            .map(|entry| entry.name.clone())
    }

    /// Whether a tenant (its id) may work.
    pub fn is_active(&self, id: &str) -> bool {
        let state = self.state();
        let found = state.tenant(&TenantId::from(id));
        found.is_some_and(|entry| entry.state == TenantState::Active)
    }

    /// The URL patterns that the relay may call itself for a tenant (its id).
    pub fn direct_urls(&self, id: &str) -> Arc<[String]> {
        let state = self.state();
        let found = state.tenant(&TenantId::from(id));
        found.map_or_else(Arc::default, |entry| entry.direct_urls.clone())
    }

    /// The ids of all tenants.
    pub fn tenant_ids(&self) -> Vec<Arc<str>> {
        let state = self.state();
        state.tenants().map(|(id, _)| id.shared()).collect()
    }

    /// Whether a caller's key is still valid and its tenant may work.
    pub fn principal_may_stay(&self, principal: &Principal) -> bool {
        !self.is_stale() && self.state().principal_may_stay(principal)
    }

    /// Whose tunnel it would be, the key (32 bytes) that must have signed its HELLO, and whether
    /// that bridge may still come; `None` for what was never registered. The tenant is named by
    /// its id or name.
    pub fn identity(&self, tenant: &str, bridge: &str, instance: &[u8; 16]) -> Option<TunnelClaim> {
        self.state().identity(tenant, bridge, instance)
    }

    /// What a bridge may do with each of the endpoints that it declares, in their order; and whether
    /// it may serve hosts, which a bridge whose key lists endpoints may not.
    pub fn endpoints_of<'a>(
        &self,
        owner: &TunnelOwner,
        declared: impl Iterator<Item = &'a str>,
    ) -> (Vec<Standing>, bool) {
        self.state().endpoints_of(owner, declared)
    }

    /// The names of the valid bridges of a tenant (its id) that have an endpoint's name.
    pub fn holders_of(&self, tenant: &str, endpoint: &str) -> Vec<Arc<str>> {
        self.state().holders_of(tenant, endpoint)
    }

    /// The endpoint names that belong to a bridge (its id) of a tenant (its id), in order.
    pub fn claimed_by(&self, tenant: &str, bridge: &str) -> Vec<String> {
        self.state().claimed_by(tenant, bridge)
    }

    /// The revision at which the outcome of [`Self::endpoints_of`] may have changed last.
    pub fn claims_revision(&self) -> i64 {
        self.state().claims_revision()
    }

    /// Whether a tunnel's owner may still have one.
    pub fn owner_may_stay(&self, owner: &TunnelOwner) -> bool {
        self.why_cut(owner).is_none()
    }

    /// Why a tunnel must end now, if it must.
    pub fn why_cut(&self, owner: &TunnelOwner) -> Option<EndReason> {
        // It may come back when the database answers again.
        let stale = self.is_stale().then_some(EndReason::Draining);
        self.state().why_cut(owner).or(stale)
    }

    /// The valid bridges of a tenant (its id), by name.
    pub fn bridges_of(&self, tenant: &str) -> Vec<BridgeSummary> {
        self.state().bridges_of(tenant)
    }
}

impl Paired for Directory {
    fn bridges(&self, tenant: &str) -> Vec<PairedBridge> {
        let bridges = self.state().bridges_of(tenant).into_iter();
        let paired = bridges.map(|bridge| PairedBridge {
            name: bridge.name,
            installations: bridge.installations,
        });
        paired.collect()
    }
}

#[cfg(test)]
mod tests;
