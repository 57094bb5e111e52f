//! Responses of endpoints as a browser may see them: all endpoints are below one origin, the relay's.
//!
//! A field that acts on the whole origin would let one target act on every other endpoint: delete its cookies, send
//! its traffic elsewhere, or run a script before its pages. Such fields are removed. A page of one endpoint could
//! also use the sessions of another one; `Content-Security-Policy: sandbox` gives each page an origin of its own.

use crate::config::Endpoints;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};

/// Fields that act on a whole origin, or on a host.
const OF_ORIGIN: [HeaderName; 15] = [
    HeaderName::from_static("accept-ch"),
    header::ALT_SVC,
    HeaderName::from_static("clear-site-data"),
    HeaderName::from_static("critical-ch"),
    HeaderName::from_static("expect-ct"),
    HeaderName::from_static("nel"),
    HeaderName::from_static("origin-agent-cluster"),
    header::PUBLIC_KEY_PINS,
    header::PUBLIC_KEY_PINS_REPORT_ONLY,
    HeaderName::from_static("report-to"),
    HeaderName::from_static("reporting-endpoints"),
    HeaderName::from_static("service-worker-allowed"),
    HeaderName::from_static("set-login"),
    header::STRICT_TRANSPORT_SECURITY,
    HeaderName::from_static("use-as-dictionary"),
];

/// Makes a response of an endpoint safe for the other endpoints. A policy of the target stays: a browser enforces
/// both.
pub(super) fn protect(
    config: &Endpoints,
    (tenant, endpoint): (&str, &str),
    headers: &mut HeaderMap,
) {
    for name in &OF_ORIGIN {
        headers.remove(name);
    }
    if config.has_sandbox(tenant, endpoint) {
        let sandbox = HeaderValue::from_static("sandbox");
        headers.append(header::CONTENT_SECURITY_POLICY, sandbox);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_the_origin_are_removed() {
        let mut headers = HeaderMap::new();
        for name in &OF_ORIGIN {
            headers.append(name, HeaderValue::from_static("x"));
            headers.append(name, HeaderValue::from_static("y"));
        }
        headers.append("content-type", HeaderValue::from_static("text/html"));
        let own = HeaderValue::from_static("default-src 'self'");
        headers.append("content-security-policy", own);
        let mut plain = headers.clone();
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
    }
}
