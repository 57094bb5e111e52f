//! Which names belong to which bridges. The database decides between bridges that declare the same name at the same
//! time, also on different nodes.
//!
//! ```text
//! no bridge has the name         -> the first bridge that declares it gets it
//! a bridge has it                -> only that one, until an administrator assigns it to another
//! its bridges are all revoked    -> no bridge has it
//! ```
//!
//! Each change locks the revision ([`store::Store::change`]) before it reads, so two of them never see the same free
//! name.

use super::audit::{self, AuditEvent};
use super::bridges::no_bridge;
use super::model::{BridgeId, TenantId, now, words};
use super::{Storage, StorageError, rows};
use serde_json::json;
use sqlx::Row as _;
use store::Transaction;

/// Names that one bridge may have. Further names that it declares are refused.
pub const CLAIMS_PER_BRIDGE_MAX: usize = 512;

words! {
    /// The kind of thing that a claimed name belongs to.
    ClaimKind ("kind of claim") {
        /// An endpoint.
        Endpoint = "endpoint",
    }
}

/// A name that belongs to a bridge, or no longer does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The tenant's id.
    pub tenant: TenantId,
    /// The kind of name.
    pub kind: ClaimKind,
    /// The name.
    pub name: String,
    /// The bridge's id.
    pub bridge: BridgeId,
    /// Whether the claim ended.
    pub is_removed: bool,
}

/// A name and the bridge that has it, for display.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedClaim {
    /// The tenant's id.
    pub tenant: String,
    /// The endpoint's name.
    pub endpoint: String,
    /// The bridge's name.
    pub bridge: String,
    /// When the bridge got it, in seconds since 1970.
    pub created: i64,
}

impl Storage {
    /// Assigns those endpoint names to a bridge that no other valid bridge has. Returns the names that are new.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not respond; nothing was changed.
    pub async fn claim_endpoints(
        &self,
        tenant: &str,
        bridge: &str,
        names: &[String],
    ) -> Result<Vec<String>, StorageError> {
        let (mut tx, revision) = self.change().await?;
        // Revoked meanwhile, or another tenant's. The dropped transaction leaves the revision as it was.
        let Some(bridge_name) = name_of(&mut tx, tenant, bridge).await? else {
            return Ok(Vec::new());
        };
        let mut free = CLAIMS_PER_BRIDGE_MAX.saturating_sub(count(&mut tx, bridge).await?);
        let mut claimed = Vec::new();
        for name in names {
            if free == 0 {
                break;
            }
            // A claim of a revoked bridge does not count. On conflict, the row is the bridge's own claim that was
            // released before: it is used again.
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
                let event = AuditEvent {
                    bridge: bridge_name.as_str().into(),
                    ..AuditEvent::done(tenant, "endpoint.claim", name)
                };
                audit::add(&mut tx, &self.actor, &event).await?;
                claimed.push(name.clone());
                free -= 1;
            }
        }
        // Without a new name nothing is committed: a raised revision would make every process read the changes.
        if !claimed.is_empty() {
            tx.commit().await?;
        }
        Ok(claimed)
    }

    /// Assigns an endpoint's name to a bridge of a tenant (its id): to that bridge only or, with `also`, in addition to
    /// the bridges that have it.
    ///
    /// # Errors
    /// [`StorageError::NotFound`] when the tenant has no valid bridge of that name,
    /// [`StorageError::Invalid`] for an invalid endpoint name, [`StorageError::Conflict`]
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
                "bridge `{bridge}` has {CLAIMS_PER_BRIDGE_MAX} endpoint names, which is the limit: \
                 release one first"
            )));
        }
        // Marked and not deleted: running relays find the end of a claim by its revision.
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
        let event = AuditEvent {
            bridge: bridge.into(),
            ..AuditEvent::done(tenant, "endpoint.assign", endpoint)
        };
        let event = event.with(&json!({"also": also}));
        audit::add(&mut tx, &self.actor, &event).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Releases an endpoint's name from a bridge of a tenant (its id).
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
        let event = AuditEvent {
            bridge: bridge.into(),
            ..AuditEvent::done(tenant, "endpoint.release", endpoint)
        };
        audit::add(&mut tx, &self.actor, &event).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Returns the endpoint names of valid bridges, of a tenant or of all tenants.
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
        .fetch_all(self.pool())
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

/// Returns the name of a valid bridge of a tenant, by their ids.
async fn name_of(
    tx: &mut Transaction,
    tenant: &str,
    bridge: &str,
) -> Result<Option<String>, StorageError> {
    let row = sqlx::query(
        "SELECT name FROM bridges WHERE id = $1 AND tenant_id = $2 AND revoked IS NULL",
    )
    .bind(bridge)
    .bind(tenant)
    .fetch_optional(&mut **tx)
    .await?;
    Ok(row.map(|row| row.try_get("name")).transpose()?)
}

/// Returns the id of a valid bridge of a tenant (its id), by its name.
async fn id_of(tx: &mut Transaction, tenant: &str, name: &str) -> Result<String, StorageError> {
    let row = sqlx::query(
        "SELECT id FROM bridges WHERE tenant_id = $1 AND name = $2 AND revoked IS NULL",
    )
    .bind(tenant)
    .bind(name)
    .fetch_optional(&mut **tx)
    .await?;
    Ok(row.ok_or_else(|| no_bridge(name))?.try_get("id")?)
}

/// Returns the number of names that a bridge has.
async fn count(tx: &mut Transaction, bridge: &str) -> Result<usize, StorageError> {
    let row = sqlx::query(
        "SELECT COUNT(*) AS claims FROM bridge_claims WHERE bridge_id = $1 AND removed IS NULL",
    )
    .bind(bridge)
    .fetch_one(&mut **tx)
    .await?;
    // A count that cannot be represented is above every limit.
    Ok(usize::try_from(row.try_get::<i64, _>("claims")?).unwrap_or(usize::MAX))
}
