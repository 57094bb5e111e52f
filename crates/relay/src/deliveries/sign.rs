//! Signatures of the Standard Webhooks specification, 1.0: a receiver verifies with any library of
//! it that a delivery is from this tenant's relay, is whole, and is fresh.
//!
//! ```text
//! webhook-id: call_...                 the same on every attempt: a receiver drops repeats by it
//! webhook-timestamp: 1790000000        seconds, of this attempt
//! webhook-signature: v1,BASE64 v1,...  HMAC-SHA-256 of "id.timestamp.body", one for each secret
//! ```

use crate::storage::{NoRandom, random};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use http::header::HeaderName;
use ring::hmac;
use std::fmt;

/// Names the delivery.
pub const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
/// When this attempt was made.
pub const WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
/// Proves both and the body.
pub const WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

/// What a secret's text begins with.
const PREFIX: &str = "whsec_";

/// Bytes that a secret may have, by the specification.
const BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// A secret for signatures. Its `Debug` is silent.
#[derive(Clone, PartialEq, Eq)]
pub struct SigningSecret(Vec<u8>);

impl fmt::Debug for SigningSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningSecret")
    }
}

impl SigningSecret {
    /// A fresh one, of 32 bytes.
    ///
    /// # Errors
    /// [`NoRandom`].
    pub fn random() -> Result<Self, NoRandom> {
        Ok(Self(random::<32>()?.to_vec()))
    }

    /// Reads `whsec_` and base64.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = STANDARD.decode(text.strip_prefix(PREFIX)?).ok()?;
        BYTES.contains(&bytes.len()).then_some(Self(bytes))
    }

    /// From the vault.
    pub(super) fn from_bytes(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// For the vault.
    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// As a receiver's library takes it.
    pub fn reveal(&self) -> String {
        format!("{PREFIX}{}", STANDARD.encode(&self.0))
    }

    fn sign(&self, id: &str, timestamp: i64, body: &[u8]) -> String {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.0);
        let mut context = hmac::Context::with_key(&key);
        context.update(format!("{id}.{timestamp}.").as_bytes());
        context.update(body);
        format!("v1,{}", STANDARD.encode(context.sign()))
    }
}

/// The value of `webhook-signature`: one signature for each secret, newest first.
pub fn signatures(
    secrets: &[SigningSecret],
    id: &str,
    timestamp: i64,
    body: &[u8],
) -> Option<HeaderValue> {
    let all: Vec<String> = secrets
        .iter()
        .map(|secret| secret.sign(id, timestamp, body))
        .collect();
    // Base64, commas and spaces are fit for a header.
    (!all.is_empty()).then(|| HeaderValue::from_str(&all.join(" ")).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the specification's reference libraries.
    #[test]
    fn the_known_example_has_the_known_signature() {
        let secret = SigningSecret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let body = br#"{"test": 2432232314}"#;
        let signed = signatures(
            std::slice::from_ref(&secret),
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            body,
        );
        assert_eq!(
            signed.unwrap(),
            "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
        );
        assert_eq!(secret.reveal(), "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
        assert_eq!(format!("{secret:?}"), "SigningSecret");
    }

    #[test]
    fn while_secrets_are_rotated_there_is_a_signature_of_each() {
        let (new, old) = (
            SigningSecret::random().unwrap(),
            SigningSecret::random().unwrap(),
        );
        let value = signatures(&[new.clone(), old.clone()], "id", 1, b"x").unwrap();
        let expected = format!("{} {}", new.sign("id", 1, b"x"), old.sign("id", 1, b"x"));
        assert_eq!(value, expected.as_str());
        assert!(signatures(&[], "id", 1, b"x").is_none());
    }

    /// A receiver with either secret, old or new, and the specification's own library.
    #[test]
    fn the_reference_library_verifies_each_and_nothing_else() {
        let secrets = [
            SigningSecret::random().unwrap(),
            SigningSecret::random().unwrap(),
        ];
        let now = crate::storage::now_ms() / 1_000;
        let signature = signatures(&secrets, "call_1", now, b"body").unwrap();
        let mut headers = http::HeaderMap::new();
        headers.insert(WEBHOOK_ID, HeaderValue::from_static("call_1"));
        headers.insert(WEBHOOK_TIMESTAMP, HeaderValue::from(now));
        headers.insert(WEBHOOK_SIGNATURE, signature);
        let verify = |secret: &SigningSecret, body: &[u8], headers: &http::HeaderMap| {
            let receiver = standardwebhooks::Webhook::new(&secret.reveal()).unwrap();
            receiver.verify(body, headers).is_ok()
        };
        for secret in &secrets {
            assert!(verify(secret, b"body", &headers));
            assert!(!verify(secret, b"another body", &headers));
        }
        let stranger = SigningSecret::random().unwrap();
        assert!(!verify(&stranger, b"body", &headers));
        headers.insert(WEBHOOK_ID, HeaderValue::from_static("call_2"));
        assert!(!verify(&secrets[0], b"body", &headers));
    }

    #[test]
    fn a_secret_is_24_to_64_bytes_of_base64() {
        for text in [
            "whsec_",
            "whsec_c2hvcnQ=",
            "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "whsec_!",
        ] {
            assert!(SigningSecret::parse(text).is_none(), "{text}");
        }
    }
}
