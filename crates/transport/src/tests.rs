//! A relay and a bridge in one process, over a pipe instead of TLS.

use crate::handle::{Incoming, Session, Settings};
use crate::handshake::{
    ChannelBinding, Dialled, Identity, Introduction, OpeningError, Tunnel, bridge_opening, random,
    relay_opening,
};
use crate::socket::Metered;
use crate::websocket;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, StreamBody};
use protocol::frame::{
    BodyLength, Challenge, Class, GoAwayReason, Headers, HeadersBuilder, RefusedCode, RequestHead,
    RequestTarget, ResponseHead, Serves, TimeLeft, VERSION, VERSION_MIN, Welcome, Windows,
};
use protocol::session::{Budget, EndReason, OpenError};
use protocol::{Code, Execution, Failure};
use ring::signature::{Ed25519KeyPair, KeyPair};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;

type Handler = Arc<dyn Fn(Incoming) + Send + Sync>;

fn settings(on_open: Option<Handler>) -> Settings {
    Settings {
        windows: Windows::default(),
        budget: Budget::new(1 << 20),
        stream_window_cap: 1 << 20,
        on_open,
        on_result: None,
        on_result_ack: None,
    }
}

fn key() -> Arc<Ed25519KeyPair> {
    Arc::new(Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap())
}

fn identity() -> Identity {
    Identity {
        tenant: "acme".into(),
        bridge: "b".into(),
        instance: [1; 16],
        key: key(),
        software: "test".into(),
        host: "here".into(),
    }
}

fn introduction() -> Introduction {
    Introduction {
        slot: 0,
        epoch: 1,
        serves: Serves::default(),
        previous: None,
        journal: None,
    }
}

async fn bridge(
    io: DuplexStream,
    channel: Option<[u8; 32]>,
    handler: Handler,
) -> Result<Tunnel, OpeningError> {
    let config = Some(websocket::config(websocket::Buffers::Small));
    let ws = WebSocketStream::from_raw_socket(Metered::new(io, 0), Role::Client, config).await;
    let dialled = Dialled {
        authority: "relay:443".into(),
        channel,
    };
    bridge_opening(
        ws,
        dialled,
        &identity(),
        introduction(),
        settings(Some(handler)),
    )
    .await
}

fn challenge() -> Challenge {
    Challenge {
        nonce: random().unwrap(),
        node: "node".into(),
        version_min: VERSION,
        version_max: VERSION,
        windows: Windows::default(),
    }
}

fn welcome() -> Welcome {
    Welcome {
        session: [5; 16],
        heartbeat_ms: 15_000,
        dead_after_ms: 25_000,
        nodes: 1,
    }
}

#[tokio::test]
async fn bridge_chooses_the_latest_common_version() {
    for (range, chosen) in [
        ((VERSION_MIN, VERSION_MIN), Some(VERSION_MIN)),
        ((VERSION_MIN, VERSION), Some(VERSION)),
        ((VERSION_MIN, VERSION + 7), Some(VERSION)),
        ((VERSION + 1, VERSION + 7), None),
        ((0, VERSION_MIN - 1), None),
    ] {
        let (near, far) = duplex(64 * 1024);
        let challenge = Challenge {
            version_min: range.0,
            version_max: range.1,
            ..challenge()
        };
        let relay = async {
            let candidate = relay_opening(near, Bytes::new(), challenge).await.ok()?;
            let public = key().public_key().as_ref().to_vec();
            let verified = candidate.verify(&public, ChannelBinding::EndsBefore);
            verified.unwrap();
            let version = candidate.hello().version;
            let (_, driver) = candidate.welcome(welcome(), settings(None)).await.unwrap();
            tokio::spawn(driver);
            Some(version)
        };
        let handler: Handler = Arc::new(|_| {});
        let (version, bridge) = tokio::join!(relay, bridge(far, None, handler));
        assert_eq!(version, chosen, "{range:?}");
        assert_eq!(bridge.is_ok(), chosen.is_some(), "{range:?}");
    }
}

/// Two sides, their drivers running; the task handles end them when dropped by the caller.
async fn tunnel(handler: Handler) -> (Session, Session) {
    tunnel_of_version(VERSION, handler).await
}

