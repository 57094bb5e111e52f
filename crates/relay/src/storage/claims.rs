//! Which names belong to which bridges: the database decides between bridges that declare one at the
//! same time, also on different nodes.
//!
//! ```text
//! no bridge has the name         -> the first bridge that declares it has it
//! a bridge has it                -> only that one, until an administrator says otherwise
//! its bridges are all revoked    -> no bridge has it
//! ```
//!
//! Every change takes the lock of the revision (`Storage::change`) before it looks, so two of them
//! never see the same free name.

use super::audit::{self, AuditEvent};
use super::bridges::no_bridge;
use super::model::{BridgeId, TenantId, now, words};
use super::pool::Tx;
use super::{Storage, StorageError, rows};
use serde_json::json;
use sqlx::Row as _;

/// Names that one bridge may have. Those that it declares beyond are refused.
pub const CLAIMS_PER_BRIDGE_MAX: usize = 512;

words! {
    /// What a claimed name is the name of.
    ClaimKind ("kind of claim") {
        /// An endpoint.
        Endpoint = "endpoint",
    }
}

/// A bridge has a name, or no longer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Whose (the tenant's id).
    pub tenant: TenantId,
    /// What it is the name of.
    pub kind: ClaimKind,
    /// The name.
    pub name: String,
    /// Which bridge has it.
    pub bridge: BridgeId,
    /// Whether the claim ended.
    pub is_removed: bool,
}

/// A name and a bridge that has it, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedClaim {
    /// Whose (the tenant's id).
    pub tenant: String,
    /// The endpoint's name.
    pub endpoint: String,
    /// The bridge's name.
    pub bridge: String,
    /// Since when, in seconds since 1970.
    pub created: i64,
}

impl Storage {
    /// Gives a bridge those of the endpoint names that no other valid bridge has. Returns the names
    /// that it has since now.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not answer; nothing was changed.
    pub async fn claim_endpoints(
        &self,
        tenant: &str,
        bridge: &str,
        names: &[String],
    ) -> Result<Vec<String>, StorageError> {
        let (mut tx, revision) = self.change().await?;
        let Some(bridge_name) = name_of(&mut tx, tenant, bridge).await? else {
            return Ok(Vec::new());
        };
        let mut room = CLAIMS_PER_BRIDGE_MAX.saturating_sub(count(&mut tx, bridge).await?);
        let mut claimed = Vec::new();
        for name in names {
            if room == 0 {
                break;
            }
            let inserted = sqlx::query(
                "INSERT INTO bridge_claims (tenant_id, kind, name, bridge_id, created, revision)
                 SELECT b.tenant_id, 'endpoint', $1, b.id, $2, $3 FROM bridges b
                 WHERE b.id = $4 AND b.tenant_id = $5 AND b.revoked IS NULL AND NOT EXISTS
                   (SELECT 1 FROM bridge_claims c JOIN bridges o ON o.id = c.bridge_id
                    WHERE c.tenant_id = $5 AND c.kind = 'endpoint' AND c.name = $1
                      AND c.removed IS NULL AND o.revoked IS NULL)
                 ON CONFLICT (tenant_id, kind, name, bridge_id)
                 DO UPDATE SET created = $2, removed = NULL, revision = $3",
            )
            .bind(name)
            .bind(now())
            .bind(revision)
            .bind(bridge)
            .bind(tenant)
            .execute(&mut *tx)
            .await?;
            if inserted.rows_affected() > 0 {
                let act = AuditEvent {
                    bridge: bridge_name.as_str().into(),
                    ..AuditEvent::done(tenant, "endpoint.claim", name)
                };
                audit::add(&mut tx, &self.actor, &act).await?;
                claimed.push(name.clone());
                room -= 1;
            }
        }
        if !claimed.is_empty() {
            tx.commit().await?;
        }
        Ok(claimed)
    }

    /// Gives an endpoint's name to a bridge of a tenant (its id): to that one alone, or, with `also`,
    /// to it and to those that have it.
    ///
    /// # Errors
    /// [`StorageError::NotFound`] when the tenant has no valid bridge of that name,
    /// [`StorageError::Invalid`] for what cannot be an endpoint's name, [`StorageError::Conflict`]
    /// when the bridge has too many.
    pub async fn assign_endpoint(
        &self,
        tenant: &str,
        bridge: &str,
        endpoint: &str,
        also: bool,
    ) -> Result<(), StorageError> {
        if !policy::is_endpoint_name(endpoint) {
            return Err(StorageError::Invalid(
                policy::EndpointError::Name.to_string(),
            ));
        }
        let (mut tx, revision) = self.change().await?;
        let id = id_of(&mut tx, tenant, bridge).await?;
        if count(&mut tx, &id).await? >= CLAIMS_PER_BRIDGE_MAX {
            return Err(StorageError::Conflict(format!(
                "bridge `{bridge}` has {CLAIMS_PER_BRIDGE_MAX} endpoint names, the most that it may \
                 have: release one first"
            )));
        }
        if !also {
            let text = "UPDATE bridge_claims SET removed = $1, revision = $2
                 WHERE tenant_id = $3 AND kind = 'endpoint' AND name = $4 AND removed IS NULL
                   AND bridge_id <> $5";
            let removed = sqlx::query(text).bind(now()).bind(revision).bind(tenant);
            removed.bind(endpoint).bind(&id).execute(&mut *tx).await?;
        }
        sqlx::query(
            "INSERT INTO bridge_claims (tenant_id, kind, name, bridge_id, created, revision)
             VALUES ($1, 'endpoint', $2, $3, $4, $5)
             ON CONFLICT (tenant_id, kind, name, bridge_id)
             DO UPDATE SET removed = NULL, revision = $5",
        )
        .bind(tenant)
        .bind(endpoint)
        .bind(&id)
        .bind(now())
        .bind(revision)
        .execute(&mut *tx)
        .await?;
        let act = AuditEvent {
            bridge: bridge.into(),
            ..AuditEvent::done(tenant, "endpoint.assign", endpoint)
        };
        let act = act.with(&json!({"also": also}));
        audit::add(&mut tx, &self.actor, &act).await?;
        tx.commit().await
    }

