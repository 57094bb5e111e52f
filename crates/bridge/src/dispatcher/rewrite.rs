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

use http::header::{self, HeaderMap, HeaderValue};
use policy::{Endpoint, Host, Methods};

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
                location(value.as_bytes(), endpoint)
                    .or_else(|| beside(value.as_bytes(), endpoint, is_in_folder))
            } else if *name == header::SET_COOKIE && self.cookies {
                cookie(value.as_bytes(), endpoint, is_in_folder)
            } else {
                None
            };
            if let Some(Ok(rewritten)) = rewritten.map(HeaderValue::try_from) {
                *value = rewritten;
            }
        }
    }
}

/// A relative reference in an answer to the bare name: it counts from the endpoint, and a client would
/// count it from the folder of all endpoints.
fn beside(value: &[u8], endpoint: &Endpoint, is_in_folder: bool) -> Option<Vec<u8>> {
    let is_relative = value.first().is_some_and(u8::is_ascii_alphanumeric)
        && !value.contains(&b':')
        && !value.windows(2).any(|two| two == b"..");
    let has_folder = endpoint.base.path().ends_with('/');
    if is_in_folder || !is_relative || !has_folder {
        return None;
    }
    Some(path_of(endpoint, &[b"/", value].concat()))
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

/// A `Location` that leads through the endpoint; `None` where it stays as it is.
fn location(value: &[u8], endpoint: &Endpoint) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(value).ok()?;
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return None;
    }
    let place_bytes = text.find(['?', '#']).unwrap_or(text.len());
    let (place, query_and_fragment) = text.split_at(place_bytes);
    let base = &endpoint.base;
    let url = if place.starts_with("//") {
        format!("{}:{place}", base.scheme())
    } else if place.starts_with('/') {
        format!("{}{place}", base.origin())
    } else {
        place.to_owned()
    };
    // Where an endpoint could begin, there is no dot segment in any spelling: a client would remove it
    // and leave the endpoint, or the bridge would refuse it.
    let place = Endpoint::new(&endpoint.name, &url, Methods::Any).ok()?.base;
    let is_same_origin = place.scheme() == base.scheme()
        && place.host() == base.host()
        && place.port() == base.port();
    let rest = below(base.path(), place.path().as_bytes()).filter(|_| is_same_origin)?;
    let mut written = path_of(endpoint, rest);
    written.extend_from_slice(query_and_fragment.as_bytes());
    Some(written)
}

/// An attribute of a cookie, cut so that its value can be replaced (RFC 6265, 5.2).
struct Attribute<'a> {
    name: &'a [u8],
    /// All up to the value.
    before: &'a [u8],
    value: &'a [u8],
    /// White space.
    behind: &'a [u8],
}

impl<'a> Attribute<'a> {
    fn parse(whole: &'a [u8]) -> Self {
        let mut halves = whole.splitn(2, |byte| *byte == b'=');
        let name = halves.next().unwrap_or_default().trim_ascii();
        let value = halves.next().unwrap_or_default().trim_ascii_start();
        let (before, value) = whole.split_at(whole.len() - value.len());
        let (value, behind) = value.split_at(value.trim_ascii_end().len());
        Self {
            name,
            before,
            value,
            behind,
        }
    }

    fn is(&self, name: &[u8]) -> bool {
        self.name.eq_ignore_ascii_case(name)
    }
}

/// A cookie that belongs to the endpoint; `None` where it stays as it is.
///
/// A cookie without a `Path` that begins with a slash belongs to the folder of the request's path (RFC
/// 6265, 5.1.4 and 5.2.4). Where the request had only the endpoint's name, that is the folder of all
/// endpoints: then it is told the endpoint's own.
fn cookie(value: &[u8], endpoint: &Endpoint, is_in_folder: bool) -> Option<Vec<u8>> {
    let mut parts = value.split(|byte| *byte == b';');
    let pair = parts.next()?;
    // Clients take `__Host-` cookies with `Path=/` and without `Domain` alone, and names in any case
    // (RFC 6265bis, 4.1.3.2 and 5.7): with another path they would be lost.
    let start = pair.trim_ascii_start().get(..b"__Host-".len());
    if start.is_some_and(|start| start.eq_ignore_ascii_case(b"__Host-")) {
        return None;
    }
    let attributes: Vec<_> = parts.map(Attribute::parse).collect();
    // Of several the last one counts (RFC 6265, 5.3). With it go the others, which would count then.
    let domain = attributes.iter().rfind(|own| own.is(b"domain"));
    let host = endpoint.base.host();
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
        written.extend_from_slice(attribute.behind);
    }
    if !has_path && !is_in_folder {
        written.extend_from_slice(b"; Path=");
        written.extend_from_slice(&path_of(endpoint, b"/"));
    }
    Some(written)
}

