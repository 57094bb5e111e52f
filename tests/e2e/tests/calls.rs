//! Call URL requests.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use serde_json::json;
use std::time::Duration;
use support::{Ask, TestEnv};

#[tokio::test]
async fn call_is_executed_and_returns_response() {
    let world = TestEnv::start().await;
    let answer = world
        .call(
            json!({"url": world.target.url("/hook"), "body": "{\"id\":1}",
            "headers": {"content-type": "application/json", "x-two": ["a", "b"]}}),
        )
        .await
        .expect_status(200)
        .json();
    assert_eq!(answer["execution"], "executed");
    assert_eq!(answer["route"], "bridge");
    assert_eq!(answer["bridge"], "b1");
    assert_eq!(answer["response"]["status"], 200);
    assert!(answer["id"].as_str().is_some_and(|id| id.len() > 8));
    assert!(answer["timing"]["total_ms"].is_number());
    let hooks = world.target.hooks();
    assert_eq!(hooks.len(), 1);
    assert_eq!(hooks[0].method, "POST");
    assert_eq!(hooks[0].body, "{\"id\":1}");
    let twos: Vec<_> = hooks[0].headers.get_all("x-two").iter().collect();
    assert_eq!(twos, ["a", "b"]);
    assert!(hooks[0].headers.get("authorization").is_none());
}

#[tokio::test]
async fn binary_response_is_returned_as_base64() {
    let world = TestEnv::start().await;
    let answer = world
        .call(json!({"url": world.target.url("/echo"), "body_base64": "AP+A"}))
        .await
        .expect_status(200)
        .json();
    assert_eq!(answer["response"]["body_base64"], "AP+A");
    assert!(answer["response"]["body"].is_null());
}

#[tokio::test]
async fn target_error_is_an_executed_call() {
    let world = TestEnv::start().await;
    let answer = world
        .call(json!({"url": world.target.url("/status/503"), "method": "GET"}))
        .await
        .expect_status(200);
    assert_eq!(answer.header("bridge-error"), None);
    let answer = answer.json();
    assert_eq!(answer["execution"], "executed");
    assert_eq!(answer["response"]["status"], 503);
}

#[tokio::test]
async fn idempotency_key_makes_one_call() {
    let world = TestEnv::start().await;
    let call = json!({"url": world.target.url("/hook"), "body": "x", "idempotency_key": "k-1"});
    let (first, second) = tokio::join!(world.call(call.clone()), world.call(call.clone()));
    let third = world.call(call).await;
    let ids = [first, second, third].map(|answer| answer.expect_status(200).json()["id"].clone());
    assert_eq!(ids[0], ids[1]);
    assert_eq!(ids[0], ids[2]);
    assert_eq!(world.target.hooks().len(), 1);
    let other = world
        .call(json!({"url": world.target.url("/hook"), "body": "y", "idempotency_key": "k-1"}))
        .await;
    assert_eq!(other.code(), "conflict");
}

#[tokio::test]
async fn concurrent_calls_get_their_own_responses() {
    let world = TestEnv::start().await;
    let mut running = tokio::task::JoinSet::new();
    for n in 0..500 {
        let call = json!({"url": world.target.url("/echo"), "body": format!("body {n}")});
        let api = world.api.clone();
        let key = world.caller.clone();
        running.spawn(async move {
            let ask = Ask::post("/v1/calls").key(&key).json(&call);
            let answer = api.send(ask).await.expect_status(200).json();
            assert_eq!(answer["response"]["body"], format!("body {n}"));
        });
    }
    let all = async {
        while let Some(one) = running.join_next().await {
            one.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(60), all)
        .await
        .unwrap();
    assert_eq!(world.target.requests(), 500);
}

#[tokio::test]
async fn invalid_call_names_the_mistake() {
    let world = TestEnv::start().await;
    for (body, words) in [
        ("{\"url\": ", "line 1"),
        ("[]", "object"),
        ("{}", "url"),
        ("{\"url\": 1}", "string"),
        ("{\"url\": \"http://t/\", \"colour\": 1}", "colour"),
        (
            "{\"url\": \"http://t/\", \"body\": \"a\", \"body_base64\": \"YQ==\"}",
            "body",
        ),
        ("{\"url\": \"http://t/\", \"body_base64\": \"%\"}", "base64"),
        ("{\"url\": \"http://t/\", \"method\": \"G T\"}", "method"),
        (
            "{\"url\": \"http://t/\", \"headers\": {\"a b\": \"c\"}}",
            "header",
        ),
        (
            "{\"url\": \"http://t/\", \"headers\": {\"a\": \"b\\nc\"}}",
            "header",
        ),
        (
            "{\"url\": \"http://t/\", \"headers\": {\"Host\": \"x\"}}",
            "host",
        ),
        ("{\"url\": \"ftp://t/\"}", "http"),
        ("{\"url\": \"/relative\"}", "url"),
        ("{\"url\": \"http://t/\", \"timeout_ms\": 0}", "timeout_ms"),
        ("{\"url\": \"http://t/\", \"mode\": \"later\"}", "mode"),
    ] {
        let ask = Ask::post("/v1/calls")
            .key(&world.caller)
            .header("content-type", "application/json")
            .body(body);
        let answer = world.api.send(ask).await;
        assert_eq!(
            (answer.status.as_u16(), answer.code()),
            (400, "invalid_request".into()),
            "{body}"
        );
        assert_eq!(answer.execution(), "not_sent", "{body}");
        let detail = answer.json()["detail"].as_str().unwrap().to_lowercase();
        assert!(detail.contains(words), "{body}: {detail}");
    }
    assert_eq!(world.target.requests(), 0);
}
