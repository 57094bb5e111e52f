//! Rewrites `Path` and `Domain` of `Set-Cookie`.

use super::{below, path_of};
use policy::{Endpoint, Host};

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
/// A cookie without a `Path` that begins with a slash belongs to the folder of the request's path (RFC 6265,
/// 5.1.4 and 5.2.4). Where the request had only the endpoint's name, that is the folder of all endpoints, so the
/// cookie gets the endpoint's own path.
pub(super) fn at_endpoint(
    value: &[u8],
    endpoint: &Endpoint,
    is_in_folder: bool,
) -> Option<Vec<u8>> {
    let mut parts = value.split(|byte| *byte == b';');
    let pair = parts.next()?;
    // Clients accept `__Host-` cookies only with `Path=/` and without `Domain`, and compare the prefix without
    // case (RFC 6265bis, 4.1.3.2 and 5.7). With another path they would be lost.
    let start = pair.trim_ascii_start().get(..b"__Host-".len());
    if start.is_some_and(|start| start.eq_ignore_ascii_case(b"__Host-")) {
        return None;
    }
    let attributes: Vec<_> = parts.map(Attribute::parse).collect();
    // Of several, the last one counts (RFC 6265, 5.3). If it is dropped, the others are as well: one of them
    // would become the last.
    let domain = attributes.iter().rfind(|own| own.is(b"domain"));
    let host = endpoint.base.host();
    // Without `Domain`, the cookie belongs to the host that sent it, which is the relay for the client.
    let drops_domain = domain.is_some_and(|domain| is_in_domain(host, domain.value));
    let path = attributes.iter().rfind(|own| own.is(b"path"));
    let has_path = path.is_some_and(|path| path.value.starts_with(b"/"));
    let mut written = pair.to_vec();
    for attribute in attributes {
        if drops_domain && attribute.is(b"domain") {
            continue;
        }
        let path = if attribute.is(b"path") {
            cookie_path(attribute.value, endpoint)
        } else {
            None
        };
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

/// Returns the value of `Path` at the relay, or `None` where it is not changed.
///
/// There is always a slash after the endpoint's name: some clients compare path prefixes byte by byte, and would
/// send the cookies of `alm` to `alm-2`.
fn cookie_path(path: &[u8], endpoint: &Endpoint) -> Option<Vec<u8>> {
    let base = endpoint.base.path();
    let rest: &[u8] = match below(base, path) {
        Some(rest) if !rest.is_empty() => rest,
        Some(_) => b"/",
        None if is_above(path, base.as_bytes()) => b"/",
        None => return None,
    };
    Some(path_of(endpoint, rest))
}

/// Returns whether a cookie with this path is sent to all paths of the base (RFC 6265, 5.1.4).
fn is_above(path: &[u8], base: &[u8]) -> bool {
    let rest = base.strip_prefix(path).filter(|_| path.starts_with(b"/"));
    rest.is_some_and(|rest| path.ends_with(b"/") || rest.starts_with(b"/"))
}

/// Returns whether a cookie with this `Domain` is sent to the host (RFC 6265, 5.1.3).
fn is_in_domain(host: &Host, domain: &[u8]) -> bool {
    let domain = domain.strip_prefix(b".").unwrap_or(domain);
    let domain = domain.to_ascii_lowercase();
    let own = host.to_string();
    let Some(front) = own.as_bytes().strip_suffix(domain.as_slice()) else {
        return false;
    };
    match host {
        Host::Addr(_) => front.is_empty(),
        Host::Name(_) => front.is_empty() || front.ends_with(b"."),
    }
}
