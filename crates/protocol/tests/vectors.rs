//! The golden frames of `proto/vectors`: each decodes to its description.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "golden/described.rs"]
mod described;
mod golden;

use bytes::Bytes;
use described::{frame, text};
use golden::{bytes, file};
use protocol::frame::{Frame, FrameError, RequestContext};
use protocol::opening::{PairingTranscript, Transcript};
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde_json::Value;
use std::collections::HashSet;

#[test]
fn valid_vectors_decode_and_encode() {
    for vector in file("valid.json") {
        let name = text(&vector["name"]);
        let wire = bytes(&vector["hex"]);
        let described = frame(&vector["frame"]);
        let decoded = Frame::decode(wire.clone());
        assert!(
            decoded == Ok(Some(described.clone())),
            "{name}: {:?}",
            decoded.err()
        );
        assert!(described.encode() == Ok(wire), "{name}");
    }
}

#[test]
fn context_vector_is_split_from_its_fields() {
    let vectors = file("valid.json");
    let is_it = |vector: &&Value| vector["name"] == "OPEN: a request with its context";
    let vector = vectors.iter().find(is_it).unwrap();
    let Frame::Open { mut head, .. } = decoded(&bytes(&vector["hex"])) else {
        panic!("it is no OPEN");
    };
    let context = head.headers.split_context();
    let id = "req_000102030405060708090a0b0c0d0e0f";
    assert_eq!(context, RequestContext::new(id, Some("nightly import")));
    let fields: Vec<_> = head.headers.iter().collect();
    assert_eq!(fields, [(&b"accept"[..], &b"*/*"[..])]);
}

#[test]
fn every_frame_type_has_a_valid_vector() {
    let kinds: HashSet<String> = file("valid.json")
        .iter()
        .map(|vector| text(&vector["frame"]["type"]))
        .collect();
    for kind in [
        "CHALLENGE",
        "HELLO",
        "WELCOME",
        "REFUSED",
        "OPEN",
        "DISPATCHED",
        "HEAD",
        "DATA",
        "TRAILERS",
        "CREDIT",
        "STOP",
        "RESET",
        "RESULT",
        "RESULT_ACK",
        "PING",
        "PONG",
        "STATUS",
        "GOAWAY",
        "REPORT",
        "VERSIONS",
    ] {
        assert!(kinds.contains(kind), "{kind}");
    }
    assert_eq!(kinds.len(), 20);
}

#[test]
fn lenient_vectors_decode_to_the_same_frame() {
    for vector in file("lenient.json") {
        let name = text(&vector["name"]);
        let wire = bytes(&vector["hex"]);
        let canonical = bytes(&vector["same_as"]);
        let decoded = Frame::decode(wire.clone()).unwrap().expect(&name);
        assert_eq!(decoded.encode(), Ok(canonical.clone()), "{name}");
        assert!(canonical.len() <= wire.len(), "{name}");
    }
}

#[test]
fn skippable_vectors_are_skipped() {
    for vector in file("skipped.json") {
        let name = text(&vector["name"]);
        assert_eq!(Frame::decode(bytes(&vector["hex"])), Ok(None), "{name}");
    }
}

#[test]
fn invalid_vectors_return_their_error() {
    for vector in file("invalid.json") {
        let name = text(&vector["name"]);
        let error = Frame::decode(bytes(&vector["hex"])).expect_err(&name);
        assert_eq!(error_name(error), text(&vector["error"]), "{name}");
    }
}

#[test]
fn every_error_has_an_invalid_vector() {
    let errors: HashSet<String> = file("invalid.json")
        .iter()
        .map(|vector| text(&vector["error"]))
        .collect();
    for error in [
        FrameError::Short,
        FrameError::TooLarge,
        FrameError::UnknownType(0),
        FrameError::UnknownFlags { kind: 0, flags: 0 },
        FrameError::WrongStream(0),
        FrameError::Payload,
        FrameError::TrailingBytes,
        FrameError::Headers,
        FrameError::TooManyHeaders,
        FrameError::EmptyData,
    ] {
        assert!(errors.contains(error_name(error)), "{error}");
    }
    assert_eq!(errors.len(), 10);
}

/// The error names in `invalid.json`.
fn error_name(error: FrameError) -> &'static str {
    match error {
        FrameError::Short => "short",
        FrameError::TooLarge => "too_large",
        FrameError::UnknownType(_) => "unknown_type",
        FrameError::UnknownFlags { .. } => "unknown_flags",
        FrameError::WrongStream(_) => "wrong_stream",
        FrameError::Payload => "payload",
        FrameError::TrailingBytes => "trailing_bytes",
        FrameError::Headers => "headers",
        FrameError::TooManyHeaders => "too_many_headers",
        FrameError::EmptyData => "empty_data",
    }
}

#[test]
fn proofs_match_their_seeds() {
    let vectors = file("proofs.json");
    assert_eq!(vectors.len(), 3);
    for vector in vectors {
        let name = text(&vector["name"]);
        let seed = bytes(&vector["seed"]);
        let key = Ed25519KeyPair::from_seed_unchecked(&seed).unwrap();
        let public_key = bytes(&vector["public_key"]);
        assert_eq!(key.public_key().as_ref(), public_key, "{name}");
        let transcript = bytes(&vector["transcript"]);
        match text(&vector["kind"]).as_str() {
            "pairing" => {
                let pairing = PairingTranscript {
                    client_id: &text(&vector["client_id"]),
                    name: &text(&vector["bridge_name"]),
                    public_key: &public_key,
                    instance: &bytes(&vector["instance"]),
                };
                let proof = bytes(&vector["proof"]);
                assert_eq!(pairing.sign(&key)[..], proof, "{name}");
                assert_eq!(key.sign(&transcript).as_ref(), proof, "{name}");
                assert!(pairing.is_proved_by(&proof), "{name}");
            }
            "tunnel" => {
                let challenge = bytes(&vector["challenge"]);
                let Frame::Challenge(said) = decoded(&challenge) else {
                    panic!("{name}");
                };
                let Frame::Hello { hello, body, proof } = decoded(&bytes(&vector["hello"])) else {
                    panic!("{name}");
                };
                let tunnel = Transcript {
                    challenge: &challenge[protocol::limits::HEADER_BYTES..],
                    challenge_nonce: &said.nonce,
                    hello_body: &body,
                    hello: &hello,
                };
                assert_eq!(tunnel.sign(&key), proof, "{name}");
                assert_eq!(key.sign(&transcript).as_ref(), proof, "{name}");
                assert!(tunnel.is_proved_by(&public_key, &proof), "{name}");
            }
            other => panic!("{other}"),
        }
    }
}

fn decoded(wire: &Bytes) -> Frame {
    Frame::decode(wire.clone()).unwrap().unwrap()
}
