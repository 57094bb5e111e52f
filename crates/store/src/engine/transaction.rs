//! A transaction whose outcome is known, and that never leaves its connection in a doubtful state.
//!
//! ```text
//! begin --> Transaction --commit--> acknowledged         -> the connection returns to the pool
//!              |    \-------------> error, or timeout    -> the connection is closed. PostgreSQL is asked for
//!              |                                            the outcome; SQLite has rolled back
//!              \--dropped---------> ROLLBACK succeeds    -> the connection returns to the pool
//!                    \------------> ROLLBACK fails       -> the connection is closed
//! ```

use super::StoreError;
use super::backend::Backend;
use super::connection::{Connection, timed_out};
use super::pool::{Pool, RESPONSE_TIMEOUT, is_broken};
use super::postgres;
use super::sqlite;
use sqlx::Row as _;
use std::ops::{Deref, DerefMut};
use std::time::{Duration, Instant};

/// How long a rollback may take.
const ROLLBACK_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the outcome of a lost COMMIT is looked up.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(10);

/// The time limit of one lookup, and the pause after it.
const LOOKUP_ATTEMPT_TIMEOUT: Duration = Duration::from_secs(3);
const LOOKUP_PAUSE: Duration = Duration::from_millis(100);

/// A transaction that has lost its client and is still open after this time is terminated by the lookup.
const TERMINATE_AFTER: Duration = Duration::from_secs(1);

/// A transaction as PostgreSQL identifies it.
#[derive(Debug)]
pub(crate) struct ServerTransaction {
    pub(crate) xid: String,
    pub(crate) pid: i64,
}

/// A transaction. Statements run on `&mut *tx`. Dropping it rolls it back.
#[derive(Debug)]
pub struct Transaction {
    /// `None` once the connection was closed or the transaction is being rolled back.
    connection: Option<Connection>,
    pool: Pool,
    /// The transaction has ended: the connection may return to the pool.
    is_over: bool,
    server: Option<ServerTransaction>,
}

impl Transaction {
    pub(crate) fn new(connection: Connection, pool: Pool) -> Self {
        Self {
            connection: Some(connection),
            pool,
            is_over: false,
            server: None,
        }
    }

    pub(crate) fn set_server(&mut self, server: ServerTransaction) {
        self.server = Some(server);
    }

    /// Returns which database it is on.
    pub fn backend(&self) -> Backend {
        self.pool.backend()
    }

    /// Commits. When this returns `Ok`, the change is on disk.
    ///
    /// # Errors
    /// [`StoreError::OutcomeUnknown`] when it is not known whether the transaction was committed. With any
    /// other error it was not.
    pub async fn commit(mut self) -> Result<(), StoreError> {
        let pool = self.pool.clone();
        let committed = sqlx::raw_sql("COMMIT").execute(&mut *self);
        let committed = match pool.backend() {
            Backend::Sqlite => committed.await,
            Backend::Postgres => match tokio::time::timeout(RESPONSE_TIMEOUT, committed).await {
                Ok(committed) => committed,
                Err(_) => Err(timed_out()),
            },
        };
        let Err(error) = committed else {
            self.is_over = true;
            return Ok(());
        };
        pool.record(&error);
        let server = self.server.take();
        // Before the lookup: a transaction that is still open on the server ends with its connection.
        self.close();
        match pool.backend() {
            Backend::Sqlite => Err(overwrite_lost_commit(&pool, error).await),
            Backend::Postgres => match server {
                Some(server) if postgres::may_be_committed(&error) => {
                    look_up_outcome(&pool, &server, error).await
                }
                // The server refused the commit explicitly, or the transaction only read.
                _ => Err(error.into()),
            },
        }
    }

    /// Closes the connection, whatever is open on it.
    pub(crate) fn close(&mut self) {
        if let Some(mut connection) = self.connection.take() {
            connection.close_on_drop();
        }
    }
}

/// Looks up the outcome of a transaction whose COMMIT was not acknowledged, on PostgreSQL.
async fn look_up_outcome(
    pool: &Pool,
    server: &ServerTransaction,
    error: sqlx::Error,
) -> Result<(), StoreError> {
    let began = Instant::now();
    while began.elapsed() < LOOKUP_TIMEOUT {
        let terminates = began.elapsed() >= TERMINATE_AFTER;
        let looking = status(pool, server, terminates);
        match tokio::time::timeout(LOOKUP_ATTEMPT_TIMEOUT, looking).await {
            Ok(Ok(Some(status))) => match status.as_str() {
                "committed" => return Ok(()),
                "aborted" => return Err(StoreError::unavailable(error)),
                // "in progress": the server has not noticed yet that its client is gone.
                _ => {}
            },
            // The server no longer keeps the status of a transaction that is this old.
            Ok(Ok(None)) => break,
            Ok(Err(again)) => pool.record(&again),
            Err(_) => pool.breakage().record(),
        }
        tokio::time::sleep(LOOKUP_PAUSE).await;
    }
    Err(StoreError::outcome_unknown(error))
}

async fn status(
    pool: &Pool,
    server: &ServerTransaction,
    terminates: bool,
) -> Result<Option<String>, sqlx::Error> {
    let mut connection = pool.acquire().await?;
    if terminates {
        // By the transaction's number, too: another session may have the process number by now.
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

/// Makes sure that a transaction whose COMMIT failed on SQLite stays rolled back, and returns the error to
/// report. The closed connection has rolled it back. After a failed write or sync its pages may all be in the
/// log, invisible; recovery after a crash would apply them, unless another commit has overwritten them.
async fn overwrite_lost_commit(pool: &Pool, error: sqlx::Error) -> StoreError {
    if !sqlite::may_reappear(&error) {
        return error.into();
    }
    let overwritten = async {
        let mut tx = pool.try_begin(pool.backend().begin_write()).await?;
        sqlx::query("UPDATE meta SET revision = revision WHERE id = 1")
            .execute(&mut *tx)
            .await?;
        sqlx::raw_sql("COMMIT").execute(&mut *tx).await?;
        tx.is_over = true;
        Ok::<(), sqlx::Error>(())
    };
    match overwritten.await {
        Ok(()) => error.into(),
        Err(_) => StoreError::outcome_unknown(error),
    }
}

impl Deref for Transaction {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.connection
            .as_ref()
            .expect("only the end of a transaction takes its connection")
    }
}

impl DerefMut for Transaction {
    fn deref_mut(&mut self) -> &mut Connection {
        self.connection
            .as_mut()
            .expect("only the end of a transaction takes its connection")
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        let Some(mut connection) = self.connection.take() else {
            return;
        };
        if self.is_over {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            // No task can wait for a rollback: dropping the connection itself ends the transaction.
            connection.detach();
            return;
        };
        let breakage = self.pool.breakage().clone();
        // The connection returns to the pool after the rollback, not before: the next user would run in the
        // open transaction.
        runtime.spawn(async move {
            let rollback = sqlx::raw_sql("ROLLBACK").execute(&mut connection);
            match tokio::time::timeout(ROLLBACK_TIMEOUT, rollback).await {
                Ok(Ok(_)) => drop(connection),
                // SQLite has rolled back by itself, or the server is gone.
                Ok(Err(error)) => {
                    if is_broken(&error) {
                        breakage.record();
                    }
                    connection.close_on_drop();
                }
                Err(_) => {
                    breakage.record();
                    connection.close_on_drop();
                }
            }
        });
    }
}
