//! Credit: how much may be outstanding (W-30 to W-32).

use super::support::{
    KIB, Link, MILLI, Pair, Scripted, call, cancelled, config, response, windows, zeros,
};
use protocol::frame::{Credit, Frame, Windows};
use protocol::limits::DATA_SENT_BYTES;
use protocol::session::{Read, Side};
use protocol::{Code, Failure};

fn data_bytes(frames: &[Frame]) -> u64 {
    let bytes = |frame: &Frame| match frame {
        Frame::Data { data, .. } => data.len() as u64,
        Frame::Open { body, .. } | Frame::Head { body, .. } => body.len() as u64,
        _ => 0,
    };
    frames.iter().map(bytes).sum()
}

fn data(id: u32, bytes: u64, end: bool) -> Frame {
    let data = zeros(bytes);
    Frame::Data { id, data, end }
}

fn open(id: u32) -> Frame {
    Frame::Open {
        id,
        head: Box::new(call()),
        body: zeros(0),
        end: false,
    }
}

fn head(id: u32) -> Frame {
    Frame::Head {
        id,
        head: response(200),
        body: zeros(0),
        end: false,
    }
}

fn credit(id: u32, returned: u32, grown: u32) -> Frame {
    let credit = Credit { returned, grown };
    Frame::Credit { id, credit }
}

/// Opens a stream on the relay of `pair` and queues bytes on it.
fn upload(pair: &mut Pair, bytes: u64) -> u32 {
    let id = pair.relay.open(&call(), b"", false).unwrap();
    pair.relay.send_data(id, zeros(bytes)).unwrap();
    id
}

/// Returns the bytes that a new stream can send without a reader.
fn room_for_a_new_stream(pair: &mut Pair) -> u64 {
    pair.run();
    pair.sent_by_relay();
    let id = upload(pair, 1000 * KIB);
    pair.run();
    let sent = data_bytes(&pair.sent_by_relay());
    pair.relay.reset(id, cancelled());
    pair.run();
    pair.release(id);
    sent
}

#[test]
fn stream_stays_within_its_window() {
    for stream_kib in [16, 17, 64, 300] {
        let mut pair = Pair::tight(8, stream_kib, 1 << 20);
        upload(&mut pair, 900 * KIB);
        pair.run();
        assert_eq!(data_bytes(&pair.sent_by_relay()), stream_kib * KIB);
    }
}

#[test]
fn session_stays_within_its_window() {
    for session in [0, 1, 5000, 32 * KIB] {
        let mut pair = Pair::tight(8, 64, session);
        for _ in 0..4 {
            upload(&mut pair, 100 * KIB);
        }
        pair.run();
        assert_eq!(data_bytes(&pair.sent_by_relay()), 4 * 16 * KIB + session);
    }
}

/// The worked example of W-31.
#[test]
fn credit_of_two_streams_matches_the_document() {
    let mut peer = Scripted::new(config(Side::Relay, windows(8, 64, 20_000)));
    let a = peer.session.open(&call(), b"", false).unwrap();
    let b = peer.session.open(&call(), b"", false).unwrap();
    peer.frames();
    let sends = |peer: &mut Scripted, id, queued, sent| {
        peer.session.send_data(id, zeros(queued)).unwrap();
        let frames = peer.frames();
        assert_eq!(data_bytes(&frames), sent, "of {queued} on stream {id}");
        assert!(
            frames
                .iter()
                .all(|frame| matches!(frame, Frame::Data { id: of, .. } if *of == id))
        );
    };
    sends(&mut peer, a, 16_384, 16_384);
    sends(&mut peer, a, 16_384, 16_384);
    sends(&mut peer, b, 16_384, 16_384);
    sends(&mut peer, b, 30_000, 3_616);
    peer.hears(&credit(b, 16_384, 0));
    assert_eq!(data_bytes(&peer.frames()), 12_768 + 3_616);
    peer.session.reset(a, cancelled());
    let rest = 30_000 - 3_616 - 16_384;
    assert_eq!(data_bytes(&peer.frames()), rest, "what A had is free again");
}

#[test]
fn exceeding_a_stream_window_ends_the_session() {
    let local = windows(4, 32, 1 << 20);
    let mut peer = Scripted::new(config(Side::Bridge, local));
    peer.hears(&open(1));
    peer.hears(&data(1, 16 * KIB, false));
    peer.hears(&data(1, 16 * KIB, false));
    peer.refuses(&data(1, 1, false));
}

