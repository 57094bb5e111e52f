//! A relay whose file descriptors run out, and come back.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use e2e::World;
use serde_json::json;
use std::time::{Duration, Instant};
use support::Ask;
use tokio::net::TcpStream;

/// Descriptors that the relay is left with beyond those that it has.
const SPARE: u64 = 20;

/// Idle connections that ask for more than there are.
const IDLE: usize = 200;

#[tokio::test]
async fn relay_without_descriptors_serves_what_runs_and_recovers() {
    let world = World::start().await;
    let mut caller = world.api.client().await.unwrap();
    let ask = || Ask::get(world.endpoint("/small")).key(&world.caller);
    caller.send(ask()).await.expect_status(200);
    let files = u64::try_from(world.relay().files()).unwrap();
    world.relay().limit_files(Some(files + SPARE));
    let mut idle = Vec::new();
    for _ in 0..IDLE {
        // Those that are not accepted wait in the system's queue.
        idle.push(TcpStream::connect(world.public.addr()).await.unwrap());
    }
    // Newcomers are served in the place of the oldest that say nothing, on every listener.
    let ready = Ask::get("/readyz").within(Duration::from_secs(20));
    world.admin_origin.send(ready).await.expect_status(200);
    caller.send(ask()).await.expect_status(200);
    let newcomer = ask().within(Duration::from_secs(20));
    world.public.send(newcomer).await.expect_status(200);
    assert_eq!(world.sessions().await, 1);
    drop(idle);
    // Without a connection to evict, accepting waits, and does not spin.
    let files = u64::try_from(world.relay().files()).unwrap();
    world.relay().limit_files(Some(files.min(10)));
    let _waiting = TcpStream::connect(world.public.addr()).await.unwrap();
    let (began, used) = (Instant::now(), world.relay().cpu_time());
    tokio::time::sleep(Duration::from_secs(2)).await;
    let used = world.relay().cpu_time() - used;
    assert!(used < began.elapsed() / 4, "it spins: {used:?}");
    caller.send(ask()).await.expect_status(200);
    world.relay().limit_files(None);
    world.public.send(ask()).await.expect_status(200);
    let lines = world.relay().log();
    let said = lines
        .iter()
        .filter(|line| line.text.contains("could not be accepted"));
    assert!((1..30).contains(&said.count()), "rate-limited");
}

/// What the relay lacks is not the target's refusal.
#[tokio::test]
async fn direct_call_without_descriptors_is_overloaded() {
    let world = World::start().await;
    let tenant = world.tenant().to_owned();
    let urls = [
        "http://8.8.8.8:1/",
        "http://name.invalid/",
        "https://8.8.8.8:1/",
    ];
    let patterns: Vec<_> = urls.iter().map(|url| format!("{url}*")).collect();
    let mut args = vec!["tenant", "direct", tenant.as_str()];
    for pattern in &patterns {
        args.extend(["--allow", pattern]);
    }
    world.relay_cli(&args).await;
    let mut caller = world.api.client().await.unwrap();
    let call = |url: &str| {
        Ask::post("/v1/calls")
            .key(&world.caller)
            .json(&json!({"url": url, "method": "GET", "timeout_ms": 2000}))
    };
    // The relay follows its database twice a second.
    let deadline = Instant::now() + Duration::from_secs(10);
    while caller.send(call(urls[1])).await.code() != "target_dns" {
        assert!(Instant::now() < deadline, "not enabled");
    }
    world.relay().limit_files(Some(5));
    for url in urls {
        let answer = caller.send(call(url)).await;
        assert_eq!(answer.status, 503, "{url}");
        assert_eq!(answer.code(), "overloaded", "{url}");
        assert_eq!(answer.json()["execution"], "not_dispatched", "{url}");
    }
    world.relay().limit_files(None);
    assert_eq!(caller.send(call(urls[1])).await.code(), "target_dns");
    // No way leads there from a test; what matters is that it was tried.
    let answer = caller.send(call(urls[0])).await;
    assert_ne!(answer.code(), "overloaded");
}
