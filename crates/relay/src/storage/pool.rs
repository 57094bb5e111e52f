//! Connections of the database, and transactions that never leave one in a doubtful state.
//!
//! ```text
//! begin_with --> Tx --commit--> acknowledged           -> the connection goes back
//!                 |      \----> an error, or silence   -> the connection is closed; PostgreSQL is
//!                 |                                       asked what became of the transaction
//!                 \--dropped--> rolled back            -> the connection goes back
//!                       \-----> that fails             -> the connection is closed
//! ```
//!
//! The library's own transactions are not used: after a full disk SQLite has ended the transaction
//! by itself, the library's ROLLBACK fails, and the connection stays "in a transaction" in the pool.
//! [`Pool`] has no other way to begin one than [`Pool::begin_with`].

use super::db::{Backend, is_passing};
use super::{StorageError, postgres, sqlite};
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use sqlx::any::{Any, AnyQueryResult, AnyRow, AnyStatement, AnyTypeInfo};
use sqlx::pool::PoolConnection;
use sqlx::{
    AnyConnection, AnyPool, Connection as _, Describe, Either, Execute, Executor, Row as _, SqlStr,
};
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often BEGIN is tried: on connections that another failure has not yet shown to be broken.
const BEGIN_ATTEMPTS: u32 = 3;

/// How long PostgreSQL may take to answer BEGIN or COMMIT before the connection counts as lost.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// The same for a statement: more than the server's own limit (`statement_timeout`). A server whose
/// machine is gone says nothing at all.
const STATEMENT_MAX: Duration = Duration::from_secs(40);

/// How long a rollback or a farewell may take.
const ROLLBACK_MAX: Duration = Duration::from_secs(5);

/// How long a connection may take to show that it is alive.
const TEST_MAX: Duration = Duration::from_secs(2);

/// How long the outcome of a lost COMMIT is looked for.
const LOOKUP_MAX: Duration = Duration::from_secs(10);

/// How long one look may take, and the pause after it.
const LOOK_MAX: Duration = Duration::from_secs(3);
const LOOK_PAUSE: Duration = Duration::from_millis(100);

/// A transaction whose client is gone and that has not ended after this is ended by us.
const END_AFTER: Duration = Duration::from_secs(1);

/// The moment from which [`Trouble`] counts.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// When a connection of a pool last broke. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Trouble {
    /// In milliseconds after [`START`], plus one; zero for never.
    at_ms: Arc<AtomicU64>,
}

impl Trouble {
    fn note(&self) {
        let after = START.elapsed().as_millis();
        let after = u64::try_from(after).unwrap_or(u64::MAX - 1) + 1;
        self.at_ms.fetch_max(after, Ordering::Relaxed);
    }

    /// Whether a connection that was idle for so long may have broken unseen.
    fn may_have_met(&self, idle_for: Duration) -> bool {
        let idle_since = START.elapsed().saturating_sub(idle_for).as_millis();
        u128::from(self.at_ms.load(Ordering::Relaxed)) > idle_since
    }

    /// Whether an idle connection may be used.
    pub(super) async fn test(
        &self,
        connection: &mut AnyConnection,
        idle_for: Duration,
    ) -> Result<bool, sqlx::Error> {
        if !self.may_have_met(idle_for) {
            return Ok(true);
        }
        let alive = tokio::time::timeout(TEST_MAX, connection.ping()).await;
        Ok(matches!(alive, Ok(Ok(()))))
    }
}

/// Whether an error says that the connection itself is lost.
fn is_broken(error: &sqlx::Error) -> bool {
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

fn timed_out() -> sqlx::Error {
    sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())
}

/// The connections. Single statements run on it as on sqlx's own pool; a transaction begins with
/// [`Self::begin_with`] alone. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Pool {
    raw: AnyPool,
    backend: Backend,
    trouble: Trouble,
    /// Stays open and unused as long as the pool, with SQLite.
    keeper: Arc<Mutex<Option<AnyConnection>>>,
}

