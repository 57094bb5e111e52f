//! Signatures by the Standard Webhooks specification, 1.0 (<https://www.standardwebhooks.com>). A receiver
//! verifies with any of its libraries that a delivery is authentic, complete and recent.
//!
//! ```text
//! webhook-id: call_...                 the same for every attempt: receivers drop repeats by it
//! webhook-timestamp: 1790000000        start of this attempt, in seconds
//! webhook-signature: v1,BASE64 v1,...  HMAC-SHA-256 of "id.timestamp.body", one for each secret
//! ```

use crate::storage::{NoRandom, random};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use http::header::HeaderName;
use ring::hmac;
use runtime::secret::Zeroizing;
use std::fmt;

/// Identifies the delivery.
pub(crate) const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
/// Start of this attempt.
pub(crate) const WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
/// Signature over both and the body.
pub(crate) const WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

/// Prefix of a secret's text.
const PREFIX: &str = "whsec_";

/// Length of a secret in bytes, by the specification.
const BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// A signing secret. Redacted in `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct SigningSecret(Zeroizing<Vec<u8>>);

impl fmt::Debug for SigningSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningSecret")
    }
}

impl SigningSecret {
    /// Returns a new secret of 32 random bytes.
    ///
    /// # Errors
    /// [`NoRandom`].
    pub(crate) fn random() -> Result<Self, NoRandom> {
        Ok(Self(Zeroizing::new(random::<32>()?.to_vec())))
    }

    /// Reads `whsec_` followed by base64.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let bytes = STANDARD.decode(text.strip_prefix(PREFIX)?).ok()?;
        let bytes = Zeroizing::new(bytes);
        BYTES.contains(&bytes.len()).then_some(Self(bytes))
    }

    /// Returns the secret with these bytes, from the vault.
    pub(super) fn from_bytes(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Returns the bytes, for the vault.
    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns the text that a receiver's library accepts.
    pub(crate) fn reveal(&self) -> String {
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

/// Returns the value of `webhook-signature`: one signature for each secret, newest first. While secrets are
/// rotated, a receiver with either of them accepts the delivery.
pub(crate) fn signatures(
    secrets: &[SigningSecret],
    id: &str,
    timestamp: i64,
    body: &[u8],
) -> Option<HeaderValue> {
    let all: Vec<String> = secrets
        .iter()
        .map(|secret| secret.sign(id, timestamp, body))
        .collect();
    (!all.is_empty()).then(|| HeaderValue::from_str(&all.join(" ")).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The test vector of the specification's reference libraries.
    #[test]
    fn signature_matches_the_reference_vector() {
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
    fn each_secret_has_its_signature() {
        let (new, old) = (
            SigningSecret::random().unwrap(),
            SigningSecret::random().unwrap(),
        );
        let value = signatures(&[new.clone(), old.clone()], "id", 1, b"x").unwrap();
        let expected = format!("{} {}", new.sign("id", 1, b"x"), old.sign("id", 1, b"x"));
        assert_eq!(value, expected.as_str());
        assert!(signatures(&[], "id", 1, b"x").is_none());
    }

    /// A receiver with either secret, old or new, by the specification's own library.
    #[test]
    fn reference_library_verifies_each_secret() {
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
    fn secret_is_24_to_64_bytes_of_base64() {
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
