//! Targets that fail, and the words that callers get.

use super::pki::{Pair, Pki};
use super::servers::{OpensslServer, Raw, raw};
use support::setup::{Endpoint, path};
use support::{Ask, TIMEOUT, TestEnv};

/// Texts of libraries and of the language, which no user can act on.
const FORBIDDEN: &[&str] = &[
    "rustls",
    "hyper",
    "webpki",
    "tungstenite",
    "os error",
    "DnsName",
    "IpAddress(",
    "Some(",
    "Error {",
    "Custom {",
    "UnknownIssuer",
    "InvalidCertificate",
    "AlertReceived",
    "PeerIncompatible",
    "invalid peer certificate",
    "received fatal alert",
    "message completed",
    "InvalidContentType",
];

fn assert_plain(name: &str, text: &str) {
    for part in FORBIDDEN {
        assert!(!text.contains(part), "{name}: {part:?} in {text}");
    }
}

pub(crate) fn assert_words(name: &str, text: &str, words: &[&str]) {
    assert_plain(name, text);
    for word in words {
        assert!(text.contains(word), "{name}: no {word:?} in {text}");
    }
}

/// One target, and what callers get.
pub(crate) struct Case {
    name: &'static str,
    pub(crate) url: String,
    pub(crate) code: &'static str,
    words: &'static [&'static str],
}

/// The targets of a test.
#[derive(Default)]
pub(crate) struct Cases {
    pub(crate) all: Vec<Case>,
    servers: Vec<OpensslServer>,
}

impl Cases {
    pub(crate) fn add(
        &mut self,
        name: &'static str,
        url: String,
        code: &'static str,
        words: &'static [&'static str],
    ) {
        self.all.push(Case {
            name,
            url,
            code,
            words,
        });
    }

    /// An `openssl s_server` whose handshake fails.
    pub(crate) async fn openssl(
        &mut self,
        name: &'static str,
        pair: &Pair,
        args: &[&str],
        words: &'static [&'static str],
    ) {
        let server = OpensslServer::start(pair, args).await;
        let url = format!("https://localhost:{}/", server.port);
        self.servers.push(server);
        self.add(name, url, "target_tls", words);
    }

    pub(crate) async fn tls(
        &mut self,
        name: &'static str,
        server: Raw,
        words: &'static [&'static str],
    ) {
        let url = format!("https://localhost:{}/", raw(server).await);
        self.add(name, url, "target_tls", words);
    }

    pub(crate) async fn http(
        &mut self,
        name: &'static str,
        server: Raw,
        code: &'static str,
        words: &'static [&'static str],
    ) {
        let url = format!("http://localhost:{}/", raw(server).await);
        self.add(name, url, code, words);
    }

    /// Starts a bridge with all targets, and compares what callers get.
    pub(crate) async fn check(self, pki: &Pki) {
        let mut builder =
            TestEnv::bare().bridge(|bridge| bridge.set("targets.health_interval", "off"));
        for case in &self.all {
            let endpoint = Endpoint::new(case.name, case.url.as_str())
                .set("ca_file", path(pki.file("root.crt")))
                .set("connect_timeout", "3s");
            builder = builder.endpoint(endpoint);
        }
        let world = builder.start().await;
        let world = &world;
        let asks = self.all.iter().map(|case| async move {
            let ask = Ask::get(format!("/v1/endpoints/{}/", case.name)).key(&world.caller);
            let answer = world.relay.internal().send(ask.within(TIMEOUT)).await;
            let detail = answer.json()["detail"]
                .as_str()
                .unwrap_or_default()
                .to_owned();
            (case, answer.code(), detail)
        });
        let mut wrong = Vec::new();
        for (case, code, detail) in futures_util::future::join_all(asks).await {
            let misses = case.words.iter().filter(|word| !detail.contains(**word));
            let bad = FORBIDDEN.iter().filter(|word| detail.contains(**word));
            let misses: Vec<_> = misses.chain(bad).collect();
            if code != case.code || !misses.is_empty() {
                wrong.push(format!(
                    "{}: {misses:?} ({code}, not {}): {detail}",
                    case.name, case.code
                ));
            }
        }
        assert!(
            wrong.is_empty(),
            "{} of {}:\n{}",
            wrong.len(),
            self.all.len(),
            wrong.join("\n")
        );
    }
}
