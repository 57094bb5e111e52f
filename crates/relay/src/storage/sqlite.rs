//! The SQLite file: how it is opened, and how its rows become types.
//!
//! WAL, so that commands read and write beside a running relay; every commit is on disk before it
//! is acknowledged (`synchronous = FULL`); a writer waits up to five seconds for another.

use super::model::{
    ApiKey, Bridge, BridgeIdentity, Changes, ClientId, SecretHash, Tenant, UnknownWord,
};
use super::{StorageError, Tx};
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteRow, SqliteSynchronous,
};
use sqlx::{Row, SqlitePool};
use std::path::Path;
use std::time::Duration;

static MIGRATOR: Migrator = sqlx::migrate!("./migrations");

/// How long a writer waits for another process.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Connections of this process. The data path needs none; each is a thread.
const CONNECTIONS_MAX: u32 = 2;

/// Another process may be migrating the same new file.
const MIGRATE_ATTEMPTS: u32 = 5;

pub(super) async fn open(path: &Path) -> Result<SqlitePool, StorageError> {
    let unusable = |detail: String| StorageError::Unusable(format!("{}: {detail}", path.display()));
    if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        std::fs::create_dir_all(dir)
            .map_err(|error| unusable(format!("its directory cannot be made: {error}")))?;
    }
    private(path).map_err(|error| unusable(error.to_string()))?;
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(BUSY_TIMEOUT);
    let pool = SqlitePoolOptions::new()
        .max_connections(CONNECTIONS_MAX)
        .acquire_timeout(2 * BUSY_TIMEOUT)
        // The file does not go away; asking before each use would cost a round trip.
        .test_before_acquire(false)
        .connect_with(options)
        .await
        .map_err(|error| unusable(error.to_string()))?;
    let mut attempt = 1;
    loop {
        match MIGRATOR.run(&pool).await {
            Ok(()) => return Ok(pool),
            Err(MigrateError::VersionMissing(version)) => {
                return Err(unusable(format!(
                    "it was written by a newer version of this program (schema {version})"
                )));
            }
            Err(_) if attempt < MIGRATE_ATTEMPTS => attempt += 1,
            Err(error) => return Err(unusable(error.to_string())),
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Creates the file for its owner alone: it holds no secrets, and nobody else's business.
fn private(path: &Path) -> std::io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.create(true).append(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map(drop)
}

/// Whether an error passes by itself or by freeing the disk: nothing is wrong with the request.
pub(super) fn is_passing(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(error) => {
            // SQLite's primary result codes: BUSY 5, LOCKED 6, READONLY 8, IOERR 10, FULL 13,
            // CANTOPEN 14.
            let code = error.code().and_then(|code| code.parse::<u32>().ok());
            code.is_some_and(|code| matches!(code & 0xff, 5 | 6 | 8 | 10 | 13 | 14))
        }
        sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::Io(_) => true,
        _ => false,
    }
}

fn corrupt(what: &str) -> sqlx::Error {
    sqlx::Error::Decode(format!("the column `{what}` holds something unknown").into())
}

fn word<T: std::str::FromStr<Err = UnknownWord>>(
    row: &SqliteRow,
    column: &str,
) -> Result<T, sqlx::Error> {
    let text: &str = row.try_get(column)?;
    text.parse().map_err(|_| corrupt(column))
}

fn text(row: &SqliteRow, column: &str) -> Result<String, sqlx::Error> {
    row.try_get(column)
}

pub(super) fn tenant(row: &SqliteRow) -> Result<Tenant, StorageError> {
    Ok(Tenant {
        id: text(row, "id")?.into(),
        name: text(row, "name")?,
        state: word(row, "state")?,
        created: row.try_get("created")?,
    })
}

pub(super) fn key(row: &SqliteRow) -> Result<ApiKey, StorageError> {
    let hash: &[u8] = row.try_get("secret_hash")?;
    Ok(ApiKey {
        client_id: text(row, "client_id")?.into(),
        tenant: text(row, "tenant_id")?.into(),
        role: word(row, "role")?,
        name: text(row, "name")?,
        secret_hash: SecretHash::from_stored(hash).ok_or_else(|| corrupt("secret_hash"))?,
        existing: word(row, "existing")?,
        created: row.try_get("created")?,
        expires: row.try_get("expires")?,
        revoked: row.try_get("revoked")?,
    })
}

pub(super) fn bridge(row: &SqliteRow) -> Result<Bridge, StorageError> {
    Ok(Bridge {
        id: text(row, "id")?.into(),
        tenant: text(row, "tenant_id")?.into(),
        name: text(row, "name")?,
        created: row.try_get("created")?,
        revoked: row.try_get("revoked")?,
    })
}

pub(super) fn identity(row: &SqliteRow) -> Result<BridgeIdentity, StorageError> {
    let instance: &[u8] = row.try_get("instance")?;
    Ok(BridgeIdentity {
        id: text(row, "id")?.into(),
        bridge: text(row, "bridge_id")?.into(),
        public_key: row.try_get("public_key")?,
        instance: instance.try_into().map_err(|_| corrupt("instance"))?,
        paired_by: ClientId::from(text(row, "paired_by")?),
        revoked: row.try_get("revoked")?,
    })
}

/// How long a revoked bridge is told so, in seconds; later it is merely unknown.
const TOLD_REVOKED: i64 = 90 * 24 * 3600;

/// One consistent look. Revoked keys matter only to who knew them before, so not after 0.
pub(super) async fn changes_since(pool: &SqlitePool, since: i64) -> Result<Changes, StorageError> {
    let mut tx = pool.begin().await?;
    let row = sqlx::query("SELECT revision FROM meta WHERE id = 1")
        .fetch_one(&mut *tx)
        .await?;
    let mut changes = Changes {
        revision: row.try_get("revision")?,
        ..Changes::default()
    };
    let rows = sqlx::query("SELECT * FROM tenants WHERE revision > $1")
        .bind(since)
        .fetch_all(&mut *tx)
        .await?;
    for row in &rows {
        changes.tenants.push(tenant(row)?);
    }
    let rows =
        sqlx::query("SELECT * FROM api_keys WHERE revision > $1 AND ($1 > 0 OR revoked IS NULL)")
            .bind(since)
            .fetch_all(&mut *tx)
            .await?;
    for row in &rows {
        changes.keys.push(key(row)?);
    }
    let told = super::now() - TOLD_REVOKED;
    let rows = sqlx::query(
        "SELECT * FROM bridges
         WHERE revision > $1 AND ($1 > 0 OR revoked IS NULL OR revoked > $2)",
    )
    .bind(since)
    .bind(told)
    .fetch_all(&mut *tx)
    .await?;
    for row in &rows {
        changes.bridges.push(bridge(row)?);
    }
    let rows = sqlx::query(
        "SELECT * FROM bridge_identities
         WHERE revision > $1 AND ($1 > 0 OR revoked IS NULL OR revoked > $2) ORDER BY created",
    )
    .bind(since)
    .bind(told)
    .fetch_all(&mut *tx)
    .await?;
    for row in &rows {
        changes.identities.push(identity(row)?);
    }
    tx.commit().await?;
    Ok(changes)
}

/// Revokes the installations of a bridge.
pub(super) async fn revoke_identities(
    tx: &mut Tx,
    bridge: &str,
    now: i64,
    revision: i64,
) -> Result<(), StorageError> {
    sqlx::query(
        "UPDATE bridge_identities SET revoked = $1, revision = $2
         WHERE bridge_id = $3 AND revoked IS NULL",
    )
    .bind(now)
    .bind(revision)
    .bind(bridge)
    .execute(&mut **tx)
    .await?;
    Ok(())
}
