//! Liveness: both sides check it, with a deadline (W-53).

use super::support::{Link, MILLI, Pair, SECOND, Scripted, call, config, response};
use protocol::frame::{Frame, Windows};
use protocol::limits::{DEAD_AFTER, DISPATCHED_DELAY, HEARTBEAT};
use protocol::session::{EndReason, Side};

fn silent(side: Side) -> Scripted {
    Scripted::new(config(side, Windows::default()))
}

#[test]
fn silent_peer_is_pinged_once_and_then_dead() {
    for side in [Side::Relay, Side::Bridge] {
        let mut peer = silent(side);
        let start = peer.now;
        assert_eq!(peer.session.poll_timeout(), Some(start + HEARTBEAT));
        peer.wait(HEARTBEAT - MILLI).unwrap();
        assert_eq!(peer.frames(), []);
        peer.wait(MILLI).unwrap();
        assert!(matches!(peer.frames()[..], [Frame::Ping(_)]));
        assert_eq!(peer.session.poll_timeout(), Some(start + DEAD_AFTER));
        peer.wait(SECOND).unwrap();
        assert_eq!(peer.frames(), []);
        let end = peer.wait(DEAD_AFTER - HEARTBEAT - SECOND);
        assert_eq!(end, Err(EndReason::Dead(DEAD_AFTER)));
    }
}

#[test]
fn any_frame_is_a_sign_of_life() {
    let mut peer = silent(Side::Relay);
    for _ in 0..10 {
        peer.wait(HEARTBEAT - MILLI).unwrap();
        peer.says_raw(&[0x7f, 0x80, 0, 0, 0, 0]).unwrap();
    }
    assert_eq!(peer.frames(), []);
}

#[test]
fn idle_sides_keep_each_other_alive() {
    let link = Link {
        latency: 150 * MILLI,
        ..Link::INSTANT
    };
    let mut pair = Pair::with(link, Windows::default());
    pair.advance(3 * 3600 * SECOND).unwrap();
    let pings = pair.sent_by_relay().len() + pair.sent_by_bridge().len();
    assert!(
        (720..=2880).contains(&pings),
        "{pings} frames in three idle hours"
    );
    assert_eq!(
        pair.relay.rtt(),
        50 * MILLI,
        "a larger round trip replaced a smaller one"
    );
}

#[test]
fn frozen_connection_is_detected_by_both_sides() {
    let mut pair = Pair::new();
    pair.advance(100 * SECOND).unwrap();
    let frozen_at = pair.now;
    pair.link.latency = 1000 * SECOND;
    let (side, end) = pair.advance(30 * SECOND).unwrap_err();
    assert!(matches!(end, EndReason::Dead(_)), "{end:?}");
    assert!(pair.now - frozen_at <= DEAD_AFTER);
    let other = match side {
        Side::Relay => pair.bridge.poll_timeout(),
        Side::Bridge => pair.relay.poll_timeout(),
    };
    assert!(other.unwrap() <= frozen_at + DEAD_AFTER);
}

#[test]
fn probe_after_a_clock_jump_has_a_deadline() {
    let mut peer = silent(Side::Bridge);
    peer.session.probe(peer.now);
    let frames = peer.frames();
    let [Frame::Ping(token)] = frames[..] else {
        panic!("{frames:?}");
    };
    assert_eq!(peer.session.poll_timeout(), Some(peer.now + 5 * SECOND));
    peer.now += 4 * SECOND;
    peer.hears(&Frame::Pong(token));
    peer.wait(10 * SECOND).unwrap();

    peer.session.probe(peer.now);
    let end = peer.wait(5 * SECOND);
    assert!(matches!(end, Err(EndReason::Dead(_))), "{end:?}");
}

#[test]
fn smallest_round_trip_is_kept() {
    let mut peer = silent(Side::Relay);
    for (millis, known) in [(80, 50), (20, 20), (40, 20)] {
        peer.session.probe(peer.now);
        let frames = peer.frames();
        let [Frame::Ping(token)] = frames[..] else {
            panic!("{frames:?}");
        };
        peer.hears(&Frame::Pong(token + 1000));
        peer.now += millis * MILLI;
        peer.hears(&Frame::Pong(token));
        assert_eq!(peer.session.rtt(), known * MILLI);
        peer.now += SECOND;
    }
}

#[test]
fn dispatched_is_delayed_and_implied_by_head() {
    let mut pair = Pair::new();
    let slow = pair.opened(&call());
    let fast = pair.opened(&call());
    pair.sent_by_bridge();
    pair.bridge.mark_dispatched(pair.now, slow).unwrap();
    pair.bridge.mark_dispatched(pair.now, fast).unwrap();
    pair.run();
    assert_eq!(pair.sent_by_bridge(), []);
    assert_eq!(
        pair.bridge.poll_timeout(),
        Some(pair.now + DISPATCHED_DELAY)
    );
    pair.bridge
        .send_head(fast, &response(200), b"", true)
        .unwrap();
    pair.advance(DISPATCHED_DELAY).unwrap();
    let frames = pair.sent_by_bridge();
    assert!(
        frames.contains(&Frame::Dispatched { id: slow }),
        "{frames:?}"
    );
    assert!(
        !frames.contains(&Frame::Dispatched { id: fast }),
        "HEAD had said it"
    );
    assert_eq!(frames.len(), 2);
}
