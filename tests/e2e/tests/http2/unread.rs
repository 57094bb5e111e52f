//! Callers that do not read responses: what a response holds is bounded, and given back within
//! `limits.caller_idle_timeout`, without harm to the connection's other streams.
//!
//! | the caller | what is ended |
//! | --- | --- |
//! | opens no flow-control window | the stream |
//! | opens it byte by byte | the stream |
//! | reads slowly, but reads | nothing |

use super::caller::Caller;
use super::frames::{self, code, setting};
use super::ground::RecorderEnv;
use super::request::Marked;
use super::seen::{Ending, Seen};
use futures_util::future::join_all;
use std::time::{Duration, Instant};
use support::setup::RelaySetup;
use support::{Ask, eventually};

/// Short, so that the test is.
fn short_limits(relay: RelaySetup) -> RelaySetup {
    relay
        .set("limits.caller_idle_timeout", "3s")
        .set("limits.header_read_timeout", "3s")
}
/// Until a stream that is not read is ended, on a busy machine.
const ENDED_WITHIN: Duration = Duration::from_secs(20);
/// The body of a call's target. Of its kind one fits the limits for calls.
const BODY_BYTES: u32 = 1_000_000;
/// The case of requests that the recorder does not answer.
const CASE: usize = 5_000_000;

/// A window of nothing.
const CLOSED: [(u16, u32); 1] = [(setting::INITIAL_WINDOW_SIZE, 0)];

/// A call whose response is large.
fn call(ground: &RecorderEnv, stream: u32) -> Vec<u8> {
    let url = ground.site.target.url(&format!("/bytes/{BODY_BYTES}"));
    let document = format!(r#"{{"url": "{url}", "method": "GET", "timeout_ms": 60000}}"#);
    let own = ground.marked(CASE);
    let head = own.of("POST", "/v1/calls").begun(stream);
    [head, frames::data(stream, document.as_bytes(), true)].concat()
}

fn streams(count: u32) -> impl Iterator<Item = u32> + Clone {
    (0..count).map(|n| 2 * n + 1)
}

fn is_reset(seen: &Seen, stream: u32) -> bool {
    seen.stream(stream)
        .is_some_and(|stream| stream.reset.is_some())
}

/// A number of the relay's metrics.
async fn metric(ground: &RecorderEnv, name: &str) -> u64 {
    let answer = ground.site.relay.admin().send(Ask::get("/metrics")).await;
    let text = answer.expect_status(200).text();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|line| line.trim().parse().ok());
    number.unwrap_or_else(|| panic!("{name} is missing in\n{text}"))
}

/// Nothing is held for callers any more.
async fn nothing_is_held(ground: &RecorderEnv) {
    eventually(ENDED_WITHIN, "the release of everything", async || {
        let memory = metric(ground, "integration_relay_body_memory_bytes ").await;
        let exchanges = metric(ground, "integration_relay_exchanges_running ").await;
        match (memory, exchanges) {
            (0, 0) => Ok(()),
            _ => Err(format!("{exchanges} exchanges and {memory} bytes")),
        }
    })
    .await;
}

/// A connection goes on: one more request is answered to its end.
async fn still_serves(caller: &mut Caller, stream: u32) {
    let open = frames::settings(&[(setting::INITIAL_WINDOW_SIZE, 65_535)]);
    let get = Marked {
        key: "",
        case: CASE,
    };
    let head = get.of("GET", "/healthz").without("authorization");
    caller.send(&[open, head.whole(stream)].concat()).await;
    let is_ended = |seen: &Seen| seen.stream(stream).is_some_and(|stream| stream.is_ended);
    assert!(
        caller.wait(ENDED_WITHIN, is_ended).await,
        "the connection of streams that were reset serves no other: {:?}",
        caller.seen().ending(stream)
    );
}

#[tokio::test]
async fn unread_calls_are_bounded_and_released() {
    const CONNECTIONS: u32 = 2;
    const CALLS: u32 = 60;
    let ground = RecorderEnv::start_with(short_limits).await;
    let before = ground.memory().await;
    let opening = (0..CONNECTIONS).map(|_| Caller::open_with(&ground.site, &CLOSED));
    let mut callers = join_all(opening).await;
    for caller in &mut callers {
        let calls: Vec<u8> = streams(CALLS).flat_map(|id| call(&ground, id)).collect();
        assert!(caller.send(&calls).await);
    }
    // Heads come, and no byte of a body may.
    let first = callers[0].wait(ENDED_WITHIN, |seen| {
        seen.count(|ending| matches!(ending, Ending::Answered(200))) > 0
    });
    assert!(first.await);
    ground.serves_others().await;
    // A response that has no memory yet waits for those before it, which are ended.
    let ending = callers.iter_mut().map(|caller| {
        let all = |seen: &Seen| streams(CALLS).all(|id| is_reset(seen, id));
        caller.wait(ENDED_WITHIN * 6, all)
    });
    let ended = join_all(ending).await;
    assert!(ended.iter().all(|is_ended| *is_ended), "{ended:?}");
    ground.assert_grown_little(before, "calls whose responses are not read");
    nothing_is_held(&ground).await;
    for caller in &mut callers {
        assert!(!caller.seen().is_over());
        still_serves(caller, 2 * CALLS + 1).await;
    }
}

