//! Where an answer leads, and where its cookies belong, for clients that browse through a named endpoint.
//!
//! ```text
//! the target writes   Location: https://alm:8443/qcbin/start?x#y    Set-Cookie: sid=1; Path=/qcbin; Domain=alm
//! the caller reads    Location: /v1/endpoints/alm/start?x#y         Set-Cookie: sid=1; Path=/v1/endpoints/alm/
//! ```
//!
//! This is the way of [`policy::Policy::decide_endpoint`] back: what is written leads through the same
//! endpoint to exactly the place that the target meant. What no path of the endpoint leads to stays as it
//! is. Nothing is done unless the endpoint's entry says so, and bodies are never looked at.

mod cookie;
mod location;

use crate::config::Rewrite;
use http::header::{self, HeaderMap, HeaderValue};
use policy::Endpoint;

/// The relay's path of the endpoints; a name follows.
const ENDPOINTS: &[u8] = b"/v1/endpoints/";

impl Rewrite {
    /// Rewrites the fields of an answer from this endpoint, in place and in their order. `asked` is what
    /// stood behind the endpoint's name in the request.
    pub(crate) fn answer(&self, headers: &mut HeaderMap, endpoint: &Endpoint, asked: &str) {
        let is_in_folder = asked.starts_with('/');
        for (name, value) in headers {
            let is_location = *name == header::LOCATION || *name == header::CONTENT_LOCATION;
            let rewritten = if is_location && self.location {
                location::at_endpoint(value.as_bytes(), endpoint, is_in_folder)
            } else if *name == header::SET_COOKIE && self.cookies {
                cookie::at_endpoint(value.as_bytes(), endpoint, is_in_folder)
            } else {
                None
            };
            if let Some(Ok(rewritten)) = rewritten.map(HeaderValue::try_from) {
                *value = rewritten;
            }
        }
    }
}

/// The relay's path of what an endpoint has at `rest`.
fn path_of(endpoint: &Endpoint, rest: &[u8]) -> Vec<u8> {
    [ENDPOINTS, endpoint.name.as_bytes(), rest].concat()
}

/// What a caller has to append to the endpoint's name to reach this path of the target: empty, or
/// beginning with `/`. `None` where nothing would lead there.
///
/// A base `/qcbin/` has `/qcbin/` and what is below; `/qcbin` is another place, which no caller reaches. A
/// base `/qcbin` has both, and not `/qcbin2`.
fn below<'a>(base: &str, path: &'a [u8]) -> Option<&'a [u8]> {
    let folder = base.strip_suffix('/').unwrap_or(base);
    let rest = path.strip_prefix(folder.as_bytes())?;
    let is_base = rest.is_empty() && folder == base;
    (is_base || rest.starts_with(b"/")).then_some(rest)
}

#[cfg(test)]
mod tests;
