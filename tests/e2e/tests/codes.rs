//! Every failure that callers can get: its code, its execution state, its status.

use hyper::Method;
use serde_json::json;
use std::time::Duration;
use support::setup::{Allow, Endpoint};
use support::{Answer, ApiKey, Ask, Direction, RawTarget, TestEnv, let_time_pass, ports};

#[track_caller]
fn assert_problem(answer: &Answer, status: u16, code: &str, execution: &str) {
    assert_problem_of("the request", answer, status, code, execution);
}

#[track_caller]
fn assert_problem_of(case: &str, answer: &Answer, status: u16, code: &str, execution: &str) {
    let seen = (answer.status.as_u16(), answer.code(), answer.execution());
    assert_eq!(
        seen,
        (status, code.to_owned(), execution.to_owned()),
        "{case}: {:?}",
        answer.body
    );
    assert_eq!(answer.header("bridge-error"), Some(code), "{case}");
    let document = answer.json();
    assert_eq!(document["status"], status);
    for member in ["type", "title", "detail"] {
        assert!(
            document[member].is_string(),
            "{case}: {member} in {document}"
        );
    }
}

#[tokio::test]
async fn invalid_keys_are_unauthorized_or_forbidden() {
    let world = TestEnv::start().await;
    let wrong = ApiKey::new(world.caller.client_id.clone(), "ibs_wrong");
    let unknown = ApiKey::new("ibk_unknown", world.caller.client_secret.clone());
    let mut bodies = Vec::new();
    let small = || Ask::get(world.endpoint("/small"));
    for (case, ask) in [
        ("no key", small()),
        ("a wrong secret", small().key(&wrong)),
        ("an unknown id", small().key(&unknown)),
        (
            "invalid base64",
            small().header("authorization", "Basic !!!"),
        ),
        (
            "another scheme",
            small().header("authorization", "Bearer x"),
        ),
    ] {
        let answer = world.api.send(ask).await;
        assert_problem_of(case, &answer, 401, "unauthorized", "not_sent");
        assert!(
            answer
                .header("www-authenticate")
                .unwrap()
                .starts_with("Basic")
        );
        let mut body = answer.json();
        let id = body.as_object_mut().unwrap().remove("id");
        assert!(id.is_some(), "{body}");
        bodies.push(body);
    }
    assert_eq!(
        bodies[1], bodies[2],
        "an unknown id and a wrong secret look the same"
    );
    let bridge_key = &world.bridge_key;
    let call = json!({"url": world.target.url("/small")});
    for ask in [
        small().key(bridge_key),
        Ask::post("/v1/calls").key(bridge_key).json(&call),
        Ask::get("/v1/bridges").key(bridge_key),
        Ask::post("/v1/pair").key(&world.caller).json(&json!({})),
    ] {
        let case = ask.to_string();
        let answer = world.api.send(ask).await;
        assert_problem_of(&case, &answer, 403, "forbidden", "not_sent");
    }
}

#[tokio::test]
async fn missing_routes_have_their_codes() {
    let world = TestEnv::start().await;
    let ask = Ask::get("/v1/endpoints/nothing/").key(&world.caller);
    assert_problem(
        &world.api.send(ask).await,
        404,
        "unknown_endpoint",
        "not_sent",
    );
    let ask = Ask::get("/v1/nothing").key(&world.caller);
    assert_problem(&world.api.send(ask).await, 404, "not_found", "not_sent");
    let ask = Ask::new(Method::PUT, "/v1/calls")
        .key(&world.caller)
        .header("accept", "*/*");
    let answer = world.api.send(ask).await;
    assert_problem(&answer, 405, "method_not_allowed", "not_sent");
    assert!(answer.header("allow").is_some());
    let other = world.tenant_without_bridges().await;
    let ask = Ask::get(world.endpoint("/small")).key(&other);
    assert_problem(&world.api.send(ask).await, 503, "no_bridge", "not_sent");
    let call = Ask::post("/v1/calls")
        .key(&other)
        .json(&json!({"url": world.target.url("/small")}));
    assert_problem(&world.api.send(call).await, 503, "no_bridge", "not_sent");
}

