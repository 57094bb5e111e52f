//! The header fields that name the relay: `Via` (RFC 9110, 7.6.3) and `Forwarded` (RFC 7239).
//!
//! ```text
//! Via: 1.1 integration-relay
//! Forwarded: for=192.0.2.1;host="relay.example:8443";proto=https
//! ```
//!
//! Both disclose the relay and its caller to a target, so the relay adds neither unless the config enables it.
//! Fields of these names that a caller sent precede the relay's own. The relay has not verified them.

use crate::config::Hops;
use http::Version;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use std::net::IpAddr;

/// The sender of a request, as the relay sees it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Caller<'a> {
    /// The peer of its connection: the caller, or a load balancer in front of the relay.
    pub(super) address: IpAddr,
    /// The `Host` of its request, or the authority of its URL.
    pub(super) host: Option<&'a str>,
    /// Whether its connection to the relay is TLS.
    pub(super) is_tls: bool,
}

/// Adds the fields to a request, after those that are there. `version` is the version that the caller used.
///
/// The request must still have its `Connection`: the fields that it names are removed later, and these must
/// not be among them.
pub(super) fn add_to_request(
    hops: Hops,
    headers: &mut HeaderMap,
    version: Version,
    caller: Caller<'_>,
) {
    if hops.via {
        add(headers, header::VIA, via(version));
    }
    if hops.forwarded
        && let Some(value) = forwarded(caller)
    {
        add(headers, header::FORWARDED, value);
    }
}

/// Adds `Via` to a response, after those that are there. The relay does not know which HTTP version the bridge
/// used with the target, so it states that of the tunnel.
pub(super) fn add_to_response(hops: Hops, headers: &mut HeaderMap) {
    if hops.via {
        headers.append(header::VIA, via(Version::HTTP_11));
    }
}

/// Adds an end-to-end field. A caller that lists it in `Connection`, which it must not (RFC 9110, 7.6.1), would
/// otherwise get it removed.
fn add(headers: &mut HeaderMap, name: HeaderName, value: HeaderValue) {
    let is_name = |option: &&str| option.trim().eq_ignore_ascii_case(name.as_str());
    let connection = headers.get_all(header::CONNECTION).iter();
    let options: Vec<&str> = connection
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .collect();
    if options.iter().any(is_name) {
        let others = options.into_iter().filter(|option| !is_name(option));
        let others = others.collect::<Vec<_>>().join(",");
        match HeaderValue::try_from(others) {
            Ok(others) => headers.insert(header::CONNECTION, others),
            // Unreachable: the options came from a valid field.
            Err(_) => headers.remove(header::CONNECTION),
        };
    }
    headers.append(name, value);
}

/// Returns the relay's `Via` for a message that came in this version.
fn via(version: Version) -> HeaderValue {
    HeaderValue::from_static(match version {
        Version::HTTP_10 => "1.0 integration-relay",
        Version::HTTP_2 => "2 integration-relay",
        Version::HTTP_3 => "3 integration-relay",
        _ => "1.1 integration-relay",
    })
}

fn forwarded(caller: Caller<'_>) -> Option<HeaderValue> {
    // A dual-stack listener reports an IPv4 client as a mapped IPv6 address.
    let address = match caller.address.to_canonical() {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("\"[{address}]\""),
    };
    let host = match caller.host.and_then(token_or_quoted) {
        Some(host) => format!(";host={host}"),
        None => String::new(),
    };
    let proto = if caller.is_tls { "https" } else { "http" };
    HeaderValue::try_from(format!("for={address}{host};proto={proto}")).ok()
}

