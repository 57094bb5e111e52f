//! Seals of the audit record, and what they show.

use super::*;
use crate::storage::audit::AuditFilter;
use crate::storage::audit::seals::Defect;
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
async fn seal(storage: &Storage, now_ms: i64) {
    let last = storage.last_audit_row().await.unwrap();
    let more = storage.seal_audit(&key(), last, now_ms).await;
    assert!(!more.unwrap());
}

/// Deletes what is older than a day. Returns the number of rows.
async fn forget(storage: &Storage, now_ms: i64) -> u64 {
    let rows = storage.forget_seals(&key(), now_ms - DAY_MS, now_ms).await;
    let Some(rows) = rows.unwrap() else { return 0 };
    let gone = storage.forget_audit(&rows, 1000).await.unwrap();
    storage.forget_expired_seals().await.unwrap();
    gone
}

/// Adds copies of the last row with these numbers.
async fn forge(storage: &Storage, numbers: &[i64]) {
    for number in numbers {
        // PostgreSQL gives the numbers itself otherwise.
        let overriding = match storage.backend() {
            store::Backend::Sqlite => "",
            store::Backend::Postgres => "OVERRIDING SYSTEM VALUE",
        };
        let statement = format!(
            "INSERT INTO audit (seq, at_ms, tenant_id, actor, action, object, result) {overriding}
             SELECT {number}, at_ms, tenant_id, actor, action, 'forged', result FROM audit
             WHERE seq = (SELECT MAX(seq) FROM audit)"
        );
        sqlx::query(sqlx::AssertSqlSafe(statement))
            .execute(storage.pool())
            .await
            .unwrap();
    }
}

async fn check(storage: &Storage) -> Result<audit::seals::SealedRecord, String> {
    check_with(storage, &key(), None).await
}

async fn check_with(
    storage: &Storage,
    key: &SealingKey,
    kept: Option<&(i64, String)>,
) -> Result<audit::seals::SealedRecord, String> {
    let found = storage.check_seals(key, kept).await.unwrap();
    found.map_err(|defect| match defect {
        Defect::Changed(text) => text,
        Defect::OtherKey(text) => format!("other key: {text}"),
    })
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
    seal(&storage, NOW).await;
    add(&storage, NOW, 30).await;
    seal(&storage, NOW).await;
    // Nothing new: no further seal.
    seal(&storage, NOW).await;
    add(&storage, NOW, 2).await;
    let found = check(&storage).await.unwrap();
    let (number, mac) = found.head.unwrap();
    assert_eq!((number, found.checked, found.unsealed), (2, 70, 2));
    let kept = (number, mac);
    assert!(check_with(&storage, &key(), Some(&kept)).await.is_ok());
    // Another key has made no seal.
    let other = SealingKey::new(&[8; 32]);
    let defect = check_with(&storage, &other, None).await.unwrap_err();
    assert!(defect.starts_with("other key: the newest seal, 2, names"), "{defect}");

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
    // An emptied record has no head, which proves nothing. The head that was kept shows it.
    run(&storage, "DELETE FROM audit_seals").await;
    run(&storage, "DELETE FROM audit").await;
    assert_eq!(check(&storage).await.unwrap().head, None);
    let defect = check_with(&storage, &key(), Some(&kept)).await.unwrap_err();
    assert!(defect.contains("its end was cut off"), "{defect}");
}

async fn rows_and_seals_are_deleted_by_age(database: TestDatabase) {
    let storage = database.open().await;
    add(&storage, NOW - 2 * DAY_MS, 20).await;
    seal(&storage, NOW).await;
    // A range that is kept as a whole: one of its rows is young.
    add(&storage, NOW - 2 * DAY_MS, 5).await;
    add(&storage, NOW, 5).await;
    seal(&storage, NOW).await;
    add(&storage, NOW, 10).await;
    seal(&storage, NOW).await;
    assert_eq!(forget(&storage, NOW).await, 20);
    let found = check(&storage).await.unwrap();
    assert_eq!((found.checked, found.head.unwrap().0), (20, 4));
    assert_eq!(forget(&storage, NOW).await, 0);
    // The seal of the deleted rows is gone, and may be.
    add(&storage, NOW, 1).await;
    seal(&storage, NOW).await;
    assert_eq!(check(&storage).await.unwrap().checked, 21);
    run(&storage, "DELETE FROM audit_seals WHERE number = 2").await;
    let defect = check(&storage).await.unwrap_err();
    assert!(defect.contains("the seal 2 is missing"), "{defect}");
}

