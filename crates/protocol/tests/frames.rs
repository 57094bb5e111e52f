//! Properties of the codec: frames round-trip, and hostile bytes neither panic nor allocate more than
//! their size.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use bytes::Bytes;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::Index;
use protocol::frame::{
    AuditHead, BodyLength, Bounded, CallAttempt, CallerWeight, Challenge, Class, Credit,
    DeliveryResult, EndpointHealth, Frame, FrameError, GoAway, GoAwayReason, Headers,
    HeadersBuilder, Hello, JournalMark, PreviousSession, Reach, Refused, RefusedCode, Report,
    RequestHead, RequestTarget, ResponseHead, Serves, TimeLeft, Welcome, Windows,
};
use protocol::limits::{
    ABANDONED_MAX, DATA_MAX_BYTES, DETAIL_MAX_BYTES, FRAME_MAX_BYTES, HEAD_MAX_BYTES, HEADER_BYTES,
    NAME_MAX_BYTES, SERVES_ENDPOINTS_MAX, SERVES_HOSTS_MAX,
};
use protocol::version::AcceptedVersions;
use protocol::{Code, Execution, Failure};

fn windows() -> impl Strategy<Value = Windows> {
    (any::<u32>(), any::<u64>(), any::<u64>()).prop_map(|(streams_max, stream, session)| Windows {
        streams_max,
        stream_bytes: stream,
        session_bytes: session,
    })
}

fn serves() -> impl Strategy<Value = Serves> {
    let names = || vec(".{0,8}", 0..20);
    (names(), option::of(names()), names()).prop_map(|(endpoints, hosts, repeatable)| Serves {
        endpoints: Bounded::truncated(endpoints),
        hosts: hosts.map(Bounded::truncated),
        repeatable: Bounded::truncated(repeatable),
    })
}

fn previous() -> impl Strategy<Value = PreviousSession> {
    (any::<[u8; 16]>(), any::<u32>(), vec(any::<u32>(), 0..50)).prop_map(
        |(session, last_stream, undispatched)| PreviousSession {
            session,
            last_stream,
            undispatched: Bounded::truncated(undispatched),
        },
    )
}

fn journal() -> impl Strategy<Value = JournalMark> {
    (any::<[u8; 16]>(), any::<u64>()).prop_map(|(id, sequence)| JournalMark { id, sequence })
}

fn hello() -> impl Strategy<Value = Frame> {
    let who = (
        ".{0,20}",
        ".{0,20}",
        any::<[u8; 16]>(),
        any::<u8>(),
        any::<u64>(),
    );
    let how = (".{0,20}", option::of(any::<[u8; 32]>()), ".{0,9}", ".{0,9}");
    let what = (
        windows(),
        serves(),
        option::of(journal()),
        option::of(previous()),
    );
    let proof = vec(any::<u8>(), 64);
    (any::<u16>(), any::<[u8; 32]>(), who, how, what, proof).prop_map(
        |(version, nonce, who, how, what, proof)| {
            let hello = Hello {
                version,
                nonce,
                tenant: who.0,
                bridge: who.1,
                instance: who.2,
                slot: who.3,
                epoch: who.4,
                authority: how.0,
                channel: how.1,
                software: how.2,
                host: how.3,
                windows: what.0,
                serves: what.1,
                journal: what.2,
                previous: what.3,
            };
            Frame::Hello {
                body: protocol::frame::encode_hello_body(&hello).unwrap(),
                hello: Box::new(hello),
                proof: proof.try_into().unwrap(),
            }
        },
    )
}

fn refused() -> impl Strategy<Value = Frame> {
    let code = prop_oneof![
        Just(RefusedCode::Unauthorized),
        Just(RefusedCode::Revoked),
        Just(RefusedCode::TenantSuspended),
        any::<u64>().prop_map(|current| RefusedCode::StaleEpoch { current }),
        Just(RefusedCode::Version),
        Just(RefusedCode::Overloaded),
        Just(RefusedCode::ChannelBinding),
        Just(RefusedCode::Authority),
    ];
    (code, any::<u32>()).prop_map(|(code, retry_after_ms)| {
        Frame::Refused(Refused {
            code,
            retry_after_ms,
        })
    })
}

