//! The order of frames (W-34).

use super::support::{KIB, MILLI, Scripted, call, config, request, response, windows, zeros};
use protocol::frame::{Class, Frame, Windows};
use protocol::session::Side;

fn wide() -> Windows {
    windows(100, 64 * 1024, 1 << 30)
}

fn relay() -> Scripted {
    Scripted::new(config(Side::Relay, wide()))
}

/// Opens a stream with much to send, and sends `frames` frames of it.
fn busy(peer: &mut Scripted, class: Class, frames: usize) -> u32 {
    let id = peer.session.open(&request(class), b"", false).unwrap();
    peer.session.send_data(id, zeros(4 * KIB * KIB)).unwrap();
    for _ in 0..frames {
        peer.frame().unwrap();
    }
    id
}

/// Returns the streams of the next frames.
fn next_streams(peer: &mut Scripted, frames: usize) -> Vec<u32> {
    let id = |frame: Frame| match frame {
        Frame::Open { id, .. } | Frame::Data { id, .. } | Frame::Head { id, .. } => id,
        other => panic!("{other:?}"),
    };
    (0..frames).map(|_| id(peer.frame().unwrap())).collect()
}

#[test]
fn interactive_request_overtakes_bulk() {
    let mut peer = relay();
    for _ in 0..10 {
        busy(&mut peer, Class::Bulk, 5);
    }
    let id = peer.session.open(&call(), b"{}", true).unwrap();
    assert_eq!(next_streams(&mut peer, 1), [id]);
}

#[test]
fn interactive_response_overtakes_bulk() {
    let mut peer = Scripted::new(config(Side::Bridge, wide()));
    for (id, class) in [(1, Class::Bulk), (2, Class::Interactive)] {
        let head = Box::new(request(class));
        let body = zeros(0);
        peer.hears(&Frame::Open {
            id,
            head,
            body,
            end: true,
        });
    }
    peer.session
        .send_head(1, &response(200), b"", false)
        .unwrap();
    peer.session.send_data(1, zeros(1000 * KIB)).unwrap();
    next_streams(&mut peer, 10);
    peer.session
        .send_head(2, &response(200), b"{}", true)
        .unwrap();
    assert_eq!(next_streams(&mut peer, 2), [2, 1]);
}

#[test]
fn fresh_request_waits_for_one_frame_at_most() {
    let mut peer = relay();
    for _ in 0..10 {
        busy(&mut peer, Class::Interactive, 5);
        busy(&mut peer, Class::Bulk, 5);
    }
    for _ in 0..50 {
        let id = peer.session.open(&call(), b"{}", true).unwrap();
        let wire = next_streams(&mut peer, 2);
        let wire_id = peer.session.wire_id(id).expect("it has left");
        assert!(wire.contains(&wire_id));
        next_streams(&mut peer, 3);
    }
}

#[test]
fn bulk_keeps_its_share_next_to_interactive() {
    let mut peer = relay();
    let urgent = busy(&mut peer, Class::Interactive, 5);
    let patient = busy(&mut peer, Class::Bulk, 0);
    let wire = next_streams(&mut peer, 200);
    let patient = peer.session.wire_id(patient).unwrap();
    let bulk = wire.iter().filter(|id| **id == patient).count();
    assert!((35..=45).contains(&bulk), "{bulk} of 200");
    let urgent = peer.session.wire_id(urgent).unwrap();
    assert_eq!(wire.iter().filter(|id| **id == urgent).count(), 200 - bulk);
}

#[test]
fn long_streams_of_a_class_take_turns() {
    let mut peer = relay();
    let ids: Vec<_> = (0..4).map(|_| busy(&mut peer, Class::Bulk, 6)).collect();
    next_streams(&mut peer, 20);
    let wire = next_streams(&mut peer, 100);
    for id in ids {
        assert_eq!(wire.iter().filter(|one| **one == id).count(), 25);
    }
}

#[test]
fn fresh_stream_precedes_long_ones_of_its_class() {
    let mut peer = relay();
    busy(&mut peer, Class::Bulk, 6);
    busy(&mut peer, Class::Bulk, 6);
    let fresh = peer
        .session
        .open(&request(Class::Bulk), b"", false)
        .unwrap();
    peer.session.send_data(fresh, zeros(16 * KIB)).unwrap();
    assert_eq!(next_streams(&mut peer, 2), [fresh, fresh]);
}

#[test]
fn idle_stream_becomes_fresh_again() {
    let mut peer = relay();
    let clicker = peer.session.open(&call(), b"", false).unwrap();
    peer.session.send_data(clicker, zeros(100 * KIB)).unwrap();
    peer.frames();
    for _ in 0..10 {
        busy(&mut peer, Class::Interactive, 5);
    }
    peer.now += 10 * MILLI;
    next_streams(&mut peer, 1);
    peer.session.send_data(clicker, zeros(KIB)).unwrap();
    assert!(
        !next_streams(&mut peer, 5).contains(&clicker),
        "a short pause is none"
    );
    next_streams(&mut peer, 10);
    peer.now += 200 * MILLI;
    next_streams(&mut peer, 1);
    peer.session.send_data(clicker, zeros(KIB)).unwrap();
    assert_eq!(next_streams(&mut peer, 1), [clicker]);
}

#[test]
fn control_frames_pass_all_bodies() {
    let mut peer = relay();
    let id = busy(&mut peer, Class::Interactive, 3);
    peer.hears(&Frame::Ping(7));
    peer.session.stop(id);
    assert_eq!(peer.frame(), Some(Frame::Pong(7)));
    assert_eq!(peer.frame(), Some(Frame::Stop { id }));
}
