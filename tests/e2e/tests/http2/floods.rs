//! Callers that send too much of valid input. Each costs the relay little, other callers are served, and
//! the target sees little of it.
//!
//! | flood | ended by |
//! | --- | --- |
//! | requests that are reset at once | the relay, after some dozens |
//! | errors that make the relay reset streams | the relay, after about a thousand |
//! | an endless header section | the relay |
//! | frames without effect | not necessarily ended |
//! | more streams than are allowed | each is refused |
//! | responses that are not read | not necessarily ended |

use super::caller::{Caller, WITHIN};
use super::frames::{self, FRAME_BYTES, code, flag, frame, kind, setting};
use super::ground::RecorderEnv;
use super::request::{self, Marked};
use super::seen::{Ending, Seen};
use std::time::{Duration, Instant};
use support::let_time_pass;

/// The first case of a test.
const FLOOD: usize = 1;
/// How long a flood may last.
const FLOOD_WITHIN: Duration = Duration::from_secs(20);
/// How long the end of a connection may be on its way.
const END_WITHIN: Duration = Duration::from_secs(2);
/// The most reset requests that the target may see.
const SEEN_MAX: usize = 2_000;
/// Streams whose frames are written at once.
const BATCH: u32 = 100;

/// Sends one piece after the other until the relay ends the connection. How many went.
async fn flood(caller: &mut Caller, pieces: impl Iterator<Item = Vec<u8>>) -> usize {
    let began = Instant::now();
    let mut sent = 0;
    for piece in pieces {
        let is_over = caller.seen().is_over() || began.elapsed() > FLOOD_WITHIN;
        if is_over || !caller.send(&piece).await {
            break;
        }
        sent += 1;
    }
    caller.wait(END_WITHIN, Seen::is_over).await;
    sent
}

/// The frames of `streams` streams, in batches.
fn batches(streams: u32, of_one: impl Fn(u32) -> Vec<u8>) -> impl Iterator<Item = Vec<u8>> {
    (0..streams / BATCH).map(move |batch| {
        let numbers = batch * BATCH..(batch + 1) * BATCH;
        numbers.flat_map(|number| of_one(2 * number + 1)).collect()
    })
}

/// A request of a case whose path is the stream's own.
fn on_stream(own: Marked<'_>, method: &str, stream: u32) -> request::Fields {
    own.of(method, &format!("{}/{stream}", own.path()))
}

#[tokio::test]
async fn rapid_resets_end_the_connection() {
    const RESETS: u32 = 20_000;
    let ground = RecorderEnv::start().await;
    ground.answers(FLOOD);
    let before = ground.memory().await;
    let own = ground.marked(FLOOD);
    let mut caller = Caller::open(&ground.site).await;
    let pieces = batches(RESETS, |stream| {
        let request = on_stream(own, "GET", stream).whole(stream);
        [request, frames::reset(stream, code::CANCEL)].concat()
    });
    let sent = flood(&mut caller, pieces).await;
    ground.serves_others().await;
    ground.assert_grown_little(before, "rapid resets");
    assert!(
        caller.seen().is_over(),
        "{sent} batches of {BATCH} requests were reset, and the connection goes on"
    );
    let seen = ground.seen_of(FLOOD).await;
    assert!(seen.len() <= SEEN_MAX, "the target saw {}", seen.len());
}

