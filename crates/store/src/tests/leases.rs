//! The lease and its fence.

use super::*;
use crate::WriteError;
use crate::lease::{LEASE_MS, RenewOutcome};

/// Moves the lease's end into the past, as if this much time had passed.
async fn age_lease(store: &Store, by_ms: i64) {
    sqlx::query("UPDATE leases SET until_ms = until_ms - $1 WHERE name = 'test'")
        .bind(by_ms)
        .execute(store.pool())
        .await
        .unwrap();
}

#[tokio::test]
async fn lease_has_one_holder_by_the_databases_clock() {
    let database = TestDatabase::postgres();
    let store = database.open().await;
    let mut first = LeaseConnection::new(store.clone(), LEASE);
    let mut second = LeaseConnection::new(store.clone(), LEASE);
    let acquired = first.acquire("a", "node-a").await.unwrap();
    let AcquireOutcome::Acquired(epoch) = acquired else {
        panic!("{acquired:?}");
    };
    let renewed = |is_contended| RenewOutcome::Renewed { is_contended };
    assert_eq!(first.renew(epoch).await.unwrap(), renewed(false));
    let held = AcquireOutcome::HeldBy("node-a".to_owned());
    assert_eq!(second.acquire("b", "node-b").await.unwrap(), held);
    assert_eq!(first.renew(epoch).await.unwrap(), renewed(true));

    age_lease(&store, LEASE_MS - 2000).await;
    assert_eq!(second.acquire("b", "node-b").await.unwrap(), held);
    age_lease(&store, 4000).await;
    let acquired = second.acquire("b", "node-b").await.unwrap();
    assert_eq!(acquired, AcquireOutcome::Acquired(epoch + 1));
    assert_eq!(first.renew(epoch).await.unwrap(), RenewOutcome::Lost);
    // A late release does not release another process's lease.
    first.release(epoch).await.unwrap();
    assert_eq!(second.renew(epoch + 1).await.unwrap(), renewed(false));

    second.release(epoch + 1).await.unwrap();
    let acquired = first.acquire("a", "node-a").await.unwrap();
    assert_eq!(acquired, AcquireOutcome::Acquired(epoch + 2));
    // The same holder does not wait for the lease of its own process that was killed.
    let acquired = first.acquire("a", "node-a").await.unwrap();
    assert_eq!(acquired, AcquireOutcome::Acquired(epoch + 3));
}

/// A process that is frozen within a transaction locks the lease's row, but not forever.
#[tokio::test]
async fn lease_passes_on_from_a_frozen_transaction() {
    let database = TestDatabase::postgres();
    let frozen = database.open().await.fenced(LEASE);
    let epoch = acquire(&frozen, "a").await;
    frozen.hold(epoch);
    let (tx, _) = frozen.change().await.unwrap();
    let other = database.open().await;
    let mut second = LeaseConnection::new(other, LEASE);
    let deadline = Instant::now() + Duration::from_secs(40);
    loop {
        match second.acquire("b", "node-b").await {
            Ok(AcquireOutcome::Acquired(acquired)) => break assert_eq!(acquired, epoch + 1),
            Ok(AcquireOutcome::HeldBy(_)) | Err(StoreError::Unavailable(_)) => {}
            Err(error) => panic!("{error}"),
        }
        assert!(Instant::now() < deadline, "no process acquires the lease");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(tx.commit().await.is_err());
}

/// Of many processes that see a lease expire, one acquires it.
#[tokio::test]
async fn expired_lease_is_acquired_by_one_of_many() {
    let database = TestDatabase::postgres();
    let store = database.open().await;
    let attempts = (0..16).map(|n| {
        let store = store.clone();
        tokio::spawn(async move {
            let mut lease = LeaseConnection::new(store, LEASE);
            lease
                .acquire(&format!("process {n}"), "node")
                .await
                .unwrap()
        })
    });
    let attempts: Vec<_> = attempts.collect();
    let mut epochs = 0;
    for attempt in attempts {
        let outcome = attempt.await.unwrap();
        epochs += usize::from(matches!(outcome, AcquireOutcome::Acquired(_)));
    }
    assert_eq!(epochs, 1);
}

on_both! {
async fn fence_rejects_changes_of_another_epoch(database: TestDatabase) {
    let store = database.open().await.fenced(LEASE);
    let epoch = acquire(&store, "a").await;
    let rejected = change(&store, "early").await.unwrap_err();
    assert!(matches!(rejected, StoreError::LeaseLost), "{rejected}");
    store.hold(epoch);
    change(&store, "held").await.unwrap();
    let batch = Batch::start(store.clone(), LEASE);
    let rejected = batch.write(Insert::new("early")).await.unwrap_err();
    assert!(matches!(rejected, WriteError::LeaseLost), "{rejected}");
    batch.hold(epoch);
    assert!(insert(&batch, "batched").await.unwrap());

    acquire(&store, "a").await;
    let rejected = change(&store, "late").await.unwrap_err();
    assert!(matches!(rejected, StoreError::LeaseLost), "{rejected}");
    let rejected = batch.write(Insert::new("late")).await.unwrap_err();
    assert!(matches!(rejected, WriteError::LeaseLost), "{rejected}");
    // Commands have no fence, and some changes need no lease.
    change(&database.open().await, "command").await.unwrap();
    let unfenced = Insert { needs_lease: false, ..Insert::new("unfenced") };
    assert!(batch.write(unfenced).await.unwrap());
    assert_eq!(items(&store).await, ["batched", "command", "held", "unfenced"]);
}
}
