//! Administration by the API and the command line.

use hyper::Method;
use serde_json::json;
use std::time::Duration;
use support::setup::Neighbour;
use support::{ApiKey, Ask, LONG_TIMEOUT, TIMEOUT, TestEnv, eventually, let_time_pass};

const TWO_SECONDS: Duration = Duration::from_secs(2);

#[tokio::test]
async fn rotated_key_keeps_old_secret_during_overlap() {
    let world = TestEnv::start().await;
    let path = format!("/v1/keys/{}/rotate", world.caller.client_id);
    let rotate = Ask::post(path)
        .key(&world.admin)
        .json(&json!({"overlap_s": 2}));
    let rotated = world.api.send(rotate).await.expect_status(200).json();
    let new = ApiKey::from_json(&rotated.to_string());
    let small = world.endpoint("/small");
    for key in [&world.caller, &new] {
        let ask = Ask::get(small.clone()).key(key);
        world.api.send(ask).await.expect_status(200);
    }
    let_time_pass(Duration::from_millis(2500), "the overlap lasts two seconds").await;
    let old = Ask::get(small.clone()).key(&world.caller);
    world.api.send(old).await.expect_status(401);
    world
        .api
        .send(Ask::get(small).key(&new))
        .await
        .expect_status(200);
}

#[tokio::test]
async fn disabled_bridge_returns_when_enabled() {
    let mut world = TestEnv::start().await;
    let switch = |what: &str| Ask::post(format!("/v1/bridges/b1/{what}")).key(&world.admin);
    world.api.send(switch("disable")).await.expect_status(200);
    world.wait_sessions(0, TWO_SECONDS).await;
    let shown = world.get("/v1/bridges/b1", &world.admin).await;
    assert_eq!(
        (&shown["disabled"], &shown["online"]),
        (&json!(true), &json!(false))
    );
    world.api.send(switch("enable")).await.expect_status(200);
    // The bridge retries within a minute; a new process dials at once.
    world.kill_bridge().await;
    world.start_bridge();
    world.wait_online().await;
}

#[tokio::test]
async fn deleted_tenant_leaves_no_data() {
    let world = TestEnv::start().await;
    let site = world.site_admin().await;
    let call =
        json!({"mode": "deliver", "url": world.target.url("/hook"), "body": "leaves-no-trace"});
    world.call(call).await.expect_status(202);
    let name = world.tenant().to_owned();
    let delete = Ask::new(Method::DELETE, format!("/v1/tenants/{name}")).key(&site);
    world.api.send(delete).await.expect_status(204);
    world.wait_sessions(0, TWO_SECONDS).await;
    eventually(TWO_SECONDS, "401 for the tenant's key", async || {
        let ask = Ask::get("/v1/bridges").key(&world.admin);
        world.api.send(ask).await.status == 401
    })
    .await;
    let gone = Ask::get(format!("/v1/tenants/{name}")).key(&site);
    world.api.send(gone).await.expect_status(404);
    let listed = world.get("/v1/tenants", &site).await;
    assert_eq!(listed["tenants"], json!([]));
    let keys = world.get("/v1/keys", &site).await;
    for key in keys["keys"].as_array().unwrap() {
        assert_eq!(key["role"], "site-admin", "{key}");
    }
    // Its name is free, and the new tenant has nothing of the old one.
    let again = Ask::post("/v1/tenants")
        .key(&site)
        .json(&json!({"name": name}));
    world.api.send(again).await.expect_status(201);
    let path = format!("/v1/calls?tenant={name}");
    assert_eq!(world.get(&path, &site).await["calls"], json!([]));
}

