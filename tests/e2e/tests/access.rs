//! Access: revocation, isolation of tenants, pairing.

use serde_json::json;
use std::time::{Duration, Instant};
use support::{Ask, TIMEOUT, TestEnv, eventually, let_time_pass};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[tokio::test]
async fn revoked_caller_key_aborts_running_exchange() {
    let world = TestEnv::start().await;
    let key = world.key("caller", &[]).await;
    let ask = Ask::get(world.endpoint("/drip/1000/100")).key(&key);
    let reading = world.api.open(ask).await;
    world.relay_cli(&["key", "revoke", &key.client_id]).await;
    let start = Instant::now();
    let digest = reading.digest().await;
    assert!(digest.truncated.is_some(), "it was cut, not ended");
    assert!(
        start.elapsed() < Duration::from_secs(2),
        "{:?}",
        start.elapsed()
    );
    let ask = Ask::get(world.endpoint("/small")).key(&key);
    assert_eq!(world.api.send(ask).await.code(), "unauthorized");
    let ask = Ask::get(world.endpoint("/small")).key(&world.caller);
    world.api.send(ask).await.expect_status(200);
}

/// The caller, the audit record and the bridge get the reason for which a running call was aborted.
#[tokio::test]
async fn aborted_call_has_the_true_reason() {
    let world = TestEnv::start().await;
    let key = world.key("caller", &[]).await;
    let short = world.key("caller", &["--expires", "5s"]).await;
    let revoke = ["key", "revoke", key.client_id.as_str()];
    let suspend = ["tenant", "suspend", world.tenant()];
    for (n, caller, command, status, code, detail) in [
        (1, &short, None, 401, "unauthorized", "the API key expired"),
        (
            2,
            &key,
            Some(revoke),
            401,
            "unauthorized",
            "the API key was revoked",
        ),
        (
            3,
            &world.caller,
            Some(suspend),
            403,
            "tenant_suspended",
            "the tenant was suspended",
        ),
    ] {
        let call = json!({"url": world.target.url("/hang")});
        let ask = Ask::post("/v1/calls").key(caller).json(&call);
        let ending = async {
            world.target.wait_for_requests(n, TIMEOUT).await;
            if let Some(command) = command {
                world.relay_cli(&command).await;
            }
        };
        let (answer, ()) = tokio::join!(world.api.send(ask), ending);
        let answer = answer.expect_status(status);
        let problem = answer.json();
        let detail = format!("{detail} during the request");
        assert_eq!(problem["code"], code);
        assert_eq!(problem["detail"], detail);
        assert_eq!(problem["execution"], "possibly_executed");
        let list = ["audit", "list", "--object", problem["id"].as_str().unwrap()];
        eventually(TIMEOUT, "an audit row", async || {
            let rows = world.relay_cli(&list).await;
            rows.contains(&detail).then_some(()).ok_or(rows)
        })
        .await;
    }
}

#[tokio::test]
async fn revoked_bridge_is_disconnected_and_stays_out() {
    let world = TestEnv::start().await;
    let mark = world.bridge.process().log_mark();
    world
        .relay_cli(&["bridge", "revoke", "--tenant", world.tenant(), "b1"])
        .await;
    world.wait_sessions(0, Duration::from_secs(2)).await;
    world
        .bridge
        .process()
        .wait_log_since(mark, "revoked", Duration::from_secs(20))
        .await;
    assert_eq!(world.sessions().await, 0);
}

#[tokio::test]
async fn revoked_pairing_key_disconnects_its_bridges() {
    let world = TestEnv::start().await;
    let key = &world.bridge_key.client_id;
    world
        .relay_cli(&["key", "revoke", key, "--keep-bridges"])
        .await;
    let why = "a revocation takes effect within two seconds; this one must not";
    let_time_pass(Duration::from_secs(2), why).await;
    assert_eq!(world.sessions().await, 1);
    let world = TestEnv::start().await;
    world
        .relay_cli(&["key", "revoke", &world.bridge_key.client_id])
        .await;
    world.wait_sessions(0, Duration::from_secs(2)).await;
}

