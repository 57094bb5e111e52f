//! The forward proxy, raw streams and WebSocket: what is not a request to a named endpoint.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use support::setup::{Allow, Builder, Endpoint};
use support::{ApiKey, TIMEOUT, TestEnv, let_time_pass};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const KIB: u64 = 1024;

/// An environment whose bridge opens raw streams to a listener of the test.
struct ForwardEnv {
    env: TestEnv,
    /// Where raw streams may go.
    raw: TcpListener,
    /// The endpoint `chat`, which the bridge looks at now and then.
    chat: TcpListener,
}

impl ForwardEnv {
    async fn start() -> Self {
        Self::start_with(|rule| rule, |builder| builder).await
    }

    /// With changes to the rule for raw streams, and to the environment.
    async fn start_with(
        change_rule: impl FnOnce(Allow) -> Allow,
        change: impl FnOnce(Builder) -> Builder,
    ) -> Self {
        let raw = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let chat = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
        let rule = Allow::loopback(port(&raw)).methods(&["POST"]);
        let chat_url = format!("http://127.0.0.1:{}/", port(&chat));
        let builder = TestEnv::builder()
            .direct()
            .allow(change_rule(rule.set("connect", true)))
            .allow(Allow::loopback(port(&chat)).methods(&["GET"]))
            .endpoint(Endpoint::new("chat", chat_url));
        let env = change(builder).start().await;
        Self { env, raw, chat }
    }

    fn address(&self) -> SocketAddr {
        self.raw.local_addr().unwrap()
    }

    /// A connection to the proxy that has sent this, and the head of the response.
    async fn ask(&self, text: &str) -> (TcpStream, String) {
        ask(self.env.relay.proxy(), text).await
    }

    /// A raw stream, at both ends.
    async fn connected(&self) -> (TcpStream, TcpStream) {
        let to = self.address();
        let own = field(&self.env.caller);
        let text = format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n{own}\r\n");
        let (client, head) = self.ask(&text).await;
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        assert!(!head.to_lowercase().contains("content-length"), "{head}");
        (client, self.accepted().await)
    }

    async fn accepted(&self) -> TcpStream {
        within(self.raw.accept()).await.unwrap().0
    }

    /// A request to `chat`, and its head.
    async fn asked(&self) -> (TcpStream, String) {
        loop {
            let mut stream = within(self.chat.accept()).await.unwrap().0;
            let mut first = [0];
            // A health check sends no request.
            if within(stream.peek(&mut first)).await.unwrap() > 0 {
                let head = head(&mut stream).await;
                return (stream, head);
            }
        }
    }
}

async fn within<T>(waiting: impl Future<Output = T>) -> T {
    tokio::time::timeout(TIMEOUT, waiting).await.unwrap()
}

async fn ask(address: SocketAddr, text: &str) -> (TcpStream, String) {
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(text.as_bytes()).await.unwrap();
    let head = head(&mut client).await;
    (client, head)
}

