//! What a relay says of itself to those behind it: `Via` (RFC 9110, 7.6.3) and `Forwarded` (RFC 7239).
//!
//! ```text
//! Via: 1.1 integration-relay
//! Forwarded: for=192.0.2.1;host="relay.example:8443";proto=https
//! ```
//!
//! Both tell a target of the relay and of who called it, so neither is said unless `[hop_headers]` asks for it.
//! What came in such fields stays, in front of the relay's own: it is its sender's word, and nobody here
//! has checked it.

use http::Version;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use std::net::IpAddr;

/// `[hop_headers]` of `relay.toml`: what is said of the way that a request took. By default nothing.
///
/// ```toml
/// [hop_headers]
/// via = true
/// forwarded = true
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Hops {
    /// Whether requests and answers that pass through get a `Via`. Default false.
    pub via: bool,
    /// Whether requests that pass through get a `Forwarded`, with the caller's address. Default false.
    pub forwarded: bool,
}

/// Who sent a request, as the relay sees it.
#[derive(Debug, Clone, Copy)]
pub struct Caller<'a> {
    /// The other end of its connection: the caller, or what stands in front of the relay.
    pub address: IpAddr,
    /// The `Host` of its request, or the authority of its URL.
    pub host: Option<&'a str>,
    /// Whether its connection to the relay is TLS.
    pub is_tls: bool,
}

/// Adds to a request what its target is told, behind what is there. `version` is what the caller spoke.
///
/// The request has its `Connection` still: what that names goes no further, and it shall not name these.
pub fn note_request(hops: Hops, headers: &mut HeaderMap, version: Version, caller: Caller<'_>) {
    if hops.via {
        add(headers, header::VIA, via(version));
    }
    if hops.forwarded
        && let Some(value) = forwarded(caller)
    {
        add(headers, header::FORWARDED, value);
    }
}

/// Adds to an answer what the caller is told, behind what is there. The relay has it from a bridge: what that spoke with
/// the target is not told.
pub fn note_answer(hops: Hops, headers: &mut HeaderMap) {
    if hops.via {
        headers.append(header::VIA, via(Version::HTTP_11));
    }
}

/// Adds a field that is for all who follow: a caller that calls it one of the connection, which no caller
/// may (RFC 9110, 7.6.1), would have it taken out again.
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
            Err(_) => headers.remove(header::CONNECTION),
        };
    }
    headers.append(name, value);
}

/// The relay under its one name, behind the version in which the message came to it.
fn via(version: Version) -> HeaderValue {
    HeaderValue::from_static(match version {
        Version::HTTP_10 => "1.0 integration-relay",
        Version::HTTP_2 => "2 integration-relay",
        Version::HTTP_3 => "3 integration-relay",
        _ => "1.1 integration-relay",
    })
}

fn forwarded(caller: Caller<'_>) -> Option<HeaderValue> {
    let address = match caller.address.to_canonical() {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("\"[{address}]\""),
    };
    let host = match caller.host.and_then(word) {
        Some(host) => format!(";host={host}"),
        None => String::new(),
    };
    let proto = if caller.is_tls { "https" } else { "http" };
    HeaderValue::try_from(format!("for={address}{host};proto={proto}")).ok()
}

