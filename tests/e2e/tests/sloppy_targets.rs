//! Targets that write their own HTTP: what browsers, curl and nginx take is passed on, clean. What is refused is
//! `target_protocol`, at once. A head that exceeds a limit is `response_too_large`.

use http::Method;
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
    passed(
        "coding that is none",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        None,
    ),
    refused(
        "coding before chunks",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    ),
    refused(
        "coding until the close",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nhello",
    ),
    refused(
        "chunk size that is no number",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n",
    ),
    refused(
        "chunks with bare LF",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\nhello\n0\n\n",
    ),
    refused(
        "chunk longer than its size",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhello\r\n0\r\n\r\n",
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
    let env = serve(&targets).await;
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

/// Starts a bridge with an endpoint `e0`, `e1` and so on for each target.
async fn serve(targets: &[RawTarget]) -> TestEnv {
    let builder = TestEnv::bare().bridge(|bridge| bridge.set("targets.health_interval", "off"));
    let endpoints = targets.iter().enumerate();
    let builder = endpoints.fold(builder, |builder, (number, target)| {
        builder.endpoint(Endpoint::new(&format!("e{number}"), target.url("/")))
    });
    builder.start().await
}

#[tokio::test]
async fn unusable_response_names_what_is_wrong() {
    let fields = "Set-Cookie: a=1\r\n".repeat(100);
    let (large, larger) = ("v".repeat(66_000), "v".repeat(300_000));
    let length = "Content-Length: 5\r\n\r\nhello";
    let chunked = "Transfer-Encoding: chunked\r\n\r\n";
    let rows = [
        (
            format!("{chunked}zz\r\nhello\r\n0\r\n\r\n"),
            ("target_protocol", "a chunk size"),
        ),
        (
            format!("{chunked}2\r\nhello\r\n0\r\n\r\n"),
            ("target_protocol", "the end of a chunk"),
        ),
        (
            "Transfer-Encoding: gzip, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n".to_owned(),
            ("target_protocol", "a transfer coding other than chunked"),
        ),
        (
            format!("{fields}{length}"),
            ("response_too_large", "at most 100 fields"),
        ),
        (
            format!("X-Big: {large}\r\n{length}"),
            ("response_too_large", "x-big has 66000 bytes"),
        ),
        (
            format!("X-Big: {larger}\r\n{length}"),
            ("response_too_large", "96 KiB"),
        ),
    ];
    let mut targets = Vec::new();
    for (rest, _) in &rows {
        targets.push(RawTarget::start(format!("HTTP/1.1 200 OK\r\n{rest}")).await);
    }
    let env = serve(&targets).await;
    for (number, (_, (code, words))) in rows.iter().enumerate() {
        let ask = Ask::get(format!("/v1/endpoints/e{number}/")).key(&env.caller);
        let answer = env.api.send(ask).await;
        let text = answer.text();
        assert_eq!(answer.code(), *code, "{words}: {text}");
        assert_eq!(answer.execution(), "executed", "{words}: {text}");
        assert!(text.contains(*words), "{text}");
    }
}

#[tokio::test]
async fn response_to_head_has_a_valid_length_or_none() {
    let refused = Err("target_protocol");
    let rows = [
        ("200 OK\r\nContent-Length: 7", Ok(Some("7"))),
        ("200 OK\r\nTransfer-Encoding: gzip, chunked", Ok(None)),
        ("204 No Content\r\nContent-Length: 5", Ok(None)),
        ("200 OK\r\nContent-Length:", refused),
        ("200 OK\r\nContent-Length: 99999999999999999999999", refused),
    ];
    let mut targets = Vec::new();
    for (head, _) in rows {
        targets.push(RawTarget::start(format!("HTTP/1.1 {head}\r\n\r\n")).await);
    }
    let env = serve(&targets).await;
    for (number, (head, expected)) in rows.iter().enumerate() {
        let path = format!("/v1/endpoints/e{number}/");
        let answer = env
            .api
            .send(Ask::new(Method::HEAD, path).key(&env.caller))
            .await;
        let length = match answer.header("bridge-error") {
            Some(code) => Err(code),
            None => Ok(answer.header("content-length")),
        };
        assert_eq!(length, *expected, "{head}");
    }
}