#[tokio::test]
async fn offline_bridge_is_bridge_offline() {
    let mut world = TestEnv::start().await;
    world.stop_bridge().await;
    let ask = Ask::get(world.endpoint("/small")).key(&world.caller);
    let answer = world.api.send(ask).await;
    assert_problem(&answer, 503, "bridge_offline", "not_sent");
    assert!(answer.header("retry-after").is_some());
    let call = world.call(json!({"url": world.target.url("/small")})).await;
    assert_problem(&call, 503, "bridge_offline", "not_sent");
}

#[tokio::test]
async fn policy_rejections_have_their_code() {
    let narrow = Allow::host("narrow.example").methods(&["POST"]);
    let world = TestEnv::builder()
        .allow(Allow::host("*.metadata.example"))
        .allow(Allow::host("0.0.0.0/0").ports([80, 443]))
        .allow(narrow.set("paths", vec!["/hooks/*"]))
        .start()
        .await;
    for (url, method) in [
        ("http://not-allowed.example/", "POST"),
        ("http://narrow.example/hooks/a", "GET"),
        ("http://narrow.example/other", "POST"),
        ("http://narrow.example/hooks/%2e%2e/admin", "POST"),
        ("http://narrow.example:8080/hooks/a", "POST"),
        ("http://169.254.169.254/latest/meta-data/", "POST"),
        ("http://[::ffff:169.254.169.254]/", "POST"),
        ("http://[fd00:ec2::254]/", "POST"),
        ("http://100.100.100.200/", "POST"),
        ("http://metadata.google.internal/", "POST"),
        ("http://127.0.0.2/", "POST"),
    ] {
        for named in [true, false] {
            let mut call = json!({"url": url, "method": method});
            if named {
                call["bridge"] = json!("b1");
            }
            let answer = world.call(call).await;
            let seen = (answer.status.as_u16(), answer.code());
            assert_eq!(
                seen,
                (403, "refused_by_policy".to_owned()),
                "{method} {url}"
            );
            // With a named bridge, the bridge decides. Otherwise the relay may decide by advertised hosts.
            let execution = answer.execution();
            assert!(
                execution == "not_dispatched" || (!named && execution == "not_sent"),
                "{url} {execution}"
            );
        }
    }
    for url in [
        "http://2852039166/",
        "http://0xa9fea9fe/",
        "http://0251.0376.0251.0376/",
        "http://127.1/",
    ] {
        let answer = world.call(json!({"url": url, "bridge": "b1"})).await;
        assert!(
            ["refused_by_policy", "invalid_request"].contains(&answer.code().as_str()),
            "{url}"
        );
        let execution = answer.execution();
        assert!(
            ["not_sent", "not_dispatched"].contains(&execution.as_str()),
            "{url}: {execution}"
        );
    }
}

#[tokio::test]
async fn redirect_is_returned_and_not_followed() {
    let world = TestEnv::start().await;
    let url = world
        .target
        .url("/redirect?to=http://169.254.169.254/latest/");
    let answer = world
        .call(json!({"url": url, "method": "GET"}))
        .await
        .expect_status(200)
        .json();
    assert_eq!(answer["response"]["status"], 302);
    assert_eq!(world.target.requests(), 1);
}

#[tokio::test]
async fn target_failures_before_dispatch() {
    let closed = ports::free();
    let plain = RawTarget::start("HTTP/1.1 400 No\r\n\r\n").await;
    let closed = format!("http://127.0.0.1:{closed}/");
    // The target expects plain HTTP.
    let plain = format!("https://{}/", plain.addr());
    let world = TestEnv::builder()
        .endpoint(Endpoint::new("closed", closed))
        .endpoint(Endpoint::new("nodns", "http://no-such-host.invalid/"))
        .endpoint(Endpoint::new("notls", plain))
        .start()
        .await;
    for (name, status, code) in [
        ("closed", 502, "target_refused"),
        ("nodns", 502, "target_dns"),
        ("notls", 502, "target_tls"),
    ] {
        let ask = Ask::post(format!("/v1/endpoints/{name}/"))
            .key(&world.caller)
            .body("x");
        let answer = world.api.send(ask).await;
        assert_problem_of(name, &answer, status, code, "not_dispatched");
    }
}

