//! The header fields of a request and a response that pass through.

use super::pass::IngressKind;
use crate::body::{self, Body};
use crate::problem::{BRIDGE_ERROR, Problem};
use crate::request_name::{LABEL, REQUEST_ID};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode, Version};
use protocol::frame::{Headers, ResponseHead};
use protocol::{Code, Execution, Failure};
use transport::http::{FrameError, to_wire_in_context, to_wire_with_upgrade};

/// What a caller expects before it sends its body (RFC 9110, 10.1.1).
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Expectation<'a> {
    /// Nothing, or the request is in HTTP/1.0, which has no expectations.
    None,
    /// `100-continue`.
    Continue,
    /// Another expectation, or a list.
    Unknown(&'a HeaderValue),
}

/// Returns what the caller expects.
///
/// The only parser of `Expect`. It must agree with hyper, which sends the 100 only for a value that is exactly
/// `100-continue`: with a list, the caller would hold its body back and the relay would wait for it.
pub(crate) fn expectation(headers: &HeaderMap, version: Version) -> Expectation<'_> {
    if version <= Version::HTTP_10 {
        return Expectation::None;
    }
    let mut found = Expectation::None;
    for value in headers.get_all(header::EXPECT) {
        // An empty list has no expectation (RFC 9110, 5.6.1.2).
        let is_empty = |byte: &u8| matches!(byte, b',' | b' ' | b'\t');
        if value.as_bytes().iter().all(is_empty) {
            continue;
        }
        if !value.as_bytes().eq_ignore_ascii_case(b"100-continue") {
            return Expectation::Unknown(value);
        }
        found = Expectation::Continue;
    }
    found
}

/// Returns whether the caller holds its body back until the target wants it.
pub(super) fn expects_continue(headers: &HeaderMap, version: Version) -> bool {
    expectation(headers, version) == Expectation::Continue
}

/// Returns the fields for the target: without the relay's own key, and without `Host`, which the bridge
/// writes.
///
/// # Errors
/// `headers_too_large`.
pub(super) fn request_headers(
    mut headers: HeaderMap,
    version: Version,
    kind: &IngressKind<'_>,
) -> Result<Headers, Problem> {
    if version == Version::HTTP_2 {
        join_cookies(&mut headers);
    }
    // The bridge sends its own `Expect: 100-continue`. `service` rejects any other expectation, except in HTTP/1.0,
    // where the field means nothing.
    headers.remove(header::EXPECT);
    let skip = |name: &HeaderName| is_not_for_target(name, kind);
    to_wire_in_context(&headers, kind.request.context(), skip).map_err(too_large)
}

/// Returns the fields of a request to switch to one of these protocols.
///
/// # Errors
/// `headers_too_large`.
pub(super) fn upgrade_headers(
    headers: &HeaderMap,
    protocols: &HeaderValue,
    kind: &IngressKind<'_>,
) -> Result<Headers, Problem> {
    // The relay has the whole body, and the bridge sends it at once.
    let skip = |name: &HeaderName| is_not_for_target(name, kind) || *name == header::EXPECT;
    let fields = to_wire_with_upgrade(headers, protocols, skip);
    Ok(fields
        .map_err(too_large)?
        .with_context(kind.request.context()))
}

fn is_not_for_target(name: &HeaderName, kind: &IngressKind<'_>) -> bool {
    *name == header::HOST
        || kind.own_header.as_ref() == Some(name)
        || (kind.request.label().is_some() && *name == LABEL)
}

fn too_large(error: FrameError) -> Problem {
    let detail = format!("the header section does not fit the tunnel: {error}");
    Problem::not_sent(Code::HeadersTooLarge, detail)
}

/// Joins the cookies of a request. HTTP/2 splits them into several fields; elsewhere they are one (RFC 9113,
/// 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let crumbs: Vec<&[u8]> = headers
        .get_all(header::COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if crumbs.len() > 1
        && let Ok(joined) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..]))
    {
        headers.insert(header::COOKIE, joined);
    }
}

fn unusable(what: &str) -> Failure {
    let detail = format!("the target's response cannot be passed on: {what}");
    Failure::new(Code::TargetProtocol, Execution::Executed, detail)
}

/// Returns a response with the target's head.
///
/// # Errors
/// `target_protocol` for a head that HTTP cannot express.
pub(super) fn response_head(
    head: &ResponseHead,
    is_for_head: bool,
) -> Result<Response<Body>, Failure> {
    let status = StatusCode::from_u16(head.status).map_err(|_| unusable("its status"))?;
    if status.is_informational() {
        return Err(unusable("it switches protocols without a request to do so"));
    }
    let mut headers = response_headers(head)?;
    // A 204 has no body, and must not have a length either (RFC 9110, 8.6). In the response to HEAD the
    // length is that of the response to GET.
    if !is_for_head && status == StatusCode::NO_CONTENT {
        headers.remove(header::CONTENT_LENGTH);
    }
    let mut response = Response::new(body::empty());
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    Ok(response)
}

/// Returns the target's header fields, without those that only the relay writes.
///
/// # Errors
/// `target_protocol` for a field that HTTP cannot express.
pub(super) fn response_headers(head: &ResponseHead) -> Result<HeaderMap, Failure> {
    let mut headers = transport::http::from_wire(&head.headers)
        .map_err(|_| unusable("a header field is not valid HTTP"))?;
    headers.remove(BRIDGE_ERROR);
    headers.remove(REQUEST_ID);
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expectation_is_one_exact_value() {
        let parse = |values: &[&'static str], version| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::EXPECT, HeaderValue::from_static(value));
            }
            match expectation(&headers, version) {
                Expectation::None => "none".to_owned(),
                Expectation::Continue => "continue".to_owned(),
                Expectation::Unknown(value) => value.to_str().unwrap().to_owned(),
            }
        };
        let list = "100-continue, 100-continue";
        for (values, expected) in [
            (&[][..], "none"),
            (&["100-continue"], "continue"),
            (&["100-Continue"], "continue"),
            (&["100-continue", "100-continue"], "continue"),
            (&[list], list),
            (&["100-continue", list], list),
            (&["100-continue,"], "100-continue,"),
            (&["a", "100-continue"], "a"),
            (&[""], "none"),
            (&[", ,"], "none"),
            (&["", "100-continue"], "continue"),
        ] {
            for version in [Version::HTTP_11, Version::HTTP_2] {
                assert_eq!(parse(values, version), expected, "{values:?}");
            }
            assert_eq!(parse(values, Version::HTTP_10), "none", "{values:?}");
        }
    }

    #[test]
    fn http2_cookie_crumbs_are_joined() {
        let mut headers = HeaderMap::new();
        for crumb in ["a=1", "b=2"] {
            headers.append(header::COOKIE, HeaderValue::from_static(crumb));
        }
        join_cookies(&mut headers);
        assert_eq!(headers[header::COOKIE], "a=1; b=2");
        assert_eq!(headers.len(), 1);
    }
}
