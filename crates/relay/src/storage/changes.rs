//! The changes since a revision: how a running relay follows its database.

use super::model::{Changes, now};
use super::{StorageError, claims, rows};
use sqlx::Row as _;
use store::Store;

/// How long a revoked bridge is reported as revoked, in seconds; later it is merely unknown.
const REVOKED_REPORTED: i64 = 90 * 24 * 3600;

/// Returns the changes after a revision. After 0, revoked keys are left out: they matter only to a process that knew
/// them as valid.
pub(super) async fn changes_since(store: &Store, since: i64) -> Result<Changes, StorageError> {
    // One consistent state: a change that is committed between two of the queries would be missed in part, and
    // never be read again, because the revision is already the newer one.
    let mut tx = store.snapshot().await?;
    let row = sqlx::query("SELECT revision FROM meta WHERE id = 1")
        .fetch_one(&mut *tx)
        .await?;
    let mut changes = Changes {
        revision: row.try_get("revision")?,
        ..Changes::default()
    };
    let found = sqlx::query("SELECT * FROM tenants WHERE revision > $1")
        .bind(since)
        .fetch_all(&mut *tx)
        .await?;
    for row in &found {
        changes.tenants.push(rows::tenant(row)?);
    }
    let found =
        sqlx::query("SELECT * FROM api_keys WHERE revision > $1 AND ($1 > 0 OR revoked IS NULL)")
            .bind(since)
            .fetch_all(&mut *tx)
            .await?;
    for row in &found {
        changes.keys.push(rows::key(row)?);
    }
    let reported = now() - REVOKED_REPORTED;
    let found = sqlx::query(
        "SELECT * FROM bridges
         WHERE revision > $1 AND ($1 > 0 OR revoked IS NULL OR revoked > $2)",
    )
    .bind(since)
    .bind(reported)
    .fetch_all(&mut *tx)
    .await?;
    for row in &found {
        changes.bridges.push(rows::bridge(row)?);
    }
    let found = sqlx::query(
        "SELECT * FROM bridge_identities
         WHERE revision > $1 AND ($1 > 0 OR revoked IS NULL OR revoked > $2) ORDER BY created",
    )
    .bind(since)
    .bind(reported)
    .fetch_all(&mut *tx)
    .await?;
    for row in &found {
        changes.identities.push(rows::identity(row)?);
    }
    let found = sqlx::query(
        "SELECT * FROM bridge_claims WHERE revision > $1 AND ($1 > 0 OR removed IS NULL)",
    )
    .bind(since)
    .fetch_all(&mut *tx)
    .await?;
    for row in &found {
        changes.claims.push(claims::claim(row)?);
    }
    tx.commit().await?;
    Ok(changes)
}
