//! What callers of every age and habit send: HTTP/1.0, uploads that are refused while they run, expectations,
//! unusual request targets, and long header sections.

mod targets;

use e2e::accept_request;
use std::io::ErrorKind;
use std::net::SocketAddr;
use support::setup::{Allow, Endpoint};
use support::{ApiKey, TIMEOUT, TestEnv};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const MIB: usize = 1024 * 1024;

/// An environment whose bridge reaches a listener of the test: as the endpoint `own`, and by its address.
async fn listening() -> (TestEnv, TcpListener) {
    let own = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = own.local_addr().unwrap();
    let env = TestEnv::builder()
        .endpoint(Endpoint::new("own", format!("http://{address}/")))
        .allow(
            Allow::loopback(address.port())
                .methods(&["*"])
                .set("connect", true),
        )
        .start()
        .await;
    (env, own)
}

async fn within<T>(waiting: impl Future<Output = T>) -> T {
    tokio::time::timeout(TIMEOUT, waiting).await.unwrap()
}

/// A connection that has sent this.
async fn sent(to: SocketAddr, text: &str) -> TcpStream {
    let mut stream = within(TcpStream::connect(to)).await.unwrap();
    within(stream.write_all(text.as_bytes())).await.unwrap();
    stream
}

/// Everything that comes until the end of the connection.
async fn all(mut stream: TcpStream) -> String {
    let mut bytes = Vec::new();
    within(stream.read_to_end(&mut bytes)).await.unwrap();
    String::from_utf8(bytes).unwrap()
}

async fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(within(stream.read_u8()).await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

/// The field with a key: for the proxy, or for everything else.
fn own_key(key: &ApiKey, at_proxy: bool) -> String {
    let name = if at_proxy {
        "Proxy-Authorization"
    } else {
        "Authorization"
    };
    format!("{name}: {}\r\n", key.basic())
}

/// A target that responds with this to each request, and closes the connection.
fn responding(
    listener: TcpListener,
    response: &'static str,
) -> tokio::task::JoinHandle<Vec<String>> {
    tokio::spawn(async move {
        let mut seen = Vec::new();
        loop {
            let (mut stream, head) = accept_request(&listener).await;
            let is_last = head.contains("last");
            seen.push(head);
            let _ = stream.write_all(response.as_bytes()).await;
            if is_last {
                return seen;
            }
        }
    })
}

#[tokio::test]
async fn http_1_0_is_served_by_every_listener() {
    const OK: &str = "HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n";
    let (env, own) = listening().await;
    let target = own.local_addr().unwrap();
    let target_task = responding(own, OK);
    let (api, proxy) = (env.api.addr(), env.relay.proxy());
    let key = own_key(&env.caller, false);
    let proxy_key = own_key(&env.caller, true);
    for (to, request, start, body) in [
        // Health checks of balancers: no Host, and OPTIONS where none else is configured.
        (
            api,
            "GET /healthz HTTP/1.0\r\n\r\n".to_owned(),
            "200",
            "ok\n",
        ),
        (
            api,
            "OPTIONS / HTTP/1.0\r\n\r\n".to_owned(),
            "200",
            "ready\n",
        ),
        (
            api,
            "OPTIONS /readyz HTTP/1.0\r\n\r\n".to_owned(),
            "200",
            "ready\n",
        ),
        (
            env.relay.admin().addr(),
            "GET /readyz HTTP/1.0\r\n\r\n".to_owned(),
            "200",
            "ready\n",
        ),
        (
            api,
            format!("GET /v1/calls HTTP/1.0\r\n{key}\r\n"),
            "200",
            "null}\n",
        ),
        (
            api,
            format!("GET /v1/endpoints/own/x HTTP/1.0\r\n{key}\r\n"),
            "200",
            "hi",
        ),
        (
            proxy,
            format!("GET http://{target}/x HTTP/1.0\r\n{proxy_key}\r\n"),
            "200",
            "hi",
        ),
        (
            proxy,
            format!("GET http://{target}/x HTTP/1.0\r\n\r\n"),
            "407",
            "",
        ),
        (
            api,
            format!("GET /v1/endpoints/own/x HTTP/1.0\r\nHost: a\r\nHost: b\r\n{key}\r\n"),
            "400",
            "",
        ),
    ] {
        let seen = all(sent(to, &request).await).await;
        assert!(seen.starts_with("HTTP/1.0 "), "{request}: {seen}");
        assert_eq!(&seen[9..12], start, "{request}: {seen}");
        assert!(seen.ends_with(body), "{request}: {seen}");
        assert!(
            !seen.to_lowercase().contains("transfer-encoding"),
            "{request}: {seen}"
        );
    }
    // The connection stays open if the client asks for it and the length is known.
    let text = "GET /healthz HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
    let mut stream = sent(api, text).await;
    for _ in 0..2 {
        let head = head(&mut stream).await.to_lowercase();
        assert!(head.contains("connection: keep-alive\r\n"), "{head}");
        let mut body = [0; 3];
        within(stream.read_exact(&mut body)).await.unwrap();
        within(stream.write_all(text.as_bytes())).await.unwrap();
    }
    // Also without a valid body: `Expect` means nothing here.
    let text = format!(
        "POST /v1/endpoints/own/last HTTP/1.0\r\n{key}Content-Length: 4\r\nExpect: 100-continue\r\n\r\nbody"
    );
    let seen = all(sent(api, &text).await).await;
    assert!(
        seen.starts_with("HTTP/1.0 200 OK\r\n") && seen.ends_with("\r\n\r\nhi"),
        "{seen}"
    );
    target_task.await.unwrap();
    // CONNECT, as `openssl s_client -proxy` sends it.
    let own = TcpListener::bind(target).await.unwrap();
    let text = format!("CONNECT {target} HTTP/1.0\r\n{proxy_key}\r\n");
    let mut stream = sent(proxy, &text).await;
    let (accepted, answer) = tokio::join!(within(own.accept()), head(&mut stream));
    assert!(
        answer.starts_with("HTTP/1.") && answer.contains(" 200 "),
        "{answer}"
    );
    let (mut accepted, _) = accepted.unwrap();
    accepted.write_all(b"raw").await.unwrap();
    drop(accepted);
    assert_eq!(all(stream).await, "raw");
}

#[tokio::test]
async fn broken_http_1_0_response_is_reset() {
    let (env, own) = listening().await;
    let key = own_key(&env.caller, false);
    let text = format!("GET /v1/endpoints/own/x HTTP/1.0\r\n{key}\r\n");
    let mut stream = sent(env.api.addr(), &text).await;
    let (mut target, _) = accept_request(&own).await;
    let part = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
    target.write_all(part).await.unwrap();
    let head = head(&mut stream).await;
    assert!(head.starts_with("HTTP/1.0 200"), "{head}");
    let mut body = [0; 5];
    within(stream.read_exact(&mut body)).await.unwrap();
    drop(target);
    let error = within(stream.read(&mut [0; 16])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

/// Sends a request with a body of this size to its end, and only then reads the response.
async fn upload(to: SocketAddr, head: &str, bytes: usize) -> String {
    let mut stream = sent(to, head).await;
    let piece = vec![b'x'; 64 * 1024];
    let mut left = bytes;
    while left > 0 {
        let next = left.min(piece.len());
        within(stream.write_all(&piece[..next])).await.unwrap();
        left -= next;
    }
    head_and_body(&mut stream).await
}

/// A response with a length.
async fn head_and_body(stream: &mut TcpStream) -> String {
    let mut text = head(stream).await;
    let lower = text.to_lowercase();
    let length = lower.split("content-length: ").nth(1).unwrap();
    let length = length.split("\r\n").next().unwrap().parse().unwrap();
    let mut body = vec![0; length];
    within(stream.read_exact(&mut body)).await.unwrap();
    text.push_str(std::str::from_utf8(&body).unwrap());
    text
}

#[tokio::test]
async fn refused_upload_gets_its_response() {
    const SIZE: usize = 50 * MIB;
    let (env, own) = listening().await;
    let target = own.local_addr().unwrap();
    let refusing = tokio::spawn(async move {
        loop {
            let (mut stream, _) = accept_request(&own).await;
            let response = b"HTTP/1.1 413 Too Large\r\nX-Limit: 10\r\nConnection: close\r\nContent-Length: 3\r\n\r\nno\n";
            stream.write_all(response).await.unwrap();
            // As servers do: the rest is read for a while.
            tokio::spawn(async move {
                let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
            });
        }
    });
    let (api, proxy) = (env.api.addr(), env.relay.proxy());
    let framing = format!("Host: x\r\nContent-Length: {SIZE}\r\n");
    let key = own_key(&env.caller, false);
    let wrong = "Authorization: Basic eDp5\r\n";
    let proxy_key = own_key(&env.caller, true);
    for (to, line, field, status) in [
        (api, "POST /v1/endpoints/own/x".to_owned(), &*key, "413"),
        (proxy, format!("PUT http://{target}/x"), &proxy_key, "413"),
        (api, "POST /v1/endpoints/own/x".to_owned(), wrong, "401"),
        (api, "POST /v1/endpoints/absent/x".to_owned(), &key, "404"),
        (proxy, format!("PUT http://{target}/x"), "", "407"),
        (
            proxy,
            "PUT http://127.0.0.1:1/x".to_owned(),
            &proxy_key,
            "403",
        ),
        (api, "POST /v1/calls".to_owned(), &key, "413"),
        (api, "POST /v1/calls".to_owned(), wrong, "401"),
        (api, "POST /v1/tenants".to_owned(), &key, "403"),
        (api, "POST /v1/absent".to_owned(), &key, "404"),
    ] {
        let request = format!("{line} HTTP/1.1\r\n{framing}{field}\r\n");
        let seen = upload(to, &request, SIZE).await;
        assert_eq!(seen.get(9..12), Some(status), "{line}: {seen}");
        if line.contains("own") && status == "413" {
            assert!(
                seen.contains("x-limit: 10\r\n") && seen.ends_with("no\n"),
                "{seen}"
            );
        }
    }
    refusing.abort();
}

#[tokio::test]
async fn refusal_precedes_a_body_that_is_held_back() {
    let (env, own) = listening().await;
    let target = own.local_addr().unwrap();
    let (api, proxy) = (env.api.addr(), env.relay.proxy());
    let key = own_key(&env.caller, false);
    for (to, line, field, expect, status) in [
        (
            proxy,
            format!("PUT http://{target}/x"),
            "",
            "100-continue",
            "407",
        ),
        (
            api,
            "PUT /v1/endpoints/own/x".to_owned(),
            "",
            "100-Continue",
            "401",
        ),
        (api, "POST /v1/calls".to_owned(), "", "100-continue", "401"),
        (api, "PUT /v1/endpoints/own/x".to_owned(), &*key, "a", "417"),
        (
            api,
            "POST /v1/calls".to_owned(),
            &key,
            "100-continue, a=b",
            "417",
        ),
        (proxy, format!("PUT http://{target}/x"), "", "a", "417"),
    ] {
        let request = format!(
            "{line} HTTP/1.1\r\nHost: x\r\n{field}Content-Length: 4\r\nExpect: {expect}\r\n\r\n"
        );
        let mut stream = sent(to, &request).await;
        let seen = head_and_body(&mut stream).await;
        assert_eq!(seen.get(9..12), Some(status), "{line}: {seen}");
        if status != "417" {
            // The caller may send the body or not, so the connection cannot be used any more, and says so.
            assert!(seen.contains("connection: close\r\n"), "{line}: {seen}");
        }
    }
}

#[tokio::test]
async fn header_section_of_60_kib_passes_both_ways() {
    let (env, own) = listening().await;
    let long = "k".repeat(60 * 1024);
    let ticket = long.clone();
    let serving = tokio::spawn(async move {
        loop {
            let (mut stream, head) = accept_request(&own).await;
            assert!(head.contains(&ticket));
            let response = format!(
                "HTTP/1.1 200 OK\r\nX-Ticket: {ticket}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
            );
            stream.write_all(response.as_bytes()).await.unwrap();
        }
    });
    for origin in [&env.api, &env.public] {
        let ask = support::Ask::get("/v1/endpoints/own/x")
            .header("bridge-authorization", &env.caller.basic())
            .header("authorization", &format!("Negotiate {long}"));
        let answer = origin.send(ask).await.expect_status(200);
        assert_eq!(answer.header("x-ticket"), Some(&*long));
    }
    // And a long request line.
    let ask = support::Ask::get(format!("/v1/endpoints/own/x?{}", "q".repeat(30 * 1024)))
        .header("bridge-authorization", &env.caller.basic())
        .header("authorization", &format!("Negotiate {long}"));
    env.api.send(ask).await.expect_status(200);
    serving.abort();
    // Above the limit the error says which one.
    let ask = support::Ask::get("/v1/endpoints/own/x")
        .key(&env.caller)
        .header("x-long", &"k".repeat(66 * 1024));
    let answer = env.api.send(ask).await;
    assert_eq!(answer.status.as_u16(), 431);
    let detail = answer.json()["detail"].to_string();
    assert!(detail.contains("limits.header_bytes_max"), "{detail}");
}

/// The code and detail of a problem document.
fn problem(response: &str) -> (String, String) {
    let body = response.split("\r\n\r\n").nth(1).unwrap();
    let document: serde_json::Value = serde_json::from_str(body).unwrap();
    let text = |member: &str| document[member].as_str().unwrap_or_default().to_owned();
    (text("code"), text("detail"))
}

#[tokio::test]
async fn malformed_framing_is_the_callers_fault() {
    let (env, own) = listening().await;
    let serving = tokio::spawn(async move {
        let mut open = Vec::new();
        loop {
            // Silent, so that the exchange waits for the body.
            open.push(own.accept().await.unwrap());
        }
    });
    let api = env.api.addr();
    let key = own_key(&env.caller, false);
    for path in ["/v1/endpoints/own/x", "/v1/calls"] {
        for (coding, body, status, words) in [
            ("chunked", "XYZ\r\n", "400", "chunked framing"),
            ("chunked", "3\r\nabc\r\n-1\r\n", "400", "chunked framing"),
            (
                "chunked",
                "0x3\r\nabc\r\n0\r\n\r\n",
                "400",
                "chunked framing",
            ),
            ("gzip, chunked", "0\r\n\r\n", "501", "another coding"),
        ] {
            let text = format!(
                "POST {path} HTTP/1.1\r\nHost: x\r\n{key}Transfer-Encoding: {coding}\r\n\r\n{body}"
            );
            let seen = head_and_body(&mut sent(api, &text).await).await;
            assert_eq!(seen.get(9..12), Some(status), "{path} {body:?}: {seen}");
            let (code, detail) = problem(&seen);
            assert_eq!(code, "invalid_request", "{path} {body:?}: {seen}");
            assert!(detail.contains(words), "{path} {body:?}: {detail}");
        }
    }
    serving.abort();
}

#[tokio::test]
async fn http_1_0_stream_ends_with_its_connection() {
    const OK: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n";
    let (env, own) = listening().await;
    let serving = responding(own, OK);
    let key = own_key(&env.caller, false);
    let text =
        format!("GET /v1/endpoints/own/last HTTP/1.0\r\nConnection: keep-alive\r\n{key}\r\n");
    let seen = all(sent(env.api.addr(), &text).await).await;
    assert!(seen.ends_with("\r\n\r\nhi"), "{seen}");
    assert!(!seen.to_lowercase().contains("keep-alive"), "{seen}");
    within(serving).await.unwrap();
}

#[tokio::test]
async fn http2_post_without_body_has_a_length() {
    const OK: &str = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    let (env, own) = listening().await;
    let seen = responding(own, OK);
    for (method, path) in [("POST", "x"), ("DELETE", "last")] {
        let port = env.public.addr().port();
        let mut curl = tokio::process::Command::new("curl");
        curl.args(["-sS", "--http2", "--max-time", "20", "-X", method, "-w"])
            .args(["%{http_version} %{http_code}", "-H"])
            .arg(own_key(&env.caller, false).trim_end())
            .arg("--cacert")
            .arg(env.ca_file())
            .arg(format!("https://localhost:{port}/v1/endpoints/own/{path}"));
        let output = within(curl.output()).await.unwrap();
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            "2 200",
            "{output:?}"
        );
    }
    let seen = within(seen).await.unwrap();
    let has_length = |at: usize| seen[at].to_lowercase().contains("content-length: 0\r\n");
    assert!(has_length(0) && !has_length(1), "{seen:?}");
}

#[tokio::test]
async fn empty_expectation_is_none() {
    const OK: &str = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    let (env, own) = listening().await;
    let serving = responding(own, OK);
    let key = own_key(&env.caller, false);
    let text = format!(
        "POST /v1/endpoints/own/last HTTP/1.1\r\nHost: x\r\nExpect:\r\nContent-Length: 1\r\n{key}\r\nx"
    );
    let seen = head_and_body(&mut sent(env.api.addr(), &text).await).await;
    assert!(seen.starts_with("HTTP/1.1 200"), "{seen}");
    within(serving).await.unwrap();
}
