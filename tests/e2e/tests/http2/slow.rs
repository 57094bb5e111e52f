//! Callers that send too little, too late. The slot that they hold is released soon.
//!
//! | what stalls | ended by |
//! | --- | --- |
//! | a TLS handshake | the relay's own limit, ten seconds |
//! | a header section | `limits.header_read_timeout` |
//! | a body | `limits.caller_idle_timeout` |
//! | a connection without a request | not necessarily ended, as long as other callers are served |

use super::caller::{self, Caller};
use super::frames::{self, flag, frame, kind};
use super::ground::RecorderEnv;
use super::record;
use super::seen::{Ending, Seen};
use futures_util::future::join_all;
use std::time::{Duration, Instant};
use support::let_time_pass;
use support::recorder::Step;
use support::setup::RelaySetup;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Short, so that the test is.
fn short_limits(relay: RelaySetup) -> RelaySetup {
    relay
        .set("limits.header_read_timeout", "1s")
        .set("limits.caller_idle_timeout", "1s")
}
/// A stalled header section is aborted within this time.
const HEADERS_WITHIN: Duration = Duration::from_secs(6);
/// A stalled handshake is aborted within this time. The relay allows ten seconds.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(15);
/// A stalled body is aborted within this time.
const BODY_WITHIN: Duration = Duration::from_secs(5);
/// Until the target has noticed.
const NOTICED: Duration = Duration::from_secs(1);
/// The pause between two bytes of a trickling caller.
const TRICKLE: Duration = Duration::from_secs(1);
/// More than the 16 KiB that travel with a head, so that the body is streamed.
const SENT_BYTES: usize = 20_000;

#[tokio::test]
async fn slow_callers_are_aborted() {
    let ground = RecorderEnv::start_with(short_limits).await;
    let (headers, handshakes, bodies, silent) = tokio::join!(
        slow_headers(&ground),
        slow_handshakes(&ground),
        slow_bodies(&ground),
        silent_connections(&ground),
    );
    let wrong = [headers, handshakes, bodies, silent].concat();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    ground.serves_others().await;
}

/// A line for each that is not so.
fn failed<const N: usize>(checks: [(&str, bool); N]) -> Vec<String> {
    let failed = checks.into_iter().filter(|(_, is_right)| !is_right);
    failed.map(|(what, _)| what.to_owned()).collect()
}

async fn slow_headers(ground: &RecorderEnv) -> Vec<String> {
    let (trickled_1, stopped_1, trickled_2, stopped_2, no_preface) = tokio::join!(
        trickled_over_http1(ground),
        stopped_over_http1(ground),
        trickled_over_http2(ground),
        stopped_over_http2(ground),
        without_a_preface(ground),
    );
    failed([
        ("HTTP/1.1: a head that trickles goes on", trickled_1),
        ("HTTP/1.1: half a head is waited for", stopped_1),
        ("HTTP/2: a head that trickles goes on", trickled_2),
        ("HTTP/2: half a head is waited for", stopped_2),
        ("HTTP/2: a preface is waited for", no_preface),
    ])
}

const HEAD: &str = "GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Slow: slowly\r\n\r\n";

/// Whether it was ended.
async fn trickled_over_http1(ground: &RecorderEnv) -> bool {
    let mut stream = caller::connect(&ground.site, "http/1.1").await;
    let began = Instant::now();
    let mut answer = [0; 1024];
    for byte in HEAD.as_bytes().chunks(1) {
        if began.elapsed() > HEADERS_WITHIN {
            return false;
        }
        if stream.write_all(byte).await.is_err() || stream.flush().await.is_err() {
            return true;
        }
        let read = timeout(TRICKLE, stream.read(&mut answer)).await;
        if matches!(read, Ok(Ok(0) | Err(_))) {
            return true;
        }
    }
    false
}

async fn stopped_over_http1(ground: &RecorderEnv) -> bool {
    let mut stream = caller::connect(&ground.site, "http/1.1").await;
    let half = &HEAD.as_bytes()[..HEAD.len() / 2];
    stream.write_all(half).await.expect("half a head");
    stream.flush().await.expect("half a head");
    let mut answer = Vec::new();
    let ended = timeout(HEADERS_WITHIN, stream.read_to_end(&mut answer)).await;
    ended.is_ok()
}

async fn without_a_preface(ground: &RecorderEnv) -> bool {
    let mut stream = caller::connect(&ground.site, "h2").await;
    stream.write_all(b"PRI * HTT").await.expect("half of it");
    stream.flush().await.expect("half of it");
    let mut answer = Vec::new();
    let ended = timeout(HEADERS_WITHIN, stream.read_to_end(&mut answer)).await;
    ended.is_ok()
}

