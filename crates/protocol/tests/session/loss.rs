//! A lost session: every stream fails exactly once, with its execution state.

use super::support::{KIB, Link, MILLI, Pair, Scripted, call, config, count, response, zeros};
use bytes::Bytes;
use protocol::frame::{Frame, Windows};
use protocol::session::{EndReason, Event, OpenError, Read, SendCapacity, Side};
use protocol::{Code, Execution};

fn apart() -> Pair {
    let link = Link {
        latency: 50 * MILLI,
        ..Link::INSTANT
    };
    Pair::with(link, Windows::default())
}

fn lost(pair: &Pair, id: u32) -> Execution {
    let failure = pair.relay.failure(id).unwrap();
    assert_eq!(failure.code, Code::TunnelLost);
    failure.execution
}

#[test]
fn lost_session_fails_each_stream_once() {
    let mut pair = apart();
    let answered = pair.opened(&call());
    pair.bridge
        .send_head(answered, &response(200), b"part", false)
        .unwrap();
    let hinted = pair.opened(&call());
    pair.bridge
        .send_head(hinted, &response(103), b"", false)
        .unwrap();
    let dispatched = pair.opened(&call());
    pair.bridge.mark_dispatched(pair.now, dispatched).unwrap();
    pair.run();
    let flying = pair.relay.open(&call(), b"", true).unwrap();
    pair.settle();
    let waiting = pair.relay.open(&call(), b"", true).unwrap();
    pair.take_relay_events();
    pair.lose();
    assert_eq!(lost(&pair, answered), Execution::Executed);
    assert_eq!(lost(&pair, hinted), Execution::PossiblyExecuted);
    assert_eq!(lost(&pair, dispatched), Execution::PossiblyExecuted);
    assert_eq!(lost(&pair, flying), Execution::PossiblyExecuted);
    assert_eq!(lost(&pair, waiting), Execution::NotSent);
    pair.relay.fail(EndReason::Closed);
    pair.run();
    let events = pair.take_relay_events();
    for id in [answered, hinted, dispatched, flying, waiting] {
        assert_eq!(count(&events, &Event::Failed(id)), 1, "stream {id}");
    }
    assert_eq!(pair.relay.open(&call(), b"", true), Err(OpenError::Ended));
    assert_eq!(pair.relay.poll_timeout(), None);
    for id in 1..=5 {
        pair.release(id);
    }
    pair.assert_quiescent();
}

#[test]
fn bridge_lists_undispatched_streams() {
    let mut pair = apart();
    let dispatched = pair.opened(&call());
    let waiting = pair.opened(&call());
    pair.bridge.mark_dispatched(pair.now, dispatched).unwrap();
    assert_eq!(pair.bridge.undispatched(), [waiting]);
    assert_eq!(pair.bridge.last_stream(), waiting);
    pair.lose();
    assert!(
        pair.bridge.mark_dispatched(pair.now, waiting).is_err(),
        "listed, and then sent"
    );
    let events = pair.take_bridge_events();
    assert_eq!(count(&events, &Event::Failed(waiting)), 1);
    assert_eq!(count(&events, &Event::Failed(dispatched)), 1);
}

#[test]
fn complete_response_survives_the_session() {
    let mut pair = apart();
    let id = pair.opened(&call());
    pair.bridge
        .send_head(id, &response(200), b"whole", false)
        .unwrap();
    pair.bridge.send_data(id, zeros(100 * KIB)).unwrap();
    pair.bridge.finish(id, None).unwrap();
    pair.run();
    pair.lose();
    assert_eq!(pair.relay.failure(id), None);
    assert_eq!(pair.relay.read_head(id).unwrap(), Some(response(200)));
    let mut bytes = 0;
    while let Read::Data(data) = pair.read_relay(id) {
        bytes += data.len();
    }
    assert_eq!(bytes, 5 + 100 * 1024);
    assert_eq!(pair.read_relay(id), Read::End);
    assert_eq!(count(&pair.take_relay_events(), &Event::Failed(id)), 0);
    assert_eq!(pair.relay.streams_live(), 0);
    pair.release(id);
    pair.assert_quiescent();
}

#[test]
fn writer_of_a_complete_exchange_is_woken() {
    let mut pair = apart();
    let id = pair.relay.open(&call(), b"", false).unwrap();
    pair.relay.send_data(id, zeros(600 * KIB)).unwrap();
    pair.run();
    pair.bridge
        .send_head(id, &response(200), b"early", true)
        .unwrap();
    pair.run();
    assert_eq!(pair.relay.send_capacity(id), Ok(SendCapacity::Full));
    pair.take_relay_events();
    pair.lose();
    assert_eq!(count(&pair.take_relay_events(), &Event::Writable(id)), 1);
    assert_eq!(pair.relay.send_capacity(id), Ok(SendCapacity::Stopped));
    assert_eq!(
        pair.read_relay(id),
        Read::Data(Bytes::from_static(b"early"))
    );
    pair.release(id);
    pair.assert_quiescent();
}

#[test]
fn ended_session_sends_and_accepts_nothing() {
    let mut peer = Scripted::new(config(Side::Relay, Windows::default()));
    let id = peer.session.open(&call(), b"", true).unwrap();
    peer.session.fail(EndReason::Replaced);
    assert_eq!(peer.frames(), []);
    assert!(!peer.session.has_frames());
    let late = peer.says(&Frame::Dispatched { id });
    assert_eq!(late, Err(EndReason::Replaced));
    assert_eq!(peer.session.ended(), Some(&EndReason::Replaced));
}
