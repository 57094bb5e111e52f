//! An endpoint's name belongs to the bridge that declared it first, until an administrator assigns it to
//! another one.

use hyper::Method;
use serde_json::{Value, json};
use std::time::Duration;
use support::setup::{Allow, BridgeSetup, Endpoint};
use support::{ApiKey, Ask, TIMEOUT, Target, TestEnv, eventually};

/// A bridge that serves the target under these names.
fn serving(bridge: &str, names: &[&str], target: &Target) -> BridgeSetup {
    let setup = BridgeSetup::new(bridge);
    names.iter().fold(setup, |setup, name| {
        setup.endpoint(Endpoint::new(name, target.url("/")))
    })
}

async fn get(world: &TestEnv, path: &str) -> Value {
    world.get(path, &world.admin).await
}

/// Sends twenty concurrent requests to the endpoint `t`, so that a second route would be chosen as well.
async fn use_t(world: &TestEnv) {
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let ask = Ask::get(world.endpoint("/delay/200")).key(&world.caller);
        let api = world.api.clone();
        tasks.spawn(async move { api.send(ask).await.expect_status(200) });
    }
    while let Some(answer) = tasks.join_next().await {
        answer.unwrap();
    }
}

/// Waits until the bridge gets the requests for `t`, or no longer.
async fn until_routed(world: &TestEnv, bridge: &str, is_routed: bool) {
    eventually(TIMEOUT, "a change of the route", async || {
        let shown = get(world, &format!("/v1/bridges/{bridge}")).await;
        let endpoints = shown["sessions"][0]["endpoints"].as_array()?.clone();
        let t = endpoints.iter().find(|endpoint| endpoint["name"] == "t")?;
        (t["refused"].is_null() == is_routed).then_some(())
    })
    .await;
}

async fn change(world: &TestEnv, method: Method, path: &str) -> Value {
    let ask = Ask::new(method, path.to_owned()).key(&world.admin);
    world.api.send(ask).await.expect_status(200).json()
}

#[tokio::test]
async fn claimed_endpoint_is_not_shared() {
    let world = TestEnv::start().await;
    let other = Target::start().await;
    let mut second = world.add_bridge(serving("b2", &["t", "own"], &other)).await;
    use_t(&world).await;
    assert_eq!((world.target.requests(), other.requests()), (20, 0));
    // Its other endpoint works.
    let own = Ask::get("/v1/endpoints/own/small").key(&world.caller);
    world.api.send(own).await.expect_status(200);
    assert_eq!(other.requests(), 1);

    // It is shown everywhere.
    let shown = get(&world, "/v1/bridges/b2").await;
    let endpoints = &shown["sessions"][0]["endpoints"];
    assert_eq!(endpoints[0]["refused"], "it belongs to b1", "{endpoints}");
    assert_eq!(endpoints[1]["refused"], Value::Null);
    assert_eq!(shown["owned_endpoints"], json!(["own"]));
    let first = get(&world, "/v1/bridges/b1").await;
    assert_eq!(first["owned_endpoints"], json!(["t"]));
    let metrics = world.metrics().await;
    assert!(
        metrics.contains("integration_relay_endpoints_refused 1"),
        "{metrics}"
    );
    world
        .relay
        .process()
        .wait_log("does not own", TIMEOUT)
        .await;
    let notice = eventually(TIMEOUT, "a notice", async || {
        let page = get(&world, "/v1/notices?open=true").await;
        let notices = page["notices"].as_array()?.clone();
        notices
            .into_iter()
            .find(|one| one["kind"] == "endpoint_conflict")
    })
    .await;
    assert_eq!(notice["object"], "b2");
    let detail = notice["detail"].as_str().unwrap();
    assert!(detail.contains("t (it belongs to b1)"), "{detail}");
    eventually(TIMEOUT, "an audit row", async || {
        let page = get(&world, "/v1/audit?action=endpoint.conflict").await;
        page["audit"][0]["object"] == "b2"
    })
    .await;
    let list = world.relay_cli(&["bridge", "list"]).await;
    assert!(list.contains("endpoints refused"), "{list}");
    let list = world.relay_cli(&["bridge", "endpoints"]).await;
    assert!(list.contains("own") && list.contains("b2"), "{list}");

    // Reconnecting does not make a bridge the first to declare a name.
    second.kill9();
    second.start();
    second.process().wait_log("session up", TIMEOUT).await;
    use_t(&world).await;
    assert_eq!((world.target.requests(), other.requests()), (40, 1));
}

#[tokio::test]
async fn endpoint_of_an_offline_owner_is_not_rerouted() {
    let mut world = TestEnv::start().await;
    world.wait_online().await;
    let other = Target::start().await;
    let _second = world.add_bridge(serving("b2", &["t"], &other)).await;
    world.kill_bridge().await;
    world.wait_sessions(1, TIMEOUT).await;
    let ask = Ask::get(world.endpoint("/small")).key(&world.caller);
    assert_eq!(world.api.send(ask).await.code(), "bridge_offline");
    assert_eq!(other.requests(), 0);
    // The ownership survives a restart of the relay.
    world.kill_relay().await;
    world.start_relay().await;
    world.wait_sessions(1, Duration::from_secs(90)).await;
    let ask = Ask::get(world.endpoint("/small")).key(&world.caller);
    assert_eq!(world.api.send(ask).await.code(), "bridge_offline");
    assert_eq!(other.requests(), 0);
}

