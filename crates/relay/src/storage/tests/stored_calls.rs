//! Stored calls: which change takes effect, and which changes nothing.

use super::*;
use calls::{Accepted, CallFilter, DirectClass, NewCall, Settlement, Via};

async fn accept(batch: &Batch, tenant: &Tenant, id: &str, client: &str) {
    let call = NewCall {
        id: id.to_owned(),
        tenant: tenant.id.as_str().into(),
        client_id: client.to_owned(),
        label: Some("nightly".to_owned()),
        created_ms: 1,
        method: "POST".to_owned(),
        host: "a.example".to_owned(),
        bridge: None,
        at_least_once: false,
        idempotency_key: None,
        digest: vec![0_u8; 32].into(),
        sealed: vec![0; 16],
        bytes: 16,
        expires_in: calls::ExpiresIn::Default(0),
        class: DirectClass::default(),
    };
    let written = batch.write(Write::Accept(Box::new(call))).await.unwrap();
    assert_eq!(written, Written::Accepted(Accepted::Stored));
}

fn via(bridge: &str, instance: u8) -> Via {
    Via {
        bridge: bridge.into(),
        instance: vec![instance; 16],
    }
}

async fn begin(batch: &Batch, id: &str, attempt: u32, via: &Via) -> Written {
    let write = Write::Begin {
        id: id.into(),
        attempt,
        via: via.clone(),
        now_ms: 1,
    };
    batch.write(write).await.unwrap()
}

fn end(tenant: &Tenant, id: &str, attempt: u32, via: &Via, state: CallState) -> Settlement {
    Settlement {
        id: id.into(),
        tenant: tenant.id.as_str().into(),
        label: None,
        host: "a.example".to_owned(),
        bytes_up: 0,
        attempt,
        via: via.clone(),
        bridge_name: "b".to_owned(),
        state,
        due_ms: 5,
        now_ms: 1,
        step: 0,
        began_ms: 2,
        took_ms: 1,
        status: None,
        code: Some(Code::TunnelLost),
        execution: Execution::PossiblyExecuted,
        detail: String::new(),
        journal_reached: None,
        is_misrouted: false,
    }
}

async fn settle(batch: &Batch, end: Settlement) -> Written {
    batch.write(Write::Settle(Box::new(end))).await.unwrap()
}

