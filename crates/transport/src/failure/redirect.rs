//! A redirect in place of the relay's response. The relay sends none: a sign-in portal on the way does, or another
//! server.

use super::{Cause, Diagnosis};
use runtime::peer_text::PeerText;

/// Characters of scheme and host that are shown.
const ORIGIN_MAX_CHARS: usize = 100;

/// Returns the cause with scheme and host of the `Location`, if the status is that of a redirect (RFC 9110, 15.4).
/// Path and query are not shown: they may hold a session of the portal.
pub fn redirect(status: u16, location: Option<&[u8]>) -> Option<Diagnosis> {
    if !matches!(status, 301 | 302 | 303 | 307 | 308) {
        return None;
    }
    let location = location.map(String::from_utf8_lossy).unwrap_or_default();
    Some(match origin(&location) {
        Some(origin) => {
            let origin = PeerText::bounded(&origin, ORIGIN_MAX_CHARS);
            Diagnosis::new(Cause::RelayRedirects, format!("to {origin}"))
        }
        None => Cause::RelayRedirects.into(),
    })
}

/// Returns scheme and host of a URL, without a user; `None` for a path on the same host.
fn origin(location: &str) -> Option<String> {
    let (scheme, rest) = location.trim().split_once("//")?;
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
    // A path may have two slashes, too.
    let is_scheme = match scheme.strip_suffix(':') {
        Some(name) => name.chars().all(is_part),
        None => scheme.is_empty(),
    };
    if !is_scheme {
        return None;
    }
    let end = rest.find(['/', '\\', '?', '#']).unwrap_or(rest.len());
    let host = rest[..end].rsplit('@').next().unwrap_or_default();
    (!host.is_empty()).then(|| format!("{scheme}//{host}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirect_names_scheme_and_host_only() {
        let shown = |location: &str| {
            let found = redirect(302, Some(location.as_bytes()));
            found.map(|why| why.to_string()).unwrap_or_default()
        };
        let what = Cause::RelayRedirects.words().what;
        for (location, origin) in [
            (
                "https://portal.corp.example/login?session=s3",
                "https://portal.corp.example",
            ),
            ("http://me:s3@10.0.0.1:8080?s3", "http://10.0.0.1:8080"),
            ("//portal.example\\s3", "//portal.example"),
            (
                "https://e\u{202e}\u{1b}[31m/s3",
                "https://e\\u202e\\u001b[31m",
            ),
        ] {
            assert_eq!(shown(location), format!("{what} (to {origin})"));
        }
        for location in ["/login", "login", "", "/a//b", "a//b", "https:///a"] {
            assert_eq!(shown(location), what, "{location}");
        }
        let long = shown(&format!("https://{}/", "x".repeat(1000)));
        assert!(long.len() < 250 && long.contains("..."), "{long}");
        assert_eq!(redirect(302, None), Some(Cause::RelayRedirects.into()));
        for status in [200, 300, 304, 404] {
            assert_eq!(redirect(status, Some(b"https://a/")), None);
        }
    }
}
