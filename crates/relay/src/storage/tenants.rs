//! Tenants: customers' spaces.

use super::audit::{self, AuditEvent};
use super::model::{Tenant, TenantId, TenantState, now};
use super::{Storage, StorageError, require_name, rows};
use serde_json::json;
use store::{Backend, Transaction};

/// The tenant of the relay's operators. No customer can name it.
pub const SITE: &str = "site";

/// A change of a tenant; a field that is `None` leaves the value as it is.
#[derive(Debug, Clone, Default)]
pub struct TenantChange {
    /// Whether its keys and bridges are accepted.
    pub state: Option<TenantState>,
    /// Patterns of URLs that the relay may call directly.
    pub direct_urls: Option<Vec<String>>,
    /// The URL to which notices are sent; `Some(None)` for none.
    pub notice_url: Option<Option<String>>,
    /// Seconds after which its stored calls expire; zero: never; `Some(None)`: the relay's default.
    pub expires_in: Option<Option<i64>>,
}

/// Keeps a tenant from being deleted until the transaction ends, so that the next statement's view of it stays true.
pub(super) async fn lock(tx: &mut Transaction, tenant: &str) -> Result<(), sqlx::Error> {
    match tx.backend() {
        // SQLite has one writer at a time anyway.
        Backend::Sqlite => Ok(()),
        Backend::Postgres => {
            let locked = sqlx::query("SELECT id FROM tenants WHERE id = $1 FOR NO KEY UPDATE");
            locked.bind(tenant).execute(&mut **tx).await.map(drop)
        }
    }
}

fn no_tenant(name: &str) -> StorageError {
    StorageError::NotFound(format!("there is no tenant `{name}`"))
}

