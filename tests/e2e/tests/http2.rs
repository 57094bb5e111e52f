//! Callers that violate HTTP/2, at the relay's HTTPS listener.
//!
//! ```text
//! frames by hand ── TLS, h2 ──> relay ── tunnel ──> bridge ── HTTP/1.1 ──> recorder
//! ```
//!
//! An ambiguous request must not reach the target: there HTTP/2 becomes HTTP/1.1, and a line end in a value
//! becomes a request. What costs the caller little must not cost the relay much. The caller uses no HTTP
//! library, so that it can send any bytes.
//!
//! | where | what |
//! | --- | --- |
//! | this file, with `heads`, `bodies`, `breaches` | requests and frames that are wrong |
//! | `floods` | too much of what is right |
//! | `slow` | too little of it |
//! | `unread` | responses that are not read |

use futures_util::{StreamExt as _, stream};
use std::time::Duration;
use support::let_time_pass;
use support::recorder::Message;

mod bodies;
mod breaches;
mod caller;
mod case;
mod floods;
mod frames;
mod ground;
mod heads;
mod record;
mod request;
mod seen;
mod slow;
mod unread;

use caller::{Caller, WITHIN};
use case::{Case, Expected, Table};
use ground::{RecorderEnv, SETTLED};
use seen::{Ending, Seen};

/// Cases that run at once.
const AT_ONCE: usize = 8;
/// The table has at least this many rows.
const CASES_MIN: usize = 120;
/// The case of requests without a case field, such as one that was hidden in another request.
const NO_CASE: usize = 0;

#[tokio::test]
async fn http2_violations_never_reach_a_target() {
    let ground = RecorderEnv::start().await;
    let mut table = Table::new(ground.key());
    heads::add(&mut table);
    bodies::add(&mut table);
    breaches::add(&mut table);
    let cases = table.cases;
    assert!(cases.len() >= CASES_MIN, "{} cases", cases.len());
    let endings: Vec<Option<Ending>> = stream::iter(cases.iter())
        .map(|case| play(&ground, case))
        .buffered(AT_ONCE)
        .collect()
        .await;
    ground.serves_others().await;
    let_time_pass(SETTLED, "the target records what is on its way").await;
    let mut wrong = Vec::new();
    for (case, ending) in cases.iter().zip(endings) {
        let seen = ground.recorder.take(case.number);
        let found = judge(case.expected, ending, &seen);
        let lines = found.iter().map(|what| format!("{}: {what}", case.name));
        wrong.extend(lines);
    }
    for hidden in ground.recorder.take(NO_CASE) {
        let head = hidden.head.escape_ascii();
        wrong.push(format!("a hidden request was executed: {head}"));
    }
    assert!(
        wrong.is_empty(),
        "of {} cases:\n{}",
        cases.len(),
        wrong.join("\n")
    );
}

/// Writes a case on a new connection, and waits for its outcome.
async fn play(ground: &RecorderEnv, case: &Case) -> Option<Ending> {
    ground.answers(case.number);
    let mut caller = Caller::open(&ground.site).await;
    caller.send(&case.bytes).await;
    let has_ended = |seen: &Seen| seen.ending(case.stream).is_some();
    caller.wait(WITHIN, has_ended).await;
    // A response after an error would be another ending.
    caller.wait(Duration::from_millis(100), |_| false).await;
    caller.seen().ending(case.stream)
}

/// Returns a line for each unexpected outcome.
fn judge(expected: Expected, ending: Option<Ending>, seen: &[Message]) -> Vec<String> {
    let mut found = Vec::new();
    let is_told = ending.is_some_and(Ending::is_refusal);
    let is_right = match expected {
        Expected::Refused | Expected::BrokenOff | Expected::Told => is_told,
        Expected::Harmless => ending.is_some(),
    };
    if !is_right {
        found.push(format!("came to {ending:?}"));
    }
    let seen_max = match expected {
        Expected::Refused => 0,
        Expected::BrokenOff | Expected::Told | Expected::Harmless => 1,
    };
    if seen.len() > seen_max {
        found.push(format!("the target saw {} requests", seen.len()));
    }
    for request in seen {
        found.extend(record::faults(request));
        if expected == Expected::BrokenOff && request.is_whole {
            found.push("the target saw a whole request".to_owned());
        }
    }
    found
}