#[tokio::test]
async fn tenants_with_equal_names_are_isolated() {
    let world = TestEnv::start().await;
    let other = world.second_tenant("beta").await;
    for _ in 0..20 {
        let (mine, theirs) = tokio::join!(
            world
                .api
                .send(Ask::get(world.endpoint("/small")).key(&world.caller)),
            world
                .api
                .send(Ask::get(world.endpoint("/small")).key(&other.caller)),
        );
        mine.expect_status(200);
        theirs.expect_status(200);
    }
    assert_eq!(world.target.requests(), 20);
    assert_eq!(other.target.requests(), 20);
    let list = world
        .api
        .send(Ask::get("/v1/bridges").key(&other.admin))
        .await
        .expect_status(200);
    assert!(!list.text().contains(world.tenant()));
    // Another tenant's bridge looks like a nonexistent one.
    let call = |name: &str| json!({"url": world.target.url("/small"), "bridge": name});
    let theirs = Ask::post("/v1/calls")
        .key(&other.caller)
        .json(&call("only-mine"));
    let never = Ask::post("/v1/calls")
        .key(&other.caller)
        .json(&call("never-was"));
    let (theirs, never) = (world.api.send(theirs).await, world.api.send(never).await);
    assert_eq!((theirs.status, theirs.code()), (never.status, never.code()));
}

#[tokio::test]
async fn taken_bridge_name_needs_join_or_replace() {
    let world = TestEnv::start().await;
    let plain = world.key("bridge", &[]).await;
    let output = world.pair_fails("b1", &plain).await;
    assert!(
        output.contains("b1") && output.to_lowercase().contains("join"),
        "{output}"
    );
    let join = world.key("bridge", &["--existing", "join"]).await;
    let second = world.pair_and_run("b1", &join, "second").await;
    world.wait_sessions(2, Duration::from_secs(20)).await;
    drop(second);
    world.wait_sessions(1, Duration::from_secs(20)).await;
    let replace = world.key("bridge", &["--existing", "replace"]).await;
    let _third = world.pair_and_run("b1", &replace, "third").await;
    let bridge = world.bridge.process();
    bridge.wait_log("revoked", Duration::from_secs(20)).await;
    world.wait_sessions(1, Duration::from_secs(20)).await;
}

#[tokio::test]
async fn secrets_are_absent_from_logs_and_files() {
    let world = TestEnv::start().await;
    world
        .call(json!({"url": world.target.url("/hook"), "body": "BODY-MARK", "headers": {"x-mark": "HEADER-MARK"}}))
        .await
        .expect_status(200);
    let mut text = String::new();
    for line in world
        .relay
        .process()
        .log()
        .iter()
        .chain(&world.bridge.process().log())
    {
        text.push_str(&line.text);
    }
    let secrets = [
        world.caller.client_secret.as_str(),
        world.bridge_key.client_secret.as_str(),
        "BODY-MARK",
        "HEADER-MARK",
    ];
    for secret in secrets {
        assert!(!text.contains(secret), "in a log");
    }
    for file in world.relay_files() {
        let bytes = std::fs::read(&file).unwrap();
        for secret in secrets {
            let found = bytes
                .windows(secret.len())
                .any(|window| window == secret.as_bytes());
            assert!(!found, "{} holds a secret", file.display());
        }
    }
}

#[tokio::test]
async fn key_revoked_during_upload_executes_nothing() {
    let world = TestEnv::start().await;
    let call = json!({"url": world.target.url("/hook"), "body": "x"}).to_string();
    let head = |path: &str, key: &support::ApiKey, length: usize| {
        format!(
            "POST {path} HTTP/1.1\r\nHost: r\r\nAuthorization: {}\r\nContent-Length: {length}\r\n\r\n",
            key.basic()
        )
    };
    for path in ["/v1/calls", "/v1/endpoints/t/hook"] {
        let key = world.key("caller", &[]).await;
        let mut connection = TcpStream::connect(world.api.addr()).await.unwrap();
        let head = head(path, &key, call.len());
        connection.write_all(head.as_bytes()).await.unwrap();
        let (first, last) = call.as_bytes().split_at(call.len() - 1);
        connection.write_all(first).await.unwrap();
        let_time_pass(Duration::from_millis(300), "the relay reads what was sent").await;
        world.relay_cli(&["key", "revoke", &key.client_id]).await;
        let_time_pass(
            Duration::from_millis(1200),
            "the relay applies the revocation",
        )
        .await;
        connection.write_all(last).await.unwrap();
        let mut answer = [0; 12];
        connection.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 401", "{path}");
    }
    assert_eq!(world.target.hooks().len(), 0);
}
