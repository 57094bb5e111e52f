//! A disk that runs full, a server that goes away, a COMMIT whose response is lost.

use super::*;
use crate::readiness::Readiness;
use crate::storage::calls::Accepted;
use support::{CommitProxy, Cut, SmallDisk};

fn is_unavailable(error: &StorageError) -> bool {
    matches!(error, StorageError::Unavailable(_))
}

async fn accept(batch: &Batch, tenant: &str, id: &str) -> Result<Written, StorageError> {
    let mut new = call(tenant, id);
    new.sealed = vec![0; 20_000];
    match batch.write(Write::Accept(Box::new(new))).await {
        Ok(written) => Ok(written),
        Err(batch::WriteError::Storage(error)) => Err(Arc::try_unwrap(error).unwrap()),
        Err(other) => panic!("{other}"),
    }
}

async fn stored(storage: &Storage) -> Vec<String> {
    let rows = sqlx::query("SELECT id FROM calls ORDER BY id")
        .fetch_all(&storage.pool)
        .await
        .unwrap();
    rows.iter().map(|row| row.get("id")).collect()
}

/// As long as the disk is full every write is refused as such, reading goes on, and the relay is
/// not ready; with room again everything works on the same handles.
#[tokio::test]
async fn a_full_disk_passes_without_a_restart() {
    let disk = SmallDisk::mount(16 << 20);
    let database = Database::Sqlite(disk.path().join("relay.db"));
    let storage = Storage::open(&database).await.unwrap();
    let tenant = storage.create_tenant("acme").await.unwrap();
    let tenant = tenant.id.as_str();
    let batch = batch(&storage).await;
    let readiness = Readiness::default();
    assert!(readiness.can_write(&storage).await);
    let mut expected = Vec::new();
    for round in 0..3 {
        disk.fill();
        let mut refused = 0;
        for number in 0.. {
            let id = format!("full_{round}_{number:03}");
            match accept(&batch, tenant, &id).await {
                Ok(_) => expected.push(id),
                Err(error) => {
                    assert!(is_unavailable(&error), "{error:?}");
                    refused += 1;
                }
            }
            // More often than there are connections.
            if refused == 20 {
                break;
            }
            assert!(number < 2_000);
        }
        for number in 0..12 {
            // A smaller change may still fit into what a refused one has left of the log.
            if let Err(error) = storage.create_tenant(&format!("t{round}_{number}")).await {
                assert!(is_unavailable(&error), "{error:?}");
            }
        }
        assert_eq!(stored(&storage).await, expected);
        // What a refused write has left of the log may hold a smaller one.
        let mut tries = 0;
        let error = loop {
            match storage.try_write().await {
                Ok(()) => tries += 1,
                Err(error) => break error,
            }
            assert!(tries < 50);
        };
        assert!(is_unavailable(&error), "{error:?}");
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        assert!(!readiness.can_write(&storage).await);
        disk.free();
        // All at once, so that every connection is used.
        let writes = (0..32).map(|number| {
            let (batch, storage) = (batch.clone(), storage.clone());
            let (tenant, id) = (tenant.to_owned(), format!("more_{round}_{number:03}"));
            tokio::spawn(async move {
                let made = storage
                    .create_tenant(&format!("more{round}_{number}"))
                    .await;
                made.unwrap();
                let written = accept(&batch, &tenant, &id).await.unwrap();
                assert_eq!(written, Written::Accepted(Accepted::Stored));
                id
            })
        });
        for write in writes.collect::<Vec<_>>() {
            expected.push(write.await.unwrap());
        }
        expected.sort();
        assert_eq!(stored(&storage).await, expected);
        storage.try_write().await.unwrap();
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        assert!(readiness.can_write(&storage).await);
        // Room for the next round.
        for id in expected.drain(..) {
            let gone = sqlx::query("DELETE FROM calls WHERE id = $1").bind(id);
            gone.execute(&storage.pool).await.unwrap();
        }
    }
    storage.close().await;
}

/// A transaction that is refused, dropped or cancelled at any moment leaves no lock and no change.
#[tokio::test]
async fn a_dropped_transaction_leaves_no_trace() {
    for place in [
        Place::File(TempDir::new("dropped")),
        Place::Server(PostgresDatabase::create()),
    ] {
        let storage = place.open().await;
        let revision = storage.revision().await.unwrap();
        for number in 0..40_u64 {
            // Refused, after it has written.
            storage.change().await.map(drop).unwrap();
            // Cancelled, at some moment.
            let name = format!("t{number}");
            let cancelled = tokio::time::timeout(
                Duration::from_micros(number * 50),
                storage.create_tenant(&name),
            );
            if let Ok(made) = cancelled.await {
                made.unwrap();
            }
            storage.try_write().await.unwrap();
        }
        let made = storage.tenants().await.unwrap().len();
        let raised = storage.revision().await.unwrap() - revision;
        assert_eq!(usize::try_from(raised).unwrap(), made);
    }
}

