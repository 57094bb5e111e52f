//! What differs between the two databases, and how either is opened.
//!
//! The differences are how a transaction begins, the clock, and which errors are transient. The rest of each
//! database is in [`sqlite`](super::sqlite) and [`postgres`](super::postgres).

use super::StoreError;
use super::error::words;
use super::pool::{BreakageClock, Pool};
use super::postgres;
use super::sqlite;
use crate::database::{Database, PostgresUrl};
use crate::migrations::{Migrations, migrator};
use sqlx::any::{AnyConnectOptions, AnyPoolOptions};
use sqlx::migrate::MigrateError;
use sqlx::postgres::PgDatabaseError;
use sqlx::{AnyConnection, AnyPool, ConnectOptions as _, Connection as _, Row as _};
use std::time::Duration;

/// Attempts to migrate: another process may be migrating the same new database.
const MIGRATE_ATTEMPTS: u32 = 5;

/// The pause between two attempts to migrate.
const MIGRATE_RETRY_AFTER: Duration = Duration::from_millis(200);

/// Which database it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// A SQLite file on this host.
    Sqlite,
    /// A PostgreSQL server, version 15 or newer.
    Postgres,
}

impl Backend {
    /// Returns the statement that begins a transaction that writes.
    pub(crate) fn begin_write(self) -> &'static str {
        match self {
            // Takes the write lock now. A deferred transaction would fail later, when it first writes after
            // another one has written.
            Self::Sqlite => "BEGIN IMMEDIATE",
            // The outcome of a lost COMMIT is looked up by the transaction's number and its server process.
            Self::Postgres => {
                "BEGIN; SELECT pg_current_xact_id()::text AS xid, pg_backend_pid()::bigint AS pid"
            }
        }
    }

    /// Returns the statement that begins a read-only transaction on one consistent state.
    pub(crate) fn begin_snapshot(self) -> &'static str {
        match self {
            Self::Sqlite => "BEGIN",
            Self::Postgres => "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
        }
    }

    /// Returns the statement that reads the epoch of a lease, which then does not change until the transaction
    /// ends. `$1` is the lease's name.
    pub(crate) fn lease_check(self) -> &'static str {
        match self {
            // A SQLite transaction that writes is the only one.
            Self::Sqlite => "SELECT epoch FROM leases WHERE name = $1",
            Self::Postgres => "SELECT epoch FROM leases WHERE name = $1 FOR SHARE",
        }
    }

    /// Returns the database's own clock as an SQL expression, in milliseconds since 1970.
    pub fn clock_ms(self) -> &'static str {
        match self {
            Self::Sqlite => "CAST(unixepoch('subsec') * 1000 AS INTEGER)",
            // Not now(), which is the time at which the transaction began.
            Self::Postgres => "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)",
        }
    }
}

/// How a database wants its pool.
pub(crate) struct PoolSettings {
    pub(crate) url: String,
    pub(crate) connections_max: u32,
    pub(crate) acquire_timeout: Duration,
    /// Statements that run on each connection before its first use.
    pub(crate) setup: &'static str,
    /// The database's name in error messages, without secrets.
    pub(crate) display_name: String,
}

/// Opens connections that do not belong to the pool.
#[derive(Debug, Clone)]
pub(crate) struct Connector {
    options: AnyConnectOptions,
    setup: &'static str,
}

impl Connector {
    /// Opens a connection that is ready for use.
    pub(crate) async fn connect(&self) -> Result<AnyConnection, sqlx::Error> {
        let mut connection = self.options.connect().await?;
        sqlx::raw_sql(self.setup).execute(&mut connection).await?;
        Ok(connection)
    }
}

/// Returns whether a PostgreSQL database has tables of this program. Changes nothing.
pub(crate) async fn has_tables(url: &PostgresUrl) -> Result<bool, sqlx::Error> {
    sqlx::any::install_default_drivers();
    let options: AnyConnectOptions = url.reveal().parse()?;
    let mut connection = options.disable_statement_logging().connect().await?;
    let query = "SELECT count(*) AS tables FROM information_schema.tables WHERE table_name = 'meta' \
                 AND table_schema = current_schema()";
    let row = sqlx::query(query).fetch_one(&mut connection).await?;
    let tables: i64 = row.try_get("tables")?;
    // The result is known; a failed farewell changes nothing.
    let _ = connection.close().await;
    Ok(tables > 0)
}

/// Returns the number in a query's only row. `bound` is its parameter. Changes nothing.
pub(crate) async fn number(
    url: &str,
    query: &'static str,
    bound: Option<&[u8]>,
) -> Result<i64, sqlx::Error> {
    sqlx::any::install_default_drivers();
    let options: AnyConnectOptions = url.parse()?;
    let mut connection = options.disable_statement_logging().connect().await?;
    let mut query = sqlx::query(query);
    if let Some(bound) = bound {
        query = query.bind(bound.to_vec());
    }
    let row = query.fetch_one(&mut connection).await?;
    let number = row.try_get(0)?;
    let _ = connection.close().await;
    Ok(number)
}

