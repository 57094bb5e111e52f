//! Peers that violate the protocols, at the relay's listeners.

use std::net::IpAddr;
use std::time::{Duration, Instant};
use support::{Ask, TestEnv};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// The address of the bridge and the callers. The attacker uses the other one.
const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 1));
const ELSEWHERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 2));

#[tokio::test]
async fn invalid_requests_are_rejected() {
    let world = TestEnv::start().await;
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01"[..],
        b"GET /v1/bridges HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /v1/calls HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"\0\0\0\0\r\n\r\n",
    ] {
        let answer = world.api.raw(bytes, Duration::from_millis(500)).await;
        let text = String::from_utf8_lossy(&answer);
        let sent = bytes.escape_ascii();
        assert!(!text.starts_with("HTTP/1.1 2"), "{sent}: {text}");
    }
    let ask = Ask::get(world.endpoint("/small")).key(&world.caller);
    world.api.send(ask).await.expect_status(200);
}

/// Requests that two receivers could read differently. Each is followed by a request that must not be
/// executed: a receiver that reads the first one in the other way would find it.
struct Ambiguous {
    world: TestEnv,
    /// The fields that a valid request has.
    own: String,
    /// The request that must not be executed.
    hidden: String,
}

const LINE: &str = "POST /v1/endpoints/t/hook HTTP/1.1\r\n";

impl Ambiguous {
    async fn start() -> Self {
        let world = TestEnv::start().await;
        let own = format!(
            "Host: x\r\nBridge-Authorization: {}\r\n",
            world.caller.basic()
        );
        let hidden = format!("GET /v1/endpoints/t/small HTTP/1.1\r\n{own}\r\n");
        Self { world, own, hidden }
    }

    /// A request with these fields in addition.
    fn fields(&self, fields: &str) -> String {
        self.head(&format!("{LINE}{}{fields}\r\n", self.own))
    }

    /// This head, and the hidden request.
    fn head(&self, head: &str) -> String {
        format!("{head}{}", self.hidden)
    }

    /// Chunks after a head that announces them.
    fn chunks(&self, chunks: &str) -> String {
        let own = &self.own;
        format!("{LINE}{own}Transfer-Encoding: chunked\r\n\r\n{chunks}")
    }