/// Whether it was ended.
async fn trickled_over_http2(ground: &RecorderEnv) -> bool {
    let mut caller = Caller::open(&ground.site).await;
    // An acknowledgement in the middle of a frame would be another mistake.
    caller.mute();
    let began = Instant::now();
    let head = ground.marked(CASES_FROM).get().whole(1);
    for byte in head.chunks(1) {
        if began.elapsed() > HEADERS_WITHIN {
            return false;
        }
        let is_taken = caller.send(byte).await;
        if caller.wait(TRICKLE, Seen::is_over).await || !is_taken {
            return true;
        }
    }
    false
}

async fn stopped_over_http2(ground: &RecorderEnv) -> bool {
    let mut caller = Caller::open(&ground.site).await;
    caller.mute();
    let block = ground.marked(CASES_FROM).get().block();
    let half = &block[..block.len() / 2];
    let head = frame(kind::HEADERS, flag::END_STREAM, 1, half);
    caller.send(&head).await;
    let has_ended = |seen: &Seen| seen.ending(1).is_some() || seen.is_over();
    caller.wait(HEADERS_WITHIN, has_ended).await
}

async fn slow_handshakes(ground: &RecorderEnv) -> Vec<String> {
    let (silent, stopped) = tokio::join!(
        handshake_ends(ground, b""),
        handshake_ends(ground, b"\x16\x03\x01\x02\x00\x01"),
    );
    failed([
        ("TLS: silence is waited for", silent),
        ("TLS: half a word is waited for", stopped),
    ])
}

async fn handshake_ends(ground: &RecorderEnv, spoken: &[u8]) -> bool {
    let address = ground.site.relay.public().addr();
    let mut tcp = TcpStream::connect(address).await.expect("a connection");
    tcp.write_all(spoken).await.expect("a few bytes");
    let mut answer = Vec::new();
    let ended = timeout(HANDSHAKE_WITHIN, tcp.read_to_end(&mut answer)).await;
    ended.is_ok()
}

/// Connections without a request may stay; what counts is that others are served.
async fn silent_connections(ground: &RecorderEnv) -> Vec<String> {
    const SILENT: usize = 50;
    let opening = (0..SILENT).map(|_| Caller::open(&ground.site));
    let silent = join_all(opening).await;
    let_time_pass(Duration::from_secs(3), "the connections stay silent").await;
    ground.serves_others().await;
    drop(silent);
    Vec::new()
}

/// The first case of a body.
const CASES_FROM: usize = 1;

/// A body that stalls before its end.
#[derive(Debug, Clone, Copy)]
struct Stalled {
    what: &'static str,
    case: usize,
    /// The length in its head, if there is one.
    length: Option<&'static str>,
    sent_bytes: usize,
    /// Whether the target answers before it has the body.
    is_answered: bool,
}

impl Stalled {
    /// Whether its head goes on before all of it is there.
    fn is_streamed(self) -> bool {
        self.length.is_none() || self.sent_bytes == SENT_BYTES
    }
}

async fn slow_bodies(ground: &RecorderEnv) -> Vec<String> {
    let kinds = [
        ("with a length", Some("100000"), SENT_BYTES, false),
        ("that is small", Some("100"), 10, false),
        ("without a length", None, SENT_BYTES, false),
        ("whose answer has begun", None, SENT_BYTES, true),
    ];
    let stalled = |first: usize| {
        let numbered = kinds.into_iter().enumerate();
        numbered.map(move |(index, kind)| {
            let (what, length, sent_bytes, is_answered) = kind;
            let case = first + index;
            Stalled {
                what,
                case,
                length,
                sent_bytes,
                is_answered,
            }
        })
    };
    let over_http1 = stalled(CASES_FROM + 10).map(|body| stalled_over_http1(ground, body));
    let over_http2 = stalled(CASES_FROM + 20).map(|body| stalled_over_http2(ground, body));
    let (first, second) = tokio::join!(join_all(over_http1), join_all(over_http2));
    [first, second].concat().concat()
}

/// Tells the target how to answer.
fn prepare(ground: &RecorderEnv, body: Stalled) {
    const BEGUN: &[u8] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n";
    if body.is_answered {
        let steps = vec![Step::Send(BEGUN.to_vec()), Step::ReadBody];
        ground.recorder.answer(body.case, steps);
    } else {
        ground.answers(body.case);
    }
}

