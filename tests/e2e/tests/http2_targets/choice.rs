//! The target chooses the protocol among those that the bridge offers.

use super::site::{BOTH, H2Env, HTTP2_ALONE, ok};
use hyper::Version;
use std::sync::Arc;
use std::time::Duration;
use support::setup::{Builder, Endpoint};
use support::{Ask, H2Target, TIMEOUT, TestEnv, ThrowawayCa, let_time_pass};

/// Why a test waits between two requests.
const POOLED: &str = "the bridge returns the connection to its pool after the response";

/// Targets that offer different protocols, as the endpoints `t0`, `t1` and so on of one bridge.
async fn targets(offers: &[&[&str]], builder: Builder) -> (TestEnv, Vec<H2Target>) {
    let ca = Arc::new(ThrowawayCa::new());
    let mut builder = builder.ca(&ca);
    let mut targets = Vec::new();
    for (n, alpn) in offers.iter().enumerate() {
        let target = H2Target::start(&ca, alpn).await;
        target.answer("/a", ok("done"));
        builder = builder.endpoint(Endpoint::new(&format!("t{n}"), target.url("/")));
        targets.push(target);
    }
    (builder.start().await, targets)
}

/// The version by which a target sees a request, whose body came whole, as its response did.
async fn version(site: &TestEnv, n: usize, target: &H2Target) -> Version {
    let ask = Ask::post(format!("/v1/endpoints/t{n}/a"))
        .key(&site.caller)
        .body("small")
        .within(TIMEOUT);
    let answer = site.relay.internal().send(ask).await.expect_status(200);
    assert_eq!(answer.text(), "done");
    let seen = target.take("/a");
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].body, b"small");
    assert_eq!(seen[0].authority, target.addr().to_string());
    seen[0].version
}

#[tokio::test]
async fn target_offering_both_gets_http2() {
    let site = H2Env::start(BOTH).await;
    site.target.answer("/a", ok("done"));
    for _ in 0..3 {
        let ask = site.post("/a", "small");
        site.send(ask).await.expect_status(200);
        let_time_pass(Duration::from_millis(50), POOLED).await;
    }
    let seen = site.target.take("/a");
    let versions: Vec<_> = seen.iter().map(|seen| seen.version).collect();
    assert_eq!(versions, [Version::HTTP_2; 3]);
    // A POST must not be repeated, and the target may close an idle connection at any moment.
    let mut connections: Vec<_> = seen.iter().map(|seen| seen.connection).collect();
    connections.dedup();
    assert_eq!(connections.len(), 3, "{connections:?}");
    for _ in 0..3 {
        site.send(site.get("/a")).await.expect_status(200);
        let_time_pass(Duration::from_millis(50), POOLED).await;
    }
    // Repeatable requests share a connection.
    let seen = site.target.take("/a");
    assert_eq!(seen[1].connection, seen[0].connection);
    assert_eq!(seen[2].connection, seen[0].connection);
}

#[tokio::test]
async fn target_chooses_the_protocol_by_alpn() {
    let offers: [(&[&str], Version); 5] = [
        (BOTH, Version::HTTP_2),
        (HTTP2_ALONE, Version::HTTP_2),
        (&["http/1.1"], Version::HTTP_11),
        (&["http/1.1", "h2"], Version::HTTP_11),
        (&[], Version::HTTP_11),
    ];
    let (site, targets) = targets(&offers.map(|(alpn, _)| alpn), TestEnv::bare()).await;
    for (n, (alpn, expected)) in offers.into_iter().enumerate() {
        let version = version(&site, n, &targets[n]).await;
        assert_eq!(version, expected, "a target that offers {alpn:?}");
    }
}

#[tokio::test]
async fn http2_false_offers_http1_only() {
    let builder = TestEnv::bare().bridge(|bridge| bridge.set("targets.http2", false));
    let offers: [&[&str]; 4] = [BOTH, &["http/1.1"], &[], HTTP2_ALONE];
    let (site, targets) = targets(&offers, builder).await;
    for (n, target) in targets.iter().enumerate().take(3) {
        let version = version(&site, n, target).await;
        assert_eq!(version, Version::HTTP_11, "{:?}", offers[n]);
    }
    // Bridge and target have no protocol in common.
    let ask = Ask::get("/v1/endpoints/t3/a").key(&site.caller);
    let answer = site.relay.internal().send(ask.within(TIMEOUT)).await;
    assert_eq!(
        (answer.code(), answer.execution()),
        ("target_tls".into(), "not_dispatched".into())
    );
    assert!(targets[3].take("/a").is_empty());
}
