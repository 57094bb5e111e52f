//! Which process serves: one at a time, chosen by a lease in the database.
//!
//! ```text
//! acquire   the lease is free, expired, or this holder's own -> epoch + 1, for 10 s
//! renew     the epoch is still the same                      -> 10 s more
//! fence     a change under an older epoch                    -> LeaseLost
//! ```
//!
//! All times are those of the database's clock, so the clocks of the processes need not agree. What a process
//! does when it gains or loses a lease is up to the program.

use crate::{Store, StoreError};
use sqlx::{AnyConnection, AssertSqlSafe, Connection as _, Row as _};
use std::io;
use std::pin::Pin;
use std::time::{Duration, Instant};

/// How long a lease lasts that is not renewed, in milliseconds.
pub const LEASE_MS: i64 = 10_000;

/// The time limit of a statement on the lease, also when the server's packets are lost.
const STATEMENT_TIMEOUT: Duration = Duration::from_millis(2500);

/// A waiting process renews its mark when less than this is left of it, in milliseconds.
const MARK_LEFT_MS: i64 = 7_000;

/// A lease that has not changed for this long has no holder, even if it has not expired: the database's clock may
/// have been set back.
const UNCHANGED_MAX: Duration = Duration::from_secs(13);

/// The outcome of an attempt to acquire the lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AcquireOutcome {
    /// This process holds the lease, under this epoch.
    Acquired(i64),
    /// Another process holds it: the name of its node.
    HeldBy(String),
}

/// The outcome of a renewal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RenewOutcome {
    /// The lease was extended.
    Renewed {
        /// Another process waits for it.
        is_contended: bool,
    },
    /// Another process acquired it.
    Lost,
}

/// One process's view of a lease, on a database connection of its own: neither a full pool nor a hanging
/// connection in it delays a renewal.
#[derive(Debug)]
pub struct LeaseConnection {
    store: Store,
    lease: &'static str,
    connection: Option<AnyConnection>,
    /// The lease's row as it was last seen, and since when it is unchanged.
    observed: Option<Observation>,
}

/// The parts of the lease's row that every acquisition and renewal changes.
#[derive(Debug, Clone, Copy)]
struct Observation {
    epoch: i64,
    until_ms: i64,
    since: Instant,
}

type Running<'a, T> = Pin<Box<dyn Future<Output = Result<T, sqlx::Error>> + Send + 'a>>;

impl LeaseConnection {
    /// Returns a view of the lease with this name. It connects on first use.
    pub fn new(store: Store, lease: &'static str) -> Self {
        Self {
            store,
            lease,
            connection: None,
            observed: None,
        }
    }

