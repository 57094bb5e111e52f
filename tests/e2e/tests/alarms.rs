//! Every notice, raised by what it is about: real bridges, real keys, a real certificate.
//! Those about deliveries are in `deliveries`, the one about endpoint names in `ownership`.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use e2e::{World, eventually};
use serde_json::Value;
use std::time::Duration;
use support::{Ask, Target};

const PATIENCE: Duration = Duration::from_secs(60);

/// A bridge whose session was taken comes again after about a minute.
const CLONE_WITHIN: Duration = Duration::from_secs(150);

async fn get(world: &World, path: &str) -> Value {
    let ask = Ask::get(path.to_owned()).key(&world.admin);
    world.api.send(ask).await.expect_status(200).json()
}

/// The notice of a kind that is open, once there is one.
async fn notice(world: &World, kind: &str, within: Duration) -> Value {
    eventually(kind, within, || async {
        let page = get(world, "/v1/notices?open=true").await;
        let notices = page["notices"].as_array()?.clone();
        notices.into_iter().find(|one| one["kind"] == kind)
    })
    .await
}

async fn is_cloned(world: &World) -> bool {
    get(world, "/v1/bridges/b1").await["cloned"] == true
}

/// Which target answers a request to the endpoint.
async fn ask(world: &World) -> u16 {
    let ask = Ask::get(world.endpoint("/small")).key(&world.caller);
    world.api.send(ask).await.status.as_u16()
}

#[tokio::test]
async fn copied_data_directory_is_noticed_and_the_original_stays() {
    let mut world = World::start().await;
    world.wait_online().await;
    world.stop_bridge().await;
    let other = Target::start().await;
    let mut copy = world.copy_of_bridge(&other);
    world.start_bridge();
    world.wait_online().await;
    let mark = world.bridge().log_mark();
    copy.start();
    copy.process().wait_log("session up", PATIENCE).await;
    world
        .bridge()
        .wait_log_since(mark, "another process", PATIENCE)
        .await;
    let notice = notice(&world, "bridge_cloned", CLONE_WITHIN).await;
    assert_eq!(notice["object"], "b1");
    assert!(is_cloned(&world).await);
    let metrics = world.metrics().await;
    assert!(
        metrics.contains("integration_relay_bridges_cloned 1"),
        "{metrics}"
    );
    world.relay().wait_log("two processes", PATIENCE).await;
    let list = world.relay_cli(&["bridge", "list"]).await;
    assert!(list.contains("cloned"), "{list}");
    eventually("audit row", PATIENCE, || async {
        let page = get(&world, "/v1/audit?action=bridge.cloned").await;
        (page["audit"][0]["object"] == "b1").then_some(())
    })
    .await;
    // The original is back, and the copy is refused when it comes again.
    world
        .bridge()
        .wait_log_since(mark, "session up", PATIENCE)
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
async fn restarts_and_broken_lines_are_no_clone() {
    let mut world = World::start().await;
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
        eventually("new session", PATIENCE, || async {
            (world.proxy().accepted() > accepted && ask(&world).await == 200).then_some(())
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
async fn notices_tell_of_absent_bridges_and_what_expires() {
    let relay = "[notices]\nbridge_offline_after = \"1s\"\nkey_expires_within = \"7d\"\n\
                 certificate_expires_within = \"800000d\"\n";
    let mut world = World::start_full("", relay).await;
    world.wait_online().await;
    let key = world.key("caller", &["--expires", "1d"]).await;
    let expiring = notice(&world, "key_expires", PATIENCE).await;
    assert_eq!(expiring["object"], key.client_id.as_str());
    world.stop_bridge().await;
    let away = notice(&world, "bridge_offline", PATIENCE).await;
    assert_eq!(away["object"], "b1");
    // The relay's own certificate, which ends in the year 4096, concerns its operators.
    let made = ["key", "create", "--role", "site-admin", "--json"];
    let made: Value = serde_json::from_str(&world.relay_cli(&made).await).unwrap();
    let text = |name: &str| made[name].as_str().unwrap().to_owned();
    let site = support::ApiKey::new(text("client_id"), text("client_secret"));
    let ask = || Ask::get("/v1/notices?open=true").key(&site);
    eventually("certificate_expires", PATIENCE, || async {
        let page = world.api.send(ask()).await.expect_status(200).json();
        let notices = page["notices"].as_array()?.clone();
        notices
            .into_iter()
            .find(|one| one["kind"] == "certificate_expires")
    })
    .await;
    // Cleared when it is there again.
    world.start_bridge();
    eventually("end of the notice", PATIENCE, || async {
        let page = get(&world, "/v1/notices?open=true").await;
        let notices = page["notices"].as_array()?.clone();
        (!notices.iter().any(|one| one["kind"] == "bridge_offline")).then_some(())
    })
    .await;
}
