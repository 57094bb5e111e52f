//! The network goes silent and comes back: the bridge does so by itself, and says the truth meanwhile.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use e2e::World;
use serde_json::Value;
use std::time::{Duration, Instant};
use support::{Ask, Direction, Installation, Target, TempDir};

/// What a return may take.
const BACK_WITHIN: Duration = Duration::from_secs(60);

async fn status(world: &World) -> Value {
    let said = world.bridge_cli(&["status", "--json"]).await;
    serde_json::from_str(&said.stdout).unwrap_or_else(|_| panic!("{}", said.stderr))
}

async fn until_online(world: &World, wanted: bool, within: Duration) {
    let deadline = Instant::now() + within;
    loop {
        let now = status(world).await;
        if now["online"] == wanted {
            return;
        }
        assert!(Instant::now() < deadline, "{now:#}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test]
async fn a_silent_network_is_noticed_told_and_outlived() {
    let world = World::start().await;
    world.proxy().freeze(Direction::Both);
    // Nothing comes back: what was connected is dead within the time that it may be silent.
    until_online(&world, false, Duration::from_secs(45)).await;
    let doctor = world.bridge_cli(&["doctor", "--json"]).await;
    let report: Value = serde_json::from_str(&doctor.stdout).unwrap();
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

    // A long line is slow, and nothing else.
    world.proxy().delay(Duration::from_millis(150));
    let before = status(&world).await["sessions"].clone();
    for _ in 0..3 {
        let small = Ask::get(world.endpoint("/small")).key(&world.caller);
        world.api.send(small).await.expect_status(200);
    }
    let after = status(&world).await["sessions"].clone();
    assert_eq!(before[0]["id"], after[0]["id"]);
}

/// libfaketime, where Debian puts it.
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

#[tokio::test]
async fn a_clock_that_jumps_by_an_hour_is_noticed_told_and_harmless() {
    let target = Target::start().await;
    let clock = TempDir::new("clock");
    let offset = clock.write("offset", "+0");
    let site = Installation::builder()
        .target("t", &target)
        .bridge_env("LD_PRELOAD", FAKETIME)
        .bridge_env("FAKETIME_TIMESTAMP_FILE", offset.to_str().unwrap())
        .bridge_env("FAKETIME_NO_CACHE", "1")
        .bridge_env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
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
        let doctor = site.bridge.cli(&["doctor", "--json"]).await;
        let report: Value = serde_json::from_str(&doctor.stdout).unwrap();
        let checks = report["checks"].as_array().unwrap();
        let clock = checks.iter().find(|check| check["hop"] == "clock").unwrap();
        assert_ne!(clock["state"], "ok", "{report:#}");
        assert!(clock.to_string().contains("NTP"), "{clock:#}");
    }
    // The tunnel that was there is there still.
    let sessions = site.bridge.process().log();
    let up = sessions
        .iter()
        .filter(|line| format!("{line:?}").contains("session up"));
    assert_eq!(up.count(), 1);
}
