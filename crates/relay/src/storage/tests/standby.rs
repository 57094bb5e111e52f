//! Which changes are fenced by the lease, and idempotency keys. The lease itself is tested in `store`.

use super::*;
use idempotency::{ClaimKey, ClaimOutcome, CompleteKey, KeyedRow};

fn row(storage: &Storage, tenant: &Tenant, key: &str, token: u8) -> KeyedRow {
    storage.keyed_row(tenant.id.shared(), "call", key.to_owned(), [token; 16])
}

fn claim(row: &KeyedRow, digest: u8, prior: Option<u8>) -> Write {
    Write::ClaimKey(Box::new(ClaimKey {
        row: row.clone(),
        client_id: "client".into(),
        digest: vec![digest].into(),
        prior: prior.map(|prior| [prior; 16]),
    }))
}

fn complete(row: &KeyedRow, outcome: Option<&[u8]>) -> Write {
    Write::CompleteKey(Box::new(CompleteKey {
        row: row.clone(),
        outcome: outcome.map(Vec::from),
    }))
}

async fn claimed(batch: &Batch, write: Write) -> ClaimOutcome {
    match batch.write(write).await.unwrap() {
        Written::Claimed(outcome) => outcome,
        other => panic!("{other:?}"),
    }
}

on_both! {
async fn change_of_another_epoch_is_rejected(database: TestDatabase) {
    let storage = database.open().await.fenced();
    let epoch = acquire(&storage, "a").await;
    let rejected = storage.create_tenant("early").await.unwrap_err();
    assert!(matches!(rejected, StorageError::Store(StoreError::LeaseLost)), "{rejected}");
    storage.hold(epoch);
    let tenant = storage.create_tenant("acme").await.unwrap();
    let batch = storage.start_batch();
    let keyed = row(&storage, &tenant, "k", 1);
    let rejected = batch.write(claim(&keyed, 1, None)).await.unwrap_err();
    assert!(matches!(rejected, WriteError::LeaseLost), "{rejected}");
    batch.hold(epoch);
    assert_eq!(claimed(&batch, claim(&keyed, 1, None)).await, ClaimOutcome::New);

    acquire(&storage, "a").await;
    let rejected = storage.create_tenant("late").await.unwrap_err();
    assert!(matches!(rejected, StorageError::Store(StoreError::LeaseLost)), "{rejected}");
    // Commands need no lease, and the outcome of an executed request is stored even if another process serves.
    database.open().await.create_tenant("by-command").await.unwrap();
    let completed = batch.write(complete(&keyed, Some(b"x"))).await.unwrap();
    assert_eq!(completed, Written::Changed(true));
}

async fn idempotency_key_belongs_to_one_request(database: TestDatabase) {
    let storage = database.open().await;
    let tenant = storage.create_tenant("acme").await.unwrap();
    let other = storage.create_tenant("other").await.unwrap();
    let batch = storage.start_batch();
    let known = |is_same, outcome: Option<&[u8]>| ClaimOutcome::Known {
        is_same,
        outcome: outcome.map(Vec::from),
    };
    let first = row(&storage, &tenant, "k", 1);
    let second = row(&storage, &tenant, "k", 2);
    assert_eq!(claimed(&batch, claim(&first, 1, None)).await, ClaimOutcome::New);
    assert_eq!(claimed(&batch, claim(&second, 1, None)).await, known(true, None));
    assert_eq!(claimed(&batch, claim(&second, 9, None)).await, known(false, None));
    let elsewhere = row(&storage, &other, "k", 3);
    assert_eq!(claimed(&batch, claim(&elsewhere, 9, None)).await, ClaimOutcome::New);

    // Only the attempt that claimed the key may store its outcome.
    let late = batch.write(complete(&second, Some(b"wrong"))).await.unwrap();
    assert_eq!(late, Written::Changed(false));
    batch.write(complete(&first, Some(b"done"))).await.unwrap();
    assert_eq!(claimed(&batch, claim(&second, 1, None)).await, known(true, Some(b"done")));
    let usage = storage.key_usage().await.unwrap();
    let stored = usage[&*tenant.id.shared()]["client"];
    assert_eq!((stored.rows, stored.bytes), (1, 4));

    // An attempt that had no effect is taken over by a process that knows its token.
    let idle = row(&storage, &tenant, "idle", 4);
    let next = row(&storage, &tenant, "idle", 5);
    claimed(&batch, claim(&idle, 1, None)).await;
    assert_eq!(claimed(&batch, claim(&next, 2, Some(4))).await, ClaimOutcome::New);
    batch.write(complete(&next, None)).await.unwrap();
    assert_eq!(claimed(&batch, claim(&idle, 1, None)).await, ClaimOutcome::New);

    // An expired key is free, and is deleted.
    sqlx::query("UPDATE idempotency SET expires_ms = 1 WHERE key = 'k'")
        .execute(storage.pool())
        .await
        .unwrap();
    assert_eq!(claimed(&batch, claim(&second, 9, None)).await, ClaimOutcome::New);
    assert!(!storage.forget_keyed().await.unwrap());
    let usage = storage.key_usage().await.unwrap();
    assert!(!usage.contains_key(&*other.id.shared()));
    storage.delete_tenant("acme", None).await.unwrap();
    assert!(storage.key_usage().await.unwrap().is_empty());
    let gone = claimed(&batch, claim(&row(&storage, &tenant, "z", 6), 1, None)).await;
    assert_eq!(gone, ClaimOutcome::NoTenant);
}
}
