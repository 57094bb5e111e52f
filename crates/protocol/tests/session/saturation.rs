//! Everything is full in both directions, with the smallest windows: no deadlock, and no byte is lost (W-31).

use super::support::{Body, KIB, Link, MILLI, Pair, Users, call, request, response, windows};
use protocol::frame::{Class, Windows};

/// Transfers bodies in both directions on many streams, read in pieces. Panics at a deadlock.
fn saturate(link: Link, both: Windows, streams: u32, bytes: u64, pieces: usize) {
    let mut pair = Pair::with(link, both);
    pair.keep_frames = false;
    let (mut relay, mut bridge) = (Users::default(), Users::default());
    for n in 0..streams {
        let class = if n % 2 == 0 {
            Class::Interactive
        } else {
            Class::Bulk
        };
        let id = pair.relay.open(&request(class), b"", false).unwrap();
        // The bridge calls it by its id on the wire.
        pair.run();
        assert_eq!(pair.relay.wire_id(id), Some(id));
        pair.bridge
            .send_head(id, &response(200), b"", false)
            .unwrap();
        let up = Body {
            key: u64::from(id),
            bytes: bytes + u64::from(n),
        };
        let down = Body {
            key: u64::from(id) + 1000,
            bytes: bytes - u64::from(n),
        };
        relay.write(id, up);
        bridge.read(id, up.key);
        bridge.write(id, down);
        relay.read(id, down.key);
    }
    pair.run_until(|pair| {
        relay.wake(pair.take_relay_events());
        bridge.wake(pair.take_bridge_events());
        loop {
            relay.act(pair.now, &mut pair.relay, pieces);
            bridge.act(pair.now, &mut pair.bridge, pieces);
            pair.settle();
            relay.wake(pair.take_relay_events());
            bridge.wake(pair.take_bridge_events());
            if !relay.are_busy() && !bridge.are_busy() {
                return relay.are_done() && bridge.are_done();
            }
        }
    });
    for users in [&relay, &bridge] {
        for reader in users.readers.values() {
            let sent = [&relay, &bridge]
                .iter()
                .filter_map(|side| side.writers.get(&reader.id))
                .find(|writer| writer.body.key == reader.key)
                .unwrap();
            assert_eq!(reader.got, sent.body.bytes);
            assert!(!reader.failed);
        }
    }
    for id in 1..=streams {
        pair.release(id);
    }
    pair.assert_quiescent();
}

#[test]
fn tiny_windows_move_every_byte() {
    for (stream_kib, session) in [
        (16, 0),
        (16, 16 * KIB),
        (64, 0),
        (256, 0),
        (256, 1),
        (40, 3 * KIB),
    ] {
        saturate(
            Link::INSTANT,
            windows(64, stream_kib, session),
            64,
            150 * KIB,
            1,
        );
    }
}

#[test]
fn tiny_windows_on_a_slow_link_move_every_byte() {
    let link = Link::new(75 * MILLI, 500_000);
    saturate(link, windows(64, 16, 0), 64, 60 * KIB, 1);
    saturate(link, windows(64, 64, 20 * KIB), 32, 60 * KIB, 3);
}

#[test]
fn shared_session_window_moves_every_byte() {
    let link = Link::new(10 * MILLI, 10_000_000);
    saturate(link, windows(64, 256, 100 * KIB), 48, 400 * KIB, 2);
}

#[test]
fn stalled_readers_leave_others_their_reserve() {
    let mut pair = Pair::tight(100, 256, 512 * KIB);
    pair.keep_frames = false;
    let (mut relay, mut bridge) = (Users::default(), Users::default());
    // These use up the session's window, and no caller reads them.
    for _ in 0..20 {
        let id = pair.relay.open(&call(), b"", false).unwrap();
        relay.write(
            id,
            Body {
                key: u64::from(id),
                bytes: 1000 * KIB,
            },
        );
    }
    // As often as it takes until the window, and no longer the queues, is what holds them back.
    for _ in 0..20 {
        relay.act(pair.now, &mut pair.relay, 0);
        pair.run();
        relay.wake(pair.take_relay_events());
    }
    let stalled = pair.bytes_to_bridge();
    assert!(stalled >= 20 * 16 * KIB + 512 * KIB);
    for _ in 0..50 {
        let id = pair.relay.open(&call(), b"", false).unwrap();
        let body = Body {
            key: u64::from(id),
            bytes: 300 * KIB,
        };
        relay.write(id, body);
        bridge.read(id, body.key);
    }
    pair.run_until(|pair| {
        relay.wake(pair.take_relay_events());
        bridge.wake(pair.take_bridge_events());
        relay.act(pair.now, &mut pair.relay, 0);
        bridge.act(pair.now, &mut pair.bridge, 100);
        bridge.readers.values().all(|reader| reader.done)
    });
    assert!(
        bridge
            .readers
            .values()
            .all(|reader| reader.got == 300 * KIB)
    );
    // The stalled ones moved nothing, and hold no more than before.
    for id in 1..=20 {
        assert!(!relay.writers[&id].done);
    }
    // Once they are read, they too come to their end.
    for id in 1..=20 {
        bridge.read(id, u64::from(id));
    }
    pair.run_until(|pair| {
        relay.wake(pair.take_relay_events());
        bridge.wake(pair.take_bridge_events());
        relay.act(pair.now, &mut pair.relay, 0);
        bridge.act(pair.now, &mut pair.bridge, 100);
        bridge.are_done()
    });
    assert!(bridge.readers.values().all(|reader| !reader.failed));
}

#[test]
fn credit_returns_when_others_fill_the_session() {
    let mut pair = Pair::tight(100, 256, 256 * KIB);
    pair.keep_frames = false;
    let (mut relay, mut bridge) = (Users::default(), Users::default());
    let id = pair.relay.open(&call(), b"", false).unwrap();
    let body = Body {
        key: 1,
        bytes: 600 * KIB,
    };
    relay.write(id, body);
    bridge.read(id, body.key);
    // It has read all that came, less than half of its window: no credit is due.
    while relay.writers[&id].sent < 100 * KIB {
        relay
            .writers
            .get_mut(&id)
            .unwrap()
            .write_piece(&mut pair.relay);
        pair.run();
    }
    bridge.wake(pair.take_bridge_events());
    bridge.act(pair.now, &mut pair.bridge, 100);
    assert_eq!(bridge.readers[&id].got, relay.writers[&id].sent);
    // Other unread streams take the rest of the session's window.
    for _ in 0..10 {
        let id = pair.relay.open(&call(), b"", false).unwrap();
        let bytes = 1000 * KIB;
        relay.write(id, Body { key: 2, bytes });
        relay.writers.get_mut(&id).unwrap().write(&mut pair.relay);
    }
    pair.run();
    pair.run_until(|pair| {
        relay.wake(pair.take_relay_events());
        bridge.wake(pair.take_bridge_events());
        relay.act(pair.now, &mut pair.relay, 0);
        bridge.act(pair.now, &mut pair.bridge, 100);
        bridge.are_done()
    });
    assert_eq!(bridge.readers[&id].got, 600 * KIB);
}
