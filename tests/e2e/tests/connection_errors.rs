//! Connections that fail: each cause has its own words, which name what to do, and no library's.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod connection_errors {
    pub(crate) mod cases;
    pub(crate) mod pki;
    pub(crate) mod servers;
}

use connection_errors::cases::{Cases, assert_words};
use connection_errors::pki::{CA, LOCALHOST, Pki, Spec};
use connection_errors::servers::{Blackhole, OpensslServer, Raw, raw, tls_answers};
use serde_json::Value;
use support::setup::{Bridge, BridgeSetup, path};
use support::{TestEnv, ports};

/// The alert record of TLS 1.2 (RFC 5246, 7.2): fatal, with a description.
macro_rules! alert {
    ($description:literal) => {
        Raw::Answers(&[21, 3, 3, 0, 2, 2, $description])
    };
}

#[tokio::test]
async fn certificate_faults_have_their_own_words() {
    let pki = Pki::new();
    let mut cases = Cases::default();
    let spec = Spec::default();
    let www: &[&str] = &[];
    let old = ("20200101000000Z", "20210101000000Z");
    let expired = pki.make(
        "expired",
        Spec {
            validity: old,
            ..spec
        },
    );
    cases
        .openssl(
            "expired",
            &expired,
            www,
            &["has expired", "2021-01-01", "renew"],
        )
        .await;
    let future = ("20980101000000Z", "20990101000000Z");
    let future = pki.make(
        "future",
        Spec {
            validity: future,
            ..spec
        },
    );
    cases
        .openssl(
            "future",
            &future,
            www,
            &["not yet valid", "2098-01-01", "clock"],
        )
        .await;
    let names = "subjectAltName=DNS:wiki.corp.example,DNS:ci.corp.example";
    let other = pki.make(
        "other",
        Spec {
            extensions: names,
            ..spec
        },
    );
    let words = &["another name", "wiki.corp.example, ci.corp.example"];
    cases.openssl("other-name", &other, www, words).await;
    let bare = pki.make(
        "bare",
        Spec {
            extensions: "basicConstraints=CA:FALSE",
            ..spec
        },
    );
    cases
        .openssl(
            "common-name",
            &bare,
            www,
            &["subject alternative name", "\"localhost\""],
        )
        .await;
    let fine = pki.make("fine", spec);
    cases
        .openssl(
            "address",
            &fine,
            www,
            &["IP address", "it is for localhost"],
        )
        .await;
    if let Some(case) = cases.all.last_mut() {
        case.url = case.url.replace("localhost", "127.0.0.1");
    }
    let own = pki.make(
        "own",
        Spec {
            signer: None,
            subject: "My Box",
            ..spec
        },
    );
    cases
        .openssl(
            "self-signed",
            &own,
            www,
            &["self-signed", "\"My Box\"", "ca_file"],
        )
        .await;

    let authority = Spec {
        signer: None,
        subject: "Other Root",
        extensions: CA,
        ..spec
    };
    let other_root = pki.make("other-root", authority);
    let leaf = pki.make(
        "unknown",
        Spec {
            signer: Some("other-root"),
            ..spec
        },
    );
    let chain = other_root.cert.to_str().unwrap();
    let words = &["not trusted", "\"Other Root\"", "ca_file", "TLS inspection"];
    cases
        .openssl("unknown-issuer", &leaf, &["-cert_chain", chain], words)
        .await;
    let issuing = Spec {
        subject: "Issuing CA",
        extensions: CA,
        ..spec
    };
    pki.make("issuing", issuing);
    let leaf = pki.make(
        "lone",
        Spec {
            signer: Some("issuing"),
            ..spec
        },
    );
    let words = &[
        "sends no intermediate",
        "\"Issuing CA\"",
        "intermediate certificates as well",
    ];
    cases.openssl("intermediate", &leaf, www, words).await;

    let ca_leaf = format!("{CA}\nsubjectAltName=DNS:localhost");
    let ca_leaf = pki.make(
        "ca-leaf",
        Spec {
            extensions: &ca_leaf,
            ..spec
        },
    );
    cases
        .openssl(
            "ca-as-leaf",
            &ca_leaf,
            www,
            &["certificate of a CA", "CA:FALSE"],
        )
        .await;
    let rsa = ["-newkey", "rsa:1024"];
    let weak = pki.make("weak", Spec { key: &rsa, ..spec });
    let low = ["-cipher", "DEFAULT@SECLEVEL=0"];
    cases
        .openssl("rsa-1024", &weak, &low, &["too short", "1024 bits", "2048"])
        .await;
    let rsa = ["-newkey", "rsa:2048"];
    let sha1 = pki.make(
        "sha1",
        Spec {
            key: &rsa,
            digest: "sha1",
            ..spec
        },
    );
    cases
        .openssl(
            "sha-1",
            &sha1,
            &low,
            &["signature algorithm", "SHA-1", "SHA-256"],
        )
        .await;
    let client = format!("{LOCALHOST}\nextendedKeyUsage=clientAuth");
    let client = pki.make(
        "client",
        Spec {
            extensions: &client,
            ..spec
        },
    );
    cases
        .openssl(
            "purpose",
            &client,
            www,
            &["not for TLS servers", "serverAuth"],
        )
        .await;
    let critical = format!("{LOCALHOST}\n1.2.3.4.5=critical,ASN1:NULL");
    let critical = pki.make(
        "critical",
        Spec {
            extensions: &critical,
            ..spec
        },
    );
    cases
        .openssl("critical", &critical, www, &["critical extension"])
        .await;
    let limited = format!("{CA}\nnameConstraints=critical,permitted;DNS:corp.example");
    let limited = Spec {
        subject: "Corp CA",
        extensions: &limited,
        ..spec
    };
    let limited = pki.make("limited", limited);
    let leaf = pki.make(
        "outside",
        Spec {
            signer: Some("limited"),
            ..spec
        },
    );
    let chain = limited.cert.to_str().unwrap();
    cases
        .openssl(
            "constraint",
            &leaf,
            &["-cert_chain", chain],
            &["may not issue", "this name"],
        )
        .await;
    cases.check(&pki).await;
}

