//! A full disk, a server that goes away, a COMMIT whose response is lost.

use super::*;
use crate::Readiness;
use support::{CommitProxy, Cut, SmallDisk};

/// While the disk is full every write is rejected as such, reads go on, and the process is not ready. With room
/// again everything works on the same handles.
#[tokio::test]
async fn full_disk_recovers_without_a_restart() {
    let disk = SmallDisk::mount(16 << 20);
    let store = open(&Database::Sqlite(disk.path().join("store.db"))).await;
    let batch = batch(&store).await;
    let readiness = Readiness::default();
    assert!(readiness.can_write(&store).await);
    let mut expected = Vec::new();
    for round in 0..3 {
        disk.fill();
        let mut rejected = 0;
        for number in 0.. {
            let id = format!("full_{round}_{number:03}");
            match insert(&batch, &id).await {
                Ok(_) => expected.push(id),
                Err(error) => {
                    assert!(is_unavailable(&error), "{error:?}");
                    rejected += 1;
                }
            }
            // More than there are connections.
            if rejected == 20 {
                break;
            }
            assert!(number < 2_000);
        }
        for number in 0..12 {
            // A smaller change may still fit into the part of the log that a rejected one has left.
            let id = format!("small_{round}_{number:03}");
            match change(&store, &id).await {
                Ok(()) => expected.push(id),
                Err(error) => assert!(is_unavailable(&error), "{error:?}"),
            }
        }
        expected.sort();
        assert_eq!(items(&store).await, expected);
        let mut tries = 0;
        let error = loop {
            match store.test_write().await {
                Ok(()) => tries += 1,
                Err(error) => break error,
            }
            assert!(tries < 50);
        };
        assert!(is_unavailable(&error), "{error:?}");
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        assert!(!readiness.can_write(&store).await);
        disk.free();
        // Concurrent, so that every connection is used.
        let writes = (0..32).map(|number| {
            let (batch, store) = (batch.clone(), store.clone());
            let (small, large) = (
                format!("more_{round}_{number:03}"),
                format!("most_{round}_{number:03}"),
            );
            tokio::spawn(async move {
                change(&store, &small).await.unwrap();
                assert!(insert(&batch, &large).await.unwrap());
                [small, large]
            })
        });
        for write in writes.collect::<Vec<_>>() {
            expected.extend(write.await.unwrap());
        }
        expected.sort();
        assert_eq!(items(&store).await, expected);
        store.test_write().await.unwrap();
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        assert!(readiness.can_write(&store).await);
        // Room for the next round.
        for id in expected.drain(..) {
            let deleted = sqlx::query("DELETE FROM items WHERE id = $1").bind(id);
            deleted.execute(store.pool()).await.unwrap();
        }
    }
    store.close().await;
}

on_both! {
/// A transaction that is dropped or cancelled at any moment leaves no lock and no change.
async fn dropped_transaction_leaves_no_trace(database: TestDatabase) {
    let store = database.open().await;
    let revision = store.revision().await.unwrap();
    for number in 0..40_u64 {
        // Dropped, after it has written.
        store.change().await.map(drop).unwrap();
        // Cancelled, at some moment.
        let id = format!("i{number}");
        let limit = Duration::from_micros(number * 50);
        if let Ok(changed) = tokio::time::timeout(limit, change(&store, &id)).await {
            changed.unwrap();
        }
        store.test_write().await.unwrap();
    }
    let changed = items(&store).await.len();
    let raised = store.revision().await.unwrap() - revision;
    assert_eq!(usize::try_from(raised).unwrap(), changed);
}
}

async fn through_a_proxy() -> (PostgresDatabase, CommitProxy, Store) {
    let database = PostgresDatabase::create();
    let (proxy, url) = CommitProxy::start(database.url()).await;
    let store = open_at(&url).await;
    (database, proxy, store)
}

/// `Unavailable` is reported only for what is not stored, and success only for what is.
#[tokio::test]
async fn lost_commit_is_looked_up() {
    let (_database, proxy, store) = through_a_proxy().await;
    let batch = batch(&store).await;
    for (cut, is_stored) in [
        (Cut::Response, true),
        (Cut::Request, false),
        (Cut::Held, false),
    ] {
        let (batched, single) = (format!("batched {cut:?}"), format!("single {cut:?}"));
        proxy.cut_next(cut).await;
        match (insert(&batch, &batched).await, is_stored) {
            (Ok(is_new), true) => assert!(is_new),
            (Err(error), false) => assert!(is_unavailable(&error), "{cut:?}: {error:?}"),
            (outcome, _) => panic!("{cut:?}: {outcome:?}"),
        }
        proxy.cut_next(cut).await;
        assert_eq!(change(&store, &single).await.is_ok(), is_stored, "{cut:?}");
        let found = items(&store).await;
        assert_eq!(found.contains(&batched), is_stored, "{cut:?}");
        assert_eq!(found.contains(&single), is_stored, "{cut:?}");
    }
    assert_eq!(proxy.cuts(), 6);
}

/// When the server cannot be asked, neither success nor failure is reported.
#[tokio::test]
async fn commit_without_a_server_has_unknown_outcome() {
    let (_database, proxy, store) = through_a_proxy().await;
    let batch = batch(&store).await;
    proxy.cut_next(Cut::Away).await;
    let error = insert(&batch, "first").await.unwrap_err();
    assert!(matches!(error, StoreError::OutcomeUnknown(_)), "{error:?}");
    let error = insert(&batch, "second").await.unwrap_err();
    assert!(is_unavailable(&error), "{error:?}");
    proxy.come_back();
    assert_eq!(items(&store).await, ["first"]);
    assert!(insert(&batch, "second").await.unwrap());
}

/// After an outage of the server, connections from before it fail no request, apart from the one that detects it.
#[tokio::test]
async fn connections_from_before_an_outage_are_not_used() {
    let (_database, proxy, store) = through_a_proxy().await;
    for is_read_first in [false, true] {
        // Uses all eight connections.
        let reads = (0..64).map(|_| {
            let store = store.clone();
            tokio::spawn(async move { store.revision().await })
        });
        for read in reads.collect::<Vec<_>>() {
            read.await.unwrap().unwrap();
        }
        proxy.cut_all().await;
        let began = Instant::now();
        while is_read_first && store.revision().await.is_ok() {
            assert!(began.elapsed() < TIMEOUT);
        }
        for _ in 0..16 {
            store.test_write().await.unwrap();
            store.revision().await.unwrap();
        }
    }
}
