//! Signed calls: with the tenant's public key in the config, the bridge executes only requests that the tenant's
//! own application signed. Even a compromised relay can then forge none.
//!
//! HTTP Message Signatures (RFC 9421) with Ed25519, in header fields that the relay forwards:
//!
//! ```text
//! Bridge-Name: berlin-dc1
//! Bridge-Call: an id that the application chooses
//! Bridge-Credential: ci                                 where the call names a credential
//! Bridge-Key: the fingerprint of the bridge's key       optional, unless the config requires it
//! Content-Digest: sha-256=:...:                         RFC 9530, where there is a body
//! Signature-Input: sig=("@method" "@target-uri" "content-digest" "bridge-name" "bridge-call");
//!                  created=1; expires=2; nonce="..."; alg="ed25519"
//! Signature: sig=:...:
//! ```
//!
//! `@target-uri` is the call's URL as the caller wrote it, or `endpoint://NAME/path?query` for an endpoint. Only
//! the covered fields and [`PASSED_FIELDS`] go to the target: the relay could add or change any other.
//!
//! A nonce is valid for one request. A request that was provably not dispatched may be retried with it. After a
//! response that is a failure, a delivery may make its next attempt with the same nonce. Nonces are stored in one
//! data directory. A signature that is older than that store is rejected: it may have been used before.

mod nonces;

pub(crate) use nonces::{Binding, Nonces, ReserveResult, Reserved};

use protocol::frame::Headers;
use ring::digest::{SHA256, digest};
use ring::signature::{ED25519, UnparsedPublicKey};
use runtime::pem;
use sfv::{BareItem, Dictionary, FieldType as _, InnerList, Key, List, ListEntry, Parser};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Fields for the bridge alone. They are not sent to the target.
const OWN_FIELDS: [&str; 6] = [
    "signature",
    "signature-input",
    "bridge-name",
    "bridge-call",
    "bridge-credential",
    "bridge-key",
];

/// Fields that go to the target without being covered. They select a form of the response, trace the request, or
/// are written by the relay into each delivery with a signature of their own.
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

/// Difference between clocks that is tolerated.
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
    /// Reads a file with a public key (`PUBLIC KEY`, as `openssl pkey -pubout` writes it).
    ///
    /// # Errors
    /// What is wrong with the file.
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let wrong = "is not an Ed25519 public key; `openssl genpkey -algorithm ed25519 -out key.pem` and \
                     `openssl pkey -in key.pem -pubout` make one";
        let bytes = pem::read_file(path).map_err(|error| error.detail())?;
        let der = pem::public_key_in(&bytes)?;
        let key = der.strip_prefix(&SPKI_PREFIX).ok_or(wrong)?;
        Ok(Self(key.try_into().map_err(|_| wrong)?))
    }
}

/// A request, as far as a signature can cover it.
pub(crate) struct SignedRequest<'a> {
    pub(crate) method: &'a str,
    pub(crate) target_uri: &'a str,
    pub(crate) headers: &'a Headers,
    pub(crate) body: &'a [u8],
    /// The credential that the call names.
    pub(crate) credential: Option<&'a str>,
}

/// The bridge that a signature must be for.
pub(crate) struct Audience<'a> {
    /// The bridge's name.
    pub(crate) name: &'a str,
    /// The fingerprint of its key, see [`fingerprint`].
    pub(crate) key: &'a str,
    /// Whether the fingerprint must be covered.
    pub(crate) is_key_required: bool,
}

/// Returns the fingerprint of a bridge's public key, as `Bridge-Key` has it.
pub(crate) fn fingerprint(public_key: &[u8]) -> String {
    crate::text::hex(digest(&SHA256, public_key).as_ref())
}

/// The content of a valid signature.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Signed {
    /// Must not be used twice.
    pub(crate) nonce: String,
    /// When it was created, and when it expires, in seconds since 1970.
    pub(crate) created: u64,
    pub(crate) expires: u64,
    /// Hash of the signature base: two requests with the same one are the same.
    pub(crate) base: [u8; 32],
    /// Names of the fields that are covered, in lower case.
    fields: Vec<String>,
}

impl Signed {
    /// Returns whether a field of this name, in lower case, goes to the target.
    pub(crate) fn passes(&self, name: &str) -> bool {
        // The target has no use for them, and could pass the signature on.
        if OWN_FIELDS.contains(&name) {
            return false;
        }
        PASSED_FIELDS.contains(&name) || self.fields.iter().any(|field| field == name)
    }
}

