//! Named endpoints: a reverse proxy that passes bytes unchanged.

use bytes::Bytes;
use e2e::accept_request;
use hyper::Method;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use support::setup::{Endpoint, path};
use support::{Ask, LONG_TIMEOUT, RawTarget, TestEnv, eventually, let_time_pass, pattern};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

#[tokio::test]
async fn path_query_and_headers_pass_byte_for_byte() {
    let world = TestEnv::start().await;
    for path in [
        "/headers",
        "/headers?",
        "/headers?a=%2F&b=c+d&b=",
        "/headers?q={x[1];y}|'",
    ] {
        let ask = Ask::get(world.endpoint(path))
            .key(&world.caller)
            .header("x-two", "1")
            .header("x-two", "2")
            .header("cookie", "a=b; c=d")
            .header("connection", "x-hop")
            .header("x-hop", "gone");
        let seen = world.api.send(ask).await.expect_status(200).text();
        let direct = Ask::get(path)
            .header("x-two", "1")
            .header("x-two", "2")
            .header("cookie", "a=b; c=d");
        let expected = world
            .target_origin()
            .send(direct)
            .await
            .expect_status(200)
            .text();
        assert_eq!(sorted(&seen), sorted(&expected), "{path}");
    }
}

fn sorted(text: &str) -> Vec<String> {
    let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
    lines[1..].sort();
    lines
}

#[tokio::test]
async fn authorization_reaches_relay_or_target_only() {
    let world = TestEnv::start().await;
    let consumed = Ask::get(world.endpoint("/headers")).key(&world.caller);
    let seen = world.api.send(consumed).await.expect_status(200).text();
    assert!(!seen.to_lowercase().contains("authorization"), "{seen}");
    let passed = Ask::get(world.endpoint("/headers"))
        .header("bridge-authorization", &world.caller.basic())
        .header("authorization", "Bearer of-the-target");
    let seen = world
        .api
        .send(passed)
        .await
        .expect_status(200)
        .text()
        .to_lowercase();
    assert!(
        seen.contains("authorization: bearer of-the-target"),
        "{seen}"
    );
    assert!(!seen.contains("bridge-authorization"), "{seen}");
}

#[tokio::test]
async fn bodiless_responses_keep_their_framing() {
    let world = TestEnv::start().await;
    let head = Ask::new(Method::HEAD, world.endpoint("/bytes/1000")).key(&world.caller);
    let answer = world.api.send(head).await.expect_status(200);
    assert_eq!(answer.header("content-length"), Some("1000"));
    assert_eq!(answer.body.unwrap(), "");
    for status in [204, 304, 404, 500] {
        let ask = Ask::get(world.endpoint(&format!("/status/{status}"))).key(&world.caller);
        world.api.send(ask).await.expect_status(status);
    }
    let empty = Ask::get(world.endpoint("/bytes/0")).key(&world.caller);
    assert_eq!(world.api.send(empty).await.expect_status(200).text(), "");
}

#[tokio::test]
async fn bodies_of_every_size_pass_both_directions() {
    let world = TestEnv::start().await;
    for size in [0usize, 1, 16_383, 16_384, 16_385, 70_000, 1_000_000] {
        let body = pattern::bytes(size);
        let known = Ask::post(world.endpoint("/echo"))
            .key(&world.caller)
            .body(body.clone());
        let answer = world.api.send(known).await.expect_status(200);
        assert_eq!(answer.body.unwrap(), body, "{size}");
        let unknown = Ask::post(world.endpoint("/echo"))
            .key(&world.caller)
            .upload_chunked(size as u64);
        let answer = world.api.send(unknown).await.expect_status(200);
        assert_eq!(answer.body.unwrap(), body, "{size} of unknown length");
        let chunked = Ask::get(world.endpoint(&format!("/chunked/{size}"))).key(&world.caller);
        let answer = world.api.send(chunked).await.expect_status(200);
        assert_eq!(answer.body.unwrap(), body, "{size} of a chunked response");
    }
}

#[tokio::test]
async fn response_pieces_are_streamed() {
    let world = TestEnv::start().await;
    let ask = Ask::get(world.endpoint("/drip/10/200")).key(&world.caller);
    let mut reading = world.api.open(ask).await;
    let start = Instant::now();
    reading.next().await.unwrap().unwrap();
    assert!(start.elapsed() < Duration::from_millis(1000));
}

