//! Rewrites redirects and cookies of responses, for clients that browse through a named endpoint.
//!
//! ```text
//! the target writes   Location: https://alm:8443/qcbin/start?x#y    Set-Cookie: sid=1; Path=/qcbin; Domain=alm
//! the caller reads    Location: /v1/endpoints/alm/start?x#y         Set-Cookie: sid=1; Path=/v1/endpoints/alm/
//! ```
//!
//! This is the inverse of [`policy::Policy::decide_endpoint`]: the rewritten URL leads through the same endpoint
//! to exactly the URL of the target. A URL that no path of the endpoint leads to is not changed. Nothing is
//! rewritten unless the endpoint's entry asks for it, and bodies are never read.

mod cookie;
mod location;

use crate::config::Rewrite;
use http::header::{self, HeaderMap, HeaderValue};
use policy::Endpoint;

/// The relay's path of the endpoints. A name follows.
const ENDPOINTS: &[u8] = b"/v1/endpoints/";

impl Rewrite {
    /// Rewrites the fields of a response from this endpoint, in place and in their order. `path_and_query` is
    /// the part of the request's path after the endpoint's name.
    pub(crate) fn apply(&self, headers: &mut HeaderMap, endpoint: &Endpoint, path_and_query: &str) {
        let is_in_folder = path_and_query.starts_with('/');
        for (name, value) in headers {
            let is_location = *name == header::LOCATION || *name == header::CONTENT_LOCATION;
            let rewritten = if is_location && self.location {
                location::at_endpoint(value.as_bytes(), endpoint, is_in_folder)
            } else if *name == header::SET_COOKIE && self.cookies {
                cookie::at_endpoint(value.as_bytes(), endpoint, is_in_folder)
            } else {
                None
            };
            // A value that is not valid any more is passed on as the target wrote it.
            if let Some(Ok(rewritten)) = rewritten.map(HeaderValue::try_from) {
                *value = rewritten;
            }
        }
    }
}

/// Returns the relay's path for `rest` of an endpoint.
fn path_of(endpoint: &Endpoint, rest: &[u8]) -> Vec<u8> {
    [ENDPOINTS, endpoint.name.as_bytes(), rest].concat()
}

/// Returns what a caller appends to the endpoint's name to reach this path of the target: empty, or beginning with
/// `/`. `None` where no request reaches the path.
///
/// A base `/qcbin/` covers `/qcbin/` and all paths below it; no caller reaches `/qcbin`. A base `/qcbin` covers
/// both, and not `/qcbin2`.
fn below<'a>(base: &str, path: &'a [u8]) -> Option<&'a [u8]> {
    let folder = base.strip_suffix('/').unwrap_or(base);
    let rest = path.strip_prefix(folder.as_bytes())?;
    let is_base = rest.is_empty() && folder == base;
    (is_base || rest.starts_with(b"/")).then_some(rest)
}

#[cfg(test)]
mod tests;