/// A text as a token where it is one, and else in quotes (RFC 9110, 5.6.2 and 5.6.4). `None` for what
/// cannot stand in a field, and for nothing at all.
fn word(text: &str) -> Option<String> {
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

    /// The one `Forwarded` for a caller.
    fn told(caller: Caller<'_>) -> String {
        let mut headers = HeaderMap::new();
        note_request(BOTH, &mut headers, Version::HTTP_11, caller);
        let mut told = values(&headers, "forwarded");
        assert_eq!(told.len(), 1);
        told.remove(0)
    }

    #[test]
    fn nothing_is_said_by_default() {
        let mut headers = HeaderMap::new();
        let someone = caller("192.0.2.1", Some("relay.example"), true);
        note_request(Hops::default(), &mut headers, Version::HTTP_11, someone);
        note_answer(Hops::default(), &mut headers);
        assert!(headers.is_empty());
    }

    #[test]
    fn each_field_is_asked_for_by_itself() {
        let said = |hops: Hops| {
            let mut headers = HeaderMap::new();
            let someone = caller("192.0.2.1", None, false);
            note_request(hops, &mut headers, Version::HTTP_11, someone);
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
        assert_eq!(said(via), (true, false));
        assert_eq!(said(forwarded), (false, true));
        assert_eq!(said(BOTH), (true, true));
        let answered = |hops: Hops| {
            let mut headers = HeaderMap::new();
            note_answer(hops, &mut headers);
            values(&headers, "via")
        };
        assert_eq!(answered(via), ["1.1 integration-relay"]);
        assert_eq!(answered(forwarded), [""; 0]);
    }

    #[test]
    fn via_names_the_version_that_came_in() {
        for (version, said) in [
            (Version::HTTP_10, "1.0 integration-relay"),
            (Version::HTTP_11, "1.1 integration-relay"),
            (Version::HTTP_2, "2 integration-relay"),
        ] {
            let mut headers = HeaderMap::new();
            let someone = caller("192.0.2.1", None, false);
            note_request(BOTH, &mut headers, version, someone);
            assert_eq!(values(&headers, "via"), [said]);
        }
    }

    #[test]
    fn what_is_there_stays_in_front() {
        let mut headers = HeaderMap::new();
        headers.append("via", HeaderValue::from_static("1.0 fred, 1.1 p.example"));
        headers.append("forwarded", HeaderValue::from_static("for=10.0.0.1"));
        headers.append("via", HeaderValue::from_static("1.1 integration-relay"));
        let someone = caller("192.0.2.1", Some("a"), true);
        note_request(BOTH, &mut headers, Version::HTTP_2, someone);
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
        let mut answer = HeaderMap::new();
        answer.append("via", HeaderValue::from_static("1.1 squid"));
        note_answer(BOTH, &mut answer);
        assert_eq!(
            values(&answer, "via"),
            ["1.1 squid", "1.1 integration-relay"]
        );
        assert!(!answer.contains_key("forwarded"));
    }

    #[test]
    fn a_caller_cannot_have_them_taken_out_as_fields_of_the_connection() {
        let mut headers = HeaderMap::new();
        for options in ["x-hop, VIA ,upgrade", "forwarded", "viaduct"] {
            headers.append("connection", HeaderValue::from_static(options));
        }
        headers.append("x-hop", HeaderValue::from_static("1"));
        let someone = caller("192.0.2.1", None, false);
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
        note_request(via, &mut one, Version::HTTP_11, someone);
        assert_eq!(
            connection(&one),
            ["x-hop", "upgrade", "forwarded", "viaduct"]
        );
        note_request(BOTH, &mut headers, Version::HTTP_11, someone);
        assert_eq!(connection(&headers), ["x-hop", "upgrade", "viaduct"]);
        let wire = transport::http::to_wire(&headers, |_| false).unwrap();
        let names: Vec<_> = wire.iter().map(|(name, _)| name).collect();
        assert_eq!(names, [&b"via"[..], b"forwarded"]);
    }

    #[test]
    fn addresses_are_written_as_rfc_7239_has_them() {
        for (address, said) in [
            ("192.0.2.1", "192.0.2.1"),
            ("2001:db8::1", "\"[2001:db8::1]\""),
            ("2001:DB8:0:0::0:1", "\"[2001:db8::1]\""),
            ("::1", "\"[::1]\""),
            ("::ffff:192.0.2.1", "192.0.2.1"),
        ] {
            let told = told(caller(address, None, false));
            assert_eq!(told, format!("for={said};proto=http"));
        }
    }

    #[test]
    fn a_host_is_quoted_where_it_is_no_token() {
        for (host, said) in [
            ("relay.example", "relay.example"),
            ("relay.example:8443", "\"relay.example:8443\""),
            ("[2001:db8::1]:8443", "\"[2001:db8::1]:8443\""),
            ("a\"b", "\"a\\\"b\""),
            ("a\\", "\"a\\\\\""),
            ("a;for=10.0.0.1", "\"a;for=10.0.0.1\""),
            ("a, for=10.0.0.1", "\"a, for=10.0.0.1\""),
            ("\",for=x", "\"\\\",for=x\""),
        ] {
            let told = told(caller("192.0.2.1", Some(host), true));
            assert_eq!(told, format!("for=192.0.2.1;host={said};proto=https"));
        }
    }

    #[test]
    fn a_host_that_cannot_stand_there_is_left_out() {
        for host in [
            None,
            Some(""),
            Some("b\u{fc}cher.example"),
            Some("a\r\nx: y"),
            Some("a\0"),
            Some("a\u{7f}"),
        ] {
            let told = told(caller("192.0.2.1", host, false));
            assert_eq!(told, "for=192.0.2.1;proto=http", "{host:?}");
        }
    }

    #[test]
    fn the_section_takes_its_two_keys_alone() {
        let parse = |text: &str| toml::from_str::<Hops>(text);
        assert_eq!(parse("").unwrap(), Hops::default());
        assert_eq!(parse("via = true\nforwarded = true").unwrap(), BOTH);
        assert!(!parse("via = true").unwrap().forwarded);
        assert!(parse("x_forwarded_for = true").is_err());
        assert!(parse("via = \"yes\"").is_err());
    }
}
