//! The lease, its fence, and idempotency keys.

use super::*;
use crate::storage::batch::{Batch, WriteError};
use crate::storage::calls::{Write, Written};
use crate::storage::idempotency::{Begin, Begun, Finish, KeyedRow};
use crate::storage::leases::{LEASE_MS, LeaseConnection, Renewed, Taken};

/// Moves the lease's end, as if so much time had passed.
async fn age_lease(storage: &Storage, by_ms: i64) {
    sqlx::query("UPDATE leases SET until_ms = until_ms - $1 WHERE name = 'relay'")
        .bind(by_ms)
        .execute(&storage.pool)
        .await
        .unwrap();
}

fn row(storage: &Storage, tenant: &Tenant, key: &str, token: u8) -> KeyedRow {
    storage.keyed_row(tenant.id.shared(), "call", key.to_owned(), [token; 16])
}

fn begin(row: &KeyedRow, digest: u8, prior: Option<u8>) -> Write {
    Write::BeginKeyed(Box::new(Begin {
        row: row.clone(),
        client_id: "client".into(),
        digest: vec![digest],
        prior: prior.map(|prior| [prior; 16]),
    }))
}

fn finish(row: &KeyedRow, outcome: Option<&[u8]>) -> Write {
    Write::FinishKeyed(Box::new(Finish {
        row: row.clone(),
        outcome: outcome.map(Vec::from),
    }))
}

