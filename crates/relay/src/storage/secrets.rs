//! Sealed keys and secrets, and the mark by which a wrong key file is detected.

use super::{Storage, StorageError, tenants};
use sqlx::Row as _;

/// A sealed signing secret.
#[derive(Debug, Clone)]
pub struct SealedSecret {
    /// Its id.
    pub id: String,
    /// The secret, sealed with its tenant's key.
    pub sealed: Vec<u8>,
    /// When it was created, in seconds since 1970.
    pub created: i64,
    /// Until when it signs, if there is a newer one; in seconds since 1970.
    pub expires: Option<i64>,
}

impl Storage {
    /// Returns whether the key file's mark is this database's. A database without a mark adopts it.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not respond.
    pub async fn key_check(&self, mark: &[u8]) -> Result<bool, StorageError> {
        let mut tx = self.begin().await?;
        sqlx::query("UPDATE meta SET key_check = $1 WHERE id = 1 AND key_check IS NULL")
            .bind(mark.to_vec())
            .execute(&mut *tx)
            .await?;
        let row = sqlx::query("SELECT key_check FROM meta WHERE id = 1")
            .fetch_one(&mut *tx)
            .await?;
        let known: Vec<u8> = row.try_get("key_check")?;
        tx.commit().await?;
        // The mark is derived from the key: a comparison that ends early would leak how much of it matches.
        Ok(bool::from(subtle::ConstantTimeEq::ct_eq(&known[..], mark)))
    }

    /// Returns the number of tenants whose data is encrypted.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not respond.
    pub async fn sealed_tenants(&self) -> Result<i64, StorageError> {
        let row = sqlx::query("SELECT COUNT(*) AS tenants FROM tenant_keys")
            .fetch_one(self.pool())
            .await?;
        Ok(row.try_get("tenants")?)
    }

    /// Releases the database from its key file, if nothing is encrypted with it.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not respond.
    pub async fn forget_key_check(&self) -> Result<(), StorageError> {
        let mut tx = self.begin().await?;
        // The condition is part of the statement: another process may encrypt something at this moment.
        sqlx::query(
            "UPDATE meta SET key_check = NULL
             WHERE id = 1 AND NOT EXISTS (SELECT 1 FROM tenant_keys)",
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(())
    }

    /// Returns a tenant's sealed key. If there is none, `offered` becomes it.
    ///
    /// # Errors
    /// [`StorageError::NotFound`] for a tenant that was deleted.
    pub async fn tenant_key(&self, tenant: &str, offered: &[u8]) -> Result<Vec<u8>, StorageError> {
        let known = "SELECT sealed FROM tenant_keys WHERE tenant_id = $1";
        // A read first: a tenant has a key after its first use, and a transaction that writes would wait for others.
        let row = sqlx::query(known)
            .bind(tenant)
            .fetch_optional(self.pool())
            .await?;
        if let Some(row) = row {
            return Ok(row.try_get("sealed")?);
        }
        let mut tx = self.begin().await?;
        tenants::lock(&mut tx, tenant).await?;
        // Two processes may offer a key at once. Both read below the one that was stored first.
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
        let row = row.ok_or_else(|| StorageError::NotFound("the tenant was deleted".into()))?;
        Ok(row.try_get("sealed")?)
    }

    /// Returns a tenant's valid signing secrets, newest first.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not respond.
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
        .fetch_all(self.pool())
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

    /// Adds a signing secret. Older ones stay valid until `until`. With `only_first`, nothing changes if there is one
    /// already. Returns whether the secret was added.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not respond.
    pub async fn add_signing_secret(
        &self,
        tenant: &str,
        secret: &SealedSecret,
        until: i64,
        only_first: bool,
    ) -> Result<bool, StorageError> {
        let mut tx = self.begin().await?;
        tenants::lock(&mut tx, tenant).await?;
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
        // Before the insert, which adds a secret without an end: it would be ended as well.
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
        // Expired secrets sign nothing any more.
        sqlx::query("DELETE FROM signing_secrets WHERE tenant_id = $1 AND expires <= $2")
            .bind(tenant)
            .bind(secret.created)
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(added.rows_affected() > 0)
    }
}