on_both! {
async fn repeated_begin_of_an_attempt_changes_nothing(database: TestDatabase) {
    let storage = database.open().await;
    let tenant = storage.create_tenant("acme").await.unwrap();
    let batch = batch(&storage).await;
    accept(&batch, &tenant, "call_1", "client").await;
    let own = via("b", 1);
    // The first commit may have had an unknown outcome: its repeat reports success.
    for _ in 0..2 {
        assert_eq!(begin(&batch, "call_1", 1, &own).await, Written::Changed(true));
    }
    assert_eq!(begin(&batch, "call_1", 1, &via("b", 2)).await, Written::Changed(false));
    assert_eq!(begin(&batch, "call_1", 2, &own).await, Written::Changed(false));
    assert!(storage.is_attempting("call_1", 1, &own).await.unwrap());
    assert!(!storage.is_attempting("call_1", 2, &own).await.unwrap());
    let ended = end(&tenant, "call_1", 1, &own, CallState::Succeeded);
    assert_eq!(settle(&batch, ended).await, Written::Settled(Some(CallState::Succeeded)));
    assert_eq!(begin(&batch, "call_1", 1, &own).await, Written::Changed(false));
    assert!(!storage.is_attempting("call_1", 1, &own).await.unwrap());
}

async fn attempt_is_settled_by_its_installation_only(database: TestDatabase) {
    let storage = database.open().await;
    let tenant = storage.create_tenant("acme").await.unwrap();
    let other = storage.create_tenant("other").await.unwrap();
    let batch = batch(&storage).await;
    accept(&batch, &tenant, "call_1", "client").await;
    let own = via("b", 1);
    begin(&batch, "call_1", 1, &own).await;
    for wrong in [
        end(&other, "call_1", 1, &own, CallState::Succeeded),
        end(&tenant, "call_1", 1, &via("c", 1), CallState::Succeeded),
        end(&tenant, "call_1", 1, &via("b", 2), CallState::Succeeded),
        end(&tenant, "call_1", 2, &own, CallState::Succeeded),
        end(&tenant, "call_2", 1, &own, CallState::Succeeded),
    ] {
        assert_eq!(settle(&batch, wrong.clone()).await, Written::Settled(None), "{wrong:?}");
    }
    assert!(storage.is_attempting("call_1", 1, &own).await.unwrap());
}

async fn class_of_a_call_follows_the_patterns(database: TestDatabase) {
    let storage = database.open().await;
    let tenant = storage.create_tenant("acme").await.unwrap();
    let batch = batch(&storage).await;
    let id = tenant.id.as_str();
    accept(&batch, &tenant, "call_1", "client").await;
    let stale = || async { storage.calls_of_other_patterns(id, 7, 10).await.unwrap() };
    assert_eq!(stale().await.len(), 1);
    let direct = DirectClass { is_direct: true, mark: 7 };
    storage.classify_calls(&[("call_1".into(), direct)]).await.unwrap();
    assert_eq!(stale().await.len(), 0);
    let groups = storage.call_groups(id, CallState::Pending).await.unwrap();
    assert_eq!(groups.len(), 1);
    assert_eq!(groups[0].class, direct);
    // The relay finds that it cannot call the URL directly.
    let direct_via = Via { bridge: "".into(), instance: id.as_bytes().to_vec() };
    begin(&batch, "call_1", 1, &direct_via).await;
    let misrouted = Settlement {
        is_misrouted: true,
        execution: Execution::NotDispatched,
        ..end(&tenant, "call_1", 1, &direct_via, CallState::Pending)
    };
    assert_eq!(settle(&batch, misrouted).await, Written::Settled(Some(CallState::Pending)));
    let groups = storage.call_groups(id, CallState::Pending).await.unwrap();
    assert_eq!(groups[0].class, DirectClass { is_direct: false, mark: 7 });
    assert_eq!(stale().await.len(), 0);
    // Its group is parked and unparked.
    assert_eq!(storage.park(id, &groups[0], 10, 10).await.unwrap(), 1);
    assert_eq!(storage.unpark(id, &groups[0], 10, 10).await.unwrap(), 1);
    // After a redelivery it is tried directly again.
    let filter = CallFilter::default();
    let cancelled = storage.cancel_calls(id, None, &filter, 10, 10).await.unwrap();
    assert_eq!(cancelled, (1, 0));
    assert!(storage.redeliver_call(id, "call_1", 20).await.unwrap());
    let due = storage.due_calls(id, 30, 10).await.unwrap();
    assert_eq!(due[0].class, direct);
}

async fn redelivered_call_has_no_result_yet(database: TestDatabase) {
    let storage = database.open().await;
    let tenant = storage.create_tenant("acme").await.unwrap();
    let id = tenant.id.as_str();
    let batch = batch(&storage).await;
    for call in ["call_1", "call_2"] {
        accept(&batch, &tenant, call, "client").await;
        begin(&batch, call, 1, &via("brg_1", 1)).await;
        let failed = Settlement {
            status: Some(500),
            detail: "the target responded with 500".to_owned(),
            ..end(&tenant, call, 1, &via("brg_1", 1), CallState::Failed)
        };
        settle(&batch, failed).await;
        let shown = storage.call(id, call).await.unwrap();
        assert_eq!(shown.label.as_deref(), Some("nightly"));
        assert_eq!(shown.status, Some(500));
        assert!(shown.code.is_some() && shown.detail.is_some());
    }
    assert!(storage.redeliver_call(id, "call_1", 20).await.unwrap());
    let filter = CallFilter::default();
    assert_eq!(storage.redeliver_calls(id, &filter, 20, 10).await.unwrap(), 1);
    for call in ["call_1", "call_2"] {
        let shown = storage.call(id, call).await.unwrap();
        assert_eq!(shown.state, CallState::Pending);
        assert_eq!((shown.status, shown.code, shown.execution, shown.detail), (None, None, None, None));
        // The attempts stay.
        assert_eq!(storage.call_attempts(id, call).await.unwrap().len(), 1);
    }
    let labelled = |label: &str| CallFilter {
        label: Some(label.to_owned()),
        ..CallFilter::default()
    };
    let found = storage.calls(id, &labelled("nightly"), i64::MAX, 10).await;
    assert_eq!(found.unwrap().len(), 2);
    assert!(storage.calls(id, &labelled("daily"), i64::MAX, 10).await.unwrap().is_empty());
}

async fn lost_journal_is_reported_until_recorded(database: TestDatabase) {
    let storage = database.open().await;
    let tenant = storage.create_tenant("acme").await.unwrap();
    let (id, own) = (tenant.id.as_str(), via("b", 1));
    assert!(storage.journal_holds(&own, &[1; 16], 4).await.unwrap());
    assert!(storage.journal_seen(id, &own, &[1; 16], 4, 1).await.unwrap());
    for _ in 0..2 {
        // The check changes nothing, so a repeat returns the same.
        assert!(!storage.journal_holds(&own, &[2; 16], 9).await.unwrap());
        assert!(!storage.journal_holds(&own, &[1; 16], 3).await.unwrap());
        assert!(storage.journal_holds(&own, &[1; 16], 4).await.unwrap());
    }
    storage.journal_seen(id, &own, &[2; 16], 9, 1).await.unwrap();
    assert!(storage.journal_holds(&own, &[2; 16], 9).await.unwrap());
}

async fn refused_and_unknown_calls_are_dead_letters(database: TestDatabase) {
    let storage = database.open().await;
    let batch = batch(&storage).await;
    let mut expected = Vec::new();
    for (name, client, state) in [
        ("failed", "client", CallState::Failed),
        ("refused", "client", CallState::Refused),
        ("unknown", "client", CallState::OutcomeUnknown),
        ("succeeded", "client", CallState::Succeeded),
        ("cancelled", "client", CallState::Cancelled),
        // The webhook of a notice.
        ("notice", "relay", CallState::Failed),
    ] {
        let tenant = storage.create_tenant(name).await.unwrap();
        let id = format!("call_{name}");
        accept(&batch, &tenant, &id, client).await;
        begin(&batch, &id, 1, &via("b", 1)).await;
        let ended = end(&tenant, &id, 1, &via("b", 1), state);
        assert_eq!(settle(&batch, ended).await, Written::Settled(Some(state)));
        if ["failed", "refused", "unknown"].contains(&name) {
            expected.push(tenant.id.as_str().to_owned());
        }
    }
    let causes = storage.dead_letters().await.unwrap();
    let mut found: Vec<String> = causes.iter().map(|cause| cause.tenant.to_string()).collect();
    found.sort_unstable();
    expected.sort_unstable();
    assert_eq!(found, expected);
}
}