impl Pool {
    pub(super) fn new(
        raw: AnyPool,
        backend: Backend,
        trouble: Trouble,
        keeper: Option<AnyConnection>,
    ) -> Self {
        Self {
            raw,
            backend,
            trouble,
            keeper: Arc::new(Mutex::new(keeper)),
        }
    }

    /// Begins a transaction with one of [`Backend`]'s statements.
    ///
    /// # Errors
    /// [`StorageError`]; nothing has begun, and the connection was closed.
    pub(super) async fn begin_with(&self, statement: &'static str) -> Result<Tx, StorageError> {
        let mut attempt = 1;
        loop {
            match self.try_begin(statement).await {
                Ok(tx) => return Ok(tx),
                // Nothing was done on it: another connection may do.
                Err(error) if is_broken(&error) && attempt < BEGIN_ATTEMPTS => attempt += 1,
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn try_begin(&self, statement: &'static str) -> Result<Tx, sqlx::Error> {
        let connection = self.acquire().await?;
        // From here on, dropping it rolls back or closes: this may be cancelled at any time.
        let mut tx = Tx {
            connection: Some(connection),
            pool: self.clone(),
            is_over: false,
            server: None,
        };
        let begun = sqlx::raw_sql(statement).fetch_all(&mut *tx);
        let begun = match self.backend {
            // It waits for other writers, within `busy_timeout`.
            Backend::Sqlite => begun.await,
            Backend::Postgres => match tokio::time::timeout(ANSWER_MAX, begun).await {
                Ok(begun) => begun,
                Err(_) => Err(timed_out()),
            },
        };
        match begun {
            Ok(rows) => {
                if let Some(row) = rows.first() {
                    tx.server = Some(OnServer {
                        xid: row.try_get("xid")?,
                        pid: row.try_get("pid")?,
                    });
                }
                Ok(tx)
            }
            Err(error) => {
                self.note(&error);
                tx.close();
                Err(error)
            }
        }
    }

    /// Waits until everything is on disk, and closes.
    pub(super) async fn close(&self) {
        self.raw.close().await;
        let keeper = self
            .keeper
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(keeper) = keeper {
            let _ = keeper.close().await;
        }
    }

    pub(super) async fn acquire(&self) -> Result<Connection, sqlx::Error> {
        let pooled = self.raw.acquire().await;
        Ok(Connection {
            pooled: pooled.inspect_err(|error| self.note(error))?,
            statement_max: match self.backend {
                Backend::Sqlite => None,
                Backend::Postgres => Some(STATEMENT_MAX),
            },
        })
    }

    /// A statement outside of a transaction has failed: its connection is closed if that broke it.
    fn put_back(&self, mut connection: Connection, error: &sqlx::Error) {
        self.note(error);
        if is_broken(error) || is_passing(error) {
            connection.pooled.close_on_drop();
        }
    }

    fn note(&self, error: &sqlx::Error) {
        if is_broken(error) {
            self.trouble.note();
        }
    }

    /// What became of a transaction whose COMMIT was not acknowledged, on PostgreSQL.
    async fn look_up(&self, server: &OnServer, error: sqlx::Error) -> Result<(), StorageError> {
        let began = Instant::now();
        while began.elapsed() < LOOKUP_MAX {
            let ends = began.elapsed() >= END_AFTER;
            let status = tokio::time::timeout(LOOK_MAX, self.status(server, ends)).await;
            match status {
                Ok(Ok(Some(status))) => match status.as_str() {
                    "committed" => return Ok(()),
                    "aborted" => return Err(StorageError::Unavailable(error)),
                    // The server has not yet seen that its client is gone.
                    _ => {}
                },
                // It is too old to be known.
                Ok(Ok(None)) => break,
                Ok(Err(again)) => self.note(&again),
                Err(_) => self.trouble.note(),
            }
            tokio::time::sleep(LOOK_PAUSE).await;
        }
        Err(StorageError::Unknown(error))
    }

    async fn status(&self, server: &OnServer, ends: bool) -> Result<Option<String>, sqlx::Error> {
        let mut connection = self.acquire().await?;
        if ends {
            // By its transaction, too: its process number may be another's by now.
            sqlx::query(
                "SELECT COUNT(pg_terminate_backend(pid)) FROM pg_stat_activity
                 WHERE pid = $1 AND backend_xid::text = ($2::text::xid8)::xid::text",
            )
            .bind(server.pid)
            .bind(&server.xid)
            .execute(&mut connection)
            .await?;
        }
        let row = sqlx::query("SELECT pg_xact_status($1::text::xid8) AS status")
            .bind(&server.xid)
            .fetch_one(&mut connection)
            .await?;
        row.try_get("status")
    }

    /// What became of a transaction whose COMMIT failed, on SQLite: the closed connection has rolled
    /// it back. After a failed write or sync its pages may all be in the log, unseen; a crash would
    /// then bring them back, unless another commit has overwritten them.
    async fn overwrite(&self, error: sqlx::Error) -> StorageError {
        if !sqlite::may_reappear(&error) {
            return error.into();
        }
        let overwritten = async {
            let mut tx = self.try_begin(self.backend.begin()).await?;
            sqlx::query("UPDATE meta SET revision = revision WHERE id = 1")
                .execute(&mut *tx)
                .await?;
            sqlx::raw_sql("COMMIT").execute(&mut *tx).await?;
            tx.is_over = true;
            Ok::<(), sqlx::Error>(())
        };
        match overwritten.await {
            Ok(()) => error.into(),
            Err(_) => StorageError::Unknown(error),
        }
    }
}

/// A transaction as PostgreSQL knows it.
#[derive(Debug)]
struct OnServer {
    xid: String,
    pid: i64,
}

/// A transaction. Statements run on `&mut *tx`. Dropping it rolls it back.
#[derive(Debug)]
pub(super) struct Tx {
    /// There until it is committed, closed or dropped.
    connection: Option<Connection>,
    pool: Pool,
    /// Nothing is open on the connection any more: it may go back.
    is_over: bool,
    server: Option<OnServer>,
}

impl Tx {
    /// Commits. When this returns `Ok`, it is on disk.
    ///
    /// # Errors
    /// [`StorageError::Unknown`] when it is not known whether it was committed; any other error says
    /// that it was not.
    pub(super) async fn commit(mut self) -> Result<(), StorageError> {
        let pool = self.pool.clone();
        let committed = sqlx::raw_sql("COMMIT").execute(&mut *self);
        let committed = match pool.backend {
            Backend::Sqlite => committed.await,
            Backend::Postgres => match tokio::time::timeout(ANSWER_MAX, committed).await {
                Ok(committed) => committed,
                Err(_) => Err(timed_out()),
            },
        };
        let Err(error) = committed else {
            self.is_over = true;
            return Ok(());
        };
        pool.note(&error);
        let server = self.server.take();
        self.close();
        match pool.backend {
            Backend::Sqlite => Err(pool.overwrite(error).await),
            Backend::Postgres => match server {
                Some(server) if postgres::may_be_committed(&error) => {
                    pool.look_up(&server, error).await
                }
                // It was refused in so many words, or it only read.
                _ => Err(error.into()),
            },
        }
    }

    /// Which database it is on.
    pub(super) fn backend(&self) -> Backend {
        self.pool.backend
    }

    /// Keeps a tenant from being deleted until the transaction ends, so that what the next
    /// statement reads of it stays true. SQLite has one writer at a time anyway.
    pub(super) async fn lock_tenant(&mut self, tenant: &str) -> Result<(), sqlx::Error> {
        match self.pool.backend {
            Backend::Sqlite => Ok(()),
            Backend::Postgres => {
                let locked = sqlx::query("SELECT id FROM tenants WHERE id = $1 FOR NO KEY UPDATE");
                locked.bind(tenant).execute(&mut **self).await.map(drop)
            }
        }
    }

    /// Closes the connection, whatever is open on it.
    fn close(&mut self) {
        if let Some(mut connection) = self.connection.take() {
            connection.pooled.close_on_drop();
        }
    }
}

impl Deref for Tx {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.connection
            .as_ref()
            .expect("only what ends a transaction takes its connection")
    }
}

impl DerefMut for Tx {
    fn deref_mut(&mut self) -> &mut Connection {
        self.connection
            .as_mut()
            .expect("only what ends a transaction takes its connection")
    }
}

impl Drop for Tx {
    fn drop(&mut self) {
        let Some(mut connection) = self.connection.take() else {
            return;
        };
        if self.is_over {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            // No task can wait for a rollback: dropping the connection itself ends the transaction.
            drop(connection.pooled.detach());
            return;
        };
        let trouble = self.pool.trouble.clone();
        runtime.spawn(async move {
            let rollback = sqlx::raw_sql("ROLLBACK").execute(&mut connection);
            match tokio::time::timeout(ROLLBACK_MAX, rollback).await {
                Ok(Ok(_)) => drop(connection),
                // SQLite has rolled back by itself, or the server is gone.
                Ok(Err(error)) => {
                    if is_broken(&error) {
                        trouble.note();
                    }
                    connection.pooled.close_on_drop();
                }
                Err(_) => {
                    trouble.note();
                    connection.pooled.close_on_drop();
                }
            }
        });
    }
}

/// What one statement brings: rows, and how many it has changed.
type Step = Result<Either<AnyQueryResult, AnyRow>, sqlx::Error>;

/// A connection on which a statement does not wait for ever.
#[derive(Debug)]
pub(super) struct Connection {
    pooled: PoolConnection<Any>,
    /// How long a statement may take; SQLite's run in this process, and end.
    statement_max: Option<Duration>,
}

impl Connection {
    async fn within<T>(
        limit: Option<Duration>,
        running: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, sqlx::Error> {
        match limit {
            None => running.await,
            Some(limit) => match tokio::time::timeout(limit, running).await {
                Ok(outcome) => outcome,
                Err(_) => Err(timed_out()),
            },
        }
    }
}

impl<'c> Executor<'c> for &'c mut Connection {
    type Database = Any;

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, Step>
    where
        'c: 'e,
        E: 'q + Execute<'q, Any>,
    {
        let limit = self.statement_max;
        let steps = (&mut *self.pooled).fetch_many(query);
        // Ends with its first error, as without the limit.
        let steps = stream::try_unfold(steps, move |mut steps| async move {
            let step = Connection::within(limit, async { steps.next().await.transpose() }).await?;
            Ok(step.map(|step| (step, steps)))
        });
        steps.boxed()
    }

    fn fetch_optional<'e, 'q: 'e, E>(
        self,
        query: E,
    ) -> BoxFuture<'e, Result<Option<AnyRow>, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Any>,
    {
        let limit = self.statement_max;
        let row = (&mut *self.pooled).fetch_optional(query);
        Box::pin(Connection::within(limit, row))
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [AnyTypeInfo],
    ) -> BoxFuture<'e, Result<AnyStatement, sqlx::Error>>
    where
        'c: 'e,
    {
        (&mut *self.pooled).prepare_with(sql, parameters)
    }

    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, Result<Describe<Any>, sqlx::Error>>
    where
        'c: 'e,
    {
        (&mut *self.pooled).describe(sql)
    }
}

/// Single statements, each on a connection of its own. What a statement brings is read to its end
/// first, so that a connection that fails in its midst is closed.
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
            let steps: Vec<Step> = connection.fetch_many(query).collect().await;
            if let Some(Err(error)) = steps.last() {
                pool.put_back(connection, error);
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
                pool.put_back(connection, error);
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

    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, Result<Describe<Any>, sqlx::Error>>
    where
        'p: 'e,
    {
        self.raw.describe(sql)
    }
}
