//! PostgreSQL: how it is reached and migrated, and which of its errors are transient.

use super::backend::{Connector, PoolSettings};
use crate::database::PostgresUrl;
use sqlx::migrate::{MigrateError, Migration, Migrator};
use sqlx::{AnyConnection, AssertSqlSafe, Connection as _, Row as _};
use std::time::Duration;

/// Connections of this process.
const CONNECTIONS_MAX: u32 = 8;

/// How long a task waits for one of them.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);

/// `statement_timeout`: the client gives up on a slower statement soon afterwards. `lock_timeout` and
/// `idle_in_transaction_session_timeout`: a process that is frozen or disconnected within a transaction must not
/// keep the lease's row from the process that takes over. `synchronous_commit`: a commit is on disk before it is
/// acknowledged, whatever the server's default.
const SETUP: &str = "SET synchronous_commit = on; SET statement_timeout = '30s'; \
                     SET lock_timeout = '5s'; SET client_min_messages = warning; \
                     SET idle_in_transaction_session_timeout = '5s'";

/// The lock of the process that migrates. Any number that no other program is likely to use.
const MIGRATION_LOCK: i64 = 0x6272_6964_6765_6d67;

/// How often a process that waits for [`MIGRATION_LOCK`] asks again.
const MIGRATION_LOCK_INTERVAL: Duration = Duration::from_millis(100);

pub(crate) fn settings(url: &PostgresUrl) -> PoolSettings {
    PoolSettings {
        url: url.reveal().to_owned(),
        connections_max: CONNECTIONS_MAX,
        acquire_timeout: ACQUIRE_TIMEOUT,
        setup: SETUP,
        display_name: url.to_string(),
    }
}

/// Creates or migrates the tables, on a connection of its own: its end releases the locks, however it ends.
///
/// A migration in a transaction keeps the limits of [`SETUP`], so that it blocks a running relay for seconds at most. One
/// without a transaction builds an index, which may take minutes and blocks no other statement: it has no limit.
pub(crate) async fn migrate(
    migrator: &Migrator,
    connector: &Connector,
) -> Result<(), MigrateError> {
    let mut connection = connector.connect().await?;
    let done = migrate_locked(migrator, &mut connection).await;
    // The result is known; a failed farewell changes nothing.
    let _ = connection.close().await;
    done
}

async fn migrate_locked(
    migrator: &Migrator,
    connection: &mut AnyConnection,
) -> Result<(), MigrateError> {
    // In addition to the library's lock, which is waited for within a statement. The statement's snapshot would be waited for by the
    // index that the other process builds: a deadlock.
    let mut is_reported = false;
    while !try_lock(connection).await? {
        if !is_reported {
            tracing::info!("another process migrates the database; waiting for it");
            is_reported = true;
        }
        tokio::time::sleep(MIGRATION_LOCK_INTERVAL).await;
    }
    for migration in migrator.iter().filter(|migration| migration.no_tx) {
        // What comes before it.
        migrator
            .run_to(migration.version - 1, &mut *connection)
            .await?;
        sqlx::raw_sql("SET statement_timeout = 0; SET lock_timeout = 0")
            .execute(&mut *connection)
            .await?;
        drop_incomplete_index(migration, connection).await?;
        migrator.run_to(migration.version, &mut *connection).await?;
        sqlx::raw_sql(SETUP).execute(&mut *connection).await?;
    }
    migrator.run(&mut *connection).await
}

async fn try_lock(connection: &mut AnyConnection) -> Result<bool, sqlx::Error> {
    let row = sqlx::query("SELECT pg_try_advisory_lock($1) AS is_locked")
        .bind(MIGRATION_LOCK)
        .fetch_one(connection)
        .await?;
    row.try_get("is_locked")
}

/// Removes the index of an interrupted attempt: `IF NOT EXISTS` would take it for the finished one. The migration's file has the
/// name of its index.
async fn drop_incomplete_index(
    migration: &Migration,
    connection: &mut AnyConnection,
) -> Result<(), sqlx::Error> {
    let name = migration.description.replace(' ', "_");
    let found = sqlx::query(
        "SELECT 1 AS one FROM pg_index JOIN pg_class ON pg_class.oid = pg_index.indexrelid
         WHERE pg_class.relname = $1 AND NOT pg_index.indisvalid
         AND pg_class.relnamespace = current_schema()::regnamespace",
    )
    .bind(name.clone())
    .fetch_optional(&mut *connection)
    .await?;
    if found.is_some() {
        tracing::warn!(
            index = name,
            "an index was left incomplete; it is built again"
        );
        let statement = format!("DROP INDEX CONCURRENTLY IF EXISTS \"{name}\"");
        sqlx::raw_sql(AssertSqlSafe(statement))
            .execute(connection)
            .await?;
    }
    Ok(())
}

/// Returns whether an error is transient, by its SQLSTATE: connection (08), rolled back in favour of another
/// transaction (40), out of resources or disk (53), operator intervention or timeout (57), system (58), lock
/// not available (55P03), read only (25006).
pub(crate) fn is_transient(code: &str) -> bool {
    matches!(code.get(..2), Some("08" | "40" | "53" | "57" | "58"))
        || matches!(code, "55P03" | "25006")
}

/// Returns whether the server reports that it ends the connection: it shuts down, or another session
/// terminated this one.
pub(crate) fn is_disconnect(code: &str) -> bool {
    code.starts_with("08") || matches!(code, "57P01" | "57P02" | "57P03" | "57P05")
}

/// Returns whether a transaction may be committed although COMMIT failed with this error.
pub(crate) fn may_be_committed(error: &sqlx::Error) -> bool {
    let sqlx::Error::Database(error) = error else {
        return true;
    };
    match error.code() {
        // The server refused it: for a constraint (23), its state (25), a conflict (40) or missing resources
        // (53). 40003 means that the server itself does not know.
        Some(code) => code == "40003" || !matches!(code.get(..2), Some("23" | "25" | "40" | "53")),
        None => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_disk_is_transient_and_violation_is_not() {
        for code in ["53100", "57P01", "40001", "55P03", "08006"] {
            assert!(is_transient(code), "{code}");
        }
        for code in ["23505", "42P01", "22001", ""] {
            assert!(!is_transient(code), "{code}");
        }
    }
}