fn opening() -> impl Strategy<Value = Frame> {
    let challenge = (
        any::<[u8; 32]>(),
        ".{0,20}",
        any::<u16>(),
        any::<u16>(),
        windows(),
    );
    let challenge = challenge.prop_map(|(nonce, node, version_min, version_max, windows)| {
        Frame::Challenge(Challenge {
            nonce,
            node,
            version_min,
            version_max,
            windows,
        })
    });
    let welcome = (any::<[u8; 16]>(), any::<u32>(), any::<u32>(), any::<u16>());
    let welcome = welcome.prop_map(|(session, heartbeat_ms, dead_after_ms, nodes)| {
        Frame::Welcome(Welcome {
            session,
            heartbeat_ms,
            dead_after_ms,
            nodes,
        })
    });
    prop_oneof![challenge, hello(), welcome, refused()]
}

fn headers() -> impl Strategy<Value = Headers> {
    let value = vec(any::<u8>(), 0..300);
    vec(("[a-z-]{1,20}", value), 0..30).prop_map(|fields| {
        let mut builder = HeadersBuilder::default();
        for (name, value) in fields {
            builder.push(name.as_bytes(), &value).unwrap();
        }
        builder.build()
    })
}

fn body_length() -> impl Strategy<Value = BodyLength> {
    prop_oneof![
        Just(BodyLength::None),
        any::<u64>().prop_map(BodyLength::Known),
        Just(BodyLength::Unknown),
    ]
}

fn attempt() -> impl Strategy<Value = CallAttempt> {
    (any::<[u8; 16]>(), any::<u32>()).prop_map(|(call, attempt)| CallAttempt { call, attempt })
}

fn target() -> impl Strategy<Value = RequestTarget> {
    prop_oneof![
        ".{0,100}".prop_map(RequestTarget::Url),
        (".{0,60}", ".{0,100}").prop_map(|(name, path_and_query)| RequestTarget::Endpoint {
            name,
            path_and_query,
        }),
        (".{0,60}", any::<u16>()).prop_map(|(host, port)| RequestTarget::Connect { host, port }),
    ]
}

fn request() -> impl Strategy<Value = RequestHead> {
    let class = prop_oneof![Just(Class::Interactive), Just(Class::Bulk)];
    let time_left = (any::<u32>(), any::<u32>(), any::<u32>());
    let time_left = time_left.prop_map(|(head_ms, idle_ms, total_ms)| TimeLeft {
        head_ms,
        idle_ms,
        total_ms,
    });
    let first = (class, target(), ".{1,60}", headers(), body_length());
    let share =
        (any::<u32>(), any::<u8>()).prop_map(|(caller, weight)| CallerWeight::new(caller, weight));
    let second = (
        any::<bool>(),
        time_left,
        option::of(attempt()),
        option::of(".{0,60}"),
        share,
    );
    (first, second).prop_map(|(first, second)| RequestHead {
        class: first.0,
        target: first.1,
        method: first.2,
        headers: first.3,
        body: first.4,
        expect_continue: second.0,
        time_left: second.1,
        call: second.2,
        credential: second.3,
        share: second.4,
    })
}

fn response() -> impl Strategy<Value = ResponseHead> {
    (100..1000u16, headers(), body_length()).prop_map(|(status, headers, body)| ResponseHead {
        status,
        headers,
        body,
    })
}

fn body() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        4 => vec(any::<u8>(), 0..200).prop_map(Bytes::from),
        1 => Just(Bytes::from(vec![7; DATA_MAX_BYTES])),
    ]
}

fn id() -> impl Strategy<Value = u32> {
    prop_oneof![1..1000u32, 1..=u32::MAX]
}

fn failure() -> impl Strategy<Value = Failure> {
    let execution = (0..4u8).prop_map(Execution::from_wire);
    let code = any::<Index>().prop_map(|index| *index.get(Code::ALL));
    (code, execution, ".{0,100}").prop_map(|(code, execution, detail)| Failure {
        code,
        execution,
        detail,
    })
}

fn exchange() -> impl Strategy<Value = Frame> {
    prop_oneof![
        (id(), request(), body(), any::<bool>()).prop_map(|(id, head, body, end)| Frame::Open {
            id,
            head: Box::new(head),
            body,
            end
        }),
        (id(), response(), body(), any::<bool>()).prop_map(|(id, head, body, end)| Frame::Head {
            id,
            head,
            body,
            end
        }),
        id().prop_map(|id| Frame::Dispatched { id }),
        (id(), body(), any::<bool>()).prop_map(|(id, data, end)| Frame::Data {
            end: end || data.is_empty(),
            id,
            data,
        }),
        (id(), headers()).prop_map(|(id, headers)| Frame::Trailers { id, headers }),
        (id(), any::<u32>(), any::<u32>()).prop_map(|(id, returned, grown)| Frame::Credit {
            id,
            credit: Credit { returned, grown },
        }),
        id().prop_map(|id| Frame::Stop { id }),
        (id(), failure()).prop_map(|(id, failure)| Frame::Reset { id, failure }),
    ]
}

