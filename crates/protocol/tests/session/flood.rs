//! Peers that send more than they should: memory stays bounded, and the session goes on or ends.

use super::support::{
    KIB, Link, MILLI, Pair, Scripted, call, cancelled, config, count, headers, response, windows,
    zeros,
};
use bytes::Bytes;
use protocol::frame::{
    Bounded, CallAttempt, DeliveryResult, Frame, RequestHead, Serves, VERSION_MIN, Windows,
};
use protocol::limits::RESULTS_QUEUED_MAX;
use protocol::session::{Config, EndReason, Event, OpenError, Read, Side};
use protocol::version::AcceptedVersions;
use protocol::{Code, Execution};

const STREAMS_MAX: u32 = 10;

fn bridge() -> Scripted {
    Scripted::new(config(Side::Bridge, windows(STREAMS_MAX, 64, 1 << 20)))
}

fn open(id: u32) -> Frame {
    Frame::Open {
        id,
        head: Box::new(call()),
        body: zeros(0),
        end: true,
    }
}

fn reset(id: u32) -> Frame {
    let failure = cancelled();
    Frame::Reset { id, failure }
}

#[test]
fn tiny_frames_cost_no_more_than_their_bytes() {
    let mut peer = bridge();
    let head = Box::new(call());
    let body = zeros(0);
    peer.hears(&Frame::Open {
        id: 1,
        head,
        body,
        end: false,
    });
    peer.events();
    for _ in 0..60 * KIB {
        let data = Bytes::from_static(b"x");
        peer.hears(&Frame::Data {
            id: 1,
            data,
            end: false,
        });
    }
    assert_eq!(
        peer.events(),
        [Event::Readable(1)],
        "one wake-up for unread frames"
    );
    let Read::Data(all) = peer.session.read(peer.now, 1) else {
        panic!("nothing to read");
    };
    assert_eq!(all.len() as u64, 60 * KIB, "kept in pieces");
}

#[test]
fn empty_data_frame_ends_the_session() {
    let mut peer = bridge();
    peer.hears(&open(1));
    let end = peer.says_raw(&[0x13, 0, 0, 0, 0, 1]);
    assert!(matches!(end, Err(EndReason::Protocol(_))), "{end:?}");
}

#[test]
fn head_above_the_versions_limit_ends_the_session() {
    let value = "v".repeat(50 * 1024);
    let large = Frame::Open {
        id: 1,
        head: Box::new(RequestHead {
            headers: headers(&[("large", value.as_str())]),
            ..call()
        }),
        body: zeros(0),
        end: true,
    };
    bridge().hears(&large);
    let mut old = Scripted::new(Config {
        version: VERSION_MIN,
        ..config(Side::Bridge, windows(STREAMS_MAX, 64, 1 << 20))
    });
    old.hears(&open(1));
    let end = old.says(&large);
    assert!(matches!(end, Err(EndReason::Protocol(_))), "{end:?}");
}

#[test]
fn large_trailers_fail_alone_in_version_1() {
    let link = Link::new(MILLI, 1 << 30);
    let old = |side| Config {
        version: VERSION_MIN,
        ..config(side, windows(STREAMS_MAX, 64, 1 << 20))
    };
    let mut pair = Pair::configured(link, old(Side::Relay), old(Side::Bridge));
    let value = "v".repeat(50 * 1024);
    let trailers = || Some(headers(&[("large", value.as_str())]));
    let id = pair.relay.open(&call(), b"", false).unwrap();
    pair.run();
    let failure = pair.relay.finish(id, trailers()).unwrap_err();
    assert_eq!(failure.code, Code::HeadersTooLarge);
    pair.run();
    let failure = pair.relay.failure(id).unwrap();
    assert_eq!(failure.execution, Execution::NotDispatched, "{failure}");
    let id = pair.opened(&call());
    pair.bridge
        .send_head(id, &response(200), b"", false)
        .unwrap();
    let failure = pair.bridge.finish(id, trailers()).unwrap_err();
    pair.run();
    assert_eq!(failure.code, Code::ResponseTooLarge);
    let failure = pair.relay.failure(id).unwrap();
    assert_eq!(failure.execution, Execution::Executed, "{failure}");
    assert!(pair.relay.ended().is_none() && pair.bridge.ended().is_none());
}

