//! Responses of endpoints as a browser may see them: all endpoints are below one origin, the relay's.
//!
//! A field that acts on the whole origin would let one target act on every other endpoint: delete its cookies, send
//! its traffic elsewhere, or run a script before its pages. Such fields are removed from every response of an
//! endpoint, also from one that switches protocols, and from trailers. A page of one endpoint could also use the
//! sessions of another one; `Content-Security-Policy: sandbox` gives each page an origin of its own.
//!
//! Cookies are not changed here: the bridge confines them where the endpoint's entry says so (`rewrite`).

use crate::config::Endpoints;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};

/// Fields that act on a whole origin, on its host or site, or on what a browser stores for them, in order. Former
/// names are listed as well: browsers accept them for years.
const OF_ORIGIN: [&str; 28] = [
    // Which hints the browser sends with every request to the origin.
    "accept-ch",
    "accept-ch-lifetime",
    // Where the origin's traffic goes.
    "alt-svc",
    // The origin's store of ad events, with its reports and their limits.
    "attribution-reporting-register-os-source",
    "attribution-reporting-register-os-trigger",
    "attribution-reporting-register-source",
    "attribution-reporting-register-trigger",
    "clear-site-data",
    "critical-ch",
    "expect-ct",
    // The sign-in state of the origin as an identity provider; now `set-login`.
    "idp-signin-status",
    "nel",
    // The topics that the browser learns about its user from the site.
    "observe-browsing-topics",
    // Whether all pages of the origin share a process; the former name comes second.
    "origin-agent-cluster",
    "origin-isolation",
    "public-key-pins",
    "public-key-pins-report-only",
    "report-to",
    "reporting-endpoints",
    // Sessions that are bound to the device: the browser renews cookies of the whole site for them.
    "sec-session-challenge",
    "sec-session-registration",
    "secure-session-challenge",
    "secure-session-registration",
    "service-worker-allowed",
    "set-login",
    // The origin's storage that is shared between sites.
    "shared-storage-write",
    "strict-transport-security",
    "use-as-dictionary",
];

/// Makes a response of an endpoint safe for the other endpoints. A policy of the target stays: a browser enforces
/// both.
pub(super) fn protect(
    config: &Endpoints,
    (tenant, endpoint): (&str, &str),
    headers: &mut HeaderMap,
) {
    remove_fields(headers);
    if config.has_sandbox(tenant, endpoint) {
        let sandbox = HeaderValue::from_static("sandbox");
        headers.append(header::CONTENT_SECURITY_POLICY, sandbox);
    }
}

/// Removes the fields that act on the whole origin, from a head or from trailers.
pub(super) fn remove_fields(headers: &mut HeaderMap) {
    // A lookup by each name of the list would hash it; this compares the few fields that there are. Most responses have
    // none of the list, and then nothing is allocated.
    let found: Vec<HeaderName> = headers
        .keys()
        .filter(|name| OF_ORIGIN.contains(&name.as_str()))
        .cloned()
        .collect();
    for name in found {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_the_origin_are_removed() {
        let mut headers = HeaderMap::new();
        for name in OF_ORIGIN {
            headers.append(name, HeaderValue::from_static("x"));
            headers.append(name, HeaderValue::from_static("y"));
        }
        headers.append("content-type", HeaderValue::from_static("text/html"));
        let own = HeaderValue::from_static("default-src 'self'");
        headers.append("content-security-policy", own);
        let mut plain = headers.clone();
        let mut bare = headers.clone();
        protect(&Endpoints::default(), ("acme", "ci"), &mut headers);
        assert_eq!(headers.len(), 3);
        let policies = headers.get_all("content-security-policy").iter();
        assert!(policies.eq(["default-src 'self'", "sandbox"]));
        let without = Endpoints {
            sandbox: false,
            ..Endpoints::default()
        };
        protect(&without, ("acme", "ci"), &mut plain);
        assert_eq!(plain.len(), 2);
        remove_fields(&mut bare);
        assert_eq!(bare, plain);
    }

    #[test]
    fn fields_of_one_response_are_kept() {
        let mut headers = HeaderMap::new();
        let kept = [
            "access-control-allow-origin",
            "activate-storage-access",
            "content-security-policy",
            "link",
            "no-vary-search",
            "permissions-policy",
            "sec-websocket-accept",
            "set-cookie",
            "supports-loading-mode",
            "x-digest",
        ];
        for name in kept {
            headers.append(name, HeaderValue::from_static("x"));
        }
        remove_fields(&mut headers);
        assert_eq!(headers.len(), kept.len());
    }

    #[test]
    fn list_of_fields_is_in_order() {
        assert!(OF_ORIGIN.is_sorted());
    }
}
