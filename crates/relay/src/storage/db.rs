//! One way to two databases: SQLite, and PostgreSQL.
//!
//! Statements are the same for both: text, integers and bytes, placeholders `$1`, `ON CONFLICT`,
//! `RETURNING`. What differs (how a database is opened, how a change begins, which errors pass by
//! themselves) is here and in the module of each. Connections and transactions are in
//! [`pool`](super::pool).

use super::pool::{Pool, Trouble};
use super::{StorageError, postgres, sqlite};
use crate::config::Database;
use sqlx::any::{AnyConnectOptions, AnyPoolOptions};
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::postgres::PgDatabaseError;
use sqlx::{AnyConnection, ConnectOptions as _, Connection as _};
use std::time::Duration;

/// Another process may be migrating the same new database.
const MIGRATE_ATTEMPTS: u32 = 5;

/// Which database it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Backend {
    /// A file of this machine.
    Sqlite,
    /// A server, version 15 or newer.
    Postgres,
}

impl Backend {
    /// Begins a transaction that writes.
    pub(super) fn begin(self) -> &'static str {
        match self {
            // Waits for its turn here, and never fails later because somebody else was faster.
            Self::Sqlite => "BEGIN IMMEDIATE",
            // The number and the process by which the outcome of a lost COMMIT is looked up.
            Self::Postgres => {
                "BEGIN; SELECT pg_current_xact_id()::text AS xid, pg_backend_pid()::bigint AS pid"
            }
        }
    }

    /// The epoch of the relay's lease, which then stays what it is until the transaction ends.
    pub(super) fn lease_check(self) -> &'static str {
        match self {
            Self::Sqlite => "SELECT epoch FROM leases WHERE name = 'relay'",
            Self::Postgres => "SELECT epoch FROM leases WHERE name = 'relay' FOR SHARE",
        }
    }

    /// The database's own clock, as an expression: milliseconds since 1970.
    pub(super) fn clock_ms(self) -> &'static str {
        match self {
            Self::Sqlite => "CAST(unixepoch('subsec') * 1000 AS INTEGER)",
            Self::Postgres => "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)",
        }
    }

    /// Begins a transaction that sees one moment.
    pub(super) fn look(self) -> &'static str {
        match self {
            Self::Sqlite => "BEGIN",
            Self::Postgres => "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
        }
    }
}

/// How a backend wants its pool.
pub(super) struct Opening {
    pub(super) url: String,
    pub(super) connections_max: u32,
    pub(super) acquire_timeout: Duration,
    /// Run on each connection before its first use.
    pub(super) first: &'static str,
    pub(super) migrator: &'static Migrator,
    /// What people call it in errors; holds no secret.
    pub(super) shown: String,
}

/// How a connection that is not in the pool is made.
#[derive(Debug, Clone)]
pub(super) struct Connecting {
    options: AnyConnectOptions,
    first: &'static str,
}

impl Connecting {
    /// A connection that is ready for use.
    pub(super) async fn connect(&self) -> Result<AnyConnection, sqlx::Error> {
        let mut connection = self.options.connect().await?;
        sqlx::raw_sql(self.first).execute(&mut connection).await?;
        Ok(connection)
    }
}

/// Opens the database, and creates or migrates its tables.
pub(super) async fn open(database: &Database) -> Result<(Pool, Backend, Connecting), StorageError> {
    sqlx::any::install_default_drivers();
    let (opening, backend) = match database {
        Database::Sqlite(path) => (sqlite::opening(path)?, Backend::Sqlite),
        Database::Postgres(url) => (postgres::opening(url), Backend::Postgres),
    };
    let shown = opening.shown;
    let unusable = |detail: String| StorageError::Unusable(format!("{shown}: {detail}"));
    let options: AnyConnectOptions = opening
        .url
        .parse()
        .map_err(|error: sqlx::Error| unusable(error.to_string()))?;
    let options = options.disable_statement_logging();
    let first = opening.first;
    let connecting = Connecting {
        options: options.clone(),
        first,
    };
    // The pool would try again for as long as it may take.
    let mut first_one = connecting
        .connect()
        .await
        .map_err(|error| unusable(error.to_string()))?;
    let keeper = match backend {
        // The last connection that closes removes the write-ahead log and its index. On a full disk
        // the next one could not make them again, and nothing could be read any more.
        Backend::Sqlite => {
            let read = sqlx::raw_sql("SELECT COUNT(*) FROM sqlite_schema")
                .execute(&mut first_one)
                .await;
            read.map_err(|error| unusable(error.to_string()))?;
            Some(first_one)
        }
        Backend::Postgres => {
            let closed = first_one.close().await;
            closed.map_err(|error| unusable(error.to_string()))?;
            None
        }
    };
    let trouble = Trouble::default();
    let tester = trouble.clone();
    let pool = AnyPoolOptions::new()
        .max_connections(opening.connections_max)
        .acquire_timeout(opening.acquire_timeout)
        // Asking before each use would cost a round trip. Only those that were idle when another
        // one broke are asked: they may have lost the same server.
        .test_before_acquire(false)
        .before_acquire(move |connection, about| {
            let tester = tester.clone();
            Box::pin(async move { tester.test(connection, about.idle_for).await })
        })
        .after_connect(move |connection, _| {
            Box::pin(async move {
                sqlx::raw_sql(first).execute(connection).await?;
                Ok(())
            })
        })
        .connect_with(options)
        .await
        .map_err(|error| unusable(error.to_string()))?;
    let mut attempt = 1;
    loop {
        match opening.migrator.run(&pool).await {
            Ok(()) => {
                return Ok((
                    Pool::new(pool, backend, trouble, keeper),
                    backend,
                    connecting,
                ));
            }
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

/// Whether an error passes by itself or by freeing the disk: nothing is wrong with the request.
pub(super) fn is_passing(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(error) => match error.try_downcast_ref::<PgDatabaseError>() {
            Some(error) => postgres::is_passing(error.code()),
            None => error
                .code()
                .is_some_and(|code| sqlite::is_passing(code.as_ref())),
        },
        sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed
        | sqlx::Error::Protocol(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Io(_) => true,
        _ => false,
    }
}
