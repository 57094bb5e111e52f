//! Which requests the relay retries when a tunnel is lost, according to the README's table of `execution`.

use hyper::Method;
use std::time::Duration;
use support::setup::{BridgeSetup, Endpoint};
use support::{Answer, Ask, TestEnv, let_time_pass, pattern};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The target responds late enough to cut the tunnel before.
const SLOW: &str = "/delay/1500";

/// Sends a slow request and cuts the tunnel once the target has it.
async fn cut_while_asked(world: &TestEnv, method: Method, path: &str) -> Answer {
    let before = world.target.requests();
    let ask = Ask::new(method, path).key(&world.caller);
    let asking = tokio::spawn({
        let api = world.api.clone();
        async move { api.send(ask).await }
    });
    let seen = world
        .target
        .wait_for_requests(before + 1, Duration::from_secs(10));
    seen.await;
    world.proxy().cut();
    let answer = asking.await.unwrap();
    world.wait_online().await;
    answer
}

/// Returns the result of `work`, and the requests that were aborted at the target meanwhile.
async fn seen_of<T>(world: &TestEnv, work: impl Future<Output = T>) -> (T, u64) {
    let before = world.target.hangups();
    let result = work.await;
    (result, world.target.hangups() - before)
}

#[tokio::test]
async fn safe_request_is_retried_after_tunnel_loss() {
    let world = TestEnv::start().await;
    for method in [Method::GET, Method::HEAD, Method::OPTIONS] {
        let path = world.endpoint(SLOW);
        let asking = cut_while_asked(&world, method.clone(), &path);
        let (answer, hangups) = seen_of(&world, asking).await;
        assert_eq!(answer.status, 200, "{method}: {}", answer.text());
        assert!(answer.body.is_ok(), "{method}");
        assert_eq!(hangups, 1, "{method}: the first request is aborted");
    }
}

#[tokio::test]
async fn unsafe_request_is_not_retried() {
    let world = TestEnv::start().await;
    for method in [Method::POST, Method::PUT, Method::DELETE, Method::PATCH] {
        let answer = cut_while_asked(&world, method.clone(), &world.endpoint(SLOW)).await;
        assert_eq!(answer.status, 502, "{method}");
        assert_eq!(answer.code(), "tunnel_lost", "{method}");
        assert_eq!(answer.execution(), "possibly_executed", "{method}");
    }
}

#[tokio::test]
async fn repeatable_endpoint_retries_put_and_delete() {
    let world = TestEnv::start().await;
    let endpoint = Endpoint::new("twice", world.target.url("/")).set("repeatable", true);
    // It dials through the proxy that is cut, as the first bridge does.
    let setup = BridgeSetup::new("b2").via(world.proxy().addr());
    let bridge = world.add_bridge(setup.endpoint(endpoint)).await;
    for (method, status) in [
        (Method::PUT, 200),
        (Method::DELETE, 200),
        (Method::POST, 502),
    ] {
        let path = format!("/v1/endpoints/twice{SLOW}");
        let answer = cut_while_asked(&world, method.clone(), &path).await;
        assert_eq!(answer.status, status, "{method}: {}", answer.text());
    }
    drop(bridge);
}

#[tokio::test]
async fn safe_request_survives_a_bridge_kill() {
    let mut world = TestEnv::start().await;
    let ask = Ask::get(world.endpoint(SLOW)).key(&world.caller);
    let asking = tokio::spawn({
        let api = world.api.clone();
        async move { api.send(ask).await }
    });
    world
        .target
        .wait_for_requests(1, Duration::from_secs(10))
        .await;
    world.kill_bridge().await;
    world.start_bridge();
    asking.await.unwrap().expect_status(200);
}

/// The target's accept queue is full, so that connecting waits and nothing can be dispatched.
#[tokio::test]
async fn undispatched_request_waits_for_a_new_tunnel() {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut queued = Vec::new();
    while let Ok(connected) =
        tokio::time::timeout(Duration::from_millis(300), TcpStream::connect(address)).await
    {
        queued.push(connected.unwrap());
    }
    let world = TestEnv::start().await;
    let endpoint = Endpoint::new("full", format!("http://{address}/"));
    let setup = BridgeSetup::new("b2")
        .via(world.proxy().addr())
        .endpoint(endpoint.set("connect_timeout", "20s"))
        .set("targets.health_interval", "off");
    let _bridge = world.add_bridge(setup).await;
    let mut asking = tokio::spawn({
        let ask = Ask::post("/v1/endpoints/full/x").key(&world.caller);
        // Long enough to be streamed, short enough for the replay buffer.
        let ask = ask.upload_chunked(40_000);
        let api = world.api.clone();
        async move { api.send(ask).await }
    });
    let_time_pass(
        Duration::from_millis(500),
        "the bridge waits for a connection",
    )
    .await;
    assert!(!asking.is_finished());
    world.proxy().cut();
    let_time_pass(Duration::from_millis(50), "both sides notice the cut").await;
    drop(queued);
    let mut seen = 0;
    let answer = loop {
        let (mut stream, _) = tokio::select! {
            accepted = listener.accept() => accepted.unwrap(),
            answer = &mut asking => break answer.unwrap(),
        };
        let mut bytes = Vec::new();
        // The connections that only filled the queue send nothing.
        while let Ok(1..) = stream.read_buf(&mut bytes).await {
            if bytes.ends_with(b"\r\n0\r\n\r\n") {
                seen += 1;
                let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
                stream.write_all(answer).await.unwrap();
                break;
            }
        }
    };
    answer.expect_status(200);
    assert_eq!(seen, 1);
}

/// A bridge that rejects a request has seen its beginning; another bridge must get all of it.
#[tokio::test]
async fn rejected_body_is_replayed_to_another_bridge() {
    let world = TestEnv::builder()
        .bridge(|bridge| bridge.set("bridge.paused", true))
        .start()
        .await;
    let endpoint = Endpoint::new("t", world.target.url("/"));
    let setup = BridgeSetup::new("b2").endpoint(endpoint);
    let _bridge = world.add_bridge(setup).await;
    // Both bridges may serve the endpoint.
    world
        .relay_cli(&["bridge", "assign", "b2", "--endpoint", "t", "--also"])
        .await;
    // The relay follows its database within a moment.
    world.wait_online().await;
    for bytes in [0, 1, 16 * 1024, 16 * 1024 + 1, 50_000] {
        for round in 0..4 {
            let ask = Ask::post(world.endpoint("/sink")).key(&world.caller);
            let ask = match round % 2 {
                0 => ask.upload(bytes),
                _ => ask.upload_chunked(bytes),
            };
            let before = world.target.requests();
            let answer = world.api.send(ask).await.expect_status(200);
            assert_eq!(answer.json()["received"], bytes, "{bytes}");
            let sum = pattern::sha256(bytes);
            assert_eq!(answer.json()["sha256"], sum, "{bytes}");
            assert_eq!(world.target.requests() - before, 1, "{bytes}");
        }
    }
}
