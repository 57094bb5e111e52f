//! The bridge's disk runs full and has room again.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use e2e::World;
use serde_json::{Value, json};
use std::path::Path;
use std::time::{Duration, Instant};
use support::{Ask, SmallDisk};

/// What a step may take: a bridge may wait for a minute before it dials again.
const PATIENCE: Duration = Duration::from_secs(90);

fn deliver(world: &World, body: &str) -> Value {
    json!({"mode": "deliver", "url": world.target.url("/hook"), "body": body})
}

async fn accepted(world: &World, body: &str) -> String {
    let answer = world.call(deliver(world, body)).await.expect_status(202);
    answer.json()["id"].as_str().unwrap().to_owned()
}

async fn until_delivered(world: &World, ids: &[String]) {
    let deadline = Instant::now() + PATIENCE;
    for id in ids {
        loop {
            let ask = Ask::get(format!("/v1/calls/{id}")).key(&world.caller);
            let call = world.api.send(ask).await.expect_status(200).json();
            if call["state"] == "succeeded" {
                break;
            }
            assert!(Instant::now() < deadline, "not delivered: {call:#}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// What needs no disk is answered: a request to an endpoint, and a call whose caller waits.
async fn goes_on(world: &World) {
    let small = Ask::get(world.endpoint("/small")).key(&world.caller);
    world.api.send(small).await.expect_status(200);
    let call = json!({"url": world.target.url("/small"), "method": "GET"});
    world.call(call).await.expect_status(200);
}

async fn on(disk: &SmallDisk) -> World {
    let data = disk.path().join("data");
    let toml = format!("[bridge]\ndata_dir = {:?}\n", data.to_str().unwrap());
    World::start_with(&toml).await
}

/// Deliveries until the bridge refuses them, because the journal's file has no room left.
async fn until_refused(world: &World, ids: &mut Vec<String>) {
    let deadline = Instant::now() + PATIENCE;
    let says = |part: &str| {
        let log = world.bridge().log();
        log.iter().any(|line| line.text.contains(part))
    };
    while !says("deliveries wait") {
        assert!(Instant::now() < deadline, "the journal never ran full");
        ids.push(accepted(world, "full").await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn bridge_works_again_after_its_disk_was_full() {
    let disk = SmallDisk::mount(3 << 20);
    let world = on(&disk).await;
    let mut ids = vec![accepted(&world, "before").await];
    until_delivered(&world, &ids).await;
    disk.fill();
    until_refused(&world, &mut ids).await;
    goes_on(&world).await;
    // A tunnel that is lost comes back: that needs no disk, either.
    world.proxy().cut();
    world.wait_online_within(PATIENCE).await;
    goes_on(&world).await;
    ids.push(accepted(&world, "meanwhile").await);
    disk.free();
    until_delivered(&world, &ids).await;
    assert!(world.bridge().exited().is_none());
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
    world.wait_online_within(PATIENCE).await;
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
fn made_once(world: &World, ids: &[String]) {
    let hooks = world.target.hooks();
    for id in ids {
        let is_it = |hook: &&support::target::Hook| hook.headers["webhook-id"] == id.as_str();
        assert_eq!(hooks.iter().filter(is_it).count(), 1, "{id}");
    }
}
