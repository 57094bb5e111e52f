//! Broken connections and killed processes.

use serde_json::json;
use std::time::{Duration, Instant};
use support::{Ask, Direction, TestEnv, eventually, let_time_pass};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The longest backoff of a bridge.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

#[tokio::test]
async fn caller_hangup_reaches_target_within_a_second() {
    let world = TestEnv::start().await;
    for (n, path) in ["/hang", "/drip/1000/100"].into_iter().enumerate() {
        let ask = Ask::get(world.endpoint(path)).key(&world.caller);
        let api = world.api.clone();
        let waiting = tokio::spawn(async move {
            let reading = api.try_open(ask).await;
            let_time_pass(
                Duration::from_secs(60),
                "the caller waits until it is aborted",
            )
            .await;
            drop(reading);
        });
        world
            .target
            .wait_for_requests(n as u64 + 1, Duration::from_secs(10))
            .await;
        let_time_pass(Duration::from_millis(300), "the response is on its way").await;
        waiting.abort();
        world
            .target
            .wait_for_hangups(n as u64 + 1, Duration::from_secs(1))
            .await;
    }
}

#[tokio::test]
async fn caller_that_stops_reading_is_aborted() {
    let world = TestEnv::builder()
        .relay(|relay| {
            relay
                .set("limits.caller_idle_timeout", "2s")
                .set("limits.streams_per_key", 1)
        })
        .start()
        .await;
    let mut caller = TcpStream::connect(world.api.addr()).await.unwrap();
    let path = world.endpoint("/bytes/1000000000");
    let asked = format!(
        "GET {path} HTTP/1.1\r\nHost: relay\r\nAuthorization: {}\r\n\r\n",
        world.caller.basic()
    );
    caller.write_all(asked.as_bytes()).await.unwrap();
    world
        .target
        .wait_for_requests(1, Duration::from_secs(10))
        .await;
    let began = Instant::now();
    world
        .target
        .wait_for_hangups(1, Duration::from_secs(15))
        .await;
    assert!(began.elapsed() > Duration::from_secs(1));
    // Its slot is free again, and its connection is closed before the end of the response.
    let ask = Ask::get(world.endpoint("/small")).key(&world.caller);
    world.api.send(ask).await.expect_status(200);
    let mut rest = Vec::new();
    let reading = caller.read_to_end(&mut rest);
    let read = tokio::time::timeout(Duration::from_secs(10), reading).await;
    assert!(read.is_ok());
    assert!(rest.len() < 1_000_000_000);
}

/// A caller that waits for its target reads nothing either, and is not idle.
#[tokio::test]
async fn waiting_caller_is_not_idle() {
    let world = TestEnv::builder()
        .relay(|relay| relay.set("limits.caller_idle_timeout", "1s"))
        .start()
        .await;
    // A byte every three seconds.
    let ask = Ask::get(world.endpoint("/drip/3/3000")).key(&world.caller);
    let answer = world.api.send(ask).await.expect_status(200);
    assert_eq!(answer.body.unwrap().len(), 3);
}

#[tokio::test]
async fn connection_cut_mid_frame_is_replaced() {
    let world = TestEnv::start().await;
    for direction in [Direction::Downstream, Direction::Upstream] {
        world.proxy().cut_after(direction, 100_001);
        let ask = match direction {
            Direction::Downstream => Ask::post(world.endpoint("/sink"))
                .key(&world.caller)
                .upload(1_000_000),
            _ => Ask::get(world.endpoint("/bytes/1000000")).key(&world.caller),
        };
        let answer = world.api.send(ask).await;
        assert!(
            answer.body.is_err() || answer.status == 502,
            "{}",
            answer.status
        );
        world.wait_online().await;
        let ask = Ask::get(world.endpoint("/small")).key(&world.caller);
        world.api.send(ask).await.expect_status(200);
    }
}

#[tokio::test]
async fn reconnecting_bridge_resumes_its_tls_session() {
    let world = TestEnv::start().await;
    let resumed = "integration_relay_tls_handshakes_total{outcome=\"resumed\"}";
    assert!(!world.metrics().await.contains(resumed));
    // The second time with the tickets that came on the resumed one.
    for times in 1..=2 {
        world.proxy().cut();
        let wanted = format!("{resumed} {times}\n");
        eventually(Duration::from_secs(20), &wanted, async || {
            let metrics = world.metrics().await;
            match metrics.contains(&wanted) {
                true => Ok(()),
                false => Err(metrics),
            }
        })
        .await;
        world.wait_online().await;
    }
}

