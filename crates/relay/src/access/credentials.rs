//! The API key that a request presents: HTTP Basic, in one of two header fields.
//!
//! In `Authorization`, which the relay then consumes; or in `Bridge-Authorization`: then
//! `Authorization` belongs to the target and passes unchanged. `Bridge-Authorization` itself never
//! leaves the relay.

use crate::storage::Secret;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use protocol::{Code, Failure};

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

/// The credentials that a request presents.
#[derive(Debug)]
pub(crate) struct Credentials {
    /// The client id.
    pub client_id: String,
    /// The secret.
    pub secret: Secret,
}

impl Credentials {
    /// Reads the credentials of a request.
    ///
    /// # Errors
    /// `unauthorized` when they are missing or cannot be read.
    pub(crate) fn from_headers(headers: &HeaderMap) -> Result<Self, Failure> {
        // `Bridge-Authorization` has precedence, so that a target's `Authorization` is never mistaken for
        // ours.
        let name = consumed_header(headers).unwrap_or(header::AUTHORIZATION);
        Self::from_header(headers, &name)
    }

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
        let mut values = headers.get_all(name).iter();
        let parsed = values.next().and_then(basic);
        // Two readers could take two different fields for the key, so a repeated field is rejected.
        let (client_id, secret) = parsed.filter(|_| values.next().is_none()).ok_or_else(|| {
            unauthorized(format!(
                "the header `{name}` must hold one HTTP Basic credential: client id and secret"
            ))
        })?;
        Ok(Self {
            client_id,
            secret: Secret::presented(secret),
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

    #[test]
    fn bridge_authorization_has_precedence() {
        let own = format!("Basic {}", STANDARD.encode("id:a:b"));
        let map = headers(&[
            ("authorization", "Bearer x"),
            ("bridge-authorization", &own),
        ]);
        let read = Credentials::from_headers(&map).unwrap();
        assert_eq!(read.client_id, "id");
        assert_eq!(read.secret.reveal(), "a:b");
        assert_eq!(consumed_header(&map), Some(BRIDGE_AUTHORIZATION));
        let map = headers(&[("authorization", &own.replace("Basic", "bAsIc"))]);
        assert!(Credentials::from_headers(&map).is_ok());
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
            let failure = Credentials::from_headers(&headers(&fields)).unwrap_err();
            assert_eq!(failure.code, Code::Unauthorized, "{fields:?}");
        }
    }
}
