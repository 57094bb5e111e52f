//! One exchange, from OPEN to its last frame.

use super::support::{KIB, Pair, call, headers, request, response, zeros};
use bytes::Bytes;
use protocol::frame::{Class, Frame};
use protocol::limits::{DATA_SENT_BYTES, INFORMATIONAL_MAX};
use protocol::session::{Event, Read, SendCapacity};

/// Returns the types of frames.
fn kinds(frames: &[Frame]) -> Vec<&'static str> {
    let kind = |frame: &Frame| match frame {
        Frame::Open { .. } => "OPEN",
        Frame::Head { .. } => "HEAD",
        Frame::Data { end: false, .. } => "DATA",
        Frame::Data { end: true, .. } => "DATA+END",
        Frame::Trailers { .. } => "TRAILERS",
        Frame::Credit { .. } => "CREDIT",
        Frame::Stop { .. } => "STOP",
        Frame::Reset { .. } => "RESET",
        Frame::Dispatched { .. } => "DISPATCHED",
        _ => "other",
    };
    frames.iter().map(kind).collect()
}

fn read_body(mut next: impl FnMut() -> Read) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        match next() {
            Read::Data(data) => body.extend_from_slice(&data),
            Read::End => return body,
            other => panic!("{other:?} in a body"),
        }
    }
}

#[test]
fn small_exchange_is_one_frame_each_way() {
    let mut pair = Pair::new();
    let id = pair.relay.open(&call(), b"{\"defect\":7}", true).unwrap();
    pair.run();
    let opened = Event::Opened {
        id,
        head: Box::new(call()),
    };
    assert_eq!(pair.take_bridge_events()[0], opened);
    assert_eq!(read_body(|| pair.read_bridge(id)), b"{\"defect\":7}");
    pair.bridge.mark_dispatched(pair.now, id).unwrap();
    pair.bridge
        .send_head(id, &response(200), b"done", true)
        .unwrap();
    pair.run();
    assert_eq!(pair.relay.read_head(id).unwrap(), Some(response(200)));
    assert_eq!(read_body(|| pair.read_relay(id)), b"done");
    pair.release(id);
    assert_eq!(kinds(&pair.sent_by_relay()), ["OPEN"]);
    assert_eq!(kinds(&pair.sent_by_bridge()), ["HEAD"]);
    pair.assert_quiescent();
}

#[test]
fn head_carries_the_beginning_of_a_longer_body() {
    let mut pair = Pair::new();
    let id = pair.relay.open(&call(), b"begin", false).unwrap();
    pair.relay
        .send_data(id, Bytes::from_static(b" and end"))
        .unwrap();
    pair.relay.finish(id, None).unwrap();
    pair.run();
    assert_eq!(read_body(|| pair.read_bridge(id)), b"begin and end");
    pair.bridge
        .send_head(id, &response(200), b"answer", false)
        .unwrap();
    pair.run();
    assert_eq!(pair.relay.read_head(id).unwrap(), Some(response(200)));
    assert_eq!(
        pair.read_relay(id),
        Read::Data(Bytes::from_static(b"answer"))
    );
    assert_eq!(pair.read_relay(id), Read::Pending);
    pair.bridge.finish(id, None).unwrap();
    pair.run();
    assert_eq!(pair.read_relay(id), Read::End);
    assert!(pair.relay.is_read_to_end(id));
    assert_eq!(kinds(&pair.sent_by_relay()), ["OPEN", "DATA+END"]);
    assert_eq!(kinds(&pair.sent_by_bridge()), ["HEAD", "DATA+END"]);
    pair.release(id);
    pair.assert_quiescent();
}

#[test]
fn long_body_is_split_into_frames() {
    let mut pair = Pair::new();
    let id = pair.relay.open(&call(), b"", false).unwrap();
    pair.relay.send_data(id, zeros(40 * KIB)).unwrap();
    pair.relay.finish(id, None).unwrap();
    pair.run();
    let sizes: Vec<_> = pair
        .sent_by_relay()
        .into_iter()
        .filter_map(|frame| match frame {
            Frame::Data { data, end, .. } => Some((data.len(), end)),
            _ => None,
        })
        .collect();
    let rest = 40 * 1024 - 2 * DATA_SENT_BYTES;
    assert_eq!(
        sizes,
        [
            (DATA_SENT_BYTES, false),
            (DATA_SENT_BYTES, false),
            (rest, true)
        ]
    );
    assert_eq!(read_body(|| pair.read_bridge(id)).len(), 40 * 1024);
}

#[test]
fn queued_small_writes_leave_in_one_frame() {
    let mut pair = Pair::new();
    let id = pair.relay.open(&call(), b"", false).unwrap();
    for _ in 0..200 {
        pair.relay
            .send_data(id, Bytes::from_static(b"12345678"))
            .unwrap();
    }
    pair.relay.finish(id, None).unwrap();
    pair.run();
    assert_eq!(kinds(&pair.sent_by_relay()), ["OPEN", "DATA+END"]);
    assert_eq!(read_body(|| pair.read_bridge(id)).len(), 1600);
}

