//! Seals of the audit record, and what they show.

use super::*;
use runtime::sealed::SealingKey;

const NOW: i64 = 1_800_000_000_000;
const DAY_MS: i64 = 24 * 3_600_000;

fn key() -> SealingKey {
    SealingKey::new(&[7; 32])
}

/// Adds rows of this moment.
async fn add(storage: &Storage, at_ms: i64, rows: usize) {
    let event = |number: usize| AuditEvent {
        at_ms,
        tenant: "t".into(),
        actor: "k".into(),
        action: "call",
        object: format!("call_{number}"),
        result: "ok",
        count: 1,
        ..AuditEvent::default()
    };
    let events: Vec<_> = (0..rows).map(event).collect();
    storage.audit(&events).await.unwrap();
}

/// Seals all rows.
async fn seal(storage: &Storage, forgotten_ms: i64) {
    let last = storage.last_audit_row().await.unwrap();
    let more = storage.seal_audit(&key(), last, forgotten_ms).await;
    assert!(!more.unwrap());
}

async fn check(storage: &Storage) -> Result<audit::seals::SealedRecord, String> {
    storage.check_seals(&key(), None).await.unwrap()
}

async fn run(storage: &Storage, statement: &'static str) {
    sqlx::query(statement)
        .execute(storage.pool())
        .await
        .unwrap();
}

on_both! {
async fn seals_show_removed_and_added_rows(database: TestDatabase) {
    let storage = database.open().await;
    add(&storage, NOW, 40).await;
    let none = check(&storage).await.unwrap();
    assert_eq!((none.head, none.unsealed), (None, 40));
    seal(&storage, 0).await;
    add(&storage, NOW, 30).await;
    seal(&storage, 0).await;
    // Nothing new: no further seal.
    seal(&storage, 0).await;
    add(&storage, NOW, 2).await;
    let found = check(&storage).await.unwrap();
    let (number, mac) = found.head.unwrap();
    assert_eq!((number, found.checked, found.unsealed), (2, 70, 2));
    let kept = (number, mac);
    assert!(storage.check_seals(&key(), Some(&kept)).await.unwrap().is_ok());
    // Another key has made no seal.
    let other = SealingKey::new(&[8; 32]);
    let defect = storage.check_seals(&other, None).await.unwrap().unwrap_err();
    assert!(defect.contains("the seal 2 is not signed"), "{defect}");

    run(&storage, "DELETE FROM audit WHERE seq <= 3").await;
    let defect = check(&storage).await.unwrap_err();
    assert!(defect.contains("rows 1 to 40: 3 of 40 rows were removed"), "{defect}");
    // A changed seal has no valid signature.
    run(&storage, "UPDATE audit_seals SET count = 37 WHERE number = 1").await;
    let defect = check(&storage).await.unwrap_err();
    assert!(defect.contains("the seal 1 is not signed"), "{defect}");
    run(&storage, "DELETE FROM audit_seals WHERE number = 1").await;
    let defect = check(&storage).await.unwrap_err();
    assert!(defect.contains("the seal 1 is missing"), "{defect}");
    // An emptied record has nothing that shows it, but the head that was kept.
    run(&storage, "DELETE FROM audit_seals").await;
    run(&storage, "DELETE FROM audit").await;
    assert_eq!(check(&storage).await.unwrap().head, None);
    let defect = storage.check_seals(&key(), Some(&kept)).await.unwrap().unwrap_err();
    assert!(defect.contains("its end was cut off"), "{defect}");
}

async fn rows_and_seals_are_deleted_by_age(database: TestDatabase) {
    let storage = database.open().await;
    add(&storage, NOW - 2 * DAY_MS, 20).await;
    seal(&storage, 0).await;
    // A range that is deleted in part.
    add(&storage, NOW - 2 * DAY_MS, 5).await;
    add(&storage, NOW, 5).await;
    seal(&storage, 0).await;
    add(&storage, NOW, 10).await;
    seal(&storage, 0).await;
    let before = NOW - DAY_MS;
    assert!(storage.has_audit_before(before).await.unwrap());
    seal(&storage, before).await;
    assert_eq!(storage.forget_audit(before, 1000).await.unwrap(), 25);
    let found = check(&storage).await.unwrap();
    assert_eq!((found.checked, found.head.unwrap().0), (10, 4));
    // The seal of the deleted rows is gone, and may be.
    add(&storage, NOW, 1).await;
    seal(&storage, 0).await;
    assert_eq!(check(&storage).await.unwrap().checked, 11);
    run(&storage, "DELETE FROM audit_seals WHERE number = 2").await;
    let defect = check(&storage).await.unwrap_err();
    assert!(defect.contains("the seal 2 is missing"), "{defect}");
}

async fn rows_deleted_before_their_age_are_missed(database: TestDatabase) {
    let storage = database.open().await;
    add(&storage, NOW - 2 * DAY_MS, 20).await;
    seal(&storage, 0).await;
    assert_eq!(storage.forget_audit(NOW - DAY_MS, 1000).await.unwrap(), 20);
    let defect = check(&storage).await.unwrap_err();
    assert!(defect.contains("20 of 20 rows were removed"), "{defect}");
}
}
