//! A new certificate and new limits, without a restart.

use serde_json::json;
use std::time::Duration;
use support::{Ask, TestEnv, ThrowawayCa};

#[tokio::test]
async fn reload_applies_certificates_and_limits() {
    let world = TestEnv::start().await;
    let before = world.sessions().await;
    let slow = Ask::get(world.endpoint("/delay/1500")).key(&world.caller);
    let api = world.api.clone();
    let running = tokio::spawn(async move { api.send(slow).await });
    world
        .target
        .wait_for_requests(1, Duration::from_secs(10))
        .await;

    let home = world.relay_config().parent().unwrap().to_owned();
    let other = ThrowawayCa::new();
    other
        .issue(&["localhost", "127.0.0.1"])
        .write_to(&home, "relay");
    let config = std::fs::read_to_string(world.relay_config()).unwrap();
    let smaller = format!("{config}\n[limits]\ncall_request_max = \"200B\"\n");
    std::fs::write(world.relay_config(), &smaller).unwrap();
    let mark = world.relay.process().log_mark();
    world.relay.process().signal("HUP");
    let patience = Duration::from_secs(10);
    world
        .relay
        .process()
        .wait_log_since(mark, "config reloaded", patience)
        .await;

    // The next handshake is with the new certificate, which the old root does not vouch for.
    let refused = world.public.try_send(Ask::get("/healthz")).await;
    assert!(refused.is_err(), "the old certificate is still there");
    let long = json!({"url": world.target.url("/hook"), "body": "x".repeat(300)});
    world.call(long.clone()).await.expect_status(413);
    running.await.unwrap().expect_status(200);
    assert_eq!(world.sessions().await, before);

    // The first key that needs a restart is named, and nothing of the file is applied.
    let more = smaller.replace("200B", "1MiB") + "connections_max = 7\n";
    std::fs::write(world.relay_config(), more).unwrap();
    let mark = world.relay.process().log_mark();
    world.relay.process().signal("HUP");
    let line = world
        .relay
        .process()
        .wait_log_since(mark, "config rejected", patience)
        .await;
    assert!(line.contains("connections_max"), "{line}");
    world.call(long).await.expect_status(413);
}
