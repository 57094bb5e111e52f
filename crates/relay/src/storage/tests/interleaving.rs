//! Two concurrent changes of one call, on PostgreSQL: the second waits for the row, and then must see the result of the
//! first.

use super::*;
use calls::CallFilter;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use std::collections::HashMap;

/// The time of all changes, in milliseconds since 1970. The calls are due, and those that expire have expired.
const NOW: i64 = 1_800_000_000_000;

/// The change that waits for the row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Second {
    Begin,
    SettleAgain,
    SettleSucceeded,
    ParkOne,
    ParkGroup,
    Unpark,
    Refuse,
    Expire,
    Forget,
    CancelOne,
    CancelAll,
    CancelPending,
    RedeliverOne,
    RedeliverAll,
    RedeliverFailed,
}

use CallState as S;
use Second as B;

const WAITING: &[S] = &[S::Pending, S::WaitingForBridge];
const FINAL: &[S] = &[
    S::Succeeded,
    S::Failed,
    S::Refused,
    S::OutcomeUnknown,
    S::Cancelled,
    S::Expired,
];

impl Second {
    const ALL: [Self; 15] = [
        B::Begin,
        B::SettleAgain,
        B::SettleSucceeded,
        B::ParkOne,
        B::ParkGroup,
        B::Unpark,
        B::Refuse,
        B::Expire,
        B::Forget,
        B::CancelOne,
        B::CancelAll,
        B::CancelPending,
        B::RedeliverOne,
        B::RedeliverAll,
        B::RedeliverFailed,
    ];

    /// Returns the states that it may leave.
    fn from(self) -> &'static [S] {
        match self {
            B::Begin | B::Refuse | B::Expire => WAITING,
            B::SettleAgain | B::SettleSucceeded => &[S::Attempting],
            B::ParkOne | B::ParkGroup | B::CancelPending => &[S::Pending],
            B::Unpark => &[S::WaitingForBridge],
            B::CancelOne | B::CancelAll => &[S::Pending, S::WaitingForBridge, S::Attempting],
            B::Forget | B::RedeliverOne => FINAL,
            B::RedeliverAll => &FINAL[1..],
            B::RedeliverFailed => &[S::Failed],
        }
    }

    /// Returns the state that follows; `None`: the row is deleted.
    fn to(self, from: S) -> Option<S> {
        Some(match self {
            B::Begin => S::Attempting,
            B::SettleSucceeded => S::Succeeded,
            B::ParkOne | B::ParkGroup => S::WaitingForBridge,
            B::Refuse => S::Refused,
            B::Expire => S::Expired,
            B::CancelOne | B::CancelAll | B::CancelPending if from == S::Attempting => from,
            B::CancelOne | B::CancelAll | B::CancelPending => S::Cancelled,
            B::SettleAgain | B::Unpark | B::RedeliverOne | B::RedeliverAll | B::RedeliverFailed => {
                S::Pending
            }
            B::Forget => return None,
        })
    }

    async fn run(self, storage: Storage, batch: Batch, tenant: String, id: String) {
        let one = Some(&*id);
        let group = calls::Group {
            host: "a.example".to_owned(),
            bridge: None,
            class: calls::DirectClass::default(),
        };
        let with = |state| CallFilter {
            state,
            ..CallFilter::default()
        };
        let write = match self {
            B::Begin => begin(&id, NOW - 10_000),
            B::SettleAgain => settlement(&tenant, &id, S::Pending, NOW, 0),
            B::SettleSucceeded => settlement(&tenant, &id, S::Succeeded, NOW, 0),
            B::ParkOne => Write::Park {
                id: (&*id).into(),
                left_ms: 0,
            },
            B::Refuse => Write::Drop {
                id: (&*id).into(),
                state: S::Refused,
                code: Code::RefusedByPolicy,
                detail: String::new(),
                now_ms: NOW,
            },
            B::ParkGroup => {
                return storage
                    .park(&tenant, &group, NOW, 10)
                    .await
                    .map(drop)
                    .unwrap();
            }
            B::Unpark => {
                return storage
                    .unpark(&tenant, &group, NOW, 10)
                    .await
                    .map(drop)
                    .unwrap();
            }
            B::Expire => return storage.expire_calls(NOW, 10).await.map(drop).unwrap(),
            B::Forget => return storage.forget_calls(NOW, 10).await.map(drop).unwrap(),
            B::CancelOne | B::CancelAll | B::CancelPending => {
                let id = one.filter(|_| self == B::CancelOne);
                let filter = with((self == B::CancelPending).then_some(S::Pending));
                let done = storage.cancel_calls(&tenant, id, &filter, NOW, 10).await;
                return done.map(drop).unwrap();
            }
            B::RedeliverOne => {
                let done = storage.redeliver_call(&tenant, &id, NOW).await;
                return done.map(drop).unwrap();
            }
            B::RedeliverAll | B::RedeliverFailed => {
                let filter = with((self == B::RedeliverFailed).then_some(S::Failed));
                let done = storage.redeliver_calls(&tenant, &filter, NOW, 10).await;
                return done.map(drop).unwrap();
            }
        };
        batch.write(write).await.unwrap();
    }
}