async fn tunnel_of_version(version: u16, handler: Handler) -> (Session, Session) {
    let (near, far) = duplex(64 * 1024);
    let relay = async {
        let challenge = Challenge {
            version_min: version,
            version_max: version,
            ..challenge()
        };
        let candidate = relay_opening(near, Bytes::new(), challenge).await.unwrap();
        let public = key().public_key().as_ref().to_vec();
        candidate
            .verify(&public, ChannelBinding::EndsBefore)
            .unwrap();
        candidate.welcome(welcome(), settings(None)).await.unwrap()
    };
    let ((relay, relay_driver), bridge) = tokio::join!(relay, bridge(far, None, handler));
    let bridge = bridge.unwrap();
    tokio::spawn(relay_driver);
    tokio::spawn(bridge.driver);
    (relay, bridge.session)
}

fn request(body: BodyLength) -> RequestHead {
    RequestHead {
        class: Class::Interactive,
        share: protocol::frame::CallerWeight::default(),
        target: RequestTarget::Url("http://t/".into()),
        method: "POST".into(),
        headers: Headers::default(),
        body,
        expect_continue: false,
        time_left: TimeLeft::default(),
        call: None,
        credential: None,
    }
}

fn ok(body: BodyLength) -> ResponseHead {
    ResponseHead {
        status: 200,
        headers: Headers::default(),
        body,
    }
}

/// Responds with the request's own body, streamed.
fn echo() -> Handler {
    Arc::new(|incoming: Incoming| {
        tokio::spawn(async move {
            let Incoming {
                head,
                mut send,
                recv,
            } = incoming;
            send.dispatched().unwrap();
            send.head(&ok(head.body), b"", false).unwrap();
            let _ = send.pump(recv).await;
        });
    })
}

fn silent() -> Handler {
    Arc::new(|incoming: Incoming| {
        tokio::spawn(async move {
            incoming.send.closed().await;
        });
    })
}

#[tokio::test]
async fn small_exchange_returns_its_body() {
    let (relay, _bridge) = tunnel(echo()).await;
    let (_send, mut recv) = relay
        .open(&request(BodyLength::Known(5)), b"hello", true)
        .unwrap();
    assert_eq!(recv.head().await.unwrap().status, 200);
    assert_eq!(recv.collect().await.unwrap().to_bytes(), "hello");
}

#[tokio::test]
async fn large_bodies_cross_with_small_windows() {
    let (relay, _bridge) = tunnel(echo()).await;
    let body: Bytes = (0..5_000_000u32)
        .map(|i| (i % 251) as u8)
        .collect::<Vec<_>>()
        .into();
    let head = request(BodyLength::Known(body.len() as u64));
    let (mut send, mut recv) = relay.open(&head, b"", false).unwrap();
    let upload = body.clone();
    let pump = tokio::spawn(async move { send.pump(Full::new(upload)).await.unwrap() });
    recv.head().await.unwrap();
    assert_eq!(recv.collect().await.unwrap().to_bytes(), body);
    pump.await.unwrap();
    // The last credit has to leave before the stream is forgotten.
    let forgotten = async {
        while relay.streams_open() > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), forgotten)
        .await
        .unwrap();
}

/// The buffers are checked each second while large frames come. Exchanges continue meanwhile, also when
/// the driver waits for frames to send.
#[tokio::test]
async fn exchanges_continue_while_buffers_are_replaced() {
    let (relay, _bridge) = tunnel(echo()).await;
    let began = Instant::now();
    let exchanging = (0..4).map(|n: usize| {
        let relay = relay.clone();
        let body = Bytes::from(vec![7; 40_000 * (n % 2) + 1]);
        tokio::spawn(async move {
            while began.elapsed() < Duration::from_millis(3500) {
                let head = request(BodyLength::Known(body.len() as u64));
                let (mut send, mut recv) = relay.open(&head, b"", false).unwrap();
                let echoing = async {
                    tokio::join!(send.pump(Full::new(body.clone())), recv.head())
                        .1
                        .unwrap();
                    recv.collect().await.unwrap().to_bytes()
                };
                let echoed = tokio::time::timeout(Duration::from_secs(5), echoing).await;
                assert_eq!(echoed.unwrap(), body);
            }
        })
    });
    let exchanging: Vec<_> = exchanging.collect();
    for task in exchanging {
        task.await.unwrap();
    }
}

