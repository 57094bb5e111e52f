//! The head of a response, as it goes to the relay.

use super::executed;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, HeaderValue, WWW_AUTHENTICATE};
use http::{HeaderMap, StatusCode};
use http_body::Body;
use protocol::frame::{BodyLength, Headers, ResponseHead};
use protocol::{Code, Failure};
use std::borrow::Cow;

/// Builds the wire's head of a response.
pub(super) fn wire_head<B: Body>(
    method: &str,
    status: StatusCode,
    headers: &HeaderMap,
    body: &B,
) -> Result<ResponseHead, Failure> {
    // These never have a body, whatever their fields state (RFC 9110, 6.4.1).
    let has_no_body =
        method == "HEAD" || status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED;
    let hint = body.size_hint();
    // With chunks, a length is invalid (RFC 9112, 6.3): passed on, it could smuggle a response.
    let is_chunked = !has_no_body && hint.exact().is_none();
    let length = match hint.exact() {
        _ if has_no_body => BodyLength::None,
        Some(bytes) => BodyLength::Known(bytes),
        None => BodyLength::Unknown,
    };
    let headers = one_length(headers)?;
    let headers = transport::http::to_wire(&headers, |name| is_chunked && name == CONTENT_LENGTH)
        .map_err(|error| {
        let detail = format!("the head of the target's response cannot be passed on: {error}");
        executed(Code::TargetProtocol, detail)
    })?;
    Ok(ResponseHead {
        status: status.as_u16(),
        headers,
        body: length,
    })
}

/// Returns the fields with one length, where the target repeated the same length: the next reader may reject
/// the repetition (RFC 9110, 8.6).
fn one_length(headers: &HeaderMap) -> Result<Cow<'_, HeaderMap>, Failure> {
    let mut values = headers.get_all(CONTENT_LENGTH).iter();
    let Some(first) = values.next() else {
        return Ok(Cow::Borrowed(headers));
    };
    if values.next().is_none() && first.as_bytes().iter().all(u8::is_ascii_digit) {
        return Ok(Cow::Borrowed(headers));
    }
    let values = headers.get_all(CONTENT_LENGTH).iter();
    let mut numbers = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let first = numbers.next().unwrap_or_default().trim_ascii();
    let is_number = !first.is_empty() && first.iter().all(u8::is_ascii_digit);
    let value = HeaderValue::from_bytes(first).ok().filter(|_| is_number);
    match value {
        Some(value) if numbers.all(|other| other.trim_ascii() == first) => {
            let mut headers = headers.clone();
            headers.insert(CONTENT_LENGTH, value);
            Ok(Cow::Owned(headers))
        }
        _ => Err(executed(
            Code::TargetProtocol,
            "the target's response has several lengths",
        )),
    }
}

/// Returns whether the connection may now be authenticated as this request's caller, or is about to be. These
/// schemes authenticate a connection, not a request (RFC 4559), so the connection must not serve another
/// caller.
pub(in super::super) fn is_auth_bound(request: &Headers, response: &HeaderMap) -> bool {
    request.iter().any(|(name, value)| {
        name.eq_ignore_ascii_case(AUTHORIZATION.as_str().as_bytes()) && names_bound_scheme(value)
    }) || response
        .get_all(WWW_AUTHENTICATE)
        .iter()
        .any(|value| names_bound_scheme(value.as_bytes()))
}

/// Searches for the names anywhere in the value: a false match costs one connection, a missed one would hand
/// the caller's login to another caller.
fn names_bound_scheme(value: &[u8]) -> bool {
    value
        .split(|byte| !byte.is_ascii_alphanumeric())
        .any(|word| word.eq_ignore_ascii_case(b"ntlm") || word.eq_ignore_ascii_case(b"negotiate"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use http_body::Frame;
    use http_body_util::{Empty, Full};
    use http_client::BodyError;
    use protocol::frame::HeadersBuilder;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    #[test]
    fn repeated_length_is_sent_once_or_rejected() {
        let sent = |values: &[&'static str]| {
            let mut map = HeaderMap::new();
            for value in values {
                map.append(CONTENT_LENGTH, HeaderValue::from_static(value));
            }
            one_length(&map).map(|map| {
                map.get_all(CONTENT_LENGTH)
                    .iter()
                    .cloned()
                    .collect::<Vec<_>>()
            })
        };
        assert_eq!(sent(&[]).unwrap(), Vec::<HeaderValue>::new());
        for values in [&["3"][..], &["3", "3"], &["3, 3"], &["3,3", " 3"]] {
            assert_eq!(sent(values).unwrap(), ["3"], "{values:?}");
        }
        for values in [&["3", "4"][..], &["3, 4"], &["x"], &["3,"], &[""; 2]] {
            assert!(sent(values).is_err(), "{values:?}");
        }
    }

    fn headers(length: Option<&'static str>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if let Some(length) = length {
            headers.insert(CONTENT_LENGTH, HeaderValue::from_static(length));
        }
        headers
    }

    fn has_length(head: &ResponseHead) -> bool {
        head.headers
            .iter()
            .any(|(name, _)| name == b"content-length")
    }

    #[test]
    fn response_body_keeps_its_known_length() {
        let full = Full::new(Bytes::from_static(b"1234567"));
        let seven = wire_head("GET", StatusCode::OK, &headers(Some("7")), &full).unwrap();
        assert_eq!(seven.body, BodyLength::Known(7));
        assert!(has_length(&seven));
        let empty = Empty::<Bytes>::new();
        let none = wire_head("GET", StatusCode::OK, &headers(Some("0")), &empty).unwrap();
        assert_eq!(none.body, BodyLength::Known(0));
    }

    #[test]
    fn response_to_head_keeps_length_without_body() {
        let empty = Empty::<Bytes>::new();
        for (method, status) in [("HEAD", 200), ("GET", 304), ("GET", 204)] {
            let status = StatusCode::from_u16(status).unwrap();
            let response = wire_head(method, status, &headers(Some("99")), &empty).unwrap();
            assert_eq!(response.body, BodyLength::None, "{method} {status}");
            assert!(has_length(&response));
        }
    }

    #[test]
    fn length_next_to_chunks_is_dropped() {
        let response = wire_head("GET", StatusCode::OK, &headers(Some("5")), &NoFrames).unwrap();
        assert_eq!(response.body, BodyLength::Unknown);
        assert!(!has_length(&response));
    }

    #[test]
    fn connection_authentication_schemes_are_detected() {
        let bound = |request: &str, response: &'static str| {
            let mut headers = HeadersBuilder::default();
            headers.push(b"x-other", b"NTLM").unwrap();
            headers.push(b"authorization", request.as_bytes()).unwrap();
            let mut received = HeaderMap::new();
            received.append(WWW_AUTHENTICATE, HeaderValue::from_static("Digest a=b"));
            received.append(WWW_AUTHENTICATE, HeaderValue::from_static(response));
            is_auth_bound(&headers.build(), &received)
        };
        assert!(!bound("Basic YTpi", "Basic realm=\"x\""));
        assert!(bound("NTLM TlRMTVNTUAAB", "Basic"));
        assert!(bound("negotiate YII", "Basic"));
        assert!(bound("Basic YTpi", "nTlM"));
        assert!(bound("Basic YTpi", "Basic realm=\"x\", Negotiate"));
    }

    struct NoFrames;

    impl Body for NoFrames {
        type Data = Bytes;
        type Error = BodyError;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
            Poll::Pending
        }
    }
}