/// Returns a text as a token if it is one, else as a quoted string (RFC 9110, 5.6.2 and 5.6.4). `None` for an
/// empty text and for characters that no field may have.
fn token_or_quoted(text: &str) -> Option<String> {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if text.is_empty() || !text.bytes().all(|byte| matches!(byte, b'\t' | b' '..=b'~')) {
        return None;
    }
    if text.bytes().all(is_token) {
        return Some(text.to_owned());
    }
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for character in text.chars() {
        if matches!(character, '"' | '\\') {
            quoted.push('\\');
        }
        quoted.push(character);
    }
    quoted.push('"');
    Some(quoted)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: Hops = Hops {
        via: true,
        forwarded: true,
    };

    fn caller<'a>(address: &str, host: Option<&'a str>, is_tls: bool) -> Caller<'a> {
        Caller {
            address: address.parse().unwrap(),
            host,
            is_tls,
        }
    }

    fn values(headers: &HeaderMap, name: &str) -> Vec<String> {
        let values = headers.get_all(name).iter();
        let values = values.map(|value| value.to_str().unwrap().to_owned());
        values.collect()
    }

    /// Returns the only `Forwarded` for a caller.
    fn forwarded_value(caller: Caller<'_>) -> String {
        let mut headers = HeaderMap::new();
        add_to_request(BOTH, &mut headers, Version::HTTP_11, caller);
        let mut all = values(&headers, "forwarded");
        assert_eq!(all.len(), 1);
        all.remove(0)
    }

    #[test]
    fn no_field_is_added_by_default() {
        let mut headers = HeaderMap::new();
        let sender = caller("192.0.2.1", Some("relay.example"), true);
        add_to_request(Hops::default(), &mut headers, Version::HTTP_11, sender);
        add_to_response(Hops::default(), &mut headers);
        assert!(headers.is_empty());
    }

    #[test]
    fn each_field_has_its_own_switch() {
        let added = |hops: Hops| {
            let mut headers = HeaderMap::new();
            let sender = caller("192.0.2.1", None, false);
            add_to_request(hops, &mut headers, Version::HTTP_11, sender);
            (
                headers.contains_key("via"),
                headers.contains_key("forwarded"),
            )
        };
        let via = Hops {
            via: true,
            ..Hops::default()
        };
        let forwarded = Hops {
            forwarded: true,
            ..Hops::default()
        };
        assert_eq!(added(via), (true, false));
        assert_eq!(added(forwarded), (false, true));
        assert_eq!(added(BOTH), (true, true));
        let in_response = |hops: Hops| {
            let mut headers = HeaderMap::new();
            add_to_response(hops, &mut headers);
            values(&headers, "via")
        };
        assert_eq!(in_response(via), ["1.1 integration-relay"]);
        assert_eq!(in_response(forwarded), [""; 0]);
    }

    #[test]
    fn via_names_the_received_version() {
        for (version, expected) in [
            (Version::HTTP_10, "1.0 integration-relay"),
            (Version::HTTP_11, "1.1 integration-relay"),
            (Version::HTTP_2, "2 integration-relay"),
        ] {
            let mut headers = HeaderMap::new();
            let sender = caller("192.0.2.1", None, false);
            add_to_request(BOTH, &mut headers, version, sender);
            assert_eq!(values(&headers, "via"), [expected]);
        }
    }

    #[test]
    fn existing_fields_stay_in_front() {
        let mut headers = HeaderMap::new();
        headers.append("via", HeaderValue::from_static("1.0 fred, 1.1 p.example"));
        headers.append("forwarded", HeaderValue::from_static("for=10.0.0.1"));
        headers.append("via", HeaderValue::from_static("1.1 integration-relay"));
        let sender = caller("192.0.2.1", Some("a"), true);
        add_to_request(BOTH, &mut headers, Version::HTTP_2, sender);
        assert_eq!(
            values(&headers, "via"),
            [
                "1.0 fred, 1.1 p.example",
                "1.1 integration-relay",
                "2 integration-relay"
            ]
        );
        assert_eq!(
            values(&headers, "forwarded"),
            ["for=10.0.0.1", "for=192.0.2.1;host=a;proto=https"]
        );
        let mut response = HeaderMap::new();
        response.append("via", HeaderValue::from_static("1.1 squid"));
        add_to_response(BOTH, &mut response);
        assert_eq!(
            values(&response, "via"),
            ["1.1 squid", "1.1 integration-relay"]
        );
        assert!(!response.contains_key("forwarded"));
    }

    #[test]
    fn caller_cannot_remove_fields_by_connection() {
        let mut headers = HeaderMap::new();
        for options in ["x-hop, VIA ,upgrade", "forwarded", "viaduct"] {
            headers.append("connection", HeaderValue::from_static(options));
        }
        headers.append("x-hop", HeaderValue::from_static("1"));
        let sender = caller("192.0.2.1", None, false);
        let via = Hops {
            via: true,
            ..Hops::default()
        };
        let connection = |headers: &HeaderMap| {
            let options = values(headers, "connection").join(",");
            let options = options.split(',').map(|option| option.trim().to_owned());
            options.collect::<Vec<_>>()
        };
        let mut one = headers.clone();
        add_to_request(via, &mut one, Version::HTTP_11, sender);
        assert_eq!(
            connection(&one),
            ["x-hop", "upgrade", "forwarded", "viaduct"]
        );
        add_to_request(BOTH, &mut headers, Version::HTTP_11, sender);
        assert_eq!(connection(&headers), ["x-hop", "upgrade", "viaduct"]);
        let wire = transport::http::to_wire(&headers, |_| false).unwrap();
        let names: Vec<_> = wire.iter().map(|(name, _)| name).collect();
        assert_eq!(names, [&b"via"[..], b"forwarded"]);
    }

    #[test]
    fn addresses_follow_rfc_7239() {
        for (address, expected) in [
            ("192.0.2.1", "192.0.2.1"),
            ("2001:db8::1", "\"[2001:db8::1]\""),
            ("2001:DB8:0:0::0:1", "\"[2001:db8::1]\""),
            ("::1", "\"[::1]\""),
            ("::ffff:192.0.2.1", "192.0.2.1"),
        ] {
            let value = forwarded_value(caller(address, None, false));
            assert_eq!(value, format!("for={expected};proto=http"));
        }
    }

    #[test]
    fn host_is_quoted_unless_it_is_a_token() {
        for (host, expected) in [
            ("relay.example", "relay.example"),
            ("relay.example:8443", "\"relay.example:8443\""),
            ("[2001:db8::1]:8443", "\"[2001:db8::1]:8443\""),
            ("a\"b", "\"a\\\"b\""),
            ("a\\", "\"a\\\\\""),
            ("a;for=10.0.0.1", "\"a;for=10.0.0.1\""),
            ("a, for=10.0.0.1", "\"a, for=10.0.0.1\""),
            ("\",for=x", "\"\\\",for=x\""),
        ] {
            let value = forwarded_value(caller("192.0.2.1", Some(host), true));
            assert_eq!(value, format!("for=192.0.2.1;host={expected};proto=https"));
        }
    }

    #[test]
    fn invalid_host_is_left_out() {
        for host in [
            None,
            Some(""),
            Some("b\u{fc}cher.example"),
            Some("a\r\nx: y"),
            Some("a\0"),
            Some("a\u{7f}"),
        ] {
            let value = forwarded_value(caller("192.0.2.1", host, false));
            assert_eq!(value, "for=192.0.2.1;proto=http", "{host:?}");
        }
    }

    #[test]
    fn section_accepts_its_two_keys_only() {
        let parse = |text: &str| toml::from_str::<Hops>(text);
        assert_eq!(parse("").unwrap(), Hops::default());
        assert_eq!(parse("via = true\nforwarded = true").unwrap(), BOTH);
        assert!(!parse("via = true").unwrap().forwarded);
        assert!(parse("x_forwarded_for = true").is_err());
        assert!(parse("via = \"yes\"").is_err());
    }
}