#[tokio::test]
async fn truncated_response_is_never_complete() {
    let world = TestEnv::start().await;
    for path in ["/truncated", "/truncated-chunked"] {
        let ask = Ask::get(world.endpoint(path)).key(&world.caller);
        let answer = world.api.send(ask).await;
        assert!(
            answer.body.is_err() || answer.status == 502,
            "{path}: {} {:?}",
            answer.status,
            answer.body.map(|body| body.len())
        );
    }
    let ask = Ask::get("/v1/endpoints/t/truncated").key(&world.caller);
    let secure = world.public.send(ask).await;
    assert!(secure.body.is_err() || secure.status == 502);
}

#[tokio::test]
async fn early_response_is_passed_on() {
    let raw =
        RawTarget::start("HTTP/1.1 413 No\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno")
            .await;
    let world = TestEnv::builder()
        .endpoint(Endpoint::new("raw", raw.url("/")))
        .start()
        .await;
    let ask = Ask::post("/v1/endpoints/raw/")
        .key(&world.caller)
        .upload(5_000_000);
    let answer = world.api.try_send(ask).await;
    // The client may see its own write fail before it reads; if it reads, it reads this.
    if let Ok(answer) = answer {
        assert_eq!(answer.status, 413);
    }
}

#[tokio::test]
async fn bridge_error_of_a_target_is_removed() {
    let raw = RawTarget::start(
        "HTTP/1.1 200 OK\r\nbridge-error: unauthorized\r\nx-own: 1\r\ncontent-length: 0\r\n\r\n",
    )
    .await;
    let world = TestEnv::builder()
        .endpoint(Endpoint::new("raw", raw.url("/")))
        .start()
        .await;
    let ask = Ask::get("/v1/endpoints/raw/").key(&world.caller);
    let answer = world.api.send(ask).await.expect_status(200);
    assert_eq!(answer.header("bridge-error"), None);
    assert_eq!(answer.header("x-own"), Some("1"));
}

#[tokio::test]
async fn https_target_needs_its_ca() {
    let ca = support::ThrowawayCa::new();
    let target = support::Target::start_tls(&ca).await;
    let dir = support::TempDir::new("ca");
    let file = ca.write_to(dir.path());
    let builder = || TestEnv::builder().endpoint(Endpoint::new("s", target.url("/")));
    let world = builder()
        .bridge(|bridge| bridge.set("targets.ca_file", path(&file)))
        .start()
        .await;
    let ask = || {
        Ask::post("/v1/endpoints/s/echo")
            .key(&world.caller)
            .body(Bytes::from("hi"))
    };
    assert_eq!(world.api.send(ask()).await.expect_status(200).text(), "hi");
    let world = builder().start().await;
    let ask = Ask::get("/v1/endpoints/s/small").key(&world.caller);
    let answer = world.api.send(ask).await;
    assert_eq!(
        (answer.code(), answer.execution()),
        ("target_tls".into(), "not_dispatched".into())
    );
}

#[tokio::test]
async fn public_listener_serves_http2() {
    let world = TestEnv::start().await;
    let out = tokio::process::Command::new("curl")
        .args(["-sS", "--http2", "--cacert"])
        .arg(world.ca_file())
        .args([
            "-u",
            &format!("{}:{}", world.caller.client_id, world.caller.client_secret),
        ])
        .args(["-w", " %{http_version} %{http_code}"])
        .arg(format!(
            "https://localhost:{}/v1/endpoints/t/bytes/3",
            world.public.addr().port()
        ))
        .output()
        .await;
    let Ok(out) = out else {
        panic!("curl is needed for this test");
    };
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(
        text.ends_with(" 2 200"),
        "{text} {}",
        String::from_utf8_lossy(&out.stderr)
    );
}