#[tokio::test]
async fn target_failures_after_dispatch() {
    let garbage = RawTarget::start("SSH-2.0-OpenSSH_9.2\r\n\r\n").await;
    let world = TestEnv::builder()
        .endpoint(Endpoint::new("garbage", garbage.url("/")))
        .start()
        .await;
    let ask = Ask::post(world.endpoint("/close"))
        .key(&world.caller)
        .body("x");
    let answer = world.api.send(ask).await;
    if answer.status != 404 && answer.status != 405 {
        assert_problem(&answer, 502, "target_closed", "possibly_executed");
    }
    let ask = Ask::get(world.endpoint("/close")).key(&world.caller);
    assert_problem(
        &world.api.send(ask).await,
        502,
        "target_closed",
        "possibly_executed",
    );
    let ask = Ask::post("/v1/endpoints/garbage/")
        .key(&world.caller)
        .body("x");
    let answer = world.api.send(ask).await;
    assert_eq!(answer.code(), "target_protocol");
    let hang = json!({"url": world.target.url("/hang"), "method": "GET", "timeout_ms": 700});
    let answer = world.call(hang).await;
    assert_eq!(answer.code(), "timeout");
    assert_eq!(
        (answer.status.as_u16(), answer.execution()),
        (504, "possibly_executed".into())
    );
    world
        .target
        .wait_for_hangups(1, Duration::from_secs(1))
        .await;
}

#[tokio::test]
async fn oversized_messages_have_their_codes() {
    let world = TestEnv::builder()
        .relay(|relay| {
            relay
                .set("limits.call_request_max", "64KiB")
                .set("limits.call_response_max", "64KiB")
                .set("limits.header_bytes_max", "16KiB")
        })
        .start()
        .await;
    let big = "x".repeat(100_000);
    let call = world
        .call(json!({"url": world.target.url("/hook"), "body": big}))
        .await;
    assert_problem(&call, 413, "request_too_large", "not_sent");
    let url = world.target.url("/bytes/100000");
    let call = world.call(json!({"url": url, "method": "GET"})).await;
    assert_problem(&call, 502, "response_too_large", "executed");
    let ask = Ask::get(world.endpoint("/small"))
        .key(&world.caller)
        .header("x-big", &"y".repeat(20_000));
    let answer = world.api.send(ask).await;
    assert_problem(&answer, 431, "headers_too_large", "not_sent");
    let mut many = Ask::get(world.endpoint("/small")).key(&world.caller);
    for n in 0..120 {
        many = many.header(&format!("x-{n}"), "1");
    }
    assert_eq!(world.api.send(many).await.status, 431);
    assert_eq!(world.target.hooks().len(), 0);
}

#[tokio::test]
async fn excess_concurrency_is_overloaded() {
    let world = TestEnv::builder()
        .relay(|relay| relay.set("limits.streams_per_tenant", 4))
        .start()
        .await;
    let mut hanging = Vec::new();
    for _ in 0..4 {
        let ask = Ask::get(world.endpoint("/hang")).key(&world.caller);
        let api = world.api.clone();
        hanging.push(tokio::spawn(async move { api.try_send(ask).await }));
    }
    world
        .target
        .wait_for_requests(4, Duration::from_secs(10))
        .await;
    let ask = Ask::get(world.endpoint("/small")).key(&world.caller);
    let answer = world.api.send(ask).await;
    assert_eq!(answer.code(), "overloaded");
    assert!([429, 503].contains(&answer.status.as_u16()));
    assert_eq!(answer.execution(), "not_sent");
    assert!(answer.header("retry-after").is_some());
    for hang in hanging {
        hang.abort();
    }
    world
        .target
        .wait_for_hangups(4, Duration::from_secs(2))
        .await;
    let ask = Ask::get(world.endpoint("/small")).key(&world.caller);
    world.api.send(ask).await.expect_status(200);
}

