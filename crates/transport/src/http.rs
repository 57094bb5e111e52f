//! Conversion between the heads of the crate `http` and those of the wire.
//!
//! Hop-by-hop fields are removed in both directions (RFC 9110, 7.6.1); all others keep their order and bytes.
//! `http` checks names and values that come from the wire, so a peer cannot break a message's framing.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http_body::SizeHint;
use protocol::frame::{BodyLength, Headers, HeadersBuilder, RequestContext};

pub use protocol::frame::FrameError;

/// A field from the wire is not a valid HTTP field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a header field is not valid HTTP")]
pub struct InvalidHeader;

/// Whether a field belongs to one connection (RFC 9110, 7.6.1, and the older names).
pub fn is_hop_by_hop(name: &HeaderName) -> bool {
    [
        header::CONNECTION,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
        header::TE,
        header::PROXY_AUTHENTICATE,
        header::PROXY_AUTHORIZATION,
    ]
    .contains(name)
        || matches!(name.as_str(), "keep-alive" | "proxy-connection")
}

/// The protocol of RFC 6455.
pub const WEBSOCKET: &str = "websocket";

/// Fields that are usually added to those of a head from the wire.
const ADDED_FIELDS: usize = 3;

/// Bytes of the protocols that one request may ask for.
const PROTOCOLS_MAX_BYTES: usize = 256;

/// Returns the protocols that a request asks to switch to (RFC 9110, 7.8) and that may be passed on, as one
/// value. `None` where there is none.
pub fn upgrade_protocols(map: &HeaderMap) -> Option<HeaderValue> {
    if !map.contains_key(header::UPGRADE) {
        return None;
    }
    let connection = map.get_all(header::CONNECTION).iter();
    let mut options = connection
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    let is_asked = options.any(|option| option.trim().eq_ignore_ascii_case("upgrade"));
    let values = map.get_all(header::UPGRADE).iter();
    is_asked
        .then(|| passed_on(values.map(HeaderValue::as_bytes)))
        .flatten()
}

/// Returns the protocols of a head from the wire (W-65): those that a request asks for, or the one that a
/// target switched to.
pub fn wire_upgrade(headers: &Headers) -> Option<HeaderValue> {
    let fields = headers.iter().filter(|(name, _)| *name == b"upgrade");
    passed_on(fields.map(|(_, value)| value))
}

/// Whether WebSocket is one of the protocols.
pub fn has_websocket(protocols: &HeaderValue) -> bool {
    protocol_names(protocols.as_bytes()).any(|name| name.eq_ignore_ascii_case(WEBSOCKET))
}

/// Whether a target may switch to `chosen`: every protocol of it was requested.
pub fn is_requested(requested: &HeaderValue, chosen: &HeaderValue) -> bool {
    let mut chosen = protocol_names(chosen.as_bytes()).peekable();
    let is_known =
        |name: &str| protocol_names(requested.as_bytes()).any(|own| own.eq_ignore_ascii_case(name));
    chosen.peek().is_some() && chosen.all(is_known)
}

/// Joins the protocols that may be passed on. After a switch the bytes are opaque, so a switch to another version
/// of HTTP, or to TLS with HTTP inside, would open every path of the target. h2c is also obsolete (RFC 9113,
/// 3.1), and clients that offer it continue without.
fn passed_on<'a>(values: impl Iterator<Item = &'a [u8]>) -> Option<HeaderValue> {
    let mut joined = String::new();
    for name in values.flat_map(protocol_names) {
        if carries_http(name) {
            continue;
        }
        if !joined.is_empty() {
            joined.push_str(", ");
        }
        joined.push_str(name);
        if joined.len() > PROTOCOLS_MAX_BYTES {
            return None;
        }
    }
    let value = HeaderValue::try_from(joined).ok()?;
    (!value.is_empty()).then_some(value)
}

fn protocol_names(value: &[u8]) -> impl Iterator<Item = &str> {
    // Text that is not ASCII names no protocol.
    let text = std::str::from_utf8(value).unwrap_or_default();
    let names = text.split(',').map(|name| name.trim_matches([' ', '\t']));
    names.filter(|name| !name.is_empty() && name.bytes().all(|b| b == b' ' || b.is_ascii_graphic()))
}

