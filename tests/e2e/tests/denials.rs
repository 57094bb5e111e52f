//! Denied requests and administrative actions leave an audit row, a log line and a metric.

use serde_json::{Value, json};
use support::setup::Builder;
use support::{ApiKey, Ask, TIMEOUT, TestEnv, eventually};

/// An environment whose relay writes its sums soon.
fn auditing() -> Builder {
    TestEnv::builder().relay(|relay| relay.set("audit.sums_every", "200ms"))
}

/// Waits until the rows of an action with this result add up to `count`.
async fn rows(world: &TestEnv, key: &ApiKey, action: &str, result: &str, count: i64) -> Vec<Value> {
    let what = format!("{count} of {action} {result}");
    eventually(TIMEOUT, &what, async || {
        let path = format!("/v1/audit?limit=1000&action={action}");
        let page = world.get(path, key).await;
        let mut rows = page["audit"].as_array()?.clone();
        rows.retain(|row| row["result"] == result);
        let sum: i64 = rows.iter().filter_map(|row| row["count"].as_i64()).sum();
        (sum >= count).then_some(rows)
    })
    .await
}

#[tokio::test]
async fn denied_requests_leave_rows_lines_and_counters() {
    let world = auditing()
        .relay(|relay| relay.set("limits.auth_failures_per_minute", 5))
        .start()
        .await;
    let site = world.site_admin().await;
    let send = async |ask: Ask| world.api.send(ask).await.status.as_u16();
    let path = world.endpoint("/small");
    // Another role; another endpoint.
    assert_eq!(send(Ask::get("/v1/keys").key(&world.caller)).await, 403);
    let narrowed = world.key("caller", &["--endpoint", "other"]).await;
    assert_eq!(send(Ask::get(path.clone()).key(&narrowed)).await, 403);
    // No key, a wrong secret of a known key, and unknown ones until there are too many.
    assert_eq!(send(Ask::get(path.clone())).await, 401);
    let wrong = ApiKey::new(world.caller.client_id.clone(), "ibs_wrong");
    assert_eq!(send(Ask::get(path.clone()).key(&wrong)).await, 401);
    let mut statuses = Vec::new();
    for n in 0..10 {
        let unknown = ApiKey::new(format!("ibk_unknown{n}"), "ibs_wrong");
        statuses.push(send(Ask::get(path.clone()).key(&unknown)).await);
    }
    assert!(
        statuses.contains(&401) && statuses.contains(&429),
        "{statuses:?}"
    );

    let forbidden = rows(&world, &world.admin, "auth.denied", "forbidden", 2).await;
    let actors: Vec<_> = forbidden.iter().map(|row| row["actor"].clone()).collect();
    for key in [&world.caller, &narrowed] {
        assert!(actors.contains(&json!(key.client_id)), "{actors:?}");
    }
    let wrong = rows(&world, &world.admin, "auth.denied", "unauthorized", 1).await;
    assert_eq!(wrong[0]["object"], world.caller.client_id.as_str());
    assert_eq!(wrong[0]["actor"], "unknown");
    assert_eq!(wrong[0]["detail"]["address"], "127.0.0.1");
    // Denials without a known key are visible to the relay's operators.
    rows(&world, &site, "auth.denied", "rate_limited", 1).await;
    let unknown = rows(&world, &site, "auth.denied", "unauthorized", 5).await;
    assert!(
        !unknown
            .iter()
            .any(|row| row["object"].as_str().unwrap().contains("unknown"))
    );
    world.relay.process().wait_log("denied", TIMEOUT).await;
    let metrics = world.metrics().await;
    for reason in ["unauthorized", "forbidden", "rate_limited"] {
        let line = format!("integration_relay_requests_denied_total{{reason=\"{reason}\"}}");
        assert!(metrics.contains(&line), "{line} in {metrics}");
    }
}

