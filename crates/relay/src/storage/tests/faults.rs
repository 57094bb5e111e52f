//! A COMMIT whose response is lost, for each kind of change. The faults themselves are tested in `store`.

use super::*;
use calls::Accepted;
use sqlx::Row as _;
use support::{CommitProxy, Cut};

fn is_unavailable(error: &StorageError) -> bool {
    matches!(error, StorageError::Store(StoreError::Unavailable(_)))
}

async fn accept(batch: &Batch, tenant: &str, id: &str) -> Result<Written, StorageError> {
    let mut new = call(tenant, id);
    new.sealed = vec![0; 20_000];
    match batch.write(Write::Accept(Box::new(new))).await {
        Ok(written) => Ok(written),
        Err(WriteError::Store(error)) => Err(error.into()),
        Err(other) => panic!("{other}"),
    }
}

async fn stored(storage: &Storage) -> Vec<String> {
    let rows = sqlx::query("SELECT id FROM calls ORDER BY id")
        .fetch_all(storage.pool())
        .await
        .unwrap();
    rows.iter().map(|row| row.get("id")).collect()
}

async fn through_a_proxy() -> (PostgresDatabase, CommitProxy, Storage) {
    let database = PostgresDatabase::create();
    let (proxy, url) = CommitProxy::start(database.url()).await;
    let storage = Storage::open(&database_at(&url)).await.unwrap();
    (database, proxy, storage)
}

/// `not_sent` is reported only for changes that are not stored, and success only for those that are.
#[tokio::test]
async fn lost_commit_of_each_change_is_looked_up() {
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

#[test]
fn unknown_outcome_is_possibly_executed() {
    let error = || Arc::new(sqlx::Error::PoolClosed);
    for (error, execution) in [
        (
            StoreError::OutcomeUnknown(error()),
            Execution::PossiblyExecuted,
        ),
        (StoreError::Unavailable(error()), Execution::NotSent),
        (StoreError::Database(error()), Execution::NotSent),
        (StoreError::LeaseLost, Execution::NotSent),
    ] {
        let failure = Failure::from(StorageError::from(error.clone()));
        assert_eq!(failure.execution, execution, "{error:?}");
    }
}
