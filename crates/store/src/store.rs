//! [`Store`]: one open database, and the few things that every program does with it.

use crate::engine::{Backend, Connector, backend};
use crate::fence::Fence;
use crate::{Database, Migrations, Pool, StoreError, Transaction};
use sqlx::{AnyConnection, AssertSqlSafe, Row as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::Notify;

/// Bytes that [`Store::test_write`] writes: about as many as a large row.
const TEST_WRITE_BYTES: usize = 16 << 10;

/// An open database. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    pool: Pool,
    connector: Connector,
    /// Present in a process that serves: its changes need the lease. Commands have no fence.
    fence: Option<Arc<Fence>>,
    changed: Arc<ChangeSignal>,
}

/// Reports that a change was stored which an older copy of the database does not have.
#[derive(Debug, Default)]
struct ChangeSignal {
    is_set: AtomicBool,
    set: Notify,
}

impl Store {
    /// Opens the database, and creates or migrates its tables.
    ///
    /// # Errors
    /// [`StoreError::Unusable`] for a database that is not this program's or that cannot be reached.
    pub async fn open(database: &Database, migrations: &Migrations) -> Result<Self, StoreError> {
        let (pool, connector) = backend::open(database, migrations).await?;
        Ok(Self {
            pool,
            connector,
            fence: None,
            changed: Arc::default(),
        })
    }

    /// Returns the same database for a process that serves: from now on, [`Self::change`] needs the lease of
    /// this name.
    #[must_use]
    pub fn fenced(self, lease: &'static str) -> Self {
        Self {
            fence: Some(Arc::new(Fence::new(lease))),
            ..self
        }
    }

    /// Sets the epoch of the lease under which changes are made from now on; zero for none.
    pub fn hold(&self, epoch: i64) {
        if let Some(fence) = &self.fence {
            fence.hold(epoch);
        }
    }

    /// Returns the connections, for single statements.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Returns which database it is.
    pub fn backend(&self) -> Backend {
        self.pool.backend()
    }

    /// Returns whether only processes of this host can have the database open.
    pub fn is_single_host(&self) -> bool {
        self.backend() == Backend::Sqlite
    }

    /// Opens a connection that does not belong to the pool.
    pub(crate) async fn connect(&self) -> Result<AnyConnection, sqlx::Error> {
        self.connector.connect().await
    }

    /// Begins a transaction that writes.
    ///
    /// # Errors
    /// [`StoreError`]; nothing has begun.
    pub async fn begin(&self) -> Result<Transaction, StoreError> {
        self.pool.begin_with(self.backend().begin_write()).await
    }

    /// Begins a transaction that reads one consistent state of the database.
    ///
    /// # Errors
    /// [`StoreError`]; nothing has begun.
    pub async fn snapshot(&self) -> Result<Transaction, StoreError> {
        self.pool.begin_with(self.backend().begin_snapshot()).await
    }

    /// Begins a change that other processes must follow: checks the lease and raises the revision, which is
    /// returned. Dropping the transaction leaves the revision as it was.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`] when another process holds the lease.
    pub async fn change(&self) -> Result<(Transaction, i64), StoreError> {
        let mut tx = self.begin().await?;
        // The check locks the lease's row. A process that takes the lease waits for this transaction, so the
        // epoch stays true until the commit.
        if let Some(fence) = &self.fence {
            fence.check(&mut tx).await?;
        }
        let row =
            sqlx::query("UPDATE meta SET revision = revision + 1 WHERE id = 1 RETURNING revision")
                .fetch_one(&mut *tx)
                .await?;
        let revision = row.try_get("revision")?;
        Ok((tx, revision))
    }

    /// Returns the revision of the last change.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not respond.
    pub async fn revision(&self) -> Result<i64, StoreError> {
        let row = sqlx::query("SELECT revision FROM meta WHERE id = 1")
            .fetch_one(&self.pool)
            .await?;
        Ok(row.try_get("revision")?)
    }

    /// Writes one row that no code reads, to test whether the database can be written now.
    ///
    /// # Errors
    /// [`StoreError`] when it cannot.
    pub async fn test_write(&self) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        // On a full disk a small change may still fit into the log where a larger one did not. PostgreSQL
        // allocates whole segments, so its size does not matter there.
        let payload = match self.backend() {
            Backend::Sqlite => vec![0; TEST_WRITE_BYTES],
            Backend::Postgres => Vec::new(),
        };
        let clock = self.backend().clock_ms();
        let text = format!("UPDATE readiness SET at_ms = {clock}, payload = $1 WHERE id = 1");
        sqlx::query(AssertSqlSafe(text))
            .bind(payload)
            .execute(&mut *tx)
            .await?;
        tx.commit().await
    }

    /// Records that a change was stored which an older copy of the database does not have.
    pub fn mark_changed(&self) {
        // The flag before the wake-up, and released by it: a waiter that wakes sees the flag.
        self.changed.is_set.store(true, Ordering::Release);
        self.changed.set.notify_one();
    }

    /// Waits until [`Self::take_changed`] returns true. Cancel safe.
    pub(crate) async fn wait_changed(&self) {
        while !self.changed.is_set.load(Ordering::Acquire) {
            self.changed.set.notified().await;
        }
    }

    /// Returns whether changes were recorded since the last call.
    pub(crate) fn take_changed(&self) -> bool {
        self.changed.is_set.swap(false, Ordering::AcqRel)
    }

    /// Waits until everything is on disk, and closes the database.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}