async fn old_row_leaves_its_range_checked(database: TestDatabase) {
    let storage = database.open().await;
    add(&storage, 1, 1).await;
    add(&storage, NOW, 300).await;
    seal(&storage, NOW).await;
    assert_eq!(forget(&storage, NOW).await, 0);
    assert_eq!(check(&storage).await.unwrap().checked, 301);
    run(&storage, "DELETE FROM audit WHERE seq > 20").await;
    let defect = check(&storage).await.unwrap_err();
    assert!(defect.contains("281 of 301 rows were removed"), "{defect}");
}

async fn clock_that_was_wrong_deletes_nothing_early(database: TestDatabase) {
    let storage = database.open().await;
    // Ahead by years, back at zero, then right.
    for at_ms in [NOW, NOW + 1000 * DAY_MS, 1, NOW + 1] {
        add(&storage, at_ms, 10).await;
        seal(&storage, at_ms).await;
    }
    assert_eq!(forget(&storage, NOW + 2).await, 0);
    assert_eq!(check(&storage).await.unwrap().checked, 40);
    run(&storage, "DELETE FROM audit WHERE seq = 35").await;
    check(&storage).await.unwrap_err();
    // The time that was ahead does not keep rows for years either.
    add(&storage, NOW + 2 * DAY_MS, 10).await;
    seal(&storage, NOW + 2 * DAY_MS).await;
    assert_eq!(forget(&storage, NOW + 2 * DAY_MS).await, 39);
    assert_eq!(check(&storage).await.unwrap().checked, 10);
}

async fn new_key_begins_a_marked_chain(database: TestDatabase) {
    let storage = database.open().await;
    add(&storage, NOW, 10).await;
    seal(&storage, NOW).await;
    assert_eq!(storage.begin_seal_chain(&key(), NOW).await.unwrap(), None);
    let other = SealingKey::new(&[8; 32]);
    let change = storage.begin_seal_chain(&other, NOW).await.unwrap().unwrap();
    assert_eq!(change.after_row, 10);
    assert_ne!(change.before, change.now);
    assert_eq!(storage.begin_seal_chain(&other, NOW).await.unwrap(), None);
    let last = storage.last_audit_row().await.unwrap();
    storage.seal_audit(&other, last, NOW).await.unwrap();
    let filter = AuditFilter { action: Some("audit.key_changed".into()), ..AuditFilter::default() };
    let rows = storage.audit_rows(&filter, i64::MAX, 10).await.unwrap();
    assert_eq!((rows.len(), &rows[0].object), (1, &change.now));
    let found = check_with(&storage, &other, None).await.unwrap();
    assert_eq!((found.checked, found.unproved_upto), (1, Some(10)));
    let defect = check(&storage).await.unwrap_err();
    assert!(defect.starts_with("other key"), "{defect}");
    // The new chain's own seals need its signature.
    run(&storage, "UPDATE audit_seals SET key_id = 'x' WHERE number = 2").await;
    let defect = check_with(&storage, &other, None).await.unwrap_err();
    assert!(defect.contains("the seal 2 is not signed"), "{defect}");
}

async fn changed_seal_does_not_excuse_removed_ones(database: TestDatabase) {
    let storage = database.open().await;
    for _ in 0..2 {
        add(&storage, NOW, 10).await;
        seal(&storage, NOW).await;
    }
    run(&storage, "DELETE FROM audit WHERE seq <= 20").await;
    run(&storage, "UPDATE audit_seals SET first_number = 3, chain_first = 3").await;
    run(&storage, "DELETE FROM audit_seals WHERE number = 1").await;
    add(&storage, NOW, 1).await;
    seal(&storage, NOW).await;
    let defect = check(&storage).await.unwrap_err();
    assert!(defect.contains("the seal 1 is missing"), "{defect}");
}

