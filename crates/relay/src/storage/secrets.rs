//! What is sealed, and the marks by which lost journals and wrong key files show.

use super::calls::Via;
use super::{Storage, StorageError};
use sqlx::Row as _;

/// A sealed signing secret.
#[derive(Debug, Clone)]
pub struct SealedSecret {
    /// Its id.
    pub id: String,
    /// Sealed under its tenant's key.
    pub sealed: Vec<u8>,
    /// When it was made, in seconds since 1970.
    pub created: i64,
    /// Until when it signs, if a newer one is there.
    pub expires: Option<i64>,
}

impl Storage {
    /// Whether the key file's mark is this database's; a database without one takes it.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not answer.
    pub async fn key_check(&self, mark: &[u8]) -> Result<bool, StorageError> {
        let mut tx = self.pool.begin_with(self.backend.begin()).await?;
        sqlx::query("UPDATE meta SET key_check = $1 WHERE id = 1 AND key_check IS NULL")
            .bind(mark.to_vec())
            .execute(&mut *tx)
            .await?;
        let row = sqlx::query("SELECT key_check FROM meta WHERE id = 1")
            .fetch_one(&mut *tx)
            .await?;
        let known: Vec<u8> = row.try_get("key_check")?;
        tx.commit().await?;
        Ok(bool::from(subtle::ConstantTimeEq::ct_eq(&known[..], mark)))
    }

    /// A tenant's sealed key; `offered` becomes it if there is none.
    ///
    /// # Errors
    /// [`StorageError::NotFound`] for a tenant that is gone.
    pub async fn tenant_key(&self, tenant: &str, offered: &[u8]) -> Result<Vec<u8>, StorageError> {
        let known = "SELECT sealed FROM tenant_keys WHERE tenant_id = $1";
        let row = sqlx::query(known)
            .bind(tenant)
            .fetch_optional(&self.pool)
            .await?;
        if let Some(row) = row {
            return Ok(row.try_get("sealed")?);
        }
        let mut tx = self.pool.begin_with(self.backend.begin()).await?;
        tx.lock_tenant(tenant).await?;
        sqlx::query(
            "INSERT INTO tenant_keys (tenant_id, sealed)
             SELECT id, $1 FROM tenants WHERE id = $2 AND state <> 'deleted'
             ON CONFLICT (tenant_id) DO NOTHING",
        )
        .bind(offered.to_vec())
        .bind(tenant)
        .execute(&mut *tx)
        .await?;
        let row = sqlx::query(known)
            .bind(tenant)
            .fetch_optional(&mut *tx)
            .await?;
        tx.commit().await?;
        let row = row.ok_or_else(|| StorageError::NotFound("the tenant is gone".into()))?;
        Ok(row.try_get("sealed")?)
    }

    /// A tenant's signing secrets that are still good, newest first.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not answer.
    pub async fn signing_secrets(
        &self,
        tenant: &str,
        now: i64,
    ) -> Result<Vec<SealedSecret>, StorageError> {
        let rows = sqlx::query(
            "SELECT id, sealed, created, expires FROM signing_secrets
             WHERE tenant_id = $1 AND (expires IS NULL OR expires > $2)
             ORDER BY created DESC, id DESC",
        )
        .bind(tenant)
        .bind(now)
        .fetch_all(&self.pool)
        .await?;
        rows.iter()
            .map(|row| {
                Ok(SealedSecret {
                    id: row.try_get("id")?,
                    sealed: row.try_get("sealed")?,
                    created: row.try_get("created")?,
                    expires: row.try_get("expires")?,
                })
            })
            .collect()
    }

