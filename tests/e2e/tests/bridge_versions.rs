//! Versions of bridges that the operator of a relay names: what a bridge, the API and notices show, and the refusal of
//! old bridges.

use serde_json::Value;
use support::{LONG_TIMEOUT, TIMEOUT, TestEnv, eventually};

/// Replaces the relay's config by another text, and reloads it.
async fn reload(world: &TestEnv, text: &str) {
    std::fs::write(world.relay_config(), text).unwrap();
    let relay = world.relay.process();
    let mark = relay.log_mark();
    relay.signal("HUP");
    relay
        .wait_log_since(mark, "config reloaded", LONG_TIMEOUT)
        .await;
}

/// Returns the relay's config.
fn relay_config(world: &TestEnv) -> String {
    std::fs::read_to_string(world.relay_config()).unwrap()
}

/// Returns a config with a section `[bridges]`.
fn with_versions(text: &str, section: &str) -> String {
    format!("{text}\n[bridges]\n{section}\n")
}

/// Waits until the bridge shows this state of its version, and returns its status.
async fn wait_state(world: &TestEnv, state: &str) -> Value {
    eventually(LONG_TIMEOUT, state, async || {
        let status = world.bridge.status().await;
        match status["version"]["update"] == state {
            true => Ok(status),
            false => Err(format!("{status:#}")),
        }
    })
    .await
}

#[tokio::test]
async fn bridge_learns_of_an_update_at_connection() {
    let world = TestEnv::builder()
        .relay(|relay| relay.set("bridges.version_newest", "999.1.0"))
        .start()
        .await;
    let status = wait_state(&world, "available").await;
    assert_eq!(status["version"]["newest"], "999.1.0", "{status:#}");
    let text = world.bridge_cli(&["status"]).await.success();
    assert!(text.contains("newest 999.1.0: update available"), "{text}");
    let text = world.bridge_cli(&["update", "--check"]).await.success();
    assert!(text.contains("newest 999.1.0"), "{text}");

    let bridge = world.get("/v1/bridges/b1", &world.admin).await;
    assert_eq!(bridge["update"], "available", "{bridge:#}");
    assert_eq!(bridge["version_newest"], "999.1.0");
    assert_eq!(bridge["version_oldest"], Value::Null);
    assert_eq!(bridge["sessions"][0]["update"], "available");

    // A reload reaches the session that is up, also when nothing is named any more.
    let text = relay_config(&world).replace("version_newest = \"999.1.0\"", "");
    reload(&world, &text).await;
    wait_state(&world, "unknown").await;
    world.wait_online().await;
}

#[tokio::test]
async fn outdated_bridge_works_and_raises_a_notice() {
    let world = TestEnv::start().await;
    wait_state(&world, "unknown").await;
    let oldest = "version_oldest = \"999.0.0\"";
    reload(&world, &with_versions(&relay_config(&world), oldest)).await;
    let status = wait_state(&world, "required").await;
    assert_eq!(status["online"], true, "{status:#}");
    assert_eq!(status["version"]["enforced"], false);
    world.wait_online().await;
    let log = world.bridge.process();
    log.wait_log("requires an update of this bridge", TIMEOUT)
        .await;
    let notice = eventually(LONG_TIMEOUT, "the notice", async || {
        let page = world.get("/v1/notices?open=true", &world.admin).await;
        let notices = page["notices"].as_array()?.clone();
        notices
            .into_iter()
            .find(|one| one["kind"] == "bridge_outdated")
    })
    .await;
    assert_eq!(notice["object"], "b1", "{notice:#}");
    let detail = notice["detail"].as_str().unwrap();
    assert!(
        detail.contains("999.0.0") && detail.contains("still works"),
        "{detail}"
    );
    let listed = world.relay_cli(&["bridge", "list"]).await;
    assert!(listed.contains("outdated"), "{listed}");
}

#[tokio::test]
async fn enforced_version_refuses_an_old_bridge() {
    let mut world = TestEnv::start().await;
    let enforced = "version_newest = \"999.1.0\"\nversion_oldest = \"999.0.0\"\nversion_oldest_enforced = true";
    let text = relay_config(&world);
    reload(&world, &with_versions(&text, enforced)).await;
    // The tunnel that is up stays up.
    wait_state(&world, "required").await;
    world.wait_online().await;

    world.stop_bridge().await;
    world.start_bridge();
    let log = world.bridge.process();
    let line = log.wait_log("bridge_too_old", LONG_TIMEOUT).await;
    assert!(
        line.contains("999.0.0") && line.contains("integration-bridge"),
        "{line}"
    );
    let status = wait_state(&world, "required").await;
    assert_eq!(status["online"], false, "{status:#}");
    assert_eq!(status["version"]["enforced"], true);
    let shown = world.bridge_cli(&["status"]).await.stdout;
    assert!(
        shown.contains("oldest accepted 999.0.0: update REQUIRED"),
        "{shown}"
    );
    let bridge = world.get("/v1/bridges/b1", &world.admin).await;
    assert_eq!(bridge["update"], "required", "{bridge:#}");
    assert_eq!(bridge["online"], false);
    let refused = bridge["version_refused"].as_str().unwrap();
    assert!(refused.starts_with("integration-bridge/"), "{refused}");
    let metrics = world.metrics().await;
    assert!(
        metrics.contains("tunnels_refused_total{reason=\"bridge_too_old\"}"),
        "{metrics}"
    );
    let relay = world.relay.process();
    relay.wait_log("bridge_too_old", TIMEOUT).await;

    // The operator lowers the version. A bridge that starts is accepted at once.
    reload(&world, &with_versions(&text, "version_oldest = \"0.0.1\"")).await;
    world.stop_bridge().await;
    world.start_bridge();
    world.wait_online().await;
    let bridge = world.get("/v1/bridges/b1", &world.admin).await;
    assert_eq!(bridge["version_refused"], Value::Null, "{bridge:#}");
    assert_eq!(bridge["update"], "current");
}

#[tokio::test]
async fn contradictory_versions_are_rejected() {
    let world = TestEnv::start().await;
    let text = relay_config(&world);
    for (section, message) in [
        (
            "version_newest = \"1.0.0\"\nversion_oldest = \"1.1.0\"",
            "must not be above bridges.version_newest",
        ),
        ("version_oldest_enforced = true", "bridges.version_oldest"),
        ("version_newest = \"v1\"", "three numbers"),
    ] {
        std::fs::write(world.relay_config(), with_versions(&text, section)).unwrap();
        let refused = world.relay_cli_fails(&["config", "check"]).await;
        assert!(refused.contains(message), "{refused}");
    }
}
