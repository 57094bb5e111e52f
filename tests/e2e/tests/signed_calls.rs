//! Signed calls and a hostile relay: a call that the tenant's application signed is executed once, unchanged,
//! by the bridge that it was signed for.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use e2e::hostile_relay::{Came, HostileRelay, came, url};
use protocol::Code;
use protocol::frame::{BodyLength, CallAttempt, HeadersBuilder, RequestHead};
use ring::digest::{SHA256, digest};
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use support::setup::{Allow, Builder, path};
use support::{TIMEOUT, TempDir, TestEnv, eventually, let_time_pass};
use transport::Session;

const BODY: &str = "{\"n\":1}";

/// The tenant's application.
struct Application(Ed25519KeyPair);

/// A signed request, as the relay got it.
#[derive(Clone)]
struct Signed {
    url: String,
    fields: Vec<(String, String)>,
}

impl Application {
    fn new() -> Self {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Self(Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap())
    }

    fn pem(&self) -> String {
        let mut der = vec![
            0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
        ];
        der.extend_from_slice(self.0.public_key().as_ref());
        let text = STANDARD.encode(der);
        format!("-----BEGIN PUBLIC KEY-----\n{text}\n-----END PUBLIC KEY-----\n")
    }

    /// Signs a `POST` of [`BODY`] with further fields, which are covered.
    fn sign(&self, url: &str, nonce: &str, more: &[(&str, &str)]) -> Signed {
        let hash = STANDARD.encode(digest(&SHA256, BODY.as_bytes()));
        let content_digest = format!("sha-256=:{hash}:");
        let usual = [
            ("content-digest", content_digest.as_str()),
            ("bridge-name", "b1"),
            ("bridge-call", "c-1"),
        ];
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let now = now.as_secs();
        let mut names = "\"@method\" \"@target-uri\"".to_owned();
        let mut base = format!("\"@method\": POST\n\"@target-uri\": {url}\n");
        let mut fields = Vec::new();
        for (name, value) in usual.iter().chain(more) {
            names.push_str(&format!(" \"{name}\""));
            base.push_str(&format!("\"{name}\": {value}\n"));
            fields.push((name.to_string(), value.to_string()));
        }
        let input = format!(
            "({names});created={now};expires={};nonce=\"{nonce}\";alg=\"ed25519\"",
            now + 600
        );
        base.push_str(&format!("\"@signature-params\": {input}"));
        let signature = STANDARD.encode(self.0.sign(base.as_bytes()));
        fields.push(("signature-input".into(), format!("sig={input}")));
        fields.push(("signature".into(), format!("sig=:{signature}:")));
        Signed {
            url: url.to_owned(),
            fields,
        }
    }
}

impl Signed {
    /// The head of the request, with further fields.
    fn head(&self, more: &[(&str, &str)]) -> RequestHead {
        let mut headers = HeadersBuilder::default();
        let own = self
            .fields
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()));
        for (name, value) in own.chain(more.iter().copied()) {
            headers.push(name.as_bytes(), value.as_bytes()).unwrap();
        }
        RequestHead {
            headers: headers.build(),
            body: BodyLength::Known(BODY.len() as u64),
            ..url("POST", &self.url)
        }
    }
}

/// A bridge that accepts signed calls only, and a hostile relay.
struct SignedEnv {
    env: TestEnv,
    _relay: HostileRelay,
    session: Session,
    _dir: TempDir,
}

impl SignedEnv {
    async fn start(application: &Application) -> Self {
        Self::start_with(application, |builder| builder).await
    }

    /// With changes to the environment.
    async fn start_with(
        application: &Application,
        change: impl FnOnce(Builder) -> Builder,
    ) -> Self {
        let dir = TempDir::new("signed-calls");
        let file = dir.write("tenant.pem", application.pem());
        let builder = TestEnv::builder()
            .bridge(|bridge| bridge.set("signed_calls.public_key_file", path(&file)));
        let env = change(builder).start().await;
        let mut relay = HostileRelay::start(&env.ca).await;
        env.proxy().retarget(relay.addr);
        env.proxy().reset();
        let session = relay.session().await;
        let site = Self {
            env,
            _relay: relay,
            session,
            _dir: dir,
        };
        site.set_credential().await;
        site
    }

