//! Notices: each is raised once while its cause lasts, and cleared when the cause is gone.

use super::model::now;
use super::{NoRandom, Storage, StorageError, hex, random, tenants};
use sqlx::Row as _;
use sqlx::any::AnyRow;
use std::sync::Arc;

/// A notice.
#[derive(Debug, Clone)]
pub struct Notice {
    /// Its id; sorts by when it was raised.
    pub id: String,
    /// The tenant's id.
    pub tenant: Arc<str>,
    /// `bridge_offline`, `bridge_cloned`, `endpoint_conflict`, `dead_letters`, `key_expires`,
    /// `certificate_expires`, `deliveries_paused`, `database_silent`, `pairing_file_reused`.
    pub kind: String,
    /// Its object: a bridge's name, a client id, ...
    pub object: String,
    /// The notice in plain text.
    pub detail: String,
    /// When it was raised, in seconds since 1970.
    pub raised: i64,
    /// When its cause was gone, in seconds since 1970.
    pub cleared: Option<i64>,
}

/// A current cause of a notice.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cause {
    /// The tenant's id.
    pub tenant: Arc<str>,
    /// Its object.
    pub object: String,
    /// The notice in plain text.
    pub detail: String,
}

fn notice(row: &AnyRow) -> Result<Notice, StorageError> {
    Ok(Notice {
        id: row.try_get("id")?,
        tenant: row.try_get::<String, _>("tenant_id")?.into(),
        kind: row.try_get("kind")?,
        object: row.try_get("object")?,
        detail: row.try_get("detail")?,
        raised: row.try_get("raised")?,
        cleared: row.try_get("cleared")?,
    })
}

/// Returns an id that rises with time, so that a page's cursor is an id.
fn new_id(raised: i64) -> Result<String, NoRandom> {
    // Eleven digits, so that ids compare as text in the order of their times.
    Ok(format!("ntc_{raised:011}{}", hex(&random::<6>()?)))
}

impl Storage {
    /// Brings the open notices of a kind in line with their current causes: raises and returns new ones, and clears
    /// those whose cause is gone.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not respond.
    pub async fn settle_notices(
        &self,
        kind: &str,
        causes: &[Cause],
    ) -> Result<Vec<Notice>, StorageError> {
        let mut tx = self.begin().await?;
        let open = sqlx::query("SELECT * FROM notices WHERE kind = $1 AND cleared IS NULL")
            .bind(kind)
            .fetch_all(&mut *tx)
            .await?;
        let open: Vec<Notice> = open.iter().map(notice).collect::<Result<_, _>>()?;
        let is = |notice: &Notice, cause: &Cause| {
            notice.tenant == cause.tenant && notice.object == cause.object
        };
        for notice in &open {
            if !causes.iter().any(|cause| is(notice, cause)) {
                // Conditional: another process may have cleared it, and its time stands.
                sqlx::query("UPDATE notices SET cleared = $1 WHERE id = $2 AND cleared IS NULL")
                    .bind(now())
                    .bind(&notice.id)
                    .execute(&mut *tx)
                    .await?;
            }
        }
        let mut raised = Vec::new();
        for cause in causes {
            if open.iter().any(|notice| is(notice, cause)) {
                continue;
            }
            let moment = now();
            let notice = Notice {
                id: new_id(moment)?,
                tenant: cause.tenant.clone(),
                kind: kind.to_owned(),
                object: cause.object.clone(),
                detail: cause.detail.clone(),
                raised: moment,
                cleared: None,
            };
            // Another process may have raised the same notice since the query above: the unique index on open notices
            // decides, and only the process that stored the notice returns it.
            tenants::lock(&mut tx, &notice.tenant).await?;
            let inserted = sqlx::query(
                "INSERT INTO notices (id, tenant_id, kind, object, detail, raised)
                 SELECT $1, id, $2, $3, $4, $5 FROM tenants WHERE id = $6 AND state <> 'deleted'
                 ON CONFLICT DO NOTHING",
            )
            .bind(&notice.id)
            .bind(kind)
            .bind(&notice.object)
            .bind(&notice.detail)
            .bind(moment)
            .bind(&*notice.tenant)
            .execute(&mut *tx)
            .await?;
            if inserted.rows_affected() > 0 {
                raised.push(notice);
            }
        }
        tx.commit().await?;
        Ok(raised)
    }

    /// Returns notices of a tenant (its id; empty for all), newest first, those before `before` (an id; empty for the
    /// newest).
    ///
    /// # Errors
    /// [`StorageError`] when the database does not respond.
    pub async fn notices(
        &self,
        tenant: &str,
        only_open: bool,
        before: &str,
        limit: u32,
    ) -> Result<Vec<Notice>, StorageError> {
        let rows = sqlx::query(
            "SELECT * FROM notices WHERE ($1 = '' OR tenant_id = $1)
               AND ($2 = 0 OR cleared IS NULL) AND ($3 = '' OR id < $3)
             ORDER BY id DESC LIMIT $4",
        )
        .bind(tenant)
        .bind(i64::from(only_open))
        .bind(before)
        .bind(i64::from(limit))
        .fetch_all(self.pool())
        .await?;
        rows.iter().map(notice).collect()
    }

