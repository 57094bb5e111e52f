//! Targets that write their own HTTP: what browsers, curl and nginx take is passed on, clean. What is refused is
//! `target_protocol`, at once.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Instant;
use support::setup::Endpoint;
use support::{Ask, RawTarget, TIMEOUT, TestEnv};

/// A response of a target, whose body is `hello`.
struct Row {
    name: &'static str,
    head: &'static [u8],
    /// A field that the caller gets, in any case of its name.
    field: Option<(&'static str, &'static str)>,
    is_passed: bool,
}

const fn passed(
    name: &'static str,
    head: &'static [u8],
    field: Option<(&'static str, &'static str)>,
) -> Row {
    Row {
        name,
        head,
        field,
        is_passed: true,
    }
}

const fn refused(name: &'static str, head: &'static [u8]) -> Row {
    Row {
        name,
        head,
        field: None,
        is_passed: false,
    }
}

const ROWS: &[Row] = &[
    passed(
        "blank before colon",
        b"HTTP/1.1 200 OK\r\nX-App : one\r\nContent-Length: 5\r\n\r\n",
        Some(("x-app", "one")),
    ),
    passed(
        "tabs and blanks before colon",
        b"HTTP/1.1 200 OK\r\nX-App \t :one\r\nContent-Length: 5\r\n\r\n",
        Some(("x-app", "one")),
    ),
    passed(
        "tab before colon of length",
        b"HTTP/1.1 200 OK\r\nContent-Length\t: 5\r\n\r\n",
        None,
    ),
    passed(
        "blank before colon of coding",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding : chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        None,
    ),
    passed(
        "folded field",
        b"HTTP/1.1 200 OK\r\nX-Policy: a;\r\n  b;\r\n\tc\r\nContent-Length: 5\r\n\r\n",
        Some(("x-policy", "a; b; c")),
    ),
    passed(
        "bare LF",
        b"HTTP/1.1 200 OK\nX-App: one\nContent-Length: 5\n\n",
        Some(("x-app", "one")),
    ),
    passed(
        "reason in Latin-1",
        b"HTTP/1.1 200 D\xe9j\xe0 vu\r\nX-App: one\r\nContent-Length: 5\r\n\r\n",
        Some(("x-app", "one")),
    ),
    passed(
        "status line without reason and blank",
        b"HTTP/1.1 200\r\nContent-Length: 5\r\n\r\n",
        None,
    ),
    passed(
        "unknown status",
        b"HTTP/1.1 299 Partial\r\nContent-Length: 5\r\n\r\n",
        None,
    ),
    passed("no field", b"HTTP/1.1 200 OK\r\n\r\n", None),
    passed(
        "same length twice",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\n",
        Some(("content-length", "5")),
    ),
    passed(
        "coding in capitals",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        None,
    ),
    refused(
        "length with a sign",
        b"HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\n",
    ),
    refused(
        "two lengths",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length : 6\r\n\r\n",
    ),
    refused(
        "name with a blank",
        b"HTTP/1.1 200 OK\r\nSecured by Some Server: x\r\nContent-Length: 5\r\n\r\n",
    ),
    refused(
        "line without colon",
        b"HTTP/1.1 200 OK\r\ndigest in image header\r\nContent-Length: 5\r\n\r\n",
    ),
    refused(
        "empty name",
        b"HTTP/1.1 200 OK\r\n: x\r\nContent-Length: 5\r\n\r\n",
    ),
    refused(
        "fold before the first field",
        b"HTTP/1.1 200 OK\r\n X: y\r\nContent-Length: 5\r\n\r\n",
    ),
    refused(
        "NUL",
        b"HTTP/1.1 200 OK\r\nX-App: o\0e\r\nContent-Length: 5\r\n\r\n",
    ),
    refused(
        "another protocol",
        b"ICY 200 OK\r\nContent-Length: 5\r\n\r\n",
    ),
];

#[tokio::test]
async fn sloppy_heads_are_cleaned_or_refused() {
    let mut targets = Vec::new();
    for row in ROWS {
        let has_body = row.head.windows(5).any(|part| part == b"hello");
        let body: &[u8] = if has_body { b"" } else { b"hello" };
        targets.push(RawTarget::start([row.head, body].concat()).await);
    }
    let builder = TestEnv::bare().bridge(|bridge| bridge.set("targets.health_interval", "off"));
    let endpoints = targets.iter().enumerate();
    let builder = endpoints.fold(builder, |builder, (number, target)| {
        builder.endpoint(Endpoint::new(&format!("e{number}"), target.url("/")))
    });
    let env = builder.start().await;
    for (number, row) in ROWS.iter().enumerate() {
        let began = Instant::now();
        let ask = Ask::get(format!("/v1/endpoints/e{number}/")).key(&env.caller);
        let answer = env.api.send(ask).await;
        assert!(began.elapsed() < TIMEOUT / 2, "{}: late", row.name);
        if !row.is_passed {
            assert_eq!(answer.code(), "target_protocol", "{}", row.name);
            continue;
        }
        assert!(
            answer.header("bridge-error").is_none(),
            "{}: {}",
            row.name,
            answer.text()
        );
        assert_eq!(answer.text(), "hello", "{}", row.name);
        if let Some((name, value)) = row.field {
            let got = answer.header(name).unwrap();
            let got: Vec<&str> = got.split_ascii_whitespace().collect();
            assert_eq!(got.join(" "), value, "{}", row.name);
        }
    }
}
