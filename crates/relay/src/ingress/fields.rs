//! The header fields of a request and a response that pass through.

use super::pass::IngressKind;
use crate::body::{self, Body};
use crate::problem::{BRIDGE_ERROR, Problem};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode, Version};
use protocol::frame::{Headers, ResponseHead};
use protocol::{Code, Execution, Failure};
use transport::http::{FrameError, to_wire, to_wire_with_upgrade};

/// Returns whether the caller holds its body back until the target wants it.
pub(super) fn expects_continue(headers: &HeaderMap) -> bool {
    let value = headers.get(header::EXPECT).map(HeaderValue::as_bytes);
    value.is_some_and(|value| value.eq_ignore_ascii_case(b"100-continue"))
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
    // The bridge sends its own `Expect: 100-continue`. Any other expectation is for the target.
    if expects_continue(&headers) {
        headers.remove(header::EXPECT);
    }
    to_wire(&headers, |name| is_not_for_target(name, kind)).map_err(too_large)
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
    to_wire_with_upgrade(headers, protocols, skip).map_err(too_large)
}

fn is_not_for_target(name: &HeaderName, kind: &IngressKind<'_>) -> bool {
    *name == header::HOST || kind.own_header.as_ref() == Some(name)
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

/// Returns the target's header fields, without one that only the relay's own errors have.
///
/// # Errors
/// `target_protocol` for a field that HTTP cannot express.
pub(super) fn response_headers(head: &ResponseHead) -> Result<HeaderMap, Failure> {
    let mut headers = transport::http::from_wire(&head.headers)
        .map_err(|_| unusable("a header field is not valid HTTP"))?;
    headers.remove(BRIDGE_ERROR);
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

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