#[tokio::test]
async fn flood_of_denials_leaves_the_history_readable() {
    let world = auditing()
        .relay(|relay| relay.set("limits.auth_failures_per_minute", 5))
        .start()
        .await;
    for _ in 0..5 {
        for address in 1..100 {
            let stream = world.connect_from([127, 0, 1, address].into()).await;
            drop(stream);
            let ask = Ask::get("/v1/keys").key(&world.caller);
            world.api.send(ask).await.expect_status(403);
        }
    }
    rows(&world, &world.admin, "auth.denied", "forbidden", 1).await;
    let ask = Ask::get("/v1/audit?limit=100").key(&world.admin);
    let page = world.api.send(ask).await.expect_status(200).json();
    let rows = page["audit"].as_array().unwrap();
    let denied = rows.iter().filter(|row| row["action"] == "auth.denied");
    assert!(denied.count() <= 16);
    assert!(rows.iter().any(|row| row["action"] == "key.create"));
    let lines = world.relay.process().log();
    let output = lines.iter().filter(|line| line.text.contains("denied"));
    assert!(output.count() < 300, "lines are few");
}

#[tokio::test]
async fn pairing_leaves_rows_whether_it_works_or_not() {
    let mut world = auditing().start().await;
    let paired = rows(&world, &world.admin, "bridge.pair", "ok", 1).await;
    assert_eq!(paired[0]["object"], "b1");
    assert_eq!(paired[0]["actor"], world.bridge_key.client_id.as_str());
    let narrowed = world.key("bridge", &["--bridge", "b2"]).await;
    world.pair_fails("b3", &narrowed).await;
    let plain = world.key("bridge", &[]).await;
    world.pair_fails("b1", &plain).await;
    for (result, key) in [("forbidden", &narrowed), ("conflict", &plain)] {
        let failed = rows(&world, &world.admin, "bridge.pair", result, 1).await;
        assert_eq!(failed[0]["actor"], key.client_id.as_str());
    }
    let metrics = world.metrics().await;
    for outcome in ["ok", "conflict", "forbidden"] {
        let line = format!("integration_relay_pairings_total{{outcome=\"{outcome}\"}} 1");
        assert!(metrics.contains(&line), "{line} in {metrics}");
    }
    world
        .relay
        .process()
        .wait_log("bridge paired", TIMEOUT)
        .await;
    // A revoked bridge is rejected. A new process dials at once.
    world.relay_cli(&["bridge", "revoke", "b1"]).await;
    world.wait_sessions(0, TIMEOUT).await;
    world.kill_bridge().await;
    world.start_bridge();
    let refused = rows(&world, &world.admin, "tunnel.denied", "revoked", 1).await;
    assert_eq!(refused[0]["object"], "b1");
}

#[tokio::test]
async fn pause_resume_and_restore_leave_rows() {
    let mut world = auditing().start().await;
    let site = world.site_admin().await;
    world.relay_cli(&["deliveries", "pause"]).await;
    world
        .relay
        .process()
        .wait_log("deliveries are paused", TIMEOUT)
        .await;
    let metrics = world.metrics().await;
    assert!(
        metrics.contains("integration_relay_deliveries_paused 1"),
        "{metrics}"
    );
    let open = async || {
        let page = world.get("/v1/notices?open=true", &site).await;
        let notices = page["notices"].as_array().unwrap().clone();
        notices.iter().any(|one| one["kind"] == "deliveries_paused")
    };
    eventually(TIMEOUT, "a notice of the pause", open).await;
    world.relay_cli(&["deliveries", "resume"]).await;
    eventually(TIMEOUT, "no notice of the pause", async || !open().await).await;
    let told = world
        .relay_cli(&["audit", "list", "--action", "deliveries.pause"])
        .await;
    assert!(told.contains("paused all deliveries"), "{told}");
    for action in ["deliveries.pause", "deliveries.resume"] {
        let found = rows(&world, &site, action, "ok", 1).await;
        assert!(found[0]["actor"].as_str().unwrap().starts_with("cli:"));
    }
    let file = world.relay_config().parent().unwrap().join("copy.db");
    let file = file.to_str().unwrap();
    world.relay_cli(&["backup", file]).await;
    world.kill_relay().await;
    world.relay_cli(&["restore", file, "--replace"]).await;
    world.start_relay().await;
    let restored = rows(&world, &site, "database.restore", "ok", 1).await;
    assert_eq!(restored[0]["object"], "copy.db");
    world
        .relay
        .process()
        .wait_log("deliveries are paused", TIMEOUT)
        .await;
}
