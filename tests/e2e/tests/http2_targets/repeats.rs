//! Requests that a target provably did not process are retried, and processed once.

use super::site::{BOTH, H2Env, HTTP2_ALONE, ok};
use h2::Reason;
use hyper::Version;
use std::time::Duration;
use support::h2_target::{BodyEnd, Ended, Seen, Step};
use support::let_time_pass;

/// More attempts than the bridge may make.
const ATTEMPTS_MAX: usize = 10;

/// The requests that the target processed.
fn processed(seen: &[Seen]) -> Vec<&Seen> {
    let seen = seen.iter();
    seen.filter(|seen| seen.ended != Ended::Broken).collect()
}

#[tokio::test]
async fn refused_stream_is_retried_once() {
    let site = H2Env::start(BOTH).await;
    let refused = vec![Step::Reset(Reason::REFUSED_STREAM)];
    for key in ["/get", "/post"] {
        let scripts = vec![refused.clone(), ok("done")];
        site.target.answers(key, scripts);
    }
    for (key, ask, body) in [
        ("/get", site.get("/get"), ""),
        ("/post", site.post("/post", "small"), "small"),
    ] {
        let answer = site.send(ask).await.expect_status(200);
        assert_eq!(answer.text(), "done");
        let seen = site.target.take(key);
        assert_eq!(seen.len(), 2, "{key}");
        let done = processed(&seen);
        assert_eq!(done.len(), 1, "{key}");
        assert_eq!(done[0].body, body.as_bytes(), "{key}");
        assert_eq!(done[0].body_end, BodyEnd::Whole, "{key}");
        assert_eq!(done[0].version, Version::HTTP_2, "{key}");
    }
}

#[tokio::test]
async fn retries_of_refused_streams_are_bounded() {
    let site = H2Env::start(BOTH).await;
    let refused = vec![Step::Reset(Reason::REFUSED_STREAM)];
    site.target.answer("/never", refused);
    let answer = site.send(site.post("/never", "small")).await;
    assert!(answer.status.is_server_error(), "{}", answer.status);
    // The target reported that it processed nothing, so the caller may retry.
    assert_eq!(answer.execution(), "not_dispatched");
    let attempts = site.target.take("/never").len();
    assert!(
        (1..=ATTEMPTS_MAX).contains(&attempts),
        "{attempts} attempts"
    );
}

#[tokio::test]
async fn http_1_1_required_is_retried_by_http1() {
    // The bridge remembers this of a target, so each request needs a new one.
    for (key, body) in [("/get", ""), ("/post", "small")] {
        let site = H2Env::start(BOTH).await;
        let wants = vec![Step::Reset(Reason::HTTP_1_1_REQUIRED)];
        site.target.answers(key, vec![wants, ok("done")]);
        let ask = match body {
            "" => site.get(key),
            body => site.post(key, body),
        };
        let answer = site.send(ask).await.expect_status(200);
        assert_eq!(answer.text(), "done");
        let seen = site.target.take(key);
        let done = processed(&seen);
        assert_eq!(done.len(), 1, "{key}");
        assert_eq!(done[0].version, Version::HTTP_11, "{key}");
        assert_eq!(done[0].body, body.as_bytes(), "{key}");
        assert_eq!(done[0].body_end, BodyEnd::Whole, "{key}");
    }
}

/// Each request ends with GOAWAY.
#[tokio::test]
async fn goaway_connection_is_not_reused() {
    const ROUNDS: usize = 5;
    let site = H2Env::start(HTTP2_ALONE).await;
    let mut steps = ok("done");
    steps.push(Step::GoAway);
    site.target.answer("/last", steps);
    for _ in 0..ROUNDS {
        let answer = site.send(site.post("/last", "small")).await;
        assert_eq!(answer.expect_status(200).text(), "done");
        let_time_pass(Duration::from_millis(300), "the bridge processes GOAWAY").await;
    }
    let seen = site.target.take("/last");
    assert_eq!(seen.len(), ROUNDS);
    for pair in seen.windows(2) {
        assert_ne!(pair[0].connection, pair[1].connection);
    }
    for seen in &seen {
        assert_eq!(seen.body, b"small");
        assert_eq!(seen.body_end, BodyEnd::Whole);
    }
    // A repeatable request that races with GOAWAY does not fail either.
    for _ in 0..ROUNDS {
        let answer = site.send(site.get("/last")).await;
        assert_eq!(answer.expect_status(200).text(), "done");
    }
}

/// GOAWAY comes while the response is on its way.
#[tokio::test]
async fn goaway_lets_running_requests_finish() {
    let site = H2Env::start(HTTP2_ALONE).await;
    let pause = || Step::Pause(Duration::from_millis(200));
    let mut steps = ok("done");
    // After the head, and after the body.
    steps.insert(2, pause());
    steps.insert(2, Step::GoAway);
    steps.insert(5, pause());
    site.target.answer("/running", steps);
    for _ in 0..2 {
        let answer = site.send(site.post("/running", "small")).await;
        assert_eq!(answer.expect_status(200).text(), "done");
    }
    assert_eq!(site.target.take("/running").len(), 2);
}
