//! What a hostile relay or bridge writes about itself forges no log line, controls no terminal, and breaks no table.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use e2e::hostile_relay::HostileRelay;
use protocol::frame::{Serves, Windows};
use protocol::opening::PairingTranscript;
use protocol::session::Budget;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde_json::{Value, json};
use std::sync::Arc;
use support::process::{command, finish};
use support::{ApiKey, Ask, LONG_TIMEOUT, TempDir, TestEnv};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use transport::dial::{Dialer, Proxy};
use transport::handle::Settings;
use transport::handshake::{Identity, Introduction};

/// A forged log line, terminal escapes of 7 and 8 bits, and changes of direction.
const HOSTILE: &str = "evil\n2026-01-01T00:00:00Z ERROR forged: all is lost\r\u{1b}[2J\u{1b}]0;x\u{7}\u{9b}31m\u{202e}\u{2066}\u{200b}\u{7f}";

/// Fails if a text has a character that a terminal obeys, or a line of the peer's making.
fn assert_plain(what: &str, text: &str) {
    for c in text.chars() {
        assert!(
            c == '\n' || c == '\t' || is_harmless(c),
            "{what} has {c:?}: {text:?}"
        );
    }
    for line in text.lines() {
        assert!(!line.starts_with("2026-01-01T"), "{what}: {text}");
    }
}

/// The same rule, written independently of the product's.
fn is_harmless(c: char) -> bool {
    !(c < ' '
        || ('\u{7f}'..='\u{9f}').contains(&c)
        || ('\u{200b}'..='\u{200f}').contains(&c)
        || ('\u{2028}'..='\u{202e}').contains(&c)
        || ('\u{2060}'..='\u{206f}').contains(&c)
        || c == '\u{feff}')
}

#[tokio::test]
async fn hostile_relay_controls_no_terminal() {
    let world = TestEnv::start().await;
    let mut relay = HostileRelay::start_named(&world.ca, HOSTILE).await;
    world.proxy().retarget(relay.addr);
    world.proxy().reset();
    let _session = relay.session().await;
    let status = support::eventually(LONG_TIMEOUT, "status names the node", async || {
        let status = world.bridge_cli(&["status"]).await.stdout;
        status.contains("node evil").then_some(status)
    })
    .await;
    assert_plain("status", &status);
    for args in [
        &["status", "--json"][..],
        &["doctor"],
        &["doctor", "--json"],
        &["reload"],
    ] {
        let output = world.bridge_cli(args).await;
        assert_plain(&args.join(" "), &output.stdout);
        assert_plain(&args.join(" "), &output.stderr);
        if args.contains(&"--json") {
            serde_json::from_str::<Value>(&output.stdout).unwrap();
        }
    }
    for line in world.bridge.process().log() {
        assert_plain("the log", &line.text);
    }
}

/// Accepts pairings over TLS, and answers each with this response.
async fn serve_pairing(world: &TestEnv, status: &str, body: &Value) -> std::net::SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let tls = world.ca.server_config(&["localhost"], &["http/1.1"]);
    let tls = tokio_rustls::TlsAcceptor::from(tls);
    let body = body.to_string();
    let response = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let Ok(mut stream) = tls.accept(tcp).await else {
                continue;
            };
            let mut request = vec![0; 64 * 1024];
            // The request of a pairing fits one record.
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(response.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    });
    addr
}

#[tokio::test]
async fn hostile_pairing_controls_no_terminal() {
    let world = TestEnv::start().await;
    let dir = TempDir::new("hostile-pairing");
    let secret = dir.join("secret");
    std::fs::write(&secret, "ibs_secret").unwrap();
    let accepted = json!({
        "tenant": HOSTILE, "tenant_id": "t", "bridge_id": "b", "name": HOSTILE,
    });
    let long = json!({
        "tenant": "x".repeat(10_000), "tenant_id": "t", "bridge_id": "b", "name": "b",
    });
    let refused = json!({"detail": format!("{HOSTILE} {}", "long ".repeat(2000))});
    for (status, body, expected) in [
        ("200 OK", accepted, "is not that of an integration relay"),
        ("200 OK", long, "is not that of an integration relay"),
        ("403 Forbidden", refused, "the relay reports: evil"),
    ] {
        let addr = serve_pairing(&world, status, &body).await;
        let mut pair = command("integration-bridge");
        pair.args(["pair", "--client-id", "ibk_1", "--client-secret-file"])
            .arg(&secret)
            .arg("--relay")
            .arg(format!("https://localhost:{}", addr.port()))
            .env("BRIDGE_CONFIG", dir.join("none.toml"))
            .env("BRIDGE_NAME", "b")
            .env("BRIDGE_DATA_DIR", dir.join("data"))
            .env("BRIDGE_RELAY_URL", "https://localhost")
            .env("BRIDGE_RELAY_CA_FILE", world.ca_file())
            .env("BRIDGE_RELAY_PROXY", "none");
        let output = finish("pair", pair, LONG_TIMEOUT).await;
        assert!(!output.status.success());
        assert_plain("pair", &output.stdout);
        assert_plain("pair", &output.stderr);
        assert!(output.stderr.contains(expected), "{}", output.stderr);
        assert!(output.stderr.len() < 4000, "{}", output.stderr);
    }
    assert!(!dir.join("data").join("identity.json").exists());
}