#[test]
fn exceeding_the_session_window_ends_the_session() {
    let local = windows(4, 64, 16 * KIB);
    let mut peer = Scripted::new(config(Side::Bridge, local));
    peer.hears(&open(1));
    peer.hears(&open(2));
    for id in [1, 2] {
        peer.hears(&data(id, 16 * KIB, false));
    }
    peer.hears(&data(1, 16 * KIB, false));
    peer.refuses(&data(2, 1, false));
}

#[test]
fn credit_returns_when_the_reader_takes_bytes() {
    let mut pair = Pair::tight(8, 64, 1 << 20);
    let id = upload(&mut pair, 64 * KIB);
    pair.run();
    assert_eq!(pair.sent_by_bridge(), []);
    let Read::Data(first) = pair.read_bridge(id) else {
        panic!("nothing to read");
    };
    assert_eq!(first.len(), DATA_SENT_BYTES);
    pair.read_bridge(id);
    pair.run();
    assert_eq!(
        pair.sent_by_bridge(),
        [],
        "credit for less than half a window"
    );
    pair.read_bridge(id);
    pair.run();
    let three = u32::try_from(3 * DATA_SENT_BYTES).unwrap();
    assert_eq!(pair.sent_by_bridge(), [credit(id, three, 0)]);
}

#[test]
fn bytes_read_before_the_end_return_with_the_end() {
    let mut peer = Scripted::new(config(Side::Bridge, Windows::default()));
    peer.hears(&open(1));
    for _ in 0..4 {
        peer.hears(&data(1, 16 * KIB, false));
    }
    while let Read::Data(_) = peer.session.read(peer.now, 1) {}
    assert_eq!(peer.frames(), []);
    peer.hears(&data(1, 0, true));
    assert_eq!(peer.frames(), [credit(1, 64 * 1024, 0)]);
}

#[test]
fn data_after_reset_returns_credit() {
    let link = Link {
        latency: 20 * MILLI,
        ..Link::INSTANT
    };
    let mut pair = Pair::with(link, windows(8, 64, 48 * KIB));
    let whole = room_for_a_new_stream(&mut pair);
    assert_eq!(whole, 64 * KIB);
    for round in 0..20 {
        let id = upload(&mut pair, 200 * KIB);
        pair.settle();
        match round % 3 {
            0 => pair.relay.reset(id, cancelled()),
            1 => {
                pair.now += 20 * MILLI;
                pair.settle();
                let failure = Failure::not_dispatched(Code::RefusedByPolicy, "no");
                pair.bridge.reset(id, failure);
            }
            _ => {
                pair.now += 20 * MILLI;
                pair.settle();
                pair.bridge.stop(id);
                pair.settle();
                pair.relay.reset(id, cancelled());
            }
        }
        pair.run();
        pair.release(id);
    }
    assert_eq!(room_for_a_new_stream(&mut pair), whole, "credit leaked");
    pair.assert_quiescent();
}

#[test]
fn reset_response_returns_its_credit() {
    let mut pair = Pair::tight(8, 64, 48 * KIB);
    for _ in 0..20 {
        let id = pair.opened(&call());
        pair.bridge
            .send_head(id, &response(200), b"", false)
            .unwrap();
        pair.bridge.send_data(id, zeros(200 * KIB)).unwrap();
        pair.run();
        pair.relay.reset(id, cancelled());
        pair.run();
        pair.release(id);
        pair.assert_quiescent();
    }
}

#[test]
fn unread_bytes_return_on_release() {
    let mut pair = Pair::tight(8, 64, 48 * KIB);
    let id = pair.opened(&call());
    pair.bridge
        .send_head(id, &response(200), b"", false)
        .unwrap();
    pair.bridge.send_data(id, zeros(60 * KIB)).unwrap();
    pair.bridge.finish(id, None).unwrap();
    pair.run();
    assert_eq!(
        pair.relay.streams_live(),
        1,
        "still charged, and not counted"
    );
    pair.relay.release(id);
    pair.bridge.release(id);
    pair.run();
    pair.assert_quiescent();
}

#[test]
fn session_without_a_window_uses_the_reserves() {
    let mut pair = Pair::tight(8, 256, 0);
    let id = upload(&mut pair, 100 * KIB);
    pair.relay.finish(id, None).unwrap();
    let mut read = 0;
    pair.run_until(|pair| {
        while let Read::Data(data) = pair.read_bridge(id) {
            read += data.len() as u64;
        }
        read == 100 * KIB
    });
}