#[tokio::test]
async fn dripping_window_ends_its_stream_only() {
    const CALLS: u32 = 6;
    const PACE: Duration = Duration::from_millis(300);
    let ground = RecorderEnv::start_with(short_limits).await;
    let mut caller = Caller::open_with(&ground.site, &CLOSED).await;
    let calls: Vec<u8> = streams(CALLS).flat_map(|id| call(&ground, id)).collect();
    caller.send(&calls).await;
    // On the same connection: a response that takes long, and is read.
    let slow = 2 * CALLS + 1;
    let path = "/v1/endpoints/t/drip/16/500";
    let request = ground.marked(CASE).of("GET", path).whole(slow);
    let open = frames::window_update(slow, 65_535);
    caller.send(&[request, open].concat()).await;
    let began = Instant::now();
    let all = |seen: &Seen| streams(CALLS).all(|id| is_reset(seen, id));
    while !all(caller.seen()) && began.elapsed() < ENDED_WITHIN {
        let drip: Vec<u8> = streams(CALLS)
            .filter(|id| !is_reset(caller.seen(), *id))
            .flat_map(|id| frames::window_update(id, 1))
            .collect();
        caller.send(&drip).await;
        caller.wait(PACE, all).await;
    }
    assert!(all(caller.seen()), "a response that drips is not ended");
    let is_whole = |seen: &Seen| seen.stream(slow).is_some_and(|stream| stream.is_ended);
    assert!(caller.wait(ENDED_WITHIN, is_whole).await);
    let seen = caller.seen().stream(slow).map(|stream| stream.body.len());
    assert_eq!(seen, Some(16), "the other stream was harmed");
    nothing_is_held(&ground).await;
}

#[tokio::test]
async fn unread_documents_are_aborted_like_calls() {
    const EACH: u32 = 40;
    let ground = RecorderEnv::start_with(short_limits).await;
    let mut caller = Caller::open_with(&ground.site, &CLOSED).await;
    let paths = [
        "/v1/bridges",
        "/v1/calls?limit=10",
        "/v1/calls/none",
        "/v1/endpoints/none/x",
        "/openapi.json",
        "/nothing",
    ];
    let mut id = 1;
    let mut all = Vec::new();
    for path in paths {
        for _ in 0..EACH {
            let own = ground.marked(CASE);
            caller.send(&own.of("GET", path).whole(id)).await;
            all.push((path, id));
            id += 2;
        }
    }
    let is_over = |seen: &Seen| all.iter().all(|(_, id)| is_reset(seen, *id));
    caller.wait(ENDED_WITHIN, is_over).await;
    let left: Vec<_> = all
        .iter()
        .filter(|(_, id)| !is_reset(caller.seen(), *id))
        .collect();
    assert!(left.is_empty(), "not ended: {left:?}");
    nothing_is_held(&ground).await;
    still_serves(&mut caller, id).await;
}

#[tokio::test]
async fn reset_calls_release_everything() {
    const CALLS: u32 = 40;
    // The idle limit has no part in it.
    let ground = RecorderEnv::start().await;
    let mut caller = Caller::open_with(&ground.site, &CLOSED).await;
    let calls: Vec<u8> = streams(CALLS).flat_map(|id| call(&ground, id)).collect();
    caller.send(&calls).await;
    let is_answered = |seen: &Seen| seen.count(|ending| ending == Ending::Answered(200)) > 4;
    assert!(caller.wait(ENDED_WITHIN, is_answered).await);
    let resets: Vec<u8> = streams(CALLS)
        .flat_map(|id| frames::reset(id, code::CANCEL))
        .collect();
    caller.send(&resets).await;
    nothing_is_held(&ground).await;
    still_serves(&mut caller, 2 * CALLS + 1).await;
}

#[tokio::test]
async fn window_of_response_size_is_enough() {
    let ground = RecorderEnv::start().await;
    for path in ["/v1/endpoints/t/bytes/65535", "/v1/endpoints/t/bytes/1"] {
        let mut caller = Caller::open(&ground.site).await;
        // The connection's window has 65535 bytes, and nothing is added to it.
        caller
            .send(&ground.marked(CASE).of("GET", path).whole(1))
            .await;
        let is_ended = |seen: &Seen| seen.stream(1).is_some_and(|stream| stream.is_ended);
        assert!(caller.wait(ENDED_WITHIN, is_ended).await, "{path}");
    }
}
