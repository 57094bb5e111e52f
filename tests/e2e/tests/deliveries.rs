//! Calls that are stored and delivered exactly once, whatever fails meanwhile.

use serde_json::{Value, json};
use std::time::Duration;
use support::{Ask, TIMEOUT, TestEnv, let_time_pass};

/// Starts an environment with short retry intervals, so that a test sees several attempts.
async fn with_short_schedule() -> TestEnv {
    TestEnv::builder()
        .relay(|relay| relay.set("deliveries.schedule", vec!["200ms", "200ms", "200ms"]))
        .start()
        .await
}

async fn submit(world: &TestEnv, call: Value) -> String {
    let answer = world.call(call).await.expect_status(202);
    assert!(
        answer.headers["location"]
            .to_str()
            .unwrap()
            .starts_with("/v1/calls/call_")
    );
    answer.json()["id"].as_str().unwrap().to_owned()
}

fn deliver(url: &str, body: &str) -> Value {
    json!({"mode": "deliver", "url": url, "body": body, "headers": {"x-own": "1"}})
}

#[tokio::test]
async fn delivery_is_signed_and_made_once() {
    let world = TestEnv::start().await;
    let id = submit(&world, deliver(&world.target.url("/hook?a=b"), "{\"n\":1}")).await;
    let call = world.wait_call(&id, "succeeded", TIMEOUT).await;
    assert_eq!(call["attempts"], 1);
    assert_eq!(call["status"], 200);
    assert_eq!(call["attempt_list"][0]["bridge"], "b1");
    let hooks = world.target.hooks();
    assert_eq!(hooks.len(), 1);
    let hook = &hooks[0];
    assert_eq!(hook.path, "/hook?a=b");
    assert_eq!(&hook.body[..], b"{\"n\":1}");
    assert_eq!(hook.headers["webhook-id"], id.as_str());
    assert_eq!(hook.headers["x-own"], "1");
    assert!(
        hook.headers["webhook-signature"]
            .to_str()
            .unwrap()
            .starts_with("v1,")
    );
    // Neither the URL nor the body is in a file of the relay.
    for file in world.relay_files() {
        let bytes = std::fs::read(&file).unwrap();
        for needle in [&b"/hook?a=b"[..], b"{\"n\":1}"] {
            let found = bytes.windows(needle.len()).any(|window| window == needle);
            assert!(
                !found,
                "{} is readable in {}",
                String::from_utf8_lossy(needle),
                file.display()
            );
        }
    }
}

#[tokio::test]
async fn failing_target_is_retried_by_schedule() {
    let world = with_short_schedule().await;
    let id = submit(&world, deliver(&world.target.url("/status/500"), "")).await;
    let call = world.wait_call(&id, "failed", TIMEOUT).await;
    assert_eq!(call["attempts"], 4);
    assert_eq!(world.target.requests(), 4);
    // A dead letter can be delivered again, from the first step.
    let ask = Ask::post(format!("/v1/calls/{id}/redeliver")).key(&world.caller);
    world.api.send(ask).await.expect_status(202);
    let call = world.wait_call(&id, "failed", TIMEOUT).await;
    assert_eq!(call["attempts"], 8);
    let gone = submit(&world, deliver(&world.target.url("/status/410"), "")).await;
    assert_eq!(
        world.wait_call(&gone, "failed", TIMEOUT).await["attempts"],
        1
    );
}

#[tokio::test]
async fn delivery_states_refused_and_waiting_differ() {
    let mut world = with_short_schedule().await;
    let refused = submit(&world, deliver("http://10.9.8.7/hook", "")).await;
    let call = world.wait_call(&refused, "refused", TIMEOUT).await;
    assert_eq!(call["code"], "refused_by_policy");
    assert_eq!(call["attempts"], 0);
    world.stop_bridge().await;
    let waiting = submit(&world, deliver(&world.target.url("/hook"), "later")).await;
    world
        .wait_call(&waiting, "waiting_for_bridge", TIMEOUT)
        .await;
    world.start_bridge();
    let call = world.wait_call(&waiting, "succeeded", TIMEOUT).await;
    assert_eq!(call["attempts"], 1);
    assert_eq!(world.target.hooks().len(), 1);
}

#[tokio::test]
async fn cancelled_delivery_is_not_made() {
    let mut world = TestEnv::start().await;
    world.stop_bridge().await;
    let id = submit(&world, deliver(&world.target.url("/hook"), "")).await;
    world.wait_call(&id, "waiting_for_bridge", TIMEOUT).await;
    let cancel = Ask::post(format!("/v1/calls/{id}/cancel")).key(&world.caller);
    world.api.send(cancel).await.expect_status(200);
    world.start_bridge();
    world.wait_online().await;
    let again = Ask::post(format!("/v1/calls/{id}/cancel")).key(&world.caller);
    world.api.send(again).await.expect_status(409);
    assert_eq!(world.stored_call(&id).await["state"], "cancelled");
    assert!(world.target.hooks().is_empty());
}

