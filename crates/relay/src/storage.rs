//! What must survive a restart: tenants, API keys, bridges.
//!
//! [`Storage`] is the one interface; behind it is SQLite or PostgreSQL (`db`): statements are the
//! same for both, ids and times are made here. Several processes may have the same database open: every change raises one revision in its own transaction, and
//! [`Storage::changes_since`] tells the others what it touched. Nothing on the data path comes
//! here; that reads the `directory`.

pub mod batch;
pub mod calls;
mod changes;
mod db;
pub mod leases;
mod model;
mod pairing;
mod postgres;
mod rows;
pub mod secrets;
mod sqlite;
#[cfg(test)]
mod tests;

pub(crate) use model::words;
pub use model::{
    ApiKey, Bridge, BridgeId, BridgeIdentity, Changes, ClientId, Existing, IdentityId, NoRandom,
    Role, Secret, SecretHash, Tenant, TenantId, TenantState, UnknownWord, is_valid_name, now,
    now_ms, random,
};
pub use pairing::{Paired, Pairing};

use crate::config::Database;
use db::{Backend, Tx};
use protocol::{Code, Failure};
use sqlx::{AnyPool, Row};

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
}

/// What `key revoke` did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revoked {
    /// Bridges that lost their last installation with the key, by name.
    pub bridges: Vec<String>,
}