/// With the default heartbeat both sides notice, and the bridge is back, within 30 s.
#[tokio::test]
async fn frozen_connection_is_replaced_within_30_s() {
    let world = TestEnv::start().await;
    let ask = Ask::get(world.endpoint("/small")).key(&world.caller);
    world.api.send(ask).await.expect_status(200);
    let (relay_mark, bridge_mark) = (
        world.relay.process().log_mark(),
        world.bridge.process().log_mark(),
    );
    // Nothing is reset: existing connections go silent, and new ones work.
    world.proxy().freeze_existing();
    let start = Instant::now();
    let relay_says = world.relay.process().wait_log_since(
        relay_mark,
        "no frame from the peer",
        Duration::from_secs(30),
    );
    let bridge_says = world.bridge.process().wait_log_since(
        bridge_mark,
        "no frame from the peer",
        Duration::from_secs(30),
    );
    tokio::join!(relay_says, bridge_says);
    world.wait_online().await;
    assert!(
        start.elapsed() < Duration::from_secs(30),
        "{:?}",
        start.elapsed()
    );
    let ask = Ask::get(world.endpoint("/small")).key(&world.caller);
    world.api.send(ask).await.expect_status(200);
}

#[tokio::test]
async fn killed_side_reconnects_by_itself() {
    let mut world = TestEnv::start().await;
    let call = |world: &TestEnv| json!({"url": world.target.url("/hook"), "body": "x"});
    world.call(call(&world)).await.expect_status(200);

    world.kill_bridge().await;
    world.start_bridge();
    world.wait_online().await;
    world.call(call(&world)).await.expect_status(200);

    world.kill_relay().await;
    world.start_relay().await;
    world.wait_online().await;
    world.call(call(&world)).await.expect_status(200);
    assert_eq!(world.target.hooks().len(), 3);
}

#[tokio::test]
async fn reconnect_storm_of_200_bridges_is_spread() {
    let mut world = TestEnv::start().await;
    let bridges = world.many_bridges(200, "herd").await;
    world.wait_sessions(201, Duration::from_secs(60)).await;
    world.kill_relay().await;
    // A killed relay's connections are reset.
    let_time_pass(
        Duration::from_secs(2),
        "every bridge notices, and backs off",
    )
    .await;
    world.start_relay().await;
    let start = Instant::now();
    let mut seen = Vec::new();
    while world.sessions().await < 201 {
        // The longest single wait that the jitter may draw, and time to connect after it.
        assert!(
            start.elapsed() < LONGEST_WAIT + Duration::from_secs(15),
            "only {} are back",
            world.sessions().await
        );
        seen.push((start.elapsed(), world.sessions().await));
        let_time_pass(Duration::from_millis(200), "the sessions are sampled").await;
    }
    seen.push((start.elapsed(), 201));
    // In no window of one second did more than three quarters come.
    for (at, count) in &seen {
        let before = seen
            .iter()
            .rev()
            .find(|(t, _)| *t + Duration::from_secs(1) <= *at);
        let came = count - before.map_or(0, |(_, n)| *n);
        assert!(came <= 151, "{came} in the second before {at:?}: {seen:?}");
    }
    drop(bridges);
}

/// The bridge's backoff has grown, and the session that followed was short.
#[tokio::test]
async fn bridge_follows_retry_after_of_drained_relay() {
    let mut world = TestEnv::start().await;
    world.kill_relay().await;
    let mut mark = world.bridge.process().log_mark();
    // Waits of up to 16 s, at random.
    for _ in 0..6 {
        let line = world
            .bridge
            .process()
            .wait_log_since(mark, "cannot connect to the relay", LONGEST_WAIT)
            .await;
        assert!(line.contains("wait="), "{line}");
        mark = world.bridge.process().log_mark();
    }
    world.start_relay().await;
    world.wait_online_within(LONGEST_WAIT).await;
    let stopped = world.terminate_relay(LONGEST_WAIT).await;
    assert!(stopped.success(), "{stopped}");
    let_time_pass(Duration::from_secs(1), "the relay is down for a second").await;
    world.start_relay().await;
    // The relay announced one second; its start and a loaded machine take the rest.
    world.wait_online_within(Duration::from_secs(8)).await;
}
