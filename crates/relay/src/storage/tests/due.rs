//! When calls are due and when they expire, by a clock that the test sets.

use super::*;
use calls::CallFilter;
use tenants::TenantChange;

const HOUR_MS: i64 = 3_600_000;
const NOW: i64 = 1_800_000_000_000;

async fn state_of(storage: &Storage, tenant: &str, id: &str) -> CallState {
    storage.call(tenant, id).await.unwrap().state
}

/// Returns a change that stores a call at [`NOW`].
fn call_now(tenant: &str, id: &str, expires_in: calls::ExpiresIn) -> Write {
    Write::Accept(Box::new(calls::NewCall {
        created_ms: NOW,
        expires_in,
        ..call(tenant, id)
    }))
}

on_both! {
/// The clock was an hour ahead when the retry was scheduled: it still comes after its five seconds.
async fn retry_times_survive_a_clock_that_steps_back(database: TestDatabase) {
    let storage = database.open().await;
    let tenant = storage.create_tenant("acme").await.unwrap();
    let tenant = tenant.id.as_str();
    let batch = batch(&storage).await;
    for id in ["ahead", "right"] {
        let accept = call_now(tenant, id, calls::ExpiresIn::Default(0));
        batch.write(accept).await.unwrap();
        batch.write(begin(id, NOW)).await.unwrap();
    }
    let ahead = settlement(tenant, "ahead", CallState::Pending, NOW + HOUR_MS, 5_000);
    batch.write(ahead).await.unwrap();
    let right = settlement(tenant, "right", CallState::Pending, NOW, 300_000);
    batch.write(right).await.unwrap();
    assert_eq!(storage.correct_due_times(NOW).await.unwrap(), 1);
    assert_eq!(storage.next_due_of(tenant).await.unwrap(), Some(NOW + 5_000));
    let due = storage.due_calls(tenant, NOW + 5_000, 10).await.unwrap();
    assert_eq!(due.len(), 1);
    assert_eq!(&*due[0].id, "ahead");
    // The correction happens once, and a clock that goes on changes nothing.
    assert_eq!(storage.correct_due_times(NOW + HOUR_MS).await.unwrap(), 0);
    assert_eq!(storage.next_due_of(tenant).await.unwrap(), Some(NOW + 5_000));
}

/// The rest of a retry's delay is as long as it was scheduled, whatever the clock shows then.
async fn parked_calls_survive_a_clock_that_steps_back(database: TestDatabase) {
    let storage = database.open().await;
    let tenant = storage.create_tenant("acme").await.unwrap();
    let tenant = tenant.id.as_str();
    let batch = batch(&storage).await;
    batch.write(call_now(tenant, "c", calls::ExpiresIn::Default(0))).await.unwrap();
    batch.write(begin("c", NOW)).await.unwrap();
    let retry = settlement(tenant, "c", CallState::Pending, NOW + HOUR_MS, 5_000);
    batch.write(retry).await.unwrap();
    let group = calls::Group {
        host: "a.example".to_owned(),
        bridge: None,
        class: calls::DirectClass::default(),
    };
    assert_eq!(storage.park(tenant, &group, NOW, 10).await.unwrap(), 1);
    assert_eq!(storage.unpark(tenant, &group, NOW + 60_000, 10).await.unwrap(), 1);
    assert_eq!(storage.next_due_of(tenant).await.unwrap(), Some(NOW + 65_000));
}

async fn calls_expire_by_own_tenant_and_relay_default(database: TestDatabase) {
    let storage = database.open().await;
    let tenants = [("own", None), ("of_tenant", Some(7_200)), ("of_relay", None), ("never", Some(0))];
    let batch = batch(&storage).await;
    for (name, expires_in) in tenants {
        let tenant = storage.create_tenant(name).await.unwrap();
        let change = TenantChange { expires_in: Some(expires_in), ..TenantChange::default() };
        let changed = storage.change_tenant(name, &change, None).await.unwrap();
        assert_eq!(changed.expires_in, expires_in);
        let expires_in = match name {
            "own" => calls::ExpiresIn::Own(HOUR_MS),
            _ => calls::ExpiresIn::Default(3 * HOUR_MS),
        };
        batch.write(call_now(tenant.id.as_str(), name, expires_in)).await.unwrap();
    }
    for (hours, expected) in [(0, None), (1, Some("own")), (2, Some("of_tenant")), (3, Some("of_relay")), (9_999, None)] {
        let at = NOW + hours * HOUR_MS;
        assert!(storage.expire_calls(at - 1, 10).await.unwrap().is_empty(), "{hours}");
        let expired = storage.expire_calls(at, 10).await.unwrap();
        let ids: Vec<&str> = expired.iter().map(|call| call.id.as_str()).collect();
        assert_eq!(ids, Vec::from_iter(expected), "{hours}");
        for call in &expired {
            assert_eq!(call.execution, "not_sent");
            let shown = storage.call(&call.tenant, &call.id).await.unwrap();
            assert_eq!((shown.state, shown.finished_ms), (CallState::Expired, Some(at)));
            assert_eq!(shown.code.as_deref(), Some("timeout"));
        }
    }
    let letters = storage.dead_letters().await.unwrap();
    assert_eq!(letters.len(), 3);
}

/// Waiting for a bridge does not stop this clock; an attempt that runs is waited for; and no attempt
/// begins after the end.
async fn expired_call_is_not_attempted(database: TestDatabase) {
    let storage = database.open().await;
    let tenant = storage.create_tenant("acme").await.unwrap();
    let tenant = tenant.id.as_str();
    let batch = batch(&storage).await;
    for id in ["waiting", "running", "late"] {
        batch.write(call_now(tenant, id, calls::ExpiresIn::Own(1_000))).await.unwrap();
    }
    batch.write(begin("running", NOW + 999)).await.unwrap();
    let park = Write::Park { id: "waiting".into(), left_ms: 500 };
    batch.write(park).await.unwrap();
    let late = batch.write(begin("late", NOW + 1_000)).await.unwrap();
    assert_eq!(late, Written::Changed(false));
    assert!(storage.due_calls(tenant, NOW + 1_000, 10).await.unwrap().is_empty());
    let mut expired: Vec<_> = storage.expire_calls(NOW + 1_000, 10).await.unwrap();
    expired.sort_by(|a, b| a.id.cmp(&b.id));
    let ids: Vec<&str> = expired.iter().map(|call| call.id.as_str()).collect();
    assert_eq!(ids, ["late", "waiting"]);
    assert_eq!(state_of(&storage, tenant, "running").await, CallState::Attempting);
    // Its attempt fails, and no other follows.
    let again = settlement(tenant, "running", CallState::Pending, NOW + 2_000, 0);
    batch.write(again).await.unwrap();
    let expired = storage.expire_calls(NOW + 2_000, 10).await.unwrap();
    assert_eq!((expired[0].attempts, expired[0].execution.as_str()), (1, "executed"));
    // Redelivered, it has its whole time to live again.
    assert!(storage.redeliver_call(tenant, "late", NOW + 5_000).await.unwrap());
    assert!(storage.expire_calls(NOW + 5_999, 10).await.unwrap().is_empty());
    let begun = batch.write(begin("late", NOW + 5_999)).await.unwrap();
    assert_eq!(begun, Written::Changed(true));
    let all = storage.redeliver_calls(tenant, &CallFilter::default(), NOW + 9_000, 10).await;
    assert_eq!(all.unwrap(), 2);
    assert_eq!(storage.forget_calls(NOW + 9_000, 10).await.unwrap(), 0);
}

/// A begin with an unknown outcome may be repeated; that of another installation is rejected.
async fn begin_is_repeatable_by_its_installation(database: TestDatabase) {
    let storage = database.open().await;
    let tenant = storage.create_tenant("acme").await.unwrap();
    let batch = batch(&storage).await;
    let accept = call_now(tenant.id.as_str(), "c", calls::ExpiresIn::Default(0));
    batch.write(accept).await.unwrap();
    for _ in 0..2 {
        let begun = batch.write(begin("c", NOW)).await.unwrap();
        assert_eq!(begun, Written::Changed(true));
    }
    let other = Write::Begin {
        id: "c".into(),
        attempt: 1,
        via: calls::Via { bridge: "brg_2".into(), instance: vec![7; 16] },
        now_ms: NOW,
    };
    assert_eq!(batch.write(other).await.unwrap(), Written::Changed(false));
}
}