/// Some clients lose an early response when the stream is reset after it.
#[tokio::test]
async fn http2_uploader_gets_early_response() {
    let (world, target) = listening().await;
    // The target responds before it reads. Closing at once could discard the response.
    let answering = tokio::spawn(async move {
        let (mut stream, _) = accept_request(&target).await;
        let answer = b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n";
        stream.write_all(answer).await.unwrap();
        let mut rest = Vec::new();
        // The rest of the request is never sent: its connection is closed.
        let _ = stream.read_to_end(&mut rest).await;
    });
    let file = std::env::temp_dir().join(format!("upload-{}", std::process::id()));
    std::fs::write(&file, pattern::bytes(1_500_000)).unwrap();
    let url = |path: &str| format!("https://localhost:{}{path}", world.public.addr().port());
    let own = format!("{}:{}", world.caller.client_id, world.caller.client_secret);
    for (key, path, status) in [
        (own.as_str(), "/v1/endpoints/unknown/x", "404"),
        ("unknown:key", "/v1/endpoints/t/x", "401"),
        (own.as_str(), "/v1/endpoints/own/x", "413"),
    ] {
        let output = tokio::process::Command::new("curl")
            .args(["-sS", "--http2", "--max-time", "20", "-o", "/dev/null"])
            .args(["-w", "%{http_version} %{http_code}", "-u", key, "-T"])
            .arg(&file)
            .arg("--cacert")
            .arg(world.ca_file())
            .arg(url(path))
            .output()
            .await
            .unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(stdout, format!("2 {status}"), "{path}: {stderr}");
    }
    answering.await.unwrap();
    std::fs::remove_file(&file).unwrap();
}

/// A target of the test's own, as the endpoint `own`.
async fn listening() -> (TestEnv, TcpListener) {
    let own = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", own.local_addr().unwrap());
    let builder = TestEnv::builder().endpoint(Endpoint::new("own", url));
    (builder.start().await, own)
}

/// The next of what comes, as text; empty where nothing does for so long.
async fn next(stream: &mut TcpStream, quiet: Duration) -> String {
    let mut piece = vec![0; 4096];
    match tokio::time::timeout(quiet, stream.read(&mut piece)).await {
        Ok(read) => String::from_utf8(piece[..read.unwrap()].to_vec()).unwrap(),
        Err(_) => String::new(),
    }
}

/// W-66.
#[tokio::test]
async fn expect_continue_is_decided_by_the_target() {
    let (world, own) = listening().await;
    let head = format!(
        "PUT /v1/endpoints/own/x HTTP/1.1\r\nHost: x\r\nBridge-Authorization: {}\r\n\
         Content-Length: 4\r\nExpect: 100-continue\r\n\r\n",
        world.caller.basic()
    );
    let ask = async || {
        let mut client = TcpStream::connect(world.api.addr()).await.unwrap();
        client.write_all(head.as_bytes()).await.unwrap();
        let (target, seen) = accept_request(&own).await;
        let seen = seen.to_lowercase();
        assert!(seen.contains("expect: 100-continue\r\n"), "{seen}");
        (client, target)
    };
    let (soon, long) = (Duration::from_millis(300), Duration::from_secs(5));

    // The target asks for the body when it is ready.
    let (mut client, mut target) = ask().await;
    assert_eq!(next(&mut client, soon).await, "");
    let word = b"HTTP/1.1 100 Continue\r\n\r\n";
    target.write_all(word).await.unwrap();
    let head = next(&mut client, long).await;
    assert!(head.starts_with("HTTP/1.1 100"), "{head}");
    client.write_all(b"body").await.unwrap();
    assert_eq!(next(&mut target, long).await, "body");
    let answer = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    target.write_all(answer).await.unwrap();
    let head = next(&mut client, long).await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");

    // It rejects the body: no hop asks for the body in its place.
    let (mut client, mut target) = ask().await;
    let answer = b"HTTP/1.1 417 No\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    target.write_all(answer).await.unwrap();
    let head = next(&mut client, long).await;
    assert!(head.starts_with("HTTP/1.1 417"), "{head}");
    assert_eq!(next(&mut target, soon).await, "");

    // A target that ignores `Expect`: the bridge asks after a second.
    let (mut client, mut target) = ask().await;
    let head = next(&mut client, long).await;
    assert!(head.starts_with("HTTP/1.1 100"), "{head}");
    client.write_all(b"body").await.unwrap();
    assert_eq!(next(&mut target, long).await, "body");
}

