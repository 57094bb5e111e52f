//! Signed calls: with the tenant's public key in the config, only what the tenant's own application has
//! signed is executed, so that even a relay in wrong hands can make nothing up.
//!
//! HTTP Message Signatures (RFC 9421) with Ed25519, in header fields that the relay carries through:
//!
//! ```text
//! Bridge-Name: berlin-dc1
//! Bridge-Call: an id of the application's own
//! Bridge-Credential: ci                                 where the call names a credential
//! Bridge-Key: the fingerprint of the bridge's key       optional, unless the config requires it
//! Content-Digest: sha-256=:...:                         RFC 9530, where there is a body
//! Signature-Input: sig=("@method" "@target-uri" "content-digest" "bridge-name" "bridge-call");
//!                  created=1; expires=2; nonce="..."; alg="ed25519"
//! Signature: sig=:...:
//! ```
//!
//! `@target-uri` is the call's URL as it was given, or `endpoint://NAME/path?query` for an endpoint. Of the
//! fields, the covered ones and [`PASSED_FIELDS`] go on to the target; the relay could add or change any
//! other.
//!
//! A nonce is good for one request. One that was provably not dispatched may come again with it. An attempt
//! of a delivery that the target answered with a failure may be followed by another attempt of the same
//! call, as its schedule has it. Nonces are known to one data directory; a signature that is older than the
//! directory's store of nonces is refused, for it may have been used before.

mod nonces;

pub(crate) use nonces::{Binding, Nonces, ReserveResult, Reserved};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use protocol::frame::Headers;
use ring::digest::{SHA256, digest};
use ring::signature::{ED25519, UnparsedPublicKey};
use sfv::{BareItem, Dictionary, FieldType as _, InnerList, Key, List, ListEntry, Parser};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Fields that are for the bridge alone, and go no further.
const OWN_FIELDS: [&str; 6] = [
    "signature",
    "signature-input",
    "bridge-name",
    "bridge-call",
    "bridge-credential",
    "bridge-key",
];

/// Fields that go on without being covered: they select a form of the response, or trace the request, or are
/// written by the relay into each delivery and carry a signature of their own.
pub(crate) const PASSED_FIELDS: [&str; 9] = [
    "accept",
    "accept-encoding",
    "accept-language",
    "user-agent",
    "traceparent",
    "tracestate",
    "webhook-id",
    "webhook-timestamp",
    "webhook-signature",
];

/// A clock may be off by so much.
const SKEW: Duration = Duration::from_secs(60);

/// Bytes of a nonce, at least and at most.
const NONCE_BYTES: std::ops::RangeInclusive<usize> = 16..=128;

/// Bytes of an Ed25519 public key as SubjectPublicKeyInfo (RFC 8410) in front of the key itself.
const SPKI_PREFIX: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];

/// A tenant's public key.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct TenantKey([u8; 32]);

impl std::fmt::Debug for TenantKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TenantKey")
    }
}

impl TenantKey {
    /// From a PEM file (`PUBLIC KEY`, as `openssl pkey -pubout` writes it).
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
        let inner = text
            .split_once("-----BEGIN PUBLIC KEY-----")
            .and_then(|(_, rest)| rest.split_once("-----END PUBLIC KEY-----"))
            .map(|(inner, _)| inner);
        let wrong = "is no Ed25519 public key in PEM; `openssl genpkey -algorithm ed25519 -out key.pem` and \
                     `openssl pkey -in key.pem -pubout` make one";
        let base64: String = inner.ok_or(wrong)?.split_whitespace().collect();
        let der = STANDARD.decode(base64).map_err(|_| wrong)?;
        let key = der.strip_prefix(&SPKI_PREFIX).ok_or(wrong)?;
        Ok(Self(key.try_into().map_err(|_| wrong)?))
    }
}

/// What is asked, as far as a signature covers it.
pub(crate) struct SignedRequest<'a> {
    pub(crate) method: &'a str,
    pub(crate) target_uri: &'a str,
    pub(crate) headers: &'a Headers,
    pub(crate) body: &'a [u8],
    /// The credential that the call names.
    pub(crate) credential: Option<&'a str>,
}

/// Whom a signature must be for.
pub(crate) struct Audience<'a> {
    /// The bridge's name.
    pub(crate) name: &'a str,
    /// The fingerprint of its key, see [`fingerprint`].
    pub(crate) key: &'a str,
    /// Whether the fingerprint must be covered.
    pub(crate) is_key_required: bool,
}

