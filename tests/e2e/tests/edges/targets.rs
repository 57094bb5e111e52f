//! Request targets that are unusual: unencoded characters, `OPTIONS *`, fragments, long ones, `Max-Forwards`.

use super::{all, listening, own_key, problem, responding, sent, within};
use e2e::accept_request;
use serde_json::json;
use std::net::SocketAddr;
use support::TestEnv;

const OK: &str = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";

/// Sends a target to the endpoint route, the proxy and as a call, and then ends what responds.
async fn everywhere(env: &TestEnv, target: SocketAddr, given: &str) {
    for (to, line, at_proxy) in [
        (
            env.api.addr(),
            format!("GET /v1/endpoints/own{given}"),
            false,
        ),
        (
            env.relay.proxy(),
            format!("GET http://{target}{given}"),
            true,
        ),
    ] {
        let key = own_key(&env.caller, at_proxy);
        let text = format!("{line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{key}\r\n");
        let answer = all(sent(to, &text).await).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    for url in [
        format!("http://{target}{given}"),
        format!("http://{target}/last"),
    ] {
        let call = json!({"url": url, "method": "GET"});
        env.call(call).await.expect_status(200);
    }
}

#[tokio::test]
async fn unencoded_characters_reach_the_target() {
    let (env, own) = listening().await;
    let target = own.local_addr().unwrap();
    let seen = responding(own, OK);
    everywhere(&env, target, "/a{b}<c>?query={id[>10]}&q=\"|^`\\").await;
    let expected = "GET /a{b}%3Cc%3E?query={id[%3E10]}&q=%22|^`\\ HTTP/1.1\r\n";
    let seen = within(seen).await.unwrap();
    assert_eq!(seen.len(), 4);
    for head in &seen[..3] {
        assert!(head.starts_with(expected), "{head}");
    }
}

#[tokio::test]
async fn characters_beyond_ascii_are_encoded() {
    let (env, own) = listening().await;
    let target = own.local_addr().unwrap();
    let seen = responding(own, OK);
    // Characters count as the caller sent them.
    let long = format!("/v1/endpoints/own/?q={}", "<".repeat(20_000));
    let key = own_key(&env.caller, false);
    let text = format!("GET {long} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{key}\r\n");
    let answer = all(sent(env.api.addr(), &text).await).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    everywhere(&env, target, "/\u{fc}?q=\u{20ac}").await;
    let seen = within(seen).await.unwrap();
    assert_eq!(seen.len(), 5);
    assert!(seen[0].contains("%3C%3C%3C"));
    for head in &seen[1..4] {
        assert!(
            head.starts_with("GET /%C3%BC?q=%E2%82%AC HTTP/1.1\r\n"),
            "{head}"
        );
    }
}

#[tokio::test]
async fn options_of_a_server_passes_as_asterisk() {
    let (env, own) = listening().await;
    let target = own.local_addr().unwrap();
    let seen = responding(own, OK);
    let key = own_key(&env.caller, true);
    for path in ["", "/", "/last"] {
        let text = format!(
            "OPTIONS http://{target}{path} HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n{key}\r\n"
        );
        let answer = all(sent(env.relay.proxy(), &text).await).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    let lines: Vec<_> = within(seen).await.unwrap();
    let lines: Vec<_> = lines
        .iter()
        .map(|head| head.lines().next().unwrap())
        .collect();
    assert_eq!(
        lines,
        [
            "OPTIONS * HTTP/1.1",
            "OPTIONS / HTTP/1.1",
            "OPTIONS /last HTTP/1.1"
        ]
    );
}

#[tokio::test]
async fn unusual_targets_are_rejected_with_a_document() {
    let (env, own) = listening().await;
    let target = own.local_addr().unwrap();
    let (api, proxy) = (env.api.addr(), env.relay.proxy());
    let (key, proxy_key) = (own_key(&env.caller, false), own_key(&env.caller, true));
    let long = "x".repeat(40_000);
    for (to, line, host, status, words) in [
        (
            api,
            "GET /v1/endpoints/own/x?a=1#b&c=2".to_owned(),
            "x",
            "400",
            "fragment",
        ),
        (
            api,
            "GET /v1/endpoints/own/x#b".to_owned(),
            "x",
            "400",
            "fragment",
        ),
        (
            api,
            "GET /v1/audit?limit=1#b".to_owned(),
            "x",
            "400",
            "fragment",
        ),
        (
            proxy,
            format!("GET http://{target}/x#b"),
            "x",
            "400",
            "fragment",
        ),
        (
            proxy,
            format!("GET http://{target}#b/x"),
            "x",
            "400",
            "fragment",
        ),
        (
            api,
            format!("GET /v1/endpoints/own/{long}"),
            "x",
            "414",
            "32768",
        ),
        (
            proxy,
            format!("GET http://{target}/{long}"),
            "x",
            "414",
            "32768",
        ),
        (
            proxy,
            format!("CONNECT http://{target}/"),
            "x",
            "400",
            "host:port",
        ),
        (
            api,
            "GET /v1/endpoints/own/x".to_owned(),
            "a b",
            "400",
            "RFC 9112",
        ),
        (
            proxy,
            format!("GET http://{target}/x"),
            "",
            "400",
            "RFC 9112",
        ),
    ] {
        let key = if to == api { &key } else { &proxy_key };
        let text = format!("{line} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{key}\r\n");
        let seen = all(sent(to, &text).await).await;
        let line = &line[..line.len().min(60)];
        assert_eq!(seen.get(9..12), Some(status), "{line}: {seen}");
        let (code, detail) = problem(&seen);
        assert_eq!(code, "invalid_request", "{line}: {seen}");
        assert!(detail.contains(words), "{line}: {detail}");
    }
    // Nothing of it reached the target.
    let soon = std::time::Duration::from_millis(100);
    let waiting = tokio::time::timeout(soon, accept_request(&own));
    assert!(waiting.await.is_err());
}

#[tokio::test]
async fn proxy_counts_max_forwards() {
    const CREATED: &str = "HTTP/1.1 201 Created\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    let (env, own) = listening().await;
    let target = own.local_addr().unwrap();
    let seen = responding(own, CREATED);
    let key = own_key(&env.caller, true);
    for (method, path, hops, status) in [
        ("OPTIONS", "/x", "0", "200"),
        ("TRACE", "/x", "0", "405"),
        ("GET", "/x", "0", "201"),
        ("OPTIONS", "/last", "3", "201"),
    ] {
        let text = format!(
            "{method} http://{target}{path} HTTP/1.1\r\nHost: {target}\r\nMax-Forwards: {hops}\r\n\
             Connection: close\r\n{key}\r\n"
        );
        let answer = all(sent(env.relay.proxy(), &text).await).await;
        assert_eq!(answer.get(9..12), Some(status), "{method}: {answer}");
    }
    let seen = within(seen).await.unwrap();
    assert_eq!(seen.len(), 2);
    assert!(
        seen[0].to_lowercase().contains("max-forwards: 0\r\n"),
        "{}",
        seen[0]
    );
    assert!(
        seen[1].to_lowercase().contains("max-forwards: 2\r\n"),
        "{}",
        seen[1]
    );
}