#[test]
fn of_many_pings_the_last_is_answered() {
    let mut peer = bridge();
    for token in 0..100_000 {
        peer.hears(&Frame::Ping(token));
    }
    assert_eq!(peer.frames(), [Frame::Pong(99_999)]);
}

#[test]
fn unknown_skippable_frames_are_skipped() {
    let mut peer = bridge();
    peer.says_raw(&[0x7f, 0x80, 0, 0, 0, 9, 1, 2, 3]).unwrap();
    assert_eq!((peer.frames(), peer.events()), (Vec::new(), Vec::new()));
    let end = peer.says_raw(&[0x7f, 0, 0, 0, 0, 9, 1, 2, 3]);
    assert!(matches!(end, Err(EndReason::Protocol(_))), "{end:?}");
}

#[test]
fn streams_above_the_limit_are_not_dispatched() {
    let mut peer = bridge();
    for id in 1..=STREAMS_MAX + 1 {
        peer.hears(&open(id));
    }
    assert_eq!(peer.session.streams_live(), STREAMS_MAX);
    let frames = peer.frames();
    let [Frame::Reset { id, failure }] = &frames[..] else {
        panic!("{frames:?}");
    };
    assert_eq!(*id, STREAMS_MAX + 1);
    assert_eq!(
        (failure.code, failure.execution),
        (Code::Overloaded, Execution::NotDispatched)
    );
    // What follows it is ignored.
    let data = zeros(16 * KIB);
    let id = STREAMS_MAX + 1;
    peer.hears(&Frame::Data {
        id,
        data,
        end: true,
    });
    peer.hears(&reset(id));
    assert_eq!(peer.frames(), []);
}

#[test]
fn relay_respects_the_bridges_stream_limit() {
    let mut pair = Pair::tight(2, 64, 1 << 20);
    let first = pair.opened(&call());
    pair.opened(&call());
    assert_eq!(pair.relay.open(&call(), b"", true), Err(OpenError::Full));
    pair.relay.reset(first, cancelled());
    assert_eq!(
        pair.relay.open(&call(), b"", true),
        Err(OpenError::Full),
        "before the word"
    );
    pair.run();
    pair.relay.open(&call(), b"", true).unwrap();
    pair.run();
    assert!(pair.sent_by_bridge().iter().all(
        |frame| !matches!(frame, Frame::Reset { failure, .. } if failure.code == Code::Overloaded)
    ));
}

#[test]
fn flood_of_streams_above_the_limit_ends_the_session() {
    let mut peer = bridge();
    let end = (1..100_000).find_map(|id| peer.says(&open(id)).err());
    assert!(matches!(end, Some(EndReason::Protocol(_))), "{end:?}");
    assert!(peer.session.last_stream() < 2_000, "no bound");
}

#[test]
fn rapid_reset_is_bounded_when_nothing_leaves() {
    let mut peer = bridge();
    let mut opened = 0;
    let end = (1..100_000).find_map(|id| {
        let end = peer
            .says(&open(id))
            .and_then(|()| peer.says(&reset(id)))
            .err();
        for event in peer.events() {
            if let Event::Opened { id, .. } = event {
                opened += 1;
                peer.session.release(id);
            }
        }
        end
    });
    assert!(matches!(end, Some(EndReason::Protocol(_))), "{end:?}");
    assert!(
        opened <= 2 * STREAMS_MAX,
        "{opened} streams whose RESET waits to be sent"
    );
    assert!(peer.session.last_stream() < 2_000, "no bound");
}

#[test]
fn rapid_reset_is_bounded_when_release_is_slow() {
    let mut peer = bridge();
    let mut opened = 0;
    for id in 1..1_000 {
        peer.hears(&open(id));
        peer.hears(&reset(id));
        peer.frames();
        opened += peer
            .events()
            .iter()
            .filter(|e| matches!(e, Event::Opened { .. }))
            .count();
    }
    assert_eq!(opened, 2 * STREAMS_MAX as usize);
}

#[test]
fn rapid_reset_leaves_nothing_behind() {
    let mut peer = bridge();
    for id in 1..50_000 {
        peer.hears(&open(id));
        let sent = peer.session.mark_dispatched(peer.now, id);
        peer.hears(&reset(id));
        sent.unwrap();
        peer.session.release(id);
        let frames = peer.frames();
        let [Frame::Reset { failure, .. }] = &frames[..] else {
            panic!("{frames:?}");
        };
        assert_eq!(failure.execution, Execution::PossiblyExecuted);
        peer.events();
    }
    assert!(peer.session.is_quiescent());
}

