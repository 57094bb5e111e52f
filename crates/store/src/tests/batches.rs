//! Group commit: what shares a commit, and what fails by itself.

use super::*;
use crate::WriteError;

on_both! {
async fn concurrent_changes_share_commits(database: TestDatabase) {
    let store = database.open().await;
    let batch = batch(&store).await;
    let changes = (0..64).map(|number| Insert::new(&format!("i{number:02}"))).collect();
    for outcome in batch.write_all(changes).await {
        assert!(outcome.unwrap());
    }
    let (commits, changes) = batch.counts();
    assert_eq!(changes, 64);
    assert!(commits < 64, "{commits} commits");
    assert_eq!(items(&store).await.len(), 64);
}

/// A constraint rejects one change of a batch; the others are committed without it.
async fn failed_change_fails_alone(database: TestDatabase) {
    let store = database.open().await;
    let guard = match store.backend() {
        crate::Backend::Sqlite => "CREATE TRIGGER guard BEFORE INSERT ON items WHEN NEW.id = 'bad'
                                   BEGIN SELECT RAISE(ABORT, 'bad'); END",
        crate::Backend::Postgres => "ALTER TABLE items ADD CONSTRAINT guard CHECK (id <> 'bad')",
    };
    sqlx::raw_sql(guard).execute(store.pool()).await.unwrap();
    let batch = batch(&store).await;
    let changes = ["a", "bad", "b"].map(Insert::new).to_vec();
    let outcomes = batch.write_all(changes).await;
    assert!(matches!(outcomes[0], Ok(true)));
    let Err(WriteError::Store(StoreError::Database(_))) = outcomes[1] else {
        panic!("{:?}", outcomes[1]);
    };
    assert!(matches!(outcomes[2], Ok(true)));
    assert_eq!(items(&store).await, ["a", "b"]);
}

async fn batch_marks_the_database_as_changed(database: TestDatabase) {
    let store = database.open().await;
    let batch = batch(&store).await;
    assert!(!store.take_changed());
    insert(&batch, "a").await.unwrap();
    store.wait_changed().await;
    assert!(store.take_changed());
    assert!(!store.take_changed());
}
}

/// Allows each connection of the pool this many pages.
async fn allow_pages(store: &Store, pages: u32) {
    let mut held = Vec::new();
    for _ in 0..4 {
        let mut connection = store.pool().acquire().await.unwrap();
        let limit = format!("PRAGMA max_page_count = {pages}");
        let _: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(limit))
            .fetch_one(&mut connection)
            .await
            .unwrap();
        held.push(connection);
    }
}

/// Accepted changes stay, the rejected one does not, and more room lets writers go on.
#[tokio::test]
async fn full_database_is_unavailable_until_it_has_room() {
    let database = TestDatabase::sqlite("full_database");
    let store = database.open().await;
    let batch = batch(&store).await;
    allow_pages(&store, 256).await;
    let mut expected = Vec::new();
    let error = loop {
        let id = format!("i{:03}", expected.len());
        match insert(&batch, &id).await {
            Ok(is_new) => assert!(is_new),
            Err(error) => break error,
        }
        expected.push(id);
        assert!(expected.len() < 256, "a mebibyte holds 256 such rows");
    };
    assert!(is_unavailable(&error), "{error:?}");
    assert!(!expected.is_empty());
    assert_eq!(items(&store).await, expected);
    allow_pages(&store, 1 << 20).await;
    assert!(insert(&batch, "later").await.unwrap());
    assert_eq!(items(&store).await.len(), expected.len() + 1);
}