fn carries_http(protocol: &str) -> bool {
    let end = protocol.find(|c: char| !c.is_ascii_alphanumeric() && c != '-');
    let name = protocol[..end.unwrap_or(protocol.len())].to_ascii_lowercase();
    // The drafts of HTTP/2 were named `h2c-14` and so on.
    matches!(&*name, "http" | "shttp" | "tls" | "ssl" | "h3") || name.starts_with("h2")
}

/// Like [`to_wire`], with the protocols of a switch (W-65).
///
/// # Errors
/// [`FrameError`] when they are too many or too large for a head.
pub fn to_wire_with_upgrade(
    map: &HeaderMap,
    protocols: &HeaderValue,
    skip: impl Fn(&HeaderName) -> bool,
) -> Result<Headers, FrameError> {
    let mut builder = builder(map, &RequestContext::default(), skip)?;
    builder.push(header::UPGRADE.as_str().as_bytes(), protocols.as_bytes())?;
    Ok(builder.build())
}

/// Converts the fields of `map` for the wire, without hop-by-hop fields and those that `skip` selects.
///
/// # Errors
/// [`FrameError`] when they are too many or too large for a head.
pub fn to_wire(map: &HeaderMap, skip: impl Fn(&HeaderName) -> bool) -> Result<Headers, FrameError> {
    Ok(builder(map, &RequestContext::default(), skip)?.build())
}

/// Like [`to_wire`], with the context of the request first (W-69), if there is room for it.
///
/// # Errors
/// [`FrameError`] when the fields are too many or too large for a head.
pub fn to_wire_in_context(
    map: &HeaderMap,
    context: &RequestContext,
    skip: impl Fn(&HeaderName) -> bool,
) -> Result<Headers, FrameError> {
    match builder(map, context, &skip) {
        Ok(builder) => Ok(builder.build()),
        Err(_) => to_wire(map, skip),
    }
}

fn builder(
    map: &HeaderMap,
    context: &RequestContext,
    skip: impl Fn(&HeaderName) -> bool,
) -> Result<HeadersBuilder, FrameError> {
    // `Connection` lists further hop-by-hop fields. `close` is an option and names no field.
    let named: Vec<&str> = map
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|token| !token.is_empty() && !token.eq_ignore_ascii_case("close"))
        .collect();
    let mut builder = HeadersBuilder::with_capacity(map.len() + context.fields());
    context.push_to(&mut builder)?;
    for (name, value) in map {
        let of_connection = is_hop_by_hop(name)
            || named
                .iter()
                .any(|token| token.eq_ignore_ascii_case(name.as_str()));
        if !of_connection && !skip(name) {
            builder.push(name.as_str().as_bytes(), value.as_bytes())?;
        }
    }
    Ok(builder)
}

/// Converts the fields of a head from the wire. Values are slices of the head.
///
/// # Errors
/// [`InvalidHeader`] when a name or a value is not valid HTTP.
pub fn from_wire(headers: &Headers) -> Result<HeaderMap, InvalidHeader> {
    // Both programs add fields: without room for them the map would be built twice.
    let mut map = HeaderMap::with_capacity(headers.len() + ADDED_FIELDS);
    append_from_wire(&mut map, headers, |_| false)?;
    Ok(map)
}

/// Adds the fields of a head from the wire, except those that `skip` selects.
///
/// # Errors
/// [`InvalidHeader`] when a name or a value is not valid HTTP.
pub fn append_from_wire(
    map: &mut HeaderMap,
    headers: &Headers,
    skip: impl Fn(&HeaderName) -> bool,
) -> Result<(), InvalidHeader> {
    for (name, value) in headers.iter() {
        let name = HeaderName::from_bytes(name).map_err(|_| InvalidHeader)?;
        let value = HeaderValue::from_maybe_shared(headers.block().slice_ref(value))
            .map_err(|_| InvalidHeader)?;
        // Removed on this side as well: a peer that sends them violates W-8, and they could change framing.
        if !is_hop_by_hop(&name) && !skip(&name) {
            map.append(name, value);
        }
    }
    Ok(())
}

