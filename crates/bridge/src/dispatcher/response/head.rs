//! The head of a response, as it goes to the relay.

use super::executed;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, HeaderName, HeaderValue, WWW_AUTHENTICATE};
use http::{HeaderMap, StatusCode};
use http_body::Body;
use protocol::frame::{BodyLength, Headers, ResponseHead};
use protocol::limits::{HEAD_MAX_BYTES, HEADERS_MAX};
use protocol::{Code, Failure};
use std::borrow::Cow;
use transport::failure::{Cause, Diagnosis};
use transport::http::FrameError;

/// Bytes of a field's value on the wire, whose length is a u16 (W-8).
const VALUE_MAX_BYTES: usize = u16::MAX as usize;

/// Characters of a field's name that a failure shows.
const NAME_SHOWN_MAX: usize = 64;

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
    // A 204 must have no length, also as the response to HEAD (RFC 9110, 8.6).
    let is_no_content = status == StatusCode::NO_CONTENT;
    let headers = match is_no_content {
        true => Cow::Borrowed(headers),
        false => one_length(headers)?,
    };
    let is_dropped = |name: &HeaderName| (is_chunked || is_no_content) && name == CONTENT_LENGTH;
    let headers = transport::http::to_wire(&headers, is_dropped)
        .map_err(|error| too_large_for_wire(&headers, error))?;
    Ok(ResponseHead {
        status: status.as_u16(),
        headers,
        body: length,
    })
}

/// Returns the failure of a head that the wire cannot carry, with what is too large.
pub(in super::super) fn too_large_for_wire(headers: &HeaderMap, error: FrameError) -> Failure {
    let largest = headers.iter().max_by_key(|(_, value)| value.len());
    let found = match largest {
        _ if error == FrameError::TooManyHeaders => {
            let fields = headers.len();
            format!("it has {fields} fields, and at most {HEADERS_MAX} are passed on")
        }
        Some((name, value)) if value.len() > VALUE_MAX_BYTES => {
            let shown: String = name.as_str().chars().take(NAME_SHOWN_MAX).collect();
            let bytes = value.len();
            format!("{shown} has {bytes} bytes, and at most {VALUE_MAX_BYTES} are passed on")
        }
        _ => format!("at most {HEAD_MAX_BYTES} bytes are passed on"),
    };
    let why = Diagnosis::new(Cause::ResponseHeadTooLarge, found);
    executed(Code::ResponseTooLarge, why.with_remedy())
}

/// Returns the fields with one length, where the target repeated the same length: the next reader may reject
/// the repetition (RFC 9110, 8.6). A length that is no number is refused: the HTTP library reads none in a response
/// that has no body.
fn one_length(headers: &HeaderMap) -> Result<Cow<'_, HeaderMap>, Failure> {
    let mut values = headers.get_all(CONTENT_LENGTH).iter();
    let Some(first) = values.next() else {
        return Ok(Cow::Borrowed(headers));
    };
    if values.next().is_none() && is_length(first.as_bytes()) {
        return Ok(Cow::Borrowed(headers));
    }
    let values = headers.get_all(CONTENT_LENGTH).iter();
    let mut numbers = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let first = numbers.next().unwrap_or_default().trim_ascii();
    let value = HeaderValue::from_bytes(first).ok();
    match value.filter(|_| is_length(first)) {
        Some(value) if numbers.all(|other| other.trim_ascii() == first) => {
            let mut headers = headers.clone();
            headers.insert(CONTENT_LENGTH, value);
            Ok(Cow::Owned(headers))
        }
        Some(_) => Err(executed(
            Code::TargetProtocol,
            "the target's response has several lengths",
        )),
        None => {
            let why = Diagnosis::new(Cause::ResponseHeadInvalid, "Content-Length");
            Err(executed(Code::TargetProtocol, why.with_remedy()))
        }
    }
}

/// Returns whether a value of `Content-Length` is a number of 64 bits. A parser alone would take a sign, too.
fn is_length(value: &[u8]) -> bool {
    value.first().is_some_and(u8::is_ascii_digit)
        && std::str::from_utf8(value).is_ok_and(|text| text.parse::<u64>().is_ok())
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
        for values in [&["3", "4"][..], &["3, 4"], &["3,"], &["3", ""]] {
            let detail = sent(values).unwrap_err().detail;
            assert!(detail.contains("several lengths"), "{values:?}: {detail}");
        }
    }

    #[test]
    fn length_that_is_no_number_is_refused() {
        let empty = Empty::<Bytes>::new();
        for (method, status) in [("HEAD", 200), ("GET", 304)] {
            let status = StatusCode::from_u16(status).unwrap();
            for value in ["", "x", "+5", "-1", "5 5", "99999999999999999999999"] {
                let refused = wire_head(method, status, &headers(Some(value)), &empty).unwrap_err();
                assert_eq!(refused.code, Code::TargetProtocol, "{method} {value}");
                assert!(refused.detail.contains("Content-Length"), "{refused:?}");
            }
        }
    }

    #[test]
    fn head_that_does_not_fit_names_its_limit() {
        let empty = Empty::<Bytes>::new();
        let refused = |map: &HeaderMap| wire_head("GET", StatusCode::OK, map, &empty).unwrap_err();
        let with = |fields: usize, bytes: usize| {
            let mut map = HeaderMap::new();
            for _ in 0..fields {
                let value = HeaderValue::try_from("v".repeat(bytes)).unwrap();
                map.append("x-big", value);
            }
            map
        };
        for (map, words) in [
            (with(1, 66_000), "x-big has 66000 bytes, and at most 65535"),
            (with(257, 1), "it has 257 fields, and at most 256"),
            (with(3, 50_000), "at most 131072 bytes"),
        ] {
            let failure = refused(&map);
            assert_eq!(failure.code, Code::ResponseTooLarge);
            assert_eq!(failure.execution, protocol::Execution::Executed);
            assert!(failure.detail.contains(words), "{}", failure.detail);
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
        for (method, status) in [("HEAD", 200), ("GET", 304)] {
            let status = StatusCode::from_u16(status).unwrap();
            let response = wire_head(method, status, &headers(Some("99")), &empty).unwrap();
            assert_eq!(response.body, BodyLength::None, "{method} {status}");
            assert!(has_length(&response));
        }
    }

    #[test]
    fn no_content_has_no_length() {
        let empty = Empty::<Bytes>::new();
        for method in ["HEAD", "GET"] {
            for length in ["0", "5", ""] {
                let headers = headers(Some(length));
                let response = wire_head(method, StatusCode::NO_CONTENT, &headers, &empty).unwrap();
                assert_eq!(response.body, BodyLength::None, "{method}");
                assert!(!has_length(&response), "{method} {length}");
            }
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