#[test]
fn serves_event_is_emitted_once_for_many_changes() {
    let mut peer = Scripted::new(config(Side::Relay, Windows::default()));
    for round in 0..1000 {
        let serves = Serves {
            endpoints: Bounded::truncated([format!("alm-{round}")]),
            ..Serves::default()
        };
        peer.hears(&Frame::Status(serves));
    }
    assert_eq!(count(&peer.events(), &Event::Serves), 1);
    assert_eq!(peer.session.serves().endpoints.as_slice(), ["alm-999"]);
}

#[test]
fn versions_come_from_the_relay_alone() {
    let named = |newest: &str| {
        Frame::Versions(Box::new(AcceptedVersions {
            newest: newest.parse().ok(),
            ..AcceptedVersions::default()
        }))
    };
    let mut peer = bridge();
    assert_eq!(peer.session.versions(), None);
    for round in 0..1000 {
        peer.hears(&named(&format!("1.{round}.0")));
    }
    assert_eq!(count(&peer.events(), &Event::Versions), 1);
    let last = peer.session.versions().unwrap();
    assert_eq!(last.newest, "1.999.0".parse().ok());
    let mut relay = Scripted::new(config(Side::Relay, Windows::default()));
    relay.refuses(&named("1.0.0"));
}

#[test]
fn serves_that_do_not_fit_a_frame_are_omitted() {
    // In version 1, whose heads are the smallest: as many names as there may be fit a head of the present version.
    let old = |side| Config {
        version: VERSION_MIN,
        ..config(side, windows(STREAMS_MAX, 64, 1 << 20))
    };
    let link = Link::new(MILLI, 1 << 30);
    let mut pair = Pair::configured(link, old(Side::Relay), old(Side::Bridge));
    let endpoints = Bounded::truncated(["alm".to_owned()]);
    let hosts = (0..512).map(|n| format!("{n:0>200}.corp.example"));
    pair.bridge.set_serves(Serves {
        endpoints: endpoints.clone(),
        hosts: Some(Bounded::truncated(hosts)),
        repeatable: endpoints.clone(),
    });
    pair.run();
    let told = pair.relay.serves();
    assert_eq!(
        *told,
        Serves {
            endpoints: endpoints.clone(),
            hosts: None,
            repeatable: endpoints,
        }
    );
    assert_eq!(told, pair.bridge.serves());
    let names = (0..256).map(|n| format!("{n:0>250}"));
    pair.bridge.set_serves(Serves {
        endpoints: Bounded::truncated(names),
        ..Serves::default()
    });
    pair.run();
    assert_eq!(*pair.relay.serves(), Serves::default());
}

#[test]
fn result_queue_is_bounded() {
    let mut pair = Pair::new();
    let attempt = CallAttempt {
        call: [7; 16],
        attempt: 1,
    };
    let result = DeliveryResult {
        attempt,
        status: Some(204),
        code: None,
        execution: Execution::Executed.to_wire(),
    };
    for _ in 0..RESULTS_QUEUED_MAX {
        assert!(pair.bridge.send_result(result));
    }
    assert!(!pair.bridge.send_result(result));
    pair.run();
    assert_eq!(
        count(&pair.take_relay_events(), &Event::Result(result)),
        RESULTS_QUEUED_MAX
    );
    assert!(pair.bridge.send_result(result));
    assert!(pair.relay.ack_result(attempt));
    pair.run();
    assert_eq!(
        count(&pair.take_bridge_events(), &Event::ResultAck(attempt)),
        1
    );
    pair.lose();
    assert!(
        !pair.bridge.send_result(result),
        "taken by a session that is over"
    );
}

#[test]
fn frames_from_the_wrong_side_end_the_session() {
    let attempt = CallAttempt {
        call: [7; 16],
        attempt: 1,
    };
    bridge().refuses(&Frame::Status(Serves::default()));
    let relay = || Scripted::new(config(Side::Relay, Windows::default()));
    relay().refuses(&Frame::ResultAck(attempt));
    let windows = Windows::default();
    let challenge = protocol::frame::Challenge {
        nonce: [0; 32],
        node: "n".into(),
        version_min: 1,
        version_max: 1,
        windows,
    };
    bridge().refuses(&Frame::Challenge(challenge));
}