/// A head up to its empty line.
async fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(within(stream.read_u8()).await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

/// What the other end still sends, and how it ended.
async fn rest(stream: &mut TcpStream) -> (Vec<u8>, std::io::Result<()>) {
    let mut bytes = Vec::new();
    let end = within(stream.read_to_end(&mut bytes)).await;
    (bytes, end.map(|_| ()))
}

async fn assert_reset(stream: &mut TcpStream) {
    let (_, end) = rest(stream).await;
    let error = end.expect_err("what was broken off looks like an end");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

fn field(key: &ApiKey) -> String {
    format!("Proxy-Authorization: {}\r\n", key.basic())
}

fn reset(stream: TcpStream) {
    stream.set_zero_linger().unwrap();
    drop(stream);
}

#[tokio::test]
async fn proxy_requires_a_key_and_obeys_the_policy() {
    let site = ForwardEnv::start().await;
    let url = format!("http://{}", site.env.target.addr());
    let close = "Connection: close\r\n";
    let own = field(&site.env.caller);
    let post = async |target: &str, fields: &str| {
        let text = format!(
            "POST {target} HTTP/1.1\r\nHost: x\r\n{close}{fields}Content-Length: 0\r\n\r\n"
        );
        let (mut client, head) = site.ask(&text).await;
        let (body, end) = rest(&mut client).await;
        end.unwrap();
        (head, String::from_utf8(body).unwrap())
    };
    let wrong = "Proxy-Authorization: Basic aWQ6c2VjcmV0\r\n";
    for fields in ["", "Authorization: Basic aWQ6c2VjcmV0\r\n", wrong] {
        let (head, body) = post(&format!("{url}/small"), fields).await;
        assert!(head.starts_with("HTTP/1.1 407"), "{head}");
        assert!(
            head.to_lowercase().contains("proxy-authenticate: basic"),
            "{head}"
        );
        assert!(body.contains("\"status\":407"), "{body}");
    }
    let (head, body) = post(
        &format!("{url}/hook?a%2Fb;c=%20&y"),
        &format!("{own}Authorization: Bearer mine\r\nX-Twice: 1\r\nX-Twice: 2\r\n"),
    )
    .await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let seen = site.env.target.hooks().pop().unwrap();
    assert_eq!(seen.path, "/hook?a%2Fb;c=%20&y", "{body}");
    let values = |name: &str| -> Vec<&str> {
        let of = seen.headers.get_all(name).iter();
        of.map(|value| value.to_str().unwrap()).collect()
    };
    assert_eq!(values("authorization"), ["Bearer mine"]);
    assert_eq!(values("x-twice"), ["1", "2"]);
    assert_eq!(values("host"), [site.env.target.addr().to_string()]);
    assert!(values("proxy-authorization").is_empty());
    for (target, status, code) in [
        ("http://127.0.0.1:1/", "403", "refused_by_policy"),
        ("http://internal.example/", "403", "refused_by_policy"),
        ("/small", "400", "invalid_request"),
    ] {
        let (head, body) = post(target, &own).await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{head}");
        assert!(body.contains(code), "{body}");
    }
}

#[tokio::test]
async fn narrowed_key_is_limited_on_the_proxy() {
    let site = ForwardEnv::start().await;
    let to = site.address();
    let url = format!("http://{}/small", site.env.target.addr());
    for (more, status) in [
        (["--endpoint", "t"], "403"),
        (["--host", "elsewhere.example"], "403"),
        (["--host", "127.0.0.1"], "200"),
    ] {
        let relay = &site.env.relay;
        let making = relay.create_key_with(site.env.tenant(), "synchronizer", &more);
        let own = field(&making.await);
        let get = format!("GET {url} HTTP/1.1\r\nHost: x\r\n{own}\r\n");
        let connect = format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n{own}\r\n");
        for text in [get, connect] {
            let (_, head) = site.ask(&text).await;
            assert!(
                head.starts_with(&format!("HTTP/1.1 {status}")),
                "{more:?}: {head}"
            );
        }
    }
}

#[tokio::test]
async fn raw_stream_directions_close_independently() {
    let site = ForwardEnv::start().await;
    let (mut client, mut target) = site.connected().await;
    client.write_all(b"question").await.unwrap();
    client.shutdown().await.unwrap();
    let (output, end) = rest(&mut target).await;
    end.unwrap();
    assert_eq!(output, b"question");
    let answer = vec![7; 300_000];
    target.write_all(&answer).await.unwrap();
    drop(target);
    let (output, end) = rest(&mut client).await;
    end.unwrap();
    assert_eq!(output, answer);

    // The other direction.
    let (mut client, mut target) = site.connected().await;
    target.shutdown().await.unwrap();
    let (output, end) = rest(&mut client).await;
    end.unwrap();
    assert!(output.is_empty());
    client.write_all(&answer).await.unwrap();
    client.shutdown().await.unwrap();
    let (output, end) = rest(&mut target).await;
    end.unwrap();
    assert_eq!(output, answer);

    // A client that does not wait for the 200.
    let (to, own) = (site.address(), field(&site.env.caller));
    let text = format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n{own}\r\nearly");
    let (client, head) = site.ask(&text).await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let mut target = site.accepted().await;
    let mut early = [0; 5];
    within(target.read_exact(&mut early)).await.unwrap();
    assert_eq!(&early, b"early");
    drop(client);
}

/// W-67.
#[tokio::test]
async fn aborted_raw_stream_is_reset() {
    let mut site = ForwardEnv::start().await;
    let (mut client, target) = site.connected().await;
    reset(target);
    assert_reset(&mut client).await;

    let (client, mut target) = site.connected().await;
    reset(client);
    assert_reset(&mut target).await;

    // A killed bridge must not look like a regular end to either side.
    let (mut client, target) = site.connected().await;
    site.env.bridge.kill9();
    assert_reset(&mut client).await;
    drop(target);
}

#[tokio::test]
async fn raw_stream_needs_a_rule_and_has_idle_timeout() {
    let site =
        ForwardEnv::start_with(|rule| rule.set("idle_timeout", "1s"), |builder| builder).await;
    let own = field(&site.env.caller);
    for (to, status, code) in [
        (
            site.env.target.addr().to_string(),
            "403",
            "refused_by_policy",
        ),
        ("127.0.0.1:1".to_owned(), "403", "refused_by_policy"),
        ("127.0.0.1".to_owned(), "400", "invalid_request"),
    ] {
        let text = format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n{own}\r\n");
        let (_, head) = site.ask(&text).await;
        assert!(
            head.starts_with(&format!("HTTP/1.1 {status}")),
            "{to}: {head}"
        );
        assert!(
            head.contains(&format!("bridge-error: {code}")),
            "{to}: {head}"
        );
    }
    let to = site.address();
    let (_, head) = site
        .ask(&format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\n"))
        .await;
    assert!(head.starts_with("HTTP/1.1 407"), "{head}");

    let (mut client, mut target) = site.connected().await;
    for _ in 0..4 {
        let_time_pass(Duration::from_millis(500), "half of the idle timeout").await;
        client.write_all(b".").await.unwrap();
        within(target.read_u8()).await.unwrap();
    }
    let began = Instant::now();
    assert_reset(&mut client).await;
    assert_reset(&mut target).await;
    assert!(began.elapsed() < Duration::from_secs(10));
}

const HANDSHAKE: &str = "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
     Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// W-65, W-67.
#[tokio::test]
async fn websocket_passes_by_endpoint_and_proxy() {
    let site = ForwardEnv::start().await;
    let (to, key) = (site.chat.local_addr().unwrap(), site.env.caller.clone());
    let (internal, proxy) = (site.env.relay.internal().addr(), site.env.relay.proxy());
    let by_endpoint = format!(
        "GET /v1/endpoints/chat/room?x HTTP/1.1\r\nHost: x\r\nBridge-Authorization: {}\r\n{HANDSHAKE}\r\n",
        key.basic()
    );
    let by_proxy = format!(
        "GET http://{to}/room?x HTTP/1.1\r\nHost: {to}\r\n{}{HANDSHAKE}\r\n",
        field(&key)
    );
    for (address, text) in [(internal, by_endpoint), (proxy, by_proxy)] {
        let asking = ask(address, &text);
        let answering = async {
            let (mut target, asked) = site.asked().await;
            assert!(asked.starts_with("GET /room?x HTTP/1.1\r\n"), "{asked}");
            let lower = asked.to_lowercase();
            for field in [
                "connection: upgrade\r\n",
                "upgrade: websocket\r\n",
                "sec-websocket-key",
            ] {
                assert!(lower.contains(field), "{field} is not in {asked}");
            }
            assert!(!lower.contains("authorization"), "{asked}");
            // The first bytes of the new protocol may come in one piece with the head.
            let answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
                 Upgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\nwelcome";
            target.write_all(answer.as_bytes()).await.unwrap();
            target
        };
        let ((mut client, head), mut target) = tokio::join!(asking, answering);
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        let lower = head.to_lowercase();
        for field in [
            "connection: upgrade\r\n",
            "upgrade: websocket\r\n",
            "sec-websocket-accept",
        ] {
            assert!(lower.contains(field), "{field} is not in {head}");
        }
        let mut welcome = [0; 7];
        within(client.read_exact(&mut welcome)).await.unwrap();
        assert_eq!(&welcome, b"welcome");
        client.write_all(b"\x81\x85mask.").await.unwrap();
        let mut frame = [0; 7];
        within(target.read_exact(&mut frame)).await.unwrap();
        assert_eq!(&frame, b"\x81\x85mask.");
        drop(target);
        let (_, end) = rest(&mut client).await;
        end.unwrap();
    }

    // A target that rejects the upgrade.
    let text = format!(
        "GET /v1/endpoints/chat/ HTTP/1.1\r\nHost: x\r\nBridge-Authorization: {}\r\n{HANDSHAKE}\r\n",
        key.basic()
    );
    let asking = ask(internal, &text);
    let answering = async {
        let (mut target, _) = site.asked().await;
        let answer = "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno";
        target.write_all(answer.as_bytes()).await.unwrap();
        target
    };
    let ((mut client, head), _target) = tokio::join!(asking, answering);
    assert!(head.starts_with("HTTP/1.1 403"), "{head}");
    assert!(!head.to_lowercase().contains("bridge-error"), "{head}");
    let mut body = [0; 2];
    within(client.read_exact(&mut body)).await.unwrap();
    assert_eq!(&body, b"no");
}

/// A browser obeys the fields of a 101 as those of any response. At the proxy each target has an origin of its own.
#[tokio::test]
async fn switch_cannot_act_on_the_whole_origin() {
    let site = ForwardEnv::start().await;
    let to = site.chat.local_addr().unwrap();
    let by_endpoint = format!(
        "GET /v1/endpoints/chat/room HTTP/1.1\r\nHost: x\r\nBridge-Authorization: {}\r\n{HANDSHAKE}\r\n",
        site.env.caller.basic()
    );
    let by_proxy = format!(
        "GET http://{to}/room HTTP/1.1\r\nHost: {to}\r\n{}{HANDSHAKE}\r\n",
        field(&site.env.caller)
    );
    let (internal, proxy) = (site.env.relay.internal().addr(), site.env.relay.proxy());
    for (address, text, are_removed) in [(internal, by_endpoint, true), (proxy, by_proxy, false)] {
        let asking = ask(address, &text);
        let answering = async {
            let (mut target, _) = site.asked().await;
            let answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
                 Upgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\
                 Strict-Transport-Security: max-age=99; includeSubDomains\r\nClear-Site-Data: \"*\"\r\n\
                 Alt-Svc: h3=\":1\"\r\nService-Worker-Allowed: /\r\nX-Own: 1\r\n\r\n";
            target.write_all(answer.as_bytes()).await.unwrap();
            target
        };
        let ((_client, head), _target) = tokio::join!(asking, answering);
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        let lower = head.to_lowercase();
        assert!(lower.contains("x-own: 1\r\n"), "{head}");
        assert!(lower.contains("sec-websocket-accept: "), "{head}");
        for name in [
            "strict-transport-security",
            "clear-site-data",
            "alt-svc",
            "service-worker-allowed",
        ] {
            assert_eq!(!lower.contains(name), are_removed, "{name}: {head}");
        }
    }
}

/// W-65: any protocol, with the small body of its request, and each direction's own end.
#[tokio::test]
async fn other_protocols_pass_with_a_small_body() {
    let site = ForwardEnv::start().await;
    let internal = site.env.relay.internal().addr();
    let text = format!(
        "POST /v1/endpoints/chat/exec/1/start HTTP/1.1\r\nHost: x\r\nBridge-Authorization: {}\r\n\
         Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c, tcp\r\nHTTP2-Settings: AAMAAABk\r\n\
         Content-Length: 12\r\n\r\n{{\"Tty\":true}}",
        site.env.caller.basic()
    );
    let asking = ask(internal, &text);
    let answering = async {
        let (mut target, asked) = site.asked().await;
        let lower = asked.to_lowercase();
        assert!(lower.contains("upgrade: tcp\r\n"), "{asked}");
        assert!(lower.contains("content-length: 12\r\n"), "{asked}");
        assert!(
            !lower.contains("h2c") && !lower.contains("http2-settings"),
            "{asked}"
        );
        let mut body = [0; 12];
        within(target.read_exact(&mut body)).await.unwrap();
        assert_eq!(&body, b"{\"Tty\":true}");
        let answer = "HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n$ ";
        target.write_all(answer.as_bytes()).await.unwrap();
        target
    };
    let ((mut client, head), mut target) = tokio::join!(asking, answering);
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    assert!(head.to_lowercase().contains("upgrade: tcp\r\n"), "{head}");
    let mut prompt = [0; 2];
    within(client.read_exact(&mut prompt)).await.unwrap();
    assert_eq!(&prompt, b"$ ");
    client.write_all(b"exit\n").await.unwrap();
    client.shutdown().await.unwrap();
    let (sent, end) = rest(&mut target).await;
    end.unwrap();
    assert_eq!(sent, b"exit\n");
    // The other direction goes on after that end.
    target.write_all(b"bye").await.unwrap();
    drop(target);
    let (heard, end) = rest(&mut client).await;
    end.unwrap();
    assert_eq!(heard, b"bye");
}

/// A protocol that the caller did not ask for, and one that would carry HTTP past the policy.
#[tokio::test]
async fn switch_is_bounded_by_what_was_requested() {
    let site = ForwardEnv::start().await;
    let internal = site.env.relay.internal().addr();
    let text = |upgrade: &str| {
        format!(
            "GET /v1/endpoints/chat/ HTTP/1.1\r\nHost: x\r\nBridge-Authorization: {}\r\n\
             Connection: Upgrade\r\nUpgrade: {upgrade}\r\n\r\n",
            site.env.caller.basic()
        )
    };
    for (upgrade, has_upgrade, answer, expected) in [
        (
            "foo/1",
            true,
            "HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: bar\r\n\r\n",
            "502",
        ),
        (
            "h2c",
            false,
            "HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
            "502",
        ),
        (
            "TLS/1.2",
            false,
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            "200",
        ),
        (
            "foo/1",
            true,
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            "200",
        ),
    ] {
        let text = text(upgrade);
        let asking = ask(internal, &text);
        let answering = async {
            let (mut target, asked) = site.asked().await;
            assert_eq!(
                asked.to_lowercase().contains("upgrade:"),
                has_upgrade,
                "{asked}"
            );
            target.write_all(answer.as_bytes()).await.unwrap();
            target
        };
        let ((_client, head), _target) = tokio::join!(asking, answering);
        assert!(
            head.starts_with(&format!("HTTP/1.1 {expected}")),
            "{upgrade}: {head}"
        );
    }
}

#[tokio::test]
async fn idle_raw_stream_costs_less_than_64_kib() {
    const STREAMS: u64 = 2000;
    const EACH_MAX_KIB: u64 = 64;
    let change = |builder: Builder| {
        builder
            .bridge(|bridge| bridge.set("limits.streams_max", 4096))
            .relay(|relay| {
                relay
                    .set("limits.streams_per_session", 4096)
                    .set("limits.streams_per_key", 4096)
            })
    };
    let site = ForwardEnv::start_with(|rule| rule, change).await;
    let (relay, bridge) = (site.env.relay.process(), site.env.bridge.process());
    // The first streams pay for the programs' own buffers.
    let mut held = Vec::new();
    for _ in 0..20 {
        held.push(site.connected().await);
    }
    let before = (relay.rss_kib(), bridge.rss_kib());
    for _ in 0..STREAMS {
        let (mut client, mut target) = site.connected().await;
        client.write_all(b"x").await.unwrap();
        within(target.read_u8()).await.unwrap();
        held.push((client, target));
    }
    let each = |now: u64, before: u64| now.saturating_sub(before) / STREAMS;
    let (relay, bridge) = (
        each(relay.rss_kib(), before.0),
        each(bridge.rss_kib(), before.1),
    );
    assert!(
        relay < EACH_MAX_KIB && bridge < EACH_MAX_KIB,
        "an idle stream costs {relay} KiB in the relay and {bridge} KiB in the bridge"
    );
    // The streams still work.
    for (client, target) in held.iter_mut().step_by(100) {
        target.write_all(b"y").await.unwrap();
        assert_eq!(within(client.read_u8()).await.unwrap(), b'y');
    }
}

#[tokio::test]
async fn raw_stream_of_a_quarter_gibibyte_is_flat() {
    const BYTES: u64 = 256 * KIB * KIB;
    const GROWTH_MAX_KIB: u64 = 32 * 1024;
    let site = ForwardEnv::start().await;
    let (client, target) = site.connected().await;
    let (relay, bridge) = (site.env.relay.process(), site.env.bridge.process());
    let before = (relay.rss_kib(), bridge.rss_kib());
    for process in [relay, bridge] {
        process.reset_peak_rss();
    }
    let piece = support::pattern::bytes(64 * 1024);
    let sending = async |mut stream: tokio::net::tcp::OwnedWriteHalf| {
        let mut left = BYTES;
        while left > 0 {
            stream.write_all(&piece).await.unwrap();
            left -= piece.len() as u64;
        }
        stream.shutdown().await.unwrap();
    };
    let reading = async |mut stream: tokio::net::tcp::OwnedReadHalf| {
        let (mut buffer, mut bytes) = (vec![0; 64 * 1024], 0u64);
        loop {
            let read = within(stream.read(&mut buffer)).await.unwrap();
            if read == 0 {
                return bytes;
            }
            let at = usize::try_from(bytes % piece.len() as u64).unwrap();
            let first = (piece.len() - at).min(read);
            assert_eq!(buffer[..first], piece[at..at + first]);
            bytes += read as u64;
        }
    };
    let ((client_read, client_write), (target_read, target_write)) =
        (client.into_split(), target.into_split());
    let ((), (), down, up) = tokio::join!(
        sending(client_write),
        sending(target_write),
        reading(client_read),
        reading(target_read),
    );
    assert_eq!((down, up), (BYTES, BYTES));
    for (process, before) in [(relay, before.0), (bridge, before.1)] {
        let peak = process.peak_rss_kib();
        assert!(peak < before + GROWTH_MAX_KIB, "{before} to {peak} KiB");
    }
}
