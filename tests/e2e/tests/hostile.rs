//! Peers that do not play by the rules, at the relay's door.

use e2e::World;
use std::time::Duration;
use support::Ask;

#[tokio::test]
async fn requests_that_are_not_http_or_not_clear_are_refused_and_harm_nobody() {
    let world = World::start().await;
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01"[..],
        b"GET /v1/bridges HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /v1/calls HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"\0\0\0\0\r\n\r\n",
    ] {
        let answer = world.api.raw(bytes, Duration::from_millis(500)).await;
        let text = String::from_utf8_lossy(&answer);
        assert!(!text.starts_with("HTTP/1.1 2"), "{text}");
    }
    let ask = Ask::get(world.endpoint("/small")).key(&world.caller);
    world.api.send(ask).await.expect_status(200);
}

#[tokio::test]
async fn a_tunnel_request_that_is_no_upgrade_is_told_so() {
    let world = World::start().await;
    let answer = world.public.send(Ask::get("/v1/tunnel")).await;
    assert!(
        [400, 426].contains(&answer.status.as_u16()),
        "{}",
        answer.status
    );
    assert_eq!(answer.code(), "invalid_request");
}

#[tokio::test]
async fn tunnels_that_prove_nothing_are_ended_and_cannot_crowd_out_those_that_do() {
    let mut world = World::start_full("", "[limits]\nunproven_tunnels_max = 8\n").await;
    let mut silent = Vec::new();
    for _ in 0..8 {
        silent.push(world.open_silent_tunnel().await);
    }
    let refused = world.public.send(world.upgrade_ask()).await;
    assert_eq!(refused.code(), "overloaded");
    assert!(refused.header("retry-after").is_some());
    // They are ended after the opening's time, and a bridge gets in.
    world.kill_bridge().await;
    world.start_bridge();
    world.wait_online_within(Duration::from_secs(40)).await;
    drop(silent);
}

#[tokio::test]
async fn oversized_and_malformed_frames_end_that_tunnel_alone() {
    let world = World::start().await;
    for frame in [
        // A binary message that claims 1 GiB.
        vec![0x82, 0xff, 0, 0, 0, 0, 0x40, 0, 0, 0, 0, 0, 0, 0],
        // A frame that is no HELLO.
        vec![0x82, 0x86, 0, 0, 0, 0, 0x30, 0, 0, 0, 0, 0],
        // Text.
        vec![0x81, 0x82, 0, 0, 0, 0, b'h', b'i'],
        // Garbage for a HELLO.
        vec![0x82, 0x88, 0, 0, 0, 0, 0x02, 0, 0, 0, 0, 0, 0xff, 0xff],
        // An unmasked message, which RFC 6455 forbids to clients.
        vec![0x82, 0x01, 0x00],
    ] {
        let mut tunnel = world.open_silent_tunnel().await;
        let closed = tunnel
            .send_and_wait_for_close(&frame, Duration::from_secs(5))
            .await;
        assert!(closed, "{frame:02x?}");
    }
    assert_eq!(world.sessions().await, 1);
    let ask = Ask::get(world.endpoint("/small")).key(&world.caller);
    world.api.send(ask).await.expect_status(200);
}
