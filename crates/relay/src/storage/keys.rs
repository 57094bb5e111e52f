//! API keys: create, rotate, revoke. Only the hash of a secret is stored.

use super::audit::{self, AuditEvent};
use super::model::{ApiKey, ClientId, Existing, NAME_MAX_BYTES, Role, Secret, TenantId, now};
use super::scope::Scope;
use super::tenants::SITE;
use super::{Storage, StorageError, rows};
use serde_json::json;
use sqlx::Row as _;
use std::collections::HashMap;

/// Longest time for which the previous secret of a rotated key stays valid, in seconds.
pub const OVERLAP_MAX: i64 = 30 * 24 * 3600;

/// How long the key of a pairing file is valid if nothing else is asked for, in seconds.
pub const ONE_TIME_DEFAULT: i64 = 24 * 3600;

/// The longest time for which the key of a pairing file may be valid, in seconds.
pub const ONE_TIME_MAX: i64 = 7 * 24 * 3600;

/// A key that is to be created.
#[derive(Debug, Clone)]
pub struct NewKey {
    /// Its permissions.
    pub role: Role,
    /// A name for display; may be empty.
    pub name: String,
    /// How it may treat an existing bridge's name.
    pub existing: Existing,
    /// When it expires, in seconds since 1970.
    pub expires: Option<i64>,
    /// What it is narrowed to.
    pub scope: Scope,
    /// Whether it pairs one bridge only, as the key of a pairing file.
    pub is_one_time: bool,
}

impl NewKey {
    /// Checks the rules of the key of a pairing file.
    fn check_one_time(&self, now: i64) -> Result<(), StorageError> {
        if !self.is_one_time {
            return Ok(());
        }
        if self.role != Role::Bridge {
            return Err(StorageError::Invalid(
                "only keys with the role bridge pair, so only they may be of a pairing file".into(),
            ));
        }
        // A file may be copied on its way: the time in which a copy is worth something has a bound.
        let longest = now.saturating_add(ONE_TIME_MAX);
        match self.expires {
            Some(expires) if expires <= longest => Ok(()),
            Some(_) | None => Err(StorageError::Invalid(format!(
                "the key of a pairing file expires after {} days at most",
                ONE_TIME_MAX / (24 * 3600)
            ))),
        }
    }
}

/// The result of a revocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revoked {
    /// Bridges that lost their last installation with the key, by name.
    pub bridges: Vec<String>,
}

pub(crate) fn no_key(client_id: &str) -> StorageError {
    StorageError::NotFound(format!(
        "there is no valid key with the client id `{client_id}`"
    ))
}

impl Storage {
    /// Creates an API key that does not expire and is not narrowed. Its secret exists only in the result.
    ///
    /// # Errors
    /// As [`Self::create_key_with`].
    pub async fn create_key(
        &self,
        tenant: &str,
        role: Role,
        name: &str,
        existing: Existing,
    ) -> Result<(ApiKey, Secret), StorageError> {
        let new = NewKey {
            role,
            name: name.to_owned(),
            existing,
            expires: None,
            scope: Scope::default(),
            is_one_time: false,
        };
        self.create_key_with(tenant, new).await
    }

