//! A whole relay on loopback without bridges: its own responses, and its shutdown.

use super::*;
use crate::testing::TempDir;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

struct World {
    _dir: TempDir,
    relay: RunningRelay,
}

async fn world(change: impl FnOnce(&mut Config)) -> World {
    let dir = TempDir::new("running");
    let mut config = Config::local(dir.path());
    config.listen.admin = config.listen.internal;
    change(&mut config);
    let relay = Relay::start(config).await.unwrap();
    relay.create_tenant("acme").await.unwrap();
    World { _dir: dir, relay }
}

impl World {
    async fn key(&self, role: Role) -> String {
        let made = self.relay.create_key("acme", role, "", Existing::Refuse);
        let (key, secret) = made.await.unwrap();
        let pair = format!("{}:{}", key.client_id, secret.reveal());
        format!("Authorization: Basic {}\r\n", STANDARD.encode(pair))
    }

    async fn internal(&self, line: &str, fields: &str, body: &str) -> String {
        ask(self.relay.internal_addr().unwrap(), line, fields, body).await
    }
}

/// Sends one request on a new connection and returns the whole response.
async fn ask(address: SocketAddr, line: &str, fields: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let length = body.len();
    let request = format!(
        "{line} HTTP/1.1\r\nHost: relay\r\nConnection: close\r\nContent-Length: {length}\r\n{fields}\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    response
}

fn assert_problem(response: &str, status: u16, code: &str) {
    assert!(
        response.starts_with(&format!("HTTP/1.1 {status} ")),
        "{response}"
    );
    assert!(
        response.contains(&format!("bridge-error: {code}\r\n")),
        "{response}"
    );
    assert!(response.contains("application/problem+json"), "{response}");
    assert!(
        response.contains("\"execution\":\"not_sent\""),
        "{response}"
    );
}

#[tokio::test]
async fn paths_accept_only_their_methods_and_roles() {
    let world = world(|_| {}).await;
    let caller = world.key(Role::Caller).await;
    let synchronizer = world.key(Role::Synchronizer).await;
    let bridge = world.key(Role::Bridge).await;
    let cases = [
        ("GET /nothing", "", 404, "not_found"),
        ("GET /metrics", "", 404, "not_found"),
        ("PUT /v1/calls", caller.as_str(), 405, "method_not_allowed"),
        ("GET /v1/tenants", caller.as_str(), 403, "forbidden"),
        ("GET /v1/keys?x=y", caller.as_str(), 403, "forbidden"),
        ("POST /v1/tunnel", "", 405, "method_not_allowed"),
        ("GET /v1/tunnel", "", 400, "invalid_request"),
        ("POST /healthz", "", 405, "method_not_allowed"),
        ("POST /v1/calls", "", 401, "unauthorized"),
        (
            "POST /v1/calls",
            "Authorization: Bearer x\r\n",
            401,
            "unauthorized",
        ),
        ("POST /v1/calls", synchronizer.as_str(), 403, "forbidden"),
        ("POST /v1/calls", bridge.as_str(), 403, "forbidden"),
        ("POST /v1/pair", caller.as_str(), 403, "forbidden"),
        ("POST /v1/pair", bridge.as_str(), 400, "invalid_request"),
        (
            "POST /v1/bridges/dc1/revoke",
            caller.as_str(),
            403,
            "forbidden",
        ),
        ("GET /v1/bridges/dc1", caller.as_str(), 404, "not_found"),
        ("GET /v1/bridges", bridge.as_str(), 403, "forbidden"),
        (
            "GET /v1/endpoints/alm/x",
            synchronizer.as_str(),
            503,
            "no_bridge",
        ),
        (
            "GET /v1/endpoints/",
            synchronizer.as_str(),
            404,
            "not_found",
        ),
        ("POST /v1/calls", caller.as_str(), 400, "invalid_request"),
    ];
    for (line, fields, status, code) in cases {
        let response = world.internal(line, fields, "").await;
        assert_problem(&response, status, code);
    }
    let response = world.internal("PUT /v1/calls", "", "").await;
    assert!(response.contains("allow: GET, POST\r\n"), "{response}");
    let response = world.internal("POST /v1/calls", "", "").await;
    assert!(response.contains("www-authenticate: Basic"), "{response}");
    let response = world.internal("GET /v1/bridges", &caller, "").await;
    let expected = "{\"bridges\":[],\"next_cursor\":null}\n";
    assert!(response.ends_with(expected), "{response}");
    world.relay.shutdown().await;
}

#[tokio::test]
async fn oversized_requests_get_a_problem() {
    let world = world(|config| {
        config.limits.call_request_max = crate::config::ByteSize(100);
    })
    .await;
    let caller = world.key(Role::Caller).await;
    let many = format!("{caller}{}", "X-A: 1\r\n".repeat(97));
    let response = world.internal("POST /v1/calls", &many, "").await;
    assert_problem(&response, 431, "headers_too_large");
    let long = format!("{caller}X-A: {}\r\n", "x".repeat(70 * 1024));
    let response = world.internal("POST /v1/calls", &long, "").await;
    assert_problem(&response, 431, "headers_too_large");
    let response = world
        .internal("POST /v1/calls", &caller, &"x".repeat(101))
        .await;
    assert_problem(&response, 413, "request_too_large");
    world.relay.shutdown().await;
}

#[tokio::test]
async fn failing_address_is_limited_and_valid_keys_pass() {
    let world = world(|config| config.limits.auth_failures_per_minute = 2).await;
    let caller = world.key(Role::Caller).await;
    let wrong = format!(
        "Authorization: Basic {}\r\n",
        STANDARD.encode("ibk_x:ibs_y")
    );
    for _ in 0..2 {
        let response = world.internal("GET /v1/bridges", &wrong, "").await;
        assert_problem(&response, 401, "unauthorized");
    }
    let response = world.internal("GET /v1/bridges", &wrong, "").await;
    assert_problem(&response, 429, "rate_limited");
    assert!(response.contains("retry-after: "), "{response}");
    let response = world.internal("GET /v1/bridges", &caller, "").await;
    assert!(response.starts_with("HTTP/1.1 200 "), "{response}");
    world.relay.shutdown().await;
}

#[tokio::test]
async fn new_key_of_another_process_works() {
    let world = world(|_| {}).await;
    let other = Storage::open(&world.relay.state().config.database)
        .await
        .unwrap();
    let made = other
        .create_key("acme", Role::Caller, "", Existing::Refuse)
        .await;
    let (key, secret) = made.unwrap();
    tokio::time::sleep(crate::directory::LOOKUP_INTERVAL).await;
    let pair = format!("{}:{}", key.client_id, secret.reveal());
    let field = format!("Authorization: Basic {}\r\n", STANDARD.encode(pair));
    let response = world.internal("GET /v1/bridges", &field, "").await;
    assert!(response.starts_with("HTTP/1.1 200 "), "{response}");
    world.relay.shutdown().await;
}

#[tokio::test]
async fn tunnel_without_tls_needs_a_balancer() {
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                   Sec-WebSocket-Protocol: integration-bridge.v1\r\n";
    let strict = world(|_| {}).await;
    let response = strict.internal("GET /v1/tunnel", upgrade, "").await;
    assert_problem(&response, 403, "forbidden");
    strict.relay.shutdown().await;

    let full = world(|config| {
        config.listen.behind_balancer = true;
        config.limits.unauthenticated_tunnels_max = 1;
    })
    .await;
    let address = full.relay.internal_addr().unwrap();
    let mut first = TcpStream::connect(address).await.unwrap();
    let request = format!("GET /v1/tunnel HTTP/1.1\r\nHost: relay\r\n{upgrade}\r\n");
    first.write_all(request.as_bytes()).await.unwrap();
    let mut head = [0; 12];
    first.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 101");
    // The limit is one: a second tunnel evicts the first.
    let mut second = TcpStream::connect(address).await.unwrap();
    second.write_all(request.as_bytes()).await.unwrap();
    second.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 101");
    let mut rest = Vec::new();
    let closed = tokio::time::timeout(Duration::from_secs(5), first.read_to_end(&mut rest)).await;
    assert!(closed.is_ok(), "the oldest was not evicted");
    full.relay.shutdown().await;
}

#[tokio::test]
async fn health_and_metrics_work_until_the_end() {
    let world = world(|_| {}).await;
    let admin = world.relay.admin_addr().unwrap();
    let internal = world.relay.internal_addr().unwrap();
    assert!(ask(admin, "GET /healthz", "", "").await.ends_with("ok\n"));
    assert!(
        ask(internal, "GET /readyz", "", "")
            .await
            .ends_with("ready\n")
    );
    let metrics = ask(admin, "GET /metrics", "", "").await;
    assert!(
        metrics.contains("integration_relay_sessions 0\n"),
        "{metrics}"
    );
    assert_problem(
        &ask(admin, "GET /v1/bridges", "", "").await,
        404,
        "not_found",
    );

    // A caller that is still sending keeps the relay from stopping.
    let caller = world.key(Role::Caller).await;
    let mut slow = TcpStream::connect(internal).await.unwrap();
    let head = format!("POST /v1/calls HTTP/1.1\r\nHost: r\r\nContent-Length: 2\r\n{caller}\r\n{{");
    slow.write_all(head.as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let stopping = tokio::spawn(world.relay.shutdown());
    tokio::time::sleep(Duration::from_millis(300)).await;
    let readiness = ask(admin, "GET /readyz", "", "").await;
    assert!(readiness.starts_with("HTTP/1.1 503 "), "{readiness}");
    assert!(TcpStream::connect(internal).await.is_err());
    assert!(!stopping.is_finished());
    slow.write_all(b"}").await.unwrap();
    let mut response = String::new();
    slow.read_to_string(&mut response).await.unwrap();
    assert_problem(&response, 400, "invalid_request");
    stopping.await.unwrap();
    assert!(TcpStream::connect(admin).await.is_err());
}

/// A bridge that dials the relay of this test.
struct Dialling {
    dialer: transport::dial::Dialer,
    key: Arc<ring::signature::Ed25519KeyPair>,
    seed: u8,
}

impl Dialling {
    fn new(relay: &RunningRelay, seed: u8) -> Self {
        let port = relay.public_addr().unwrap().port();
        let url = format!("https://localhost:{port}").parse().unwrap();
        let ca = relay.ca_path().unwrap().to_owned();
        let tls = transport::tls::client_config(&[ca], &[]).unwrap();
        let key = ring::signature::Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap();
        Self {
            dialer: transport::dial::Dialer::new(url, &tls, transport::dial::Proxy::Direct),
            key: Arc::new(key),
            seed,
        }
    }

    fn pairing(&self, key: &ApiKey) -> crate::storage::Pairing {
        use ring::signature::KeyPair as _;
        crate::storage::Pairing {
            endpoints: Vec::new(),
            tenant: key.tenant.clone(),
            paired_by: key.client_id.clone(),
            existing: key.existing,
            name: format!("b{}", self.seed),
            public_key: self.key.public_key().as_ref().try_into().unwrap(),
            instance: [self.seed; 16],
            host: String::new(),
            software: String::new(),
            address: String::new(),
            bridges_max: 100,
        }
    }

    /// Returns whether the relay accepts the tunnel.
    async fn dial(&self, key: &ApiKey, bridge: &str, epoch: u64) -> Result<(), String> {
        let identity = transport::handshake::Identity {
            tenant: key.tenant.as_str().to_owned(),
            bridge: bridge.to_owned(),
            instance: [self.seed; 16],
            key: self.key.clone(),
            software: String::new(),
            host: String::new(),
        };
        let introduction = transport::handshake::Introduction {
            slot: 0,
            epoch,
            serves: protocol::frame::Serves::default(),
            previous: None,
            journal: None,
        };
        let settings = transport::handle::Settings {
            windows: protocol::frame::Windows::default(),
            budget: protocol::session::Budget::new(1 << 20),
            stream_window_cap: 1 << 20,
            on_open: None,
            on_result: None,
            on_result_ack: None,
        };
        let dialled = self.dialer.tunnel(&identity, introduction, settings).await;
        dialled.map(drop).map_err(|error| error.to_string())
    }
}

/// The directory follows the database twice a second; each change here must be visible earlier.
#[tokio::test]
async fn unknown_bridge_is_looked_up_in_the_database() {
    let world = world(|_| {}).await;
    let made = world
        .relay
        .create_key("acme", Role::Bridge, "", Existing::Refuse);
    let (key, _) = made.await.unwrap();
    let other = Storage::open(&world.relay.state().config.database)
        .await
        .unwrap();
    let tenant = key.tenant.as_str().to_owned();
    for seed in 1..6 {
        let bridge = Dialling::new(&world.relay, seed);
        let pairing = bridge.pairing(&key);
        let paired = other.pair(&pairing).await.unwrap();
        let id = paired.bridge.as_str();
        bridge.dial(&key, id, 1).await.unwrap();
        other
            .set_bridge_disabled(&tenant, &pairing.name, true)
            .await
            .unwrap();
        world.relay.state().directory.refresh().await.unwrap();
        let refused = bridge.dial(&key, id, 2).await.unwrap_err();
        assert!(refused.contains("suspended"), "{refused}");
        other
            .set_bridge_disabled(&tenant, &pairing.name, false)
            .await
            .unwrap();
        bridge.dial(&key, id, 3).await.unwrap();
    }
    let stranger = Dialling::new(&world.relay, 99);
    let refused = stranger.dial(&key, "brg_nobody", 1).await.unwrap_err();
    assert!(refused.contains("the bridge is unknown"), "{refused}");
    world.relay.shutdown().await;
}
