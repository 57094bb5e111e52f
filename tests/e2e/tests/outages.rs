//! The network goes silent and returns. The bridge reconnects by itself, and reports its state correctly
//! meanwhile.

use std::time::{Duration, Instant};
use support::{Ask, Direction, TempDir, TestEnv, eventually};

/// The longest that a reconnect may take.
const BACK_WITHIN: Duration = Duration::from_secs(60);

async fn until_online(world: &TestEnv, wanted: bool, within: Duration) {
    eventually(within, &format!("online = {wanted}"), async || {
        let status = world.bridge.status().await;
        match status["online"] == wanted {
            true => Ok(()),
            false => Err(format!("{status:#}")),
        }
    })
    .await;
}

#[tokio::test]
async fn frozen_network_is_reported_and_survived() {
    let world = TestEnv::start().await;
    world.proxy().freeze(Direction::Both);
    // Nothing arrives any more: the connection counts as dead after the heartbeat timeout.
    until_online(&world, false, Duration::from_secs(45)).await;
    let report = world.bridge.doctor().await;
    let hop = report["fails_at"].as_str().unwrap_or_default();
    assert!(["tcp", "tls"].contains(&hop), "{report:#}");
    let since = Instant::now();
    world.proxy().thaw();
    until_online(&world, true, BACK_WITHIN).await;
    world
        .wait_online_within(BACK_WITHIN.saturating_sub(since.elapsed()))
        .await;
    let small = Ask::get(world.endpoint("/small")).key(&world.caller);
    world.api.send(small).await.expect_status(200);

    // A long network path is slow, and has no other effect.
    world.proxy().delay(Duration::from_millis(150));
    let before = world.bridge.status().await["sessions"].clone();
    for _ in 0..3 {
        let small = Ask::get(world.endpoint("/small")).key(&world.caller);
        world.api.send(small).await.expect_status(200);
    }
    let after = world.bridge.status().await["sessions"].clone();
    assert_eq!(before[0]["id"], after[0]["id"]);
}

/// libfaketime, where Debian puts it.
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

#[tokio::test]
async fn clock_jump_is_reported_and_harmless() {
    let clock = TempDir::new("clock");
    let offset = clock.write("offset", "+0");
    let site = TestEnv::builder()
        .bridge(|bridge| {
            bridge
                .env("LD_PRELOAD", FAKETIME)
                .env("FAKETIME_TIMESTAMP_FILE", offset.to_str().unwrap())
                .env("FAKETIME_NO_CACHE", "1")
                .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        })
        .start()
        .await;
    let small = async || {
        let ask = Ask::get("/v1/endpoints/t/small").key(&site.caller);
        site.relay.internal().send(ask).await.expect_status(200);
    };
    small().await;
    for jump in ["+3600", "-3600"] {
        let mark = site.bridge.process().log_mark();
        std::fs::write(&offset, jump).unwrap();
        let jumped = site.bridge.process();
        jumped
            .wait_log_since(mark, "the clock jumped", BACK_WITHIN)
            .await;
        small().await;
        let report = site.bridge.doctor().await;
        let checks = report["checks"].as_array().unwrap();
        let clock = checks.iter().find(|check| check["hop"] == "clock").unwrap();
        assert_ne!(clock["state"], "ok", "{report:#}");
        assert!(clock.to_string().contains("NTP"), "{clock:#}");
    }
    // The tunnel is still the first one.
    let sessions = site.bridge.process().log();
    let up = sessions
        .iter()
        .filter(|line| format!("{line:?}").contains("session up"));
    assert_eq!(up.count(), 1);
}
