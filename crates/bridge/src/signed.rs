//! Signed calls: with the tenant's public key in the config, only what the tenant's own application has
//! signed is executed, so that even a relay in wrong hands can make nothing up.
//!
//! HTTP Message Signatures (RFC 9421) with Ed25519, in header fields that the relay carries through:
//!
//! ```text
//! Bridge-Name: berlin-dc1
//! Bridge-Call: an id of the application's own
//! Content-Digest: sha-256=:...:                         RFC 9530, where there is a body
//! Signature-Input: sig=("@method" "@target-uri" "content-digest" "bridge-name" "bridge-call");
//!                  created=1; expires=2; nonce="..."; alg="ed25519"
//! Signature: sig=:...:
//! ```
//!
//! `@target-uri` is the call's URL as it was given, or `endpoint://NAME/path?query` for an endpoint. A nonce
//! is good for one request that came to the target; one that provably did not, or that the target answered
//! with a failure, may be sent again with it, as deliveries are.

mod nonces;

pub(crate) use nonces::{Nonces, Use};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use protocol::frame::Headers;
use ring::digest::{SHA256, digest};
use ring::signature::{ED25519, UnparsedPublicKey};
use sfv::{BareItem, Dictionary, FieldType as _, InnerList, Key, List, ListEntry, Parser};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Fields that are for the bridge alone, and go no further.
pub(crate) const OWN_FIELDS: [&str; 4] =
    ["signature", "signature-input", "bridge-name", "bridge-call"];

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
pub(crate) struct Asked<'a> {
    pub(crate) method: &'a str,
    pub(crate) target_uri: &'a str,
    pub(crate) headers: &'a Headers,
    pub(crate) body: &'a [u8],
}

/// What a good signature says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Signed {
    /// Never to be used twice.
    pub(crate) nonce: String,
    /// When it ends, in seconds since 1970.
    pub(crate) expires: u64,
}

/// Whether a request is signed by this key, for this bridge, and in time.
///
/// # Errors
/// Why not, in words that tell the caller what to mend.
pub(crate) fn verify(
    key: &TenantKey,
    bridge: &str,
    validity_max: Duration,
    asked: &Asked<'_>,
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
    covers_enough(covered, !asked.body.is_empty())?;
    let signed = times(covered, validity_max, now)?;
    let base = base(covered, asked)?;
    UnparsedPublicKey::new(&ED25519, key.0)
        .verify(base.as_bytes(), signature)
        .map_err(|_| {
            "the signature is not that of the tenant's key over this request".to_owned()
        })?;
    // Signed, and right: what it says must be this.
    if one(asked.headers, "bridge-name")? != bridge {
        return Err("the request is signed for another bridge".into());
    }
    if !asked.body.is_empty() {
        right_digest(&one(asked.headers, "content-digest")?, asked.body)?;
    }
    Ok(signed)
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

fn covers_enough(covered: &InnerList, has_body: bool) -> Result<(), String> {
    let mut needed = vec!["@method", "@target-uri", "bridge-name", "bridge-call"];
    if has_body {
        needed.push("content-digest");
    }
    let mut names = Vec::new();
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
        if names.contains(&name.as_str()) {
            return Err(format!("the component {} is covered twice", name.as_str()));
        }
        names.push(name.as_str());
    }
    match needed.iter().find(|needed| !names.contains(needed)) {
        Some(missing) => Err(format!("the signature does not cover {missing}")),
        None => Ok(()),
    }
}

fn parameter<'a>(covered: &'a InnerList, name: &str) -> Option<&'a BareItem> {
    let key = Key::from_string(name.to_owned()).ok()?;
    covered.params.get(&key)
}

fn times(covered: &InnerList, validity_max: Duration, now: SystemTime) -> Result<Signed, String> {
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
    Ok(Signed { nonce, expires })
}