#[tokio::test]
async fn idempotency_key_stores_one_delivery() {
    let world = TestEnv::start().await;
    let url = world.target.url("/hook");
    let with_key = |body: &str| {
        let mut call = deliver(&url, body);
        call["idempotency_key"] = json!("k1");
        call
    };
    let first = submit(&world, with_key("a")).await;
    let again = world.call(with_key("a")).await.expect_status(202);
    assert_eq!(again.json()["id"], first.as_str());
    assert_eq!(again.headers["idempotency-replayed"], "true");
    world.call(with_key("b")).await.expect_status(409);
    world.wait_call(&first, "succeeded", TIMEOUT).await;
    assert_eq!(world.target.hooks().len(), 1);
}

#[tokio::test]
async fn lost_response_causes_no_second_delivery() {
    let mut world = TestEnv::start().await;
    let id = submit(&world, deliver(&world.target.url("/delay/1500"), "")).await;
    world.target.wait_for_requests(1, TIMEOUT).await;
    // The relay is killed while the target works, so the bridge cannot deliver the response to it.
    world.kill_relay().await;
    let_time_pass(
        Duration::from_secs(2),
        "the target responds while the relay is down",
    )
    .await;
    world.start_relay().await;
    let call = world.wait_call(&id, "succeeded", TIMEOUT).await;
    assert_eq!(call["attempts"], 1);
    assert_eq!(world.target.requests(), 1);
}

#[tokio::test]
async fn bridge_killed_mid_delivery_is_outcome_unknown() {
    let mut world = with_short_schedule().await;
    let url = world.target.url("/hang");
    let once = submit(&world, deliver(&url, "")).await;
    world.target.wait_for_requests(1, TIMEOUT).await;
    let mut more = deliver(&world.target.url("/hang"), "");
    more["at_least_once"] = json!(true);
    let more = submit(&world, more).await;
    world.target.wait_for_requests(2, TIMEOUT).await;
    world.kill_bridge().await;
    world.start_bridge();
    let call = world.wait_call(&once, "outcome_unknown", TIMEOUT).await;
    assert_eq!(call["execution"], "possibly_executed");
    // A delivery with `at_least_once` is repeated.
    world.target.wait_for_requests(3, TIMEOUT).await;
    assert_eq!(world.stored_call(&more).await["state"], "attempting");
}

#[tokio::test]
async fn lost_journal_is_outcome_unknown() {
    let mut world = with_short_schedule().await;
    let id = submit(&world, deliver(&world.target.url("/hang"), "")).await;
    world.target.wait_for_requests(1, TIMEOUT).await;
    world.kill_bridge().await;
    std::fs::remove_file(world.bridge_data_dir().join("journal.redb")).unwrap();
    world.start_bridge();
    let call = world.wait_call(&id, "outcome_unknown", TIMEOUT).await;
    assert!(
        call["detail"].as_str().unwrap().contains("journal"),
        "{call:#}"
    );
    assert_eq!(world.target.requests(), 1);
}

#[tokio::test]
async fn call_of_another_tenant_is_not_found() {
    let world = TestEnv::start().await;
    let id = submit(&world, deliver(&world.target.url("/hook"), "")).await;
    world.wait_call(&id, "succeeded", TIMEOUT).await;
    let stranger = world.tenant_without_bridges().await;
    for (method, path) in [
        ("GET", format!("/v1/calls/{id}")),
        ("POST", format!("/v1/calls/{id}/redeliver")),
        ("POST", format!("/v1/calls/{id}/cancel")),
    ] {
        let ask = |path: &str| match method {
            "GET" => Ask::get(path.to_owned()).key(&stranger),
            _ => Ask::post(path.to_owned()).key(&stranger),
        };
        let theirs = world.api.send(ask(&path)).await.expect_status(404);
        let nobodys = path.replace(&id, &format!("call_{}", "0".repeat(32)));
        let none = world.api.send(ask(&nobodys)).await.expect_status(404);
        assert_eq!(theirs.text(), none.text(), "{method} {path}");
    }
    let list = Ask::get("/v1/calls").key(&stranger);
    let list = world.api.send(list).await.expect_status(200).json();
    assert_eq!(list["calls"], json!([]));
}

#[tokio::test]
async fn paused_deliveries_are_stored_and_wait() {
    let world = TestEnv::start().await;
    world.relay_cli(&["deliveries", "pause"]).await;
    let id = submit(&world, deliver(&world.target.url("/hook"), "")).await;
    let_time_pass(
        Duration::from_millis(1500),
        "a delivery would arrive at once",
    )
    .await;
    assert!(world.target.hooks().is_empty());
    world.relay_cli(&["deliveries", "resume"]).await;
    world.wait_call(&id, "succeeded", TIMEOUT).await;
}
