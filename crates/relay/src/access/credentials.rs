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

/// Carries the key when `Authorization` belongs to the target.
pub const BRIDGE_AUTHORIZATION: HeaderName = HeaderName::from_static("bridge-authorization");

/// Longest client id and secret that are looked at, in bytes before decoding.
const CREDENTIALS_MAX_BYTES: usize = 512;

/// The header that carries the relay's own key, which no target may see. The other one, if it is
/// there too, is the target's.
pub fn consumed_header(headers: &HeaderMap) -> Option<HeaderName> {
    [BRIDGE_AUTHORIZATION, header::AUTHORIZATION]
        .into_iter()
        .find(|name| headers.contains_key(name))
}

/// What a request presents.
#[derive(Debug)]
pub struct Credentials {
    /// The client id.
    pub client_id: String,
    /// The secret.
    pub secret: Secret,
}

impl Credentials {
    /// Reads them from a request's header.
    ///
    /// # Errors
    /// `unauthorized` when there are none or they cannot be read.
    pub fn from_headers(headers: &HeaderMap) -> Result<Self, Failure> {
        let name = consumed_header(headers).unwrap_or(header::AUTHORIZATION);
        Self::from_header(headers, &name)
    }

    /// Reads them from the header of this name.
    ///
    /// # Errors
    /// `unauthorized` when there are none or they cannot be read.
    pub fn from_header(headers: &HeaderMap, name: &HeaderName) -> Result<Self, Failure> {
        if !headers.contains_key(name) {
            return Err(unauthorized(
                "an API key is needed: client id and secret as HTTP Basic",
            ));
        }
        let mut values = headers.get_all(name).iter();
        let parsed = values.next().and_then(basic);
        // Two of them could be read differently by two readers.
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
    if !scheme.eq_ignore_ascii_case("basic") || encoded.len() > CREDENTIALS_MAX_BYTES {
        return None;
    }
    let decoded = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
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
    fn the_bridges_header_goes_first_and_leaves_the_other_to_the_target() {
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
    fn what_is_no_single_basic_credential_is_unauthorized() {
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
