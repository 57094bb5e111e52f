//! The store's rules, on both databases.

use crate::batch::Change;
use crate::lease::{AcquireOutcome, LeaseConnection};
use crate::{Batch, Database, Found, Migrations, PostgresUrl, Store, StoreError, Transaction};
use sqlx::Row as _;
use std::time::{Duration, Instant};
use support::{PostgresDatabase, TempDir};

pub(crate) static MIGRATIONS: Migrations = crate::migrations!("../migrations", ["0001_store"]);

/// The lease of the tests.
const LEASE: &str = "test";

/// How long an event may take that must come, on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A database of either kind, removed with the value.
enum TestDatabase {
    File(TempDir),
    Server(PostgresDatabase),
}

impl TestDatabase {
    fn sqlite(label: &str) -> Self {
        Self::File(TempDir::new(label))
    }

    fn postgres() -> Self {
        Self::Server(PostgresDatabase::create())
    }

    async fn open(&self) -> Store {
        match self {
            Self::File(dir) => open(&Database::Sqlite(dir.join("data/store.db"))).await,
            Self::Server(database) => open_at(database.url()).await,
        }
    }
}

async fn open_at(url: &str) -> Store {
    open(&Database::Postgres(PostgresUrl::new(url))).await
}

/// Opens a database with a lease and with the tests' own table.
async fn open(database: &Database) -> Store {
    let store = Store::open(database, &MIGRATIONS).await.unwrap();
    let mut tx = store.begin().await.unwrap();
    for text in [
        "CREATE TABLE IF NOT EXISTS items (id TEXT PRIMARY KEY, bytes BIGINT NOT NULL, body TEXT)",
        "INSERT INTO leases (name, epoch, holder, node, until_ms, contended_until_ms)
         VALUES ('test', 0, '', '', 0, 0) ON CONFLICT DO NOTHING",
    ] {
        sqlx::query(text).execute(&mut *tx).await.unwrap();
    }
    tx.commit().await.unwrap();
    store
}

/// A change of the tests' own table.
#[derive(Debug, Clone)]
struct Insert {
    id: String,
    bytes: usize,
    needs_lease: bool,
}

impl Insert {
    fn new(id: &str) -> Self {
        Self {
            id: id.to_owned(),
            bytes: 20_000,
            needs_lease: true,
        }
    }
}

impl Change for Insert {
    /// Whether the row is new.
    type Output = bool;

    fn needs_lease(&self) -> bool {
        self.needs_lease
    }

    async fn apply(&self, tx: &mut Transaction) -> Result<bool, StoreError> {
        let text = "INSERT INTO items (id, bytes, body) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";
        let inserted = sqlx::query(text)
            .bind(&self.id)
            .bind(i64::try_from(self.bytes).unwrap())
            .bind("x".repeat(self.bytes))
            .execute(&mut **tx)
            .await?;
        Ok(inserted.rows_affected() > 0)
    }
}

async fn insert(batch: &Batch<Insert>, id: &str) -> Result<bool, StoreError> {
    match batch.write(Insert::new(id)).await {
        Ok(is_new) => Ok(is_new),
        Err(crate::WriteError::Store(error)) => Err(error),
        Err(other) => panic!("{other}"),
    }
}

/// Makes a small change that raises the revision.
async fn change(store: &Store, id: &str) -> Result<(), StoreError> {
    let (mut tx, _) = store.change().await?;
    let small = Insert {
        bytes: 10,
        ..Insert::new(id)
    };
    small.apply(&mut tx).await?;
    tx.commit().await
}

async fn items(store: &Store) -> Vec<String> {
    let rows = sqlx::query("SELECT id FROM items ORDER BY id")
        .fetch_all(store.pool())
        .await
        .unwrap();
    rows.iter().map(|row| row.get("id")).collect()
}

/// Starts a batch that holds the lease.
async fn batch(store: &Store) -> Batch<Insert> {
    let batch = Batch::start(store.clone(), LEASE);
    batch.hold(acquire(store, "test").await);
    batch
}

/// Acquires the lease, which must be free.
async fn acquire(store: &Store, holder: &str) -> i64 {
    let mut lease = LeaseConnection::new(store.clone(), LEASE);
    match lease.acquire(holder, "node").await.unwrap() {
        AcquireOutcome::Acquired(epoch) => epoch,
        held @ AcquireOutcome::HeldBy(_) => panic!("{held:?}"),
    }
}

fn is_unavailable(error: &StoreError) -> bool {
    matches!(error, StoreError::Unavailable(_))
}

/// The same test on both databases.
macro_rules! on_both {
    ($($(#[$doc:meta])* async fn $name:ident($database:ident: TestDatabase) $body:block)*) => {
        $(async fn $name($database: TestDatabase) $body)*

        mod sqlite {
            use super::*;
            $($(#[$doc])* #[tokio::test] async fn $name() {
                super::$name(TestDatabase::sqlite(stringify!($name))).await;
            })*
        }

        mod postgres {
            use super::*;
            $($(#[$doc])* #[tokio::test] async fn $name() {
                super::$name(TestDatabase::postgres()).await;
            })*
        }
    };
}

mod batches;
mod faults;
mod leases;

on_both! {
async fn revision_rises_with_committed_changes_only(database: TestDatabase) {
    let store = database.open().await;
    let start = store.revision().await.unwrap();
    let (tx, revision) = store.change().await.unwrap();
    assert_eq!(revision, start + 1);
    tx.commit().await.unwrap();
    drop(store.change().await.unwrap());
    assert_eq!(store.revision().await.unwrap(), start + 1);
    store.close().await;
    assert_eq!(database.open().await.revision().await.unwrap(), start + 1);
}

async fn snapshot_sees_one_state(database: TestDatabase) {
    let store = database.open().await;
    let mut tx = store.snapshot().await.unwrap();
    let count = async |tx: &mut Transaction| {
        let row = sqlx::query("SELECT COUNT(*) AS items FROM items").fetch_one(&mut **tx).await;
        row.unwrap().get::<i64, _>("items")
    };
    assert_eq!(count(&mut tx).await, 0);
    change(&store, "a").await.unwrap();
    assert_eq!(count(&mut tx).await, 0);
    tx.commit().await.unwrap();
    assert_eq!(items(&store).await, ["a"]);
}

async fn older_copy_executes_its_statement_once(database: TestDatabase) {
    let store = database.open().await;
    let mark = "INSERT INTO items (id, bytes) VALUES ('older', 0)";
    let (first, found) = store.raise_generation(0, mark).await.unwrap();
    assert_eq!(found, Found::New { noted: 0 });
    let (second, found) = store.raise_generation(first, mark).await.unwrap();
    assert_eq!((second, found), (first + 1, Found::Current));
    let (third, found) = store.raise_generation(second + 7, mark).await.unwrap();
    let older = Found::Older {
        own: second,
        noted: second + 7,
    };
    assert_eq!((third, found), (second + 8, older));
    assert_eq!(items(&store).await, ["older"]);
    assert_eq!(store.advance_generation().await.unwrap(), third + 1);
}
}

#[tokio::test]
async fn foreign_file_is_rejected_with_its_name() {
    let dir = TempDir::new("store-garbage");
    let path = dir.write(
        "store.db",
        "this is not a database, and it is long enough to be read as one",
    );
    let opened = Store::open(&Database::Sqlite(path), &MIGRATIONS).await;
    let error = opened.unwrap_err();
    assert!(matches!(error, StoreError::Unusable(_)), "{error:?}");
    assert!(error.to_string().contains("store.db"), "{error}");
}