/// Returns what is known of a body's length, from `Content-Length` or from the body itself. A message that ends
/// with its head has no body, whatever length it names (as responses to HEAD do).
pub fn body_length(headers: &HeaderMap, hint: &SizeHint, is_end: bool) -> BodyLength {
    match content_length(headers) {
        Some(0) => BodyLength::Known(0),
        _ if is_end => BodyLength::None,
        Some(length) => BodyLength::Known(length),
        None => hint.exact().map_or(BodyLength::Unknown, BodyLength::Known),
    }
}

/// Returns what the head of a request that this program composes states about its body. A request without a body has no
/// length, except for methods that usually have one: some servers respond with 411 to those (RFC 9110, 8.6).
pub fn composed_length(method: &str, bytes: usize) -> BodyLength {
    match bytes {
        0 if !["POST", "PUT", "PATCH"].contains(&method) => BodyLength::None,
        bytes => BodyLength::Known(bytes as u64),
    }
}

/// Returns the value of `Content-Length`, if it is a number.
fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers
        .get(header::CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hop_by_hop_fields_are_removed_and_order_is_kept() {
        let mut map = HeaderMap::new();
        for (name, value) in [
            ("connection", "x-hop, close"),
            ("x-hop", "1"),
            ("te", "gzip"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("cookie", "a"),
            ("cookie", "b"),
            ("x-secret", "s"),
        ] {
            map.append(
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            );
        }
        let wire = to_wire(&map, |name| name == "x-secret").unwrap();
        let fields: Vec<_> = wire.iter().collect();
        assert_eq!(
            fields,
            [(&b"cookie"[..], &b"a"[..]), (&b"cookie"[..], &b"b"[..])]
        );
    }

    #[test]
    fn invalid_field_from_the_wire_is_rejected() {
        for (name, value) in [
            (&b"x"[..], &b"a\r\nb: c"[..]),
            (b"x y", b""),
            (b"x\0", b""),
            (b"x", b"\0"),
            (b"x:", b""),
        ] {
            let mut builder = HeadersBuilder::default();
            builder.push(name, value).unwrap();
            assert_eq!(from_wire(&builder.build()), Err(InvalidHeader), "{name:?}");
        }
    }

    #[test]
    fn upgrade_to_http_is_not_passed_on() {
        let protocols = |connection: &'static str, upgrades: &[&'static str]| {
            let mut map = HeaderMap::new();
            map.append(header::CONNECTION, HeaderValue::from_static(connection));
            for upgrade in upgrades {
                map.append(header::UPGRADE, HeaderValue::from_static(upgrade));
            }
            let value = upgrade_protocols(&map)?;
            Some(value.to_str().unwrap().to_owned())
        };
        for (upgrades, expected) in [
            (&["websocket"] as &[&str], Some("websocket")),
            (&["WebSocket"], Some("WebSocket")),
            (&["tcp"], Some("tcp")),
            (&["SPDY/3.1"], Some("SPDY/3.1")),
            (&["tls-icap"], Some("tls-icap")),
            (&["docker raw stream"], Some("docker raw stream")),
            (&["h2c, foo/2 ,bar", "baz"], Some("foo/2, bar, baz")),
            (&["h2c"], None),
            (&["H2C;q=1"], None),
            (&["h2"], None),
            (&["h2c-14"], None),
            (&["HTTP/2.0"], None),
            (&["TLS/1.2, HTTP/1.1"], None),
            (&[", ,"], None),
            (&[], None),
        ] {
            assert_eq!(
                protocols("keep-alive, Upgrade", upgrades).as_deref(),
                expected
            );
            assert_eq!(protocols("close", upgrades), None, "{upgrades:?}");
        }
    }

    #[test]
    fn switch_must_be_to_a_requested_protocol() {
        let requested = HeaderValue::from_static("foo/2, WebSocket");
        assert!(has_websocket(&requested));
        for (chosen, expected) in [
            ("websocket", true),
            ("FOO/2", true),
            ("foo/2, websocket", true),
            ("foo/3", false),
            ("foo/2, bar", false),
            ("", false),
        ] {
            let chosen = HeaderValue::from_static(chosen);
            assert_eq!(is_requested(&requested, &chosen), expected, "{chosen:?}");
        }
    }
}
