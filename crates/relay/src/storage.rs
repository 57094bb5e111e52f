//! The relay's tables: tenants, API keys, bridges, stored calls, audit rows and notices.
//!
//! [`Storage`] is the only interface to them. It uses [`store`], which opens SQLite or PostgreSQL, and provides
//! transactions, group commit and the lease; the statements here are the same text for both databases. Ids and
//! times are created in this process.
//!
//! Several processes may have the same database open. Each change raises one revision in its own transaction, and
//! [`Storage::changes_since`] returns to the other processes what changed. The data path does not come here: it
//! reads the `directory`.
//!
//! Nothing here imports `deliveries`, `auth`, `routing` or `api`: types that they share with the database are
//! defined here.

pub mod audit;
pub mod bridges;
pub mod calls;
mod changes;
pub mod claims;
pub mod idempotency;
mod journals;
pub mod keys;
mod model;
pub mod notices;
mod pairing;
mod rows;
mod scope;
pub mod secrets;
pub mod tenants;
#[cfg(test)]
mod tests;

pub use claims::{Claim, ClaimKind};
pub use keys::{NewKey, Revoked};
pub(crate) use model::hex;
pub use model::{
    ApiKey, Bridge, BridgeId, BridgeIdentity, Changes, ClientId, Existing, IdentityId, NoRandom,
    Role, Secret, SecretHash, Tenant, TenantId, TenantState, UnknownWord, now, now_ms, random,
    trusted_now_ms,
};
pub use pairing::{Paired, Pairing};
pub use scope::Scope;
pub use store::{
    Database, ServingLock, StoreError, WriteError, check_name, is_backup, lock, lock_existing,
};
pub(crate) use store::{check, replace};

use audit::AuditEvent;
use protocol::{Code, Execution, Failure};
use sqlx::Row as _;
use std::ops::Deref;
use std::sync::Arc;
use store::lease::LeaseConnection;
use store::{Migrations, Store};
use tenants::SITE;

static MIGRATIONS: Migrations = store::migrations!(
    "../migrations",
    [
        "0001_tenants_keys_bridges",
        "0002_service",
        "0003_inspection",
        "0004_deliveries",
        "0005_storage",
        "0006_standby",
        "0007_keys",
        "0008_call_labels",
        "0009_audit_seals",
        "0010_audit_by_object",
        "0011_pairing_files",
    ]
);

/// The lease of the process that serves.
const LEASE: &str = "relay";

/// Installations of one bridge that are not revoked.
pub const IDENTITIES_MAX: i64 = 16;

/// Commits changes of stored calls and idempotency keys in groups.
pub type Batch = store::Batch<calls::Write>;

