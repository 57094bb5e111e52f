//! GOAWAY: which streams may use another session, and when a session is drained.

use super::support::{
    KIB, Link, MILLI, Pair, Scripted, call, cancelled, config, count, response, zeros,
};
use protocol::frame::{Frame, GoAway, GoAwayReason, Windows};
use protocol::session::{Event, OpenError, Read, Side};
use protocol::{Code, Execution};
use std::time::Duration;

fn apart() -> Pair {
    let link = Link {
        latency: 50 * MILLI,
        ..Link::INSTANT
    };
    Pair::with(link, Windows::default())
}

fn goaway(last_stream: Option<u32>) -> Frame {
    Frame::GoAway(GoAway {
        last_stream,
        reason: GoAwayReason::Draining,
        retry_after_ms: 0,
    })
}

#[test]
fn streams_above_last_stream_are_not_dispatched() {
    let mut pair = apart();
    let taken = pair.opened(&call());
    let flying = pair.relay.open(&call(), b"", false).unwrap();
    pair.relay.send_data(flying, zeros(100 * KIB)).unwrap();
    pair.settle();
    pair.bridge.drain(GoAwayReason::Draining, Duration::ZERO);
    let waiting = {
        pair.settle();
        pair.now += 50 * MILLI;
        // The GOAWAY is about to arrive.
        pair.relay.open(&call(), b"", true).unwrap()
    };
    let word = pair.bridge.last_stream();
    assert_eq!(word, taken);
    pair.run();
    let failure = pair.relay.failure(flying).unwrap();
    assert_eq!(
        (failure.code, failure.execution),
        (Code::TunnelLost, Execution::NotDispatched)
    );
    assert!(
        pair.relay
            .failure(waiting)
            .unwrap()
            .execution
            .is_safe_to_repeat()
    );
    assert_eq!(pair.relay.failure(taken), None);
    assert_eq!(
        pair.relay.open(&call(), b"", true),
        Err(OpenError::Draining)
    );
    let events = pair.take_relay_events();
    assert_eq!(count(&events, &Event::Failed(flying)), 1);
    assert_eq!(count(&events, &Event::Failed(waiting)), 1);
    assert!(
        !pair
            .take_bridge_events()
            .iter()
            .any(|event| matches!(event, Event::Opened { id, .. } if *id != taken))
    );
    // What was taken finishes, and only then is the bridge done.
    pair.bridge
        .send_head(taken, &response(200), b"ok", true)
        .unwrap();
    pair.run();
    assert_eq!(pair.relay.read_head(taken).unwrap(), Some(response(200)));
    assert_eq!(count(&pair.take_bridge_events(), &Event::Drained), 1);
    for id in [taken, flying, waiting] {
        pair.release(id);
    }
    pair.assert_quiescent();
}

#[test]
fn frames_after_an_unaccepted_open_are_ignored() {
    let mut peer = Scripted::new(config(Side::Bridge, Windows::default()));
    peer.session.drain(GoAwayReason::Draining, Duration::ZERO);
    assert_eq!(peer.frames(), [goaway(Some(0))]);
    peer.hears(&open(1));
    peer.hears(&Frame::Data {
        id: 1,
        data: zeros(KIB),
        end: true,
    });
    peer.hears(&Frame::Reset {
        id: 1,
        failure: cancelled(),
    });
    assert_eq!(peer.frames(), []);
    assert_eq!(peer.session.streams_live(), 0);
    assert_eq!(peer.session.last_stream(), 0, "it was not taken");
    // Ids still only rise.
    peer.refuses(&open(1));
}

fn open(id: u32) -> Frame {
    Frame::Open {
        id,
        head: Box::new(call()),
        body: zeros(0),
        end: false,
    }
}

#[test]
fn unsent_request_is_not_sent_after_goaway() {
    let mut peer = Scripted::new(config(Side::Relay, Windows::default()));
    let id = peer.session.open(&call(), b"", true).unwrap();
    peer.hears(&goaway(Some(7)));
    assert_eq!(
        peer.session.failure(id).unwrap().execution,
        Execution::NotSent
    );
    assert_eq!(peer.frames(), []);
}

#[test]
fn cancel_that_crosses_goaway_is_not_dispatched() {
    let mut peer = Scripted::new(config(Side::Relay, Windows::default()));
    let settled = peer.session.open(&call(), b"", true).unwrap();
    let id = peer.session.open(&call(), b"", true).unwrap();
    peer.frames();
    for id in [settled, id] {
        peer.session.reset(id, cancelled());
    }
    let failure = cancelled();
    peer.hears(&Frame::Reset {
        id: settled,
        failure,
    });
    peer.events();
    peer.hears(&goaway(Some(0)));
    assert_eq!(
        peer.session.failure(id).unwrap().execution,
        Execution::NotDispatched
    );
    let events = peer.events();
    assert_eq!(count(&events, &Event::Failed(id)), 1);
    assert_eq!(count(&events, &Event::Failed(settled)), 0, "told twice");
    let first_word = peer.session.failure(settled).unwrap().execution;
    assert_eq!(
        first_word,
        Execution::PossiblyExecuted,
        "a settled cancel was changed"
    );
}

#[test]
fn goaway_below_a_dispatched_stream_is_a_violation() {
    let mut peer = Scripted::new(config(Side::Relay, Windows::default()));
    peer.session.open(&call(), b"", true).unwrap();
    peer.frames();
    peer.hears(&Frame::Dispatched { id: 1 });
    peer.refuses(&goaway(Some(0)));
}

#[test]
fn relay_goaway_waits_for_the_bridges() {
    let mut pair = apart();
    let id = pair.opened(&call());
    pair.relay
        .drain(GoAwayReason::Draining, Duration::from_secs(3));
    pair.run();
    let said = GoAway {
        last_stream: None,
        reason: GoAwayReason::Draining,
        retry_after_ms: 3000,
    };
    assert!(pair.take_bridge_events().contains(&Event::GoAway(said)));
    assert!(!pair.relay.accepts_streams());
    pair.bridge
        .send_head(id, &response(200), b"ok", true)
        .unwrap();
    pair.run();
    assert!(matches!(pair.read_relay(id), Read::Data(_)));
    assert_eq!(
        count(&pair.take_relay_events(), &Event::Drained),
        0,
        "before the bridge's word"
    );
    pair.bridge.drain(GoAwayReason::Draining, Duration::ZERO);
    pair.run();
    assert_eq!(count(&pair.take_relay_events(), &Event::Drained), 1);
    assert_eq!(count(&pair.take_bridge_events(), &Event::Drained), 1);
    // Saying it again changes nothing.
    pair.relay.drain(GoAwayReason::Draining, Duration::ZERO);
    pair.run();
    assert_eq!(count(&pair.take_relay_events(), &Event::Drained), 0);
}

#[test]
fn idle_bridge_is_drained_at_once() {
    let mut pair = apart();
    pair.bridge.drain(GoAwayReason::Draining, Duration::ZERO);
    pair.settle();
    assert_eq!(count(&pair.take_bridge_events(), &Event::Drained), 1);
}

#[test]
fn only_a_bridge_fixes_a_last_stream() {
    let mut peer = Scripted::new(config(Side::Bridge, Windows::default()));
    peer.refuses(&goaway(Some(1)));
}
