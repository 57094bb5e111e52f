//! What changed since some revision: how a running relay follows its database.

use super::db::Backend;
use super::model::{Changes, now};
use super::pool::Pool;
use super::{StorageError, claims, rows};
use sqlx::Row;

/// How long a revoked bridge is told so, in seconds; later it is merely unknown.
const TOLD_REVOKED: i64 = 90 * 24 * 3600;

/// One consistent look. Revoked keys matter only to who knew them before, so not after 0.
pub(super) async fn changes_since(
    pool: &Pool,
    backend: Backend,
    since: i64,
) -> Result<Changes, StorageError> {
    let mut tx = pool.begin_with(backend.look()).await?;
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
    let told = now() - TOLD_REVOKED;
    let found = sqlx::query(
        "SELECT * FROM bridges
         WHERE revision > $1 AND ($1 > 0 OR revoked IS NULL OR revoked > $2)",
    )
    .bind(since)
    .bind(told)
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
    .bind(told)
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
