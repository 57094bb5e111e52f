//! Replays the fuzz targets' corpora, and some random input, through the targets' own functions.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../../../tests/fuzz/bodies/frame_decode.rs"]
mod frame_decode;
#[path = "../../../tests/fuzz/bodies/session_input.rs"]
mod session_input;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use protocol::frame::{Credit, Frame, GoAway, GoAwayReason, Headers};
use protocol::{Code, Failure};
use std::path::Path;
use std::time::Instant;

/// Runs every input of a target's corpus.
fn replay(target: &str, run: impl Fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/fuzz/corpus")
        .join(target);
    let mut inputs = 0;
    for entry in std::fs::read_dir(corpus).unwrap() {
        run(&std::fs::read(entry.unwrap().path()).unwrap());
        inputs += 1;
    }
    assert!(inputs > 10, "the corpus of {target} has {inputs} inputs");
}

#[expect(clippy::disallowed_methods, reason = "an origin for a virtual clock")]
fn origin() -> Instant {
    Instant::now()
}

#[test]
fn corpus_of_frame_decode_does_not_panic() {
    replay("frame_decode", frame_decode::frame_decode);
}

#[test]
fn corpus_of_session_input_does_not_panic() {
    replay("session_input", |data| {
        session_input::session_input(origin(), data);
    });
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn random_session_input_does_not_panic(data in vec(any::<u8>(), 0..400)) {
        session_input::session_input(origin(), &data);
    }

    /// Frames that match each other, mixed with user commands: they reach deeper than random bytes.
    #[test]
    fn plausible_session_input_does_not_panic(
        setup in any::<u8>(),
        steps in vec((any::<u8>(), any::<u8>(), 0..9usize, 1..6u8), 0..120),
    ) {
        let mut data = vec![setup];
        for (which, detail, pieces, stream) in steps {
            if which >= 128 {
                data.extend([which, stream]);
                continue;
            }
            let frame = plausible(which, detail, pieces, stream.into());
            data.extend(u16::try_from(frame.len()).unwrap().to_be_bytes());
            data.extend_from_slice(&frame);
        }
        session_input::session_input(origin(), &data);
    }
}

/// A frame on one of a few streams.
fn plausible(which: u8, detail: u8, pieces: usize, id: u32) -> Bytes {
    let end = detail & 1 == 1;
    let body = Bytes::from(vec![detail; pieces * 2_000]);
    let frame = match which % 16 {
        0..3 => Frame::Open {
            id,
            head: Box::new(session_input::request()),
            body,
            end,
        },
        3 => Frame::Dispatched { id },
        4 | 5 => Frame::Head {
            id,
            head: session_input::response(if detail < 40 { 103 } else { 200 }),
            body: if detail < 40 { Bytes::new() } else { body },
            end: detail >= 40 && end,
        },
        6..10 => Frame::Data {
            id,
            end: end || body.is_empty(),
            data: body,
        },
        10 => Frame::Trailers {
            id,
            headers: Headers::default(),
        },
        11 | 12 => Frame::Credit {
            id,
            credit: Credit {
                returned: u32::from(detail) * 64,
                grown: u32::from(detail & 8) << 10,
            },
        },
        13 => Frame::Stop { id },
        14 => Frame::Reset {
            id,
            failure: Failure::possibly_executed(Code::Cancelled, ""),
        },
        _ if detail > 200 => Frame::GoAway(GoAway {
            last_stream: end.then_some(id),
            reason: GoAwayReason::Draining,
            retry_after_ms: 0,
        }),
        _ => Frame::Ping(detail.into()),
    };
    frame.encode().unwrap()
}
