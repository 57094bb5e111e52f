//! An idempotency key has one effect, also when the relay is killed.

use serde_json::{Value, json};
use support::setup::Builder;
use support::{Answer, Ask, LONG_TIMEOUT, PostgresDatabase, TestEnv};

fn keyed_call(world: &TestEnv, path: &str, key: &str) -> Value {
    json!({"url": world.target.url(path), "body": "x", "idempotency_key": key})
}

async fn create_key(world: &TestEnv) -> Answer {
    let ask = Ask::post("/v1/keys")
        .key(&world.admin)
        .header("idempotency-key", "key-1")
        .json(&json!({"role": "caller", "name": "once"}));
    world.api.send(ask).await
}

async fn repeat_after_a_kill(builder: Builder) {
    let mut world = builder.start().await;
    let done = keyed_call(&world, "/hook", "done");
    let first = world.call(done.clone()).await.expect_status(200).json();
    let key = create_key(&world).await.expect_status(201).json();
    let stored = json!({"url": world.target.url("/hook"), "body": "later", "mode": "deliver", "idempotency_key": "stored"});
    let receipt = world.call(stored.clone()).await.expect_status(202).json();
    let seen = world.target.requests();
    let hanging = keyed_call(&world, "/hang", "hangs");
    let (origin, caller) = (world.api.clone(), world.caller.clone());
    let waiting = tokio::spawn({
        let ask = Ask::post("/v1/calls").key(&caller).json(&hanging);
        async move { origin.try_send(ask).await.is_err() }
    });
    world.target.wait_for_requests(seen + 1, LONG_TIMEOUT).await;
    world.relay.kill9();
    assert!(waiting.await.unwrap(), "the relay was killed meanwhile");
    world.relay.start().await;

    for _ in 0..2 {
        let unknown = world.call(hanging.clone()).await.expect_status(409);
        assert_eq!(unknown.code(), "outcome_unknown");
        assert_eq!(unknown.execution(), "possibly_executed");
        let again = world.call(done.clone()).await.expect_status(200);
        assert_eq!(again.headers["idempotency-replayed"], "true");
        assert_eq!(again.json(), first);
        let again = create_key(&world).await.expect_status(201);
        assert_eq!(again.headers["idempotency-replayed"], "true");
        assert_eq!(again.json(), key);
        let again = world.call(stored.clone()).await.expect_status(202).json();
        assert_eq!(again["id"], receipt["id"]);
    }
    let other = json!({"url": world.target.url("/hook"), "body": "y", "idempotency_key": "done"});
    assert_eq!(
        world.call(other.clone()).await.expect_status(409).code(),
        "conflict"
    );
    // A key belongs to waiting calls and stored ones together.
    let mut crossed = done.clone();
    crossed["mode"] = json!("deliver");
    assert_eq!(
        world.call(crossed.clone()).await.expect_status(409).code(),
        "conflict"
    );
    let mut crossed = stored.clone();
    crossed["mode"] = json!("wait");
    assert_eq!(
        world.call(crossed.clone()).await.expect_status(409).code(),
        "conflict"
    );

    let keys = Ask::get("/v1/keys").key(&world.admin);
    let keys = world.api.send(keys).await.json();
    let named = keys["keys"].as_array().unwrap();
    let named = named.iter().filter(|key| key["name"] == "once").count();
    assert_eq!(named, 1);
    let hooks = world.target.hooks();
    let waited = hooks.iter().filter(|hook| hook.body == "x").count();
    assert_eq!(waited, 1);
    let delivered = hooks.iter().filter(|hook| hook.body == "later").count();
    assert!(delivered <= 1, "{delivered}");
}

#[tokio::test]
async fn idempotency_key_survives_a_kill_on_sqlite() {
    repeat_after_a_kill(TestEnv::builder()).await;
}

#[tokio::test]
async fn idempotency_key_survives_a_kill_on_postgresql() {
    let database = PostgresDatabase::create();
    let builder = TestEnv::builder().relay(|relay| relay.database(database.url()));
    repeat_after_a_kill(builder).await;
}

#[tokio::test]
async fn unmade_call_frees_its_idempotency_key() {
    let mut world = TestEnv::start().await;
    let call = keyed_call(&world, "/hook", "k");
    world.stop_bridge().await;
    let offline = world.call(call.clone()).await.expect_status(503);
    assert_eq!(offline.execution(), "not_sent");
    world.kill_relay().await;
    world.start_relay().await;
    world.start_bridge();
    world.wait_bridge_online(&world.bridge).await;
    world.call(call.clone()).await.expect_status(200);
    assert_eq!(world.target.hooks().len(), 1);
}

#[tokio::test]
async fn form_of_a_repeated_call_makes_no_difference() {
    let world = TestEnv::start().await;
    let url = world.target.url("/hook");
    let send = async |text: &str, key: Option<&str>| {
        let ask = Ask::post("/v1/calls").key(&world.caller);
        let ask = ask.header("content-type", "application/json");
        let ask = match key {
            Some(key) => ask.header("idempotency-key", key),
            None => ask,
        };
        world.api.send(ask.body(text.to_owned())).await
    };
    for (mode, status) in [("wait", 200), ("deliver", 202)] {
        // The key in the header, then in the document, whose members are in another order.
        let first = format!(r#"{{"url":"{url}","mode":"{mode}","body":"x"}}"#);
        let again = format!(
            r#"{{ "idempotency_key": "{mode}", "body": "x",  "mode": "{mode}", "url": "{url}" }}"#
        );
        let done = send(&first, Some(mode)).await.expect_status(status);
        let repeated = send(&again, None).await.expect_status(status);
        assert_eq!(repeated.headers["idempotency-replayed"], "true");
        assert_eq!(repeated.json()["id"], done.json()["id"]);
        let other = again.replace(r#""x""#, r#""y""#);
        let conflict = send(&other, None).await.expect_status(409);
        assert_eq!(conflict.code(), "conflict");
    }
}

#[tokio::test]
async fn api_response_is_repeated_to_its_own_client_only() {
    let world = TestEnv::start().await;
    let other = world.key("admin", &[]).await;
    let first = create_key(&world).await.expect_status(201).json();
    let again = create_key(&world).await.expect_status(201).json();
    assert_eq!(first, again);
    let ask = Ask::post("/v1/keys")
        .key(&other)
        .header("idempotency-key", "key-1")
        .json(&json!({"role": "caller", "name": "once"}));
    let theirs = world.api.send(ask).await.expect_status(201).json();
    assert_ne!(first["client_id"], theirs["client_id"]);
}

#[tokio::test]
async fn narrowed_key_gets_no_response_of_another_key() {
    let world = TestEnv::start().await;
    let narrowed = world.key("caller", &["--host", "127.0.0.1"]).await;
    let call = keyed_call(&world, "/hook", "shared");
    world.call(call.clone()).await.expect_status(200);
    let ask = Ask::post("/v1/calls").key(&narrowed).json(&call);
    world.api.send(ask).await.expect_status(409);
    assert_eq!(world.target.requests(), 1);
}