#[tokio::test]
async fn handshake_faults_have_their_own_words() {
    let pki = Pki::new();
    let mut cases = Cases::default();
    let spec = Spec::default();
    let rsa = ["-newkey", "rsa:2048"];
    let rsa = pki.make("rsa", Spec { key: &rsa, ..spec });
    let low = "DEFAULT@SECLEVEL=0";
    for (name, version) in [("tls-1-0", "-tls1"), ("tls-1-1", "-tls1_1")] {
        let words = &["no accepted TLS version", "enable TLS 1.2 or 1.3"];
        cases
            .openssl(name, &rsa, &[version, "-cipher", low], words)
            .await;
    }
    let ciphers = "AES128-GCM-SHA256:AES256-SHA256@SECLEVEL=0";
    let words = &[
        "no cipher suite or key exchange",
        "ECDHE-RSA-AES128-GCM-SHA256",
    ];
    cases
        .openssl(
            "rsa-exchange",
            &rsa,
            &["-tls1_2", "-cipher", ciphers],
            words,
        )
        .await;
    let ciphers = "ECDHE-RSA-AES128-SHA256:ECDHE-RSA-AES256-SHA@SECLEVEL=0";
    cases
        .openssl("cbc", &rsa, &["-tls1_2", "-cipher", ciphers], words)
        .await;
    let root = pki.file("root.crt");
    let verify = [
        "-Verify",
        "1",
        "-verify_return_error",
        "-CAfile",
        root.to_str().unwrap(),
    ];
    let words = &["requires a client certificate", "credential set"];
    let old = [&verify[..], &["-tls1_2"]].concat();
    cases.openssl("client-cert-12", &rsa, &old, words).await;
    // With TLS 1.3 the alert arrives after the handshake.
    cases
        .openssl(
            "client-cert-13",
            &rsa,
            &[&verify[..], &["-tls1_3"]].concat(),
            words,
        )
        .await;
    if let Some(case) = cases.all.last_mut() {
        case.code = "target_closed";
    }

    let words = &["plain HTTP on this port", "HTTPS port"];
    cases
        .tls(
            "plain-http",
            Raw::Answers(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"),
            words,
        )
        .await;
    cases
        .tls(
            "ssh",
            Raw::Greets(b"SSH-2.0-OpenSSH_9.2\r\n"),
            &["another protocol", "SSH server"],
        )
        .await;
    let mail = Raw::Greets(b"220 mail.example ESMTP ready\r\n");
    cases
        .tls("smtp", mail, &["another protocol", "mail or FTP"])
        .await;
    let closed = &["closed the connection during the TLS handshake"];
    cases.tls("closes-later", Raw::ClosesLater, closed).await;
    cases
        .tls("closes-at-once", Raw::Closes, &["during the TLS handshake"])
        .await;
    cases
        .tls(
            "resets",
            Raw::Resets,
            &["reset during the TLS handshake", "firewall"],
        )
        .await;
    cases
        .tls(
            "silent",
            Raw::Silent,
            &["did not respond to the TLS handshake", "for 3s", "MTU"],
        )
        .await;
    // The begin of a record that promises more.
    let begun = Raw::Stalls(&[22, 3, 3, 1, 0, 2, 0, 0]);
    cases
        .tls(
            "stalls",
            begun,
            &["stopped in the middle of the TLS handshake", "MTU"],
        )
        .await;
    cases
        .tls("sni", alert!(112), &["does not serve this host name"])
        .await;
    cases
        .tls("alpn", alert!(120), &["neither HTTP/1.1 nor HTTP/2"])
        .await;
    cases
        .tls(
            "refuses",
            alert!(40),
            &["no cipher suite", "TLS alert handshake_failure"],
        )
        .await;
    cases
        .tls(
            "internal",
            alert!(80),
            &["TLS alert internal_error", "log of the server"],
        )
        .await;
    // A certificate message that is longer than any client accepts (64 KiB).
    let huge = Raw::Stalls(&[22, 3, 3, 0, 4, 11, 0xff, 0xff, 0xff]);
    cases
        .tls(
            "huge-chain",
            huge,
            &["certificate chain of the server is too large"],
        )
        .await;
    cases.check(&pki).await;
}

#[tokio::test]
async fn network_and_http_faults_have_their_own_words() {
    let pki = Pki::new();
    let mut cases = Cases::default();
    let refused = format!("https://127.0.0.1:{}/", ports::free());
    cases.add(
        "refused",
        refused,
        "target_refused",
        &["connection refused", "server runs"],
    );
    let unknown = "https://no-such-host.invalid/".to_owned();
    cases.add(
        "unknown",
        unknown,
        "target_dns",
        &["could not be resolved", "DNS"],
    );
    let hole = Blackhole::start().await;
    let url = format!("https://{}/", hole.address);
    cases.add(
        "dropped",
        url,
        "target_refused",
        &[
            "no response to the connection attempt",
            "within 3.0 s",
            "firewall",
        ],
    );

    let tls = pki.make("fine", Spec::default());
    cases
        .openssl(
            "tls-port",
            &tls,
            &[],
            &["before it responded", "expects TLS", "https://"],
        )
        .await;
    if let Some(case) = cases.all.last_mut() {
        case.url = case.url.replace("https", "http");
        case.code = "target_closed";
    }
    let ssh = Raw::Greets(b"SSH-2.0-OpenSSH_9.2\r\n");
    cases
        .http(
            "http-ssh",
            ssh,
            "target_protocol",
            &["not HTTP/1.1", "scheme and port"],
        )
        .await;
    let words = &["not HTTP/1.1"];
    cases
        .http(
            "http-09",
            Raw::Answers(b"<html>hello</html>\n"),
            "target_protocol",
            words,
        )
        .await;
    let status = Raw::Answers(b"HTTP/1.1 abc Bad\r\n\r\n");
    cases
        .http(
            "status",
            status,
            "target_protocol",
            &["head of the target's response", "status line"],
        )
        .await;
    let length = Raw::Answers(b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n");
    cases
        .http("length", length, "target_protocol", &["Content-Length"])
        .await;
    let field = Raw::Answers(b"HTTP/1.1 200 OK\r\nBad\x01Name: x\r\n\r\n");
    cases
        .http("field", field, "target_protocol", &["a header field"])
        .await;
    let words = &["closed the connection before it responded"];
    cases
        .http("http-closes", Raw::ClosesLater, "target_closed", words)
        .await;
    let words = &["reset before the target responded"];
    cases
        .http("http-resets", Raw::Resets, "target_closed", words)
        .await;
    cases.check(&pki).await;
}

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
    let answers: [(&str, &[u8], &[&str]); 7] = [
        (
            "basic",
            b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=x\r\n\r\n",
            &["407", "requires a user and password", "proxy_credential"],
        ),
        (
            "ntlm",
            b"HTTP/1.1 407 No\r\nProxy-Authenticate: Negotiate\r\nProxy-Authenticate: NTLM\r\n\r\n",
            &["407", "NTLM or Negotiate", "allow Basic"],
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