#[tokio::test]
async fn narrowed_key_is_limited_to_its_scope() {
    let world = TestEnv::start().await;
    let host = world.key("caller", &["--host", "127.0.0.1"]).await;
    let other = world.key("caller", &["--host", "*.corp.example"]).await;
    let endpoint = world
        .key("synchronizer", &["--endpoint", "elsewhere"])
        .await;
    let bridge = world.key("caller", &["--bridge", "b2"]).await;
    let url = world.target.url("/small");
    let call = json!({"url": url, "method": "GET"});
    let ask = |key: &ApiKey| Ask::post("/v1/calls").key(key).json(&call);
    world.api.send(ask(&host)).await.expect_status(200);
    let refused = world.api.send(ask(&other)).await.expect_status(403);
    assert!(
        refused.text().contains("corp.example"),
        "{}",
        refused.text()
    );
    let small = Ask::get(world.endpoint("/small")).key(&endpoint);
    let refused = world.api.send(small).await.expect_status(403);
    assert_eq!(refused.json()["code"], "forbidden");
    let away = world.api.send(ask(&bridge)).await;
    assert!(away.status.as_u16() >= 400, "{}", away.status);
    assert_eq!(world.target.requests(), 1);
}

#[tokio::test]
async fn audit_lists_actions_without_secrets() {
    let world = TestEnv::builder()
        .relay(|relay| relay.set("audit.sums_every", "200ms"))
        .start()
        .await;
    let site = world.site_admin().await;
    let create = json!({"role": "caller", "name": "audited"});
    let create = Ask::post("/v1/keys").key(&world.admin).json(&create);
    let made = world.api.send(create).await.expect_status(201).json();
    let call = json!({"url": world.target.url("/hook?token=in-the-url"), "body": "in-the-body",
                      "headers": {"x-secret": "in-a-header"}});
    world.call(call).await.expect_status(200);
    for _ in 0..3 {
        let ask = Ask::get(world.endpoint("/small")).key(&world.caller);
        world.api.send(ask).await.expect_status(200);
    }
    let rows = eventually(Duration::from_secs(10), "audited exchanges", async || {
        let page = world.get("/v1/audit?limit=1000", &world.admin).await;
        let rows = page["audit"].as_array().unwrap().clone();
        let exchanges: i64 = rows
            .iter()
            .filter(|row| row["action"] == "endpoint" && row["object"] == "t")
            .map(|row| row["count"].as_i64().unwrap())
            .sum();
        if exchanges >= 3 && rows.iter().any(|row| row["action"] == "call") {
            return Ok(rows);
        }
        Err(format!("{rows:#?}"))
    })
    .await;
    let created = rows
        .iter()
        .find(|row| row["object"] == made["client_id"])
        .unwrap();
    assert_eq!(created["action"], "key.create");
    assert_eq!(created["actor"], world.admin.client_id.as_str());
    let called = rows.iter().find(|row| row["action"] == "call").unwrap();
    assert_eq!(
        (&called["result"], &called["bridge"]),
        (&json!("ok"), &json!("b1"))
    );
    let secret = made["client_secret"].as_str().unwrap();
    for file in world.relay_files() {
        let bytes = std::fs::read(&file).unwrap();
        for needle in [secret, "in-the-url", "in-the-body", "in-a-header"] {
            let found = bytes
                .windows(needle.len())
                .any(|window| window == needle.as_bytes());
            assert!(!found, "{needle} is in {}", file.display());
        }
    }
    // A site administrator sees the rows of every tenant.
    let all = world.get("/v1/audit?action=key.create", &site).await;
    assert!(all["audit"].as_array().unwrap().len() > 3);
}

