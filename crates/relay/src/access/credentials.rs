//! The API key that a request presents: HTTP Basic, in one of two header fields.
//!
//! In `Authorization`, which the relay then consumes; or in `Bridge-Authorization`: then
//! `Authorization` belongs to the target and passes unchanged. `Bridge-Authorization` itself never
//! leaves the relay.

use crate::storage::{Secret, SecretHash};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use protocol::{Code, Failure};
use runtime::secret::Zeroizing;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use subtle::ConstantTimeEq as _;

/// Header field with the key when `Authorization` belongs to the target.
pub(crate) const BRIDGE_AUTHORIZATION: HeaderName = HeaderName::from_static("bridge-authorization");

/// Size limit of client id and secret, in bytes before decoding.
const CREDENTIALS_MAX_BYTES: usize = 512;

/// Returns the header field that carries the relay's own key, which no target may see. The other field, if
/// present, belongs to the target.
pub(crate) fn consumed_header(headers: &HeaderMap) -> Option<HeaderName> {
    [BRIDGE_AUTHORIZATION, header::AUTHORIZATION]
        .into_iter()
        .find(|name| headers.contains_key(name))
}

/// Returns the header field that has the relay's own key, if one has it.
///
/// `Bridge-Authorization` has precedence, so that a target's `Authorization` is never mistaken for ours.
pub(crate) fn key_header(headers: &HeaderMap) -> HeaderName {
    consumed_header(headers).unwrap_or(header::AUTHORIZATION)
}

/// The credentials that a request presents.
#[derive(Debug, Clone)]
pub(crate) struct Credentials {
    /// The client id.
    pub client_id: Arc<str>,
    /// The hash of the secret.
    pub hash: SecretHash,
}

/// The last field of a connection that proved a key, and what it says. Callers send the same field with every request:
/// it is then neither decoded nor hashed again. Whether the key is still valid is not remembered.
#[derive(Debug, Default)]
pub(crate) struct LastCredentials(Mutex<Option<Remembered>>);

struct Remembered {
    /// The field's value, which has the secret.
    value: Zeroizing<Vec<u8>>,
    credentials: Credentials,
}

impl std::fmt::Debug for Remembered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Remembered").finish_non_exhaustive()
    }
}

impl LastCredentials {
    /// Reads the credentials from the header field of this name.
    ///
    /// # Errors
    /// As [`Credentials::from_header`].
    pub(crate) fn read(
        &self,
        headers: &HeaderMap,
        name: &HeaderName,
    ) -> Result<Credentials, Failure> {
        if let Some(value) = only_value(headers, name)
            && let Some(last) = &*self.lock()
            && is_same(&last.value, value.as_bytes())
        {
            return Ok(last.credentials.clone());
        }
        Credentials::from_header(headers, name)
    }

