//! The connections of a database. One that is doubtful is closed, and never used again.
//!
//! The library's own transactions are not used: on a full disk SQLite ends the transaction by itself, the
//! library's ROLLBACK then fails, and the connection stays "in a transaction" in its pool. [`Pool::begin_with`]
//! is the only way to begin one here, and returns a [`Transaction`].

use super::StoreError;
use super::backend::{Backend, is_transient};
use super::connection::{Connection, Step, timed_out};
use super::postgres;
use super::transaction::{ServerTransaction, Transaction};
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use sqlx::any::{Any, AnyRow, AnyStatement, AnyTypeInfo};
use sqlx::{AnyConnection, AnyPool, Connection as _, Execute, Executor, Row as _, SqlStr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Attempts at BEGIN. After a failure, several connections may be broken that no statement has used yet.
const BEGIN_ATTEMPTS: u32 = 3;

/// How long PostgreSQL may take to respond to BEGIN or COMMIT before the connection counts as lost.
pub(crate) const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);

/// The same for a statement: longer than the server's own limit (`statement_timeout`), so that a live server
/// reports its error first. A server whose host is gone never responds.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(40);

/// How long a connection may take to show that it is alive.
const PING_TIMEOUT: Duration = Duration::from_secs(2);

/// The moment from which [`BreakageClock`] counts.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// When a connection of a pool last broke. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct BreakageClock {
    /// In milliseconds after [`START`], plus one; zero for never.
    at_ms: Arc<AtomicU64>,
}

impl BreakageClock {
    pub(crate) fn record(&self) {
        let after = START.elapsed().as_millis();
        let after = u64::try_from(after).unwrap_or(u64::MAX - 1) + 1;
        // Relaxed: the time orders no other memory. A connection that misses the newest time is tested when it
        // is next used.
        self.at_ms.fetch_max(after, Ordering::Relaxed);
    }

    /// Returns whether a connection that was idle for this long may have broken unnoticed.
    fn may_affect(&self, idle_for: Duration) -> bool {
        let idle_since = START.elapsed().saturating_sub(idle_for).as_millis();
        u128::from(self.at_ms.load(Ordering::Relaxed)) > idle_since
    }

    /// Returns whether an idle connection may be used.
    pub(crate) async fn test(
        &self,
        connection: &mut AnyConnection,
        idle_for: Duration,
    ) -> Result<bool, sqlx::Error> {
        if !self.may_affect(idle_for) {
            return Ok(true);
        }
        let alive = tokio::time::timeout(PING_TIMEOUT, connection.ping()).await;
        Ok(matches!(alive, Ok(Ok(()))))
    }
}

/// Returns whether an error means that the connection itself is lost.
pub(crate) fn is_broken(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::WorkerCrashed => true,
        sqlx::Error::Database(error) => error
            .try_downcast_ref::<sqlx::postgres::PgDatabaseError>()
            .is_some_and(|error| postgres::is_disconnect(error.code())),
        _ => false,
    }
}

/// The connections. Single statements run on `&pool`, each on a connection of its own. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Pool {
    raw: AnyPool,
    backend: Backend,
    breakage: BreakageClock,
    /// With SQLite, a connection that stays open and unused as long as the pool.
    anchor: Arc<Mutex<Option<AnyConnection>>>,
}

impl Pool {
    pub(crate) fn new(
        raw: AnyPool,
        backend: Backend,
        breakage: BreakageClock,
        anchor: Option<AnyConnection>,
    ) -> Self {
        Self {
            raw,
            backend,
            breakage,
            anchor: Arc::new(Mutex::new(anchor)),
        }
    }

    /// Returns which database it is.
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// Takes a connection for several statements outside of a transaction.
    ///
    /// # Errors
    /// The library's own, [`sqlx::Error::PoolTimedOut`] among them.
    pub async fn acquire(&self) -> Result<Connection, sqlx::Error> {
        let pooled = self.raw.acquire().await;
        let pooled = pooled.inspect_err(|error| self.record(error))?;
        let statement_timeout = match self.backend {
            Backend::Sqlite => None,
            Backend::Postgres => Some(STATEMENT_TIMEOUT),
        };
        Ok(Connection::new(pooled, statement_timeout))
    }

