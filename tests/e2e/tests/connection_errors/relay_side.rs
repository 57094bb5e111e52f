//! The way to the relay: `doctor`, `pair` and `run`, and what the relay logs of its clients.

use super::cases::assert_words;
use super::pki::{CA, Pki, Spec};
use super::servers::{OpensslServer, Raw, raw, tls_answers};
use serde_json::Value;
use support::setup::{Bridge, BridgeSetup, path};
use support::{TestEnv, ports};

/// The `doctor` of a bridge whose relay is at this port.
async fn doctor_of(world: &TestEnv, name: &str, port: u16, pki: &Pki) -> (Value, Bridge) {
    let setup = BridgeSetup::new(name)
        .set("relay.url", format!("https://localhost:{port}"))
        .set("relay.ca_file", path(pki.file("root.crt")));
    let bridge = Bridge::write(&world.relay, setup, world.dir());
    (bridge.doctor().await, bridge)
}

#[tokio::test]
async fn doctor_and_pair_have_one_remedy_for_each_cause() {
    let pki = Pki::new();
    let spec = Spec::default();
    let world = TestEnv::bare().start().await;
    let key = world.relay.create_key(world.tenant(), "bridge").await;
    let old = ("20200101000000Z", "20210101000000Z");
    let names = "subjectAltName=DNS:other.example";
    let authority = Spec {
        signer: None,
        subject: "Other Root",
        extensions: CA,
        ..spec
    };
    pki.make("other-root", authority);
    let pairs: [(&str, Spec<'_>, &[&str], &str); 4] = [
        (
            "expired",
            Spec {
                validity: old,
                ..spec
            },
            &["has expired"],
            "renew the certificate",
        ),
        (
            "name",
            Spec {
                extensions: names,
                ..spec
            },
            &["it is for other.example"],
            "use one of these names",
        ),
        (
            "issuer",
            Spec {
                signer: Some("other-root"),
                ..spec
            },
            &["\"Other Root\""],
            "set relay.ca_file",
        ),
        (
            "own",
            Spec {
                signer: None,
                ..spec
            },
            &["self-signed"],
            "set relay.ca_file",
        ),
    ];
    for (name, spec, words, remedy) in pairs {
        let pair = pki.make(name, spec);
        let server = OpensslServer::start(&pair, &[]).await;
        let (report, bridge) = doctor_of(&world, name, server.port, &pki).await;
        assert_failed(name, &report, "tls", words, remedy);
        let output = bridge.try_pair(&key).await.failure();
        assert_words(name, &output, words);
        assert!(
            output.contains(&remedy.replace("relay.", "")),
            "{name}: {output}"
        );
    }
    let raws: [(&str, Raw, &str, &[&str], &str); 3] = [
        (
            "plain",
            Raw::Answers(b"HTTP/1.1 400 Bad\r\n\r\n"),
            "tls",
            &["plain HTTP"],
            "HTTPS port",
        ),
        (
            "closing",
            Raw::ClosesLater,
            "tls",
            &["closed the connection"],
            "check the port",
        ),
        (
            "version",
            alert!(70),
            "tls",
            &["no accepted TLS version"],
            "enable TLS 1.2",
        ),
    ];
    for (name, server, hop, words, remedy) in raws {
        let port = raw(server).await;
        let (report, bridge) = doctor_of(&world, name, port, &pki).await;
        assert_failed(name, &report, hop, words, remedy);
        assert_words(name, &bridge.try_pair(&key).await.failure(), words);
    }
}

#[tokio::test]
async fn faulty_relay_is_not_called_a_target() {
    let world = TestEnv::bare().start().await;
    let key = world.relay.create_key(world.tenant(), "bridge").await;
    let inspection = "exempt the relay's host";
    let answers: [(&str, &[u8], &[&str], &str); 5] = [
        (
            "status",
            b"HTTP/1.1 abc Bad\r\n\r\n",
            &[
                "head of the relay's response is not valid",
                "the status line",
            ],
            "host and port of relay.url",
        ),
        (
            "field",
            b"HTTP/1.1 200 OK\r\nBad\x01Name: x\r\n\r\n",
            &[
                "head of the relay's response is not valid",
                "a header field",
            ],
            "host and port of relay.url",
        ),
        (
            "other",
            b"220 mail.example ESMTP ready\r\n",
            &["the relay's response is not HTTP/1.1"],
            inspection,
        ),
        (
            "closes",
            b"",
            &["the relay closed the connection before it responded"],
            "ask the operator of the relay",
        ),
        (
            "portal",
            b"HTTP/1.1 302 Found\r\nLocation: https://u:planted@portal.example/in?planted\r\n\
              Content-Length: 0\r\n\r\n",
            &["302", "a redirect", "(to https://portal.example)"],
            "a sign-in at its portal",
        ),
    ];
    for (name, answer, words, remedy) in answers {
        let port = tls_answers(&world.ca, answer).await;
        let url = format!("https://localhost:{port}");
        let setup = BridgeSetup::new(name).set("relay.url", url);
        let bridge = Bridge::write(&world.relay, setup, world.dir());
        let output = bridge.try_pair(&key).await.failure();
        assert_words(name, &output, &[words, &[remedy]].concat());
        let report = bridge.doctor().await;
        assert_failed(name, &report, "relay", words, remedy);
        let checks = report["checks"].to_string();
        for text in [&output, &checks] {
            assert!(
                !text.contains("target's") && !text.contains("planted"),
                "{name}: {text}"
            );
        }
    }
}

fn assert_failed(name: &str, report: &Value, hop: &str, words: &[&str], remedy: &str) {
    let checks = report["checks"].as_array().unwrap();
    let found = checks.iter().find(|check| check["hop"] == hop);
    let check = found.unwrap_or_else(|| panic!("{name}: no {hop} in {report:#}"));
    assert_eq!(check["state"], "fail", "{name}: {report:#}");
    assert_words(name, check["found"].as_str().unwrap(), words);
    assert_words(name, check["advice"].as_str().unwrap(), &[remedy]);
}

#[tokio::test]
async fn proxy_faults_have_their_own_words() {
    let world = TestEnv::bare().start().await;
    let key = world.relay.create_key(world.tenant(), "bridge").await;
    let answers: [(&str, &[u8], &[&str]); 8] = [
        (
            "basic",
            b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=x\r\n\r\n",
            &["407", "requires a user and password", "proxy_credential"],
        ),
        (
            "ntlm",
            b"HTTP/1.1 407 No\r\nProxy-Authenticate: Negotiate\r\nProxy-Authenticate: NTLM\r\n\r\n",
            &["407", "requires a user and password (it offers Negotiate, NTLM)", "proxy_credential"],
        ),
        (
            "digest",
            b"HTTP/1.1 407 No\r\nProxy-Authenticate: Digest realm=x\r\n\r\n",
            &["407", "no authentication that can be used", "it offers Digest", "proxy_auth"],
        ),
        ("forbids", b"HTTP/1.1 403 Forbidden\r\n\r\n", &["403", "does not allow connections", "allow CONNECT"]),
        ("gateway", b"HTTP/1.1 502 Bad Gateway\r\n\r\n", &["502", "could not reach that host"]),
        ("unavailable", b"HTTP/1.1 503 No\r\n\r\n", &["503", "could not reach that host", "NO_PROXY"]),
        ("page", b"<html>\r\n\r\n<h1>Login</h1></html>", &["not that of an HTTP proxy", "host and port"]),
        ("ends", b"", &["closed the connection"]),
    ];
    for (name, answer, words) in answers {
        let proxy = format!("http://127.0.0.1:{}", raw(Raw::Answers(answer)).await);
        assert_words(name, &pair_through(&world, name, &proxy, &key).await, words);
    }
    let proxy = format!("http://127.0.0.1:{}", ports::free());
    assert_words(
        "down",
        &pair_through(&world, "down", &proxy, &key).await,
        &["connection refused"],
    );
    let output = pair_through(&world, "nowhere", "http://no-such-proxy.invalid:3128", &key).await;
    assert_words("nowhere", &output, &["no-such-proxy.invalid", "DNS"]);
}

async fn pair_through(world: &TestEnv, name: &str, proxy: &str, key: &support::ApiKey) -> String {
    let setup = BridgeSetup::new(name)
        .set("relay.proxy", "env")
        .env("HTTPS_PROXY", proxy)
        .env("NO_PROXY", "");
    let bridge = Bridge::write(&world.relay, setup, world.dir());
    bridge.try_pair(key).await.failure()
}

#[tokio::test]
async fn relay_logs_a_client_that_distrusts_it() {
    let world = TestEnv::bare().start().await;
    let connector = tokio_rustls::TlsConnector::from(support::ThrowawayCa::new().client_config());
    let stream = tokio::net::TcpStream::connect(world.public.addr())
        .await
        .unwrap();
    let name = "localhost".try_into().unwrap();
    assert!(connector.connect(name, stream).await.is_err());
    let line = "the client does not accept the certificate of this relay (TLS alert ";
    let log = world.relay.process();
    log.wait_log(line, support::LONG_TIMEOUT).await;
    log.wait_log("relay.ca_file", support::LONG_TIMEOUT).await;
}