#[test]
fn late_frames_for_closed_streams_are_ignored() {
    let mut peer = Scripted::new(config(Side::Relay, Windows::default()));
    let id = peer.session.open(&call(), b"", false).unwrap();
    peer.frames();
    peer.session.reset(id, cancelled());
    let failure = cancelled();
    peer.hears(&Frame::Reset { id, failure });
    peer.session.release(id);
    peer.frames();
    assert!(peer.session.is_quiescent());
    for _ in 0..3 {
        peer.hears(&head(id));
        peer.hears(&data(id, 16 * KIB, false));
        peer.hears(&credit(id, u32::MAX, u32::MAX));
        peer.hears(&Frame::Stop { id });
        peer.hears(&Frame::Dispatched { id });
        let failure = cancelled();
        peer.hears(&Frame::Reset { id, failure });
    }
    assert_eq!(peer.frames(), []);
    assert!(peer.session.is_quiescent());
}

#[test]
fn data_after_stop_is_dropped_without_charge() {
    let mut peer = Scripted::new(config(Side::Bridge, windows(4, 64, 16 * KIB)));
    peer.hears(&open(1));
    peer.session.stop(1);
    for _ in 0..100 {
        peer.hears(&data(1, 16 * KIB, false));
    }
    peer.hears(&data(1, 0, true));
    assert_eq!(peer.session.read(peer.now, 1), Read::End);
    assert_eq!(peer.frames(), [Frame::Stop { id: 1 }]);
}

#[test]
fn head_after_stop_keeps_no_body() {
    let mut peer = Scripted::new(config(Side::Relay, Windows::default()));
    let id = peer.session.open(&call(), b"", true).unwrap();
    peer.frames();
    peer.session.stop(id);
    peer.hears(&Frame::Head {
        id,
        head: response(200),
        body: zeros(16 * KIB),
        end: false,
    });
    assert_eq!(peer.session.read(peer.now, id), Read::End);
    peer.session.release(id);
    peer.frames();
    assert!(peer.session.is_quiescent());
}

#[test]
fn stopped_response_leaves_no_bytes_queued() {
    let mut peer = Scripted::new(config(Side::Bridge, Windows::default()));
    peer.hears(&open(1));
    peer.hears(&Frame::Stop { id: 1 });
    peer.session
        .send_head(1, &response(200), b"unwanted", true)
        .unwrap();
    peer.hears(&data(1, 0, true));
    peer.session.release(1);
    peer.frames();
    assert!(peer.session.is_quiescent());
}

#[test]
fn credit_above_outstanding_ends_the_session() {
    let mut peer = Scripted::new(config(Side::Relay, Windows::default()));
    let id = peer.session.open(&call(), b"12345", false).unwrap();
    peer.frames();
    peer.hears(&credit(id, 5, 0));
    peer.refuses(&credit(id, 1, 0));
}

#[test]
fn endless_growth_does_not_overflow() {
    let mut peer = Scripted::new(config(Side::Relay, Windows::default()));
    let id = peer.session.open(&call(), b"", false).unwrap();
    peer.frames();
    for _ in 0..10_000 {
        peer.hears(&credit(id, 0, u32::MAX));
    }
    peer.session.send_data(id, zeros(300 * KIB)).unwrap();
    assert_eq!(data_bytes(&peer.frames()), 300 * KIB);
}

#[test]
fn huge_windows_neither_overflow_nor_shrink() {
    let mut config = config(Side::Relay, Windows::default());
    config.peer.stream_bytes = u64::MAX;
    config.peer.session_bytes = u64::MAX;
    let mut peer = Scripted::new(config);
    let id = peer.session.open(&call(), b"", false).unwrap();
    peer.frames();
    peer.hears(&credit(id, 0, u32::MAX));
    peer.session.send_data(id, zeros(900 * KIB)).unwrap();
    assert_eq!(data_bytes(&peer.frames()), 900 * KIB);
}

#[test]
fn frames_out_of_order_end_the_session() {
    let relay = || {
        let mut peer = Scripted::new(config(Side::Relay, Windows::default()));
        peer.session.open(&call(), b"", false).unwrap();
        peer.frames();
        peer
    };
    relay().refuses(&data(1, 1, false));
    relay().refuses(&head(2));
    relay().refuses(&open(2));
    let mut peer = relay();
    peer.hears(&head(1));
    peer.refuses(&head(1));
    let mut peer = relay();
    peer.hears(&head(1));
    peer.hears(&data(1, 1, true));
    peer.refuses(&data(1, 1, true));

    let bridge = || {
        let mut peer = Scripted::new(config(Side::Bridge, Windows::default()));
        peer.hears(&open(3));
        peer
    };
    bridge().refuses(&open(3));
    bridge().refuses(&open(2));
    bridge().refuses(&head(3));
    bridge().refuses(&Frame::Dispatched { id: 3 });
    bridge().refuses(&data(4, 1, false));
    bridge().refuses(&credit(3, 1, 0));
    let mut peer = bridge();
    peer.hears(&data(3, 0, true));
    peer.refuses(&data(3, 1, false));
}
