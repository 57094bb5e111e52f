//! The header field that carries the caller's API key for the relay.

use http::header::{self, HeaderMap, HeaderName};

/// Carries the key when `Authorization` belongs to the target.
pub(crate) const BRIDGE_AUTHORIZATION: HeaderName = HeaderName::from_static("bridge-authorization");

/// Returns the header that carries the relay's own key, which no target may see. If both are there,
/// `Authorization` is the target's.
pub(crate) fn consumed_header(headers: &HeaderMap) -> Option<HeaderName> {
    [BRIDGE_AUTHORIZATION, header::AUTHORIZATION]
        .into_iter()
        .find(|name| headers.contains_key(name))
}