/// The value of `Path` at the relay; `None` where it stays as it is.
///
/// There is always a slash behind the endpoint's name: some clients compare the beginnings of paths byte
/// by byte, and would send the cookies of `alm` to `alm-2`.
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

/// Whether a cookie with this path is sent to all of the base (RFC 6265, 5.1.4).
fn is_above(path: &[u8], base: &[u8]) -> bool {
    let rest = base.strip_prefix(path).filter(|_| path.starts_with(b"/"));
    rest.is_some_and(|rest| path.ends_with(b"/") || rest.starts_with(b"/"))
}

/// Whether a cookie with this `Domain` is sent to the host (RFC 6265, 5.1.3).
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

#[cfg(test)]
mod tests {
    use super::*;
    use policy::Policy;

    const ALM: &str = "https://alm.corp.example:8443/qcbin/";

    const BOTH: Rewrite = Rewrite {
        location: true,
        cookies: true,
    };

    fn endpoint(url: &str) -> Endpoint {
        Endpoint::new("alm", url, Methods::Any).unwrap()
    }

    /// What becomes of a field.
    fn rewritten(url: &str, name: &'static str, value: &[u8]) -> Vec<u8> {
        let mut headers = HeaderMap::new();
        headers.append(name, HeaderValue::from_bytes(value).unwrap());
        BOTH.answer(&mut headers, &endpoint(url), "/");
        assert_eq!(headers.len(), 1);
        headers[name].as_bytes().to_vec()
    }

    #[track_caller]
    fn leads(url: &str, place: &str, to: &str) {
        for name in ["location", "content-location"] {
            let written = rewritten(url, name, place.as_bytes());
            assert_eq!(String::from_utf8(written).unwrap(), to, "{name}: {place}");
        }
    }

    #[track_caller]
    fn is_left(url: &str, place: &str) {
        for name in ["location", "content-location"] {
            let written = rewritten(url, name, place.as_bytes());
            assert_eq!(written, place.as_bytes(), "{name}: {place}");
        }
    }

    #[track_caller]
    fn is_set(url: &str, cookie: &str, as_this: &str) {
        let written = rewritten(url, "set-cookie", cookie.as_bytes());
        assert_eq!(String::from_utf8(written).unwrap(), as_this, "{cookie}");
    }

    fn words(words: &[&str]) -> Result<Rewrite, String> {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        Rewrite::parse(&words)
    }

    #[test]
    fn an_entry_names_what_is_rewritten_once() {
        assert_eq!(words(&["location", "cookies"]), Ok(BOTH));
        assert_eq!(words(&["cookies", "location"]), Ok(BOTH));
        let cookies = words(&["cookies"]).unwrap();
        assert!(cookies.cookies && !cookies.location && !cookies.is_none());
        let location = words(&["location"]).unwrap();
        assert!(location.location && !location.cookies && !location.is_none());
        assert!(words(&[]).unwrap().is_none());
        assert!(Rewrite::default().is_none());
        for wrong in [
            &["locations"][..],
            &["Location"],
            &[""],
            &["cookies", "body"],
            &["cookies", "cookies"],
            &["location", "cookies", "location"],
        ] {
            let told = words(wrong).unwrap_err();
            assert!(told.contains("\"location\""), "{told}");
            assert!(told.contains("\"cookies\""), "{told}");
        }
        assert_eq!(
            words(&["body"]).unwrap_err(),
            "\"body\" cannot be rewritten: write \"location\", \"cookies\", or both"
        );
    }