impl Storage {
    /// Opens the database, and creates or migrates its tables.
    ///
    /// # Errors
    /// [`StorageError::Unusable`] for one that is none of ours or cannot be reached,
    /// [`StorageError::Unavailable`] when the disk or another process stands in the way.
    pub async fn open(database: &Database) -> Result<Self, StorageError> {
        let (pool, backend) = db::open(database).await?;
        Ok(Self { pool, backend })
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

    /// Creates a tenant.
    ///
    /// # Errors
    /// [`StorageError::Invalid`] for a name that may not be given, [`StorageError::Conflict`] for
    /// one that exists.
    pub async fn create_tenant(&self, name: &str) -> Result<Tenant, StorageError> {
        if !is_valid_name(name) {
            return Err(invalid_name("tenant", name));
        }
        let (mut tx, revision) = self.change().await?;
        let tenant = Tenant {
            id: TenantId::random()?,
            name: name.to_owned(),
            state: TenantState::Active,
            created: now(),
        };
        let inserted = sqlx::query(
            "INSERT INTO tenants (id, name, state, created, revision) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (name) DO NOTHING",
        )
        .bind(tenant.id.as_str())
        .bind(&tenant.name)
        .bind(tenant.state.as_str())
        .bind(tenant.created)
        .bind(revision)
        .execute(&mut *tx)
        .await?;
        if inserted.rows_affected() == 0 {
            return Err(StorageError::Conflict(format!(
                "there is a tenant `{name}` already"
            )));
        }
        tx.commit().await?;
        Ok(tenant)
    }

    /// All tenants, by name.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not answer.
    pub async fn tenants(&self) -> Result<Vec<Tenant>, StorageError> {
        let rows = sqlx::query("SELECT * FROM tenants WHERE id <> 'site' ORDER BY name")
            .fetch_all(&self.pool)
            .await?;
        rows.iter().map(rows::tenant).collect()
    }

    /// The tenant of that name.
    ///
    /// # Errors
    /// [`StorageError::NotFound`].
    pub async fn tenant(&self, name: &str) -> Result<Tenant, StorageError> {
        let row = sqlx::query("SELECT * FROM tenants WHERE name = $1")
            .bind(name)
            .fetch_optional(&self.pool)
            .await?;
        let row = row.ok_or_else(|| no_tenant(name))?;
        rows::tenant(&row)
    }

    /// Suspends a tenant, or lets it work again.
    ///
    /// # Errors
    /// [`StorageError::NotFound`].
    pub async fn set_tenant_state(
        &self,
        name: &str,
        state: TenantState,
    ) -> Result<(), StorageError> {
        let (mut tx, revision) = self.change().await?;
        let updated = sqlx::query("UPDATE tenants SET state = $1, revision = $2 WHERE name = $3")
            .bind(state.as_str())
            .bind(revision)
            .bind(name)
            .execute(&mut *tx)
            .await?;
        if updated.rows_affected() == 0 {
            return Err(no_tenant(name));
        }
        Ok(tx.commit().await?)
    }

    /// Creates an API key. Its secret exists in the answer alone.
    ///
    /// # Errors
    /// [`StorageError::NotFound`] for an unknown tenant, [`StorageError::Invalid`] for a name that
    /// is too long.
    pub async fn create_key(
        &self,
        tenant: &str,
        role: Role,
        name: &str,
        existing: Existing,
    ) -> Result<(ApiKey, Secret), StorageError> {
        if name.len() > model::NAME_MAX_BYTES || name.chars().any(char::is_control) {
            return Err(StorageError::Invalid(format!(
                "a key's name has at most {} bytes and no control characters",
                model::NAME_MAX_BYTES
            )));
        }
        let tenant = self.tenant(tenant).await?;
        let secret = Secret::random()?;
        let key = ApiKey {
            client_id: ClientId::random()?,
            tenant: tenant.id,
            role,
            name: name.to_owned(),
            secret_hash: secret.hash(),
            existing,
            created: now(),
            expires: None,
            revoked: None,
        };
        let (mut tx, revision) = self.change().await?;
        sqlx::query(
            "INSERT INTO api_keys
             (client_id, tenant_id, role, name, secret_hash, existing, created, revision)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        )
        .bind(key.client_id.as_str())
        .bind(key.tenant.as_str())
        .bind(key.role.as_str())
        .bind(&key.name)
        .bind(key.secret_hash.as_bytes())
        .bind(key.existing.as_str())
        .bind(key.created)
        .bind(revision)
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok((key, secret))
    }

    /// The API keys of a tenant, or of all, oldest first, revoked ones included.
    ///
    /// # Errors
    /// [`StorageError::NotFound`] for an unknown tenant.
    pub async fn keys(&self, tenant: Option<&str>) -> Result<Vec<ApiKey>, StorageError> {
        let only = self.tenant_filter(tenant).await?;
        let rows = sqlx::query(
            "SELECT * FROM api_keys WHERE ($1 = '' OR tenant_id = $1) ORDER BY created, client_id",
        )
        .bind(only)
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(rows::key).collect()
    }

    /// Revokes an API key, and the installations of bridges that were paired with it unless
    /// `keep_bridges`. A bridge that is left without any is revoked as a whole.
    ///
    /// # Errors
    /// [`StorageError::NotFound`] for a client id that is unknown or revoked.
    pub async fn revoke_key(
        &self,
        client_id: &str,
        keep_bridges: bool,
    ) -> Result<Revoked, StorageError> {
        let (mut tx, revision) = self.change().await?;
        let now = now();
        let updated = sqlx::query(
            "UPDATE api_keys SET revoked = $1, revision = $2
             WHERE client_id = $3 AND revoked IS NULL",
        )
        .bind(now)
        .bind(revision)
        .bind(client_id)
        .execute(&mut *tx)
        .await?;
        if updated.rows_affected() == 0 {
            return Err(StorageError::NotFound(format!(
                "there is no valid key with the client id `{client_id}`"
            )));
        }
        let mut bridges = Vec::new();
        if !keep_bridges {
            sqlx::query(
                "UPDATE bridge_identities SET revoked = $1, revision = $2
                 WHERE paired_by = $3 AND revoked IS NULL",
            )
            .bind(now)
            .bind(revision)
            .bind(client_id)
            .execute(&mut *tx)
            .await?;
            let rows = sqlx::query(
                "UPDATE bridges SET revoked = $1, revision = $2
                 WHERE revoked IS NULL
                 AND id IN (SELECT bridge_id FROM bridge_identities WHERE revision = $2)
                 AND NOT EXISTS (SELECT 1 FROM bridge_identities i
                                 WHERE i.bridge_id = bridges.id AND i.revoked IS NULL)
                 RETURNING name",
            )
            .bind(now)
            .bind(revision)
            .fetch_all(&mut *tx)
            .await?;
            for row in rows {
                bridges.push(row.try_get("name")?);
            }
        }
        tx.commit().await?;
        Ok(Revoked { bridges })
    }

    /// The bridges of a tenant, or of all, by name, revoked ones included.
    ///
    /// # Errors
    /// [`StorageError::NotFound`] for an unknown tenant.
    pub async fn bridges(&self, tenant: Option<&str>) -> Result<Vec<Bridge>, StorageError> {
        let only = self.tenant_filter(tenant).await?;
        let rows = sqlx::query(
            "SELECT * FROM bridges WHERE ($1 = '' OR tenant_id = $1) ORDER BY name, created, id",
        )
        .bind(only)
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(rows::bridge).collect()
    }

    /// Revokes a bridge of a tenant (its id) with all its installations. Its name becomes free.
    ///
    /// # Errors
    /// [`StorageError::NotFound`] when the tenant has no valid bridge of that name.
    pub async fn revoke_bridge(&self, tenant: &str, name: &str) -> Result<(), StorageError> {
        let (mut tx, revision) = self.change().await?;
        let now = now();
        let row = sqlx::query(
            "UPDATE bridges SET revoked = $1, revision = $2
             WHERE tenant_id = $3 AND name = $4 AND revoked IS NULL RETURNING id",
        )
        .bind(now)
        .bind(revision)
        .bind(tenant)
        .bind(name)
        .fetch_optional(&mut *tx)
        .await?;
        let Some(row) = row else {
            return Err(StorageError::NotFound(format!(
                "there is no bridge `{name}`"
            )));
        };
        let bridge: String = row.try_get("id")?;
        pairing::revoke_identities(&mut tx, &bridge, now, revision).await?;
        Ok(tx.commit().await?)
    }

    async fn tenant_filter(&self, tenant: Option<&str>) -> Result<String, StorageError> {
        Ok(match tenant {
            Some(name) => self.tenant(name).await?.id.as_str().to_owned(),
            None => String::new(),
        })
    }
}

fn no_tenant(name: &str) -> StorageError {
    StorageError::NotFound(format!("there is no tenant `{name}`"))
}

fn invalid_name(what: &str, name: &str) -> StorageError {
    StorageError::Invalid(format!(
        "`{}` is no name for a {what}: use 1 to 64 letters, digits, `.`, `_` or `-`",
        name.escape_debug().take(80).collect::<String>()
    ))
}