/// Pairs with hostile texts. Returns the identity.
async fn pair_hostile(world: &TestEnv, key: &ApiKey) -> Identity {
    let instance: [u8; 16] = transport::handshake::random().unwrap();
    let pair = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
    let transcript = PairingTranscript {
        client_id: &key.client_id,
        name: "hostile",
        public_key: pair.public_key().as_ref(),
        instance: &instance,
    };
    let document = json!({
        "name": "hostile",
        "public_key": STANDARD.encode(pair.public_key().as_ref()),
        "instance": STANDARD.encode(instance),
        "host": HOSTILE,
        "software": HOSTILE,
        "proof": STANDARD.encode(transcript.sign(&pair)),
    });
    let ask = Ask::post("/v1/pair").key(key).json(&document);
    let paired: Value = world.api.send(ask).await.expect_status(200).json();
    let field = |name: &str| paired[name].as_str().unwrap().to_owned();
    Identity {
        tenant: field("tenant_id"),
        bridge: field("bridge_id"),
        instance,
        key: Arc::new(pair),
        software: HOSTILE.to_owned(),
        host: HOSTILE.to_owned(),
    }
}

#[tokio::test]
async fn hostile_bridge_controls_no_terminal() {
    let world = TestEnv::start().await;
    let identity = pair_hostile(&world, &world.bridge_key).await;
    let url = world.public.url("").replace("127.0.0.1", "localhost");
    let url = url.trim_end_matches('/').parse().unwrap();
    let tls = transport::tls::client_config(&[world.ca_file()], &[]).unwrap();
    let dialer = Dialer::new(url, &tls, Proxy::Direct);
    let introduction = Introduction {
        slot: 0,
        epoch: 1,
        serves: Serves::default(),
        previous: None,
        journal: None,
    };
    let settings = Settings {
        windows: Windows::default(),
        budget: Budget::new(1 << 20),
        stream_window_cap: 1 << 20,
        on_open: None,
        on_result: None,
        on_result_ack: None,
    };
    // A name that the relay does not know is logged, too.
    let unknown = Identity {
        bridge: HOSTILE.to_owned(),
        key: identity.key.clone(),
        tenant: identity.tenant.clone(),
        host: HOSTILE.to_owned(),
        software: HOSTILE.to_owned(),
        instance: identity.instance,
    };
    let refused = dialer
        .tunnel(&unknown, introduction.clone(), settings.clone())
        .await;
    assert!(refused.is_err());
    let tunnel = dialer.tunnel(&identity, introduction, settings).await;
    let tunnel = tunnel.unwrap();
    // The session lives as long as its handle.
    let session = tunnel.session;
    let driver = tokio::spawn(tunnel.driver);
    let process = world.relay.process();
    process.wait_log("host=evil\\n2026", LONG_TIMEOUT).await;
    for line in process.log() {
        assert_plain("the relay's log", &line.text);
    }
    for args in [
        &["bridge", "list"][..],
        &["bridge", "list", "--json"],
        &["bridge", "endpoints"],
        &["audit", "list"],
        &["audit", "list", "--json"],
        &["tenant", "list"],
        &["key", "list"],
    ] {
        let output = world.relay_cli(args).await;
        assert_plain(&args.join(" "), &output);
    }
    let shown = world.get("/v1/bridges", &world.admin).await;
    assert!(session.is_open());
    driver.abort();
    assert!(shown.to_string().contains("hostile"), "{shown}");
    for text in texts(&shown) {
        assert!(!text.contains(['\n', '\u{1b}', '\u{202e}']), "{text:?}");
    }
}

#[tokio::test]
async fn caller_text_in_the_audit_file_is_escaped() {
    let world = TestEnv::start().await;
    let credential = "\u{202e}gnp\u{9b}2J";
    let call = json!({"url": world.target.url("/small"), "credential": credential});
    // No credential has this name.
    world.call(call).await.expect_status(400);
    let file = world.bridge_data_dir().join("audit.jsonl");
    let line = support::eventually(LONG_TIMEOUT, "a line of the call", async || {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        assert_plain("the audit file", &text);
        let mut lines = text.lines().map(str::to_owned);
        lines.find(|line| line.contains("gnp"))
    })
    .await;
    let line: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(line["credential"], "\\u202egnp\\u009b2J");
}

/// Returns all strings of a document.
fn texts(value: &Value) -> Vec<&str> {
    match value {
        Value::String(text) => vec![text],
        Value::Array(items) => items.iter().flat_map(texts).collect(),
        Value::Object(fields) => fields.values().flat_map(texts).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) => Vec::new(),
    }
}
