//! The JSON of a call, parsed once into a valid request.

use super::described::CallDocument;
use crate::config::{EXPIRES_IN_MAX_S, Limits};
use crate::problem::{self, Problem};
use crate::request_name::check_label;
use crate::storage::idempotency::RequestDigest;
use base64::engine::general_purpose::STANDARD;
use base64::{DecodeError, Engine as _};
use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use policy::Target;
use protocol::Code;
use protocol::frame::{Class, FrameError, RequestHead, RequestTarget, TimeLeft};
use protocol::limits::{HEAD_MAX_BYTES, HEADERS_MAX};
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// Characters of an idempotency key.
const IDEMPOTENCY_KEY_MAX: usize = 128;

/// Bytes of a header value in the head of a request: its length has two bytes on the wire.
const VALUE_MAX_BYTES: usize = u16::MAX as usize;

/// Bytes that a header field takes in a head, next to its name and value.
const HEADER_OVERHEAD_BYTES: usize = 4;

/// The `User-Agent` of requests that the relay composes.
const USER_AGENT: &str = concat!("integration-relay/", env!("CARGO_PKG_VERSION"));

/// The value of a header field, or several.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Values {
    One(String),
    Many(Vec<String>),
}
/// Whether the caller waits for the target's response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// The caller waits.
    Wait,
    /// The call is stored first, and then delivered.
    Deliver,
}

/// A valid call.
#[derive(Debug)]
pub(crate) struct CallRequest {
    pub(crate) target: Target,
    pub(crate) head: RequestHead,
    pub(crate) body: Bytes,
    pub(crate) bridge: Option<String>,
    pub(crate) timeout_ms: u32,
    pub(crate) idempotency_key: Option<String>,
    pub(crate) label: Option<String>,
    pub(crate) mode: Mode,
    pub(crate) at_least_once: bool,
    pub(crate) expires_in: Option<u32>,
    /// The hash of the call, if it is stored or has an idempotency key.
    pub(crate) digest: Option<RequestDigest>,
}

