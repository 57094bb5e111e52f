//! Scopes of narrowed keys, over every operation of the OpenAPI document.

use hyper::Method;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use support::setup::{BridgeSetup, Endpoint};
use support::{ApiKey, Ask, TIMEOUT, Target, TestEnv, eventually};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Admin keys, each narrowed to one kind of object.
const KEYS: [&str; 4] = ["h", "e", "b", "c"];

/// A row for each operation: its name, a request for what no key of the test is narrowed to, and the
/// keys that may make it all the same.
type Row = (&'static str, Method, String, Option<Value>, &'static str);

fn rows(world: &TestEnv, call: &str) -> Vec<Row> {
    let key = |rest: &str| format!("/v1/keys/{}{rest}", world.caller.client_id);
    let url = "http://elsewhere.example/";
    let outside = json!({"url": url, "method": "GET", "bridge": "b1", "credential": "root"});
    let none = || Some(json!({}));
    let row = |id, method, path: &str, body, may| (id, method, path.to_owned(), body, may);
    let mut rows = vec![
        row("listTenants", Method::GET, "/v1/tenants", None, ""),
        row(
            "createTenant",
            Method::POST,
            "/v1/tenants",
            Some(json!({"name": "x"})),
            "",
        ),
        row("showTenant", Method::GET, "/v1/tenants/acme", None, ""),
        row(
            "changeTenant",
            Method::PATCH,
            "/v1/tenants/acme",
            none(),
            "",
        ),
        row("deleteTenant", Method::DELETE, "/v1/tenants/acme", None, ""),
        // Their lists have what they may see, which another test checks.
        row("listKeys", Method::GET, "/v1/keys", None, "hebc"),
        row(
            "createKey",
            Method::POST,
            "/v1/keys",
            Some(json!({"role": "caller"})),
            "",
        ),
        ("showKey", Method::GET, key(""), None, ""),
        ("revokeKey", Method::DELETE, key(""), None, ""),
        ("rotateKey", Method::POST, key("/rotate"), none(), ""),
        row(
            "createPairingFile",
            Method::POST,
            "/v1/pairing-files",
            Some(json!({"scope": {"bridges": ["b1"]}})),
            "",
        ),
        row(
            "listSigningSecrets",
            Method::GET,
            "/v1/signing-secrets",
            None,
            "",
        ),
        row(
            "rotateSigningSecret",
            Method::POST,
            "/v1/signing-secrets",
            none(),
            "",
        ),
        row("listAudit", Method::GET, "/v1/audit", None, ""),
        row("listNotices", Method::GET, "/v1/notices", None, ""),
        row("showNoticeUrl", Method::GET, "/v1/notice-url", None, ""),
        row("changeNoticeUrl", Method::PUT, "/v1/notice-url", none(), ""),
        row("listBridges", Method::GET, "/v1/bridges", None, "hebc"),
        row("showBridge", Method::GET, "/v1/bridges/b1", None, "hec"),
        row("pairBridge", Method::POST, "/v1/pair", none(), ""),
        row("listServices", Method::GET, "/v1/services", None, ""),
        row(
            "reportService",
            Method::PUT,
            "/v1/services/synchronizer",
            none(),
            "",
        ),
        row("listCalls", Method::GET, "/v1/calls", None, "hbc"),
        (
            "showCall",
            Method::GET,
            format!("/v1/calls/{call}"),
            None,
            "",
        ),
        (
            "redeliverCall",
            Method::POST,
            format!("/v1/calls/{call}/redeliver"),
            None,
            "",
        ),
        (
            "cancelCall",
            Method::POST,
            format!("/v1/calls/{call}/cancel"),
            None,
            "",
        ),
        row(
            "redeliverCalls",
            Method::POST,
            "/v1/calls/redeliver",
            none(),
            "hbc",
        ),
        row(
            "cancelCalls",
            Method::POST,
            "/v1/calls/cancel",
            none(),
            "hbc",
        ),
        row("makeCall", Method::POST, "/v1/calls", Some(outside), ""),
        row(
            "explainCall",
            Method::POST,
            "/v1/calls/explain",
            Some(json!({"url": url, "bridge": "b1"})),
            "c",
        ),
    ];
    for (id, method, path) in [
        ("revokeBridge", Method::POST, "revoke"),
        ("disableBridge", Method::POST, "disable"),
        ("enableBridge", Method::POST, "enable"),
        ("allowTlsInspection", Method::PUT, "tls-inspection"),
        ("forbidTlsInspection", Method::DELETE, "tls-inspection"),
        ("assignEndpoint", Method::PUT, "endpoints/t"),
        ("releaseEndpoint", Method::DELETE, "endpoints/t"),
    ] {
        rows.push((id, method, format!("/v1/bridges/b1/{path}"), None, ""));
    }
    for (id, method) in [
        ("getEndpoint", Method::GET),
        ("headEndpoint", Method::HEAD),
        ("postEndpoint", Method::POST),
        ("putEndpoint", Method::PUT),
        ("patchEndpoint", Method::PATCH),
        ("deleteEndpoint", Method::DELETE),
        ("optionsEndpoint", Method::OPTIONS),
    ] {
        // Bridge b2 has no such endpoint: nothing of b1 is reached.
        rows.push((id, method, world.endpoint("/small"), None, "c"));
    }
    rows
}

