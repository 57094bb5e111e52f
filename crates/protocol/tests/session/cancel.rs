//! Cancellation: complete only with the bridge's acknowledgement (W-42).

use super::support::{KIB, Link, MILLI, Pair, call, cancelled, count, refused, response, zeros};
use protocol::frame::{Frame, Windows};
use protocol::session::{EndReason, Event, Read};
use protocol::{Code, Execution};

/// Two sides 50 ms apart.
fn apart() -> Pair {
    let link = Link {
        latency: 50 * MILLI,
        ..Link::INSTANT
    };
    Pair::with(link, Windows::default())
}

fn execution(pair: &Pair, id: u32) -> Option<Execution> {
    pair.relay.failure(id).map(|failure| failure.execution)
}

#[test]
fn request_cancelled_before_open_left_is_not_sent() {
    let mut pair = apart();
    let id = pair.relay.open(&call(), b"x", true).unwrap();
    pair.relay.reset(id, cancelled());
    assert_eq!(execution(&pair, id), Some(Execution::NotSent));
    assert_eq!(pair.relay.failure(id).unwrap().code, Code::Cancelled);
    pair.run();
    assert_eq!(pair.sent_by_relay(), []);
    assert_eq!(count(&pair.take_relay_events(), &Event::Failed(id)), 1);
    pair.release(id);
    pair.assert_quiescent();
    // The id was not spent.
    let next = pair.opened(&call());
    assert_eq!(pair.relay.wire_id(next), Some(1));
}

#[test]
fn cancelled_before_dispatch_is_not_dispatched() {
    let mut pair = apart();
    let id = pair.opened(&call());
    pair.relay.reset(id, cancelled());
    assert_eq!(
        execution(&pair, id),
        None,
        "settled without the bridge's word"
    );
    assert!(matches!(pair.read_relay(id), Read::Failed(_)));
    pair.settle();
    pair.take_relay_events();
    pair.run();
    assert_eq!(execution(&pair, id), Some(Execution::NotDispatched));
    assert_eq!(count(&pair.take_relay_events(), &Event::Failed(id)), 1);
    assert_eq!(count(&pair.take_bridge_events(), &Event::Failed(id)), 1);
    let late = pair.bridge.mark_dispatched(pair.now, id);
    assert!(
        late.is_err(),
        "a cancelled request must not leave for the target"
    );
    pair.release(id);
    pair.assert_quiescent();
}

#[test]
fn cancelled_after_dispatch_is_possibly_executed() {
    let mut pair = apart();
    let id = pair.opened(&call());
    pair.bridge.mark_dispatched(pair.now, id).unwrap();
    pair.relay.reset(id, cancelled());
    pair.run();
    assert_eq!(execution(&pair, id), Some(Execution::PossiblyExecuted));
    pair.release(id);
    pair.advance(MILLI * 30).unwrap();
    assert!(
        !pair
            .sent_by_bridge()
            .iter()
            .any(|f| matches!(f, Frame::Dispatched { .. }))
    );
    pair.assert_quiescent();
}

#[test]
fn informational_head_is_no_response() {
    let mut pair = apart();
    let id = pair.opened(&call());
    pair.bridge
        .send_head(id, &response(103), b"", false)
        .unwrap();
    pair.run();
    pair.relay.reset(id, cancelled());
    pair.run();
    assert_eq!(execution(&pair, id), Some(Execution::PossiblyExecuted));
}

#[test]
fn cancelled_after_the_head_is_executed() {
    let mut pair = apart();
    let id = pair.opened(&call());
    pair.bridge
        .send_head(id, &response(200), b"part", false)
        .unwrap();
    pair.run();
    pair.relay.reset(id, cancelled());
    pair.run();
    assert_eq!(execution(&pair, id), Some(Execution::Executed));
    pair.release(id);
    pair.assert_quiescent();
}

#[test]
fn cancel_that_crosses_the_response_is_executed() {
    let mut pair = apart();
    let id = pair.opened(&call());
    pair.bridge
        .send_head(id, &response(200), b"whole", true)
        .unwrap();
    pair.settle();
    pair.relay.reset(id, cancelled());
    pair.run();
    assert_eq!(execution(&pair, id), Some(Execution::Executed));
    pair.release(id);
    pair.assert_quiescent();
}

#[test]
fn cancel_that_crosses_reset_uses_its_execution() {
    let mut pair = apart();
    let id = pair.opened(&call());
    pair.bridge.reset(id, refused());
    pair.settle();
    pair.relay.reset(id, cancelled());
    pair.run();
    let failure = pair.relay.failure(id).unwrap();
    assert_eq!(
        (failure.code, failure.execution),
        (Code::Cancelled, Execution::NotDispatched)
    );
    pair.release(id);
    pair.assert_quiescent();
}

#[test]
fn reset_by_the_bridge_is_its_response() {
    let mut pair = apart();
    let id = pair.opened(&call());
    pair.bridge.reset(id, refused());
    pair.run();
    assert_eq!(pair.relay.failure(id), Some(refused()));
    assert_eq!(pair.read_relay(id), Read::Failed(refused()));
    assert_eq!(pair.relay.read_head(id), Err(refused()));
    pair.release(id);
    pair.assert_quiescent();
}

#[test]
fn cancel_without_ack_is_settled_by_the_session_end() {
    let mut pair = apart();
    let id = pair.opened(&call());
    pair.relay.reset(id, cancelled());
    pair.settle();
    pair.relay.fail(EndReason::Closed);
    assert_eq!(execution(&pair, id), Some(Execution::PossiblyExecuted));
}

#[test]
fn letting_go_of_a_request_cancels_it() {
    let mut pair = apart();
    let id = pair.relay.open(&call(), b"", false).unwrap();
    pair.relay.send_data(id, zeros(100 * KIB)).unwrap();
    pair.run();
    pair.relay.release(id);
    pair.run();
    assert_eq!(count(&pair.take_bridge_events(), &Event::Failed(id)), 1);
    pair.bridge.release(id);
    pair.run();
    pair.assert_quiescent();
}

#[test]
fn execution_is_known_while_the_exchange_runs() {
    let mut pair = Pair::new();
    let id = pair.relay.open(&call(), b"", true).unwrap();
    assert_eq!(pair.relay.execution(id), Some(Execution::NotSent));
    pair.run();
    assert_eq!(pair.relay.execution(id), Some(Execution::PossiblyExecuted));
    assert_eq!(pair.bridge.execution(id), Some(Execution::NotDispatched));
    let head = response(200);
    pair.bridge.send_head(id, &head, b"", false).unwrap();
    pair.run();
    assert_eq!(pair.relay.execution(id), Some(Execution::Executed));
    pair.release(id);
    pair.run();
    assert_eq!(pair.relay.execution(id), None);
}
