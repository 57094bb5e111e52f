//! The relay's disk runs full, and has space again. An older copy of its database is put back.

use serde_json::{Value, json};
use std::time::Duration;
use support::{Ask, LONG_TIMEOUT, SmallDisk, TestEnv, eventually, let_time_pass};

fn deliver(world: &TestEnv, path: &str, bytes: usize) -> Value {
    json!({"mode": "deliver", "url": world.target.url(path), "body": "y".repeat(bytes)})
}

async fn ready(world: &TestEnv) -> u16 {
    world.api.send(Ask::get("/readyz")).await.status.as_u16()
}

async fn until_ready_says(world: &TestEnv, status: u16) {
    eventually(
        LONG_TIMEOUT,
        &format!("{status} from /readyz"),
        async || ready(world).await == status,
    )
    .await;
}

async fn until_delivered(world: &TestEnv, ids: &[String]) {
    for id in ids {
        world.wait_call(id, "succeeded", LONG_TIMEOUT).await;
    }
}

/// The relay acknowledges only what it stored. No acknowledged call is lost or made twice, what needs no disk
/// works, and nothing is restarted.
#[tokio::test]
async fn relay_recovers_after_its_disk_was_full() {
    let disk = SmallDisk::mount(3 << 20);
    let url = format!("sqlite://{}/relay.db", disk.path().display());
    let world = TestEnv::builder()
        .relay(|relay| relay.database(&url))
        .start()
        .await;
    let mut acknowledged = Vec::new();
    until_ready_says(&world, 200).await;
    disk.fill();
    let mut refused = 0;
    for _ in 0..200 {
        let answer = world.call(deliver(&world, "/hook", 20_000)).await;
        match answer.status.as_u16() {
            202 => acknowledged.push(answer.json()["id"].as_str().unwrap().to_owned()),
            status => {
                let problem = answer.json();
                let word = (status, &problem["code"], &problem["execution"]);
                assert_eq!(word, (503, &json!("overloaded"), &json!("not_sent")));
                refused += 1;
            }
        }
        if refused == 12 {
            break;
        }
    }
    assert_eq!(refused, 12);
    until_ready_says(&world, 503).await;
    let url = world.target.url("/hook");
    let plain = world.call(json!({"url": url, "body": "waits"})).await;
    plain.expect_status(200);
    disk.free();
    for _ in 0..12 {
        let answer = world
            .call(deliver(&world, "/hook", 20_000))
            .await
            .expect_status(202);
        acknowledged.push(answer.json()["id"].as_str().unwrap().to_owned());
    }
    until_ready_says(&world, 200).await;
    world.relay_cli(&["tenant", "create", "another"]).await;
    until_delivered(&world, &acknowledged).await;
    let hooks = world.target.hooks();
    for id in &acknowledged {
        let made = hooks.iter().filter(|hook| {
            hook.headers
                .get("webhook-id")
                .is_some_and(|value| value == id.as_str())
        });
        assert_eq!(made.count(), 1, "{id}");
    }
}

/// The relay runs on after the copy, and is killed.
#[tokio::test]
async fn older_database_copy_delivers_nothing() {
    let mut world = TestEnv::start().await;
    let database = world.relay_config().parent().unwrap().join("relay.db");
    let copy = database.with_extension("copy");
    world.stop_bridge().await;
    let answer = world
        .call(deliver(&world, "/hook", 1))
        .await
        .expect_status(202);
    let id = answer.json()["id"].as_str().unwrap().to_owned();
    world.relay_cli(&["backup", copy.to_str().unwrap()]).await;
    world.start_bridge();
    until_delivered(&world, &[id]).await;
    let why = "the relay writes its generation next to its key file within 250 ms";
    let_time_pass(Duration::from_millis(1_500), why).await;
    world.kill_relay().await;
    for end in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{end}", database.display()));
    }
    std::fs::rename(&copy, &database).unwrap();
    world.start_relay().await;
    world.wait_online().await;
    let_time_pass(
        Duration::from_millis(1_500),
        "a delivery would arrive at once",
    )
    .await;
    assert_eq!(world.target.hooks().len(), 1);
    let output = world.relay_cli(&["deliveries", "status"]).await;
    assert!(output.contains("Deliveries are paused"), "{output}");
}

/// The retry schedule stops while no bridge is online; the expiry does not.
#[tokio::test]
async fn waiting_call_expires() {
    let mut world = TestEnv::start().await;
    world.stop_bridge().await;
    let mut call = deliver(&world, "/hook", 1);
    call["expires_in"] = json!(6);
    let answer = world.call(call).await.expect_status(202);
    let id = answer.json()["id"].as_str().unwrap().to_owned();
    let call = eventually(LONG_TIMEOUT, "an end of the call", async || {
        let call = world.stored_call(&id).await;
        match call["state"].as_str() {
            Some("pending" | "waiting_for_bridge") => Err(format!("{call:#}")),
            _ => Ok(call),
        }
    })
    .await;
    assert_eq!(
        (&call["state"], &call["execution"]),
        (&json!("expired"), &json!("not_sent"))
    );
    assert_eq!(
        (&call["code"], &call["attempts"]),
        (&json!("timeout"), &json!(0))
    );
    let metrics = world.metrics().await;
    assert!(
        metrics.contains("integration_relay_deliveries_total{outcome=\"expired\"} 1"),
        "{metrics}"
    );
    world.start_bridge();
    world.wait_online().await;
    assert!(world.target.hooks().is_empty());
    // As a dead letter it can be redelivered.
    let again = Ask::post(format!("/v1/calls/{id}/redeliver")).key(&world.caller);
    world.api.send(again).await.expect_status(202);
    until_delivered(&world, &[id]).await;
    assert_eq!(world.target.hooks().len(), 1);
    // Only a stored call can wait.
    let waits = json!({"url": world.target.url("/hook"), "expires_in": 2});
    world.call(waits).await.expect_status(400);
}