    /// Remembers the field of this name, which proved a key.
    pub(crate) fn remember(
        &self,
        headers: &HeaderMap,
        name: &HeaderName,
        credentials: &Credentials,
    ) {
        let mut last = self.lock();
        let is_last =
            |last: &Remembered| Arc::ptr_eq(&last.credentials.client_id, &credentials.client_id);
        if last.as_ref().is_some_and(is_last) {
            return;
        }
        if let Some(value) = only_value(headers, name) {
            *last = Some(Remembered {
                value: Zeroizing::new(value.as_bytes().to_vec()),
                credentials: credentials.clone(),
            });
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Remembered>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Compares two values, in a time that depends on their lengths alone: several callers may share the connection of a
/// proxy. Word by word, because each comparison of the library is a barrier for the compiler.
fn is_same(one: &[u8], other: &[u8]) -> bool {
    let ((one, one_rest), (other, other_rest)) = (one.as_chunks::<8>(), other.as_chunks::<8>());
    let words = one.iter().zip(other);
    let words = words.fold(0, |differing, (one, other)| {
        differing | (u64::from_ne_bytes(*one) ^ u64::from_ne_bytes(*other))
    });
    let has_same_length = one.len() == other.len() && one_rest.len() == other_rest.len();
    has_same_length && bool::from(words.ct_eq(&0) & one_rest.ct_eq(other_rest))
}

/// Returns the value of a field that is there once.
fn only_value<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

impl Credentials {
    /// Reads the credentials from the header field of this name.
    ///
    /// # Errors
    /// `unauthorized` when they are missing or cannot be read.
    pub(crate) fn from_header(headers: &HeaderMap, name: &HeaderName) -> Result<Self, Failure> {
        if !headers.contains_key(name) {
            return Err(unauthorized(
                "an API key is required: client id and secret as HTTP Basic",
            ));
        }
        // Two readers could take two different fields for the key, so a repeated field is rejected.
        let parsed = only_value(headers, name).and_then(basic);
        let (client_id, secret) = parsed.ok_or_else(|| {
            unauthorized(format!(
                "the header `{name}` must hold one HTTP Basic credential: client id and secret"
            ))
        })?;
        Ok(Self {
            client_id: client_id.into(),
            hash: Secret::presented(secret).hash(),
        })
    }
}

fn basic(value: &HeaderValue) -> Option<(String, String)> {
    let text = value.to_str().ok()?;
    let (scheme, encoded) = text.trim().split_once(' ')?;
    // The scheme is case-insensitive (RFC 9110, 11.1).
    if !scheme.eq_ignore_ascii_case("basic") || encoded.len() > CREDENTIALS_MAX_BYTES {
        return None;
    }
    let decoded = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
    // The first colon separates: a secret may have colons, a client id may not (RFC 7617, 2).
    let (client_id, secret) = decoded.split_once(':')?;
    Some((client_id.to_owned(), secret.to_owned()))
}

fn unauthorized(detail: impl Into<String>) -> Failure {
    Failure::not_sent(Code::Unauthorized, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(*name, HeaderValue::from_str(value).unwrap());
        }
        map
    }

    fn from_headers(headers: &HeaderMap) -> Result<Credentials, Failure> {
        Credentials::from_header(headers, &key_header(headers))
    }

    #[test]
    fn remembered_field_stands_for_itself_alone() {
        let field = |text: &str| format!("Basic {}", STANDARD.encode(text));
        let first = headers(&[("authorization", &field("id:first"))]);
        let last = LastCredentials::default();
        let read = |headers: &HeaderMap| last.read(headers, &header::AUTHORIZATION);
        let known = read(&first).unwrap();
        last.remember(&first, &header::AUTHORIZATION, &known);
        let again = read(&first).unwrap();
        assert!(Arc::ptr_eq(&again.client_id, &known.client_id));
        // Another secret, a longer one, a second field, another field's name.
        for text in ["id:other", "id:firs", "id:first1", "di:first"] {
            let other = read(&headers(&[("authorization", &field(text))])).unwrap();
            assert!(!Arc::ptr_eq(&other.client_id, &known.client_id), "{text}");
            assert!(!other.hash.matches(&known.hash) || text == "di:first");
        }
        let twice = headers(&[
            ("authorization", &field("id:first")),
            ("authorization", &field("id:first")),
        ]);
        assert!(read(&twice).is_err());
        assert!(read(&headers(&[("cookie", &field("id:first"))])).is_err());
        // The latest one is remembered.
        let second = headers(&[("authorization", &field("id:second"))]);
        let other = read(&second).unwrap();
        last.remember(&second, &header::AUTHORIZATION, &other);
        let again = read(&second).unwrap();
        assert!(Arc::ptr_eq(&again.client_id, &other.client_id));
    }

    #[test]
    fn every_byte_of_a_value_counts() {
        for length in 0..40 {
            let value: Vec<u8> = (0..length).collect();
            assert!(is_same(&value, &value));
            assert!(!is_same(&value, &[&value[..], b"x"].concat()));
            for at in 0..value.len() {
                let mut other = value.clone();
                other[at] ^= 0x10;
                assert!(!is_same(&value, &other), "{at} of {length}");
                assert!(!is_same(&value, &value[..at]));
            }
        }
    }

    #[test]
    fn bridge_authorization_has_precedence() {
        let own = format!("Basic {}", STANDARD.encode("id:a:b"));
        let map = headers(&[
            ("authorization", "Bearer x"),
            ("bridge-authorization", &own),
        ]);
        let read = from_headers(&map).unwrap();
        assert_eq!(&*read.client_id, "id");
        let secret = Secret::presented("a:b".to_owned());
        assert!(read.hash.matches(&secret.hash()));
        assert_eq!(consumed_header(&map), Some(BRIDGE_AUTHORIZATION));
        let map = headers(&[("authorization", &own.replace("Basic", "bAsIc"))]);
        assert!(from_headers(&map).is_ok());
        assert_eq!(consumed_header(&map), Some(header::AUTHORIZATION));
    }

    #[test]
    fn anything_but_one_basic_credential_is_refused() {
        let good = format!("Basic {}", STANDARD.encode("id:secret"));
        let long = format!("Basic {}", STANDARD.encode("x".repeat(600)));
        let no_colon = format!("Basic {}", STANDARD.encode("id"));
        let cases = [
            vec![],
            vec![("authorization", "Bearer abc")],
            vec![("authorization", "Basic !!!")],
            vec![("authorization", "Basic")],
            vec![("authorization", no_colon.as_str())],
            vec![("authorization", long.as_str())],
            vec![
                ("authorization", good.as_str()),
                ("authorization", good.as_str()),
            ],
            vec![
                ("authorization", good.as_str()),
                ("bridge-authorization", "x"),
            ],
        ];
        for fields in cases {
            let failure = from_headers(&headers(&fields)).unwrap_err();
            assert_eq!(failure.code, Code::Unauthorized, "{fields:?}");
        }
    }
}