/// What makes the relay reset a stream.
type Provoke = fn(Marked<'_>, u32) -> Vec<u8>;

const PROVOCATIONS: [(&str, Provoke); 5] = [
    ("a window of nothing more", nothing_more),
    ("a window beyond all", beyond_all),
    ("more than the length", more_than_said),
    ("a field of the connection", of_the_connection),
    ("a dependency on itself", on_itself),
];

fn nothing_more(own: Marked<'_>, stream: u32) -> Vec<u8> {
    let head = on_stream(own, "POST", stream).begun(stream);
    [head, frames::window_update(stream, 0)].concat()
}

fn beyond_all(own: Marked<'_>, stream: u32) -> Vec<u8> {
    let request = on_stream(own, "GET", stream).whole(stream);
    [request, frames::window_update(stream, u32::MAX >> 1)].concat()
}

fn more_than_said(own: Marked<'_>, stream: u32) -> Vec<u8> {
    let head = on_stream(own, "POST", stream).with("content-length", "1");
    [head.begun(stream), frames::data(stream, b"ab", true)].concat()
}

fn of_the_connection(own: Marked<'_>, stream: u32) -> Vec<u8> {
    let fields = on_stream(own, "GET", stream).with("connection", "close");
    fields.whole(stream)
}

fn on_itself(own: Marked<'_>, stream: u32) -> Vec<u8> {
    let block = on_stream(own, "GET", stream).block();
    let payload = [frames::dependency(stream), block].concat();
    let flags = flag::END_HEADERS | flag::END_STREAM | flag::PRIORITY;
    frame(kind::HEADERS, flags, stream, &payload)
}

#[tokio::test]
async fn provoked_resets_end_the_connection() {
    const RESETS: u32 = 10_000;
    let ground = RecorderEnv::start().await;
    let before = ground.memory().await;
    for (index, (what, provoke)) in PROVOCATIONS.into_iter().enumerate() {
        let case = FLOOD + index;
        ground.answers(case);
        let own = ground.marked(case);
        let mut caller = Caller::open(&ground.site).await;
        let pieces = batches(RESETS, |stream| provoke(own, stream));
        let sent = flood(&mut caller, pieces).await;
        ground.serves_others().await;
        ground.assert_grown_little(before, what);
        assert!(
            caller.seen().is_over(),
            "{what}: {sent} batches of {BATCH} streams were reset, and the connection goes on"
        );
        let seen = ground.seen_of(case).await;
        assert!(
            seen.len() <= SEEN_MAX,
            "{what}: the target saw {}",
            seen.len()
        );
    }
}

#[tokio::test]
async fn endless_continuations_are_bounded() {
    const MIB: usize = 1024 * 1024;
    let ground = RecorderEnv::start().await;
    let before = ground.memory().await;
    // What a head begins with that has no end, what follows again and again, and how often.
    let mut endless_value = vec![0, 1, b'x'];
    request::length(&mut endless_value, 64 * MIB);
    let small_fields = [0, 1, b'x', 0].repeat(FRAME_BYTES / 4);
    let floods = [
        (
            "one value",
            endless_value,
            vec![b'a'; FRAME_BYTES],
            64 * MIB / FRAME_BYTES,
        ),
        (
            "many fields",
            Vec::new(),
            small_fields,
            64 * MIB / FRAME_BYTES,
        ),
        ("nothing", Vec::new(), Vec::new(), 10_000),
    ];
    for (index, (what, behind, piece, count)) in floods.into_iter().enumerate() {
        let case = FLOOD + index;
        ground.answers(case);
        let own = ground.marked(case);
        let block = [own.get().block(), behind].concat();
        let head = frame(kind::HEADERS, flag::END_STREAM, 1, &block);
        let continuation = frame(kind::CONTINUATION, 0, 1, &piece);
        let pieces = std::iter::once(head).chain(std::iter::repeat_n(continuation, count));
        let mut caller = Caller::open(&ground.site).await;
        let sent = flood(&mut caller, pieces).await;
        ground.serves_others().await;
        ground.assert_grown_little(before, what);
        assert!(
            caller.seen().is_over(),
            "{what}: {sent} frames of a head were taken, and the connection goes on"
        );
        let seen = ground.seen_of(case).await;
        assert!(seen.is_empty(), "{what}: {seen:?}");
    }
}

#[tokio::test]
async fn pings_settings_and_empty_frames_are_bounded() {
    /// While so much time the answers are not read.
    const UNREAD: Duration = Duration::from_secs(2);
    let ground = RecorderEnv::start().await;
    let before = ground.memory().await;
    let window = [(setting::INITIAL_WINDOW_SIZE, 65_535)];
    for (index, (what, piece, count)) in [
        ("pings", frames::ping(), 100_000),
        ("settings", frames::settings(&window), 20_000),
        ("empty pieces", frames::data(1, &[], false), 100_000),
        ("priorities", frames::priority(1, 3), 100_000),
        ("windows", frames::window_update(0, 1), 100_000),
        ("windows of a stream", frames::window_update(1, 1), 100_000),
        ("unknown frames", frame(0xee, 0, 1, &[]), 100_000),
    ]
    .into_iter()
    .enumerate()
    {
        let case = FLOOD + index;
        ground.answers(case);
        let mut caller = Caller::open(&ground.site).await;
        // A body that is still to come: on its stream all of them may be.
        caller.send(&ground.marked(case).post().begun(1)).await;
        let bytes = piece.repeat(count);
        let sent = caller.send_unread(&bytes, UNREAD).await;
        ground.serves_others().await;
        ground.assert_grown_little(before, what);
        caller.send(&bytes[sent..]).await;
        caller.wait(END_WITHIN, Seen::is_over).await;
        ground.serves_others().await;
        ground.assert_grown_little(before, what);
        drop(caller);
        let seen = ground.seen_of(case).await;
        assert!(seen.len() <= 1, "{what}: {seen:?}");
        assert!(seen.iter().all(|request| !request.is_whole), "{what}");
    }
}

#[tokio::test]
async fn oversized_header_lists_are_rejected() {
    const MIB: usize = 1024 * 1024;
    let ground = RecorderEnv::start().await;
    let before = ground.memory().await;
    // How many fields of how many bytes.
    for (index, (count, bytes)) in [
        (MIB / 8, 4),
        (10_000, 0),
        (1_000, 16),
        (300, 1),
        (1, MIB),
        (1, 100 * 1024),
        (90, 1_000),
    ]
    .into_iter()
    .enumerate()
    {
        let case = FLOOD + index;
        ground.answers(case);
        let mut block = ground.marked(case).get().block();
        let value = vec![b'a'; bytes];
        for _ in 0..count {
            request::literal(&mut block, b"x", &value);
        }
        let mut caller = Caller::open(&ground.site).await;
        caller
            .send(&frames::headers(flag::END_STREAM, 1, &block))
            .await;
        caller.wait(WITHIN, |seen| seen.ending(1).is_some()).await;
        let what = format!("{count} fields of {bytes} bytes");
        let ending = caller.seen().ending(1);
        let is_refused = match ending {
            Some(Ending::Answered(status)) => status == 431,
            Some(Ending::Reset(_) | Ending::GoneAway(_) | Ending::Closed) => true,
            None => false,
        };
        assert!(is_refused, "{what}: {ending:?}");
        ground.serves_others().await;
        ground.assert_grown_little(before, &what);
        let seen = ground.seen_of(case).await;
        assert!(seen.is_empty(), "{what}: {seen:?}");
    }
}

#[tokio::test]
async fn streams_above_the_limit_are_refused() {
    const STREAMS: u32 = 1_000;
    let ground = RecorderEnv::start().await;
    ground.answers(FLOOD);
    let before = ground.memory().await;
    let own = ground.marked(FLOOD);
    let mut caller = Caller::open(&ground.site).await;
    let limit = caller.seen().streams_max;
    let limit = limit.expect("the relay announces its limit of streams");
    assert!(limit < STREAMS, "{limit}");
    let limit = usize::try_from(limit).expect("below a thousand");
    let pieces = batches(STREAMS, |stream| {
        on_stream(own, "POST", stream).begun(stream)
    });
    flood(&mut caller, pieces).await;
    let refused = caller
        .seen()
        .count(|ending| ending == Ending::Reset(code::REFUSED_STREAM));
    let is_over = caller.seen().is_over();
    assert!(
        is_over || refused + limit >= STREAMS as usize,
        "{refused} of {STREAMS} streams were refused, where {limit} are allowed"
    );
    let answered = caller
        .seen()
        .count(|ending| matches!(ending, Ending::Answered(200..=299)));
    assert_eq!(answered, 0);
    ground.serves_others().await;
    ground.assert_grown_little(before, "streams beyond the limit");
    drop(caller);
    let seen = ground.seen_of(FLOOD).await;
    assert!(seen.len() <= limit, "the target saw {}", seen.len());
    assert!(seen.iter().all(|request| !request.is_whole));
}

#[tokio::test]
async fn unread_responses_hold_little_memory() {
    const STREAMS: u32 = 64;
    /// Of each response: far more than the relay may hold of all.
    const ANSWER_BYTES: u32 = 16 * 1024 * 1024;
    /// Time for the relay to take more than it should.
    const HELD: Duration = Duration::from_secs(3);
    let ground = RecorderEnv::start().await;
    let before = ground.memory().await;
    let own = ground.marked(FLOOD);
    for first_window in [0, 65_535] {
        let what = format!("answers in a window of {first_window} bytes");
        let window = [(setting::INITIAL_WINDOW_SIZE, first_window)];
        let mut caller = Caller::open_with(&ground.site, &window).await;
        let path = format!("/v1/endpoints/t/bytes/{ANSWER_BYTES}");
        let asked: Vec<u8> = (0..STREAMS)
            .flat_map(|number| own.of("GET", &path).whole(2 * number + 1))
            .collect();
        caller.send(&asked).await;
        let begun = |seen: &Seen| seen.count(|ending| ending == Ending::Answered(200));
        let all = STREAMS as usize;
        caller.wait(WITHIN, |seen| begun(seen) == all).await;
        assert_eq!(begun(caller.seen()), all, "{what}");
        let_time_pass(HELD, "the relay could take more than it may").await;
        ground.serves_others().await;
        ground.assert_grown_little(before, &what);
    }
}