    #[test]
    fn each_word_is_for_its_own_fields() {
        let alm = endpoint(ALM);
        let fields = [
            ("location", "/qcbin/x"),
            ("content-location", "/qcbin/x"),
            ("set-cookie", "a=1; Path=/qcbin/x"),
            ("x-location", "/qcbin/x"),
            ("link", "</qcbin/x>"),
        ];
        let changed = |rewrite: Rewrite| -> Vec<&str> {
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                headers.append(name, HeaderValue::from_static(value));
            }
            rewrite.answer(&mut headers, &alm, "/");
            let changed = fields
                .iter()
                .filter(|(name, value)| headers[*name] != value);
            changed.map(|(name, _)| *name).collect()
        };
        assert_eq!(changed(Rewrite::default()), [""; 0]);
        let location = words(&["location"]).unwrap();
        assert_eq!(changed(location), ["location", "content-location"]);
        assert_eq!(changed(words(&["cookies"]).unwrap()), ["set-cookie"]);
    }

    #[test]
    fn a_place_below_the_endpoint_is_reached_through_it() {
        for (place, to) in [
            ("https://alm.corp.example:8443/qcbin/", "/v1/endpoints/alm/"),
            (
                "https://alm.corp.example:8443/qcbin/a/b",
                "/v1/endpoints/alm/a/b",
            ),
            (
                "HTTPS://ALM.Corp.Example:8443/qcbin/a",
                "/v1/endpoints/alm/a",
            ),
            (
                "https://alm.corp.example.:8443/qcbin/a",
                "/v1/endpoints/alm/a",
            ),
            ("//alm.corp.example:8443/qcbin/a", "/v1/endpoints/alm/a"),
            ("/qcbin/", "/v1/endpoints/alm/"),
            ("/qcbin/a%2Fb;c=1/", "/v1/endpoints/alm/a%2Fb;c=1/"),
            ("/qcbin//a", "/v1/endpoints/alm//a"),
            ("/qcbin/?", "/v1/endpoints/alm/?"),
            ("/qcbin/#", "/v1/endpoints/alm/#"),
            ("/qcbin/..a", "/v1/endpoints/alm/..a"),
        ] {
            leads(ALM, place, to);
        }
    }

    #[test]
    fn query_and_fragment_stay_byte_for_byte() {
        for tail in [
            "?x=%2F&y=a+b&y=",
            "?to=https://alm.corp.example:8443/qcbin/",
            "?a/../b#c",
            "#/qcbin/../x?y",
            "?#",
            "?q={x[1];y}|'\\",
        ] {
            leads(
                ALM,
                &format!("/qcbin/a{tail}"),
                &format!("/v1/endpoints/alm/a{tail}"),
            );
            is_left(ALM, &format!("/other{tail}"));
        }
    }

    #[test]
    fn a_port_counts_as_the_schemes_own_where_there_is_none() {
        for base in ["https://a.example/", "https://a.example:443/"] {
            leads(base, "https://a.example/x", "/v1/endpoints/alm/x");
            leads(base, "https://a.example:443/x", "/v1/endpoints/alm/x");
            leads(base, "//a.example:443/x", "/v1/endpoints/alm/x");
            is_left(base, "https://a.example:80/x");
            is_left(base, "http://a.example/x");
            is_left(base, "http://a.example:443/x");
        }
        leads("http://a.example/", "//a.example/x", "/v1/endpoints/alm/x");
        leads("http://[::1]:80/", "http://[0::1]/x", "/v1/endpoints/alm/x");
    }

    #[test]
    fn an_endpoint_at_the_root_has_every_path() {
        let root = "http://a.example";
        leads(root, "/", "/v1/endpoints/alm/");
        leads(root, "http://a.example", "/v1/endpoints/alm/");
        leads(root, "http://a.example?x", "/v1/endpoints/alm/?x");
        leads(root, "http://a.example#x", "/v1/endpoints/alm/#x");
        leads(root, "http://a.example//b", "/v1/endpoints/alm//b");
        leads(root, "/v1/endpoints/x", "/v1/endpoints/alm/v1/endpoints/x");
    }

    #[test]
    fn a_base_without_a_slash_at_its_end_has_itself_and_what_is_below() {
        let base = "http://a.example/app";
        leads(base, "/app", "/v1/endpoints/alm");
        leads(base, "/app?x#y", "/v1/endpoints/alm?x#y");
        leads(base, "/app/", "/v1/endpoints/alm/");
        leads(base, "/app/x", "/v1/endpoints/alm/x");
        is_left(base, "/app2");
        is_left(base, "/ap");
        is_left(ALM, "/qcbin");
        is_left(ALM, "/qcbin?x");
    }

    #[test]
    fn what_is_elsewhere_is_left_alone() {
        for place in [
            "",
            "?x",
            "#x",
            "a",
            "./a",
            "../qcbin/a",
            "qcbin/a",
            "/",
            "/other",
            "/qcbin2/a",
            "/QCBIN/a",
            "/%71cbin/a",
            "/qcbin%2Fa",
            "//qcbin/a",
            "//other.example/qcbin/a",
            "///alm.corp.example:8443/qcbin/a",
            "https://other.example:8443/qcbin/a",
            "https://alm.corp.example.other.example:8443/qcbin/a",
            "https://x.alm.corp.example:8443/qcbin/a",
            "https://alm.corp.example/qcbin/a",
            "https://alm.corp.example:08443/qcbin/a",
            "https://alm.corp.example:8443",
            "http://alm.corp.example:8443/qcbin/a",
            "https:/qcbin/a",
            "https:alm.corp.example:8443/qcbin/a",
            "https://alm.corp.example:8443@other.example/qcbin/a",
            "https://me:pw@alm.corp.example:8443/qcbin/a",
            "https://other.example\\@alm.corp.example:8443/qcbin/a",
            "/\\other.example/qcbin/a",
            "\\\\alm.corp.example:8443/qcbin/a",
            "javascript:alert(1)",
            "mailto:a@alm.corp.example",
            "/qcbin/a b",
            "/qcbin/a?b c",
            "/qcbin/a\tb",
        ] {
            is_left(ALM, place);
        }
    }

    #[test]
    fn what_could_be_read_as_another_path_is_left_alone() {
        for path in [
            "/qcbin/..",
            "/qcbin/../x",
            "/qcbin/../qcbin/x",
            "/x/../qcbin/x",
            "/qcbin/.",
            "/qcbin/./x",
            "/qcbin/%2e%2e/x",
            "/qcbin/.%2E/x",
            "/qcbin/%252e%252e/x",
            "/qcbin/..%2fx",
            "/qcbin/..;/x",
            "/qcbin/x\\..\\y",
            "/qcbin/x%5cy",
            "/qcbin/%",
            "/qcbin/%0d%0aSet-Cookie:%20a=1",
        ] {
            is_left(ALM, path);
            is_left(ALM, &format!("https://alm.corp.example:8443{path}"));
            is_left("https://alm.corp.example:8443", path);
        }
    }

    #[test]
    fn a_place_that_is_no_text_is_left_alone() {
        for place in [&b"/qcbin/\xe9"[..], b"/qcbin/a?\xc3\xa9", b"/qcbin/a#\xff"] {
            assert_eq!(rewritten(ALM, "location", place), place);
        }
        let long = format!("/qcbin/{}", "a".repeat(policy::URL_MAX_BYTES));
        is_left(ALM, &long);
    }

    #[test]
    fn what_is_written_leads_back_to_the_same_place() {
        for base in [
            "https://a.example",
            "https://a.example/x",
            "https://a.example/x/",
            "https://a.example/x//",
            "https://a.example:444/x/y%2Fz/",
        ] {
            let own = endpoint(base);
            let policy = Policy::new(Vec::new(), vec![own.clone()]).unwrap();
            let mut led = 0;
            for rest in [
                "",
                "/",
                "//",
                "/a",
                "/a//b/",
                "//a",
                "/a?b=/../c",
                "?q",
                "/?",
                "a",
            ] {
                let place = format!("{}{}{rest}", own.base.origin(), own.base.path());
                let written = rewritten(base, "location", place.as_bytes());
                let written = String::from_utf8(written).unwrap();
                let Some(path) = written.strip_prefix("/v1/endpoints/alm") else {
                    assert_eq!(written, place);
                    continue;
                };
                led += 1;
                let candidate = policy.decide_endpoint("alm", "GET", path).unwrap();
                assert_eq!(candidate.target().to_string(), place, "{base}: {path}");
            }
            assert!(led >= 9, "{base}: {led}");
        }
    }

    #[test]
    fn a_cookie_for_a_path_below_the_endpoint_is_for_that_path() {
        for (path, to) in [
            ("/qcbin/", "/v1/endpoints/alm/"),
            ("/qcbin/a", "/v1/endpoints/alm/a"),
            ("/qcbin/a/", "/v1/endpoints/alm/a/"),
            ("/qcbin//a", "/v1/endpoints/alm//a"),
        ] {
            is_set(
                ALM,
                &format!("a=1; Path={path}"),
                &format!("a=1; Path={to}"),
            );
        }
        let root = "http://a.example";
        is_set(root, "a=1; Path=/", "a=1; Path=/v1/endpoints/alm/");
        is_set(root, "a=1; Path=/x", "a=1; Path=/v1/endpoints/alm/x");
        let base = "http://a.example/app";
        is_set(base, "a=1; Path=/app", "a=1; Path=/v1/endpoints/alm/");
        is_set(base, "a=1; Path=/app/", "a=1; Path=/v1/endpoints/alm/");
        is_set(base, "a=1; Path=/app/x", "a=1; Path=/v1/endpoints/alm/x");
    }

    #[test]
    fn a_cookie_for_more_than_the_endpoint_is_for_all_of_it() {
        let deep = "http://a.example/x/y/";
        for path in ["/", "/x", "/x/", "/x/y", "/x/y/"] {
            let cookie = format!("a=1; Path={path}");
            is_set(deep, &cookie, "a=1; Path=/v1/endpoints/alm/");
        }
        is_set(ALM, "a=1; Path=/qcbin", "a=1; Path=/v1/endpoints/alm/");
        is_set(
            "http://a.example/app",
            "a=1; Path=/",
            "a=1; Path=/v1/endpoints/alm/",
        );
    }

    #[test]
    fn a_cookie_for_another_path_or_for_none_is_left_alone() {
        for attribute in [
            "",
            "; Path",
            "; Path=",
            "; Path= ",
            "; Path=qcbin",
            "; Path=\"/qcbin/\"",
            "; Path=/other",
            "; Path=/qcbin2",
            "; Path=/qcbi",
            "; Path=//",
            "; Path=/QCBIN/",
            "; XPath=/qcbin/",
            "; Path x=/qcbin/",
            "; =/qcbin/",
            "; Path=https://alm.corp.example:8443/qcbin/",
        ] {
            let cookie = format!("a=1{attribute}");
            is_set(ALM, &cookie, &cookie);
            let cookie = format!("a=1{attribute}; Secure");
            is_set(ALM, &cookie, &cookie);
        }
        is_set("http://a.example", "a=1; Path=", "a=1; Path=");
    }

    #[test]
    fn a_domain_that_the_endpoints_host_is_in_goes() {
        for domain in [
            "alm.corp.example",
            ".alm.corp.example",
            "corp.example",
            ".corp.example",
            "ALM.Corp.EXAMPLE",
            "example",
        ] {
            is_set(ALM, &format!("a=1; Domain={domain}"), "a=1");
            is_set(ALM, &format!("a=1;domain= {domain} ;Secure"), "a=1;Secure");
            is_set(
                ALM,
                &format!("a=1; HttpOnly; DOMAIN={domain}; b"),
                "a=1; HttpOnly; b",
            );
        }
        for domain in [
            "",
            ".",
            "..corp.example",
            "corp.example.",
            "orp.example",
            "x.alm.corp.example",
            "other.example",
            "*.corp.example",
            "alm.corp.example:8443",
        ] {
            let cookie = format!("a=1; Domain={domain}; Secure");
            is_set(ALM, &cookie, &cookie);
        }
    }

    #[test]
    fn an_address_is_in_no_domain_but_itself() {
        let quad = "http://10.0.0.1/";
        is_set(quad, "a=1; Domain=10.0.0.1", "a=1");
        is_set(quad, "a=1; Domain=0.0.1", "a=1; Domain=0.0.1");
        is_set(quad, "a=1; Domain=1", "a=1; Domain=1");
        is_set("http://[::1]/", "a=1; Domain=[::1]", "a=1");
        is_set("http://[::1]/", "a=1; Domain=1]", "a=1; Domain=1]");
    }

    #[test]
    fn of_several_domains_the_last_one_counts() {
        is_set(ALM, "a=1; Domain=other.example; Domain=corp.example", "a=1");
        let foreign = "a=1; Domain=corp.example; Domain=other.example";
        is_set(ALM, foreign, foreign);
        is_set(
            ALM,
            "a=1; Path=/qcbin/x; Path=/other",
            "a=1; Path=/v1/endpoints/alm/x; Path=/other",
        );
    }

    #[test]
    fn the_rest_of_a_cookie_stays_byte_for_byte() {
        is_set(
            ALM,
            "sid=1;Secure ; sAmEsItE=lax;  pATh\t= /qcbin/x \t;Max-Age=5;Partitioned; Expires=Wed, 21 Oct 2015 07:28:00 GMT; odd = x=y ;;",
            "sid=1;Secure ; sAmEsItE=lax;  pATh\t= /v1/endpoints/alm/x \t;Max-Age=5;Partitioned; Expires=Wed, 21 Oct 2015 07:28:00 GMT; odd = x=y ;;",
        );
        for pair in [
            "",
            "=",
            "a",
            "Path=/qcbin/x",
            "Domain=corp.example",
            "a=\"b, c\" d",
            "a=b=Path=/qcbin/",
            " a = /qcbin/ ",
        ] {
            is_set(
                ALM,
                &format!("{pair}; Path=/qcbin/x"),
                &format!("{pair}; Path=/v1/endpoints/alm/x"),
            );
            is_set(ALM, pair, pair);
        }
        let written = rewritten(ALM, "set-cookie", b"n=\xe9\xff; Path=/qcbin/\xe9; x=\x80");
        assert_eq!(written, b"n=\xe9\xff; Path=/v1/endpoints/alm/\xe9; x=\x80");
    }

    #[test]
    fn cookies_of_a_host_alone_are_left_alone() {
        for name in ["__Host-sid", "__host-sid", "__HOST-", " __Host-sid"] {
            let cookie = format!("{name}=1; Secure; Path=/");
            is_set(ALM, &cookie, &cookie);
            let cookie = format!("{name}=1; Secure; Path=/qcbin/; Domain=corp.example");
            is_set(ALM, &cookie, &cookie);
        }
        for name in ["__Secure-sid", "__Hos", "x__Host-sid", "__Host_sid"] {
            is_set(
                ALM,
                &format!("{name}=1; Secure; Path=/"),
                &format!("{name}=1; Secure; Path=/v1/endpoints/alm/"),
            );
        }
    }

    #[test]
    fn several_cookies_keep_their_order() {
        let mut headers = HeaderMap::new();
        headers.append("set-cookie", HeaderValue::from_static("a=1; Path=/qcbin/a"));
        headers.append("x-other", HeaderValue::from_static("/qcbin/"));
        headers.append("set-cookie", HeaderValue::from_static("b=2; Path=/other"));
        headers.append("set-cookie", HeaderValue::from_static("a=3; Path=/"));
        BOTH.answer(&mut headers, &endpoint(ALM), "/");
        let cookies: Vec<_> = headers.get_all("set-cookie").iter().collect();
        assert_eq!(
            cookies,
            [
                "a=1; Path=/v1/endpoints/alm/a",
                "b=2; Path=/other",
                "a=3; Path=/v1/endpoints/alm/"
            ]
        );
        assert_eq!(headers["x-other"], "/qcbin/");
        assert_eq!(headers.len(), 4);
    }

    #[test]
    fn a_relative_redirect_of_the_bare_name_stays_with_its_endpoint() {
        let given = |asked: &str, place: &'static str| {
            let mut headers = HeaderMap::new();
            headers.append(header::LOCATION, HeaderValue::from_static(place));
            BOTH.answer(&mut headers, &endpoint(ALM), asked);
            headers[header::LOCATION].to_str().unwrap().to_owned()
        };
        assert_eq!(given("", "login?a=b"), "/v1/endpoints/alm/login?a=b");
        assert_eq!(given("?x", "a/b"), "/v1/endpoints/alm/a/b");
        for place in ["../up", "?x=1", "#top", "mailto:a", "//other/x"] {
            assert_eq!(given("", place), place);
        }
        assert_eq!(given("/", "login"), "login");
    }

    #[test]
    fn a_cookie_of_an_answer_to_the_bare_name_stays_with_its_endpoint() {
        let given = |asked: &str, cookie: &'static str| {
            let mut headers = HeaderMap::new();
            headers.append(header::SET_COOKIE, HeaderValue::from_static(cookie));
            BOTH.answer(&mut headers, &endpoint(ALM), asked);
            headers[header::SET_COOKIE].to_str().unwrap().to_owned()
        };
        for asked in ["", "?x=1"] {
            for cookie in ["a=1", "a=1; Secure", "a=1; Path=", "a=1; Path=x"] {
                let expected = format!("{cookie}; Path=/v1/endpoints/alm/");
                assert_eq!(given(asked, cookie), expected, "{asked}");
            }
        }
        assert_eq!(given("/", "a=1; Secure"), "a=1; Secure");
    }
}
