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

use http::header::{self, HeaderMap, HeaderValue};
use policy::Endpoint;

/// The relay's path of the endpoints; a name follows.
const ENDPOINTS: &[u8] = b"/v1/endpoints/";

/// What of an endpoint's answers is rewritten: `rewrite = ["location", "cookies"]`. By default nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Rewrite {
    /// `"location"`: the fields `Location` and `Content-Location`.
    pub(crate) location: bool,
    /// `"cookies"`: `Path` and `Domain` in the fields `Set-Cookie`.
    pub(crate) cookies: bool,
}

impl Rewrite {
    /// From the words of an entry.
    ///
    /// # Errors
    /// What can be written, when a word is another or is there twice.
    pub(crate) fn parse(words: &[String]) -> Result<Self, String> {
        let mut rewrite = Self::default();
        for word in words {
            let part = match word.as_str() {
                "location" => &mut rewrite.location,
                "cookies" => &mut rewrite.cookies,
                _ => {
                    return Err(format!(
                        "{word:?} cannot be rewritten: write \"location\", \"cookies\", or both"
                    ));
                }
            };
            if std::mem::replace(part, true) {
                return Err(format!(
                    "{word:?} is there twice: write \"location\" and \"cookies\" once each"
                ));
            }
        }
        Ok(rewrite)
    }

    /// Whether answers pass as they are.
    pub(crate) fn is_none(&self) -> bool {
        *self == Self::default()
    }

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
