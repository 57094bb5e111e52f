//! Call URL requests.

use serde_json::json;
use std::time::Duration;
use support::setup::Allow;
use support::{Ask, TestEnv, eventually};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

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
async fn idempotency_header_is_the_field() {
    let world = TestEnv::start().await;
    let call = json!({"url": world.target.url("/hook"), "body": "x"});
    let ask = |key: &str| {
        let ask = Ask::post("/v1/calls").key(&world.caller).json(&call);
        world.api.send(ask.header("idempotency-key", key))
    };
    let first = ask("\"k-2\"").await.expect_status(200);
    assert_eq!(first.header("idempotency-replayed"), None);
    // Bare and quoted are one key.
    let second = ask("k-2").await.expect_status(200);
    assert_eq!(second.header("idempotency-replayed"), Some("true"));
    assert_eq!(first.json()["id"], second.json()["id"]);
    assert_eq!(world.target.hooks().len(), 1);
    assert_eq!(ask("a b").await.code(), "invalid_request");
    for (field, status) in [("k-3", 400), ("k-4", 200)] {
        let mut call = call.clone();
        call["idempotency_key"] = field.into();
        let ask = Ask::post("/v1/calls").key(&world.caller).json(&call);
        let answer = world.api.send(ask.header("idempotency-key", "k-4")).await;
        assert_eq!(answer.status.as_u16(), status, "{field}");
        if status == 400 {
            let detail = answer.json()["detail"].to_string();
            assert!(detail.contains("different keys"), "{detail}");
        }
    }
    assert_eq!(world.target.hooks().len(), 2);
    // A stored call as well.
    let mut stored = call.clone();
    stored["mode"] = "deliver".into();
    let ask = || Ask::post("/v1/calls").key(&world.caller).json(&stored);
    let submit = || world.api.send(ask().header("idempotency-key", "k-5"));
    let first = submit().await.expect_status(202).json();
    assert_eq!(submit().await.expect_status(202).json()["id"], first["id"]);
}

#[tokio::test]
async fn composed_requests_have_length_and_agent() {
    let world = TestEnv::start().await;
    let agent = |headers: &hyper::HeaderMap| headers["user-agent"].to_str().unwrap().to_owned();
    for (method, length) in [
        ("POST", Some("0")),
        ("PUT", Some("0")),
        ("PATCH", Some("0")),
        ("GET", None),
    ] {
        world
            .call(json!({"url": world.target.url("/hook"), "method": method}))
            .await
            .expect_status(200);
        let hooks = world.target.hooks();
        let headers = &hooks.last().unwrap().headers;
        let given = headers
            .get("content-length")
            .map(|value| value.to_str().unwrap());
        assert_eq!(given, length, "{method}");
        assert!(!headers.contains_key("transfer-encoding"), "{method}");
        assert!(agent(headers).starts_with("integration-relay/"), "{method}");
    }
    world
        .call(json!({"url": world.target.url("/hook"), "headers": {"User-Agent": "mine"}}))
        .await
        .expect_status(200);
    assert_eq!(agent(&world.target.hooks().last().unwrap().headers), "mine");
    let before = world.target.hooks().len();
    world
        .call(json!({"url": world.target.url("/hook"), "mode": "deliver"}))
        .await
        .expect_status(202);
    eventually(Duration::from_secs(20), "delivered", async || {
        (world.target.hooks().len() > before).then_some(())
    })
    .await;
    let hooks = world.target.hooks();
    let headers = &hooks.last().unwrap().headers;
    assert_eq!(headers["content-length"], "0");
    assert!(agent(headers).starts_with("integration-relay/"));
}

#[tokio::test]
async fn document_encoding_is_accepted_or_named() {
    let world = TestEnv::start().await;
    let text = json!({"url": world.target.url("/echo"), "body": "\u{fc}"}).to_string();
    let utf16: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let latin: Vec<u8> = text.chars().map(|c| u8::try_from(c).unwrap()).collect();
    for (bytes, words) in [
        ([&b"\xef\xbb\xbf"[..], text.as_bytes()].concat(), None),
        ([&b"\xff\xfe"[..], &utf16].concat(), Some("UTF-16")),
        (utf16, Some("UTF-16")),
        (latin, Some("not UTF-8")),
    ] {
        let ask = Ask::post("/v1/calls").key(&world.caller).body(bytes);
        let answer = world.api.send(ask).await;
        match words {
            None => assert_eq!(
                answer.expect_status(200).json()["response"]["body"],
                "\u{fc}"
            ),
            Some(words) => {
                let detail = answer.expect_status(400).json()["detail"].to_string();
                assert!(detail.contains(words), "{detail}");
            }
        }
    }
}

#[tokio::test]
async fn field_bytes_beyond_text_are_in_base64() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let world = TestEnv::builder()
        .allow(Allow::loopback(port).methods(&["*"]))
        .start()
        .await;
    let serving = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        let response = b"HTTP/1.1 200 OK\r\nX-Name: M\xfcller\r\nX-Ok: M\xc3\xbcller\r\nContent-Length: 0\r\n\r\n";
        stream.write_all(response).await.unwrap();
        head
    };
    let call =
        json!({"url": format!("http://127.0.0.1:{port}/"), "headers_base64": {"x-given": "/A=="}});
    let (answer, head) = tokio::join!(world.call(call), serving);
    assert!(
        head.windows(13)
            .any(|part| part.starts_with(b"X-Given: \xfc\r\n"))
    );
    let response = answer.expect_status(200).json()["response"].clone();
    assert_eq!(response["headers"]["x-ok"], "M\u{fc}ller");
    assert_eq!(response["headers_base64"], json!({"x-name": "TfxsbGVy"}));
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
        (
            "{\"url\": \"http://t/\", \"timeout_ms\": \"5\"}",
            "timeout_ms is the string",
        ),
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