    /// Keeps the credential `ci` for the target.
    async fn set_credential(&self) {
        let secret = self.env.dir().join("secret");
        std::fs::write(&secret, "never-to-be-seen").unwrap();
        let origin = self.env.target.url("");
        let origin = origin.trim_end_matches('/');
        let secret = secret.to_str().unwrap();
        let mut set = vec!["credential", "set", "ci", "--user", "me"];
        set.extend(["--secret-file", secret, "--origin", origin]);
        self.env.bridge.cli(&set).await.success();
        self.env.bridge.cli(&["reload"]).await.success();
    }

    async fn send(&self, head: &RequestHead) -> Came {
        let body = match head.body {
            BodyLength::Known(_) => BODY.as_bytes(),
            BodyLength::None | BodyLength::Unknown => &[],
        };
        let (_send, recv) = self.session.open(head, body, true).unwrap();
        came(recv).await
    }

    async fn is_refused(&self, head: &RequestHead) -> bool {
        let before = self.env.target.requests();
        let came = self.send(head).await;
        let is_refused = came.code() == Some(Code::RefusedByPolicy);
        assert!(!is_refused || self.env.target.requests() == before);
        is_refused
    }

    async fn status(&self, head: &RequestHead) -> u16 {
        match self.send(head).await {
            Came::Answer { status, .. } => status,
            Came::Failed(failure) => panic!("{failure}"),
        }
    }
}

fn attempt(call: u8, attempt: u32) -> Option<CallAttempt> {
    Some(CallAttempt {
        call: [call; 16],
        attempt,
    })
}

#[tokio::test]
async fn relay_cannot_change_a_signed_request() {
    let application = Application::new();
    let site = SignedEnv::start(&application).await;
    let hook = site.env.target.url("/hook");
    let signed = application.sign(&hook, "nonce-number-one-", &[("x-own", "1")]);

    let mut no_body = signed.head(&[]);
    no_body.body = BodyLength::None;
    assert!(site.is_refused(&no_body).await, "without its body");
    let mut with_credential = signed.head(&[]);
    with_credential.credential = Some("ci".into());
    assert!(site.is_refused(&with_credential).await, "with a credential");
    let mut by_put = signed.head(&[]);
    by_put.method = "PUT".into();
    assert!(site.is_refused(&by_put).await, "with another method");

    let added = [
        ("authorization", "Basic Zm9yZ2VkOmZvcmdlZA=="),
        ("cookie", "a=1"),
        ("x-forwarded-user", "root"),
        ("content-type", "text/evil"),
        ("accept", "text/plain"),
    ];
    assert_eq!(site.status(&signed.head(&added)).await, 200);
    let hooks = site.env.target.hooks();
    let seen = &hooks[0].headers;
    assert_eq!(seen["x-own"], "1");
    assert_eq!(seen["accept"], "text/plain");
    for (name, _) in &added[..4] {
        assert!(!seen.contains_key(*name), "{name}");
    }
}

#[tokio::test]
async fn signed_credential_is_sent_with_its_call() {
    let application = Application::new();
    let site = SignedEnv::start(&application).await;
    let hook = site.env.target.url("/hook");
    let own = [("bridge-credential", "ci")];
    let mut head = application.sign(&hook, "nonce-number-one-", &own).head(&[]);
    assert!(site.is_refused(&head).await, "the relay has left it out");
    head.credential = Some("ci".into());
    assert_eq!(site.status(&head).await, 200);
    let hooks = site.env.target.hooks();
    let seen = &hooks[0].headers;
    assert!(seen.contains_key("authorization") && !seen.contains_key("bridge-credential"));
}

#[tokio::test]
async fn failed_response_keeps_the_nonce_used() {
    let application = Application::new();
    let site = SignedEnv::start(&application).await;
    for (status, nonce) in [(302, "nonce-number-302-"), (500, "nonce-number-500-")] {
        let failing = site.env.target.url(&format!("/status/{status}"));
        let head = application.sign(&failing, nonce, &[]).head(&[]);
        assert_eq!(site.status(&head).await, status);
        for _ in 0..3 {
            assert!(site.is_refused(&head).await);
        }
        let mut as_delivery = head.clone();
        as_delivery.call = attempt(1, 1);
        assert!(site.is_refused(&as_delivery).await);
    }
}