async fn rows_deleted_before_their_age_are_missed(database: TestDatabase) {
    let storage = database.open().await;
    add(&storage, NOW - 2 * DAY_MS, 20).await;
    seal(&storage, NOW).await;
    assert_eq!(storage.forget_audit(&(1..=20), 1000).await.unwrap(), 20);
    let defect = check(&storage).await.unwrap_err();
    assert!(defect.contains("20 of 20 rows were removed"), "{defect}");
}

async fn rows_below_the_sealed_range_are_added_ones(database: TestDatabase) {
    let storage = database.open().await;
    add(&storage, NOW - 2 * DAY_MS, 12).await;
    // Also before the first seal: no database gives these numbers.
    forge(&storage, &[0]).await;
    let defect = check(&storage).await.unwrap_err();
    assert!(defect.contains("a row has a number below the first one"), "{defect}");
    run(&storage, "DELETE FROM audit WHERE seq < 1").await;
    seal(&storage, NOW).await;
    add(&storage, NOW, 3).await;
    let found = check(&storage).await.unwrap();
    assert_eq!((found.checked, found.unsealed, found.rows()), (12, 3, 15));
    forge(&storage, &[-1, 0]).await;
    let defect = check(&storage).await.unwrap_err();
    assert!(defect.contains("2 rows have numbers below the first one"), "{defect}");
    run(&storage, "DELETE FROM audit WHERE seq < 1").await;
    // After the deletion by age, they are below the first range that is kept.
    seal(&storage, NOW).await;
    assert_eq!(forget(&storage, NOW).await, 12);
    assert_eq!(check(&storage).await.unwrap().rows(), 3);
    forge(&storage, &[1, 12]).await;
    let defect = check(&storage).await.unwrap_err();
    assert!(defect.contains("2 rows have numbers below 13"), "{defect}");
    // The deletion by age leaves them, so that they are found.
    assert_eq!(forget(&storage, NOW).await, 0);
    check(&storage).await.unwrap_err();
}

async fn deletion_that_was_stopped_is_no_defect(database: TestDatabase) {
    let storage = database.open().await;
    for _ in 0..2 {
        add(&storage, NOW - 2 * DAY_MS, 10).await;
        seal(&storage, NOW).await;
    }
    add(&storage, NOW, 5).await;
    seal(&storage, NOW).await;
    // The process ended after it had deleted some of the rows.
    let rows = storage.forget_seals(&key(), NOW - DAY_MS, NOW).await.unwrap().unwrap();
    assert_eq!(rows, 1..=20);
    assert_eq!(storage.forget_audit(&rows, 7).await.unwrap(), 7);
    let found = check(&storage).await.unwrap();
    assert_eq!((found.expired, found.checked, found.rows()), (13, 5, 18));
    // An added row is still found.
    forge(&storage, &[0]).await;
    check(&storage).await.unwrap_err();
    run(&storage, "DELETE FROM audit WHERE seq < 1").await;
    // The next one continues.
    assert_eq!(forget(&storage, NOW).await, 13);
    let found = check(&storage).await.unwrap();
    assert_eq!((found.expired, found.rows()), (0, 5));
}

async fn record_that_begins_late_is_not_complete(database: TestDatabase) {
    let storage = database.open().await;
    add(&storage, NOW, 10).await;
    seal(&storage, NOW).await;
    assert_eq!(check(&storage).await.unwrap().absent_upto, None);
    // Emptied with its seals while the relay runs, which then seals what is new.
    run(&storage, "DELETE FROM audit").await;
    run(&storage, "DELETE FROM audit_seals").await;
    assert_eq!(check(&storage).await.unwrap().head, None);
    add(&storage, NOW, 2).await;
    seal(&storage, NOW).await;
    let found = check(&storage).await.unwrap();
    // PostgreSQL may have given numbers that were never used.
    let gone = (storage.backend() == store::Backend::Sqlite).then_some(10);
    assert_eq!((found.checked, found.absent_upto), (2, gone));
}
}
