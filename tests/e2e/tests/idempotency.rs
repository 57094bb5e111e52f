//! One idempotency key has one effect, whatever happens to the relay.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use serde_json::{Value, json};
use std::time::Duration;
use support::{Answer, Ask, Installation, PostgresDatabase, Target};

/// What any one wait may take on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

struct World {
    site: Installation,
    target: Target,
}

impl World {
    async fn start(relay_extra: &str) -> Self {
        let target = Target::start().await;
        let site = Installation::builder()
            .target("app", &target)
            .relay_extra(relay_extra)
            .start()
            .await;
        Self { site, target }
    }

    fn call(&self, path: &str, key: &str) -> Value {
        json!({"url": self.target.url(path), "body": "x", "idempotency_key": key})
    }

    async fn ask(&self, call: &Value) -> Answer {
        let ask = Ask::post("/v1/calls").key(&self.site.caller).json(call);
        self.site.relay.internal().send(ask).await
    }

    async fn create_key(&self) -> Answer {
        let ask = Ask::post("/v1/keys")
            .key(&self.site.admin)
            .header("idempotency-key", "key-1")
            .json(&json!({"role": "caller", "name": "once"}));
        self.site.relay.internal().send(ask).await
    }
}

async fn one_key_has_one_effect_after_a_kill(relay_extra: &str) {
    let mut world = World::start(relay_extra).await;
    let done = world.call("/hook", "done");
    let first = world.ask(&done).await.expect_status(200).json();
    let key = world.create_key().await.expect_status(201).json();
    let stored = json!({"url": world.target.url("/hook"), "body": "later", "mode": "deliver", "idempotency_key": "stored"});
    let receipt = world.ask(&stored).await.expect_status(202).json();
    let seen = world.target.requests();
    let hanging = world.call("/hang", "hangs");
    let (origin, caller) = (world.site.relay.internal(), world.site.caller.clone());
    let waiting = tokio::spawn({
        let ask = Ask::post("/v1/calls").key(&caller).json(&hanging);
        async move { origin.try_send(ask).await.is_err() }
    });
    world.target.wait_for_requests(seen + 1, PATIENCE).await;
    world.site.relay.kill9();
    assert!(waiting.await.unwrap(), "the relay was killed meanwhile");
    world.site.relay.start().await;

    for _ in 0..2 {
        let unknown = world.ask(&hanging).await.expect_status(409);
        assert_eq!(unknown.code(), "outcome_unknown");
        assert_eq!(unknown.execution(), "possibly_executed");
        let again = world.ask(&done).await.expect_status(200);
        assert_eq!(again.headers["idempotency-replayed"], "true");
        assert_eq!(again.json(), first);
        let again = world.create_key().await.expect_status(201);
        assert_eq!(again.headers["idempotency-replayed"], "true");
        assert_eq!(again.json(), key);
        let again = world.ask(&stored).await.expect_status(202).json();
        assert_eq!(again["id"], receipt["id"]);
    }
    let other = json!({"url": world.target.url("/hook"), "body": "y", "idempotency_key": "done"});
    assert_eq!(
        world.ask(&other).await.expect_status(409).code(),
        "conflict"
    );
    // A key belongs to waiting calls and stored ones together.
    let mut crossed = done.clone();
    crossed["mode"] = json!("deliver");
    assert_eq!(
        world.ask(&crossed).await.expect_status(409).code(),
        "conflict"
    );
    let mut crossed = stored.clone();
    crossed["mode"] = json!("wait");
    assert_eq!(
        world.ask(&crossed).await.expect_status(409).code(),
        "conflict"
    );

    let keys = Ask::get("/v1/keys").key(&world.site.admin);
    let keys = world.site.relay.internal().send(keys).await.json();
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
async fn one_key_has_one_effect_after_a_kill_on_sqlite() {
    one_key_has_one_effect_after_a_kill("").await;
}

#[tokio::test]
async fn one_key_has_one_effect_after_a_kill_on_postgresql() {
    let database = PostgresDatabase::create();
    let storage = format!("[storage]\nurl = \"{}\"\n", database.url());
    one_key_has_one_effect_after_a_kill(&storage).await;
}

#[tokio::test]
async fn call_that_was_not_made_frees_its_key_also_after_a_restart() {
    let mut world = World::start("").await;
    let call = world.call("/hook", "k");
    world.site.bridge.stop(PATIENCE).await;
    let admin = world.site.admin.clone();
    let name = world.site.bridge.name().to_owned();
    world
        .site
        .relay
        .wait_bridge(&admin, &name, false, PATIENCE)
        .await;
    let offline = world.ask(&call).await.expect_status(503);
    assert_eq!(offline.execution(), "not_sent");
    world.site.relay.kill9();
    world.site.relay.start().await;
    world.site.bridge.start();
    world.site.wait_online(&world.site.bridge).await;
    world.ask(&call).await.expect_status(200);
    assert_eq!(world.target.hooks().len(), 1);
}

#[tokio::test]
async fn api_response_is_repeated_to_its_own_client_only() {
    let world = World::start("").await;
    let relay = &world.site.relay;
    let other = relay.create_key(&world.site.tenant, "admin").await;
    let first = world.create_key().await.expect_status(201).json();
    let again = world.create_key().await.expect_status(201).json();
    assert_eq!(first, again);
    let ask = Ask::post("/v1/keys")
        .key(&other)
        .header("idempotency-key", "key-1")
        .json(&json!({"role": "caller", "name": "once"}));
    let theirs = relay.internal().send(ask).await.expect_status(201).json();
    assert_ne!(first["client_id"], theirs["client_id"]);
}

#[tokio::test]
async fn narrowed_key_gets_no_response_of_another_key() {
    let world = World::start("").await;
    let relay = &world.site.relay;
    let narrowed = ["--host", "127.0.0.1"];
    let narrowed = relay
        .create_key_with(&world.site.tenant, "caller", &narrowed)
        .await;
    let call = world.call("/hook", "shared");
    world.ask(&call).await.expect_status(200);
    let ask = Ask::post("/v1/calls").key(&narrowed).json(&call);
    relay.internal().send(ask).await.expect_status(409);
    assert_eq!(world.target.requests(), 1);
}