impl Storage {
    /// Creates a tenant.
    ///
    /// # Errors
    /// [`StorageError::Invalid`] for an invalid name, [`StorageError::Conflict`] for one that
    /// exists.
    pub async fn create_tenant(&self, name: &str) -> Result<Tenant, StorageError> {
        require_name("a tenant", name)?;
        let (mut tx, revision) = self.change().await?;
        let tenant = Tenant {
            id: TenantId::random()?,
            name: name.to_owned(),
            state: TenantState::Active,
            created: now(),
            direct_urls: Vec::new(),
            notice_url: None,
            expires_in: None,
            revision,
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
                "the tenant `{name}` exists already"
            )));
        }
        let event = AuditEvent::done(tenant.id.as_str(), "tenant.create", name);
        audit::add(&mut tx, &self.actor, &event).await?;
        tx.commit().await?;
        Ok(tenant)
    }

    /// Returns all tenants, by name.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not respond.
    pub async fn tenants(&self) -> Result<Vec<Tenant>, StorageError> {
        self.tenants_after("", u32::MAX).await
    }

    /// Returns up to `limit` tenants whose names come after `after`, by name.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not respond.
    pub async fn tenants_after(
        &self,
        after: &str,
        limit: u32,
    ) -> Result<Vec<Tenant>, StorageError> {
        let rows = sqlx::query(
            "SELECT * FROM tenants WHERE id <> 'site' AND state <> 'deleted' AND name > $1
             ORDER BY name LIMIT $2",
        )
        .bind(after)
        .bind(i64::from(limit))
        .fetch_all(self.pool())
        .await?;
        rows.iter().map(rows::tenant).collect()
    }

    /// The tenant of that name.
    ///
    /// # Errors
    /// [`StorageError::NotFound`].
    pub async fn tenant(&self, name: &str) -> Result<Tenant, StorageError> {
        let row = sqlx::query(
            "SELECT * FROM tenants WHERE name = $1 AND id <> 'site' AND state <> 'deleted'",
        )
        .bind(name)
        .fetch_optional(self.pool())
        .await?;
        rows::tenant(&row.ok_or_else(|| no_tenant(name))?)
    }

    /// Suspends a tenant, or resumes it.
    ///
    /// # Errors
    /// [`StorageError::NotFound`].
    pub async fn set_tenant_state(
        &self,
        name: &str,
        state: TenantState,
    ) -> Result<(), StorageError> {
        let change = TenantChange {
            state: Some(state),
            ..TenantChange::default()
        };
        self.change_tenant(name, &change, None).await.map(drop)
    }

    /// Changes a tenant. With `seen`, only if it is still at that revision.
    ///
    /// # Errors
    /// [`StorageError::NotFound`], [`StorageError::Changed`] when it is at another revision.
    pub async fn change_tenant(
        &self,
        name: &str,
        change: &TenantChange,
        seen: Option<i64>,
    ) -> Result<Tenant, StorageError> {
        let (mut tx, revision) = self.change().await?;
        let row = sqlx::query(
            "SELECT * FROM tenants WHERE name = $1 AND id <> 'site' AND state <> 'deleted'",
        )
        .bind(name)
        .fetch_optional(&mut *tx)
        .await?;
        let mut tenant = rows::tenant(&row.ok_or_else(|| no_tenant(name))?)?;
        if seen.is_some_and(|seen| seen != tenant.revision) {
            return Err(StorageError::Changed);
        }
        if let Some(state) = change.state {
            tenant.state = state;
        }
        if let Some(urls) = &change.direct_urls {
            tenant.direct_urls.clone_from(urls);
        }
        if let Some(url) = &change.notice_url {
            tenant.notice_url.clone_from(url);
        }
        if let Some(expires_in) = change.expires_in {
            tenant.expires_in = expires_in;
        }
        let previous = std::mem::replace(&mut tenant.revision, revision);
        // With the previous revision, so that a lost update is impossible whatever the isolation level.
        let changed = sqlx::query(
            "UPDATE tenants SET state = $1, direct_urls = $2, notice_url = $3, revision = $4,
                    expires_in = $6
             WHERE id = $5 AND state <> 'deleted' AND revision = $7",
        )
        .bind(tenant.state.as_str())
        .bind(json!(tenant.direct_urls).to_string())
        .bind(tenant.notice_url.clone())
        .bind(revision)
        .bind(tenant.id.as_str())
        .bind(tenant.expires_in)
        .bind(previous)
        .execute(&mut *tx)
        .await?;
        if changed.rows_affected() == 0 {
            return Err(StorageError::Changed);
        }
        let detail = json!({
            "state": change.state.map(TenantState::as_str),
            "direct_urls": change.direct_urls,
            "notice_url": change.notice_url.is_some(),
            "expires_in": change.expires_in,
        });
        let event = AuditEvent::done(tenant.id.as_str(), "tenant.change", name).with(&detail);
        audit::add(&mut tx, &self.actor, &event).await?;
        tx.commit().await?;
        Ok(tenant)
    }

    /// Deletes a tenant and all of its data, except its audit rows, which stay until they are too old. Its name becomes
    /// free.
    ///
    /// # Errors
    /// [`StorageError::NotFound`], [`StorageError::Changed`] when it is at another revision.
    pub async fn delete_tenant(
        &self,
        name: &str,
        seen: Option<i64>,
    ) -> Result<Tenant, StorageError> {
        let (mut tx, revision) = self.change().await?;
        let row = sqlx::query(
            "SELECT * FROM tenants WHERE name = $1 AND id <> 'site' AND state <> 'deleted'",
        )
        .bind(name)
        .fetch_optional(&mut *tx)
        .await?;
        let tenant = rows::tenant(&row.ok_or_else(|| no_tenant(name))?)?;
        if seen.is_some_and(|seen| seen != tenant.revision) {
            return Err(StorageError::Changed);
        }
        // The tenant's row first: a transaction that stores something for the tenant waits for this one, and then
        // finds it deleted. The row stays, so that running relays see the deletion.
        let deleted = sqlx::query(
            "UPDATE tenants SET state = 'deleted', name = id, direct_urls = '[]',
                    notice_url = NULL, revision = $1
             WHERE id = $2 AND state <> 'deleted' AND revision = $3",
        )
        .bind(revision)
        .bind(tenant.id.as_str())
        .bind(tenant.revision)
        .execute(&mut *tx)
        .await?;
        if deleted.rows_affected() == 0 {
            return Err(StorageError::Changed);
        }
        purge(&mut tx, tenant.id.as_str()).await?;
        let event = AuditEvent::done(tenant.id.as_str(), "tenant.delete", name);
        audit::add(&mut tx, &self.actor, &event).await?;
        tx.commit().await?;
        Ok(tenant)
    }
}

/// Deletes the data of a tenant.
async fn purge(tx: &mut Transaction, tenant: &str) -> Result<(), StorageError> {
    let texts = [
        "DELETE FROM notices WHERE tenant_id = $1",
        // Attempts after calls: the transaction that settles an attempt locks the call until the attempt's row is
        // stored, so no row can be added after this deletion.
        "DELETE FROM calls WHERE tenant_id = $1",
        "DELETE FROM call_attempts WHERE tenant_id = $1",
        "DELETE FROM journals WHERE tenant_id = $1",
        "DELETE FROM signing_secrets WHERE tenant_id = $1",
        "DELETE FROM tenant_keys WHERE tenant_id = $1",
        "DELETE FROM idempotency WHERE tenant_id = $1",
        "DELETE FROM services WHERE tenant_id = $1",
        "DELETE FROM bridge_claims WHERE tenant_id = $1",
        "DELETE FROM bridge_identities
         WHERE bridge_id IN (SELECT id FROM bridges WHERE tenant_id = $1)",
        "DELETE FROM bridges WHERE tenant_id = $1",
        "DELETE FROM api_keys WHERE tenant_id = $1",
    ];
    for text in texts {
        sqlx::query(text).bind(tenant).execute(&mut **tx).await?;
    }
    Ok(())
}
