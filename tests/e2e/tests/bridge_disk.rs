//! The bridge's disk runs full, and has space again.

use serde_json::json;
use std::path::Path;
use support::setup::path;
use support::{Ask, LONG_TIMEOUT, SmallDisk, TestEnv, eventually};

async fn accepted(world: &TestEnv, body: &str) -> String {
    let call = json!({"url": world.target.url("/hook"), "body": body});
    world.deliver(call).await
}

async fn until_delivered(world: &TestEnv, ids: &[String]) {
    for id in ids {
        world.wait_call(id, "succeeded", LONG_TIMEOUT).await;
    }
}

/// Asserts that what needs no disk works: a request to an endpoint, and a call in the mode `wait`.
async fn goes_on(world: &TestEnv) {
    let small = Ask::get(world.endpoint("/small")).key(&world.caller);
    world.api.send(small).await.expect_status(200);
    let call = json!({"url": world.target.url("/small"), "method": "GET"});
    world.call(call).await.expect_status(200);
}

async fn on(disk: &SmallDisk) -> TestEnv {
    let data = disk.path().join("data");
    TestEnv::builder()
        .bridge(|bridge| bridge.set("bridge.data_dir", path(data)))
        .start()
        .await
}

/// Submits deliveries until the bridge rejects them because the journal's disk is full.
async fn until_refused(world: &TestEnv, ids: &mut Vec<String>) {
    let says = |part: &str| {
        let log = world.bridge.process().log();
        log.iter().any(|line| line.text.contains(part))
    };
    eventually(LONG_TIMEOUT, "a full journal", async || {
        if says("deliveries wait") {
            return true;
        }
        ids.push(accepted(world, "full").await);
        false
    })
    .await;
}

#[tokio::test]
async fn bridge_recovers_after_its_disk_was_full() {
    let disk = SmallDisk::mount(3 << 20);
    let world = on(&disk).await;
    let mut ids = vec![accepted(&world, "before").await];
    until_delivered(&world, &ids).await;
    disk.fill();
    until_refused(&world, &mut ids).await;
    goes_on(&world).await;
    // A tunnel that is lost comes back: that needs no disk, either.
    world.proxy().cut();
    world.wait_online_within(LONG_TIMEOUT).await;
    goes_on(&world).await;
    ids.push(accepted(&world, "meanwhile").await);
    disk.free();
    until_delivered(&world, &ids).await;
    assert!(world.bridge.process().exited().is_none());
    made_once(&world, &ids);
}

#[tokio::test]
async fn bridge_starts_on_a_full_disk_and_delivers_later() {
    let disk = SmallDisk::mount(3 << 20);
    let mut world = on(&disk).await;
    let mut ids = vec![accepted(&world, "before").await];
    until_delivered(&world, &ids).await;
    disk.fill();
    world.kill_bridge().await;
    // As if the journal had been on a disk that is gone: it is made when there is room.
    remove(&disk.path().join("data/journal.redb"));
    disk.fill();
    world.start_bridge();
    world.wait_online_within(LONG_TIMEOUT).await;
    goes_on(&world).await;
    ids.push(accepted(&world, "meanwhile").await);
    disk.free();
    until_delivered(&world, &ids).await;
    made_once(&world, &ids);
}

fn remove(path: &Path) {
    std::fs::remove_file(path).unwrap();
}

/// Each id came to the target once.
fn made_once(world: &TestEnv, ids: &[String]) {
    let hooks = world.target.hooks();
    for id in ids {
        let is_it = |hook: &&support::target::Hook| hook.headers["webhook-id"] == id.as_str();
        assert_eq!(hooks.iter().filter(is_it).count(), 1, "{id}");
    }
}