impl CallRequest {
    /// Parses a call. `key` is the idempotency key of the request's header.
    ///
    /// # Errors
    /// `invalid_request`, with the field that is wrong.
    pub(crate) fn parse(
        text: &[u8],
        limits: &Limits,
        key: Option<String>,
    ) -> Result<Self, Problem> {
        let document: CallDocument = problem::document::parse(text).map_err(Problem::invalid)?;
        let mode = match document.mode.as_deref() {
            None | Some("wait") => Mode::Wait,
            Some("deliver") => Mode::Deliver,
            Some(other) => {
                return Err(Problem::invalid(format!(
                    "mode {other:?} is unknown; use \"wait\" or \"deliver\""
                )));
            }
        };
        if document.at_least_once && mode == Mode::Wait {
            return Err(Problem::invalid("at_least_once requires mode \"deliver\""));
        }
        match document.expires_in {
            Some(_) if mode == Mode::Wait => {
                return Err(Problem::invalid("expires_in requires mode \"deliver\""));
            }
            Some(seconds) if seconds > EXPIRES_IN_MAX_S => {
                return Err(Problem::invalid(format!(
                    "expires_in is {seconds}; it must be from 0 to {EXPIRES_IN_MAX_S} seconds"
                )));
            }
            Some(_) | None => {}
        }
        let is_keyed = key.is_some() || document.idempotency_key.is_some();
        let digest = (is_keyed || mode == Mode::Deliver).then(|| document.digest(text));
        let target = Target::parse(&document.url)
            .map_err(|error| Problem::invalid(format!("url: {error}; use an http or https URL")))?;
        let method = document.method.unwrap_or_else(|| "POST".to_owned());
        http::Method::from_bytes(method.as_bytes())
            .ok()
            // CONNECT has no URL to go to (RFC 9110, 9.3.6).
            .filter(|method| *method != http::Method::CONNECT)
            .ok_or_else(|| Problem::invalid(format!("method {method:?} is not supported")))?;
        let body = body(document.body, document.body_base64)?;
        let timeout_ms = timeout(document.timeout_ms, limits)?;
        if let Some(key) = &document.idempotency_key {
            let usable = (1..=IDEMPOTENCY_KEY_MAX).contains(&key.len());
            if !usable || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(Problem::invalid(format!(
                    "idempotency_key must be 1 to {IDEMPOTENCY_KEY_MAX} visible ASCII characters"
                )));
            }
        }
        if let Some(label) = &document.label {
            check_label(label).map_err(|error| Problem::invalid(format!("label: {error}")))?;
        }
        let length = transport::http::composed_length(&method, body.len());
        let head = RequestHead {
            class: Class::Interactive,
            share: protocol::frame::CallerWeight::default(),
            target: RequestTarget::Url(document.url),
            method,
            headers: header_fields(document.headers, document.headers_base64)?,
            body: length,
            expect_continue: false,
            time_left: TimeLeft {
                head_ms: timeout_ms,
                idle_ms: timeout_ms,
                total_ms: timeout_ms,
            },
            call: None,
            credential: document.credential,
        };
        Ok(Self {
            target,
            head,
            body,
            bridge: document.bridge,
            timeout_ms,
            idempotency_key: one_key(document.idempotency_key, key)?,
            label: document.label,
            mode,
            at_least_once: document.at_least_once,
            expires_in: document.expires_in,
            digest,
        })
    }

    /// Adds the caller's trace, unless the call has its own for the target.
    ///
    /// # Errors
    /// `headers_too_large`.
    pub(crate) fn join_trace(
        &mut self,
        trace: &(HeaderValue, Option<HeaderValue>),
    ) -> Result<(), Problem> {
        // The fields were made by `to_wire` in `parse`, so this cannot fail.
        let mut map = transport::http::from_wire(&self.head.headers).unwrap_or_default();
        if map.contains_key(crate::trace::TRACEPARENT) {
            return Ok(());
        }
        map.insert(crate::trace::TRACEPARENT, trace.0.clone());
        if let Some(state) = &trace.1 {
            map.insert(crate::trace::TRACESTATE, state.clone());
        }
        self.head.headers = transport::http::to_wire(&map, |_| false)
            .map_err(|error| Problem::not_sent(Code::HeadersTooLarge, error.to_string()))?;
        Ok(())
    }
}

/// Returns the idempotency key of the document or of the request's header.
///
/// # Errors
/// `invalid_request` if they differ.
fn one_key(own: Option<String>, key: Option<String>) -> Result<Option<String>, Problem> {
    match (own, key) {
        (Some(own), Some(key)) if own != key => Err(Problem::invalid(
            "the header Idempotency-Key and the field idempotency_key have different keys; give one of them",
        )),
        (own, key) => Ok(key.or(own)),
    }
}

fn timeout(requested: Option<u32>, limits: &Limits) -> Result<u32, Problem> {
    let max = limits.call_timeout_max.millis();
    match requested {
        None => Ok(limits.call_timeout.millis()),
        Some(ms) if ms > 0 && ms <= max => Ok(ms),
        Some(ms) => Err(Problem::invalid(format!(
            "timeout_ms is {ms}; it must be from 1 to {max}"
        ))),
    }
}

fn body(text: Option<String>, base64: Option<String>) -> Result<Bytes, Problem> {
    match (text, base64) {
        (Some(_), Some(_)) => Err(Problem::invalid("give body or body_base64, not both")),
        (Some(text), None) => Ok(text.into()),
        (None, Some(text)) => STANDARD
            .decode(text)
            .map(Bytes::from)
            .map_err(|error| Problem::invalid(not_base64(&error))),
        (None, None) => Ok(Bytes::new()),
    }
}

/// Returns what is wrong with `body_base64`. Positions are counted from 1.
fn not_base64(error: &DecodeError) -> String {
    let why = match error {
        DecodeError::InvalidByte(at, b'-' | b'_') => format!(
            "character {} is one of base64url; write + and / (RFC 4648, section 4)",
            at.saturating_add(1)
        ),
        DecodeError::InvalidByte(at, _) => format!(
            "character {} is none of A to Z, a to z, 0 to 9, + and /",
            at.saturating_add(1)
        ),
        DecodeError::InvalidLength(_) | DecodeError::InvalidPadding => {
            "its length is not a multiple of 4: it was cut short, or = is missing at its end"
                .to_owned()
        }
        DecodeError::InvalidLastSymbol(..) => "its last characters encode no whole byte".to_owned(),
    };
    format!("body_base64 is not base64: {why}")
}