#[test]
fn single_byte_writes_are_bounded() {
    let mut pair = Pair::new();
    let id = pair.relay.open(&call(), b"", false).unwrap();
    let mut pieces = 0;
    while pair.relay.send_capacity(id) == Ok(SendCapacity::Free) {
        pair.relay.send_data(id, Bytes::from_static(b"x")).unwrap();
        pieces += 1;
        assert!(pieces < 1000, "no bound");
    }
    pair.run();
    assert!(pair.take_relay_events().contains(&Event::Writable(id)));
    assert_eq!(pair.relay.send_capacity(id), Ok(SendCapacity::Free));
}

#[test]
fn informational_heads_precede_the_final_one() {
    let mut pair = Pair::new();
    let id = pair.opened(&call());
    for status in [100, 103, 103, 200] {
        pair.bridge
            .send_head(id, &response(status), b"", false)
            .unwrap();
    }
    pair.run();
    for status in [100, 103, 103, 200] {
        assert_eq!(pair.relay.read_head(id).unwrap().unwrap().status, status);
    }
    assert_eq!(pair.relay.read_head(id).unwrap(), None);
}

#[test]
fn informational_flood_of_a_target_is_dropped() {
    let mut pair = Pair::new();
    let id = pair.opened(&call());
    for _ in 0..INFORMATIONAL_MAX + 10 {
        pair.bridge
            .send_head(id, &response(103), b"", false)
            .unwrap();
    }
    pair.bridge
        .send_head(id, &response(200), b"ok", true)
        .unwrap();
    pair.run();
    let mut heads = 0;
    while let Some(head) = pair.relay.read_head(id).unwrap() {
        heads += 1;
        assert_eq!(head.status == 200, heads == INFORMATIONAL_MAX + 1);
    }
    assert_eq!(heads, INFORMATIONAL_MAX + 1);
}

#[test]
fn raw_directions_end_independently() {
    let mut pair = Pair::new();
    let id = pair.relay.open(&call(), b"", false).unwrap();
    pair.run();
    pair.bridge
        .send_head(id, &response(101), b"", false)
        .unwrap();
    pair.relay
        .send_data(id, Bytes::from_static(b"ping"))
        .unwrap();
    pair.run();
    assert_eq!(
        pair.read_bridge(id),
        Read::Data(Bytes::from_static(b"ping"))
    );
    pair.relay.finish(id, None).unwrap();
    pair.run();
    assert_eq!(pair.read_bridge(id), Read::End);
    pair.bridge
        .send_data(id, Bytes::from_static(b"pong"))
        .unwrap();
    pair.run();
    assert_eq!(pair.read_relay(id), Read::Data(Bytes::from_static(b"pong")));
    assert_eq!(pair.read_relay(id), Read::Pending);
    assert_eq!(pair.relay.streams_live(), 1);
    pair.bridge.finish(id, None).unwrap();
    pair.run();
    assert_eq!(pair.read_relay(id), Read::End);
    assert_eq!(pair.relay.streams_live(), 0);
}

#[test]
fn trailers_end_both_directions() {
    let mut pair = Pair::new();
    let id = pair.relay.open(&call(), b"body", false).unwrap();
    let trailers = headers(&[("digest", "abc"), ("digest", "def")]);
    pair.relay.finish(id, Some(trailers.clone())).unwrap();
    pair.run();
    assert_eq!(
        pair.read_bridge(id),
        Read::Data(Bytes::from_static(b"body"))
    );
    assert!(!pair.bridge.is_read_to_end(id));
    assert_eq!(pair.read_bridge(id), Read::Trailers(trailers.clone()));
    assert_eq!(pair.read_bridge(id), Read::End);
    pair.bridge
        .send_head(id, &response(200), b"x", false)
        .unwrap();
    pair.bridge.finish(id, Some(trailers.clone())).unwrap();
    pair.run();
    assert_eq!(pair.read_relay(id), Read::Data(Bytes::from_static(b"x")));
    assert_eq!(pair.read_relay(id), Read::Trailers(trailers));
    assert_eq!(pair.read_relay(id), Read::End);
    pair.release(id);
    pair.assert_quiescent();
}

#[test]
fn stop_ends_the_request_but_not_the_response() {
    let mut pair = Pair::new();
    let id = pair.relay.open(&call(), b"", false).unwrap();
    pair.relay.send_data(id, zeros(600 * KIB)).unwrap();
    assert_eq!(pair.relay.send_capacity(id), Ok(SendCapacity::Full));
    pair.run();
    pair.bridge.stop(id);
    pair.run();
    assert!(
        pair.take_relay_events().contains(&Event::Writable(id)),
        "the writer sleeps on"
    );
    assert_eq!(pair.relay.send_capacity(id), Ok(SendCapacity::Stopped));
    pair.relay.send_data(id, zeros(KIB)).unwrap();
    pair.relay.finish(id, None).unwrap();
    pair.bridge
        .send_head(id, &response(413), b"too much", true)
        .unwrap();
    pair.run();
    assert_eq!(pair.relay.read_head(id).unwrap().unwrap().status, 413);
    assert_eq!(read_body(|| pair.read_relay(id)), b"too much");
    assert_eq!(pair.relay.failure(id), None);
    pair.release(id);
    pair.assert_quiescent();
}