    /// Each is rejected with one response of 4xx, and reaches no target.
    async fn assert_rejected(&self, cases: &[(&str, String)]) {
        let mut wrong = Vec::new();
        for (name, text) in cases {
            let (seen, status, responses) = self.send(text).await;
            if !status.starts_with('4') || responses != 1 || seen != 0 {
                wrong.push(format!(
                    "{name}: status {status}, {responses} responses, {seen} requests at the target"
                ));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        self.serves_others().await;
    }

    /// The same, except that the head may reach the target: its body is then aborted, and never complete.
    async fn assert_aborted(&self, cases: &[(&str, String)]) {
        let mut wrong = Vec::new();
        for (name, text) in cases {
            let aborted = self.world.target.hangups();
            let (seen, status, responses) = self.send(text).await;
            if seen == 1 {
                let within = Duration::from_secs(5);
                let target = &self.world.target;
                target.wait_for_hangups(aborted + 1, within).await;
            }
            if !status.starts_with('4') || responses != 1 || seen > 1 {
                wrong.push(format!(
                    "{name}: status {status}, {responses} responses, {seen} requests at the target"
                ));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        self.serves_others().await;
    }

    /// Returns the requests that the target saw, the first status, and the number of responses.
    async fn send(&self, text: &str) -> (u64, String, usize) {
        let before = self.world.target.requests();
        let sending = self
            .world
            .api
            .raw(text.as_bytes(), Duration::from_millis(700));
        let response = sending.await;
        let response = String::from_utf8_lossy(&response);
        let status = response.split(' ').nth(1).unwrap_or("nothing").to_owned();
        let responses = response.matches("HTTP/1.1 ").count();
        (self.world.target.requests() - before, status, responses)
    }

    async fn serves_others(&self) {
        let ask = Ask::get(self.world.endpoint("/small")).key(&self.world.caller);
        self.world.api.send(ask).await.expect_status(200);
    }
}

#[tokio::test]
async fn ambiguous_lengths_are_rejected() {
    let requests = Ambiguous::start().await;
    let fields = |fields: &str| requests.fields(fields);
    let cases = [
        (
            "two lengths",
            fields("Content-Length: 0\r\nContent-Length: 5\r\n"),
        ),
        ("lengths in a list", fields("Content-Length: 0, 5\r\n")),
        ("a length with a sign", fields("Content-Length: +0\r\n")),
        ("a negative length", fields("Content-Length: -1\r\n")),
        ("a length in hex", fields("Content-Length: 0x0\r\n")),
        ("an empty length", fields("Content-Length: \r\n")),
        (
            "a length above 64 bits",
            fields("Content-Length: 99999999999999999999999\r\n"),
        ),
        ("a folded length", fields("Content-Length:\r\n 0\r\n")),
    ];
    requests.assert_rejected(&cases).await;
}

#[tokio::test]
async fn ambiguous_transfer_codings_are_rejected() {
    let requests = Ambiguous::start().await;
    let fields = |fields: &str| requests.fields(fields);
    let cases = [
        (
            "length and chunks",
            fields("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n") + "0\r\n\r\n",
        ),
        (
            "chunks and length",
            fields("Transfer-Encoding: chunked\r\nContent-Length: 4\r\n") + "0\r\n\r\n",
        ),
        ("another coding", fields("Transfer-Encoding: gzip\r\n")),
        (
            "chunks that are not last",
            fields("Transfer-Encoding: chunked, gzip\r\n"),
        ),
        (
            "chunks under another name",
            fields("Transfer-Encoding: xchunked\r\n"),
        ),
        (
            "chunks twice",
            fields("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n"),
        ),
    ];
    requests.assert_rejected(&cases).await;
}

#[tokio::test]
async fn malformed_fields_are_rejected() {
    let requests = Ambiguous::start().await;
    let fields = |fields: &str| requests.fields(fields);
    let own = &requests.own;
    let key = requests.world.caller.basic();
    let cases = [
        ("a folded field", fields("X-Folded: a\r\n b\r\n")),
        ("a space before the colon", fields("Content-Length : 0\r\n")),
        ("a field without a colon", fields("Nonsense\r\n")),
        ("a field without a name", fields(": value\r\n")),
        (
            "a space before the first field",
            requests.head(&format!("{LINE} X: 1\r\n{own}\r\n")),
        ),
        ("a NUL in a value", fields("X-Nul: a\0b\r\n")),
        ("a bare CR in a value", fields("X-Cr: a\rb\r\n")),
        ("a control byte in a value", fields("X-Bell: a\u{7}b\r\n")),
        ("a control byte in a name", fields("X\u{1}: a\r\n")),
        ("a bare LF after a field", fields("X-Lf: a\n")),
        (
            "a bare LF as the end",
            requests.head(&format!("{LINE}{own}\n")),
        ),
        ("two hosts", fields("Host: y\r\n")),
        (
            "no host",
            requests.head(&format!("{LINE}Bridge-Authorization: {key}\r\n\r\n")),
        ),
    ];
    requests.assert_rejected(&cases).await;
}

#[tokio::test]
async fn malformed_request_lines_are_rejected() {
    let requests = Ambiguous::start().await;
    let own = &requests.own;
    let line = |line: &str| requests.head(&format!("{line}{own}\r\n"));
    let cases = [
        (
            "a bare LF after the line",
            line("POST /v1/endpoints/t/hook HTTP/1.1\n"),
        ),
        (
            "two spaces in the line",
            line("POST  /v1/endpoints/t/hook HTTP/1.1\r\n"),
        ),
        (
            "a space in the target",
            line("POST /v1/endpoints/t/ho ok HTTP/1.1\r\n"),
        ),
        (
            "a tab in the line",
            line("POST\t/v1/endpoints/t/hook HTTP/1.1\r\n"),
        ),
        (
            "CONNECT at a listener without tunnels",
            line("CONNECT x:1 HTTP/1.1\r\n"),
        ),
    ];
    requests.assert_rejected(&cases).await;
}

#[tokio::test]
async fn malformed_chunks_abort_their_request() {
    let requests = Ambiguous::start().await;
    let chunks = |chunks: &str| requests.chunks(chunks);
    let cases = [
        ("a size that is no number", chunks("zz\r\nab\r\n0\r\n\r\n")),
        ("a size with a sign", chunks("+2\r\nab\r\n0\r\n\r\n")),
        (
            "a size above 64 bits",
            chunks("fffffffffffffffff\r\nab\r\n0\r\n\r\n"),
        ),
        ("a chunk without its end", chunks("2\r\nabcd\r\n0\r\n\r\n")),
        ("a chunk with a bare LF", chunks("2\nab\r\n0\r\n\r\n")),
    ];
    requests.assert_aborted(&cases).await;
}

#[tokio::test]
async fn tunnel_request_without_upgrade_is_rejected() {
    let world = TestEnv::start().await;
    let answer = world.public.send(Ask::get("/v1/tunnel")).await;
    assert!(
        [400, 426].contains(&answer.status.as_u16()),
        "{}",
        answer.status
    );
    assert_eq!(answer.code(), "invalid_request");
}

#[tokio::test]
async fn silent_tunnels_are_closed() {
    let mut world = TestEnv::builder()
        .relay(|relay| relay.set("limits.unauthenticated_tunnels_max", 8))
        .start()
        .await;
    world.kill_bridge().await;
    let mut silent = Vec::new();
    for _ in 0..8 {
        silent.push(world.open_silent_tunnel().await);
    }
    let began = Instant::now();
    world.start_bridge();
    // Far below the time limit of a handshake.
    world.wait_online_within(Duration::from_secs(8)).await;
    let mut newest = silent.pop().unwrap();
    let oldest = &mut silent[0];
    assert!(oldest.is_closed_within(Duration::from_secs(5)).await);
    // A tunnel that is not evicted ends at the time limit of the handshake.
    assert!(newest.is_closed_within(Duration::from_secs(30)).await);
    assert!(began.elapsed() > Duration::from_secs(5));
}

#[tokio::test]
async fn stalled_handshakes_do_not_delay_others() {
    let world = TestEnv::builder()
        .relay(|relay| {
            relay
                .set("limits.handshakes_max", 4)
                .set("limits.handshakes_per_address", 2)
        })
        .start()
        .await;
    let hello = world.client_hello();
    let start = Instant::now();
    let mut stalled = Vec::new();
    for spoken in [&b""[..], b"\x16\x03\x01\x02\x00\x01", &hello] {
        for _ in 0..20 {
            let mut tcp = world.connect_from(HERE).await;
            tcp.write_all(spoken).await.unwrap();
            stalled.push(tcp);
        }
    }
    for (from, alpn) in [
        (ELSEWHERE, &["http/1.1"][..]),
        (HERE, &["h2", "http/1.1"]),
        (HERE, &["http/1.1"]),
    ] {
        let tcp = world.connect_from(from).await;
        world.handshake(tcp, alpn).await.unwrap();
    }
    let took = start.elapsed();
    assert!(took < Duration::from_secs(6), "{took:?}");
    drop(stalled);
}

#[tokio::test]
async fn address_evicts_its_own_oldest_connection() {
    let world = TestEnv::builder()
        .relay(|relay| {
            relay
                .set("limits.unauthenticated_tunnels_per_address", 2)
                .set("limits.pending_connections_max", 10)
        })
        .start()
        .await;
    let mut elsewhere = world.open_silent_tunnel_from(ELSEWHERE).await;
    let mut own = Vec::new();
    for _ in 0..3 {
        own.push(world.open_silent_tunnel().await);
    }
    assert!(own[0].is_closed_within(Duration::from_secs(5)).await);

    let mut more = Vec::new();
    for _ in 0..30 {
        more.push(world.connect_from(HERE).await);
    }
    let mut byte = [0];
    let first = more[0].read(&mut byte);
    let closed = tokio::time::timeout(Duration::from_secs(5), first).await;
    assert!(matches!(closed, Ok(Ok(0) | Err(_))), "{closed:?}");
    for from in [HERE, ELSEWHERE] {
        let tcp = world.connect_from(from).await;
        world.handshake(tcp, &["http/1.1"]).await.unwrap();
    }
    let is_closed = elsewhere.is_closed_within(Duration::from_millis(100));
    assert!(!is_closed.await, "another address was evicted");
    // The bridge is still connected.
    assert_eq!(world.sessions().await, 1);
    drop((own, more));
}

#[tokio::test]
async fn rejected_bridge_follows_retry_after() {
    let world = TestEnv::builder()
        .relay(|relay| relay.set("limits.sessions_max", 1))
        .start()
        .await;
    let refused = world.pair_and_run("b2", &world.bridge_key, "refused").await;
    let line = refused
        .process()
        .wait_log("cannot connect to the relay", Duration::from_secs(10))
        .await;
    let wait = line.split("wait=").nth(1).unwrap();
    let wait = wait.trim_start_matches('"').split('s').next().unwrap();
    let wait: f64 = wait.parse().unwrap();
    assert!((5.0..=10.0).contains(&wait), "{line}");
}

#[tokio::test]
async fn malformed_frames_close_their_tunnel_only() {
    let world = TestEnv::start().await;
    for frame in [
        // A binary message that claims 1 GiB.
        vec![0x82, 0xff, 0, 0, 0, 0, 0x40, 0, 0, 0, 0, 0, 0, 0],
        // A frame that is no HELLO.
        vec![0x82, 0x86, 0, 0, 0, 0, 0x30, 0, 0, 0, 0, 0],
        // Text.
        vec![0x81, 0x82, 0, 0, 0, 0, b'h', b'i'],
        // Garbage for a HELLO.
        vec![0x82, 0x88, 0, 0, 0, 0, 0x02, 0, 0, 0, 0, 0, 0xff, 0xff],
        // An unmasked message, which RFC 6455 forbids to clients.
        vec![0x82, 0x01, 0x00],
    ] {
        let mut tunnel = world.open_silent_tunnel().await;
        let closed = tunnel
            .send_and_wait_for_close(&frame, Duration::from_secs(5))
            .await;
        assert!(closed, "{frame:02x?}");
    }
    assert_eq!(world.sessions().await, 1);
    let ask = Ask::get(world.endpoint("/small")).key(&world.caller);
    world.api.send(ask).await.expect_status(200);
}

/// Returns the record of a `ClientHello` whose highest version is this one.
fn client_hello(version: [u8; 2]) -> Vec<u8> {
    let with_length = |bytes: &[u8]| {
        let length = u16::try_from(bytes.len()).unwrap();
        [&length.to_be_bytes()[..], bytes].concat()
    };
    let name = [&[0][..], &with_length(b"localhost")].concat();
    let mut extensions = Vec::new();
    for (kind, content) in [
        (0_u16, with_length(&name)),
        // x25519, secp256r1, secp384r1.
        (10, with_length(&[0, 29, 0, 23, 0, 24])),
        (11, vec![1, 0]),
        // ECDSA and RSA with SHA-256, and RSA-PSS.
        (13, with_length(&[4, 3, 8, 4, 4, 1])),
        // Extended master secret.
        (23, Vec::new()),
    ] {
        extensions.extend(kind.to_be_bytes());
        extensions.extend(with_length(&content));
    }
    let mut hello = version.to_vec();
    hello.extend([7; 32]);
    hello.push(0);
    // Of TLS 1.2 and of older versions: only the version may decide.
    hello.extend(with_length(&[
        0xc0, 0x2b, 0xc0, 0x2f, 0xcc, 0xa9, 0xcc, 0xa8, 0xc0, 0x09, 0xc0, 0x13,
    ]));
    hello.extend([1, 0]);
    hello.extend(with_length(&extensions));
    let length = u32::try_from(hello.len()).unwrap().to_be_bytes();
    let handshake = [&[1][..], &length[1..], &hello].concat();
    [&[0x16, 3, 1][..], &with_length(&handshake)].concat()
}

#[tokio::test]
async fn tls_older_than_1_2_is_refused() {
    let world = TestEnv::start().await;
    let url = world.public.url("");
    let addr = url.trim_start_matches("https://").trim_end_matches('/');
    for (version, is_accepted) in [
        ([3, 0], false),
        ([3, 1], false),
        ([3, 2], false),
        ([3, 3], true),
    ] {
        let mut stream = tokio::net::TcpStream::connect(addr).await.unwrap();
        stream.write_all(&client_hello(version)).await.unwrap();
        let mut record = Vec::new();
        // Fewer bytes if the relay closes the connection.
        let _ = stream.take(7).read_to_end(&mut record).await;
        // 0x16: the server's part of the handshake. Otherwise an alert, or nothing.
        let has_handshake = record.first() == Some(&0x16);
        assert_eq!(has_handshake, is_accepted, "{version:?}: {record:?}");
    }
}
