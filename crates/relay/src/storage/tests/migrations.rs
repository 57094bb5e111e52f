//! Migrations that a start interrupted.

use super::*;

#[tokio::test]
async fn incomplete_index_is_built_again() {
    let database = TestDatabase::Server(PostgresDatabase::create());
    let storage = database.open().await;
    let run = async |statement: &'static str| {
        sqlx::query(statement)
            .execute(storage.pool())
            .await
            .unwrap();
    };
    // As if the process had ended while it built the index.
    run("DELETE FROM _sqlx_migrations WHERE version >= 10").await;
    run("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'audit_by_object'::regclass")
        .await;
    // Two processes at once: one waits for the other.
    let (first, second) = tokio::join!(database.open(), database.open());
    for storage in [first, second] {
        let row = sqlx::query(
            "SELECT COUNT(*) AS valid FROM pg_index
             WHERE indexrelid = 'audit_by_object'::regclass AND indisvalid",
        )
        .fetch_one(storage.pool())
        .await
        .unwrap();
        let valid: i64 = row.try_get("valid").unwrap();
        assert_eq!(valid, 1);
    }
}

#[test]
fn every_migration_is_compiled_in() {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations");
    for (database, files) in [
        ("sqlite", MIGRATIONS.sqlite),
        ("postgres", MIGRATIONS.postgres),
    ] {
        let found = std::fs::read_dir(directory.join(database)).unwrap();
        let mut found: Vec<_> = found
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        found.sort();
        let compiled = files.iter().map(|file| format!("{}.sql", file.name));
        assert_eq!(found, compiled.collect::<Vec<_>>());
    }
}
