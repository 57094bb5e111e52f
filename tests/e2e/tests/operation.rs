//! Operation: health, metrics, memory at rest, draining.

use serde_json::json;
use std::time::{Duration, Instant};
use support::setup::{BridgeSetup, Endpoint};
use support::{ApiKey, Ask, TestEnv, eventually, let_time_pass};

#[tokio::test]
async fn health_readiness_and_metrics_respond() {
    let world = TestEnv::start().await;
    world
        .api
        .send(Ask::get(world.endpoint("/small")).key(&world.caller))
        .await
        .expect_status(200);
    for path in ["/healthz", "/readyz"] {
        for origin in [&world.admin_origin, &world.public, &world.api] {
            origin.send(Ask::get(path)).await.expect_status(200);
        }
    }
    let metrics = world
        .admin_origin
        .send(Ask::get("/metrics"))
        .await
        .expect_status(200)
        .text();
    assert!(metrics.contains("integration_relay_sessions"), "{metrics}");
    assert_eq!(world.public.send(Ask::get("/metrics")).await.status, 404);
    let bridges = world
        .api
        .send(Ask::get("/v1/bridges").key(&world.admin))
        .await
        .expect_status(200);
    let text = bridges.text();
    assert!(text.contains("b1") && text.contains("online"), "{text}");
}

#[tokio::test]
async fn metrics_have_the_format_that_is_asked_for() {
    let listen = support::ports::free_addr().to_string();
    let world = TestEnv::builder()
        .bridge(|bridge| bridge.set("metrics.listen", listen.clone()))
        .start()
        .await;
    let bridge = support::Origin::http(listen.parse().unwrap());
    for origin in [&world.admin_origin, &bridge] {
        let plain = origin.send(Ask::get("/metrics")).await.expect_status(200);
        let kind = plain.headers["content-type"].to_str().unwrap();
        assert!(kind.starts_with("text/plain; version=0.0.4"), "{kind}");
        assert!(!plain.text().contains("# EOF"));
        let ask = Ask::get("/metrics").header("accept", "application/openmetrics-text");
        let open = origin.send(ask).await.expect_status(200);
        let kind = open.headers["content-type"].to_str().unwrap();
        assert!(kind.starts_with("application/openmetrics-text"), "{kind}");
        assert!(open.text().ends_with("# EOF\n"));
    }
    // Known from the start on, and not only after the first look at certificates.
    let metrics = world.metrics().await;
    let name = "integration_relay_certificate_expires_timestamp_seconds ";
    let expires = metrics.lines().find_map(|line| line.strip_prefix(name));
    let now = std::time::SystemTime::UNIX_EPOCH
        .elapsed()
        .unwrap()
        .as_secs();
    assert!(
        expires.unwrap().parse::<u64>().unwrap() > now,
        "{expires:?}"
    );
}

/// A guard against growth. The benchmark measures an optimised build, with the pages of its file.
#[tokio::test]
async fn memory_at_rest_is_small() {
    let world = TestEnv::start().await;
    let_time_pass(
        Duration::from_secs(1),
        "the memory of the start is released",
    )
    .await;
    let programs = [
        ("bridge", world.bridge.process(), 3, 6),
        ("relay", world.relay.process(), 4, 7),
    ];
    for (name, process, own_mib, all_mib) in programs {
        let own = process.anonymous_rss_kib();
        assert!(own < own_mib * 1024, "the {name} has {own} KiB of its own");
        let all = process.rss_without_program_kib();
        assert!(all < all_mib * 1024, "the {name} has {all} KiB in all");
    }
}

/// Also a session that has carried a call of 64 KiB each way, and then fell quiet. As many go first:
/// the heap keeps the room that opening and calling them took once, and sessions do not.
#[tokio::test]
async fn idle_session_costs_at_most_40_kib() {
    const EACH: usize = 60;
    let world = TestEnv::start().await;
    let first = world.bridges_to_call(EACH, "first").await;
    world.wait_sessions(61, Duration::from_secs(60)).await;
    call_each(&world, &first.1, "first", EACH).await;
    let_time_pass(
        Duration::from_secs(4),
        "the memory of the calls is released",
    )
    .await;
    let before = world.rss_kib().0;
    let second = world.bridges_to_call(EACH, "second").await;
    world.wait_sessions(121, Duration::from_secs(60)).await;
    call_each(&world, &second.1, "second", EACH).await;
    let_time_pass(
        Duration::from_secs(4),
        "the memory of the calls is released",
    )
    .await;
    let each = world.rss_kib().0.saturating_sub(before) / EACH as u64;
    assert!(each <= 40, "{each} KiB a session");
}

/// 64 KiB there and back through each of the bridges.
async fn call_each(world: &TestEnv, caller: &ApiKey, label: &str, count: usize) {
    let body = vec![b'x'; 64 * 1024];
    for n in 0..count {
        let path = format!("/v1/endpoints/{label}-{n}/echo");
        let ask = Ask::post(path).body(body.clone()).key(caller);
        let answer = world.api.send(ask).await.expect_status(200);
        assert_eq!(answer.body.unwrap().len(), body.len());
    }
}

#[tokio::test]
async fn sigterm_drains_the_bridge() {
    let mut world = TestEnv::start().await;
    let ask = Ask::get(world.endpoint("/delay/1500")).key(&world.caller);
    let api = world.api.clone();
    let running = tokio::spawn(async move { api.send(ask).await });
    world
        .target
        .wait_for_requests(1, Duration::from_secs(10))
        .await;
    let status = world.terminate_bridge(Duration::from_secs(20)).await;
    assert!(status.success(), "{status}");
    running.await.unwrap().expect_status(200);
}