    /// Deletes notices that were cleared before a moment, in seconds since 1970.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not respond.
    pub async fn forget_notices(&self, before: i64) -> Result<(), StorageError> {
        // Open notices stay, however old: deleting one would raise it again.
        let mut tx = self.begin().await?;
        sqlx::query("DELETE FROM notices WHERE cleared IS NOT NULL AND cleared < $1")
            .bind(before)
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(())
    }

    /// Returns the enabled bridges that were connected before a moment and have not been since.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not respond.
    pub async fn bridges_away(&self, since: i64) -> Result<Vec<(Cause, String)>, StorageError> {
        let rows = sqlx::query(
            "SELECT b.tenant_id, b.id, b.name, b.last_seen FROM bridges b
             JOIN tenants t ON t.id = b.tenant_id
             WHERE b.revoked IS NULL AND b.disabled IS NULL AND t.state = 'active'
               AND b.last_seen IS NOT NULL AND b.last_seen < $1
             ORDER BY b.tenant_id, b.name LIMIT 10000",
        )
        .bind(since)
        .fetch_all(self.pool())
        .await?;
        let causes = rows.iter().map(|row| {
            let name: String = row.try_get("name")?;
            let cause = Cause {
                tenant: row.try_get::<String, _>("tenant_id")?.into(),
                detail: format!("the bridge {name} is not connected"),
                object: name,
            };
            Ok((cause, row.try_get("id")?))
        });
        causes.collect()
    }

    /// Returns the valid keys that expire before a moment. Those of pairing files are meant to.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not respond.
    pub async fn keys_expiring(&self, before: i64) -> Result<Vec<Cause>, StorageError> {
        let rows = sqlx::query(
            "SELECT k.tenant_id, k.client_id, k.name, k.role FROM api_keys k
             JOIN tenants t ON t.id = k.tenant_id
             WHERE k.revoked IS NULL AND k.expires IS NOT NULL AND k.expires > $1
               AND k.expires < $2 AND k.one_time = 0 AND t.state <> 'deleted'
             ORDER BY k.tenant_id, k.client_id LIMIT 10000",
        )
        .bind(now())
        .bind(before)
        .fetch_all(self.pool())
        .await?;
        let causes = rows.iter().map(|row| {
            let (role, name): (String, String) = (row.try_get("role")?, row.try_get("name")?);
            Ok(Cause {
                tenant: row.try_get::<String, _>("tenant_id")?.into(),
                object: row.try_get("client_id")?,
                detail: format!("the {role} key {name:?} is about to expire"),
            })
        });
        causes.collect()
    }

    /// Returns the keys of pairing files that were used again after they had paired a bridge, until they are revoked.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not respond.
    pub async fn keys_reused(&self) -> Result<Vec<Cause>, StorageError> {
        let rows = sqlx::query(
            "SELECT k.tenant_id, k.client_id FROM api_keys k
             JOIN tenants t ON t.id = k.tenant_id
             WHERE k.revoked IS NULL AND k.reused IS NOT NULL AND t.state <> 'deleted'
             ORDER BY k.tenant_id, k.client_id LIMIT 10000",
        )
        .fetch_all(self.pool())
        .await?;
        let causes = rows.iter().map(|row| {
            let client_id: String = row.try_get("client_id")?;
            Ok(Cause {
                tenant: row.try_get::<String, _>("tenant_id")?.into(),
                detail: format!(
                    "the pairing file with the key {client_id} was used again after it had paired a bridge: there is a \
                     copy of it. `integration-relay bridge list` shows from where the bridge was paired. If that is not \
                     the right machine: `integration-relay key revoke {client_id}`, which revokes the bridge as well; \
                     if it is, add --keep-bridges"
                ),
                object: client_id,
            })
        });
        causes.collect()
    }

    /// Returns the tenants with dead letters: stored calls that ended without success and were not cancelled. The
    /// webhooks of notices do not count.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not respond.
    pub async fn dead_letters(&self) -> Result<Vec<Cause>, StorageError> {
        let rows = sqlx::query(
            "SELECT t.id AS tenant_id FROM tenants t
             WHERE t.state <> 'deleted' AND EXISTS
               (SELECT 1 FROM calls c WHERE c.tenant_id = t.id
                  AND c.state IN ('failed', 'refused', 'outcome_unknown', 'expired')
                  AND c.client_id <> 'relay')
             ORDER BY t.id LIMIT 10000",
        )
        .fetch_all(self.pool())
        .await?;
        let causes = rows.iter().map(|row| {
            Ok(Cause {
                tenant: row.try_get::<String, _>("tenant_id")?.into(),
                object: "calls".to_owned(),
                detail:
                    "stored calls ended without success: see GET /v1/calls?state=failed, and the \
                         same with refused, outcome_unknown and expired"
                        .into(),
            })
        });
        causes.collect()
    }
}