/// Opens the database, and creates or migrates its tables.
pub(crate) async fn open(
    database: &Database,
    migrations: &Migrations,
) -> Result<(Pool, Connector), StoreError> {
    sqlx::any::install_default_drivers();
    let (settings, backend, files) = match database {
        Database::Sqlite(path) => (sqlite::settings(path)?, Backend::Sqlite, migrations.sqlite),
        Database::Postgres(url) => {
            let settings = postgres::settings(url);
            (settings, Backend::Postgres, migrations.postgres)
        }
    };
    let display_name = settings.display_name.clone();
    let unusable = |detail: String| StoreError::Unusable(format!("{display_name}: {detail}"));
    let options: AnyConnectOptions = settings
        .url
        .parse()
        .map_err(|error: sqlx::Error| unusable(error.to_string()))?;
    let migrator = migrator(files).map_err(unusable)?;
    let connector = Connector {
        options: options.disable_statement_logging(),
        setup: settings.setup,
    };
    // The first connection is opened outside of the pool, which would retry a wrong password or path until
    // its acquire timeout.
    let first = connector.connect().await;
    let first = first.map_err(|error| unusable(words(&error)))?;
    let anchor = anchor(first, backend).await;
    let anchor = anchor.map_err(|error| unusable(words(&error)))?;
    let breakage = BreakageClock::default();
    let raw = connect_pool(&settings, &connector, breakage.clone()).await;
    let raw = raw.map_err(|error| unusable(words(&error)))?;
    match backend {
        Backend::Sqlite => migrate(async || migrator.run(&raw).await).await,
        Backend::Postgres => migrate(async || postgres::migrate(&migrator, &connector).await).await,
    }
    .map_err(unusable)?;
    Ok((Pool::new(raw, backend, breakage, anchor), connector))
}

/// Returns the connection that stays open as long as the pool, for a database that needs one.
async fn anchor(
    mut first: AnyConnection,
    backend: Backend,
) -> Result<Option<AnyConnection>, sqlx::Error> {
    match backend {
        // The last connection that closes removes the write-ahead log and its index. On a full disk the next
        // connection could not create them again, and not even read. The query opens the file: SQLite
        // opens it on first use.
        Backend::Sqlite => {
            sqlx::raw_sql("SELECT COUNT(*) FROM sqlite_schema")
                .execute(&mut first)
                .await?;
            Ok(Some(first))
        }
        Backend::Postgres => {
            first.close().await?;
            Ok(None)
        }
    }
}

async fn connect_pool(
    settings: &PoolSettings,
    connector: &Connector,
    breakage: BreakageClock,
) -> Result<AnyPool, sqlx::Error> {
    let setup = settings.setup;
    AnyPoolOptions::new()
        .max_connections(settings.connections_max)
        .acquire_timeout(settings.acquire_timeout)
        // A ping before each use would cost a round trip. Only connections that were idle when another one
        // broke are tested: they may have lost the same server.
        .test_before_acquire(false)
        .before_acquire(move |connection, about| {
            let breakage = breakage.clone();
            Box::pin(async move { breakage.test(connection, about.idle_for).await })
        })
        .after_connect(move |connection, _| {
            Box::pin(async move {
                sqlx::raw_sql(setup).execute(connection).await?;
                Ok(())
            })
        })
        .connect_with(connector.options.clone())
        .await
}

/// Migrates with `run`, and tries again.
async fn migrate(run: impl AsyncFn() -> Result<(), MigrateError>) -> Result<(), String> {
    let mut attempt = 1;
    loop {
        match run().await {
            Ok(()) => return Ok(()),
            Err(MigrateError::VersionMissing(version)) => {
                return Err(format!(
                    "a newer version of this program wrote it (schema {version})"
                ));
            }
            // Two processes that create the same tables at once: one of them fails, and finds them there on
            // its next attempt.
            Err(_) if attempt < MIGRATE_ATTEMPTS => attempt += 1,
            Err(MigrateError::Execute(error)) => return Err(words(&error)),
            Err(error) => return Err(error.to_string()),
        }
        tokio::time::sleep(MIGRATE_RETRY_AFTER).await;
    }
}

/// Returns whether an error passes by itself or when the disk has space again: the statement is not at fault.
pub(crate) fn is_transient(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(error) => match error.try_downcast_ref::<PgDatabaseError>() {
            Some(error) => postgres::is_transient(error.code()),
            None => error
                .code()
                .is_some_and(|code| sqlite::is_transient(code.as_ref())),
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
