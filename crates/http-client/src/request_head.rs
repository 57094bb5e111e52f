//! The head of a request as a target gets it.
//!
//! The request line has the approved path, byte for byte. `Host` is the approved authority, never the
//! caller's. The framing is the caller's: a length, chunks, or none.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Uri};
use policy::{Approved, RuleRef};
use protocol::frame::{BodyLength, RequestHead};
use protocol::{Code, Failure};
use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

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
    let overrides = approved.overrides();
    let is_left_out = |name: &HeaderName| {
        let is_override = overrides.drops(name.as_str());
        if is_override {
            note_dropped(approved.rule(), name);
        }
        is_override || *name == header::HOST
    };
    transport::http::append_from_wire(headers, &head.headers, is_left_out)
        .map_err(|error| invalid(&error.to_string()))?;
    // Set by this client: the relay removes the caller's own field, which is about another connection.
    if head.expect_continue {
        let value = HeaderValue::from_static("100-continue");
        headers.insert(header::EXPECT, value);
    }
    frame(headers, head.body);
    Ok(request)
}

/// Rules whose first dropped field was logged. Above this many, no further rule is.
const NOTED_MAX: usize = 1024;

/// Logs that a field was dropped, once for each rule: a caller may send it with every request.
pub(crate) fn note_dropped(rule: &RuleRef, name: &HeaderName) {
    static NOTED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let rule = rule.to_string();
    let mut noted = NOTED.lock().unwrap_or_else(PoisonError::into_inner);
    if noted.len() >= NOTED_MAX || !noted.insert(rule.clone()) {
        return;
    }
    drop(noted);
    tracing::warn!(
        rule,
        field = name.as_str(),
        "dropped a field that could replace the method or path that this rule allows; pass_overrides = true in it \
         sends such fields"
    );
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
    fn overrides_are_dropped_where_a_rule_restricts() {
        let names = |change: fn(&mut Rule)| {
            let mut rule = Rule::new(HostPattern::parse("10.0.0.1").unwrap(), Methods::Any);
            change(&mut rule);
            let policy = Policy::new(vec![rule], Vec::new()).unwrap();
            let candidate = policy.decide_url("POST", "http://10.0.0.1/a").unwrap();
            let approved = candidate.approve("10.0.0.1".parse().unwrap()).unwrap();
            let head = head(&[
                ("x-http-method-override", "DELETE"),
                ("X_HTTP_METHOD", "DELETE"),
                ("x-original-url", "/admin"),
                ("x-other", "1"),
            ]);
            let request = request_head(&approved, &head).unwrap();
            let names = request.headers().keys();
            let names = names.filter(|name| name.as_str().starts_with('x'));
            names
                .map(|name| name.as_str().to_owned())
                .collect::<Vec<_>>()
        };
        let all = [
            "x-http-method-override",
            "x_http_method",
            "x-original-url",
            "x-other",
        ];
        assert_eq!(names(|_| ()), all);
        let post = |rule: &mut Rule| rule.methods = Methods::parse(&["POST"]).unwrap();
        assert_eq!(names(post), ["x-original-url", "x-other"]);
        let paths = |rule: &mut Rule| {
            rule.paths = Some(vec![policy::PathPattern::parse("/a").unwrap()]);
        };
        assert_eq!(names(paths), [all[0], all[1], "x-other"]);
        let passing = |rule: &mut Rule| {
            rule.methods = Methods::parse(&["POST"]).unwrap();
            rule.pass_overrides = true;
        };
        assert_eq!(names(passing), all);
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