#[test]
fn release_after_the_response_stops_the_request() {
    let mut pair = Pair::new();
    let id = pair.relay.open(&call(), b"", false).unwrap();
    pair.relay.send_data(id, zeros(30 * KIB)).unwrap();
    pair.run();
    pair.bridge
        .send_head(id, &response(200), b"early", true)
        .unwrap();
    pair.bridge.release(id);
    pair.run();
    assert_eq!(pair.relay.send_capacity(id), Ok(SendCapacity::Stopped));
    assert_eq!(pair.relay.read_head(id).unwrap().unwrap().status, 200);
    assert_eq!(read_body(|| pair.read_relay(id)), b"early");
    assert!(!kinds(&pair.sent_by_bridge()).contains(&"RESET"));
    pair.release(id);
    pair.assert_quiescent();
}

#[test]
fn early_response_keeps_the_request_running() {
    let mut pair = Pair::new();
    let id = pair.relay.open(&call(), b"", false).unwrap();
    pair.run();
    pair.bridge
        .send_head(id, &response(200), b"early", true)
        .unwrap();
    pair.run();
    assert_eq!(read_body(|| pair.read_relay(id)), b"early");
    pair.relay.send_data(id, zeros(30 * KIB)).unwrap();
    pair.relay.finish(id, None).unwrap();
    pair.run();
    assert_eq!(read_body(|| pair.read_bridge(id)).len(), 30 * 1024);
    pair.release(id);
    pair.assert_quiescent();
}

#[test]
fn queued_response_arrives_after_release() {
    let mut pair = Pair::new();
    let id = pair.relay.open(&call(), b"", false).unwrap();
    pair.run();
    pair.bridge
        .send_head(id, &response(200), b"early", true)
        .unwrap();
    pair.run();
    assert_eq!(read_body(|| pair.read_relay(id)), b"early");
    pair.relay.send_data(id, zeros(30 * KIB)).unwrap();
    pair.relay.finish(id, None).unwrap();
    pair.relay.release(id);
    pair.run();
    assert_eq!(read_body(|| pair.read_bridge(id)).len(), 30 * 1024);
    assert_eq!(pair.bridge.failure(id), None);
    pair.bridge.release(id);
    pair.run();
    pair.assert_quiescent();
}

#[test]
fn release_of_an_unfinished_response_resets_it() {
    let mut pair = Pair::new();
    let id = pair.opened(&call());
    pair.bridge
        .send_head(id, &response(200), b"part", false)
        .unwrap();
    pair.bridge.release(id);
    pair.run();
    let failure = pair.relay.failure(id).unwrap();
    assert_eq!(failure.code, protocol::Code::Internal);
    assert_eq!(
        pair.read_relay(id),
        Read::Failed(failure),
        "a part looks like the whole"
    );
    pair.release(id);
    pair.assert_quiescent();
}

#[test]
fn wire_ids_rise_when_an_urgent_open_overtakes() {
    let mut pair = Pair::new();
    let patient = pair.relay.open(&request(Class::Bulk), b"", true).unwrap();
    let urgent = pair.relay.open(&call(), b"", true).unwrap();
    pair.run();
    let opened: Vec<_> = pair
        .sent_by_relay()
        .into_iter()
        .map(|frame| match frame {
            Frame::Open { id, head, .. } => (id, head.class),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(opened, [(1, Class::Interactive), (2, Class::Bulk)]);
    assert_eq!(pair.relay.wire_id(urgent), Some(1));
    assert_eq!(pair.relay.wire_id(patient), Some(2));
    pair.bridge
        .send_head(1, &response(201), b"urgent", true)
        .unwrap();
    pair.bridge
        .send_head(2, &response(202), b"patient", true)
        .unwrap();
    pair.run();
    assert_eq!(pair.relay.read_head(urgent).unwrap().unwrap().status, 201);
    assert_eq!(pair.relay.read_head(patient).unwrap().unwrap().status, 202);
    assert_eq!(read_body(|| pair.read_relay(patient)), b"patient");
    for id in [1, 2] {
        pair.release(id);
    }
    pair.assert_quiescent();
}

#[test]
fn no_frame_of_a_stream_precedes_its_open() {
    let mut pair = Pair::new();
    let id = pair.relay.open(&call(), b"", true).unwrap();
    pair.relay.stop(id);
    pair.run();
    assert_eq!(kinds(&pair.sent_by_relay()), ["OPEN", "STOP"]);
    // A response without a reader costs the bridge nothing in the long run.
    pair.bridge
        .send_head(id, &response(200), b"unwanted", true)
        .unwrap();
    pair.run();
    pair.release(id);
    pair.assert_quiescent();
}