#[tokio::test]
async fn dropped_exchange_is_reset_at_the_bridge() {
    let (failed, mut received) = tokio::sync::mpsc::channel(1);
    let handler: Handler = Arc::new(move |incoming: Incoming| {
        let failed = failed.clone();
        tokio::spawn(async move {
            let failure = incoming.send.closed().await;
            failed.send(failure).await.unwrap();
        });
    });
    let (relay, _bridge) = tunnel(handler).await;
    drop(relay.open(&request(BodyLength::None), b"", true).unwrap());
    // Nothing had left yet: the bridge never learns of it.
    let pair = relay.open(&request(BodyLength::None), b"", true).unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    drop(pair);
    let failure = received.recv().await.unwrap();
    assert_eq!(failure.code, Code::Cancelled);
    assert_eq!(failure.execution, Execution::NotDispatched);
}

#[tokio::test]
async fn cancel_returns_the_bridges_execution_state() {
    let dispatching: Handler = Arc::new(|incoming: Incoming| {
        tokio::spawn(async move {
            incoming.send.dispatched().unwrap();
            incoming.send.closed().await;
        });
    });
    for (handler, execution) in [
        (silent(), Execution::NotDispatched),
        (dispatching, Execution::PossiblyExecuted),
    ] {
        let (relay, _bridge) = tunnel(handler).await;
        let (_send, mut recv) = relay.open(&request(BodyLength::None), b"", true).unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        let given = Failure::not_sent(Code::Timeout, "too late");
        let failure = recv.cancel(given, Duration::from_secs(5)).await;
        assert_eq!(
            (failure.code, failure.execution),
            (Code::Timeout, execution)
        );
    }
}

#[tokio::test]
async fn truncated_response_is_an_error() {
    let handler: Handler = Arc::new(|mut incoming: Incoming| {
        incoming
            .send
            .head(&ok(BodyLength::Known(10)), b"short", true)
            .unwrap();
    });
    let (relay, _bridge) = tunnel(handler).await;
    let (_send, mut recv) = relay.open(&request(BodyLength::None), b"", true).unwrap();
    recv.head().await.unwrap();
    assert!(recv.collect().await.is_err());
}

#[tokio::test]
async fn slow_source_notices_stop() {
    let handler: Handler = Arc::new(|incoming: Incoming| {
        tokio::spawn(async move {
            let Incoming {
                mut send, mut recv, ..
            } = incoming;
            recv.stop();
            send.head(&ok(BodyLength::None), b"", true).unwrap();
        });
    });
    let (relay, _bridge) = tunnel(handler).await;
    let (mut send, mut recv) = relay
        .open(&request(BodyLength::Unknown), b"", false)
        .unwrap();
    let never = StreamBody::new(futures_util::stream::pending::<
        Result<http_body::Frame<Bytes>, std::convert::Infallible>,
    >());
    let end = tokio::time::timeout(Duration::from_secs(5), send.pump(never)).await;
    assert_eq!(end.unwrap().unwrap(), crate::PumpEnd::Stopped);
    assert_eq!(recv.head().await.unwrap().status, 200);
}

#[tokio::test]
async fn lost_connection_fails_every_exchange_once() {
    let (relay, bridge) = tunnel(silent()).await;
    let (_send, mut recv) = relay.open(&request(BodyLength::None), b"", true).unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    bridge.close(EndReason::Io("cut".into()));
    let failure = recv.head().await.unwrap_err();
    assert_eq!(failure.code, Code::TunnelLost);
    relay.ended().await;
    assert!(matches!(
        relay.open(&request(BodyLength::None), b"", true),
        Err(OpenError::Ended)
    ));
}

