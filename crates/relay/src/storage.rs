//! What must survive a restart: tenants, API keys, bridges.
//!
//! [`Storage`] is the one interface; behind it is SQLite or PostgreSQL (`db`): statements are the
//! same for both, ids and times are made here. Several processes may have the same database open: every change raises one revision in its own transaction, and
//! [`Storage::changes_since`] tells the others what it touched. Nothing on the data path comes
//! here; that reads the `directory`.

pub mod audit;
mod backup;
pub mod batch;
pub mod bridges;
pub mod call_pages;
pub mod call_scan;
pub mod calls;
mod changes;
pub mod claims;
mod db;
pub mod keys;
pub mod leases;
mod model;
pub mod notices;
mod pairing;
mod postgres;
mod rows;
pub mod secrets;
mod sqlite;
pub mod tenants;
#[cfg(test)]
mod tests;

pub use backup::{ServingLock, lock};
pub use claims::{Claim, ClaimKind};
pub use keys::{NewKey, Revoked};
pub(crate) use model::words;
pub use model::{
    ApiKey, Bridge, BridgeId, BridgeIdentity, Changes, ClientId, Existing, IdentityId, NoRandom,
    Role, Scope, Secret, SecretHash, Tenant, TenantId, TenantState, UnknownWord, is_valid_name,
    now, now_ms, random,
};
pub use pairing::{Paired, Pairing};

use crate::config::Database;
use db::{Backend, Tx};
use protocol::{Code, Failure};
use sqlx::{AnyPool, Row};
use std::sync::Arc;

/// Installations of one bridge that are not revoked.
pub const IDENTITIES_MAX: i64 = 16;

/// Why something was not stored or found.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// It clashes with what exists.
    #[error("{0}")]
    Conflict(String),
    /// There is no such thing.
    #[error("{0}")]
    NotFound(String),
    /// What was given is not acceptable.
    #[error("{0}")]
    Invalid(String),
    /// It is not as the caller has seen it any more.
    #[error("it was changed meanwhile: read it again")]
    Changed,
    /// The API key that is to be used was revoked, expired, or its tenant suspended meanwhile.
    #[error("the API key is no longer valid")]
    KeyGone,
    /// The disk is full or failing, or another process holds the database: nothing was changed.
    #[error("the database cannot be written or read now: {0}")]
    Unavailable(#[source] sqlx::Error),
    /// The file is no database of this program, or of a newer version of it.
    #[error("the database cannot be used: {0}")]
    Unusable(String),
    /// A defect.
    #[error("the database answered with an error: {0}")]
    Database(#[source] sqlx::Error),
    /// No randomness.
    #[error(transparent)]
    Random(#[from] NoRandom),
    /// Another process has taken over the deliveries.
    #[error("another process has taken over the deliveries")]
    LeaseLost,
}

impl From<sqlx::Error> for StorageError {
    fn from(error: sqlx::Error) -> Self {
        if db::is_passing(&error) {
            Self::Unavailable(error)
        } else {
            Self::Database(error)
        }
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
            StorageError::Unavailable(_) => {
                Self::not_sent(Code::Overloaded, "the relay cannot store anything now")
            }
            // Details of the database are for the log.
            StorageError::Unusable(_)
            | StorageError::Database(_)
            | StorageError::Random(_)
            | StorageError::LeaseLost => {
                Self::not_sent(Code::Internal, "the relay could not store it")
            }
        }
    }
}

/// The database. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Storage {
    pool: AnyPool,
    backend: Backend,
    /// Who is written down as having done what this handle does.
    actor: Arc<str>,
}

impl Storage {
    /// Opens the database, and creates or migrates its tables.
    ///
    /// # Errors
    /// [`StorageError::Unusable`] for one that is none of ours or cannot be reached,
    /// [`StorageError::Unavailable`] when the disk or another process stands in the way.
    pub async fn open(database: &Database) -> Result<Self, StorageError> {
        let (pool, backend) = db::open(database).await?;
        Ok(Self {
            pool,
            backend,
            actor: "relay".into(),
        })
    }

    /// The same database, for what is done in the name of `actor`: a client id, or `cli:ACCOUNT`.
    pub fn acting(&self, actor: &str) -> Self {
        Self {
            actor: actor.into(),
            ..self.clone()
        }
    }

    /// Waits until everything is on disk, and closes.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// The revision of the last change.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not answer.
    pub async fn revision(&self) -> Result<i64, StorageError> {
        let row = sqlx::query("SELECT revision FROM meta WHERE id = 1")
            .fetch_one(&self.pool)
            .await?;
        Ok(row.try_get("revision")?)
    }

    /// Everything that changed after `revision`; after 0, everything that is valid.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not answer.
    pub async fn changes_since(&self, revision: i64) -> Result<Changes, StorageError> {
        changes::changes_since(&self.pool, self.backend, revision).await
    }

    /// Begins a change: takes the write lock and raises the revision.
    async fn change(&self) -> Result<(Tx, i64), StorageError> {
        let mut tx = self.pool.begin_with(self.backend.begin()).await?;
        let row =
            sqlx::query("UPDATE meta SET revision = revision + 1 WHERE id = 1 RETURNING revision")
                .fetch_one(&mut *tx)
                .await?;
        let revision = row.try_get("revision")?;
        Ok((tx, revision))
    }

    async fn tenant_filter(&self, tenant: Option<&str>) -> Result<String, StorageError> {
        Ok(match tenant {
            Some(name) => self.tenant(name).await?.id.as_str().to_owned(),
            None => String::new(),
        })
    }
}

fn invalid_name(what: &str, name: &str) -> StorageError {
    StorageError::Invalid(format!(
        "`{}` is no name for a {what}: use 1 to 64 letters, digits, `.`, `_` or `-`",
        name.escape_debug().take(80).collect::<String>()
    ))
}