#[tokio::test]
async fn tenant_change_needs_the_current_etag() {
    let world = TestEnv::start().await;
    let site = world.site_admin().await;
    let synchronizer = world.key("synchronizer", &[]).await;
    let report = Ask::new(Method::PUT, "/v1/services/synchronizer")
        .key(&synchronizer)
        .json(&json!({"version": "7.1"}));
    world.api.send(report).await.expect_status(200);
    let path = format!("/v1/tenants/{}", world.tenant());
    let shown = world
        .api
        .send(Ask::get(path.clone()).key(&site))
        .await
        .expect_status(200);
    assert_eq!(shown.json()["synchronizer_service"], "7.1");
    assert_eq!(
        shown.json()["bridge_service"],
        concat!("integration-bridge/", env!("CARGO_PKG_VERSION"))
    );
    let tag = shown.headers["etag"].to_str().unwrap().to_owned();
    let change = |tag: &str| {
        Ask::new(Method::PATCH, path.clone())
            .key(&site)
            .header("if-match", tag)
            .json(&json!({"direct_urls": ["https://hooks.example.com/*"]}))
    };
    world.api.send(change(&tag)).await.expect_status(200);
    let late = world.api.send(change(&tag)).await.expect_status(412);
    assert_eq!(late.json()["code"], "precondition_failed");
    // Other keys have no access to tenants.
    for key in [&world.admin, &world.caller] {
        let ask = Ask::get("/v1/tenants").key(key);
        world.api.send(ask).await.expect_status(403);
    }
    let escalate = Ask::post("/v1/keys")
        .key(&world.admin)
        .json(&json!({"role": "site-admin"}));
    world.api.send(escalate).await.expect_status(403);
}

#[tokio::test]
async fn idempotency_key_creates_one_api_key() {
    let world = TestEnv::start().await;
    let create = |name: &str| {
        Ask::post("/v1/keys")
            .key(&world.admin)
            .header("idempotency-key", "k1")
            .json(&json!({"role": "caller", "name": name}))
    };
    let first = world.api.send(create("a")).await.expect_status(201);
    let again = world.api.send(create("a")).await.expect_status(201);
    assert_eq!(first.json(), again.json());
    assert_eq!(again.headers["idempotency-replayed"], "true");
    world.api.send(create("b")).await.expect_status(409);
    let keys = world.get("/v1/keys", &world.admin).await;
    let named = keys["keys"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|key| key["name"] == "a");
    assert_eq!(named.count(), 1);
}

