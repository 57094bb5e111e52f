//! Every notice, raised by real bridges, keys and certificates.
//! Those about deliveries are in `deliveries`, the one about endpoint names in `ownership`.

use serde_json::Value;
use std::time::Duration;
use support::{ApiKey, Ask, LONG_TIMEOUT, Target, TestEnv, eventually};

/// A bridge whose session was replaced dials again after about a minute.
const CLONE_WITHIN: Duration = Duration::from_secs(150);

/// Waits for an open notice of a kind that this key can see.
async fn notice(world: &TestEnv, key: &ApiKey, kind: &str, within: Duration) -> Value {
    eventually(within, kind, async || {
        let page = world.get("/v1/notices?open=true", key).await;
        let notices = page["notices"].as_array()?.clone();
        notices.into_iter().find(|one| one["kind"] == kind)
    })
    .await
}

async fn is_cloned(world: &TestEnv) -> bool {
    world.get("/v1/bridges/b1", &world.admin).await["cloned"] == true
}

/// Which target answers a request to the endpoint.
async fn ask(world: &TestEnv) -> u16 {
    let ask = Ask::get(world.endpoint("/small")).key(&world.caller);
    world.api.send(ask).await.status.as_u16()
}

#[tokio::test]
async fn cloned_bridge_is_detected_and_original_stays() {
    let mut world = TestEnv::start().await;
    world.wait_online().await;
    world.stop_bridge().await;
    let other = Target::start().await;
    let mut copy = world.copy_of_bridge(&other);
    world.start_bridge();
    world.wait_online().await;
    let mark = world.bridge.process().log_mark();
    copy.start();
    copy.process().wait_log("session up", LONG_TIMEOUT).await;
    world
        .bridge
        .process()
        .wait_log_since(mark, "another process", LONG_TIMEOUT)
        .await;
    let notice = notice(&world, &world.admin, "bridge_cloned", CLONE_WITHIN).await;
    assert_eq!(notice["object"], "b1");
    assert!(is_cloned(&world).await);
    let metrics = world.metrics().await;
    assert!(
        metrics.contains("integration_relay_bridges_cloned 1"),
        "{metrics}"
    );
    world
        .relay
        .process()
        .wait_log("two processes", LONG_TIMEOUT)
        .await;
    let list = world.relay_cli(&["bridge", "list"]).await;
    assert!(list.contains("cloned"), "{list}");
    eventually(LONG_TIMEOUT, "an audit row", async || {
        let path = "/v1/audit?action=bridge.cloned";
        world.get(path, &world.admin).await["audit"][0]["object"] == "b1"
    })
    .await;
    // The original is back, and the copy is refused when it comes again.
    world
        .bridge
        .process()
        .wait_log_since(mark, "session up", LONG_TIMEOUT)
        .await;
    let theirs = other.requests();
    let text = "another process connects with this identity";
    let mark = copy.process().log_mark();
    copy.process()
        .wait_log_since(mark, text, CLONE_WITHIN)
        .await;
    for _ in 0..20 {
        assert_eq!(ask(&world).await, 200);
    }
    assert_eq!(other.requests(), theirs);
    assert!(is_cloned(&world).await);
}

#[tokio::test]
async fn restarts_and_lost_connections_are_no_clone() {
    let mut world = TestEnv::start().await;
    world.wait_online().await;
    // Killed and started again.
    for _ in 0..6 {
        world.kill_bridge().await;
        world.start_bridge();
        world.wait_online().await;
    }
    // The line breaks, and only the bridge notices: the relay still has the session before.
    for n in 0..4 {
        let accepted = world.proxy().accepted();
        world.proxy().freeze_existing();
        world.kill_bridge().await;
        world.start_bridge();
        eventually(LONG_TIMEOUT, "a new session", async || {
            world.proxy().accepted() > accepted && ask(&world).await == 200
        })
        .await;
        assert!(!is_cloned(&world).await, "round {n}");
    }
    // It breaks for both.
    for _ in 0..4 {
        world.proxy().reset();
        world.wait_online_within(Duration::from_secs(90)).await;
    }
    // Drained, and another process in its place.
    for _ in 0..2 {
        world.stop_bridge().await;
        world.start_bridge();
        world.wait_online().await;
    }
    assert!(!is_cloned(&world).await);
    let metrics = world.metrics().await;
    assert!(
        metrics.contains("integration_relay_bridges_cloned 0"),
        "{metrics}"
    );
}

#[tokio::test]
async fn notices_report_offline_bridges_and_expiry() {
    let mut world = TestEnv::builder()
        .relay(|relay| {
            relay
                .set("notices.bridge_offline_after", "1s")
                .set("notices.key_expires_within", "7d")
                .set("notices.certificate_expires_within", "800000d")
        })
        .start()
        .await;
    world.wait_online().await;
    let key = world.key("caller", &["--expires", "1d"]).await;
    let expiring = notice(&world, &world.admin, "key_expires", LONG_TIMEOUT).await;
    assert_eq!(expiring["object"], key.client_id.as_str());
    world.stop_bridge().await;
    let away = notice(&world, &world.admin, "bridge_offline", LONG_TIMEOUT).await;
    assert_eq!(away["object"], "b1");
    // The relay's own certificate, which ends in the year 4096, concerns its operators.
    let site = world.site_admin().await;
    notice(&world, &site, "certificate_expires", LONG_TIMEOUT).await;
    // The notice is cleared when the bridge is online again.
    world.start_bridge();
    eventually(LONG_TIMEOUT, "no notice of the bridge", async || {
        let page = world.get("/v1/notices?open=true", &world.admin).await;
        let notices = page["notices"].as_array().unwrap();
        !notices.iter().any(|one| one["kind"] == "bridge_offline")
    })
    .await;
}