#[tokio::test]
async fn tunnel_lost_during_exchange() {
    let world = TestEnv::start().await;
    // A safe request would be retried.
    let ask = Ask::post(world.endpoint("/hang"))
        .key(&world.caller)
        .body("x");
    let api = world.api.clone();
    let waiting = tokio::spawn(async move { api.send(ask).await });
    world
        .target
        .wait_for_requests(1, Duration::from_secs(10))
        .await;
    world.proxy().cut();
    let answer = waiting.await.unwrap();
    assert_problem(&answer, 502, "tunnel_lost", "possibly_executed");
    world.wait_online().await;
    let ask = Ask::get(world.endpoint("/small")).key(&world.caller);
    world.api.send(ask).await.expect_status(200);
}

#[tokio::test]
async fn suspended_tenant_is_tenant_suspended() {
    let world = TestEnv::start().await;
    world
        .relay_cli(&["tenant", "suspend", world.tenant()])
        .await;
    let why = "the relay reads its database twice a second";
    let_time_pass(Duration::from_millis(1500), why).await;
    let ask = || Ask::get(world.endpoint("/small")).key(&world.caller);
    assert_problem(
        &world.api.send(ask()).await,
        403,
        "tenant_suspended",
        "not_sent",
    );
    assert_eq!(world.sessions().await, 0, "its tunnels are cut");
    world.relay_cli(&["tenant", "resume", world.tenant()]).await;
}

#[tokio::test]
async fn slow_target_is_target_timeout() {
    let slow = support::Target::start().await;
    let endpoint = Endpoint::new("slow", slow.url("/"));
    let world = TestEnv::builder()
        .endpoint(endpoint.set("head_timeout", "500ms"))
        .start()
        .await;
    let ask = Ask::get("/v1/endpoints/slow/hang").key(&world.caller);
    let answer = world.api.send(ask).await;
    assert_problem(&answer, 504, "target_timeout", "possibly_executed");
}

#[tokio::test]
async fn caller_hangup_counts_as_cancelled() {
    let world = TestEnv::start().await;
    let ask = Ask::get(world.endpoint("/hang")).key(&world.caller);
    let api = world.api.clone();
    let waiting = tokio::spawn(async move { api.try_send(ask).await });
    world
        .target
        .wait_for_requests(1, Duration::from_secs(10))
        .await;
    waiting.abort();
    world
        .target
        .wait_for_hangups(1, Duration::from_secs(1))
        .await;
    let metrics = world.metrics().await;
    assert!(
        metrics.contains("integration_relay_exchanges_total{outcome=\"cancelled\"} 1"),
        "{metrics}"
    );
}

#[tokio::test]
async fn unsent_request_is_retried_on_the_next_tunnel() {
    let world = TestEnv::start().await;
    world.proxy().freeze(Direction::Downstream);
    let call = json!({"url": world.target.url("/hook"), "body": "once"});
    let ask = Ask::post("/v1/calls").key(&world.caller).json(&call);
    let api = world.api.clone();
    let calling = tokio::spawn(async move { api.send(ask).await });
    let_time_pass(
        Duration::from_millis(500),
        "the frozen proxy holds the call",
    )
    .await;
    assert_eq!(world.target.hooks().len(), 0);
    world.proxy().cut();
    world.proxy().thaw();
    let answer = calling.await.unwrap().expect_status(200).json();
    assert_eq!(answer["execution"], "executed");
    assert_eq!(world.target.hooks().len(), 1);
}

#[tokio::test]
async fn error_document_links_to_its_entry() {
    let world = TestEnv::start().await;
    let refused = world
        .api
        .send(Ask::post("/v1/calls").json(&json!({})))
        .await;
    assert_problem(&refused, 401, "unauthorized", "not_sent");
    let document = refused.json();
    let help = document["help"].as_str().expect("a path");
    let entry = world.api.send(Ask::get(help)).await;
    assert_eq!(entry.status, 200);
    assert_eq!(
        entry.header("content-type"),
        Some("text/markdown; charset=utf-8")
    );
    let text = entry.text();
    assert!(text.starts_with("### unauthorized\n"), "{text}");
    let unknown = world.api.send(Ask::get("/errors/no_such_code")).await;
    assert_problem(&unknown, 404, "not_found", "not_sent");
}