#[tokio::test]
async fn key_cannot_take_every_slot() {
    let world = TestEnv::builder()
        .relay(|relay| relay.set("limits.streams_per_key", 2))
        .start()
        .await;
    let get = async |path: &str, key| {
        world
            .api
            .send(Ask::get(world.endpoint(path)).key(key))
            .await
    };
    let later = async {
        let_time_pass(
            Duration::from_millis(700),
            "the two slow requests come first",
        )
        .await;
        let own = get("/small", &world.caller).await;
        (own, get("/small", &world.admin).await)
    };
    let (first, second, (own, other)) = tokio::join!(
        get("/delay/3000", &world.caller),
        get("/delay/3000", &world.caller),
        later
    );
    first.expect_status(200);
    second.expect_status(200);
    assert_eq!(own.code(), "overloaded");
    assert_eq!(own.execution(), "not_sent");
    assert!(own.headers.contains_key("retry-after"));
    other.expect_status(200);
    get("/small", &world.caller).await.expect_status(200);
}

#[tokio::test]
async fn https_endpoint_of_this_host_needs_a_setting() {
    // The name of this machine leads to one of its own addresses, or to loopback.
    let name = std::fs::read_to_string("/etc/hostname").unwrap_or_default();
    let name = name.trim().to_ascii_lowercase();
    let resolved = tokio::net::lookup_host((name.as_str(), 0)).await;
    // Containers have it in their hosts file, and other systems in the resolver.
    let address = resolved
        .expect("the name of this machine resolves")
        .find(SocketAddr::is_ipv4)
        .expect("the name of this machine has an IPv4 address");
    let ca = support::ThrowawayCa::new();
    let config = ca.issue(&[name.as_str()]).server_config(&["http/1.1"]);
    let listener = TcpListener::bind((address.ip(), 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let acceptor = tokio_rustls::TlsAcceptor::from(config);
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(socket).await else {
                continue;
            };
            let mut head = [0; 4096];
            let _ = stream.read(&mut head).await;
            let answer = b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n";
            let _ = stream.write_all(answer).await;
            let _ = stream.shutdown().await;
        }
    });
    let dir = support::TempDir::new("this-host");
    let file = ca.write_to(dir.path());
    let url = format!("https://{name}:{port}/");
    let endpoint = |called: &str| Endpoint::new(called, url.as_str()).set("ca_file", path(&file));
    let world = TestEnv::builder()
        .endpoint(endpoint("denied"))
        .endpoint(endpoint("allowed").set("this_host", true))
        .start()
        .await;
    let ask = |called: &str| Ask::get(format!("/v1/endpoints/{called}/")).key(&world.caller);
    let answer = world.api.send(ask("denied")).await.expect_status(403);
    let text = answer.text();
    assert!(
        text.contains("refused_by_policy") && text.contains("this_host = true"),
        "{text}"
    );
    world.api.send(ask("allowed")).await.expect_status(204);
}

#[tokio::test]
async fn endpoint_is_up_after_a_request_succeeds() {
    let address = support::ports::free_addr();
    // Probes are rare: only a request can show in time that the target is back.
    let world = TestEnv::builder()
        .bridge(|bridge| bridge.set("targets.health_interval", "10m"))
        .endpoint(Endpoint::new("back", format!("http://{address}/")))
        .start()
        .await;
    let health = async || {
        let status = world.bridge_cli(&["status", "--json"]).await.success();
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        let all = status["endpoints"].as_array().unwrap().clone();
        let found = all.iter().find(|found| found["name"] == "back").unwrap();
        found["health"].clone()
    };
    eventually(LONG_TIMEOUT, "the endpoint to be down", async || {
        health().await == "down"
    })
    .await;
    let listener = TcpListener::bind(address).await.unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = [0; 4096];
            let _ = stream.read(&mut head).await;
            let answer = b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n";
            let _ = stream.write_all(answer).await;
        }
    });
    let ask = Ask::get("/v1/endpoints/back/").key(&world.caller);
    world.api.send(ask).await.expect_status(204);
    let within = Duration::from_secs(3);
    eventually(within, "the endpoint to be up", async || {
        health().await == "up"
    })
    .await;
}