#[tokio::test]
async fn attempts_share_a_nonce_until_success() {
    let application = Application::new();
    let site = SignedEnv::start(&application).await;
    let failing = site.env.target.url("/status/500");
    let mut head = application
        .sign(&failing, "nonce-number-one-", &[])
        .head(&[]);
    for number in 1..=2 {
        head.call = attempt(1, number);
        assert_eq!(site.status(&head).await, 500);
    }
    for other in [None, attempt(2, 1), attempt(2, 3)] {
        head.call = other;
        assert!(site.is_refused(&head).await, "{other:?}");
    }
    let hook = site.env.target.url("/hook");
    let mut head = application.sign(&hook, "nonce-number-two-", &[]).head(&[]);
    head.call = attempt(3, 1);
    assert_eq!(site.status(&head).await, 200);
    head.call = attempt(3, 2);
    assert!(site.is_refused(&head).await);
    assert_eq!(site.env.target.hooks().len(), 1);
}

#[tokio::test]
async fn undispatched_call_keeps_its_nonce() {
    let application = Application::new();
    let site = SignedEnv::start(&application).await;
    let hook = site.env.target.url("/hook");
    let own = [("bridge-credential", "ci")];
    let mut head = application.sign(&hook, "nonce-number-one-", &own).head(&[]);
    head.credential = Some("ci".into());
    let remove = ["credential", "remove", "ci"];
    site.env.bridge.cli(&remove).await.success();
    site.env.bridge.cli(&["reload"]).await.success();
    for call in [None, attempt(1, 1)] {
        head.call = call;
        let came = site.send(&head).await;
        assert_eq!(came.code(), Some(Code::InvalidRequest), "{came:?}");
    }
    site.set_credential().await;
    assert_eq!(site.status(&head).await, 200);
}

#[tokio::test]
async fn attempt_without_journal_entry_keeps_its_nonce() {
    const ENTRIES_MAX: u8 = 100;
    let application = Application::new();
    let site = SignedEnv::start_with(&application, |builder| {
        let entries = i64::from(ENTRIES_MAX);
        builder.bridge(|bridge| bridge.set("deliveries.journal_entries_max", entries))
    })
    .await;
    let hook = site.env.target.url("/hook");
    let head = |call: u8| {
        let nonce = format!("nonce-number-{call:03}");
        let signed = application.sign(&hook, &nonce, &[]);
        RequestHead {
            call: attempt(call, 1),
            ..signed.head(&[])
        }
    };
    // The relay acknowledges nothing until the journal is full.
    for call in 0..ENTRIES_MAX {
        assert_eq!(site.status(&head(call)).await, 200);
    }
    let late = head(ENTRIES_MAX);
    for _ in 0..2 {
        let came = site.send(&late).await;
        assert_eq!(came.code(), Some(Code::Overloaded), "{came:?}");
    }
    for call in 0..ENTRIES_MAX {
        let first = attempt(call, 1).unwrap();
        assert!(site.session.ack_result(first));
    }
    eventually(
        TIMEOUT,
        "a journal that takes an entry",
        async || match site.send(&late).await {
            Came::Answer { status, .. } => {
                assert_eq!(status, 200);
                true
            }
            came @ Came::Failed(_) => {
                assert_eq!(came.code(), Some(Code::Overloaded), "{came:?}");
                false
            }
        },
    )
    .await;
    assert_eq!(site.env.target.hooks().len(), usize::from(ENTRIES_MAX) + 1);
}

#[tokio::test]
async fn new_data_directory_refuses_older_signature() {
    let application = Application::new();
    let first = SignedEnv::start(&application).await;
    let hook = first.env.target.url("/hook");
    let head = application.sign(&hook, "nonce-number-one-", &[]).head(&[]);
    assert_eq!(first.status(&head).await, 200);
    let_time_pass(
        Duration::from_secs(1),
        "a signature's time is in whole seconds",
    )
    .await;
    let port = first.env.target.port();
    let rule = Allow::loopback(port).methods(&["POST"]);
    let second = SignedEnv::start_with(&application, |builder| builder.allow(rule)).await;
    let came = second.send(&head).await;
    let Came::Failed(failure) = came else {
        panic!("{came:?}");
    };
    assert_eq!(failure.code, Code::RefusedByPolicy);
    assert!(failure.detail.contains("older"), "{}", failure.detail);
}

#[tokio::test]
async fn signature_for_another_key_is_refused() {
    let application = Application::new();
    let site = SignedEnv::start(&application).await;
    let status = site.env.bridge.status().await;
    let key = status["key"].as_str().unwrap();
    let hook = site.env.target.url("/hook");
    let wrong = application.sign(&hook, "nonce-number-one-", &[("bridge-key", "f00d")]);
    assert!(site.is_refused(&wrong.head(&[])).await);
    let right = application.sign(&hook, "nonce-number-two-", &[("bridge-key", key)]);
    assert_eq!(site.status(&right.head(&[])).await, 200);
}