/// The fingerprint of a bridge's public key, as `Bridge-Key` has it.
pub(crate) fn fingerprint(public_key: &[u8]) -> String {
    crate::connection::hex(digest(&SHA256, public_key).as_ref())
}

/// What a good signature says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Signed {
    /// Never to be used twice.
    pub(crate) nonce: String,
    /// When it was made, and when it ends, in seconds since 1970.
    pub(crate) created: u64,
    pub(crate) expires: u64,
    /// What was signed: two requests with the same one are the same.
    pub(crate) base: [u8; 32],
    /// Names of the fields that are covered, in lower case.
    fields: Vec<String>,
}

impl Signed {
    /// Whether a field of this name, in lower case, goes on to the target.
    pub(crate) fn passes(&self, name: &str) -> bool {
        if OWN_FIELDS.contains(&name) {
            return false;
        }
        PASSED_FIELDS.contains(&name) || self.fields.iter().any(|field| field == name)
    }
}

/// Whether a request is signed by this key, for this bridge, and in time.
///
/// # Errors
/// Why not, in words that tell the caller what to mend.
pub(crate) fn verify(
    key: &TenantKey,
    audience: &Audience<'_>,
    validity_max: Duration,
    asked: &SignedRequest<'_>,
    now: SystemTime,
) -> Result<Signed, String> {
    let input = one(asked.headers, "signature-input")?;
    let inputs: Dictionary = Parser::new(&input)
        .parse()
        .map_err(|error| format!("Signature-Input is no structured field: {error}"))?;
    let signatures: Dictionary = Parser::new(&one(asked.headers, "signature")?)
        .parse()
        .map_err(|error| format!("Signature is no structured field: {error}"))?;
    let (Some((label, ListEntry::InnerList(covered))), 1) = (inputs.iter().next(), inputs.len())
    else {
        return Err("Signature-Input must have one signature".into());
    };
    let Some(ListEntry::Item(item)) = signatures.get(label) else {
        return Err("Signature has none of the label that Signature-Input has".into());
    };
    let BareItem::ByteSequence(signature) = &item.bare_item else {
        return Err("Signature is no byte sequence".into());
    };
    let names = covers_enough(covered, asked, audience)?;
    let covers = |name: &str| names.iter().any(|own| own == name);
    let times = times(covered, validity_max, now)?;
    let base = base(covered, asked)?;
    UnparsedPublicKey::new(&ED25519, key.0)
        .verify(base.as_bytes(), signature)
        .map_err(|_| {
            "the signature is not that of the tenant's key over this request".to_owned()
        })?;
    // Signed, and right: what it says must be this.
    if one(asked.headers, "bridge-name")? != audience.name {
        return Err("the request is signed for another bridge".into());
    }
    if covers("bridge-key") && one(asked.headers, "bridge-key")? != audience.key {
        return Err("the request is signed for a bridge with another key (Bridge-Key)".into());
    }
    if covers("bridge-credential")
        && asked.credential != Some(one(asked.headers, "bridge-credential")?.as_str())
    {
        return Err(
            "the request is signed for another credential than the call names (Bridge-Credential)"
                .into(),
        );
    }
    if covers("content-digest") {
        right_digest(&one(asked.headers, "content-digest")?, asked.body)?;
    }
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, base.as_bytes()).as_ref());
    Ok(Signed {
        nonce: times.nonce,
        created: times.created,
        expires: times.expires,
        base: hash,
        fields: names
            .into_iter()
            .filter(|name| !name.starts_with('@'))
            .collect(),
    })
}

/// The one field of this name.
fn one(headers: &Headers, name: &str) -> Result<String, String> {
    let mut values = headers
        .iter()
        .filter(|(own, _)| own.eq_ignore_ascii_case(name.as_bytes()))
        .map(|(_, value)| value);
    match (values.next(), values.next()) {
        (Some(value), None) => String::from_utf8(value.to_vec())
            .map(|text| text.trim().to_owned())
            .map_err(|_| format!("the field {name} is no text")),
        (None, _) => Err(format!(
            "the field {name} is missing: this bridge takes signed requests only"
        )),
        (Some(_), Some(_)) => Err(format!("the field {name} is there twice")),
    }
}