    /// Adds a signing secret. Those before stay good until `until`; with `only_first`, nothing
    /// happens where there is one. Returns whether it was added.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not answer.
    pub async fn add_signing_secret(
        &self,
        tenant: &str,
        secret: &SealedSecret,
        until: i64,
        only_first: bool,
    ) -> Result<bool, StorageError> {
        let mut tx = self.pool.begin_with(self.backend.begin()).await?;
        tx.lock_tenant(tenant).await?;
        let guard = match only_first {
            true => {
                "INSERT INTO signing_secrets (id, tenant_id, sealed, created)
                 SELECT $1, id, $2, $3 FROM tenants WHERE id = $4 AND state <> 'deleted'
                 AND NOT EXISTS (SELECT 1 FROM signing_secrets WHERE tenant_id = $4
                                 AND expires IS NULL)"
            }
            false => {
                "INSERT INTO signing_secrets (id, tenant_id, sealed, created)
                 SELECT $1, id, $2, $3 FROM tenants WHERE id = $4 AND state <> 'deleted'"
            }
        };
        if !only_first {
            sqlx::query(
                "UPDATE signing_secrets SET expires = $1
                 WHERE tenant_id = $2 AND (expires IS NULL OR expires > $1)",
            )
            .bind(until)
            .bind(tenant)
            .execute(&mut *tx)
            .await?;
        }
        let added = sqlx::query(guard)
            .bind(&secret.id)
            .bind(secret.sealed.clone())
            .bind(secret.created)
            .bind(tenant)
            .execute(&mut *tx)
            .await?;
        // Those whose time is over are of no use to anybody.
        sqlx::query("DELETE FROM signing_secrets WHERE tenant_id = $1 AND expires <= $2")
            .bind(tenant)
            .bind(secret.created)
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(added.rows_affected() > 0)
    }

    /// Whether a journal of this mark can hold what the relay knows of the installation: the same one, and not
    /// behind what was seen. Changes nothing.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not answer.
    pub async fn journal_holds(
        &self,
        via: &Via,
        journal: &[u8],
        sequence: i64,
    ) -> Result<bool, StorageError> {
        let row = sqlx::query(
            "SELECT journal, sequence FROM journals WHERE bridge_id = $1 AND instance = $2",
        )
        .bind(&*via.bridge)
        .bind(via.instance.clone())
        .fetch_optional(&self.pool)
        .await?;
        let Some(row) = row else { return Ok(true) };
        let known: Vec<u8> = row.try_get("journal")?;
        Ok(known == journal && sequence >= row.try_get::<i64, _>("sequence")?)
    }

    /// An installation has shown its journal's mark. Returns whether that journal is one that can
    /// hold what the relay knows of it: the same one, and not behind what was seen.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not answer.
    pub async fn journal_seen(
        &self,
        tenant: &str,
        via: &Via,
        journal: &[u8],
        sequence: i64,
        now_ms: i64,
    ) -> Result<bool, StorageError> {
        let mut tx = self.pool.begin_with(self.backend.begin()).await?;
        tx.lock_tenant(tenant).await?;
        let row = sqlx::query(
            "SELECT journal, sequence FROM journals WHERE bridge_id = $1 AND instance = $2",
        )
        .bind(&*via.bridge)
        .bind(via.instance.clone())
        .fetch_optional(&mut *tx)
        .await?;
        let holds = match row {
            None => true,
            Some(row) => {
                let known: Vec<u8> = row.try_get("journal")?;
                known == journal && sequence >= row.try_get::<i64, _>("sequence")?
            }
        };
        sqlx::query(
            "INSERT INTO journals (bridge_id, instance, tenant_id, journal, sequence, seen_ms)
             SELECT $1, $2, id, $3, $4, $5 FROM tenants WHERE id = $6 AND state <> 'deleted'
             ON CONFLICT (bridge_id, instance)
             DO UPDATE SET journal = $3, sequence = $4, seen_ms = $5",
        )
        .bind(&*via.bridge)
        .bind(via.instance.clone())
        .bind(journal.to_vec())
        .bind(sequence)
        .bind(now_ms)
        .bind(tenant)
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(holds)
    }

    /// An installation is, or was until now, there.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not answer.
    pub async fn instance_alive(&self, via: &Via, now_ms: i64) -> Result<(), StorageError> {
        let mut tx = self.pool.begin_with(self.backend.begin()).await?;
        sqlx::query("UPDATE journals SET seen_ms = $1 WHERE bridge_id = $2 AND instance = $3")
            .bind(now_ms)
            .bind(&*via.bridge)
            .bind(via.instance.clone())
            .execute(&mut *tx)
            .await?;
        tx.commit().await
    }

    /// When an installation was last there, in milliseconds since 1970.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not answer.
    pub async fn instance_seen(&self, via: &Via) -> Result<Option<i64>, StorageError> {
        let row =
            sqlx::query("SELECT seen_ms FROM journals WHERE bridge_id = $1 AND instance = $2")
                .bind(&*via.bridge)
                .bind(via.instance.clone())
                .fetch_optional(&self.pool)
                .await?;
        Ok(row.map(|row| row.try_get("seen_ms")).transpose()?)
    }
}