    /// Takes an endpoint's name from a bridge of a tenant (its id).
    ///
    /// # Errors
    /// [`StorageError::NotFound`] when the bridge does not have it.
    pub async fn release_endpoint(
        &self,
        tenant: &str,
        bridge: &str,
        endpoint: &str,
    ) -> Result<(), StorageError> {
        let (mut tx, revision) = self.change().await?;
        let id = id_of(&mut tx, tenant, bridge).await?;
        let removed = sqlx::query(
            "UPDATE bridge_claims SET removed = $1, revision = $2
             WHERE tenant_id = $3 AND kind = 'endpoint' AND name = $4 AND bridge_id = $5
               AND removed IS NULL",
        )
        .bind(now())
        .bind(revision)
        .bind(tenant)
        .bind(endpoint)
        .bind(&id)
        .execute(&mut *tx)
        .await?;
        if removed.rows_affected() == 0 {
            return Err(StorageError::NotFound(format!(
                "bridge `{bridge}` does not have the endpoint `{}`",
                endpoint.escape_debug().take(80).collect::<String>()
            )));
        }
        let act = AuditEvent {
            bridge: bridge.into(),
            ..AuditEvent::done(tenant, "endpoint.release", endpoint)
        };
        audit::add(&mut tx, &self.actor, &act).await?;
        tx.commit().await
    }

    /// Which valid bridges have which endpoint names, of a tenant or of all.
    ///
    /// # Errors
    /// [`StorageError::NotFound`] for an unknown tenant.
    pub async fn claimed_endpoints(
        &self,
        tenant: Option<&str>,
    ) -> Result<Vec<NamedClaim>, StorageError> {
        let only = self.tenant_filter(tenant).await?;
        let rows = sqlx::query(
            "SELECT c.tenant_id, c.name AS endpoint, b.name AS bridge, c.created
             FROM bridge_claims c JOIN bridges b ON b.id = c.bridge_id
             WHERE ($1 = '' OR c.tenant_id = $1) AND c.kind = 'endpoint' AND c.removed IS NULL
               AND b.revoked IS NULL
             ORDER BY c.tenant_id, c.name, b.name",
        )
        .bind(only)
        .fetch_all(&self.pool)
        .await?;
        let claims = rows.iter().map(|row| {
            Ok(NamedClaim {
                tenant: row.try_get("tenant_id")?,
                endpoint: row.try_get("endpoint")?,
                bridge: row.try_get("bridge")?,
                created: row.try_get("created")?,
            })
        });
        claims.collect()
    }
}

pub(super) fn claim(row: &sqlx::any::AnyRow) -> Result<Claim, StorageError> {
    Ok(Claim {
        tenant: row.try_get::<String, _>("tenant_id")?.into(),
        kind: rows::word(row, "kind")?,
        name: row.try_get("name")?,
        bridge: row.try_get::<String, _>("bridge_id")?.into(),
        is_removed: row.try_get::<Option<i64>, _>("removed")?.is_some(),
    })
}

/// The name of a valid bridge of a tenant, by their ids.
async fn name_of(tx: &mut Tx, tenant: &str, bridge: &str) -> Result<Option<String>, StorageError> {
    let row = sqlx::query(
        "SELECT name FROM bridges WHERE id = $1 AND tenant_id = $2 AND revoked IS NULL",
    )
    .bind(bridge)
    .bind(tenant)
    .fetch_optional(&mut **tx)
    .await?;
    Ok(row.map(|row| row.try_get("name")).transpose()?)
}

/// The id of a valid bridge of a tenant (its id), by its name.
async fn id_of(tx: &mut Tx, tenant: &str, name: &str) -> Result<String, StorageError> {
    let row = sqlx::query(
        "SELECT id FROM bridges WHERE tenant_id = $1 AND name = $2 AND revoked IS NULL",
    )
    .bind(tenant)
    .bind(name)
    .fetch_optional(&mut **tx)
    .await?;
    Ok(row.ok_or_else(|| no_bridge(name))?.try_get("id")?)
}

/// How many names a bridge has.
async fn count(tx: &mut Tx, bridge: &str) -> Result<usize, StorageError> {
    let row = sqlx::query(
        "SELECT COUNT(*) AS claims FROM bridge_claims WHERE bridge_id = $1 AND removed IS NULL",
    )
    .bind(bridge)
    .fetch_one(&mut **tx)
    .await?;
    Ok(usize::try_from(row.try_get::<i64, _>("claims")?).unwrap_or(usize::MAX))
}
