//! Signatures that are accepted, and changes that a relay could make.

use super::*;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use protocol::frame::HeadersBuilder;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair as _};

const NOW: u64 = 1_800_000_000;
const URL: &str = "https://ci.corp.example/hooks/1?x=%20";
const COVERED: &[&str] = &[
    "@method",
    "@target-uri",
    "content-digest",
    "bridge-name",
    "bridge-call",
];

struct Signer(Ed25519KeyPair);

/// A request, as the relay sends it to the bridge.
#[derive(Clone)]
struct Request {
    method: String,
    url: String,
    fields: Vec<(String, String)>,
    body: String,
    credential: Option<String>,
    is_key_required: bool,
}

/// What a relay does to a request.
type Change = fn(&mut Request);

impl Request {
    /// A `POST` with these fields besides the usual ones.
    fn new(body: &str, more: &[(&str, &str)]) -> Self {
        let hash = STANDARD.encode(digest(&SHA256, body.as_bytes()));
        let usual = [
            ("bridge-name", "b1".to_owned()),
            ("bridge-call", "call-7".to_owned()),
            ("content-digest", format!("sha-256=:{hash}:")),
        ];
        let usual = usual.map(|(name, value)| (name.to_owned(), value));
        let more = more
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_string()));
        Self {
            method: "POST".into(),
            url: URL.into(),
            fields: usual.into_iter().chain(more).collect(),
            body: body.into(),
            credential: None,
            is_key_required: false,
        }
    }

    /// Changes a field, or adds it.
    fn set(&mut self, name: &str, value: &str) {
        self.fields.retain(|(own, _)| own != name);
        self.fields.push((name.into(), value.into()));
    }

    fn remove(&mut self, name: &str) {
        self.fields.retain(|(own, _)| own != name);
    }
}

impl Signer {
    fn new() -> Self {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Self(Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap())
    }

    fn key(&self) -> TenantKey {
        TenantKey(self.0.public_key().as_ref().try_into().unwrap())
    }

    /// Signs these components of a request.
    fn sign(&self, request: &Request, covered: &[&str], parameters: &str) -> Request {
        let list: Vec<String> = covered.iter().map(|name| format!("\"{name}\"")).collect();
        let list = format!("({}){parameters}", list.join(" "));
        let mut base = String::new();
        for name in covered {
            let value = match *name {
                "@method" => &request.method,
                "@target-uri" => &request.url,
                field => {
                    let mut fields = request.fields.iter();
                    &fields.find(|(own, _)| own == field).unwrap().1
                }
            };
            base.push_str(&format!("\"{name}\": {value}\n"));
        }
        base.push_str(&format!("\"@signature-params\": {list}"));
        let signature = STANDARD.encode(self.0.sign(base.as_bytes()));
        let mut signed = request.clone();
        signed.set("signature-input", &format!("sig={list}"));
        signed.set("signature", &format!("sig=:{signature}:"));
        signed
    }

    fn check(&self, request: &Request) -> Result<Signed, String> {
        let mut headers = HeadersBuilder::default();
        for (name, value) in &request.fields {
            headers.push(name.as_bytes(), value.as_bytes()).unwrap();
        }
        let headers = headers.build();
        let asked = SignedRequest {
            method: &request.method,
            target_uri: &request.url,
            headers: &headers,
            body: request.body.as_bytes(),
            credential: request.credential.as_deref(),
        };
        let audience = Audience {
            name: "b1",
            key: "f00d",
            is_key_required: request.is_key_required,
        };
        let now = UNIX_EPOCH + Duration::from_secs(NOW);
        let validity_max = Duration::from_secs(3600);
        verify(&self.key(), &audience, validity_max, &asked, now)
    }
}

fn parameters() -> String {
    format!(
        ";created={};expires={};nonce=\"0123456789abcdef\";alg=\"ed25519\"",
        NOW - 5,
        NOW + 60
    )
}

#[test]
fn changed_signed_request_is_rejected() {
    let signer = Signer::new();
    let request = Request::new("{}", &[("content-type", "application/json")]);
    let covered: Vec<&str> = [COVERED, &["content-type"]].concat();
    let request = signer.sign(&request, &covered, &parameters());
    let signed = signer.check(&request).unwrap();
    assert_eq!((signed.created, signed.expires), (NOW - 5, NOW + 60));
    assert!(Signer::new().check(&request).is_err());
    let changes: [(&str, Change); 14] = [
        ("method", |request| request.method = "PUT".into()),
        ("url", |request| {
            request.url = "https://evil.example/".into();
        }),
        ("query", |request| request.url.push('1')),
        ("body", |request| request.body = "{\"n\":1}".into()),
        ("no body", |request| request.body = String::new()),
        ("type", |request| request.set("content-type", "text/plain")),
        ("no type", |request| request.remove("content-type")),
        ("two types", |request| {
            let more = ("Content-Type".to_owned(), "text/plain".to_owned());
            request.fields.push(more);
        }),
        ("bridge", |request| request.set("bridge-name", "b2")),
        ("call", |request| request.set("bridge-call", "call-8")),
        ("digest", |request| request.remove("content-digest")),
        ("signature", |request| request.remove("signature")),
        ("input", |request| request.remove("signature-input")),
        ("credential", |request| {
            request.credential = Some("ci".into());
        }),
    ];
    for (name, change) in changes {
        let mut changed = request.clone();
        change(&mut changed);
        assert!(signer.check(&changed).is_err(), "{name}");
    }
}

