//! Rewrites `Path` and `Domain` of `Set-Cookie`.
//!
//! All endpoints are below one origin, and a client sends a cookie to every path below its `Path`. So each cookie is
//! confined to its endpoint: a target cannot set one that is sent to another endpoint. Only `__Host-` cookies cannot
//! be confined.

use super::{below, path_of};
use policy::Endpoint;

/// An attribute of a cookie, split so that its value can be replaced (RFC 6265, 5.2).
struct Attribute<'a> {
    name: &'a [u8],
    /// Everything before the value.
    before: &'a [u8],
    value: &'a [u8],
    /// White space after the value.
    after: &'a [u8],
}

impl<'a> Attribute<'a> {
    fn parse(whole: &'a [u8]) -> Self {
        let mut halves = whole.splitn(2, |byte| *byte == b'=');
        let name = halves.next().unwrap_or_default().trim_ascii();
        let value = halves.next().unwrap_or_default().trim_ascii_start();
        let (before, value) = whole.split_at(whole.len() - value.len());
        let (value, after) = value.split_at(value.trim_ascii_end().len());
        Self {
            name,
            before,
            value,
            after,
        }
    }

    fn is(&self, name: &[u8]) -> bool {
        self.name.eq_ignore_ascii_case(name)
    }
}

/// Returns the cookie for the endpoint, or `None` where it is not changed.
///
/// A cookie without a `Path` belongs to the folder of the request's path (RFC 6265, 5.1.4 and 5.2.4). Where the request
/// had only the endpoint's name, that is the folder of all endpoints, so the cookie gets the endpoint's own path.
pub(super) fn at_endpoint(
    value: &[u8],
    endpoint: &Endpoint,
    is_in_folder: bool,
) -> Option<Vec<u8>> {
    let mut parts = value.split(|byte| *byte == b';');
    let pair = parts.next()?;
    let attributes: Vec<_> = parts.map(Attribute::parse).collect();
    if is_of_host(pair, &attributes) {
        return None;
    }
    let mut written = pair.to_vec();
    let mut has_path = false;
    // Of several paths the last one counts (RFC 6265, 5.3), for some clients the first one. So each is confined.
    for attribute in attributes {
        // Without `Domain`, the cookie belongs to the host that sent it, which is the relay for the client.
        if attribute.is(b"domain") {
            continue;
        }
        let is_empty = attribute.value.is_empty();
        let path = (attribute.is(b"path") && !is_empty).then(|| cookie_path(&attribute, endpoint));
        // A path is added below. This one could count in its place.
        if attribute.is(b"path") && is_empty && !is_in_folder {
            continue;
        }
        has_path |= path.is_some();
        written.push(b';');
        written.extend_from_slice(attribute.before);
        written.extend_from_slice(path.as_deref().unwrap_or(attribute.value));
        written.extend_from_slice(attribute.after);
    }
    if !has_path && !is_in_folder {
        written.extend_from_slice(b"; Path=");
        written.extend_from_slice(&path_of(endpoint, b"/"));
    }
    Some(written)
}

/// Returns whether clients accept the cookie only for the whole host: they accept `__Host-` cookies only with `Path=/`
/// and without `Domain`, and compare the prefix without case (RFC 6265bis, 4.1.3.2 and 5.7). With another path such a
/// cookie would be lost.
fn is_of_host(pair: &[u8], attributes: &[Attribute<'_>]) -> bool {
    let start = pair.trim_ascii_start().get(..b"__Host-".len());
    let has_prefix = start.is_some_and(|start| start.eq_ignore_ascii_case(b"__Host-"));
    let mut paths = attributes.iter().filter(|own| own.is(b"path")).peekable();
    let has_domain = attributes.iter().any(|own| own.is(b"domain"));
    has_prefix && !has_domain && paths.peek().is_some() && paths.all(|path| path.value == b"/")
}

/// Returns the value of `Path` at the relay: the same path below the endpoint, or all of the endpoint for any other
/// path.
///
/// There is always a slash after the endpoint's name: some clients compare path prefixes byte by byte, and would
/// send the cookies of `alm` to `alm-2`.
fn cookie_path(path: &Attribute<'_>, endpoint: &Endpoint) -> Vec<u8> {
    let rest = below(endpoint.base.path(), path.value);
    let rest = rest.filter(|rest| !rest.is_empty() && !has_dot_segment(rest));
    path_of(endpoint, rest.unwrap_or(b"/"))
}

/// Returns whether a client could resolve the path to one that is not below the endpoint.
fn has_dot_segment(path: &[u8]) -> bool {
    let text = String::from_utf8_lossy(path).to_ascii_lowercase();
    let text = text.replace("%2e", ".");
    let mut segments = text.split(['/', '\\']);
    segments.any(|segment| matches!(segment, "." | ".."))
}