/// Returns whether a caller may not set the field: fields of the connection, and fields that the relay or the bridge
/// writes.
fn is_reserved(name: &HeaderName) -> bool {
    transport::http::is_hop_by_hop(name)
        || [header::HOST, header::CONTENT_LENGTH, header::EXPECT].contains(name)
}

/// Adds the relay's `User-Agent` to a request that has none (RFC 9110, 10.1.5). Some servers and firewalls
/// respond with 403 to a request without one.
pub(crate) fn add_user_agent(headers: &mut HeaderMap) {
    let own = HeaderValue::from_static(USER_AGENT);
    headers.entry(header::USER_AGENT).or_insert(own);
}

/// Returns the fields of a call: those given as text, and those given as bytes in base64.
fn header_fields(
    texts: Map<String, Value>,
    encoded: Map<String, Value>,
) -> Result<protocol::frame::Headers, Problem> {
    let mut map = HeaderMap::new();
    append_fields(&mut map, "headers", texts, |text| Some(text.into_bytes()))?;
    let decode = |text: String| STANDARD.decode(text).ok();
    append_fields(&mut map, "headers_base64", encoded, decode)?;
    add_user_agent(&mut map);
    transport::http::to_wire(&map, |_| false).map_err(|error| too_large(&map, error))
}

/// Returns the problem of header fields that do not fit into a head, with the limit that they exceed.
fn too_large(map: &HeaderMap, error: FrameError) -> Problem {
    let longest = map.iter().max_by_key(|(_, value)| value.len());
    let detail = match (error, longest) {
        (FrameError::TooManyHeaders, _) => {
            let fields = map.len();
            format!("headers: the call has {fields} header fields; the limit is {HEADERS_MAX}")
        }
        (FrameError::TooLarge, Some((name, value))) if value.len() > VALUE_MAX_BYTES => format!(
            "headers: the value of {name} has {} bytes; the limit is {VALUE_MAX_BYTES}",
            value.len()
        ),
        (FrameError::TooLarge, _) => {
            let bytes = |(name, value): (&HeaderName, &HeaderValue)| {
                HEADER_OVERHEAD_BYTES + name.as_str().len() + value.len()
            };
            let bytes: usize = map.iter().map(bytes).sum();
            format!(
                "headers: the header section has {bytes} bytes ({HEADER_OVERHEAD_BYTES} for each field included); \
                 the limit is {HEAD_MAX_BYTES}"
            )
        }
        (error, _) => format!("headers: {error}"),
    };
    Problem::not_sent(Code::HeadersTooLarge, detail)
}

/// Adds the fields of one member of the call's document. `bytes` decodes a value.
fn append_fields(
    map: &mut HeaderMap,
    member: &str,
    given: Map<String, Value>,
    bytes: impl Fn(String) -> Option<Vec<u8>>,
) -> Result<(), Problem> {
    let before = map.clone();
    for (text, values) in given {
        let name = HeaderName::from_bytes(text.as_bytes()).map_err(|_| {
            Problem::invalid(format!("{member}: {text:?} is not a valid header name"))
        })?;
        if is_reserved(&name) {
            return Err(Problem::invalid(format!(
                "{member}: {name} must not be set (it is derived from url and body, or belongs to a connection)"
            )));
        }
        if before.contains_key(&name) {
            return Err(Problem::invalid(format!(
                "{member}: {name} is in headers as well; give it in one of them"
            )));
        }
        // Parsed for each field, so that the error names the field.
        let values: Values = serde_json::from_value(values).map_err(|_| {
            Problem::invalid(format!(
                "{member}: the value of {name} must be a string or a list of strings"
            ))
        })?;
        let values = match values {
            Values::One(value) => vec![value],
            Values::Many(values) => values,
        };
        for value in values {
            let value = bytes(value).ok_or_else(|| {
                Problem::invalid(format!("{member}: the value of {name} is not base64"))
            })?;
            let value = HeaderValue::from_maybe_shared(Bytes::from(value)).map_err(|_| {
                Problem::invalid(format!(
                    "{member}: the value of {name} has a character that is not allowed"
                ))
            })?;
            map.append(name.clone(), value);
        }
    }
    Ok(())
}