/// Returns the columns of a row in a state.
fn columns(state: S) -> String {
    let (via, finished) = match state {
        S::Attempting => (
            "'brg_1', decode(repeat('07', 16), 'hex'), 1",
            "NULL".to_owned(),
        ),
        _ if state.is_final() => ("NULL, NULL, 0", (NOW - 1).to_string()),
        _ => ("NULL, NULL, 0", "NULL".to_owned()),
    };
    format!(
        "(state, via_bridge, via_instance, attempt, finished_ms, cancelled, due_ms, expires_ms)
         = ('{state}', {via}, {finished}, 0, {NOW} - 5, {NOW} - 1)"
    )
}

async fn set(connection: &mut PgConnection, id: &str, state: S) {
    let text = format!("UPDATE calls SET {} WHERE id = '{id}'", columns(state));
    let done = sqlx::query(AssertSqlSafe(text)).execute(connection).await;
    assert_eq!(done.unwrap().rows_affected(), 1);
}

async fn wait_for_a_blocked_transaction(look: &mut PgConnection) {
    let began = Instant::now();
    loop {
        let waiting: i64 = sqlx::query_scalar(
            "SELECT COUNT(*) FROM pg_stat_activity
             WHERE datname = current_database() AND wait_event_type = 'Lock'",
        )
        .fetch_one(&mut *look)
        .await
        .unwrap();
        if waiting > 0 {
            return;
        }
        assert!(
            began.elapsed() < TIMEOUT,
            "no transaction waits for the row"
        );
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Every change against every state that a concurrent change may set.
#[tokio::test]
async fn blocked_change_sees_the_first_change() {
    let database = PostgresDatabase::create();
    let storage = Storage::open(&database_at(database.url())).await.unwrap();
    let tenant = storage.create_tenant("acme").await.unwrap().id.to_string();
    let batch = batch(&storage).await;
    let mut first = PgConnection::connect(database.url()).await.unwrap();
    let mut look = PgConnection::connect(database.url()).await.unwrap();
    let mut wrong = Vec::new();
    let mut count = 0;
    for second in Second::ALL {
        for before in second.from() {
            for meanwhile in S::ALL {
                let id = format!("c{count}");
                count += 1;
                let accept = Write::Accept(Box::new(call(&tenant, &id)));
                batch.write(accept).await.unwrap();
                set(&mut look, &id, *before).await;
                sqlx::query("BEGIN").execute(&mut first).await.unwrap();
                set(&mut first, &id, meanwhile).await;
                let running =
                    second.run(storage.clone(), batch.clone(), tenant.clone(), id.clone());
                let running = tokio::spawn(running);
                wait_for_a_blocked_transaction(&mut look).await;
                sqlx::query("COMMIT").execute(&mut first).await.unwrap();
                running.await.unwrap();
                let found = storage.call(&tenant, &id).await.ok();
                let found = found.map(|call| call.state);
                let may = second.from().contains(&meanwhile);
                let expected = match may {
                    true => second.to(meanwhile),
                    false => Some(meanwhile),
                };
                if meanwhile == S::Attempting && matches!(second, B::CancelOne | B::CancelAll) {
                    let stored = storage.stored_call(&id).await.unwrap().unwrap();
                    assert!(stored.is_cancelled, "{second:?}: {before}");
                }
                if found != expected {
                    wrong.push(format!(
                        "{second:?}: {before} -> {meanwhile} meanwhile: {found:?}, not {expected:?}"
                    ));
                }
                let gone = sqlx::query("DELETE FROM calls WHERE id = $1").bind(&id);
                gone.execute(&mut look).await.unwrap();
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {count}:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

/// Nothing is stored for a tenant that is being deleted.
#[tokio::test]
async fn deleted_tenant_gets_nothing_stored() {
    let database = PostgresDatabase::create();
    let storage = Storage::open(&database_at(database.url())).await.unwrap();
    let batch = batch(&storage).await;
    let mut first = PgConnection::connect(database.url()).await.unwrap();
    let mut look = PgConnection::connect(database.url()).await.unwrap();
    type Storing = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;
    type Store = fn(Storage, Batch, String) -> Storing;
    let stores: HashMap<&str, Store> = HashMap::from([
        (
            "calls",
            (|_, batch, tenant| {
                Box::pin(async move {
                    let accept = Write::Accept(Box::new(call(&tenant, &format!("call {tenant}"))));
                    let written = batch.write(accept).await.unwrap();
                    assert_eq!(written, Written::Accepted(calls::Accepted::NoTenant));
                })
            }) as Store,
        ),
        ("tenant_keys", |storage, _, tenant| {
            Box::pin(async move {
                storage.tenant_key(&tenant, b"key").await.unwrap_err();
            })
        }),
        ("signing_secrets", |storage, _, tenant| {
            Box::pin(async move {
                let secret = secrets::SealedSecret {
                    id: "sec_1".to_owned(),
                    sealed: vec![1],
                    created: 1,
                    expires: None,
                };
                let added = storage.add_signing_secret(&tenant, &secret, 1, true).await;
                assert!(!added.unwrap());
            })
        }),
        ("journals", |storage, _, tenant| {
            Box::pin(async move {
                storage
                    .journal_seen(&tenant, &via(), &[1], 1, NOW)
                    .await
                    .unwrap();
            })
        }),
        ("services", |storage, _, tenant| {
            Box::pin(async move {
                let service = bridges::Service {
                    tenant: tenant.into(),
                    name: "synchronizer".to_owned(),
                    version: "1".to_owned(),
                    seen: 1,
                };
                storage.service_seen(&service).await.unwrap_err();
            })
        }),
        ("notices", |storage, _, tenant| {
            Box::pin(async move {
                let cause = notices::Cause {
                    tenant: tenant.into(),
                    object: "calls".to_owned(),
                    detail: String::new(),
                };
                let raised = storage.settle_notices("dead_letters", &[cause]).await;
                assert!(raised.unwrap().is_empty());
            })
        }),
    ]);
    for (table, store) in stores {
        let tenant = storage.create_tenant(table).await.unwrap().id.to_string();
        sqlx::query("BEGIN").execute(&mut first).await.unwrap();
        sqlx::query("UPDATE tenants SET state = 'deleted', name = id WHERE id = $1")
            .bind(&tenant)
            .execute(&mut first)
            .await
            .unwrap();
        let storing = tokio::spawn(store(storage.clone(), batch.clone(), tenant.clone()));
        wait_for_a_blocked_transaction(&mut look).await;
        sqlx::query("COMMIT").execute(&mut first).await.unwrap();
        storing.await.unwrap();
        let text = format!("SELECT COUNT(*) FROM {table} WHERE tenant_id = $1");
        let rows: i64 = sqlx::query_scalar(AssertSqlSafe(text))
            .bind(&tenant)
            .fetch_one(&mut look)
            .await
            .unwrap();
        assert_eq!(rows, 0, "{table}");
    }
}
