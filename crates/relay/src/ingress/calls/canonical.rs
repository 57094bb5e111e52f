//! The hash of a call, by which a repeat with the same idempotency key is known.
//!
//! It is made of what the call asks for: not of spacing, of the order of members, or of the place of the key. The
//! members are hashed while they are written, so it needs no memory of the size of a body.

use super::described::CallDocument;
use crate::storage::idempotency::RequestDigest;
use ring::digest::{Context, SHA256, digest};
use serde::Serialize;
use serde_json::{Map, Value};
use std::io;

/// The members of a call in a fixed order. One that is absent or empty is left out: a member of a later version then
/// changes no hash of a call without it.
#[derive(Serialize)]
struct CanonicalCall<'a> {
    url: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<&'a str>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    headers: &'a Map<String, Value>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    headers_base64: &'a Map<String, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body_base64: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bridge: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    credential: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout_ms: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mode: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    label: Option<&'a str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    at_least_once: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_in: Option<u32>,
}

/// Hashes what is written to it.
struct Hashing(Context);

impl io::Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl CallDocument {
    /// Returns the hash of the call, whose document is `text`.
    pub(super) fn digest(&self, text: &[u8]) -> RequestDigest {
        // Every member: a new one must not be forgotten.
        let Self {
            url,
            method,
            headers,
            headers_base64,
            body,
            body_base64,
            bridge,
            credential,
            timeout_ms,
            mode,
            idempotency_key: _,
            label,
            at_least_once,
            expires_in,
        } = self;
        let canonical = CanonicalCall {
            url,
            method: method.as_deref(),
            headers,
            headers_base64,
            body: body.as_deref(),
            body_base64: body_base64.as_deref(),
            bridge: bridge.as_deref(),
            credential: credential.as_deref(),
            timeout_ms: *timeout_ms,
            mode: mode.as_deref(),
            label: label.as_deref(),
            at_least_once: *at_least_once,
            expires_in: *expires_in,
        };
        let mut hashing = Hashing(Context::new(&SHA256));
        serde_json::to_writer(&mut hashing, &canonical)
            .expect("names and texts have a form in JSON, and a hash takes all bytes");
        RequestDigest::new(
            hashing.0.finish().as_ref().to_vec(),
            // Earlier versions hashed the document as it was sent.
            digest(&SHA256, text).as_ref().to_vec(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::document;

    fn digest_of(text: &str) -> RequestDigest {
        let call: CallDocument = document::parse(text.as_bytes()).unwrap();
        call.digest(text.as_bytes())
    }

    #[test]
    fn form_of_a_document_changes_no_digest() {
        let first = digest_of(
            r#"{"url":"http://ci/","headers":{"a":"1","b":["2","3"]},"body":"xé","timeout_ms":7}"#,
        );
        for same in [
            r#"{ "timeout_ms": 7, "body": "x\u00e9", "headers": {"b": ["2", "3"], "a": "1"},
                 "url": "http:\/\/ci\/" }"#,
            r#"{"url":"http://ci/","headers":{"a":"1","b":["2","3"]},"body":"xé","timeout_ms":7,
                "idempotency_key":"k","method":null,"headers_base64":{},"at_least_once":false}"#,
        ] {
            assert!(digest_of(same).is_of(first.stored()), "{same}");
        }
        for other in [
            r#"{"url":"http://ci/x","headers":{"a":"1","b":["2","3"]},"body":"xé","timeout_ms":7}"#,
            r#"{"url":"http://ci/","headers":{"a":"1","b":["3","2"]},"body":"xé","timeout_ms":7}"#,
            r#"{"url":"http://ci/","headers":{"a":"1","b":["2","3"]},"body":"xe","timeout_ms":7}"#,
            r#"{"url":"http://ci/","headers":{"a":"1","b":["2","3"]},"body_base64":"eA==","timeout_ms":7}"#,
            r#"{"url":"http://ci/","headers":{"a":"1","b":["2","3"]},"body":"xé"}"#,
            r#"{"url":"http://ci/","headers":{"a":"1","b":["2","3"]},"body":"xé","timeout_ms":7,"label":"l"}"#,
        ] {
            assert!(!digest_of(other).is_of(first.stored()), "{other}");
        }
    }

    #[test]
    fn digest_of_an_earlier_version_is_accepted() {
        let text = r#"{"url": "http://ci/", "idempotency_key": "k"}"#;
        let former = digest(&SHA256, text.as_bytes());
        assert!(digest_of(text).is_of(former.as_ref()));
        assert!(!digest_of(text).is_of(&[0; 32]));
        // Of a narrowed key, whose id is a part of what is stored.
        let narrowed = digest_of(text).of_client("ibk_1");
        assert!(!narrowed.is_of(former.as_ref()));
        assert!(narrowed.is_of(&[former.as_ref(), b"ibk_1"].concat()));
        assert!(narrowed.is_of(&[digest_of(text).stored(), b"ibk_1"].concat()));
    }
}