async fn begun(batch: &Batch, write: Write) -> Begun {
    match batch.write(write).await.unwrap() {
        Written::Keyed(begun) => begun,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn lease_has_one_holder_and_passes_on_by_the_databases_clock() {
    let database = PostgresDatabase::create();
    let storage = Storage::open(&database_at(database.url())).await.unwrap();
    let mut first = LeaseConnection::new(storage.clone());
    let mut second = LeaseConnection::new(storage.clone());
    let taken = first.take("a", "node-a").await.unwrap();
    let Taken::Epoch(epoch) = taken else {
        panic!("{taken:?}");
    };
    let kept = |is_contended| Renewed::Kept { is_contended };
    assert_eq!(first.renew(epoch).await.unwrap(), kept(false));
    let held = Taken::Held("node-a".to_owned());
    assert_eq!(second.take("b", "node-b").await.unwrap(), held);
    assert_eq!(first.renew(epoch).await.unwrap(), kept(true));

    age_lease(&storage, LEASE_MS - 2000).await;
    assert_eq!(second.take("b", "node-b").await.unwrap(), held);
    age_lease(&storage, 4000).await;
    let taken = second.take("b", "node-b").await.unwrap();
    assert_eq!(taken, Taken::Epoch(epoch + 1));
    assert_eq!(first.renew(epoch).await.unwrap(), Renewed::Lost);
    // What comes late gives nothing back that is another's.
    first.release(epoch).await.unwrap();
    assert_eq!(second.renew(epoch + 1).await.unwrap(), kept(false));

    second.release(epoch + 1).await.unwrap();
    let taken = first.take("a", "node-a").await.unwrap();
    assert_eq!(taken, Taken::Epoch(epoch + 2));
    // The same holder, after it was killed, does not wait.
    let taken = first.take("a", "node-a").await.unwrap();
    assert_eq!(taken, Taken::Epoch(epoch + 3));
}

/// A process that is frozen within a transaction holds the lease's row, and not for ever.
#[tokio::test]
async fn lease_passes_on_from_a_process_that_froze_in_a_transaction() {
    let database = PostgresDatabase::create();
    let frozen = Storage::open(&database_at(database.url()))
        .await
        .unwrap()
        .fenced();
    let mut first = LeaseConnection::new(frozen.clone());
    let Taken::Epoch(epoch) = first.take("a", "node-a").await.unwrap() else {
        panic!("nobody has it");
    };
    frozen.hold(epoch);
    let began = frozen.change().await.unwrap();
    let other = Storage::open(&database_at(database.url())).await.unwrap();
    let mut second = LeaseConnection::new(other);
    let deadline = Instant::now() + Duration::from_secs(40);
    loop {
        match second.take("b", "node-b").await {
            Ok(Taken::Epoch(taken)) => break assert_eq!(taken, epoch + 1),
            Ok(Taken::Held(_)) | Err(StorageError::Unavailable(_)) => {}
            Err(error) => panic!("{error}"),
        }
        assert!(Instant::now() < deadline, "nobody takes over");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(began.0.commit().await.is_err());
}

/// Of many that see a lease expire, one gets it.
#[tokio::test]
async fn expired_lease_is_taken_by_one_of_many() {
    let database = PostgresDatabase::create();
    let storage = Storage::open(&database_at(database.url())).await.unwrap();
    let takes = (0..16).map(|n| {
        let storage = storage.clone();
        tokio::spawn(async move {
            let mut lease = LeaseConnection::new(storage);
            lease.take(&format!("process {n}"), "node").await.unwrap()
        })
    });
    let takes: Vec<_> = takes.collect();
    let mut epochs = 0;
    for take in takes {
        epochs += usize::from(matches!(take.await.unwrap(), Taken::Epoch(_)));
    }
    assert_eq!(epochs, 1);
}

on_both! {
async fn change_of_another_epoch_is_refused(place: Place) {
    let storage = place.open().await.fenced();
    let mut lease = LeaseConnection::new(storage.clone());
    let Taken::Epoch(epoch) = lease.take("a", "node").await.unwrap() else {
        panic!("nobody has it");
    };
    let refused = storage.create_tenant("early").await.unwrap_err();
    assert!(matches!(refused, StorageError::LeaseLost), "{refused}");
    storage.hold(epoch);
    let tenant = storage.create_tenant("acme").await.unwrap();
    let batch = Batch::start(storage.clone());
    let keyed = row(&storage, &tenant, "k", 1);
    let refused = batch.write(begin(&keyed, 1, None)).await.unwrap_err();
    assert!(matches!(refused, WriteError::LeaseLost), "{refused}");
    batch.hold(epoch);
    assert_eq!(begun(&batch, begin(&keyed, 1, None)).await, Begun::New);

    lease.take("a", "node").await.unwrap();
    let refused = storage.create_tenant("late").await.unwrap_err();
    assert!(matches!(refused, StorageError::LeaseLost), "{refused}");
    // Commands need no lease, and what was made is written down, also if another process serves.
    place.open().await.create_tenant("by-command").await.unwrap();
    let finished = batch.write(finish(&keyed, Some(b"x"))).await.unwrap();
    assert_eq!(finished, Written::Changed(true));
}

async fn idempotency_key_stands_for_one_request(place: Place) {
    let storage = place.open().await;
    let tenant = storage.create_tenant("acme").await.unwrap();
    let other = storage.create_tenant("other").await.unwrap();
    let batch = Batch::start(storage.clone());
    let known = |is_same, outcome: Option<&[u8]>| Begun::Known {
        is_same,
        outcome: outcome.map(Vec::from),
    };
    let first = row(&storage, &tenant, "k", 1);
    let second = row(&storage, &tenant, "k", 2);
    assert_eq!(begun(&batch, begin(&first, 1, None)).await, Begun::New);
    assert_eq!(begun(&batch, begin(&second, 1, None)).await, known(true, None));
    assert_eq!(begun(&batch, begin(&second, 9, None)).await, known(false, None));
    let elsewhere = row(&storage, &other, "k", 3);
    assert_eq!(begun(&batch, begin(&elsewhere, 9, None)).await, Begun::New);

    // Only the process that began it says what became of it.
    let late = batch.write(finish(&second, Some(b"wrong"))).await.unwrap();
    assert_eq!(late, Written::Changed(false));
    batch.write(finish(&first, Some(b"done"))).await.unwrap();
    assert_eq!(begun(&batch, begin(&second, 1, None)).await, known(true, Some(b"done")));
    let counts = storage.keyed_counts().await.unwrap();
    let stored = counts[&*tenant.id.shared()]["client"];
    assert_eq!((stored.rows, stored.bytes), (1, 4));

    // An attempt that had no effect is taken over by the process that knows it.
    let idle = row(&storage, &tenant, "idle", 4);
    let next = row(&storage, &tenant, "idle", 5);
    begun(&batch, begin(&idle, 1, None)).await;
    assert_eq!(begun(&batch, begin(&next, 2, Some(4))).await, Begun::New);
    batch.write(finish(&next, None)).await.unwrap();
    assert_eq!(begun(&batch, begin(&idle, 1, None)).await, Begun::New);

    // What has expired is free, and forgotten.
    sqlx::query("UPDATE idempotency SET expires_ms = 1 WHERE key = 'k'")
        .execute(&storage.pool)
        .await
        .unwrap();
    assert_eq!(begun(&batch, begin(&second, 9, None)).await, Begun::New);
    assert!(!storage.forget_keyed().await.unwrap());
    let counts = storage.keyed_counts().await.unwrap();
    assert!(!counts.contains_key(&*other.id.shared()));
    storage.delete_tenant("acme", None).await.unwrap();
    assert!(storage.keyed_counts().await.unwrap().is_empty());
    let gone = begun(&batch, begin(&row(&storage, &tenant, "z", 6), 1, None)).await;
    assert_eq!(gone, Begun::NoTenant);
}
}
