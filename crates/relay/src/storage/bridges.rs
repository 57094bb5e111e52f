//! Bridges as an administrator sees them: list, disable, revoke; and services that report themselves.

use super::audit::{self, AuditEvent};
use super::model::{Bridge, BridgeId, ClientId, now};
use super::{Storage, StorageError, pairing, rows, tenants};
use sqlx::Row as _;
use std::collections::HashMap;
use std::sync::Arc;

/// A program that reports itself with an API key, such as a synchronizer.
#[derive(Debug, Clone)]
pub struct Service {
    /// The tenant's id.
    pub tenant: Arc<str>,
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// When it last reported itself, in seconds since 1970.
    pub seen: i64,
}

pub(super) fn no_bridge(name: &str) -> StorageError {
    StorageError::NotFound(format!("there is no bridge `{name}`"))
}

/// An installation, as the operator compares it with the machine that should be paired.
#[derive(Debug, Clone)]
pub struct Installation {
    /// The bridge's id.
    pub bridge: BridgeId,
    /// The client id of the API key that it was paired with.
    pub paired_by: ClientId,
    /// When it was paired, in seconds since 1970.
    pub paired: i64,
    /// The address that the pairing came from: the bridge's, its proxy's or a balancer's. Empty if it is not known.
    pub address: String,
    /// The host's name, as the bridge reported it.
    pub host: String,
}

/// What an installation served when it was last connected.
#[derive(Debug)]
pub struct StoredOffer {
    /// The tenant's id.
    pub tenant: Arc<str>,
    /// The bridge's id.
    pub bridge: Arc<str>,
    /// The identity.
    pub identity: Arc<str>,
    /// What it served, as JSON.
    pub serves: String,
}

impl Storage {
    /// Returns the bridges of a tenant, or of all tenants, by name, revoked ones included.
    ///
    /// # Errors
    /// [`StorageError::NotFound`] for an unknown tenant.
    pub async fn bridges(&self, tenant: Option<&str>) -> Result<Vec<Bridge>, StorageError> {
        let only = self.tenant_filter(tenant).await?;
        let rows = sqlx::query(
            "SELECT * FROM bridges WHERE ($1 = '' OR tenant_id = $1) ORDER BY name, created, id",
        )
        .bind(only)
        .fetch_all(self.pool())
        .await?;
        rows.iter().map(rows::bridge).collect()
    }

    /// Returns the installations of a tenant's bridges, or of all tenants', that are not revoked, oldest first.
    ///
    /// # Errors
    /// [`StorageError::NotFound`] for an unknown tenant.
    pub async fn installations(
        &self,
        tenant: Option<&str>,
    ) -> Result<Vec<Installation>, StorageError> {
        let only = self.tenant_filter(tenant).await?;
        let rows = sqlx::query(
            "SELECT i.bridge_id, i.paired_by, i.created, i.address, i.host
             FROM bridge_identities i JOIN bridges b ON b.id = i.bridge_id
             WHERE i.revoked IS NULL AND ($1 = '' OR b.tenant_id = $1)
             ORDER BY i.created, i.id",
        )
        .bind(only)
        .fetch_all(self.pool())
        .await?;
        let installations = rows.iter().map(|row| {
            Ok(Installation {
                bridge: row.try_get::<String, _>("bridge_id")?.into(),
                paired_by: row.try_get::<String, _>("paired_by")?.into(),
                paired: row.try_get("created")?,
                address: row.try_get("address")?,
                host: row.try_get("host")?,
            })
        });
        installations.collect()
    }