/// Verifies that a request is signed by this key, for this bridge, and has not expired.
///
/// # Errors
/// Why not, with what the caller can do.
pub(crate) fn verify(
    key: &TenantKey,
    audience: &Audience<'_>,
    validity_max: Duration,
    request: &SignedRequest<'_>,
    now: SystemTime,
) -> Result<Signed, String> {
    let input = one(request.headers, "signature-input")?;
    let inputs: Dictionary = Parser::new(&input)
        .parse()
        .map_err(|error| format!("Signature-Input is not a structured field: {error}"))?;
    let signatures: Dictionary = Parser::new(&one(request.headers, "signature")?)
        .parse()
        .map_err(|error| format!("Signature is not a structured field: {error}"))?;
    let (Some((label, ListEntry::InnerList(covered))), 1) = (inputs.iter().next(), inputs.len())
    else {
        return Err("Signature-Input must have one signature".into());
    };
    let Some(ListEntry::Item(item)) = signatures.get(label) else {
        return Err("Signature has no entry with the label of Signature-Input".into());
    };
    let BareItem::ByteSequence(signature) = &item.bare_item else {
        return Err("Signature is not a byte sequence".into());
    };
    // Before the signature itself: what a signature does not cover, it does not prove.
    let names = covered_names(covered, request, audience)?;
    let covers = |name: &str| names.iter().any(|own| own == name);
    let times = times(covered, validity_max, now)?;
    let base = signature_base(covered, request)?;
    UnparsedPublicKey::new(&ED25519, key.0)
        .verify(base.as_bytes(), signature)
        .map_err(|_| {
            "the signature is not that of the tenant's key over this request".to_owned()
        })?;
    // From here on, the signed fields are authentic. They must be for this bridge and this request.
    if one(request.headers, "bridge-name")? != audience.name {
        return Err("the request is signed for another bridge".into());
    }
    if covers("bridge-key") && one(request.headers, "bridge-key")? != audience.key {
        return Err("the request is signed for a bridge with another key (Bridge-Key)".into());
    }
    if covers("bridge-credential")
        && request.credential != Some(one(request.headers, "bridge-credential")?.as_str())
    {
        return Err(
            "the request is signed for another credential than the call names (Bridge-Credential)"
                .into(),
        );
    }
    if covers("content-digest") {
        verify_digest(&one(request.headers, "content-digest")?, request.body)?;
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

/// Returns the value of a field that must be there once. With two, bridge and target could read different
/// ones.
fn one(headers: &Headers, name: &str) -> Result<String, String> {
    let mut values = headers
        .iter()
        .filter(|(own, _)| own.eq_ignore_ascii_case(name.as_bytes()))
        .map(|(_, value)| value);
    match (values.next(), values.next()) {
        (Some(value), None) => String::from_utf8(value.to_vec())
            .map(|text| text.trim().to_owned())
            .map_err(|_| format!("the field {name} is not text")),
        (None, _) => Err(format!(
            "the field {name} is missing: this bridge accepts signed requests only"
        )),
        (Some(_), Some(_)) => Err(format!("the field {name} is repeated")),
    }
}

/// Returns the names of the covered components, in lower case, if all required ones are covered.
fn covered_names(
    covered: &InnerList,
    request: &SignedRequest<'_>,
    audience: &Audience<'_>,
) -> Result<Vec<String>, String> {
    let mut needed = vec!["@method", "@target-uri", "bridge-name", "bridge-call"];
    if !request.body.is_empty() {
        needed.push("content-digest");
    }
    if request.credential.is_some() {
        needed.push("bridge-credential");
    }
    if audience.is_key_required {
        needed.push("bridge-key");
    }
    let mut names: Vec<String> = Vec::new();
    for item in &covered.items {
        let BareItem::String(name) = &item.bare_item else {
            return Err("Signature-Input covers a component without a name".into());
        };
        // Parameters like `;sf` or `;key` change what a component means (RFC 9421, 2.1).
        if !item.params.is_empty() {
            return Err(format!(
                "the component {} has parameters, which are not supported",
                name.as_str()
            ));
        }
        let name = name.as_str().to_owned();
        if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(format!("the component {name} is not in lower case"));
        }
        // A repeated component is not valid (RFC 9421, 2.5), and parsers differ in what they do with it.
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
            u64::try_from(i64::from(*number)).map_err(|_| format!("{name} is not a time"))
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
    // A signature from the future would be valid for longer than `validity_max` allows.
    if created > now + SKEW.as_secs() {
        return Err("the signature was created in the future; check the clocks".into());
    }
    // Without skew: the nonce is removed at this second, and a later request could reuse it.
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

/// Builds the signature base (RFC 9421, 2.5).
fn signature_base(covered: &InnerList, request: &SignedRequest<'_>) -> Result<String, String> {
    let mut base = String::new();
    for item in &covered.items {
        let BareItem::String(name) = &item.bare_item else {
            continue;
        };
        let name = name.as_str();
        let value = match name {
            "@method" => request.method.to_owned(),
            "@target-uri" => request.target_uri.to_owned(),
            other if other.starts_with('@') => {
                return Err(format!("the component {other} is not supported"));
            }
            field => one(request.headers, field)?,
        };
        base.push_str(&format!("\"{name}\": {value}\n"));
    }
    let list: List = vec![ListEntry::InnerList(covered.clone())];
    // Serialised again, as the RFC requires: another spelling of the same list has the same base.
    let parameters = list.serialize().unwrap_or_default();
    base.push_str(&format!("\"@signature-params\": {parameters}"));
    Ok(base)
}

fn verify_digest(field: &str, body: &[u8]) -> Result<(), String> {
    let digests: Dictionary = Parser::new(field)
        .parse()
        .map_err(|error| format!("Content-Digest is not a structured field: {error}"))?;
    let given = match digests.get("sha-256") {
        Some(ListEntry::Item(item)) => match &item.bare_item {
            BareItem::ByteSequence(bytes) => bytes.as_slice(),
            _ => return Err("Content-Digest's sha-256 is not a byte sequence".into()),
        },
        _ => return Err("Content-Digest has no sha-256".into()),
    };
    if given != digest(&SHA256, body).as_ref() {
        return Err("the body is not the one that was signed".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests;