fn life() -> impl Strategy<Value = Frame> {
    let reason = prop_oneof![
        Just(GoAwayReason::Draining),
        Just(GoAwayReason::Renew),
        Just(GoAwayReason::Revoked),
        Just(GoAwayReason::Replaced),
        Just(GoAwayReason::Protocol),
        Just(GoAwayReason::Overloaded),
    ];
    let result = (
        attempt(),
        option::of(any::<u16>()),
        option::of(any::<u16>()),
        any::<u8>(),
    );
    prop_oneof![
        result.prop_map(
            |(attempt, status, code, execution)| Frame::Result(DeliveryResult {
                attempt,
                status,
                code,
                execution,
            })
        ),
        attempt().prop_map(Frame::ResultAck),
        any::<u64>().prop_map(Frame::Ping),
        any::<u64>().prop_map(Frame::Pong),
        serves().prop_map(Frame::Status),
        report().prop_map(|report| Frame::Report(Box::new(report))),
        versions().prop_map(|versions| Frame::Versions(Box::new(versions))),
        (option::of(any::<u32>()), reason, any::<u32>()).prop_map(
            |(last_stream, reason, retry_after_ms)| Frame::GoAway(GoAway {
                last_stream,
                reason,
                retry_after_ms,
            })
        ),
    ]
}

fn versions() -> impl Strategy<Value = AcceptedVersions> {
    let version = || {
        let text = "(0|[1-9][0-9]{0,8})\\.(0|[1-9][0-9]{0,8})\\.(0|[1-9][0-9]{0,8})(-[a-z][a-z0-9-]{0,8}){0,1}";
        option::of(text.prop_map(|text| text.parse().unwrap()))
    };
    (version(), version(), any::<bool>()).prop_map(|(newest, oldest, is_enforced)| {
        AcceptedVersions {
            newest,
            oldest,
            is_enforced,
        }
    })
}

fn report() -> impl Strategy<Value = Report> {
    let reach = prop_oneof![Just(Reach::Unknown), Just(Reach::Up), Just(Reach::Down)];
    let endpoint = (
        reach,
        option::of(any::<u16>()),
        option::of(any::<u16>()),
        any::<u32>(),
    )
        .prop_map(|(reach, status, code, age_s)| EndpointHealth {
            reach,
            status,
            code,
            age_s,
        });
    let audit = (
        any::<[u8; 16]>(),
        any::<u64>(),
        any::<[u8; 32]>(),
        vec(any::<u8>(), 64),
    )
        .prop_map(|(id, sequence, hash, signature)| AuditHead {
            id,
            sequence,
            hash,
            signature: Bounded::truncated(signature),
        });
    (
        vec(endpoint, 0..20),
        option::of(".{0,40}"),
        option::of(audit),
    )
        .prop_map(|(endpoints, config_refused, audit)| Report {
            endpoints: Bounded::truncated(endpoints),
            config_refused,
            audit,
        })
}

fn frame() -> impl Strategy<Value = Frame> {
    prop_oneof![opening(), exchange(), exchange(), life()]
}