    /// Revokes a bridge of a tenant (its id) with all its installations. Its name becomes free.
    ///
    /// # Errors
    /// [`StorageError::NotFound`] when the tenant has no valid bridge of that name.
    pub async fn revoke_bridge(&self, tenant: &str, name: &str) -> Result<(), StorageError> {
        let (mut tx, revision) = self.change().await?;
        let now = now();
        // The row stays: running relays find the revocation by its revision. A revoked bridge is not in the unique
        // index on names, so its name is free.
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
        let bridge: String = row.ok_or_else(|| no_bridge(name))?.try_get("id")?;
        pairing::revoke_identities(&mut tx, &bridge, now, revision).await?;
        let event = AuditEvent::done(tenant, "bridge.revoke", name);
        audit::add(&mut tx, &self.actor, &event).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Disables a bridge of a tenant (its id) until it is enabled again, or enables it. Its name and its installations
    /// stay.
    ///
    /// # Errors
    /// [`StorageError::NotFound`] when the tenant has no valid bridge of that name.
    pub async fn set_bridge_disabled(
        &self,
        tenant: &str,
        name: &str,
        disabled: bool,
    ) -> Result<(), StorageError> {
        let text = "UPDATE bridges SET disabled = $1, revision = $2
             WHERE tenant_id = $3 AND name = $4 AND revoked IS NULL";
        let action = match disabled {
            true => "bridge.disable",
            false => "bridge.enable",
        };
        self.mark_bridge(tenant, name, text, disabled, action).await
    }

    /// Allows TLS inspection for a bridge of a tenant (its id), or forbids it again. With it, the bridge's
    /// authentication need not be bound to the relay's own TLS connection.
    ///
    /// # Errors
    /// [`StorageError::NotFound`] when the tenant has no valid bridge of that name.
    pub async fn set_bridge_inspected(
        &self,
        tenant: &str,
        name: &str,
        inspected: bool,
    ) -> Result<(), StorageError> {
        let text = "UPDATE bridges SET inspected = $1, revision = $2
             WHERE tenant_id = $3 AND name = $4 AND revoked IS NULL";
        let action = match inspected {
            true => "bridge.inspected",
            false => "bridge.not_inspected",
        };
        self.mark_bridge(tenant, name, text, inspected, action)
            .await
    }

    /// Sets or clears the time of a mark by `text`, with an audit row.
    async fn mark_bridge(
        &self,
        tenant: &str,
        name: &str,
        text: &'static str,
        is_set: bool,
        action: &'static str,
    ) -> Result<(), StorageError> {
        let (mut tx, revision) = self.change().await?;
        let changed = sqlx::query(text)
            .bind(is_set.then(now))
            .bind(revision)
            .bind(tenant)
            .bind(name)
            .execute(&mut *tx)
            .await?;
        if changed.rows_affected() == 0 {
            return Err(no_bridge(name));
        }
        audit::add(
            &mut tx,
            &self.actor,
            &AuditEvent::done(tenant, action, name),
        )
        .await?;
        tx.commit().await?;
        Ok(())
    }

    /// Records when bridges (their ids) were last connected. No other process must follow this change.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not respond.
    pub async fn bridges_seen(&self, seen: &HashMap<Arc<str>, i64>) -> Result<(), StorageError> {
        // Not a `change`: a raised revision would make every process read all of these bridges again.
        let mut tx = self.begin().await?;
        for (bridge, at) in seen {
            sqlx::query("UPDATE bridges SET last_seen = $1 WHERE id = $2")
                .bind(at)
                .bind(&**bridge)
                .execute(&mut *tx)
                .await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// Stores what installations (identities) served when they were last connected, as JSON.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not respond; nothing was stored.
    pub async fn store_offers(&self, offers: &[(Arc<str>, String)]) -> Result<(), StorageError> {
        // Not a `change`, as in `bridges_seen`.
        let mut tx = self.begin().await?;
        for (identity, serves) in offers {
            sqlx::query("UPDATE bridge_identities SET serves = $1 WHERE id = $2")
                .bind(serves)
                .bind(&**identity)
                .execute(&mut *tx)
                .await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// Returns what installations (identities) served when they were last connected, as JSON: up to `limit` of them,
    /// the same number of each tenant.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not respond.
    pub async fn last_offers(&self, limit: u32) -> Result<Vec<StoredOffer>, StorageError> {
        let rows = sqlx::query(
            "SELECT id, bridge_id, tenant_id, serves FROM (
                 SELECT i.id, i.bridge_id, b.tenant_id, i.serves,
                        ROW_NUMBER() OVER (PARTITION BY b.tenant_id ORDER BY i.id) AS place
                 FROM bridge_identities i JOIN bridges b ON b.id = i.bridge_id
                 WHERE i.serves IS NOT NULL AND i.revoked IS NULL
             ) AS offers ORDER BY place LIMIT $1",
        )
        .bind(i64::from(limit))
        .fetch_all(self.pool())
        .await?;
        rows.iter()
            .map(|row| {
                let text = |column: &str| row.try_get::<String, _>(column).map(Arc::from);
                Ok(StoredOffer {
                    tenant: text("tenant_id")?,
                    bridge: text("bridge_id")?,
                    identity: text("id")?,
                    serves: row.try_get("serves")?,
                })
            })
            .collect()
    }

    /// Returns when each bridge of a tenant (its id) was last connected, by id, in seconds since 1970.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not respond.
    pub async fn last_seen(&self, tenant: &str) -> Result<HashMap<String, i64>, StorageError> {
        let rows = sqlx::query(
            "SELECT id, last_seen FROM bridges WHERE tenant_id = $1 AND last_seen IS NOT NULL",
        )
        .bind(tenant)
        .fetch_all(self.pool())
        .await?;
        rows.iter()
            .map(|row| Ok((row.try_get("id")?, row.try_get("last_seen")?)))
            .collect()
    }

    /// Records that a service reported itself.
    ///
    /// # Errors
    /// [`StorageError::NotFound`] when its tenant was deleted.
    pub async fn service_seen(&self, service: &Service) -> Result<(), StorageError> {
        let mut tx = self.begin().await?;
        // The deletion of the tenant waits for this transaction, and then deletes the new row as well.
        tenants::lock(&mut tx, &service.tenant).await?;
        let stored = sqlx::query(
            "INSERT INTO services (tenant_id, name, version, seen)
             SELECT id, $1, $2, $3 FROM tenants WHERE id = $4 AND state <> 'deleted'
             ON CONFLICT (tenant_id, name) DO UPDATE SET version = $2, seen = $3",
        )
        .bind(&service.name)
        .bind(&service.version)
        .bind(service.seen)
        .bind(&*service.tenant)
        .execute(&mut *tx)
        .await?;
        if stored.rows_affected() == 0 {
            return Err(StorageError::NotFound("the tenant was deleted".into()));
        }
        tx.commit().await?;
        Ok(())
    }

    /// Returns the services that reported themselves in a tenant (its id; empty for all).
    ///
    /// # Errors
    /// [`StorageError`] when the database does not respond.
    pub async fn services(&self, tenant: &str) -> Result<Vec<Service>, StorageError> {
        let rows = sqlx::query(
            "SELECT * FROM services WHERE ($1 = '' OR tenant_id = $1) ORDER BY tenant_id, name",
        )
        .bind(tenant)
        .fetch_all(self.pool())
        .await?;
        rows.iter()
            .map(|row| {
                Ok(Service {
                    tenant: row.try_get::<String, _>("tenant_id")?.into(),
                    name: row.try_get("name")?,
                    version: row.try_get("version")?,
                    seen: row.try_get("seen")?,
                })
            })
            .collect()
    }
}
