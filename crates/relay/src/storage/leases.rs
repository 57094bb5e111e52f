//! Which process serves: one at a time, chosen by a lease in the database.
//!
//! ```text
//! take    the lease is free, expired, or this holder's own -> epoch + 1, 10 s
//! renew   the epoch is still the same                      -> 10 s more
//! fence   a write of an older epoch                        -> LeaseLost
//! ```
//!
//! Times are those of the database's clock alone. `crate::serving` decides what a process does with
//! the answers.

use super::audit::{self, AuditEvent};
use super::db::Backend;
use super::tenants::SITE;
use super::{Storage, StorageError, Tx};
use sqlx::{AnyConnection, AssertSqlSafe, Connection as _, Row as _};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::time::{Duration, Instant};

/// How long a lease lasts that is not renewed, in milliseconds.
pub const LEASE_MS: i64 = 10_000;

/// A statement on the lease ends within this, also when the server's packets are lost.
const STATEMENT_TIMEOUT: Duration = Duration::from_millis(2500);

/// A waiting process renews its mark when less than this is left of it, in milliseconds.
const MARK_LEFT_MS: i64 = 7_000;

/// A lease that did not change for so long has no holder, whatever the clocks say: the database's
/// clock may have been set back.
const UNCHANGED_MAX: Duration = Duration::from_secs(13);

/// What came of the wish to have the lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Taken {
    /// This process has it, under this epoch.
    Epoch(i64),
    /// Another process has it: the name of its node.
    Held(String),
}

/// What came of a renewal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewed {
    /// The lease lasts on.
    Kept {
        /// Another process waits for it.
        is_contended: bool,
    },
    /// Another process took it.
    Lost,
}

/// One process's view of the lease, on a database connection of its own: neither a full pool nor a
/// connection that hangs there delays a renewal.
#[derive(Debug)]
pub struct LeaseConnection {
    storage: Storage,
    connection: Option<AnyConnection>,
    /// The row as it was last seen, and since when it is like that.
    seen: Option<(i64, i64, Instant)>,
}

type Running<'a, T> = Pin<Box<dyn Future<Output = Result<T, sqlx::Error>> + Send + 'a>>;

impl LeaseConnection {
    /// Connects at the first use.
    pub fn new(storage: Storage) -> Self {
        Self {
            storage,
            connection: None,
            seen: None,
        }
    }

