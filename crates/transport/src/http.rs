//! Conversion between the heads of the crate `http` and those of the wire.
//!
//! Hop-by-hop fields are removed in both directions (RFC 9110, 7.6.1); all others keep their order and bytes.
//! `http` checks names and values that come from the wire, so a peer cannot break a message's framing.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http_body::SizeHint;
use protocol::frame::{BodyLength, Headers, HeadersBuilder};

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

/// The only protocol that a connection may be switched to (RFC 6455).
pub const WEBSOCKET: &str = "websocket";

/// Whether a request asks to switch to WebSocket (RFC 9110, 7.8).
pub fn asks_for_websocket(map: &HeaderMap) -> bool {
    let named = |name: HeaderName, token: &str| {
        let values = map.get_all(name);
        let mut tokens = values
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','));
        tokens.any(|other| other.trim().eq_ignore_ascii_case(token))
    };
    named(header::UPGRADE, WEBSOCKET) && named(header::CONNECTION, "upgrade")
}

/// Whether a request from the wire asks to switch to WebSocket (W-65).
pub fn wire_asks_for_websocket(headers: &Headers) -> bool {
    headers
        .iter()
        .any(|(name, value)| name == b"upgrade" && value == WEBSOCKET.as_bytes())
}

/// Like [`to_wire`], for a request that asks to switch to WebSocket (W-65).
///
/// # Errors
/// [`FrameError`] when they are too many or too large for a head.
pub fn to_wire_for_websocket(
    map: &HeaderMap,
    skip: impl Fn(&HeaderName) -> bool,
) -> Result<Headers, FrameError> {
    let mut builder = builder(map, skip)?;
    builder.push(header::UPGRADE.as_str().as_bytes(), WEBSOCKET.as_bytes())?;
    Ok(builder.build())
}

/// Converts the fields of `map` for the wire, without hop-by-hop fields and those that `skip` selects.
///
/// # Errors
/// [`FrameError`] when they are too many or too large for a head.
pub fn to_wire(map: &HeaderMap, skip: impl Fn(&HeaderName) -> bool) -> Result<Headers, FrameError> {
    Ok(builder(map, skip)?.build())
}

fn builder(
    map: &HeaderMap,
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
    let mut builder = HeadersBuilder::with_capacity(map.len());
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
    let mut map = HeaderMap::with_capacity(headers.len());
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
}