async fn stalled_over_http1(ground: &RecorderEnv, body: Stalled) -> Vec<String> {
    prepare(ground, body);
    let own = ground.marked(body.case);
    let sent = "a".repeat(body.sent_bytes);
    let (framing, sent) = match body.length {
        Some(length) => (format!("Content-Length: {length}"), sent),
        None => {
            let chunk = format!("{:x}\r\n{sent}\r\n", body.sent_bytes);
            ("Transfer-Encoding: chunked".to_owned(), chunk)
        }
    };
    let request = format!(
        "POST {} HTTP/1.1\r\nHost: localhost\r\nAuthorization: {}\r\nX-Case: {}\r\n{framing}\r\n\r\n{sent}",
        own.path(),
        own.key,
        own.case,
    );
    let mut stream = caller::connect(&ground.site, "http/1.1").await;
    let wrote = stream.write_all(request.as_bytes()).await;
    wrote.expect("what there is of a request");
    stream.flush().await.expect("what there is of a request");
    let mut answer = Vec::new();
    let reading = async {
        // A response with the reason may leave the connection open.
        while !is_timeout(&answer) && matches!(stream.read_buf(&mut answer).await, Ok(1..)) {}
    };
    let is_ended = timeout(BODY_WITHIN, reading).await.is_ok();
    let text = String::from_utf8_lossy(&answer);
    let is_right = match body.is_answered {
        // Broken off: without the last chunk.
        true => is_ended && !text.ends_with("0\r\n\r\n"),
        false => is_ended && !text.starts_with("HTTP/1.1 2") && is_timeout(text.as_bytes()),
    };
    let mut wrong = Vec::new();
    if !is_right {
        wrong.push(format!(
            "HTTP/1.1, a body {}: ended: {is_ended}, {text:?}",
            body.what
        ));
    }
    wrong.extend(not_broken_off(ground, body).await);
    wrong
}

async fn stalled_over_http2(ground: &RecorderEnv, body: Stalled) -> Vec<String> {
    prepare(ground, body);
    let fields = ground.marked(body.case).post();
    let fields = match body.length {
        Some(length) => fields.with("content-length", length),
        None => fields,
    };
    let piece = vec![b'a'; body.sent_bytes];
    let request = [fields.begun(1), frames::data(1, &piece, false)].concat();
    let mut caller = Caller::open(&ground.site).await;
    caller.send(&request).await;
    let has_ended = |seen: &Seen| {
        let stream = seen.stream(1);
        let is_ended = stream.is_some_and(|stream| stream.is_ended || stream.reset.is_some());
        is_ended || seen.is_over()
    };
    let is_ended = caller.wait(BODY_WITHIN, has_ended).await;
    let seen = caller.seen();
    let ending = seen.ending(1);
    let stream = seen.stream(1);
    let is_whole = stream.is_some_and(|stream| stream.is_ended);
    let text = stream.map(|stream| String::from_utf8_lossy(&stream.body));
    let is_right = match (body.is_answered, ending) {
        // Broken off: without the end of the stream.
        (true, _) => !is_whole,
        (false, Some(Ending::Answered(status))) => {
            status >= 400
                && text
                    .as_ref()
                    .is_some_and(|text| is_timeout(text.as_bytes()))
        }
        (false, Some(Ending::Reset(_) | Ending::GoneAway(_) | Ending::Closed)) => true,
        (false, None) => false,
    };
    let mut wrong = Vec::new();
    if !is_ended || !is_right {
        wrong.push(format!(
            "HTTP/2, a body {}: ended: {is_ended}, {ending:?}, whole: {is_whole}, {text:?}",
            body.what
        ));
    }
    wrong.extend(not_broken_off(ground, body).await);
    wrong
}

/// Whether this is a problem whose code is `timeout`.
fn is_timeout(answer: &[u8]) -> bool {
    String::from_utf8_lossy(answer).contains("\"timeout\"")
}

/// Returns what is wrong with the target's record, which must show a part of the body and no end.
async fn not_broken_off(ground: &RecorderEnv, body: Stalled) -> Vec<String> {
    let_time_pass(NOTICED, "the target notices the end").await;
    let seen = ground.recorder.take(body.case);
    let mut wrong: Vec<String> = seen.iter().flat_map(record::faults).collect();
    let count = seen.len();
    let is_right = match body.is_streamed() {
        true => count == 1,
        false => count == 0,
    };
    if !is_right {
        wrong.push(format!("the target saw {count} requests"));
    }
    for request in &seen {
        if request.is_whole {
            wrong.push("the target saw a whole request".to_owned());
        } else if request.body.is_empty() {
            // What came is written down when its end is known.
            wrong.push("the target still waits for the body".to_owned());
        }
    }
    let named = wrong
        .iter()
        .map(|fault| format!("a body {}: {fault}", body.what));
    named.collect()
}
