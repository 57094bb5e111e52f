//! Floods of unauthenticated connections: they keep no bridge out, and cost a bounded amount of memory.

use std::net::IpAddr;
use std::time::Duration;
use support::{Ask, TestEnv};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Where the bridge is, and the flood.
const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 1));

/// Below the time after which a silent connection ends by itself.
const SOON: Duration = Duration::from_secs(8);

/// Connections of the flood.
const MANY: usize = 200;

/// The flood fills the listener in every stage before authentication.
#[tokio::test]
async fn flood_does_not_keep_a_bridge_out() {
    let mut world = TestEnv::builder()
        .relay(|relay| {
            relay
                .set("limits.pending_connections_max", 50)
                .set("limits.unauthenticated_tunnels_max", 50)
        })
        .start()
        .await;
    world.kill_bridge().await;
    let hello = world.client_hello();
    let mut tcp = Vec::new();
    let mut tls = Vec::new();
    let mut tunnels = Vec::new();
    for n in 0..MANY {
        match n % 5 {
            0 => tcp.push(world.connect_from(HERE).await),
            1 => {
                let mut stream = world.connect_from(HERE).await;
                stream.write_all(&hello).await.unwrap();
                tcp.push(stream);
            }
            2 => tls.push(world.tls_from(HERE).await),
            3 => {
                let mut stream = world.tls_from(HERE).await;
                stream.write_all(b"GET / HTTP/1.1\r\nX: ").await.unwrap();
                tls.push(stream);
            }
            _ => tunnels.push(world.open_silent_tunnel().await),
        }
    }
    world.start_bridge();
    world.wait_online_within(SOON).await;
    let metrics = world.metrics().await;
    assert!(value(&metrics, "integration_relay_connections_pending ") <= 60);
    assert!(value(&metrics, "integration_relay_connections_evicted_total ") >= 140);
    drop((tcp, tls, tunnels));
}

/// A caller's connection is never evicted, and neither is a tunnel.
#[tokio::test]
async fn flood_evicts_no_authenticated_connection() {
    let world = TestEnv::builder()
        .relay(|relay| relay.set("limits.pending_connections_max", 20))
        .start()
        .await;
    let ask = || Ask::get("/v1/bridges").key(&world.caller);
    let mut caller = world.public.client().await.unwrap();
    caller.send(ask()).await.expect_status(200);
    let mut flood = Vec::new();
    for _ in 0..MANY {
        flood.push(world.connect_from(HERE).await);
    }
    caller.send(ask()).await.expect_status(200);
    world.public.send(ask()).await.expect_status(200);
    assert_eq!(world.sessions().await, 1);
    drop(flood);
}

#[tokio::test]
async fn idle_connections_affect_their_listener_only() {
    let world = TestEnv::builder()
        .relay(|relay| {
            relay
                .set("limits.connections_max", 20)
                .set("limits.pending_connections_max", 20)
                .set("limits.internal_connections_max", 20)
                .set("limits.proxy_connections_max", 20)
                .set("limits.admin_connections_max", 8)
        })
        .start()
        .await;
    let mut idle = Vec::new();
    for address in [world.api.addr(), world.forward(), world.admin_origin.addr()] {
        for _ in 0..100 {
            idle.push(TcpStream::connect(address).await.unwrap());
        }
    }
    // All listeners still serve: idle connections are evicted.
    let ask = || Ask::get("/v1/bridges").key(&world.caller);
    world.public.send(ask()).await.expect_status(200);
    world.api.send(ask()).await.expect_status(200);
    let ready = world.admin_origin.send(Ask::get("/readyz")).await;
    ready.expect_status(200);
    let metrics = world.metrics().await;
    assert!(
        value(&metrics, "integration_relay_connections ") <= 80,
        "{metrics}"
    );
    let tcp = world.connect_from(HERE).await;
    world.handshake(tcp, &["http/1.1"]).await.unwrap();
    assert_eq!(world.sessions().await, 1);
    drop(idle);
}

/// Endless heads, each of the maximum size.
#[tokio::test]
async fn unfinished_heads_share_one_memory_budget() {
    const HEAD_BYTES: usize = 50 * 1024;
    const BUDGET_KIB: u64 = 4 * 1024;
    let world = TestEnv::builder()
        .relay(|relay| {
            relay
                .set("limits.pending_memory_max", "4MiB")
                .set("limits.header_read_timeout", "60s")
        })
        .start()
        .await;
    let field = format!("X-A: {}\r\n", "a".repeat(1000));
    let head = format!("GET / HTTP/1.1\r\nHost: localhost\r\n{}", field.repeat(60));
    let ask = || Ask::get("/v1/bridges").key(&world.caller);
    world.public.send(ask()).await.expect_status(200);
    world.reset_peaks();
    let before = world.rss_kib();
    let mut heads = Vec::new();
    for _ in 0..MANY {
        let mut stream = world.tls_from(HERE).await;
        // Those that are evicted meanwhile are reset.
        let _ = stream.write_all(&head.as_bytes()[..HEAD_BYTES]).await;
        heads.push(stream);
    }
    world.public.send(ask()).await.expect_status(200);
    let metrics = world.metrics().await;
    let charged = value(&metrics, "integration_relay_connections_pending_bytes ");
    assert!(charged <= BUDGET_KIB * 1024, "{charged}");
    assert!(value(&metrics, "integration_relay_connections_evicted_total ") > 0);
    // Without the budget the heads would cost four times as much.
    world.assert_grown_less(before, 3 * BUDGET_KIB);
    drop(heads);
}

#[tokio::test]
async fn head_with_too_many_fields_gets_a_problem_document() {
    let world = TestEnv::start().await;
    let ask = |fields: u32| {
        let ask = Ask::get("/v1/bridges").key(&world.caller);
        (0..fields).fold(ask, |ask, field| ask.header(&format!("x-{field}"), "a"))
    };
    // The limit is 96 with the client's own fields. hyper's limit is a little above.
    world.api.send(ask(90)).await.expect_status(200);
    for fields in [97, 100, 101, 102, 513, 2_000] {
        for origin in [&world.api, &world.public] {
            let answer = origin.send(ask(fields)).await;
            assert_eq!(answer.status, 431, "{fields}");
            assert_eq!(answer.code(), "headers_too_large", "{fields}");
            assert!(answer.text().contains("limits.headers_max"), "{fields}");
        }
    }
}

#[tokio::test]
async fn oversized_head_gets_a_problem_document() {
    let world = TestEnv::start().await;
    let ask = Ask::get("/v1/bridges")
        .key(&world.caller)
        .header("x-long", &"a".repeat(1 << 20));
    let answer = world.public.send(ask).await;
    assert_eq!(answer.status, 431);
    assert_eq!(answer.code(), "headers_too_large");
}

/// The relay evicts a connection that is incomplete when a later one authenticates.
#[tokio::test]
async fn evicted_connection_is_closed() {
    let world = TestEnv::builder()
        .relay(|relay| relay.set("limits.pending_connections_max", 1))
        .start()
        .await;
    let mut first = world.connect_from(HERE).await;
    let second = world.connect_from(HERE).await;
    let closed = tokio::time::timeout(SOON, first.read(&mut [0])).await;
    assert!(matches!(closed, Ok(Ok(0) | Err(_))), "{closed:?}");
    world.handshake(second, &["http/1.1"]).await.unwrap();
}

fn value(metrics: &str, name: &str) -> u64 {
    let line = metrics.lines().find(|line| line.starts_with(name));
    let line = line.unwrap_or_else(|| panic!("no {name} in {metrics}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}
