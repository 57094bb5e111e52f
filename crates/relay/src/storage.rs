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
pub mod idempotency;
pub mod keys;
pub mod leases;
mod lock;
mod model;
pub mod notices;
mod pairing;
mod pool;
mod postgres;
mod rows;
pub mod secrets;
mod sqlite;
pub mod tenants;
#[cfg(test)]
mod tests;

pub use claims::{Claim, ClaimKind};
pub use keys::{NewKey, Revoked};
pub use lock::{ServingLock, check_name, lock, lock_existing};
pub(crate) use model::words;
pub use model::{
    ApiKey, Bridge, BridgeId, BridgeIdentity, Changes, ClientId, Existing, IdentityId, NoRandom,
    Role, Scope, Secret, SecretHash, Tenant, TenantId, TenantState, UnknownWord, is_valid_name,
    now, now_ms, random,
};
pub use pairing::{Paired, Pairing};

use crate::config::Database;
use db::{Backend, Connecting};
use pool::{Pool, Tx};
use protocol::{Code, Execution, Failure};
use sqlx::Row;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use tokio::sync::Notify;

/// Installations of one bridge that are not revoked.
pub const IDENTITIES_MAX: i64 = 16;

/// Bytes by which [`Storage::try_write`] tries: about those of a large call.
const TRIED_BYTES: usize = 16 << 10;

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
    /// The database did not say whether the change was made, and could not be asked again.
    #[error("the database did not say whether it was stored: {0}")]
    Unknown(#[source] sqlx::Error),
    /// The file is no database of this program, or of a newer version of it.
    #[error("the database cannot be used: {0}")]
    Unusable(String),
    /// A defect.
    #[error("the database answered with an error: {0}")]
    Database(#[source] sqlx::Error),
    /// No randomness.
    #[error(transparent)]
    Random(#[from] NoRandom),
    /// Another process serves now.
    #[error("this relay does not hold the lease: another one serves")]
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
            StorageError::Unknown(_) => Self::new(
                Code::Overloaded,
                Execution::PossiblyExecuted,
                "the database did not say whether it was stored: look whether it was before you \
                 ask again",
            ),
            // Details of the database are for the log.
            StorageError::LeaseLost => Self::not_sent(Code::Standby, detail),
            StorageError::Unusable(_) | StorageError::Database(_) | StorageError::Random(_) => {
                Self::not_sent(Code::Internal, "the relay could not store it")
            }
        }
    }
}

/// The database. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Storage {
    pool: Pool,
    backend: Backend,
    connecting: Connecting,
    /// Who is written down as having done what this handle does.
    actor: Arc<str>,
    /// The epoch that changes are made under, in a process that serves; zero for none. Commands have
    /// no fence.
    fence: Option<Arc<AtomicI64>>,
    touched: Arc<Touched>,
}

/// Says that something was stored by which an earlier copy of the database must show.
#[derive(Debug, Default)]
struct Touched {
    is_set: AtomicBool,
    set: Notify,
}

impl Storage {
    /// Opens the database, and creates or migrates its tables.
    ///
    /// # Errors
    /// [`StorageError::Unusable`] for one that is none of ours or cannot be reached,
    /// [`StorageError::Unavailable`] when the disk or another process stands in the way.
    pub async fn open(database: &Database) -> Result<Self, StorageError> {
        let (pool, backend, connecting) = db::open(database).await?;
        Ok(Self {
            pool,
            backend,
            connecting,
            actor: "relay".into(),
            fence: None,
            touched: Arc::default(),
        })
    }

    /// The same database, for a process that serves: what it changes needs the lease from now on.
    #[must_use]
    pub fn fenced(self) -> Self {
        Self {
            fence: Some(Arc::default()),
            ..self
        }
    }

    /// Changes are made under this epoch of the lease from now on; zero for none.
    pub fn hold(&self, epoch: i64) {
        if let Some(fence) = &self.fence {
            fence.store(epoch, Ordering::Release);
        }
    }

    /// A connection that is not in the pool.
    async fn connect(&self) -> Result<sqlx::AnyConnection, sqlx::Error> {
        self.connecting.connect().await
    }

    /// The same database, for what is done in the name of `actor`: a client id, or `cli:ACCOUNT`.
    pub fn acting(&self, actor: &str) -> Self {
        Self {
            actor: actor.into(),
            ..self.clone()
        }
    }

    /// A change of deliveries was stored. An older copy of the database must be noticed from here on.
    pub(crate) fn touched(&self) {
        self.touched.is_set.store(true, Ordering::Release);
        self.touched.set.notify_one();
    }

    /// Waits until [`Self::take_touched`] has something to return.
    pub(crate) async fn wait_touched(&self) {
        while !self.touched.is_set.load(Ordering::Acquire) {
            self.touched.set.notified().await;
        }
    }

    /// Whether changes of deliveries were stored since this was asked last.
    pub(crate) fn take_touched(&self) -> bool {
        self.touched.is_set.swap(false, Ordering::AcqRel)
    }

    /// Writes one row that no code reads, to test whether the database can be written now.
    ///
    /// # Errors
    /// [`StorageError`] when it cannot.
    pub async fn try_write(&self) -> Result<(), StorageError> {
        let mut tx = self.pool.begin_with(self.backend.begin()).await?;
        // On a full disk a smaller change may still fit where a larger one began and did not fit.
        let payload = match self.backend {
            Backend::Sqlite => vec![0; TRIED_BYTES],
            Backend::Postgres => Vec::new(),
        };
        sqlx::query("UPDATE readiness SET at_ms = $1, payload = $2 WHERE id = 1")
            .bind(now_ms())
            .bind(payload)
            .execute(&mut *tx)
            .await?;
        tx.commit().await
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
        if let Some(fence) = &self.fence
            && leases::epoch_of(&mut tx, self.backend).await? != fence.load(Ordering::Acquire)
        {
            return Err(StorageError::LeaseLost);
        }
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
