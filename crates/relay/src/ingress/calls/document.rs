//! The JSON of a call, parsed once into a valid request.

use super::described::CallDocument;
use crate::config::{EXPIRES_IN_MAX_S, Limits};
use crate::problem::Problem;
use crate::request_name::check_label;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use policy::Target;
use protocol::Code;
use protocol::frame::{BodyLength, Class, RequestHead, RequestTarget, TimeLeft};
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// Characters of an idempotency key.
const IDEMPOTENCY_KEY_MAX: usize = 128;

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
}

impl CallRequest {
    /// Parses a call.
    ///
    /// # Errors
    /// `invalid_request`, with the field that is wrong.
    pub(crate) fn parse(text: &[u8], limits: &Limits) -> Result<Self, Problem> {
        // serde also reads a struct from an array, which is not part of the API.
        if !text.trim_ascii_start().starts_with(b"{") {
            return Err(Problem::invalid(
                "the body must be a JSON object like {\"url\": \"https://...\"}",
            ));
        }
        let document: CallDocument = serde_json::from_slice(text)
            .map_err(|error| Problem::invalid(format!("invalid call: {error}")))?;
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
        let length = match body.len() {
            0 => BodyLength::None,
            bytes => BodyLength::Known(bytes as u64),
        };
        let head = RequestHead {
            class: Class::Interactive,
            share: protocol::frame::CallerWeight::default(),
            target: RequestTarget::Url(document.url),
            method,
            headers: header_fields(document.headers)?,
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
            idempotency_key: document.idempotency_key,
            label: document.label,
            mode,
            at_least_once: document.at_least_once,
            expires_in: document.expires_in,
        })
    }
}

impl CallRequest {
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
            .map_err(|error| Problem::invalid(format!("body_base64 is not base64: {error}"))),
        (None, None) => Ok(Bytes::new()),
    }
}

/// Returns whether a caller may not set the field: fields of the connection, and fields that the relay or the bridge
/// writes.
fn is_reserved(name: &HeaderName) -> bool {
    transport::http::is_hop_by_hop(name)
        || [header::HOST, header::CONTENT_LENGTH, header::EXPECT].contains(name)
}

fn header_fields(given: Map<String, Value>) -> Result<protocol::frame::Headers, Problem> {
    let mut map = HeaderMap::new();
    for (text, values) in given {
        let name = HeaderName::from_bytes(text.as_bytes()).map_err(|_| {
            Problem::invalid(format!("headers: {text:?} is not a valid header name"))
        })?;
        if is_reserved(&name) {
            return Err(Problem::invalid(format!(
                "headers: {name} must not be set (it is derived from url and body, or belongs to a connection)"
            )));
        }
        // Parsed for each field, so that the error names the field.
        let values: Values = serde_json::from_value(values).map_err(|_| {
            Problem::invalid(format!(
                "headers: the value of {name} must be a string or a list of strings"
            ))
        })?;
        let values = match values {
            Values::One(value) => vec![value],
            Values::Many(values) => values,
        };
        for value in values {
            let value = HeaderValue::from_bytes(value.as_bytes()).map_err(|_| {
                Problem::invalid(format!(
                    "headers: the value of {name} has a character that is not allowed"
                ))
            })?;
            map.append(name.clone(), value);
        }
    }
    transport::http::to_wire(&map, |_| false)
        .map_err(|error| Problem::not_sent(Code::HeadersTooLarge, format!("headers: {error}")))
}

/// Returns the fields of a response. A name that repeats has a list.
pub(crate) fn headers(map: &HeaderMap) -> Value {
    let mut out = Map::new();
    for name in map.keys() {
        let values: Vec<Value> = map
            .get_all(name)
            .iter()
            // JSON has no form for bytes that are not UTF-8.
            .map(|value| json!(String::from_utf8_lossy(value.as_bytes())))
            .collect();
        let value = match <[Value; 1]>::try_from(values) {
            Ok([one]) => one,
            Err(many) => Value::Array(many),
        };
        out.insert(name.as_str().to_owned(), value);
    }
    Value::Object(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<CallRequest, String> {
        CallRequest::parse(text.as_bytes(), &Limits::default())
            .map_err(|problem| problem.failure.detail)
    }

    #[test]
    fn absent_fields_have_defaults() {
        let call = parse(r#"{"url": "http://ci/hooks"}"#).unwrap();
        assert_eq!(call.head.method, "POST");
        assert_eq!(call.timeout_ms, 30_000);
        assert_eq!(call.head.body, BodyLength::None);
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
        assert_eq!(call.head.headers.len(), 3);
        let map = transport::http::from_wire(&call.head.headers).unwrap();
        assert_eq!(headers(&map), json!({"a": ["1", "2"], "b": "3"}));
    }
}