#[test]
fn every_required_component_must_be_covered() {
    let signer = Signer::new();
    let mut request = Request::new("{}", &[("bridge-credential", "ci"), ("bridge-key", "f00d")]);
    request.credential = Some("ci".into());
    request.is_key_required = true;
    let all: Vec<&str> = [COVERED, &["bridge-credential", "bridge-key"]].concat();
    let signed = signer.sign(&request, &all, &parameters());
    signer.check(&signed).unwrap();
    for left_out in &all {
        let covered: Vec<&str> = all
            .iter()
            .filter(|name| name != &left_out)
            .copied()
            .collect();
        let signed = signer.sign(&request, &covered, &parameters());
        let error = signer.check(&signed).unwrap_err();
        assert!(error.contains(left_out), "{left_out}: {error}");
    }
}

#[test]
fn covered_digest_is_verified_without_a_body() {
    let signer = Signer::new();
    let signed = signer.sign(&Request::new("", &[]), COVERED, &parameters());
    signer.check(&signed).unwrap();
    // The relay has removed the body of a request that was signed with one.
    let mut without = signer.sign(&Request::new("{}", &[]), COVERED, &parameters());
    without.body = String::new();
    assert!(signer.check(&without).unwrap_err().contains("body"));
    // Where no digest is covered, the relay cannot add a body.
    let covered: Vec<&str> = COVERED
        .iter()
        .filter(|name| **name != "content-digest")
        .copied()
        .collect();
    let mut bare = signer.sign(&Request::new("", &[]), &covered, &parameters());
    signer.check(&bare).unwrap();
    bare.body = "{}".into();
    assert!(signer.check(&bare).unwrap_err().contains("content-digest"));
}

#[test]
fn covered_credential_must_be_the_named_one() {
    let signer = Signer::new();
    let request = Request::new("{}", &[("bridge-credential", "ci")]);
    let covered: Vec<&str> = [COVERED, &["bridge-credential"]].concat();
    let mut signed = signer.sign(&request, &covered, &parameters());
    assert!(signer.check(&signed).is_err(), "the relay has removed it");
    signed.credential = Some("root".into());
    assert!(signer.check(&signed).is_err(), "the relay has changed it");
    signed.credential = Some("ci".into());
    signer.check(&signed).unwrap();
}

#[test]
fn covered_bridge_key_must_be_the_bridges_own() {
    let signer = Signer::new();
    let covered: Vec<&str> = [COVERED, &["bridge-key"]].concat();
    for (key, is_good) in [("f00d", true), ("beef", false)] {
        let request = Request::new("{}", &[("bridge-key", key)]);
        let signed = signer.sign(&request, &covered, &parameters());
        assert_eq!(signer.check(&signed).is_ok(), is_good, "{key}");
    }
}

#[test]
fn only_covered_and_listed_fields_pass() {
    let signer = Signer::new();
    let covered: Vec<&str> = [COVERED, &["content-type", "x-own"]].concat();
    let request = Request::new("{}", &[("content-type", "text/plain"), ("x-own", "1")]);
    let signed = signer.sign(&request, &covered, &parameters());
    let signed = signer.check(&signed).unwrap();
    for name in ["content-type", "x-own", "content-digest"] {
        assert!(signed.passes(name), "{name}");
    }
    assert!(PASSED_FIELDS.iter().all(|name| signed.passes(name)));
    for name in [
        "authorization",
        "cookie",
        "x-other",
        "if-match",
        "content-encoding",
        "x-http-method-override",
        "forwarded",
        "signature",
        "bridge-name",
        "bridge-call",
    ] {
        assert!(!signed.passes(name), "{name}");
    }
}

#[test]
fn times_nonce_and_algorithm_are_checked() {
    let signer = Signer::new();
    let nonce = "nonce=\"0123456789abcdef\"";
    for (parameters, why) in [
        (
            format!(";created={};expires={};{nonce}", NOW - 90, NOW - 1),
            "expired",
        ),
        (
            format!(";created={};expires={};{nonce}", NOW + 120, NOW + 180),
            "future",
        ),
        (
            format!(";created={};expires={};{nonce}", NOW, NOW + 7200),
            "longer",
        ),
        (format!(";expires={};{nonce}", NOW + 60), "created"),
        (format!(";created={NOW};{nonce}"), "expires"),
        (format!(";created={};expires={}", NOW, NOW + 60), "nonce"),
        (
            format!(";created={};expires={};nonce=\"short\"", NOW, NOW + 60),
            "16",
        ),
        (
            format!(
                ";created={};expires={};{nonce};alg=\"rsa-v1_5-sha256\"",
                NOW,
                NOW + 60
            ),
            "alg",
        ),
    ] {
        let request = signer.sign(&Request::new("{}", &[]), COVERED, &parameters);
        let error = signer.check(&request).unwrap_err();
        assert!(error.contains(why), "{parameters}: {error}");
    }
}