#[tokio::test]
async fn draining_bridge_finishes_running_exchanges() {
    let (relay, bridge) = tunnel(echo()).await;
    let (mut send, mut recv) = relay
        .open(&request(BodyLength::Unknown), b"a", false)
        .unwrap();
    recv.head().await.unwrap();
    bridge.drain(GoAwayReason::Draining, Duration::ZERO);
    assert_eq!(relay.goaway().await.unwrap().last_stream, Some(1));
    assert!(!relay.is_open());
    assert!(send.data("b".into()).await.is_ok());
    send.finish().unwrap();
    assert_eq!(recv.collect().await.unwrap().to_bytes(), "ab");
    assert_eq!(
        relay.ended().await,
        EndReason::PeerLeft(GoAwayReason::Draining)
    );
    assert_eq!(bridge.ended().await, EndReason::Draining);
}

#[tokio::test]
async fn channel_binding_error_differs_from_wrong_key() {
    let theirs = ChannelBinding::Exporter([1; 32]);
    for (signed, held, public_seed, expected) in [
        (Some([1; 32]), theirs, 7, Ok(())),
        (None, theirs, 7, Err(RefusedCode::ChannelBinding)),
        (Some([2; 32]), theirs, 7, Err(RefusedCode::ChannelBinding)),
        (Some([2; 32]), theirs, 8, Err(RefusedCode::Unauthorized)),
        (Some([2; 32]), ChannelBinding::EndsBefore, 7, Ok(())),
        (
            None,
            ChannelBinding::EndsBefore,
            8,
            Err(RefusedCode::Unauthorized),
        ),
    ] {
        let (near, far) = duplex(64 * 1024);
        let bridge = tokio::spawn(bridge(far, signed, echo()));
        let candidate = relay_opening(near, Bytes::new(), challenge())
            .await
            .unwrap();
        let pair = Ed25519KeyPair::from_seed_unchecked(&[public_seed; 32]).unwrap();
        let verdict = candidate.verify(pair.public_key().as_ref(), held);
        assert_eq!(verdict, expected, "{signed:?} {held:?}");
        bridge.abort();
    }
}

/// Bytes of a masked binary message with the frame inside.
fn client_message(frame: &[u8]) -> Vec<u8> {
    let length = u8::try_from(frame.len()).unwrap();
    let mut out = vec![0x82, 0x80 | length, 0, 0, 0, 0];
    out.extend_from_slice(frame);
    out
}

#[tokio::test]
async fn oversized_message_is_rejected_by_its_header() {
    let (near, mut far) = duplex(1 << 20);
    let opening = tokio::spawn(relay_opening(near, Bytes::new(), challenge()));
    // A length of 1 GiB, and not one byte of it.
    far.write_all(&[0x82, 0xff, 0, 0, 0, 0, 0x40, 0, 0, 0, 0, 0, 0, 0])
        .await
        .unwrap();
    let error = tokio::time::timeout(Duration::from_secs(5), opening)
        .await
        .unwrap()
        .unwrap()
        .err();
    assert!(
        error.unwrap().to_string().contains("too long"),
        "refused for its size"
    );
}

#[tokio::test]
async fn invalid_hello_ends_the_opening() {
    let (near, mut far) = duplex(1 << 20);
    let opening = tokio::spawn(relay_opening(near, Bytes::new(), challenge()));
    far.write_all(&client_message(&[0x30, 0, 0, 0, 0, 0, 1]))
        .await
        .unwrap();
    assert!(matches!(
        opening.await.unwrap(),
        Err(OpeningError::Protocol(_))
    ));
}

#[tokio::test(start_paused = true)]
async fn silent_peer_ends_the_opening() {
    let (near, mut far) = duplex(1 << 20);
    let opening = tokio::spawn(relay_opening(near, Bytes::new(), challenge()));
    let mut buffer = [0; 1024];
    let _ = far.read(&mut buffer).await.unwrap();
    assert!(matches!(opening.await.unwrap(), Err(OpeningError::Timeout)));
}

