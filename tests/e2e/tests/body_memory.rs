//! The memory of request and response bodies is shared. A key that uses all of its share stops neither
//! another tenant nor another key.

use futures_util::future::join_all;
use serde_json::json;
use std::time::{Duration, Instant};
use support::{ApiKey, Ask, Target, TestEnv, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The longest that a call may take while others use their whole share.
const AT_ONCE: Duration = Duration::from_secs(5);
const MIB: usize = 1024 * 1024;

/// Begins `POST /v1/calls` with these fields and this much of a body.
async fn begun(world: &TestEnv, key: &ApiKey, fields: &str, body: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(world.api.addr()).await.unwrap();
    let key = key.basic();
    let head = format!(
        "POST /v1/calls HTTP/1.1\r\nHost: relay\r\nAuthorization: {key}\r\n{fields}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    // A relay that rejects it may close before all is written.
    let _ = stream.write_all(body).await;
    stream
}

/// A call of `key` to the target succeeds at once.
async fn calls_at_once(world: &TestEnv, key: &ApiKey, target: &Target, what: &str) {
    let began = Instant::now();
    let document = json!({"url": target.url("/small"), "method": "GET"});
    let ask = Ask::post("/v1/calls").key(key).json(&document);
    let answer = world.api.send(ask).await.expect_status(200);
    assert_eq!(answer.json()["response"]["status"], 200, "{what}");
    let took = began.elapsed();
    assert!(took < AT_ONCE, "{what}: the call took {took:?}");
}

async fn body_memory(world: &TestEnv) -> usize {
    let text = world.metrics().await;
    let name = "integration_relay_body_memory_bytes ";
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap().trim().parse().unwrap()
}

async fn nothing_is_held(world: &TestEnv, within: Duration) {
    eventually(within, "the release of all body memory", async || {
        body_memory(world).await == 0
    })
    .await;
}

#[tokio::test]
async fn idle_chunked_requests_reserve_what_arrived() {
    let world = TestEnv::start().await;
    let other = world.second_tenant("other").await;
    let chunk = [b"fa\r\n".as_slice(), &[b' '; 250], b"\r\n"].concat();
    let idle = (0..200).map(|_| {
        let fields = "Transfer-Encoding: chunked";
        begun(&world, &world.caller, fields, &chunk)
    });
    let idle = join_all(idle).await;
    eventually(AT_ONCE, "body memory in use", async || {
        body_memory(&world).await > 0
    })
    .await;
    calls_at_once(&world, &other.caller, &other.target, "another tenant").await;
    calls_at_once(&world, &world.caller, &world.target, "the same key").await;
    let memory = body_memory(&world).await;
    assert!(memory <= MIB, "{memory} bytes for 50 KB of bodies");
    drop(idle);
}

#[tokio::test]
async fn bodies_of_one_key_leave_memory_for_others() {
    let world = TestEnv::start().await;
    let other = world.second_tenant("other").await;
    let second_key = world.key("caller", &[]).await;
    // All but the last byte of the largest document that there may be.
    let body = vec![b' '; MIB - 1];
    let fields = format!("Content-Length: {MIB}");
    let greedy = (0..80).map(|_| begun(&world, &world.caller, &fields, &body));
    let mut greedy = join_all(greedy).await;
    eventually(2 * AT_ONCE, "10 MiB of body memory", async || {
        body_memory(&world).await >= 10 * MIB
    })
    .await;
    calls_at_once(&world, &other.caller, &other.target, "another tenant").await;
    calls_at_once(&world, &second_key, &world.target, "another key").await;
    assert!(body_memory(&world).await <= 17 * MIB);
    // Requests above the share were rejected with 503.
    let mut rejected = 0;
    for stream in &mut greedy {
        let mut answer = [0; 12];
        let reading = stream.read_exact(&mut answer);
        if let Ok(Ok(_)) = tokio::time::timeout(Duration::from_millis(50), reading).await {
            assert_eq!(&answer, b"HTTP/1.1 503");
            rejected += 1;
        }
    }
    assert!(rejected > 40, "{rejected}");
    drop(greedy);
    nothing_is_held(&world, 2 * AT_ONCE).await;
}

#[tokio::test]
async fn slow_targets_hold_what_arrived() {
    let world = TestEnv::start().await;
    let other = world.second_tenant("other").await;
    let slow = json!({"url": world.target.url("/drip/2000/20"), "method": "GET"});
    let calls: Vec<_> = (0..100)
        .map(|_| {
            let (api, key, slow) = (world.api.clone(), world.caller.clone(), slow.clone());
            tokio::spawn(async move {
                let ask = Ask::post("/v1/calls").key(&key).json(&slow);
                let _ = api.try_send(ask).await;
            })
        })
        .collect();
    world.target.wait_for_requests(100, 4 * AT_ONCE).await;
    calls_at_once(&world, &other.caller, &other.target, "another tenant").await;
    calls_at_once(&world, &world.caller, &world.target, "the same key").await;
    assert!(body_memory(&world).await <= 2 * MIB);
    for call in calls {
        call.abort();
    }
}

#[tokio::test]
async fn many_large_responses_of_one_key_all_arrive() {
    let world = TestEnv::start().await;
    let document = json!({"url": world.target.url("/bytes/1000000"), "method": "GET"});
    let asking = (0..60).map(|_| {
        let ask = Ask::post("/v1/calls").key(&world.caller).json(&document);
        world.api.send(ask.within(Duration::from_secs(60)))
    });
    for answer in join_all(asking).await {
        let answer = answer.expect_status(200);
        let body = &answer.json()["response"];
        let text = body["body"].as_str().or(body["body_base64"].as_str());
        assert!(text.unwrap().len() >= 1_000_000);
    }
    nothing_is_held(&world, AT_ONCE).await;
}
