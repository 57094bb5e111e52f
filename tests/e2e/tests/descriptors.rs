//! A relay whose file descriptors run out, and come back.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use e2e::World;
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
        .filter(|line| line.text.contains("cannot accept a connection"));
    assert!((1..30).contains(&said.count()), "rate-limited");
}