/// Returns the target's response for the document of a call, without its body.
pub(crate) fn response(status: u16, map: &HeaderMap) -> Value {
    let mut out = json!({"status": status, "headers": headers(map)});
    let encoded = headers_base64(map);
    if !encoded.is_empty() {
        out["headers_base64"] = Value::Object(encoded);
    }
    out
}

/// Returns the fields with a value that is not UTF-8, which `headers` cannot show: all values of such a name, in
/// base64.
fn headers_base64(map: &HeaderMap) -> Map<String, Value> {
    let is_text = |value: &HeaderValue| std::str::from_utf8(value.as_bytes()).is_ok();
    map.keys()
        .filter(|name| !map.get_all(*name).iter().all(is_text))
        .map(|name| {
            let values = map.get_all(name).iter();
            let values = values.map(|value| json!(STANDARD.encode(value.as_bytes())));
            (name.as_str().to_owned(), one_or_list(values.collect()))
        })
        .collect()
}

fn one_or_list(values: Vec<Value>) -> Value {
    match <[Value; 1]>::try_from(values) {
        Ok([one]) => one,
        Err(many) => Value::Array(many),
    }
}

/// Returns the fields of a response. A name that repeats has a list.
fn headers(map: &HeaderMap) -> Value {
    let mut out = Map::new();
    for name in map.keys() {
        let values: Vec<Value> = map
            .get_all(name)
            .iter()
            // JSON has no form for bytes that are not UTF-8; `headers_base64` has them.
            .map(|value| json!(String::from_utf8_lossy(value.as_bytes())))
            .collect();
        out.insert(name.as_str().to_owned(), one_or_list(values));
    }
    Value::Object(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::frame::BodyLength;

    fn parse(text: &str) -> Result<CallRequest, String> {
        CallRequest::parse(text.as_bytes(), &Limits::default(), None)
            .map_err(|problem| problem.failure.detail)
    }

    #[test]
    fn absent_fields_have_defaults() {
        let call = parse(r#"{"url": "http://ci/hooks"}"#).unwrap();
        assert_eq!(call.head.method, "POST");
        assert_eq!(call.timeout_ms, 30_000);
        assert_eq!(call.head.body, BodyLength::Known(0));
    }

    #[test]
    fn bodiless_request_has_length_and_user_agent() {
        for (method, expected) in [
            ("POST", BodyLength::Known(0)),
            ("PUT", BodyLength::Known(0)),
            ("PATCH", BodyLength::Known(0)),
            ("GET", BodyLength::None),
            ("DELETE", BodyLength::None),
        ] {
            let text = format!(r#"{{"url": "http://ci/", "method": "{method}"}}"#);
            let call = parse(&text).unwrap();
            assert_eq!(call.head.body, expected, "{method}");
            let map = transport::http::from_wire(&call.head.headers).unwrap();
            assert_eq!(map[header::USER_AGENT], USER_AGENT);
        }
        let own = r#"{"url": "http://ci/", "headers": {"USER-AGENT": "mine"}}"#;
        let map = transport::http::from_wire(&parse(own).unwrap().head.headers).unwrap();
        assert_eq!(
            map.get_all(header::USER_AGENT).iter().collect::<Vec<_>>(),
            ["mine"]
        );
    }

    #[test]
    fn field_bytes_pass_in_base64() {
        let text = r#"{"url": "http://ci/", "headers_base64": {"x-name": ["/A==", "YQ=="]}}"#;
        let map = transport::http::from_wire(&parse(text).unwrap().head.headers).unwrap();
        let values: Vec<_> = map
            .get_all("x-name")
            .iter()
            .map(HeaderValue::as_bytes)
            .collect();
        assert_eq!(values, [&b"\xfc"[..], b"a"]);
        for (text, words) in [
            (r#"{"x": "%"}"#, "not base64"),
            (r#"{"x": "DQo="}"#, "not allowed"),
            (r#"{"host": "YQ=="}"#, "host"),
            (r#"{"a": "YQ=="}"#, "as well"),
        ] {
            let text = format!(
                r#"{{"url": "http://ci/", "headers": {{"a": "b"}}, "headers_base64": {text}}}"#
            );
            let error = parse(&text).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn response_fields_that_are_not_text_are_in_base64() {
        let mut map = HeaderMap::new();
        map.append("a", HeaderValue::from_bytes("\u{fc}".as_bytes()).unwrap());
        let plain = response(200, &map);
        assert_eq!(plain, json!({"status": 200, "headers": {"a": "\u{fc}"}}));
        map.append("b", HeaderValue::from_static("x"));
        map.append("b", HeaderValue::from_bytes(b"\xfc").unwrap());
        map.append("c", HeaderValue::from_bytes(b"\xe4y").unwrap());
        let encoded = &response(200, &map)["headers_base64"];
        assert_eq!(*encoded, json!({"b": ["eA==", "/A=="], "c": "5Hk="}));
    }

    #[test]
    fn reserved_header_is_rejected_by_name() {
        for name in [
            "Host",
            "content-length",
            "Transfer-Encoding",
            "connection",
            "Proxy-Authorization",
        ] {
            let text = format!(r#"{{"url": "http://ci/", "headers": {{"{name}": "x"}}}}"#);
            let error = parse(&text).unwrap_err();
            assert!(error.contains(&name.to_lowercase()), "{error}");
        }
    }

    #[test]
    fn oversized_headers_name_value_and_limit() {
        let fields = |count: usize, value: &str| {
            let fields = (0..count).map(|at| (format!("x-{at}"), json!(value)));
            let fields = Map::from_iter(fields);
            parse(&json!({"url": "http://ci/", "headers": fields}).to_string()).unwrap_err()
        };
        for (error, words) in [
            (fields(300, "a"), ["301 header fields", "the limit is 256"]),
            (
                fields(3, &"a".repeat(50_000)),
                ["header section has 150", "the limit is 131072"],
            ),
            (
                fields(1, &"a".repeat(70_000)),
                ["x-0 has 70000 bytes", "the limit is 65535"],
            ),
        ] {
            assert!(words.iter().all(|words| error.contains(words)), "{error}");
        }
    }

    #[test]
    fn label_of_a_call_is_checked() {
        let text = |label: &str| json!({"url": "http://ci/", "label": label}).to_string();
        let call = parse(&text("nightly import")).unwrap();
        assert_eq!(call.label.as_deref(), Some("nightly import"));
        let error = parse(&text("a\nb")).unwrap_err();
        assert!(error.starts_with("label: a label must have"), "{error}");
    }

    #[test]
    fn repeated_fields_are_lists() {
        let call =
            parse(r#"{"url": "http://ci/", "headers": {"a": ["1", "2"], "b": "3"}}"#).unwrap();
        assert_eq!(call.head.headers.len(), 4);
        let map = transport::http::from_wire(&call.head.headers).unwrap();
        let expected = json!({"a": ["1", "2"], "b": "3", "user-agent": USER_AGENT});
        assert_eq!(headers(&map), expected);
    }

    #[test]
    fn wrong_base64_is_explained_by_position() {
        for (text, says) in [
            ("%%%", "character 1 is none of"),
            ("AP-A", "character 3 is one of base64url"),
            ("AP+", "not a multiple of 4"),
            ("AP+A=", "not a multiple of 4"),
            ("AR==", "encode no whole byte"),
        ] {
            let problem = body(None, Some(text.to_owned())).unwrap_err();
            let detail = problem.failure.detail;
            assert!(
                detail.starts_with("body_base64 is not base64: "),
                "{detail}"
            );
            assert!(detail.contains(says) || text == "AP+A=", "{text}: {detail}");
        }
        assert_eq!(
            body(None, Some("AP+A".to_owned())).unwrap(),
            &[0, 255, 128][..]
        );
    }
}