/// Operations that need no key.
const PUBLIC: [&str; 5] = [
    "explainError",
    "health",
    "openTunnel",
    "openapi",
    "readiness",
];

fn operations() -> BTreeSet<String> {
    let document = include_str!("../../../proto/openapi.json");
    let document: Value = serde_json::from_str(document).unwrap();
    let paths = document["paths"].as_object().unwrap().values();
    let all = paths.flat_map(|path| path.as_object().unwrap().values());
    all.filter_map(|operation| Some(operation["operationId"].as_str()?.to_owned()))
        .collect()
}

async fn keys(world: &TestEnv) -> Vec<(&'static str, ApiKey)> {
    let mut keys = Vec::new();
    for (letter, narrowed) in KEYS.into_iter().zip([
        ["--host", "inside.example"],
        ["--endpoint", "other"],
        ["--bridge", "b2"],
        ["--credential", "sync"],
    ]) {
        keys.push((letter, world.key("admin", &narrowed).await));
    }
    keys
}

async fn stored(world: &TestEnv, key: &ApiKey, url: &str) -> String {
    let call = json!({"mode": "deliver", "url": url});
    let ask = Ask::post("/v1/calls").key(key).json(&call);
    let receipt = world.api.send(ask).await.expect_status(202).json();
    receipt["id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn narrowed_key_is_refused_outside_its_scope() {
    let mut world = TestEnv::start().await;
    let call = stored(&world, &world.admin, "http://elsewhere.example/").await;
    let rows = rows(&world, &call);
    let tried: BTreeSet<String> = rows.iter().map(|row| row.0.to_owned()).collect();
    let mut known = operations();
    for id in PUBLIC {
        known.remove(id);
    }
    assert_eq!(tried, known, "each operation has a row");
    let reached = world.target.requests();
    for (letter, key) in keys(&world).await {
        for (id, method, path, body, may) in &rows {
            let mut ask = Ask::new(method.clone(), path.clone()).key(&key);
            if let Some(body) = body {
                ask = ask.json(body);
            }
            let answer = world.api.send(ask).await;
            let status = answer.status.as_u16();
            let is_refused = matches!(status, 403 | 404);
            // What a bridge's key may do with an endpoint is decided by where it is routed.
            let elsewhere = letter == "b" && id.ends_with("Endpoint") && path.starts_with("/v1/e");
            let allowed = may.contains(letter) || elsewhere;
            assert_eq!(!is_refused || elsewhere, allowed, "{letter} {id}: {status}");
        }
    }
    // Only the key that is narrowed to a credential reached the endpoint.
    assert_eq!(world.target.requests() - reached, 7);
    // Nothing was changed.
    for key in [&world.caller, &world.admin] {
        let ask = Ask::get("/v1/bridges/b1").key(key);
        let bridge = world.api.send(ask).await.expect_status(200).json();
        assert_eq!(bridge["disabled"], false);
        assert_eq!(bridge["owned_endpoints"], json!(["t"]));
    }
    let ask = Ask::get(format!("/v1/calls/{call}")).key(&world.admin);
    let shown = world.api.send(ask).await.expect_status(200).json();
    assert_ne!(shown["state"], "cancelled");
    world.stop_bridge().await;
}

#[tokio::test]
async fn host_key_sees_its_stored_calls_only() {
    let mut world = TestEnv::start().await;
    world.wait_online().await;
    world.stop_bridge().await;
    let host = world.key("caller", &["--host", "*.inside.example"]).await;
    let bridge = world.key("caller", &["--bridge", "b1"]).await;
    let credential = world.key("caller", &["--credential", "sync"]).await;
    let mut outside = Vec::new();
    for n in 0..3 {
        let url = format!("http://ci.inside.example/{n}");
        stored(&world, &world.caller, &url).await;
        outside.push(stored(&world, &world.caller, "http://elsewhere.example/").await);
    }
    stored(&world, &bridge, "http://elsewhere.example/").await;
    stored(&world, &credential, "http://elsewhere.example/").await;
    let list = |key: &ApiKey, query: &str| {
        let ask = Ask::get(format!("/v1/calls{query}")).key(key);
        let api = world.api.clone();
        async move { api.send(ask).await.expect_status(200).json() }
    };
    let count = |page: &Value| page["calls"].as_array().unwrap().len();
    for (key, calls) in [
        (&host, 3),
        (&bridge, 1),
        (&credential, 1),
        (&world.caller, 8),
    ] {
        assert_eq!(count(&list(key, "").await), calls);
    }
    // A page at a time, and no page has another's.
    let (mut query, mut seen) = ("?limit=1".to_owned(), 0);
    loop {
        let page = list(&host, &query).await;
        for call in page["calls"].as_array().unwrap() {
            assert_eq!(call["host"], "ci.inside.example");
            seen += 1;
        }
        let Some(cursor) = page["next_cursor"].as_str() else {
            break;
        };
        query = format!("?limit=1&cursor={cursor}");
    }
    assert_eq!(seen, 3);
    let all = |what: &str, key: &ApiKey| {
        let ask = Ask::post(format!("/v1/calls/{what}"))
            .key(key)
            .json(&json!({}));
        let api = world.api.clone();
        async move { api.send(ask).await.json() }
    };
    let cancelled = all("cancel", &host).await;
    assert_eq!(
        (&cancelled["cancelled"], &cancelled["more"]),
        (&json!(3), &json!(false))
    );
    let state = async |id: &str| {
        let ask = Ask::get(format!("/v1/calls/{id}")).key(&world.admin);
        let call = world.api.send(ask).await.expect_status(200).json();
        call["state"].as_str().unwrap().to_owned()
    };
    for id in &outside {
        assert_ne!(state(id).await, "cancelled");
    }
    assert_eq!(all("cancel", &world.admin).await["cancelled"], 5);
    assert_eq!(all("redeliver", &host).await["redelivered"], 3);
    for id in &outside {
        assert_eq!(state(id).await, "cancelled");
    }
    assert_eq!(all("redeliver", &bridge).await["redelivered"], 1);
    assert_eq!(all("redeliver", &credential).await["redelivered"], 1);
    for id in &outside {
        assert_eq!(state(id).await, "cancelled");
        for what in ["cancel", "redeliver"] {
            let ask = Ask::post(format!("/v1/calls/{id}/{what}")).key(&host);
            let theirs = world.api.send(ask).await.expect_status(404).text();
            let ask = Ask::post(format!("/v1/calls/call_none/{what}")).key(&host);
            let none = world.api.send(ask).await.expect_status(404).text();
            assert_eq!(theirs, none, "as if it did not exist");
        }
    }
}

#[tokio::test]
async fn forward_proxy_obeys_key_scopes() {
    let world = TestEnv::start().await;
    let host = world.key("caller", &["--host", "127.0.0.1"]).await;
    let other = world
        .key("synchronizer", &["--host", "elsewhere.example"])
        .await;
    let endpoint = world.key("synchronizer", &["--endpoint", "t"]).await;
    let target = world.target.addr();
    for (key, allowed) in [(&host, true), (&other, false), (&endpoint, false)] {
        let own = format!("Proxy-Authorization: {}\r\n", key.basic());
        for text in [
            format!(
                "GET {} HTTP/1.1\r\nHost: {target}\r\n{own}\r\n",
                world.target.url("/small")
            ),
            format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{own}\r\n"),
        ] {
            let mut stream = TcpStream::connect(world.forward()).await.unwrap();
            stream.write_all(text.as_bytes()).await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let read = tokio::time::timeout(TIMEOUT, stream.read_u8());
                head.push(read.await.unwrap().unwrap());
            }
            let head = String::from_utf8(head).unwrap().to_lowercase();
            let is_refused = head.contains("bridge-error: forbidden");
            assert_eq!(!is_refused, allowed, "{text} {head}");
        }
        // WebSocket to the endpoint.
        let ask = Ask::get(world.endpoint("/small"))
            .header("connection", "Upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
            .key(key);
        let is_refused = world.api.send(ask).await.status == 403;
        assert_eq!(is_refused, !std::ptr::eq(key, &endpoint));
    }
}

#[tokio::test]
async fn narrowed_admin_creates_narrower_keys_only() {
    let world = TestEnv::start().await;
    let narrowed = ["--host", "*.inside.example", "--bridge", "b1"];
    let admin = world.key("admin", &narrowed).await;
    let create = |scope: Value, role: &str| {
        let new = json!({"role": role, "scope": scope});
        let ask = Ask::post("/v1/keys").key(&admin).json(&new);
        let api = world.api.clone();
        async move { api.send(ask).await }
    };
    for (role, scope, status) in [
        (
            "caller",
            json!({"hosts": ["ci.inside.example"], "bridges": ["b1"]}),
            201,
        ),
        (
            "admin",
            json!({"hosts": ["*.inside.example"], "bridges": ["b1"]}),
            201,
        ),
        ("caller", json!({}), 403),
        ("admin", json!({}), 403),
        ("site-admin", json!({}), 403),
        ("caller", json!({"hosts": ["ci.inside.example"]}), 403),
        (
            "caller",
            json!({"hosts": ["*.example"], "bridges": ["b1"]}),
            403,
        ),
        (
            "caller",
            json!({"hosts": ["ci.inside.example"], "bridges": ["b1", "b2"]}),
            403,
        ),
        (
            "caller",
            json!({"endpoints": ["t"], "bridges": ["b1"]}),
            403,
        ),
        ("bridge", json!({"bridges": ["b1"]}), 403),
        ("bridge", json!({}), 403),
    ] {
        let answer = create(scope.clone(), role).await;
        assert_eq!(answer.status, status, "{role} {scope}: {}", answer.text());
    }
    let ask = Ask::get("/v1/keys").key(&admin);
    let listed = world.api.send(ask).await.expect_status(200).json();
    assert_eq!(
        listed["keys"].as_array().unwrap().len(),
        3,
        "itself and its own"
    );
    // The response to another key's request is not given out.
    let new = json!({"role": "caller", "name": "wide"});
    let create = |key: &ApiKey| {
        let ask = Ask::post("/v1/keys").header("idempotency-key", "k");
        ask.key(key).json(&new)
    };
    world
        .api
        .send(create(&world.admin))
        .await
        .expect_status(201);
    world.api.send(create(&admin)).await.expect_status(403);
}

#[tokio::test]
async fn meaningless_scope_is_rejected() {
    let world = TestEnv::start().await;
    for (role, narrowed) in [
        ("bridge", ["--host", "a.example"]),
        ("bridge", ["--credential", "c"]),
        ("synchronizer", ["--credential", "c"]),
        ("caller", ["--host", "*"]),
        ("caller", ["--host", ""]),
        ("caller", ["--endpoint", "A b"]),
        ("caller", ["--bridge", "a/b"]),
    ] {
        let mut args = vec!["key", "create", "--tenant", world.tenant(), "--role", role];
        args.extend(narrowed);
        let output = world.relay_cli_fails(&args).await;
        assert!(
            !output.contains("panicked") && output.contains("error"),
            "{output}"
        );
    }
    let site = ["key", "create", "--role", "site-admin", "--bridge", "b1"];
    let output = world.relay_cli_fails(&site).await;
    assert!(output.contains("site-admin"), "{output}");
    for (role, scope) in [
        ("bridge", json!({"hosts": ["a.example"]})),
        ("synchronizer", json!({"credentials": ["c"]})),
        ("caller", json!({"hosts": []})),
        ("caller", json!({"endpoints": ["e"], "credentials": ["c"]})),
        ("caller", json!({"tenants": ["acme"]})),
        ("auditor", json!({"endpoints": ["e"]})),
    ] {
        let new = json!({"role": role, "scope": scope});
        let ask = Ask::post("/v1/keys").key(&world.admin).json(&new);
        let answer = world.api.send(ask).await.expect_status(400);
        assert_eq!(answer.code(), "invalid_request");
    }
}

#[tokio::test]
async fn narrowed_key_sees_no_other_bridge() {
    let world = TestEnv::start().await;
    let other = Target::start().await;
    let endpoint = Endpoint::new("own", other.url("/"));
    let setup = BridgeSetup::new("b2").endpoint(endpoint);
    let mut second = world.add_bridge(setup).await;
    let key = world.key("caller", &["--bridge", "b2"]).await;
    let ask = Ask::get("/v1/bridges").key(&key);
    let page = world.api.send(ask).await.expect_status(200).json();
    assert_eq!(page["bridges"].as_array().unwrap().len(), 1);
    assert_eq!(page["bridges"][0]["name"], "b2");
    let endpoint = world.key("caller", &["--endpoint", "own"]).await;
    let ask = Ask::get("/v1/bridges").key(&endpoint);
    let page = world.api.send(ask).await.expect_status(200).json();
    assert_eq!(page["bridges"][0]["sessions"][0]["endpoints"], json!([]));
    assert_eq!(page["bridges"][0]["sessions"][0]["hosts"], Value::Null);
    assert_eq!(page["bridges"][0]["owned_endpoints"], json!([]));
    second.kill9();
    let problem = eventually(TIMEOUT, "bridge_offline", async || {
        let ask = Ask::get("/v1/endpoints/own/small").key(&key);
        let answer = world.api.send(ask).await;
        (answer.code() == "bridge_offline").then(|| answer.json())
    })
    .await;
    // Not the whole document: an id may contain any letters.
    let detail = problem["detail"].as_str().unwrap();
    assert!(!detail.contains("b1"), "{problem}");
}