#[tokio::test]
async fn sigterm_drains_the_relay() {
    let mut world = TestEnv::start().await;
    let ask = Ask::get(world.endpoint("/delay/1500")).key(&world.caller);
    let api = world.api.clone();
    let running = tokio::spawn(async move { api.send(ask).await });
    world
        .target
        .wait_for_requests(1, Duration::from_secs(10))
        .await;
    let start = Instant::now();
    let status = world.terminate_relay(Duration::from_secs(20)).await;
    assert!(status.success(), "{status}");
    assert!(start.elapsed() > Duration::from_millis(500));
    running.await.unwrap().expect_status(200);
}

#[tokio::test]
async fn spans_join_the_callers_trace() {
    let collector = support::Target::start().await;
    let world = TestEnv::builder()
        .relay(|relay| {
            relay
                .set("telemetry.otlp_endpoint", collector.url("/hook"))
                .set("telemetry.ratio", 0.0)
        })
        .start()
        .await;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let parent = format!("00-{trace}-00f067aa0ba902b7-01");
    let url = world.target.url("/hook");
    let call = |mode: &str| json!({"mode": mode, "url": url, "headers": {"traceparent": parent}});
    world.call(call("wait")).await.expect_status(200);
    world.call(call("deliver")).await.expect_status(202);
    let small = Ask::get(world.endpoint("/small")).key(&world.caller);
    let small = small.header("traceparent", &parent);
    world.api.send(small).await.expect_status(200);
    // Not sampled: no span of it leaves.
    world
        .call(json!({"url": world.target.url("/hook?quiet")}))
        .await
        .expect_status(200);

    let id: Vec<u8> = (0..16)
        .map(|at| u8::from_str_radix(&trace[2 * at..2 * at + 2], 16).unwrap())
        .collect();
    let has = |all: &[u8], part: &[u8]| all.windows(part.len()).any(|window| window == part);
    eventually(Duration::from_secs(20), "three spans", async || {
        let sent: Vec<u8> = collector
            .hooks()
            .iter()
            .inspect(|hook| assert_eq!(hook.headers["content-type"], "application/x-protobuf"))
            .flat_map(|hook| hook.body.to_vec())
            .collect();
        let names: [&[u8]; 3] = [b"\x2a\x04call", b"\x2a\x08endpoint", b"\x2a\x07deliver"];
        if names.iter().all(|name| has(&sent, name)) {
            let spans = sent.windows(16).filter(|window| *window == id).count();
            assert_eq!(
                spans, 3,
                "each span is of the caller's trace, and there is no other"
            );
            assert!(has(&sent, b"integration-relay"));
            assert!(!has(&sent, b"quiet"), "a span must not contain a query");
            return Ok(());
        }
        Err(format!("{} bytes", sent.len()))
    })
    .await;
}

#[tokio::test]
async fn endpoint_health_differs_from_tunnel_health() {
    let ill = support::Target::start().await;
    let unhealthy = Endpoint::new("ill", ill.url("/status")).set("health_path", "/503");
    let world = TestEnv::builder()
        .endpoint(Endpoint::new("gone", "http://127.0.0.1:9/"))
        .endpoint(unhealthy)
        .bridge(|bridge| bridge.set("targets.health_interval", "200ms"))
        .start()
        .await;
    eventually(
        Duration::from_secs(20),
        "the health of three endpoints",
        async || {
            let bridge = world.get("/v1/bridges/b1", &world.admin).await;
            assert_eq!(bridge["online"], true);
            let endpoints = &bridge["sessions"][0]["endpoints"];
            let health = |name: &str| {
                let all = endpoints.as_array().unwrap();
                let found = all
                    .iter()
                    .find(|endpoint| endpoint["name"] == name)
                    .unwrap();
                (
                    found["health"].clone(),
                    found["status"].clone(),
                    found["code"].clone(),
                )
            };
            let found = [health("t"), health("gone"), health("ill")];
            let wanted = [
                (json!("up"), json!(null), json!(null)),
                (json!("down"), json!(null), json!("target_refused")),
                (json!("down"), json!(503), json!(null)),
            ];
            match found == wanted {
                true => Ok(()),
                false => Err(format!("{endpoints:#}")),
            }
        },
    )
    .await;
}

#[tokio::test]
async fn bridge_with_healthy_endpoint_is_preferred() {
    let world = TestEnv::start().await;
    let target = support::Target::start().await;
    let setup = |name: &str, url: &str| {
        BridgeSetup::new(name)
            .endpoint(Endpoint::new("shared", url))
            .set("targets.health_interval", "200ms")
    };
    let _ill = world.add_bridge(setup("ill", "http://127.0.0.1:9/")).await;
    let _well = world.add_bridge(setup("well", &target.url("/"))).await;
    // Both bridges may serve the endpoint.
    world
        .relay_cli(&["bridge", "assign", "well", "--endpoint", "shared", "--also"])
        .await;
    // Once the relay knows, it sends nothing to the unhealthy endpoint.
    let mut in_a_row = 0;
    eventually(
        Duration::from_secs(20),
        "30 successes in a row",
        async || {
            let small = Ask::get("/v1/endpoints/shared/small").key(&world.caller);
            match world.api.send(small).await.status.as_u16() {
                200 => in_a_row += 1,
                _ => in_a_row = 0,
            }
            in_a_row == 30
        },
    )
    .await;
}
