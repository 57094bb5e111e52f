//! Tenants, keys and bridges in memory: what the data path asks instead of the database.
//!
//! ```text
//! Storage --- revision, every 500 ms, and at once after a change here ---> Directory
//! Directory --- Principal with a Lease ---> exchanges    (cut when the key or tenant goes)
//! Directory --- changed() ---> tunnels whose owner is gone are cut by the registry
//! ```
//!
//! Only rows of a newer revision are read. While the database does not answer, the last state
//! stands.

mod state;

pub use state::{BridgeSummary, Identity};

use crate::auth::Credentials;
use crate::registry::Owner;
use crate::router::Paired;
use crate::storage::{
    ClientId, Existing, Role, SecretHash, Storage, StorageError, TenantId, TenantState, now,
};
use protocol::frame::RefusedCode;
use protocol::{Code, Failure};
use state::State;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;
use tokio::sync::{Mutex, watch};

/// How often the database is asked for a newer revision. A key that another process revoked is
/// cut within this, so well within the 2 s that are promised.
pub const REFRESH: Duration = Duration::from_millis(500);

/// Ends when what allowed a request is no longer true: its key revoked or expired, its tenant
/// suspended.
#[derive(Debug, Clone)]
pub struct Lease(watch::Receiver<Option<Code>>);

impl Lease {
    /// Waits for the end. Cancel safe. Does not return while all is well.
    pub async fn ended(&mut self) -> Failure {
        let code = match self.0.wait_for(Option::is_some).await {
            Ok(code) => code.unwrap_or(Code::Unauthorized),
            // The key is no longer known.
            Err(_) => Code::Unauthorized,
        };
        lease_failure(code)
    }

    /// The reason, if it has ended.
    pub fn failure(&self) -> Option<Failure> {
        match *self.0.borrow() {
            Some(code) => Some(lease_failure(code)),
            None if self.0.has_changed().is_err() => Some(lease_failure(Code::Unauthorized)),
            None => None,
        }
    }
}

fn lease_failure(code: Code) -> Failure {
    let detail = match code {
        Code::TenantSuspended => "the tenant is suspended",
        _ => "the API key is no longer valid",
    };
    Failure::not_sent(code, detail)
}

/// Who asks: an API key that proved itself.
#[derive(Debug, Clone)]
pub struct Principal {
    /// The tenant's id. Everything that is looked up for this request is looked up in it.
    pub tenant: TenantId,
    /// The tenant's name.
    pub tenant_name: Arc<str>,
    /// The key.
    pub client_id: ClientId,
    /// What it may do.
    pub role: Role,
    /// What it may do with a bridge's name that exists.
    pub existing: Existing,
    /// For how long.
    pub lease: Lease,
}

impl Principal {
    /// Whether the key has one of the roles.
    ///
    /// # Errors
    /// `forbidden`, naming both.
    pub fn require(&self, roles: &[Role]) -> Result<(), Failure> {
        if roles.contains(&self.role) {
            return Ok(());
        }
        let wanted: Vec<_> = roles.iter().map(|role| role.as_str()).collect();
        let wanted = wanted.join(" or ");
        let role = self.role;
        Err(Failure::not_sent(
            Code::Forbidden,
            format!("this needs a key with the role {wanted}, and this key has the role {role}"),
        ))
    }
}

/// The state in memory.
#[derive(Debug)]
pub struct Directory {
    storage: Storage,
    state: RwLock<State>,
    changed: watch::Sender<i64>,
    refreshing: Mutex<()>,
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
            refreshing: Mutex::new(()),
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
        let _one_at_a_time = self.refreshing.lock().await;
        let known = self.state().revision();
        let newer = self.storage.revision().await? != known;
        let changes = match newer {
            true => Some(self.storage.changes_since(known).await?),
            false => None,
        };
        let changed = {
            let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
            let expired = state.expire(now());
            if let Some(changes) = changes {
                state.apply(changes, now());
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
        let stored = entry.map_or_else(SecretHash::nobodys, |entry| entry.key.secret_hash);
        let matches = presented.matches(&stored);
        let (Some(entry), true) = (entry, matches) else {
            return Err(Failure::not_sent(
                Code::Unauthorized,
                "the client id or the secret is wrong, or the key is no longer valid",
            ));
        };
        if entry.key.expires.is_some_and(|expires| expires <= now()) {
            return Err(lease_failure(Code::Unauthorized));
        }
        let tenant = state.tenant(&entry.key.tenant);
        let Some(tenant) = tenant.filter(|tenant| tenant.state == TenantState::Active) else {
            return Err(lease_failure(Code::TenantSuspended));
        };
        Ok(Principal {
            tenant: entry.key.tenant.clone(),
            tenant_name: tenant.name.clone(),
            client_id: entry.key.client_id.clone(),
            role: entry.key.role,
            existing: entry.key.existing,
            lease: Lease(entry.lease.subscribe()),
        })
    }

    /// Which key must have signed a tunnel's HELLO.
    ///
    /// # Errors
    /// `Unauthorized` for what is not (or no longer) registered, `TenantSuspended`.
    pub fn identity(
        &self,
        tenant: &str,
        bridge: &str,
        instance: &[u8; 16],
    ) -> Result<Identity, RefusedCode> {
        self.state().identity(tenant, bridge, instance)
    }

    /// Whether a tunnel's owner may still have one.
    pub fn may_stay(&self, owner: &Owner) -> bool {
        self.state().may_stay(owner)
    }

    /// The tenant's bridges, by name.
    pub fn bridges_of(&self, tenant: &TenantId) -> Vec<BridgeSummary> {
        self.state().bridges_of(tenant.as_str())
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