/// Why something was not stored or found.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// It conflicts with existing data.
    #[error("{0}")]
    Conflict(String),
    /// It does not exist.
    #[error("{0}")]
    NotFound(String),
    /// A given value is not acceptable.
    #[error("{0}")]
    Invalid(String),
    /// It was changed since the caller read it.
    #[error("it was changed meanwhile: read it again")]
    Changed,
    /// The API key was revoked or expired meanwhile, or its tenant was suspended.
    #[error("the API key is no longer valid")]
    KeyGone,
    /// The API key is that of a pairing file, and has paired a bridge already.
    #[error(
        "the key of this pairing file has paired a bridge already, and it pairs one only: create another pairing file"
    )]
    KeySpent,
    /// The operating system returned no random bytes.
    #[error(transparent)]
    Random(#[from] NoRandom),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<sqlx::Error> for StorageError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

impl From<StorageError> for Failure {
    fn from(error: StorageError) -> Self {
        let detail = error.to_string();
        match error {
            StorageError::Conflict(_) => Self::not_sent(Code::Conflict, detail),
            StorageError::NotFound(_) => Self::not_sent(Code::NotFound, detail),
            StorageError::Invalid(_) => Self::not_sent(Code::InvalidRequest, detail),
            StorageError::Changed => Self::not_sent(Code::PreconditionFailed, detail),
            StorageError::KeyGone => Self::not_sent(Code::Unauthorized, detail),
            StorageError::KeySpent => Self::not_sent(Code::KeySpent, detail),
            StorageError::Store(StoreError::LeaseLost) => Self::not_sent(Code::Standby, detail),
            // Details of the database are for the log, not for callers.
            StorageError::Store(StoreError::Unavailable(_)) => {
                Self::not_sent(Code::Overloaded, "the relay cannot store anything now")
            }
            StorageError::Store(StoreError::OutcomeUnknown(_)) => Self::new(
                Code::Overloaded,
                Execution::PossiblyExecuted,
                "the database did not confirm whether the change was stored: check whether it was \
                 before you retry",
            ),
            StorageError::Store(StoreError::Unusable(_) | StoreError::Database(_))
            | StorageError::Random(_) => {
                Self::not_sent(Code::Internal, "the relay could not store it")
            }
        }
    }
}

/// The relay's database. Cheap to clone. What does not concern the relay's own tables is the [`Store`]'s, to which it
/// dereferences.
#[derive(Debug, Clone)]
pub struct Storage {
    store: Store,
    /// The actor in the audit rows of changes that this handle makes.
    actor: Arc<str>,
}

impl Deref for Storage {
    type Target = Store;

    fn deref(&self) -> &Store {
        &self.store
    }
}

impl Storage {
    /// Opens the database, and creates or migrates its tables.
    ///
    /// # Errors
    /// [`StoreError::Unusable`] for a database that is not the relay's or that cannot be reached,
    /// [`StoreError::Unavailable`] when the disk or another process prevents it.
    pub async fn open(database: &Database) -> Result<Self, StorageError> {
        Ok(Self {
            store: Store::open(database, &MIGRATIONS).await?,
            actor: "relay".into(),
        })
    }

    /// Returns the same database for a process that serves: from now on, its changes need the lease.
    #[must_use]
    pub fn fenced(self) -> Self {
        Self {
            store: self.store.fenced(LEASE),
            ..self
        }
    }

    /// Returns the same database for changes in the name of `actor`: a client id, or `cli:ACCOUNT`.
    pub fn acting(&self, actor: &str) -> Self {
        Self {
            actor: actor.into(),
            ..self.clone()
        }
    }

    /// Starts the task that commits changes in groups.
    pub(crate) fn start_batch(&self) -> Batch {
        Batch::start(self.store.clone(), LEASE)
    }

    /// Returns a view of the lease, on a connection of its own.
    pub(crate) fn lease(&self) -> LeaseConnection {
        LeaseConnection::new(self.store.clone(), LEASE)
    }

    /// Returns everything that changed after `revision`; after 0, everything that is valid.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not respond.
    pub async fn changes_since(&self, revision: i64) -> Result<Changes, StorageError> {
        changes::changes_since(&self.store, revision).await
    }

    /// Returns whether deliveries are paused until an operator resumes them.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not respond.
    pub async fn deliveries_paused(&self) -> Result<bool, StorageError> {
        let row = sqlx::query("SELECT deliveries_paused FROM meta WHERE id = 1")
            .fetch_one(self.pool())
            .await?;
        Ok(row.try_get::<i64, _>("deliveries_paused")? != 0)
    }

    /// Pauses deliveries, or resumes them.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not respond.
    pub async fn set_deliveries_paused(&self, paused: bool) -> Result<(), StorageError> {
        let mut tx = self.begin().await?;
        sqlx::query("UPDATE meta SET deliveries_paused = $1 WHERE id = 1")
            .bind(i64::from(paused))
            .execute(&mut *tx)
            .await?;
        let action = match paused {
            true => "deliveries.pause",
            false => "deliveries.resume",
        };
        let event = AuditEvent::done(SITE, action, "");
        audit::add(&mut tx, &self.actor, &event).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Returns the id of a tenant given by name; empty for all tenants.
    async fn tenant_filter(&self, tenant: Option<&str>) -> Result<String, StorageError> {
        Ok(match tenant {
            Some(name) => self.tenant(name).await?.id.as_str().to_owned(),
            None => String::new(),
        })
    }
}

/// Checks the name of a tenant or a bridge.
fn require_name(what: &'static str, name: &str) -> Result<(), StorageError> {
    protocol::name::check(what, name).map_err(|error| StorageError::Invalid(error.to_string()))
}