/// What was signed (RFC 9421, 2.5).
fn base(covered: &InnerList, asked: &Asked<'_>) -> Result<String, String> {
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
pub(crate) mod tests {
    use super::*;
    use protocol::frame::HeadersBuilder;
    use ring::rand::SystemRandom;
    use ring::signature::{Ed25519KeyPair, KeyPair as _};

    const NOW: u64 = 1_800_000_000;
    const URL: &str = "https://ci.corp.example/hooks/1?x=%20";

    struct Signer(Ed25519KeyPair);

    impl Signer {
        fn new() -> Self {
            let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
            Self(Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap())
        }

        fn key(&self) -> TenantKey {
            TenantKey(self.0.public_key().as_ref().try_into().unwrap())
        }

        fn sign(&self, body: &str, parameters: &str) -> Vec<(String, String)> {
            let hash = STANDARD.encode(digest(&SHA256, body.as_bytes()));
            let digest = format!("sha-256=:{hash}:");
            let covered = format!(
                "(\"@method\" \"@target-uri\" \"content-digest\" \"bridge-name\" \"bridge-call\"){parameters}"
            );
            let base = format!(
                "\"@method\": POST\n\"@target-uri\": {URL}\n\"content-digest\": {digest}\n\
                 \"bridge-name\": b1\n\"bridge-call\": call-7\n\"@signature-params\": {covered}"
            );
            let signature = STANDARD.encode(self.0.sign(base.as_bytes()));
            [
                ("Bridge-Name", "b1".to_owned()),
                ("Bridge-Call", "call-7".to_owned()),
                ("Content-Digest", digest),
                ("Signature-Input", format!("sig={covered}")),
                ("Signature", format!("sig=:{signature}:")),
            ]
            .map(|(name, value)| (name.to_owned(), value))
            .to_vec()
        }
    }

    fn parameters() -> String {
        format!(
            ";created={};expires={};nonce=\"0123456789abcdef\";alg=\"ed25519\"",
            NOW - 5,
            NOW + 60
        )
    }

    fn check(
        signer: &Signer,
        fields: &[(String, String)],
        method: &str,
        url: &str,
        body: &str,
    ) -> Result<Signed, String> {
        let mut headers = HeadersBuilder::default();
        for (name, value) in fields {
            headers.push(name.as_bytes(), value.as_bytes()).unwrap();
        }
        let headers = headers.build();
        let asked = Asked {
            method,
            target_uri: url,
            headers: &headers,
            body: body.as_bytes(),
        };
        let now = UNIX_EPOCH + Duration::from_secs(NOW);
        verify(&signer.key(), "b1", Duration::from_secs(3600), &asked, now)
    }

    #[test]
    fn what_the_tenant_signed_is_taken_and_any_change_is_not() {
        let signer = Signer::new();
        let fields = signer.sign("{}", &parameters());
        let signed = check(&signer, &fields, "POST", URL, "{}").unwrap();
        assert_eq!(
            (signed.nonce.as_str(), signed.expires),
            ("0123456789abcdef", NOW + 60)
        );
        assert!(check(&signer, &fields, "PUT", URL, "{}").is_err());
        assert!(check(&signer, &fields, "POST", "https://evil.example/", "{}").is_err());
        assert!(
            check(&signer, &fields, "POST", URL, "{\"n\":1}")
                .unwrap_err()
                .contains("body")
        );
        assert!(check(&Signer::new(), &fields, "POST", URL, "{}").is_err());
        for at in 0..fields.len() {
            let mut without = fields.clone();
            without.remove(at);
            assert!(check(&signer, &without, "POST", URL, "{}").is_err(), "{at}");
            let mut twice = fields.clone();
            twice.push(fields[at].clone());
            assert!(check(&signer, &twice, "POST", URL, "{}").is_err(), "{at}");
        }
        let mut other = fields;
        other[0].1 = "b2".to_owned();
        assert!(check(&signer, &other, "POST", URL, "{}").is_err());
    }

    #[test]
    fn times_nonce_and_algorithm_are_looked_at() {
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
            let fields = signer.sign("{}", &parameters);
            let error = check(&signer, &fields, "POST", URL, "{}").unwrap_err();
            assert!(error.contains(why), "{parameters}: {error}");
        }
    }

    #[test]
    fn a_signature_over_too_little_is_none() {
        let signer = Signer::new();
        let parameters = parameters();
        let covered = format!("(\"@method\" \"bridge-name\" \"bridge-call\"){parameters}");
        let base = format!(
            "\"@method\": POST\n\"bridge-name\": b1\n\"bridge-call\": call-7\n\"@signature-params\": {covered}"
        );
        let signature = STANDARD.encode(signer.0.sign(base.as_bytes()));
        let mut fields = signer.sign("{}", &parameters);
        fields[3].1 = format!("sig={covered}");
        fields[4].1 = format!("sig=:{signature}:");
        let error = check(&signer, &fields, "POST", URL, "{}").unwrap_err();
        assert!(error.contains("@target-uri"), "{error}");
    }
}
