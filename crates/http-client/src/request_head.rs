//! The head of a request as a target gets it.
//!
//! The request line has the approved path, byte for byte. `Host` is the approved authority, never the
//! caller's. The framing is the caller's: a length, chunks, or none.

use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, Uri};
use policy::Approved;
use protocol::frame::{BodyLength, RequestHead};
use protocol::{Code, Failure};

/// Builds the head of a request from the relay's head and the approved target.
///
/// # Errors
/// `invalid_request` when a part is not HTTP; nothing was dispatched.
pub fn request_head(approved: &Approved, head: &RequestHead) -> Result<Request<()>, Failure> {
    let target = approved.target();
    let method = Method::from_bytes(approved.method().as_bytes())
        .map_err(|_| invalid("the method is not valid HTTP"))?;
    let uri = Uri::try_from(target.path_and_query())
        .map_err(|_| invalid("the path cannot be put on a request line"))?;
    let host = HeaderValue::try_from(target.authority())
        .map_err(|_| invalid("the host cannot be put into a header field"))?;
    let mut request = Request::new(());
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    let headers = request.headers_mut();
    headers.reserve(head.headers.len() + 2);
    // Host is the first field (RFC 9110, 7.2).
    headers.insert(header::HOST, host);
    transport::http::append_from_wire(headers, &head.headers, |name| *name == header::HOST)
        .map_err(|error| invalid(&error.to_string()))?;
    // Set by this client: the relay removes the caller's own field, which is about another connection.
    if head.expect_continue {
        let value = HeaderValue::from_static("100-continue");
        headers.insert(header::EXPECT, value);
    }
    frame(headers, head.body);
    Ok(request)
}

/// Writes the framing that the caller chose. Other framing fields are removed: two statements about the
/// length are how requests are smuggled (RFC 9112, 11.2).
fn frame(headers: &mut HeaderMap, body: BodyLength) {
    match body {
        BodyLength::None => {
            headers.remove(header::CONTENT_LENGTH);
        }
        BodyLength::Known(bytes) => {
            headers.insert(header::CONTENT_LENGTH, bytes.into());
        }
        BodyLength::Unknown => {
            headers.remove(header::CONTENT_LENGTH);
            let chunked = HeaderValue::from_static("chunked");
            headers.insert(header::TRANSFER_ENCODING, chunked);
        }
    }
}

fn invalid(detail: &str) -> Failure {
    Failure::not_dispatched(Code::InvalidRequest, detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use policy::{HostPattern, Methods, Policy, Rule};
    use protocol::frame::{Class, HeadersBuilder, RequestTarget, TimeLeft};

    fn approved(url: &str) -> Approved {
        let host = HostPattern::parse("10.0.0.1").unwrap();
        let mut rule = Rule::new(host, Methods::Any);
        rule.ports = policy::Ports::parse(&[80, 8080]).unwrap();
        let policy = Policy::new(vec![rule], Vec::new()).unwrap();
        let candidate = policy.decide_url("POST", url).unwrap();
        candidate.approve("10.0.0.1".parse().unwrap()).unwrap()
    }

    fn head(fields: &[(&str, &str)]) -> RequestHead {
        let mut headers = HeadersBuilder::default();
        for (name, value) in fields {
            headers.push(name.as_bytes(), value.as_bytes()).unwrap();
        }
        RequestHead {
            class: Class::Interactive,
            share: protocol::frame::CallerWeight::default(),
            target: RequestTarget::Url(String::new()),
            method: "POST".into(),
            headers: headers.build(),
            body: BodyLength::Known(2),
            expect_continue: false,
            time_left: TimeLeft::default(),
            call: None,
            credential: None,
        }
    }

    #[test]
    fn request_head_has_approved_path_host_and_field_order() {
        let approved = approved("http://10.0.0.1:8080/a%2Fb;c?x=1&y=%20");
        let head = head(&[
            ("X-Second", "2"),
            ("host", "evil.example"),
            ("connection", "close"),
            ("transfer-encoding", "chunked"),
            ("cookie", "a=1"),
            ("cookie", "b=2"),
            ("content-length", "99"),
        ]);
        let request = request_head(&approved, &head).unwrap();
        assert_eq!(request.uri().to_string(), "/a%2Fb;c?x=1&y=%20");
        let fields: Vec<_> = request
            .headers()
            .iter()
            .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
            .collect();
        let expected = [
            ("host", "10.0.0.1:8080"),
            ("x-second", "2"),
            ("cookie", "a=1"),
            ("cookie", "b=2"),
            ("content-length", "2"),
        ];
        assert_eq!(fields, expected);
    }

    #[test]
    fn request_head_keeps_callers_framing_alone() {
        for (body, length, chunked) in [
            (BodyLength::None, None, false),
            (BodyLength::Known(0), Some("0"), false),
            (BodyLength::Known(7), Some("7"), false),
            (BodyLength::Unknown, None, true),
        ] {
            let mut headers = HeaderMap::new();
            headers.append(header::CONTENT_LENGTH, HeaderValue::from_static("99"));
            headers.append(header::CONTENT_LENGTH, HeaderValue::from_static("98"));
            frame(&mut headers, body);
            let lengths: Vec<_> = headers.get_all(header::CONTENT_LENGTH).iter().collect();
            assert_eq!(lengths.len(), usize::from(length.is_some()));
            assert_eq!(
                lengths.first().map(|value| value.as_bytes()),
                length.map(str::as_bytes)
            );
            assert_eq!(headers.contains_key(header::TRANSFER_ENCODING), chunked);
        }
    }
}
