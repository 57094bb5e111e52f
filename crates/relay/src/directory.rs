//! Tenants, keys and bridges in memory: what the data path asks instead of the database.
//!
//! ```text
//! Storage --- revision, every 500 ms, and at once after a change here ---> Directory
//! Directory --- changed() ---> exchanges whose key and tunnels whose bridge is gone are cut
//! ```
//!
//! Only rows of a newer revision are read. While the database does not answer, the last state
//! stands.

mod state;

pub use state::{BridgeSummary, Standing, TunnelClaim};

use crate::auth::{Credentials, Principal};
use crate::denials::Who;
use crate::registry::Owner;
use crate::router::Paired;
use crate::storage::tenants::SITE;
use crate::storage::{ClientId, SecretHash, Storage, StorageError, TenantId, TenantState, now};
use protocol::session::EndReason;
use protocol::{Code, Failure};
use state::State;
use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};
use tokio::sync::{Mutex, watch};

/// How often the database is asked for a newer revision. A key that another process revoked is
/// cut within this, so well within the 2 s that are promised.
pub const REFRESH: Duration = Duration::from_millis(500);

/// How often, at most, the database is asked because of a key that is not known.
pub const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// The state in memory.
#[derive(Debug)]
pub struct Directory {
    storage: Storage,
    state: RwLock<State>,
    changed: watch::Sender<i64>,
    /// When it was asked last; held while it is asked.
    asked: Mutex<Instant>,
}

impl Directory {
    /// Reads everything that is valid.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not answer.
    pub async fn load(storage: Storage) -> Result<Arc<Self>, StorageError> {
        let directory = Arc::new(Self {
            storage,
            state: RwLock::default(),
            changed: watch::Sender::new(0),
            asked: Mutex::new(Instant::now()),
        });
        directory.refresh().await?;
        Ok(directory)
    }

    fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
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

    /// Reads what changed until now. Callers that come together share one look, and there is at
    /// most one every [`LOOK_AGAIN`].
    pub async fn look_again(&self) {
        let arrived = Instant::now();
        let mut asked = self.asked.lock().await;
        if *asked > arrived {
            return;
        }
        tokio::time::sleep(LOOK_AGAIN.saturating_sub(asked.elapsed())).await;
        *asked = Instant::now();
        if let Err(error) = self.read_newer().await {
            tracing::debug!(%error, "the database does not answer");
        }
    }

    async fn read_newer(&self) -> Result<(), StorageError> {
        let known = self.state().revision();
        let newer = self.storage.revision().await? != known;
        let changes = if newer {
            Some(self.storage.changes_since(known).await?)
        } else {
            None
        };
        let changed = {
            let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
            let expired = state.expire(now());
            if let Some(changes) = changes {
                state.apply(changes);
            }
            newer || expired
        };
        if changed {
            self.changed.send_modify(|turn| *turn += 1);
        }
        Ok(())
    }

    /// Keeps the state fresh until it is dropped.
    pub async fn keep_fresh(self: Arc<Self>) {
        let mut failing = false;
        loop {
            tokio::time::sleep(REFRESH).await;
            match self.refresh().await {
                Ok(()) => failing = false,
                Err(error) if !failing => {
                    failing = true;
                    tracing::warn!(%error, "the database does not answer; what is known stays valid");
                }
                Err(_) => {}
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
    /// `tenant_suspended`.
    pub fn authenticate(&self, credentials: &Credentials) -> Result<Principal, Failure> {
        let presented = credentials.secret.hash();
        let state = self.state();
        let entry = state.key(&credentials.client_id);
        let now = now();
        let matches = match entry {
            Some(entry) => entry.matches(&presented, now),
            // As much work as for a key that is known.
            None => presented.matches(&SecretHash::nobodys()) & presented.matches(&presented),
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
        self.state().principal_may_stay(principal)
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
        owner: &Owner,
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
    pub fn owner_may_stay(&self, owner: &Owner) -> bool {
        self.why_cut(owner).is_none()
    }

    /// Why a tunnel must end now, if it must.
    pub fn why_cut(&self, owner: &Owner) -> Option<EndReason> {
        self.state().why_cut(owner)
    }

    /// The valid bridges of a tenant (its id), by name.
    pub fn bridges_of(&self, tenant: &str) -> Vec<BridgeSummary> {
        self.state().bridges_of(tenant)
    }
}

impl Paired for Directory {
    fn bridges(&self, tenant: &str) -> Vec<Arc<str>> {
        let bridges = self.state().bridges_of(tenant);
        bridges.into_iter().map(|bridge| bridge.name).collect()
    }
}

#[cfg(test)]
mod tests;