/// The names of what is covered, in lower case.
fn covers_enough(
    covered: &InnerList,
    asked: &SignedRequest<'_>,
    audience: &Audience<'_>,
) -> Result<Vec<String>, String> {
    let mut needed = vec!["@method", "@target-uri", "bridge-name", "bridge-call"];
    if !asked.body.is_empty() {
        needed.push("content-digest");
    }
    if asked.credential.is_some() {
        needed.push("bridge-credential");
    }
    if audience.is_key_required {
        needed.push("bridge-key");
    }
    let mut names: Vec<String> = Vec::new();
    for item in &covered.items {
        let BareItem::String(name) = &item.bare_item else {
            return Err("Signature-Input covers something that has no name".into());
        };
        if !item.params.is_empty() {
            return Err(format!(
                "the component {} has parameters, which are not taken here",
                name.as_str()
            ));
        }
        let name = name.as_str().to_owned();
        if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(format!("the component {name} is not in lower case"));
        }
        if names.contains(&name) {
            return Err(format!("the component {name} is covered twice"));
        }
        names.push(name);
    }
    let is_missing = |needed: &&&str| !names.iter().any(|name| name.as_str() == **needed);
    match needed.iter().find(is_missing) {
        Some(missing) => Err(format!("the signature does not cover {missing}")),
        None => Ok(names),
    }
}

/// The parameters of a signature.
struct Times {
    nonce: String,
    created: u64,
    expires: u64,
}

fn parameter<'a>(covered: &'a InnerList, name: &str) -> Option<&'a BareItem> {
    let key = Key::from_string(name.to_owned()).ok()?;
    covered.params.get(&key)
}

fn times(covered: &InnerList, validity_max: Duration, now: SystemTime) -> Result<Times, String> {
    let seconds = |name: &str| match parameter(covered, name) {
        Some(BareItem::Integer(number)) => {
            u64::try_from(i64::from(*number)).map_err(|_| format!("{name} is no time"))
        }
        _ => Err(format!("the signature has no {name}")),
    };
    let (created, expires) = (seconds("created")?, seconds("expires")?);
    if let Some(algorithm) = parameter(covered, "alg")
        && !matches!(algorithm, BareItem::String(text) if text.as_str() == "ed25519")
    {
        return Err("the signature's alg is not ed25519".into());
    }
    let nonce = match parameter(covered, "nonce") {
        Some(BareItem::String(nonce)) => nonce.as_str().to_owned(),
        _ => return Err("the signature has no nonce".into()),
    };
    if !NONCE_BYTES.contains(&nonce.len()) {
        return Err("the signature's nonce must have 16 to 128 characters".into());
    }
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    if created > now + SKEW.as_secs() {
        return Err("the signature is of the future: check the clocks".into());
    }
    if expires <= now {
        return Err("the signature has expired".into());
    }
    if expires.saturating_sub(created) > validity_max.as_secs() {
        return Err(format!(
            "the signature is valid for longer than {validity_max:?} (signed_calls.validity_max)"
        ));
    }
    Ok(Times {
        nonce,
        created,
        expires,
    })
}

/// What was signed (RFC 9421, 2.5).
fn base(covered: &InnerList, asked: &SignedRequest<'_>) -> Result<String, String> {
    let mut base = String::new();
    for item in &covered.items {
        let BareItem::String(name) = &item.bare_item else {
            continue;
        };
        let name = name.as_str();
        let value = match name {
            "@method" => asked.method.to_owned(),
            "@target-uri" => asked.target_uri.to_owned(),
            other if other.starts_with('@') => {
                return Err(format!("the component {other} is not known here"));
            }
            field => one(asked.headers, field)?,
        };
        base.push_str(&format!("\"{name}\": {value}\n"));
    }
    let list: List = vec![ListEntry::InnerList(covered.clone())];
    let parameters = list.serialize().unwrap_or_default();
    base.push_str(&format!("\"@signature-params\": {parameters}"));
    Ok(base)
}

fn right_digest(field: &str, body: &[u8]) -> Result<(), String> {
    let digests: Dictionary = Parser::new(field)
        .parse()
        .map_err(|error| format!("Content-Digest is no structured field: {error}"))?;
    let given = match digests.get("sha-256") {
        Some(ListEntry::Item(item)) => match &item.bare_item {
            BareItem::ByteSequence(bytes) => bytes.as_slice(),
            _ => return Err("Content-Digest's sha-256 is no byte sequence".into()),
        },
        _ => return Err("Content-Digest has no sha-256".into()),
    };
    if given != digest(&SHA256, body).as_ref() {
        return Err("the body is not the one that was signed".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
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
    fn any_change_of_a_signed_request_is_refused() {
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
        let mut request =
            Request::new("{}", &[("bridge-credential", "ci"), ("bridge-key", "f00d")]);
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
    fn a_covered_digest_is_checked_without_a_body() {
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
    fn a_covered_credential_is_the_one_that_is_used() {
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
    fn a_covered_bridge_key_is_the_bridges_own() {
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
}