#[tokio::test]
async fn administrator_moves_shares_and_frees_an_endpoint() {
    let world = TestEnv::start().await;
    let other = Target::start().await;
    let _second = world.add_bridge(serving("b2", &["t"], &other)).await;
    until_routed(&world, "b2", false).await;

    let shared = change(&world, Method::PUT, "/v1/bridges/b2/endpoints/t?also=true").await;
    assert_eq!(shared["bridges"], json!(["b1", "b2"]));
    until_routed(&world, "b2", true).await;
    until_routed(&world, "b1", true).await;

    world
        .relay_cli(&["bridge", "assign", "b2", "--endpoint", "t"])
        .await;
    until_routed(&world, "b1", false).await;
    let (mine, theirs) = (world.target.requests(), other.requests());
    use_t(&world).await;
    assert_eq!(
        (world.target.requests(), other.requests()),
        (mine, theirs + 20)
    );

    // Freed with its bridge: the next one that declares it has it.
    let revoke = Ask::post("/v1/bridges/b2/revoke").key(&world.admin);
    world.api.send(revoke).await.expect_status(200);
    until_routed(&world, "b1", true).await;
    use_t(&world).await;
    assert_eq!(world.target.requests(), mine + 20);

    // Assigned in advance: no bridge can take it by being first.
    let assigned = world.relay_cli(&["bridge", "assign", "b1", "--endpoint", "later"]);
    assert!(assigned.await.contains("later"));
    let squatter = world.add_bridge(serving("b3", &["later"], &other)).await;
    let ask = Ask::get("/v1/endpoints/later/small").key(&world.caller);
    assert_eq!(world.api.send(ask).await.code(), "unknown_endpoint");
    let refused = get(&world, "/v1/bridges/b3").await;
    let refused = &refused["sessions"][0]["endpoints"][0]["refused"];
    assert_eq!(*refused, "it belongs to b1");
    world
        .relay_cli(&["bridge", "release", "b1", "--endpoint", "later"])
        .await;
    let ask = || Ask::get("/v1/endpoints/later/small").key(&world.caller);
    eventually(TIMEOUT, "a route to b3", async || {
        world.api.send(ask()).await.status == 200
    })
    .await;
    drop(squatter);
    for path in [
        "/v1/bridges/b9/endpoints/t",
        "/v1/bridges/b1/endpoints/none",
    ] {
        let ask = Ask::new(Method::DELETE, path).key(&world.admin);
        world.api.send(ask).await.expect_status(404);
    }
    let ask = Ask::new(Method::PUT, "/v1/bridges/b1/endpoints/No").key(&world.admin);
    world.api.send(ask).await.expect_status(400);
}

#[tokio::test]
async fn status_claims_no_endpoint_of_another_bridge() {
    let world = TestEnv::start().await;
    let other = Target::start().await;
    let second = world.add_bridge(serving("b2", &["own"], &other)).await;
    let file = second.config().to_owned();
    let text = std::fs::read_to_string(&file).unwrap();
    let url = other.url("/");
    let more = ["t", "new"].map(|name| format!("\n[[endpoint]]\nname = {name:?}\nurl = {url:?}\n"));
    std::fs::write(&file, text + &more.concat()).unwrap();
    // The endpoint without an owner is its own at once.
    eventually(TIMEOUT, "a route to the new endpoint", async || {
        let ask = Ask::get("/v1/endpoints/new/small").key(&world.caller);
        world.api.send(ask).await.status == 200
    })
    .await;
    let before = other.requests();
    use_t(&world).await;
    assert_eq!((world.target.requests(), other.requests()), (20, before));
}

#[tokio::test]
async fn bridge_of_narrowed_key_serves_its_endpoints() {
    let world = TestEnv::start().await;
    let other = Target::start().await;
    let key = world
        .key("bridge", &["--bridge", "b2", "--endpoint", "own"])
        .await;
    let output = world.pair_fails("b3", &key).await;
    assert!(output.contains("narrowed"), "{output}");
    let setup = serving("b2", &["own", "free"], &other).allow(Allow::loopback(other.port()));
    let _second = world.add_bridge_with_key(setup, &key).await;
    let ask = |name: &str| {
        let path = format!("/v1/endpoints/{name}/small");
        Ask::get(path).key(&world.caller)
    };
    world.api.send(ask("own")).await.expect_status(200);
    assert_eq!(world.api.send(ask("free")).await.code(), "unknown_endpoint");
    // Its host pattern attracts no call: only b1 is asked, which does not allow this port.
    let before = other.requests();
    for _ in 0..10 {
        let call = json!({"url": other.url("/small"), "method": "GET"});
        assert_eq!(world.call(call).await.code(), "refused_by_policy");
    }
    assert_eq!(other.requests(), before);
    let shown = get(&world, "/v1/bridges/b2").await;
    let refused = shown["sessions"][0]["endpoints"][1]["refused"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(refused.contains("other endpoints"), "{refused}");
}

/// Narrowed to another bridge, an administrator cannot move an endpoint to it.
#[tokio::test]
async fn narrowed_admin_takes_no_foreign_endpoint() {
    let world = TestEnv::start().await;
    let other = Target::start().await;
    let _second = world.add_bridge(serving("b2", &["t"], &other)).await;
    let narrowed: ApiKey = world.key("admin", &["--bridge", "b2"]).await;
    for (method, path) in [
        (Method::PUT, "/v1/bridges/b2/endpoints/t"),
        (Method::PUT, "/v1/bridges/b2/endpoints/t?also=true"),
        (Method::PUT, "/v1/bridges/b1/endpoints/t"),
        (Method::DELETE, "/v1/bridges/b1/endpoints/t"),
        (Method::POST, "/v1/bridges/b1/disable"),
    ] {
        let ask = Ask::new(method, path).key(&narrowed);
        world.api.send(ask).await.expect_status(403);
    }
    let free = Ask::new(Method::PUT, "/v1/bridges/b2/endpoints/free").key(&narrowed);
    world.api.send(free).await.expect_status(200);
    use_t(&world).await;
    assert_eq!(other.requests(), 0);
}