    /// Creates an API key of a tenant (its name; ignored for a site administrator's key). Its secret exists only in the
    /// result.
    ///
    /// # Errors
    /// [`StorageError::NotFound`] for an unknown tenant, [`StorageError::Invalid`] for a name that
    /// is too long, an expiry in the past, or an invalid scope.
    pub async fn create_key_with(
        &self,
        tenant: &str,
        new: NewKey,
    ) -> Result<(ApiKey, Secret), StorageError> {
        if new.name.len() > NAME_MAX_BYTES || new.name.chars().any(char::is_control) {
            return Err(StorageError::Invalid(format!(
                "a key's name has at most {NAME_MAX_BYTES} bytes and no control characters"
            )));
        }
        if new.expires.is_some_and(|expires| expires <= now()) {
            return Err(StorageError::Invalid(
                "the key's expiry is in the past".into(),
            ));
        }
        if new.existing != Existing::Refuse && new.role != Role::Bridge {
            return Err(StorageError::Invalid(
                "existing is allowed only for keys with the role bridge".into(),
            ));
        }
        new.check_one_time(now())?;
        new.scope.check(new.role).map_err(StorageError::Invalid)?;
        let tenant = match new.role {
            // Not by name: no lookup by name returns the site's tenant.
            Role::SiteAdmin => TenantId::from(SITE),
            _ => self.tenant(tenant).await?.id,
        };
        let secret = Secret::random()?;
        let key = ApiKey {
            client_id: ClientId::random()?,
            tenant,
            role: new.role,
            name: new.name,
            secret_hash: secret.hash(),
            previous: None,
            existing: new.existing,
            created: now(),
            expires: new.expires,
            revoked: None,
            last_used: None,
            scope: new.scope,
            is_one_time: new.is_one_time,
            spent: None,
        };
        let (mut tx, revision) = self.change().await?;
        // Selected from the tenant's row: a tenant that was deleted since the lookup above gets no key.
        let inserted = sqlx::query(
            "INSERT INTO api_keys (client_id, tenant_id, role, name, secret_hash, existing, created,
                                   expires, scope, revision, one_time)
             SELECT $1, id, $2, $3, $4, $5, $6, $7, $8, $9, $10 FROM tenants
             WHERE id = $11 AND state <> 'deleted'",
        )
        .bind(key.client_id.as_str())
        .bind(key.role.as_str())
        .bind(&key.name)
        .bind(key.secret_hash.as_bytes().to_vec())
        .bind(key.existing.as_str())
        .bind(key.created)
        .bind(key.expires)
        .bind(key.scope.to_stored())
        .bind(revision)
        .bind(i64::from(key.is_one_time))
        .bind(key.tenant.as_str())
        .execute(&mut *tx)
        .await?;
        if inserted.rows_affected() == 0 {
            return Err(StorageError::NotFound("the tenant was deleted".into()));
        }
        let detail = json!({"role": key.role.as_str(), "name": key.name, "expires": key.expires,
                          "scope": key.scope, "one_time": key.is_one_time});
        let event = AuditEvent::done(key.tenant.as_str(), "key.create", key.client_id.as_str())
            .with(&detail);
        audit::add(&mut tx, &self.actor, &event).await?;
        tx.commit().await?;
        Ok((key, secret))
    }

    /// Returns whether there is a valid key of a site administrator.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not respond.
    pub async fn has_site_admin(&self) -> Result<bool, StorageError> {
        let row = sqlx::query(
            "SELECT COUNT(*) AS keys FROM api_keys
             WHERE tenant_id = 'site' AND role = 'site-admin' AND revoked IS NULL
               AND (expires IS NULL OR expires > $1)",
        )
        .bind(now())
        .fetch_one(self.pool())
        .await?;
        Ok(row.try_get::<i64, _>("keys")? > 0)
    }

    /// Returns the API keys of a tenant, or of all tenants, oldest first, revoked ones included.
    ///
    /// # Errors
    /// [`StorageError::NotFound`] for an unknown tenant.
    pub async fn keys(&self, tenant: Option<&str>) -> Result<Vec<ApiKey>, StorageError> {
        let only = self.tenant_filter(tenant).await?;
        self.keys_after(&only, (0, ""), u32::MAX).await
    }

    /// Returns up to `limit` keys of a tenant (its id; empty for all), oldest first, revoked ones included: those after
    /// `after`, the creation time and the client id of a key.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not respond.
    pub async fn keys_after(
        &self,
        tenant: &str,
        after: (i64, &str),
        limit: u32,
    ) -> Result<Vec<ApiKey>, StorageError> {
        let rows = sqlx::query(
            "SELECT * FROM api_keys WHERE ($1 = '' OR tenant_id = $1)
               AND (created > $2 OR (created = $2 AND client_id > $3))
             ORDER BY created, client_id LIMIT $4",
        )
        .bind(tenant)
        .bind(after.0)
        .bind(after.1)
        .bind(i64::from(limit))
        .fetch_all(self.pool())
        .await?;
        rows.iter().map(rows::key).collect()
    }

    /// Returns a key of a tenant (its id; empty for any).
    ///
    /// # Errors
    /// [`StorageError::NotFound`].
    pub async fn key(&self, tenant: &str, client_id: &str) -> Result<ApiKey, StorageError> {
        let row = sqlx::query(
            "SELECT * FROM api_keys WHERE client_id = $1 AND ($2 = '' OR tenant_id = $2)",
        )
        .bind(client_id)
        .bind(tenant)
        .fetch_optional(self.pool())
        .await?;
        rows::key(&row.ok_or_else(|| no_key(client_id))?)
    }

    /// Replaces the secret of a key of a tenant (its id; empty for any). The previous secret stays valid for `overlap`
    /// seconds.
    ///
    /// # Errors
    /// [`StorageError::NotFound`] for a key that is unknown or revoked, [`StorageError::Invalid`] for
    /// an overlap that is too long.
    pub async fn rotate_key(
        &self,
        tenant: &str,
        client_id: &str,
        overlap: i64,
    ) -> Result<(ApiKey, Secret), StorageError> {
        if !(0..=OVERLAP_MAX).contains(&overlap) {
            return Err(StorageError::Invalid(
                "the overlap must be 0 to 30 days".into(),
            ));
        }
        let secret = Secret::random()?;
        let (mut tx, revision) = self.change().await?;
        let until = (overlap > 0).then(|| now() + overlap);
        // Only one previous secret is kept: a second rotation within the overlap ends the first one's.
        let row = sqlx::query(
            "UPDATE api_keys SET
                previous_hash = CASE WHEN $1 > 0 THEN secret_hash ELSE NULL END,
                previous_until = $2, secret_hash = $3, revision = $4
             WHERE client_id = $5 AND ($6 = '' OR tenant_id = $6) AND revoked IS NULL
               AND (expires IS NULL OR expires > $7)
             RETURNING *",
        )
        .bind(overlap)
        .bind(until)
        .bind(secret.hash().as_bytes().to_vec())
        .bind(revision)
        .bind(client_id)
        .bind(tenant)
        .bind(now())
        .fetch_optional(&mut *tx)
        .await?;
        let key = rows::key(&row.ok_or_else(|| no_key(client_id))?)?;
        let detail = json!({"overlap_s": overlap});
        let event = AuditEvent::done(key.tenant.as_str(), "key.rotate", client_id).with(&detail);
        audit::add(&mut tx, &self.actor, &event).await?;
        tx.commit().await?;
        Ok((key, secret))
    }

    /// Revokes an API key and, unless `keep_bridges`, the installations that were paired with it. A bridge without
    /// remaining installations is revoked as a whole.
    ///
    /// # Errors
    /// [`StorageError::NotFound`] for a client id that is unknown or revoked.
    pub async fn revoke_key(
        &self,
        client_id: &str,
        keep_bridges: bool,
    ) -> Result<Revoked, StorageError> {
        self.revoke_key_of("", client_id, keep_bridges).await
    }

    /// Revokes an API key of a tenant (its id; empty for any), like [`Self::revoke_key`].
    ///
    /// # Errors
    /// As [`Self::revoke_key`].
    pub async fn revoke_key_of(
        &self,
        tenant: &str,
        client_id: &str,
        keep_bridges: bool,
    ) -> Result<Revoked, StorageError> {
        let (mut tx, revision) = self.change().await?;
        let now = now();
        let row = sqlx::query(
            "UPDATE api_keys SET revoked = $1, revision = $2
             WHERE client_id = $3 AND ($4 = '' OR tenant_id = $4) AND revoked IS NULL
             RETURNING tenant_id",
        )
        .bind(now)
        .bind(revision)
        .bind(client_id)
        .bind(tenant)
        .fetch_optional(&mut *tx)
        .await?;
        let owner: String = row.ok_or_else(|| no_key(client_id))?.try_get("tenant_id")?;
        let mut bridges = Vec::new();
        // A leaked key may have paired installations of an attacker: by default they go with it.
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
            // The revision of this change marks the installations that were revoked just now.
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
        let detail = json!({"bridges": bridges});
        let event = AuditEvent::done(&owner, "key.revoke", client_id).with(&detail);
        audit::add(&mut tx, &self.actor, &event).await?;
        tx.commit().await?;
        Ok(Revoked { bridges })
    }

    /// Records that the spent key of a pairing file was used again. Returns whether it is the first time: only that
    /// one is stored, so that a client with a copy of the file cannot make the relay write on and on.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not respond.
    pub async fn note_reuse(&self, client_id: &str) -> Result<bool, StorageError> {
        // Not a `change`: no process keeps it in memory.
        let mut tx = self.begin().await?;
        let noted = sqlx::query(
            "UPDATE api_keys SET reused = $1
             WHERE client_id = $2 AND spent IS NOT NULL AND reused IS NULL",
        )
        .bind(now())
        .bind(client_id)
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(noted.rows_affected() > 0)
    }

    /// Records when keys were last used. No other process must follow this change.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not respond.
    pub async fn keys_used(&self, used: &HashMap<ClientId, i64>) -> Result<(), StorageError> {
        // Not a `change`: a raised revision would make every process read all of these keys again.
        let mut tx = self.begin().await?;
        for (client_id, at) in used {
            sqlx::query("UPDATE api_keys SET last_used = $1 WHERE client_id = $2")
                .bind(at)
                .bind(client_id.as_str())
                .execute(&mut *tx)
                .await?;
        }
        tx.commit().await?;
        Ok(())
    }
}