async fn through_a_proxy() -> (PostgresDatabase, CommitProxy, Storage) {
    let database = PostgresDatabase::create();
    let (proxy, url) = CommitProxy::start(database.url()).await;
    let storage = Storage::open(&database_at(&url)).await.unwrap();
    (database, proxy, storage)
}

/// `not_sent` is said only of what is not stored, and success only of what is.
#[tokio::test]
async fn a_lost_commit_is_looked_up() {
    let (_database, proxy, storage) = through_a_proxy().await;
    let tenant = storage.create_tenant("acme").await.unwrap();
    let id = tenant.id.as_str();
    let batch = batch(&storage).await;
    for (number, (cut, is_stored)) in [
        (Cut::Response, true),
        (Cut::Request, false),
        (Cut::Held, false),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("c{number}");
        proxy.cut_next(cut).await;
        let written = accept(&batch, id, &name).await;
        match is_stored {
            true => assert_eq!(written.unwrap(), Written::Accepted(Accepted::Stored)),
            false => assert!(is_unavailable(&written.unwrap_err()), "{cut:?}"),
        }
        assert_eq!(stored(&storage).await.contains(&name), is_stored, "{cut:?}");

        proxy.cut_next(cut).await;
        let made = storage.create_tenant(&name).await;
        let found = storage.tenant(&name).await;
        assert_eq!(
            (made.is_ok(), found.is_ok()),
            (is_stored, is_stored),
            "{cut:?}"
        );

        proxy.cut_next(cut).await;
        let key = storage
            .create_key("acme", Role::Bridge, &name, Existing::Refuse)
            .await;
        assert_eq!(key.is_ok(), is_stored, "{cut:?}");
        let keys = storage.keys(Some("acme")).await.unwrap();
        assert_eq!(
            keys.iter().any(|key| key.name == name),
            is_stored,
            "{cut:?}"
        );

        let paired_by = storage.create_key("acme", Role::Bridge, "pairs", Existing::Refuse);
        let paired_by = paired_by.await.unwrap().0;
        let seed = u8::try_from(number).unwrap() + 1;
        proxy.cut_next(cut).await;
        let paired = storage
            .pair(&pairing(&tenant, &paired_by, &name, seed))
            .await;
        assert_eq!(paired.is_ok(), is_stored, "{cut:?}");
        let bridges = storage.bridges(Some("acme")).await.unwrap();
        assert_eq!(
            bridges.iter().any(|bridge| bridge.name == name),
            is_stored,
            "{cut:?}"
        );
    }
    assert_eq!(proxy.cuts(), 12);
}

/// The server cannot be asked: then neither success nor `not_sent` is claimed.
#[tokio::test]
async fn a_commit_without_a_server_has_an_unknown_outcome() {
    let (_database, proxy, storage) = through_a_proxy().await;
    let tenant = storage.create_tenant("acme").await.unwrap();
    let batch = batch(&storage).await;
    proxy.cut_next(Cut::Away).await;
    let error = accept(&batch, tenant.id.as_str(), "c").await.unwrap_err();
    assert!(matches!(error, StorageError::Unknown(_)), "{error:?}");
    let failure = Failure::from(error);
    assert_eq!(failure.execution, Execution::PossiblyExecuted);
    let refused = accept(&batch, tenant.id.as_str(), "later").await;
    let error = refused.unwrap_err();
    assert!(is_unavailable(&error), "{error:?}");
    proxy.come_back();
    assert_eq!(stored(&storage).await, ["c"]);
    let written = accept(&batch, tenant.id.as_str(), "later").await;
    assert_eq!(written.unwrap(), Written::Accepted(Accepted::Stored));
}

/// After the server was away, connections from before the outage fail no request, apart from the one
/// that shows the outage.
#[tokio::test]
async fn connections_from_before_an_outage_are_not_used() {
    let (_database, proxy, storage) = through_a_proxy().await;
    for is_read_first in [false, true] {
        // Eight connections.
        let looks = (0..64).map(|_| {
            let storage = storage.clone();
            tokio::spawn(async move { storage.revision().await })
        });
        for look in looks.collect::<Vec<_>>() {
            look.await.unwrap().unwrap();
        }
        proxy.cut_all();
        let began = Instant::now();
        while is_read_first && storage.revision().await.is_ok() {
            assert!(began.elapsed() < PATIENCE);
        }
        for _ in 0..16 {
            storage.try_write().await.unwrap();
            storage.revision().await.unwrap();
        }
    }
}
