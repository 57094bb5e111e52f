//! The target's routes behave as documented, and the client sees all of it.

use std::time::Duration;

use http::Method;
use serde_json::json;
use support::pattern::{self, PatternBody};
use support::{ApiKey, Ask, Origin, RawTarget, Target, ThrowawayCa};
use tokio::time::Instant;

/// An exchange to hang up on, and in which state it is then.
type Left = (&'static str, fn() -> Ask);

const SOON: Duration = Duration::from_secs(10);

async fn plain() -> (Target, Origin) {
    let target = Target::start().await;
    let origin = Origin::http(target.addr());
    (target, origin)
}

#[tokio::test]
async fn echo_returns_the_bytes_and_their_length() {
    let (target, origin) = plain().await;
    let whole = origin
        .send(Ask::post("/echo").upload(300_000))
        .await
        .expect_status(200);
    assert_eq!(whole.header("content-length"), Some("300000"));
    assert_eq!(whole.body.expect("whole"), pattern::bytes(300_000));
    let chunked = origin
        .send(Ask::post("/echo").upload_chunked(300_000))
        .await;
    assert_eq!(chunked.header("content-length"), None);
    assert_eq!(chunked.body.expect("whole"), pattern::bytes(300_000));
    assert_eq!((target.requests(), target.hangups()), (2, 0));
}

#[tokio::test]
async fn sink_and_bytes_agree_on_the_hash() {
    let (_target, origin) = plain().await;
    let hash = pattern::sha256(2_000_000);
    let sink = origin
        .send(Ask::post("/sink").upload(2_000_000))
        .await
        .json();
    assert_eq!(sink, json!({ "received": 2_000_000, "sha256": hash }));
    for route in ["/bytes/2000000", "/chunked/2000000"] {
        let digest = origin.open(Ask::get(route)).await.digest().await;
        assert_eq!(
            (digest.bytes, &digest.sha256, digest.truncated),
            (2_000_000, &hash, None)
        );
    }
}

#[tokio::test]
async fn truncated_response_is_an_error() {
    let (target, origin) = plain().await;
    for route in ["/truncated", "/truncated-chunked"] {
        let answer = origin.send(Ask::get(route)).await.expect_status(200);
        let truncated = answer.body.expect_err(route);
        assert_eq!(
            truncated.got,
            pattern::bytes(50_000),
            "{route}: {truncated}"
        );
        let digest = origin.open(Ask::get(route)).await.digest().await;
        assert_eq!(digest.bytes, 50_000);
        assert!(digest.truncated.is_some(), "{route}");
    }
    let none = origin.try_send(Ask::get("/close")).await;
    assert!(none.is_err(), "{none:?}");
    assert_eq!(target.hangups(), 0);
}

#[tokio::test]
async fn hangup_is_seen_at_once() {
    for tls in [false, true] {
        let ca = ThrowawayCa::new();
        let target = if tls {
            Target::start_tls(&ca).await
        } else {
            Target::start().await
        };
        let origin = if tls {
            Origin::https(target.addr(), "localhost", &ca)
        } else {
            Origin::http(target.addr())
        };
        let mut expected = 0;
        let asks: [Left; 4] = [
            ("while waiting", || Ask::get("/hang")),
            ("while the body comes", || Ask::get("/drip/1000/20")),
            ("while the body is too large for the sockets", || {
                Ask::get("/bytes/100000000")
            }),
            ("while the body goes", || {
                let slow = PatternBody::new(1000).dripping(1, Duration::from_millis(20));
                Ask::post("/sink").stream(slow)
            }),
        ];
        for (when, ask) in asks {
            let exchange = tokio::spawn({
                let origin = origin.clone();
                async move {
                    let _reading = origin.try_open(ask()).await;
                    tokio::time::sleep(SOON).await;
                }
            });
            expected += 1;
            target.wait_for_requests(expected, SOON).await;
            tokio::time::sleep(Duration::from_millis(60)).await;
            assert_eq!(target.hangups(), expected - 1, "{when}, TLS {tls}");
            let began = Instant::now();
            exchange.abort();
            target.wait_for_hangups(expected, SOON).await;
            assert!(
                began.elapsed() < Duration::from_millis(500),
                "{when}: {:?}",
                began.elapsed()
            );
        }
    }
}

#[tokio::test]
async fn hooks_are_recorded_unchanged() {
    let (target, origin) = plain().await;
    let key = ApiKey::new("id", "secret");
    let ask = Ask::new(Method::PUT, "/hook?a=%20b")
        .key(&key)
        .header("x-twice", "1");
    origin
        .send(ask.header("x-twice", "2").json(&json!({ "a": 1 })))
        .await
        .expect_status(200);
    let hooks = target.hooks();
    assert_eq!(hooks.len(), 1);
    assert_eq!(
        (&hooks[0].method, hooks[0].path.as_str()),
        (&Method::PUT, "/hook?a=%20b")
    );
    assert_eq!(hooks[0].headers.get_all("x-twice").iter().count(), 2);
    assert_eq!(hooks[0].headers["authorization"], "Basic aWQ6c2VjcmV0");
    assert_eq!(hooks[0].body, r#"{"a":1}"#);
}

#[tokio::test]
async fn routes_behave_as_named() {
    let (_target, origin) = plain().await;
    let mut client = origin.client().await.expect("a connection");
    assert_eq!(client.send(Ask::get("/status/204")).await.status, 204);
    assert_eq!(client.send(Ask::get("/status/503")).await.status, 503);
    assert_eq!(client.send(Ask::get("/nowhere")).await.status, 404);
    let headers = client
        .send(Ask::get("/headers?q").header("x-a", "b"))
        .await
        .text();
    assert!(
        headers.starts_with("GET /headers?q HTTP/1.1\n"),
        "{headers}"
    );
    assert!(headers.contains("x-a: b\n"), "{headers}");
    let redirect = client
        .send(Ask::get("/redirect?to=http://169.254.169.254/x?y=z"))
        .await;
    assert_eq!(
        redirect.expect_status(302).header("location"),
        Some("http://169.254.169.254/x?y=z")
    );
    assert_eq!(
        client
            .send(Ask::get("/redirect/307?to=/small"))
            .await
            .status,
        307
    );
    assert_eq!(
        client
            .send(Ask::get("/small"))
            .await
            .body
            .expect("whole")
            .len(),
        200
    );
    assert_eq!(
        client
            .send(Ask::get("/drip/5/1"))
            .await
            .body
            .expect("whole"),
        pattern::bytes(5)
    );
    let big = client.send(Ask::get("/big-headers/10000")).await;
    let bytes: usize = big
        .headers
        .get_all("x-big")
        .iter()
        .map(http::HeaderValue::len)
        .sum();
    assert_eq!(bytes, 10_000);
    let began = Instant::now();
    client.send(Ask::get("/delay/50")).await.expect_status(200);
    assert!(began.elapsed() >= Duration::from_millis(50));
}

#[tokio::test]
async fn certificate_needs_its_root_and_name() {
    let ca = ThrowawayCa::new();
    let target = Target::start_tls(&ca).await;
    for host in ["localhost", "127.0.0.1"] {
        let origin = Origin::https(target.addr(), host, &ca);
        origin.send(Ask::get("/small")).await.expect_status(200);
    }
    let stranger = Origin::https(target.addr(), "localhost", &ThrowawayCa::new());
    assert!(stranger.try_send(Ask::get("/small")).await.is_err());
    let misnamed = Origin::https(target.addr(), "elsewhere.example", &ca);
    assert!(misnamed.try_send(Ask::get("/small")).await.is_err());
    let expired = Target::start_tls_with(&ca.issue_expired(&["localhost"])).await;
    let origin = Origin::https(expired.addr(), "localhost", &ca);
    assert!(origin.try_send(Ask::get("/small")).await.is_err());
    assert_eq!(target.requests(), 2);
}

#[tokio::test]
async fn raw_target_passes_bytes_unchanged() {
    let (_target, origin) = plain().await;
    let answer = origin.raw(b"NOT HTTP AT ALL\r\n\r\n", SOON).await;
    assert!(
        answer.starts_with(b"HTTP/1.1 400 "),
        "{:?}",
        String::from_utf8_lossy(&answer)
    );

    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Odd:   spaces  \r\n\r\nok";
    let raw = RawTarget::start(answer).await;
    let request = b"POST /p HTTP/1.1\r\nhOsT: a\r\ncontent-length: 3\r\n\r\nabc";
    let came = Origin::http(raw.addr()).raw(request, SOON).await;
    assert_eq!(came, answer.as_bytes());
    assert_eq!(raw.last_request().as_bytes(), request);
}

#[tokio::test]
async fn connect_failure_differs_from_exchange_failure() {
    let unused = Origin::http(support::ports::free_addr());
    let refused = unused
        .try_send(Ask::get("/"))
        .await
        .expect_err("no listener");
    assert!(refused.is_refused(), "{refused}");
    let (_target, origin) = plain().await;
    let quick = Ask::get("/hang").within(Duration::from_millis(50));
    let late = origin.try_send(quick).await.expect_err("it hangs");
    assert!(!late.is_refused());
    assert_eq!(late.to_string(), "no answer within 50ms");
}