    /// Begins a transaction with one of [`Backend`]'s statements.
    ///
    /// # Errors
    /// [`StoreError`]; nothing has begun, and the connection was closed.
    pub(crate) async fn begin_with(
        &self,
        statement: &'static str,
    ) -> Result<Transaction, StoreError> {
        let mut attempt = 1;
        loop {
            match self.try_begin(statement).await {
                Ok(tx) => return Ok(tx),
                // Safe to retry on another connection: the transaction has changed nothing yet.
                Err(error) if is_broken(&error) && attempt < BEGIN_ATTEMPTS => attempt += 1,
                Err(error) => return Err(error.into()),
            }
        }
    }

    pub(crate) async fn try_begin(
        &self,
        statement: &'static str,
    ) -> Result<Transaction, sqlx::Error> {
        let connection = self.acquire().await?;
        // Before BEGIN: this future may be dropped at any await, and dropping the transaction rolls back or
        // closes.
        let mut tx = Transaction::new(connection, self.clone());
        let begun = sqlx::raw_sql(statement).fetch_all(&mut *tx);
        let begun = match self.backend {
            // Waits for other writers, for at most `busy_timeout`.
            Backend::Sqlite => begun.await,
            Backend::Postgres => match tokio::time::timeout(RESPONSE_TIMEOUT, begun).await {
                Ok(begun) => begun,
                Err(_) => Err(timed_out()),
            },
        };
        match begun {
            Ok(rows) => {
                if let Some(row) = rows.first() {
                    tx.set_server(ServerTransaction {
                        xid: row.try_get("xid")?,
                        pid: row.try_get("pid")?,
                    });
                }
                Ok(tx)
            }
            Err(error) => {
                self.record(&error);
                tx.close();
                Err(error)
            }
        }
    }

    /// Waits until everything is on disk, and closes.
    pub(crate) async fn close(&self) {
        self.raw.close().await;
        // Last, so that SQLite's log and index exist as long as any other connection.
        let anchor = self
            .anchor
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(anchor) = anchor {
            let _ = anchor.close().await;
        }
    }

    /// Returns the connection of a failed single statement to the pool, or closes it if it is doubtful.
    fn release_failed(&self, mut connection: Connection, error: &sqlx::Error) {
        self.record(error);
        if is_broken(error) || is_transient(error) {
            connection.close_on_drop();
        }
    }

    /// Records the time of an error that means a broken connection.
    pub(crate) fn record(&self, error: &sqlx::Error) {
        if is_broken(error) {
            self.breakage.record();
        }
    }

    pub(crate) fn breakage(&self) -> &BreakageClock {
        &self.breakage
    }
}

impl<'p> Executor<'p> for &'_ Pool {
    type Database = Any;

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, Step>
    where
        'p: 'e,
        E: 'q + Execute<'q, Any>,
    {
        let pool = self.clone();
        let steps = async move {
            let mut connection = match pool.acquire().await {
                Ok(connection) => connection,
                Err(error) => return vec![Err(error)],
            };
            // All rows are read before the first is returned: only then is it known whether the connection
            // may go back to the pool.
            let steps: Vec<Step> = connection.fetch_many(query).collect().await;
            if let Some(Err(error)) = steps.last() {
                pool.release_failed(connection, error);
            }
            steps
        };
        stream::once(steps).flat_map(stream::iter).boxed()
    }

    fn fetch_optional<'e, 'q: 'e, E>(
        self,
        query: E,
    ) -> BoxFuture<'e, Result<Option<AnyRow>, sqlx::Error>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Any>,
    {
        let pool = self.clone();
        Box::pin(async move {
            let mut connection = pool.acquire().await?;
            let row = connection.fetch_optional(query).await;
            if let Err(error) = &row {
                pool.release_failed(connection, error);
            }
            row
        })
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [AnyTypeInfo],
    ) -> BoxFuture<'e, Result<AnyStatement, sqlx::Error>>
    where
        'p: 'e,
    {
        self.raw.prepare_with(sql, parameters)
    }
}