/// Decodes hostile bytes. The decoded frame must not be larger than the bytes.
fn survives(wire: &[u8]) -> Result<(), TestCaseError> {
    if let Ok(Some(decoded)) = Frame::decode(Bytes::copy_from_slice(wire)) {
        let again = decoded.encode();
        prop_assert!(again.is_ok(), "decoded, and does not encode: {decoded:?}");
        let again = again.unwrap();
        prop_assert!(
            again.len() <= wire.len(),
            "grew from {} to {}",
            wire.len(),
            again.len()
        );
        prop_assert_eq!(Frame::decode(again), Ok(Some(decoded)));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn frame_round_trips(frame in frame()) {
        let wire = frame.encode().unwrap();
        prop_assert!(wire.len() <= FRAME_MAX_BYTES);
        prop_assert_eq!(Frame::decode(wire.clone()), Ok(Some(frame.clone())));
        prop_assert_eq!(Frame::decode(wire).unwrap().unwrap().encode(), frame.encode());
    }

    #[test]
    fn truncated_frame_is_an_error_or_a_smaller_frame(frame in frame(), at in any::<Index>()) {
        let wire = frame.encode().unwrap();
        survives(&wire[..at.index(wire.len())])?;
    }

    #[test]
    fn perturbed_bytes_never_panic_and_never_grow(
        frame in frame(),
        changes in vec((any::<Index>(), any::<u8>(), 0..3), 1..6),
    ) {
        let mut wire = frame.encode().unwrap().to_vec();
        for (at, byte, change) in changes {
            let at = at.index(wire.len() + 1);
            match change {
                0 if at < wire.len() => wire[at] ^= byte,
                1 if at < wire.len() => { wire.remove(at); }
                _ => wire.insert(at, byte),
            }
        }
        survives(&wire)?;
    }

    #[test]
    fn any_bytes_after_any_header_never_panic(
        kind in prop_oneof![0..0x40u8, any::<u8>()],
        flags in prop_oneof![0..2u8, any::<u8>()],
        stream in 0..3u32,
        payload in vec(any::<u8>(), 0..300),
    ) {
        let mut wire = vec![kind, flags];
        wire.extend_from_slice(&stream.to_be_bytes());
        wire.extend_from_slice(&payload);
        survives(&wire)?;
    }

    /// The decoder accepts everything that the encoder accepts, also near the limits, where the two
    /// count differently.
    #[test]
    fn head_limits_are_equal_in_both_directions(
        value in HEAD_MAX_BYTES - 120..HEAD_MAX_BYTES + 20,
        fields in 1..200usize,
    ) {
        let mut builder = HeadersBuilder::default();
        for _ in 0..fields {
            builder.push(b"n", b"").unwrap();
        }
        let rest = value - fields * 5 - 5;
        let built = builder.push(b"n", &vec![b'v'; rest]);
        prop_assert!(built.is_ok() || built == Err(FrameError::TooLarge));
        let head = ResponseHead {
            status: 200,
            headers: builder.build(),
            body: BodyLength::Known(u64::MAX),
        };
        let frame = Frame::Head { id: 1, head, body: Bytes::new(), end: true };
        match frame.encode() {
            Ok(wire) => prop_assert_eq!(Frame::decode(wire), Ok(Some(frame))),
            Err(error) => prop_assert_eq!(error, FrameError::TooLarge),
        }
    }

    #[test]
    fn list_limits_are_equal_in_both_directions(
        endpoints in 0..SERVES_ENDPOINTS_MAX + 1,
        hosts in 0..SERVES_HOSTS_MAX + 1,
        length in 0..100usize,
    ) {
        let names = |count| std::iter::repeat_n("x".repeat(length), count);
        let serves = Serves {
            endpoints: Bounded::truncated(names(endpoints)),
            hosts: Some(Bounded::truncated(names(hosts))),
            repeatable: Bounded::default(),
        };
        let frame = Frame::Status(serves);
        match frame.encode() {
            Ok(wire) => prop_assert_eq!(Frame::decode(wire), Ok(Some(frame))),
            Err(error) => prop_assert_eq!(error, FrameError::TooLarge),
        }
    }

    #[test]
    fn name_limits_are_equal_in_both_directions(
        head in request(),
        length in NAME_MAX_BYTES - 2..NAME_MAX_BYTES + 3,
        which in 0..4,
    ) {
        let name = "n".repeat(length);
        let mut head = head;
        match which {
            0 => head.method = name,
            1 => head.credential = Some(name),
            2 => head.target = RequestTarget::Connect { host: name, port: 1 },
            _ => head.target = RequestTarget::Endpoint { name, path_and_query: String::new() },
        }
        let frame = Frame::Open { id: 1, head: Box::new(head), body: Bytes::new(), end: true };
        match frame.encode() {
            Ok(wire) => {
                prop_assert!(length <= NAME_MAX_BYTES);
                prop_assert_eq!(Frame::decode(wire), Ok(Some(frame)));
            }
            Err(error) => prop_assert_eq!(error, FrameError::TooLarge),
        }
    }
}

#[test]
fn hello_with_the_longest_lists_decodes() {
    let frame = |count: usize| {
        let hello = Hello {
            version: 1,
            nonce: [1; 32],
            tenant: String::new(),
            bridge: String::new(),
            instance: [2; 16],
            slot: 0,
            epoch: 0,
            authority: String::new(),
            channel: Some([3; 32]),
            software: String::new(),
            host: String::new(),
            windows: Windows::default(),
            serves: Serves {
                endpoints: Bounded::truncated(vec!["e".repeat(40); SERVES_ENDPOINTS_MAX]),
                hosts: Some(Bounded::truncated(vec!["h".repeat(60); SERVES_HOSTS_MAX])),
                repeatable: Bounded::default(),
            },
            journal: None,
            previous: Some(PreviousSession {
                session: [4; 16],
                last_stream: u32::MAX,
                undispatched: Bounded::truncated(std::iter::repeat_n(5, count)),
            }),
        };
        let body = protocol::frame::encode_hello_body(&hello).unwrap();
        let hello = Box::new(hello);
        let proof = [6; 64];
        Frame::Hello { hello, body, proof }
    };
    for count in [0, 1, ABANDONED_MAX] {
        let frame = frame(count);
        let wire = frame.encode().unwrap();
        assert!(wire.len() > 40 * 1024, "{}", wire.len());
        assert!(Frame::decode(wire) == Ok(Some(frame)), "{count} abandoned");
    }
}

#[test]
fn detail_is_truncated_at_a_character() {
    let failure = Failure::not_sent(Code::Internal, "\u{e9}".repeat(DETAIL_MAX_BYTES));
    let wire = Frame::Reset { id: 1, failure }.encode().unwrap();
    let Ok(Some(Frame::Reset { failure, .. })) = Frame::decode(wire) else {
        panic!("no RESET");
    };
    assert_eq!(failure.detail, "\u{e9}".repeat(DETAIL_MAX_BYTES / 2));
}

#[test]
fn value_above_its_limit_does_not_encode() {
    let data = Bytes::from(vec![0; DATA_MAX_BYTES + 1]);
    let end = true;
    let large = Frame::Data {
        id: 1,
        data: data.clone(),
        end,
    };
    assert_eq!(large.encode(), Err(FrameError::TooLarge));
    let headers = Headers::default();
    let body = BodyLength::None;
    let head = ResponseHead {
        status: 200,
        headers,
        body,
    };
    let large = Frame::Head {
        id: 1,
        head: head.clone(),
        body: data,
        end,
    };
    assert_eq!(large.encode(), Err(FrameError::TooLarge));
    for status in [0, 99, 1000] {
        let head = ResponseHead {
            status,
            ..head.clone()
        };
        let body = Bytes::new();
        let frame = Frame::Head {
            id: 1,
            head,
            body,
            end,
        };
        assert_eq!(frame.encode(), Err(FrameError::Payload));
    }
    // Two of the longest values do not fit a head.
    let block = [b"\0\x01\xff\xffn".as_slice(), &[0; 0xffff]]
        .concat()
        .repeat(2);
    assert_eq!(Headers::from_block(block.into()), Err(FrameError::TooLarge));
}

/// False lengths are rejected by the actual bytes, for every list and string. Decoding allocates
/// nothing for a list before its items come, and for a string at most the decoder's limit.
#[test]
fn false_length_is_rejected_everywhere() {
    let lie = |marker: u8, bytes: usize| {
        let mut lie = vec![marker];
        lie.extend(std::iter::repeat_n(0xff, bytes));
        lie
    };
    let lies = [lie(251, 2), lie(252, 4), lie(253, 8)];
    for frame in [
        Frame::Status(Serves {
            endpoints: Bounded::truncated(["a".to_owned(), "b".to_owned()]),
            hosts: Some(Bounded::truncated(["c".to_owned()])),
            repeatable: Bounded::truncated(["a".to_owned()]),
        }),
        Frame::Reset {
            id: 1,
            failure: Failure::not_sent(Code::Internal, "d"),
        },
        Frame::Head {
            id: 1,
            head: ResponseHead {
                status: 200,
                headers: Headers::default(),
                body: BodyLength::None,
            },
            body: Bytes::new(),
            end: true,
        },
    ] {
        let wire = frame.encode().unwrap();
        for at in HEADER_BYTES..wire.len() {
            for lie in &lies {
                let mut wire = wire.to_vec();
                wire.splice(at..=at, lie.iter().copied());
                survives(&wire).unwrap();
            }
        }
    }
}