#[tokio::test]
async fn stalled_reader_does_not_block_others() {
    let handler: Handler = Arc::new(|incoming: Incoming| {
        tokio::spawn(async move {
            let Incoming { mut send, recv, .. } = incoming;
            let body = recv.collect().await.unwrap().to_bytes();
            send.head(&ok(BodyLength::Unknown), b"", false).unwrap();
            if body == "endless" {
                while send.data(Bytes::from(vec![0; 16 * 1024])).await.is_ok() {}
            } else {
                send.data(body).await.unwrap();
                send.finish().unwrap();
            }
        });
    });
    let (relay, _bridge) = tunnel(handler).await;
    let mut stalled = Vec::new();
    for _ in 0..40 {
        stalled.push(
            relay
                .open(&request(BodyLength::Unknown), b"endless", true)
                .unwrap(),
        );
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    for _ in 0..50 {
        let (_send, mut recv) = relay
            .open(&request(BodyLength::Unknown), b"x", true)
            .unwrap();
        recv.head().await.unwrap();
        let body = tokio::time::timeout(Duration::from_secs(5), recv.collect()).await;
        assert_eq!(body.unwrap().unwrap().to_bytes(), "x");
    }
}

#[tokio::test]
async fn early_response_is_complete() {
    let handler: Handler = Arc::new(|mut incoming: Incoming| {
        incoming
            .send
            .head(&ok(BodyLength::Known(5)), b"early", true)
            .unwrap();
    });
    let (relay, _bridge) = tunnel(handler).await;
    let (mut send, mut recv) = relay
        .open(&request(BodyLength::Unknown), b"", false)
        .unwrap();
    recv.head().await.unwrap();
    assert_eq!(recv.collect().await.unwrap().to_bytes(), "early");
    let endless = StreamBody::new(futures_util::stream::repeat_with(|| {
        Ok::<_, std::convert::Infallible>(http_body::Frame::data(Bytes::from(vec![0; 4096])))
    }));
    let end = tokio::time::timeout(Duration::from_secs(5), send.pump(endless)).await;
    assert_eq!(end.unwrap().unwrap(), crate::PumpEnd::Stopped);
}

/// Header fields of this many bytes in all, about.
fn fields_of(bytes: usize) -> Headers {
    let mut builder = HeadersBuilder::default();
    for _ in 0..bytes / 1024 {
        builder.push(b"x-large", &[b'x'; 1024 - 11]).unwrap();
    }
    builder.build()
}

/// Responds with header fields of as many KiB as the path of the request says.
fn large_response() -> Handler {
    Arc::new(|incoming: Incoming| {
        tokio::spawn(async move {
            let Incoming { head, mut send, .. } = incoming;
            let RequestTarget::Url(url) = &head.target else {
                return;
            };
            let kib: usize = url.rsplit('/').next().unwrap().parse().unwrap();
            send.dispatched().unwrap();
            let head = ResponseHead {
                headers: fields_of(kib * 1024),
                ..ok(BodyLength::None)
            };
            if let Err(failure) = send.head(&head, b"", true) {
                send.reset(failure);
            }
        });
    })
}

#[tokio::test]
async fn large_heads_fail_alone_in_version_1() {
    for (version, fits) in [(VERSION_MIN, false), (VERSION, true)] {
        let (relay, _bridge) = tunnel_of_version(version, large_response()).await;
        let of_kib = |sent: usize, received: usize| RequestHead {
            target: RequestTarget::Url(format!("http://t/{received}")),
            headers: fields_of(sent * 1024),
            ..request(BodyLength::None)
        };
        let opened = relay.open(&of_kib(60, 1), b"", true).map(drop);
        match fits {
            true => assert_eq!(opened, Ok(())),
            false => assert!(
                matches!(opened, Err(OpenError::VersionLimit { max, .. }) if max == 48 * 1024),
                "{opened:?}"
            ),
        }
        let (_send, mut recv) = relay.open(&of_kib(1, 60), b"", true).unwrap();
        match (fits, recv.head().await) {
            (true, Ok(head)) => assert_eq!(head.headers.len(), 60),
            (false, Err(failure)) => {
                assert_eq!(failure.code, Code::ResponseTooLarge, "{failure}");
                assert_eq!(failure.execution, Execution::Executed);
            }
            (_, other) => panic!("version {version}: {other:?}"),
        }
        // The session goes on.
        let (_send, mut recv) = relay.open(&of_kib(40, 40), b"", true).unwrap();
        assert_eq!(recv.head().await.unwrap().headers.len(), 40);
        assert!(relay.is_open());
    }
}
