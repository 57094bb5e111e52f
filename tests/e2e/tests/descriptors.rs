//! A relay whose file descriptors run out, and come back.

use std::time::{Duration, Instant};
use support::{Ask, TestEnv, let_time_pass};
use tokio::net::TcpStream;

/// Descriptors that the relay may open in addition to those that it has.
const SPARE: u64 = 20;

/// More idle connections than there are descriptors.
const IDLE: usize = 200;

#[tokio::test]
async fn relay_without_descriptors_recovers() {
    let world = TestEnv::start().await;
    let mut caller = world.api.client().await.unwrap();
    let ask = || Ask::get(world.endpoint("/small")).key(&world.caller);
    caller.send(ask()).await.expect_status(200);
    let files = u64::try_from(world.relay.process().files()).unwrap();
    world.relay.process().limit_files(Some(files + SPARE));
    let mut idle = Vec::new();
    for _ in 0..IDLE {
        // Those that are not accepted wait in the system's queue.
        idle.push(TcpStream::connect(world.public.addr()).await.unwrap());
    }
    // New connections replace the oldest silent ones, on every listener.
    let ready = Ask::get("/readyz").within(Duration::from_secs(20));
    world.admin_origin.send(ready).await.expect_status(200);
    caller.send(ask()).await.expect_status(200);
    let newcomer = ask().within(Duration::from_secs(20));
    world.public.send(newcomer).await.expect_status(200);
    assert_eq!(world.sessions().await, 1);
    drop(idle);
    // Without a connection to evict, accepting waits, and does not spin.
    let files = u64::try_from(world.relay.process().files()).unwrap();
    world.relay.process().limit_files(Some(files.min(10)));
    let _waiting = TcpStream::connect(world.public.addr()).await.unwrap();
    let (began, used) = (Instant::now(), world.relay.process().cpu_time());
    let_time_pass(Duration::from_secs(2), "processor time is measured over it").await;
    let used = world.relay.process().cpu_time() - used;
    assert!(used < began.elapsed() / 4, "it spins: {used:?}");
    caller.send(ask()).await.expect_status(200);
    world.relay.process().limit_files(None);
    world.public.send(ask()).await.expect_status(200);
    let lines = world.relay.process().log();
    let output = lines
        .iter()
        .filter(|line| line.text.contains("cannot accept a connection"));
    assert!((1..30).contains(&output.count()), "rate-limited");
}