    /// Runs statements within [`STATEMENT_TIMEOUT`]. A connection that failed is not used again.
    async fn run<T>(
        &mut self,
        statements: impl for<'a> FnOnce(&'a mut AnyConnection) -> Running<'a, T>,
    ) -> Result<T, StoreError> {
        // Taken out: an error, a timeout and a cancelled future all drop it, and the next call reconnects.
        let kept = self.connection.take();
        let running = async {
            let mut connection = match kept {
                Some(connection) => connection,
                None => self.store.connect().await?,
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
                let detail = format!("no response within {STATEMENT_TIMEOUT:?}");
                let error = io::Error::new(io::ErrorKind::TimedOut, detail);
                Err(sqlx::Error::Io(error).into())
            }
        }
    }

    /// Acquires the lease if it is free, expired, or belongs to `holder`, whose previous process is known to be
    /// gone. Otherwise marks that this process waits for it.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not respond. The lease may have been acquired then: the next call
    /// finds it as this holder's own.
    pub async fn acquire(
        &mut self,
        holder: &str,
        node: &str,
    ) -> Result<AcquireOutcome, StoreError> {
        let clock = self.store.backend().clock_ms();
        let is_single_host = self.store.is_single_host();
        let (lease, observed) = (self.lease, self.observed);
        let (holder, node) = (holder.to_owned(), node.to_owned());
        let (row, outcome) = self
            .run(move |connection| {
                Box::pin(async move {
                    let text = format!(
                        "SELECT epoch, holder, node, until_ms, contended_until_ms, {clock} AS now_ms
                         FROM leases WHERE name = $1"
                    );
                    let row = sqlx::query(AssertSqlSafe(text))
                        .bind(lease)
                        .fetch_one(&mut *connection)
                        .await?;
                    let (epoch, until): (i64, i64) =
                        (row.try_get("epoch")?, row.try_get("until_ms")?);
                    let now: i64 = row.try_get("now_ms")?;
                    let is_abandoned = observed.is_some_and(|observed| {
                        (observed.epoch, observed.until_ms) == (epoch, until)
                            && observed.since.elapsed() >= UNCHANGED_MAX
                    });
                    // On a single host the process lock has decided already: no other process serves.
                    let may_acquire = is_single_host
                        || until < now
                        || row.try_get::<String, _>("holder")? == holder
                        || is_abandoned;
                    if !may_acquire {
                        if row.try_get::<i64, _>("contended_until_ms")? < now + MARK_LEFT_MS {
                            let text = format!(
                                "UPDATE leases SET contended_until_ms = {clock} + $1
                                 WHERE name = $2 AND epoch = $3"
                            );
                            let marking = sqlx::query(AssertSqlSafe(text));
                            let marking = marking.bind(LEASE_MS).bind(lease).bind(epoch);
                            marking.execute(&mut *connection).await?;
                        }
                        let node: String = row.try_get("node")?;
                        return Ok(((epoch, until), AcquireOutcome::HeldBy(node)));
                    }
                    // Conditional on the row as it was read: another process may have acquired or renewed
                    // the lease since, and of several that see it expire only one may get it.
                    let text = format!(
                        "UPDATE leases SET epoch = epoch + 1, holder = $1, node = $2,
                                until_ms = {clock} + $3, contended_until_ms = 0
                         WHERE name = $4 AND epoch = $5 AND until_ms = $6
                         RETURNING epoch"
                    );
                    let acquired = sqlx::query(AssertSqlSafe(text))
                        .bind(holder)
                        .bind(node)
                        .bind(LEASE_MS)
                        .bind(lease)
                        .bind(epoch)
                        .bind(until)
                        .fetch_optional(&mut *connection)
                        .await?;
                    Ok(match acquired {
                        Some(row) => ((0, 0), AcquireOutcome::Acquired(row.try_get("epoch")?)),
                        None => ((0, 0), AcquireOutcome::HeldBy(String::new())),
                    })
                })
            })
            .await?;
        match self.observed {
            Some(observed) if (observed.epoch, observed.until_ms) == row => {}
            Some(_) | None => {
                self.observed = Some(Observation {
                    epoch: row.0,
                    until_ms: row.1,
                    since: Instant::now(),
                });
            }
        }
        Ok(outcome)
    }

    /// Renews the lease.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not respond.
    pub async fn renew(&mut self, epoch: i64) -> Result<RenewOutcome, StoreError> {
        let clock = self.store.backend().clock_ms();
        let lease = self.lease;
        // By epoch alone: an expired lease may be renewed, as long as no other process has acquired it.
        self.run(move |connection| {
            Box::pin(async move {
                let text = format!(
                    "UPDATE leases SET until_ms = {clock} + $1 WHERE name = $2 AND epoch = $3
                     RETURNING contended_until_ms, {clock} AS now_ms"
                );
                let row = sqlx::query(AssertSqlSafe(text))
                    .bind(LEASE_MS)
                    .bind(lease)
                    .bind(epoch)
                    .fetch_optional(connection)
                    .await?;
                let Some(row) = row else {
                    return Ok(RenewOutcome::Lost);
                };
                let contended: i64 = row.try_get("contended_until_ms")?;
                Ok(RenewOutcome::Renewed {
                    is_contended: contended > row.try_get("now_ms")?,
                })
            })
        })
        .await
    }

    /// Releases the lease: another process may acquire it at once.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not respond; the lease then expires.
    pub async fn release(&mut self, epoch: i64) -> Result<(), StoreError> {
        let lease = self.lease;
        self.run(move |connection| {
            Box::pin(async move {
                sqlx::query(
                    "UPDATE leases SET until_ms = 0, holder = '' WHERE name = $1 AND epoch = $2",
                )
                .bind(lease)
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