#[tokio::test]
async fn ten_tenants_with_equal_names_are_isolated() {
    let world = TestEnv::start().await;
    let mut neighbours = Vec::new();
    for n in 0..10 {
        neighbours.push(world.second_tenant(&format!("tenant-{n}")).await);
    }
    let mut tasks = tokio::task::JoinSet::new();
    for (n, neighbour) in neighbours.iter().enumerate() {
        let (api, key) = (world.api.clone(), neighbour.caller.clone());
        let url = neighbour.target.url("/hook");
        for m in 0..20 {
            let (api, key, url) = (api.clone(), key.clone(), url.clone());
            tasks.spawn(async move {
                let body = format!("tenant-{n}");
                let mode = if m % 2 == 0 { "wait" } else { "deliver" };
                let call = json!({"url": url, "body": body, "mode": mode, "idempotency_key": format!("same-{m}")});
                let answer = api.send(Ask::post("/v1/calls").key(&key).json(&call)).await;
                assert!(matches!(answer.status.as_u16(), 200 | 202), "{}", answer.text());
                let ask = Ask::get("/v1/endpoints/t/headers").key(&key);
                api.send(ask).await.expect_status(200);
            });
        }
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    for (n, neighbour) in neighbours.iter().enumerate() {
        eventually(TIMEOUT, &format!("20 hooks of tenant {n}"), async || {
            neighbour.target.hooks().len() >= 20
        })
        .await;
        let hooks = neighbour.target.hooks();
        assert_eq!(hooks.len(), 20, "tenant {n}");
        let own = format!("tenant-{n}");
        assert!(
            hooks.iter().all(|hook| hook.body == own.as_bytes()),
            "tenant {n}"
        );
        let bridges = world.get("/v1/bridges", &neighbour.admin).await;
        assert_eq!(bridges["bridges"].as_array().unwrap().len(), 1);
    }
    for pair in neighbours.windows(2) {
        ids_of_others_do_not_exist(&world, &pair[0], &pair[1].admin).await;
    }
}

/// Asserts that objects of one tenant look nonexistent to another tenant, with the same error text.
async fn ids_of_others_do_not_exist(world: &TestEnv, owner: &Neighbour, other: &ApiKey) {
    let calls = world.get("/v1/calls", &owner.admin).await;
    let call = calls["calls"][0]["id"].as_str().unwrap().to_owned();
    let key = owner.caller.client_id.clone();
    // Each operation, and a nonexistent id of the same shape.
    let never = "call_00000000000000000000000000000000";
    for (method, path, id, nonexistent) in [
        (Method::GET, "/v1/calls/{}", &call, never),
        (Method::POST, "/v1/calls/{}/cancel", &call, never),
        (Method::POST, "/v1/calls/{}/redeliver", &call, never),
        (Method::GET, "/v1/keys/{}", &key, "ibk_0000000000000000"),
        (Method::DELETE, "/v1/keys/{}", &key, "ibk_0000000000000000"),
        (
            Method::POST,
            "/v1/keys/{}/rotate",
            &key,
            "ibk_0000000000000000",
        ),
    ] {
        let ask = |id: &str, query: &str| {
            let path = format!("{}{query}", path.replace("{}", id));
            Ask::new(method.clone(), path).key(other).json(&json!({}))
        };
        for query in ["", "?tenant=tenant-0", "?tenant=acme"] {
            let theirs = world.api.send(ask(id, query)).await;
            let none = world.api.send(ask(nonexistent, query)).await;
            assert_eq!(
                theirs.status,
                none.status,
                "{method} {path}{query}: {}",
                theirs.text()
            );
            assert!(theirs.status.is_client_error(), "{}", theirs.text());
            let words = theirs.text().replace(id.as_str(), nonexistent);
            assert_eq!(words, none.text(), "{method} {path}{query}");
        }
    }
    // Nothing was changed.
    world.get(&format!("/v1/calls/{call}"), &owner.admin).await;
    world.get(&format!("/v1/keys/{key}"), &owner.admin).await;
}

#[tokio::test]
async fn restored_backup_has_deliveries_paused() {
    let mut world = TestEnv::start().await;
    let dir = world.relay_config().parent().unwrap().to_owned();
    let file = dir.join("copy.db");
    world.relay_cli(&["backup", file.to_str().unwrap()]).await;
    let after = world.key("caller", &[]).await;
    world.kill_relay().await;
    let output = world
        .relay_cli(&["restore", file.to_str().unwrap(), "--replace"])
        .await;
    assert!(output.contains("paused"), "{output}");
    world.start_relay().await;
    world.wait_online().await;
    // Data from after the backup is gone.
    let gone = Ask::get(world.endpoint("/small")).key(&after);
    world.api.send(gone).await.expect_status(401);
    let call = json!({"mode": "deliver", "url": world.target.url("/hook")});
    world.call(call).await.expect_status(202);
    let_time_pass(
        Duration::from_millis(1500),
        "a delivery would arrive at once",
    )
    .await;
    assert!(world.target.hooks().is_empty());
    world.relay_cli(&["deliveries", "resume"]).await;
    eventually(Duration::from_secs(20), "a delivery", async || {
        !world.target.hooks().is_empty()
    })
    .await;
}

#[tokio::test]
async fn audit_seals_are_verified_by_the_command() {
    let world = TestEnv::start().await;
    // The first seal is made a few seconds after the start.
    let output = eventually(LONG_TIMEOUT, "a seal", async || {
        let output = world.relay.cli(&["audit", "verify"]).await;
        let code = output.status.code();
        match code {
            Some(0) => Some(output.stdout),
            _ => {
                assert_eq!(code, Some(4), "{} {}", output.stdout, output.stderr);
                assert!(
                    output.stderr.contains("it cannot be concluded"),
                    "{}",
                    output.stderr
                );
                None
            }
        }
    })
    .await;
    let head = output.split("--head ").nth(1).unwrap().trim();
    assert!(head.starts_with("1:"), "{output}");
    let again = world.relay.cli(&["audit", "verify", "--head", head]).await;
    again.success();
    let later = format!("99{head}");
    let cut = world
        .relay
        .cli(&["audit", "verify", "--head", &later])
        .await;
    assert_eq!(cut.status.code(), Some(1));
    assert!(cut.stderr.contains("its end was cut off"), "{}", cut.stderr);
}