    /// Runs statements within [`STATEMENT_TIMEOUT`]. A connection that failed is not used again.
    async fn run<T>(
        &mut self,
        statements: impl for<'a> FnOnce(&'a mut AnyConnection) -> Running<'a, T>,
    ) -> Result<T, StorageError> {
        let kept = self.connection.take();
        let running = async {
            let mut connection = match kept {
                Some(connection) => connection,
                None => self.storage.connect().await?,
            };
            let done = statements(&mut connection).await?;
            Ok::<_, sqlx::Error>((connection, done))
        };
        match tokio::time::timeout(STATEMENT_TIMEOUT, running).await {
            Ok(Ok((connection, done))) => {
                self.connection = Some(connection);
                Ok(done)
            }
            Ok(Err(error)) => Err(error.into()),
            Err(_) => {
                let detail = format!("no answer within {STATEMENT_TIMEOUT:?}");
                let error = io::Error::new(io::ErrorKind::TimedOut, detail);
                Err(sqlx::Error::Io(error).into())
            }
        }
    }

    /// Takes the lease if it is free, expired, or belongs to `holder`, whose process before is known
    /// to be gone. Otherwise marks that this process waits for it.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not answer. The lease may have been taken then: the
    /// next call finds it as this holder's own.
    pub async fn take(&mut self, holder: &str, node: &str) -> Result<Taken, StorageError> {
        let clock = self.storage.backend.clock_ms();
        let is_alone = self.storage.is_of_one_machine();
        let unchanged = self.seen;
        let (holder, node) = (holder.to_owned(), node.to_owned());
        let (row, taken) = self
            .run(move |connection| {
                Box::pin(async move {
                    let look = format!(
                        "SELECT epoch, holder, node, until_ms, contended_until_ms, {clock} AS now_ms
                         FROM leases WHERE name = 'relay'"
                    );
                    let row = sqlx::query(AssertSqlSafe(look))
                        .fetch_one(&mut *connection)
                        .await?;
                    let (epoch, until): (i64, i64) =
                        (row.try_get("epoch")?, row.try_get("until_ms")?);
                    let now: i64 = row.try_get("now_ms")?;
                    let has_no_holder = unchanged.is_some_and(|(known, known_until, since)| {
                        (known, known_until) == (epoch, until) && since.elapsed() >= UNCHANGED_MAX
                    });
                    let may = is_alone
                        || until < now
                        || row.try_get::<String, _>("holder")? == holder
                        || has_no_holder;
                    if !may {
                        if row.try_get::<i64, _>("contended_until_ms")? < now + MARK_LEFT_MS {
                            let mark = format!(
                                "UPDATE leases SET contended_until_ms = {clock} + $1
                                 WHERE name = 'relay' AND epoch = $2"
                            );
                            let marking = sqlx::query(AssertSqlSafe(mark));
                            let marking = marking.bind(LEASE_MS).bind(epoch);
                            marking.execute(&mut *connection).await?;
                        }
                        let node: String = row.try_get("node")?;
                        return Ok(((epoch, until), Taken::Held(node)));
                    }
                    // Another process may have taken or renewed it since.
                    let take = format!(
                        "UPDATE leases SET epoch = epoch + 1, holder = $1, node = $2,
                                until_ms = {clock} + $3, contended_until_ms = 0
                         WHERE name = 'relay' AND epoch = $4 AND until_ms = $5
                         RETURNING epoch"
                    );
                    let taken = sqlx::query(AssertSqlSafe(take))
                        .bind(holder)
                        .bind(node)
                        .bind(LEASE_MS)
                        .bind(epoch)
                        .bind(until)
                        .fetch_optional(&mut *connection)
                        .await?;
                    Ok(match taken {
                        Some(row) => ((0, 0), Taken::Epoch(row.try_get("epoch")?)),
                        None => ((0, 0), Taken::Held(String::new())),
                    })
                })
            })
            .await?;
        match self.seen {
            Some((epoch, until, _)) if (epoch, until) == row => {}
            Some(_) | None => self.seen = Some((row.0, row.1, Instant::now())),
        }
        Ok(taken)
    }

    /// Renews the lease.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not answer.
    pub async fn renew(&mut self, epoch: i64) -> Result<Renewed, StorageError> {
        let clock = self.storage.backend.clock_ms();
        self.run(move |connection| {
            Box::pin(async move {
                let renew = format!(
                    "UPDATE leases SET until_ms = {clock} + $1 WHERE name = 'relay' AND epoch = $2
                     RETURNING contended_until_ms, {clock} AS now_ms"
                );
                let row = sqlx::query(AssertSqlSafe(renew))
                    .bind(LEASE_MS)
                    .bind(epoch)
                    .fetch_optional(connection)
                    .await?;
                let Some(row) = row else {
                    return Ok(Renewed::Lost);
                };
                let contended: i64 = row.try_get("contended_until_ms")?;
                Ok(Renewed::Kept {
                    is_contended: contended > row.try_get("now_ms")?,
                })
            })
        })
        .await
    }

    /// Gives the lease back: another process may take it at once.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not answer; the lease then ends by itself.
    pub async fn release(&mut self, epoch: i64) -> Result<(), StorageError> {
        self.run(move |connection| {
            Box::pin(async move {
                sqlx::query(
                    "UPDATE leases SET until_ms = 0, holder = '' WHERE name = 'relay' AND epoch = $1",
                )
                .bind(epoch)
                .execute(connection)
                .await
                .map(drop)
            })
        })
        .await
    }

    /// Closes the connection.
    pub async fn close(&mut self) {
        if let Some(connection) = self.connection.take() {
            let _ = tokio::time::timeout(STATEMENT_TIMEOUT, connection.close()).await;
        }
    }
}

/// The lease's epoch, which then stays what it is until the transaction ends.
pub(super) async fn epoch_of(tx: &mut Tx, backend: Backend) -> Result<i64, StorageError> {
    let row = sqlx::query(backend.lease_check())
        .fetch_one(&mut **tx)
        .await?;
    Ok(row.try_get("epoch")?)
}

impl Storage {
    /// Whether deliveries stand still until somebody resumes them.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not answer.
    pub async fn deliveries_paused(&self) -> Result<bool, StorageError> {
        let row = sqlx::query("SELECT deliveries_paused FROM meta WHERE id = 1")
            .fetch_one(&self.pool)
            .await?;
        Ok(row.try_get::<i64, _>("deliveries_paused")? != 0)
    }

    /// Pauses deliveries, or resumes them.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not answer.
    pub async fn set_deliveries_paused(&self, paused: bool) -> Result<(), StorageError> {
        let mut tx = self.pool.begin_with(self.backend.begin()).await?;
        sqlx::query("UPDATE meta SET deliveries_paused = $1 WHERE id = 1")
            .bind(i64::from(paused))
            .execute(&mut *tx)
            .await?;
        let action = match paused {
            true => "deliveries.pause",
            false => "deliveries.resume",
        };
        audit::add(&mut tx, &self.actor, &AuditEvent::done(SITE, action, "")).await?;
        tx.commit().await
    }

    /// Whether this is the only process that can have the database open.
    pub fn is_of_one_machine(&self) -> bool {
        self.backend == Backend::Sqlite
    }
}
