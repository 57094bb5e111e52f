//! The relay's own errors, as problem documents (RFC 9457).
//!
//! ```json
//! {"type": "urn:integration-bridge:problem:bridge_offline", "title": "bridge offline", "status": 503,
//!  "detail": "...", "code": "bridge_offline", "execution": "not_sent", "help": "/errors/bridge_offline", "retry_after": 5}
//! ```
//!
//! They have a header `Bridge-Error: CODE`. A target's response never has it.

pub(crate) mod document;
pub(crate) mod help;

use http::header::{self, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use protocol::{Code, Failure};
use runtime::peer_text::escape;
use serde_json::{Map, Value, json};
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use crate::body::{self, Body};
use crate::capacity::ExchangePermit;
use crate::request_name::{REQUEST_ID, id_header};

/// Distinguishes the relay's own errors from a target's responses.
pub(crate) const BRIDGE_ERROR: HeaderName = HeaderName::from_static("bridge-error");

/// A failure, and what else its response states.
#[derive(Debug, Clone)]
pub(crate) struct Problem {
    /// Code, execution and detail.
    pub failure: Failure,
    /// The id of the call or request, where there is one.
    pub id: Option<Arc<str>>,
    /// The bridge that had the request, or that the last attempt was sent to.
    pub bridge: Option<Arc<str>>,
    /// The allowed methods, for `method_not_allowed`.
    pub allow: Option<Cow<'static, str>>,
    /// When to retry, if not at the usual time for the code.
    pub later: Option<Duration>,
    /// Whether the connection ends with this response, because the bytes after it may not be a request.
    pub closes: bool,
    /// Whether the response goes to a client of the proxy, which gets 407 instead of 401 (RFC 9110, 15.5.8).
    pub at_proxy: bool,
    /// Whether the response has no document. The HTTP client of Java 17 waits forever for the body of a final response
    /// that came where it expected 100 (<https://bugs.openjdk.org/browse/JDK-8286171>).
    pub is_bare: bool,
    /// The status, if it is not that of the code.
    pub other_status: Option<StatusCode>,
    /// The request's permit, which its response keeps until it is written.
    pub permit: Option<ExchangePermit>,
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        Self {
            failure,
            id: None,
            bridge: None,
            allow: None,
            later: None,
            closes: false,
            at_proxy: false,
            is_bare: false,
            other_status: None,
            permit: None,
        }
    }
}

impl Problem {
    /// Returns a problem of a request that was not sent.
    pub(crate) fn not_sent(code: Code, detail: impl Into<String>) -> Self {
        Failure::not_sent(code, detail).into()
    }

    /// Returns `invalid_request`.
    pub(crate) fn invalid(detail: impl Into<String>) -> Self {
        Self::not_sent(Code::InvalidRequest, detail)
    }

    /// Returns `not_found`: there is nothing, or nothing that this key may see.
    pub(crate) fn not_found() -> Self {
        Self::not_sent(Code::NotFound, "not found")
    }

    /// Returns `not_found` for a path that no operation has.
    pub(crate) fn unknown_path() -> Self {
        let detail =
            "this API has no such path: GET /openapi.json on the public listener lists them";
        Self::not_sent(Code::NotFound, detail)
    }

    /// Returns `method_not_allowed`, with the allowed methods.
    pub(crate) fn method(allow: &'static str) -> Self {
        let detail = format!("this path allows {allow}");
        Self {
            allow: Some(allow.into()),
            ..Self::not_sent(Code::MethodNotAllowed, detail)
        }
    }

    /// Returns `method_not_allowed`, with the allowed methods.
    pub(crate) fn methods(allow: &[&str]) -> Self {
        let allow = allow.join(", ");
        Self {
            allow: Some(allow.clone().into()),
            ..Self::not_sent(Code::MethodNotAllowed, format!("this path allows {allow}"))
        }
    }

    /// Returns the same with the id of a call or request.
    pub(crate) fn of_request(self, id: impl Into<Arc<str>>) -> Self {
        Self {
            id: Some(id.into()),
            ..self
        }
    }

    /// Returns the same with the bridge that the last attempt was sent to.
    pub(crate) fn through(self, bridge: Option<Arc<str>>) -> Self {
        Self { bridge, ..self }
    }

    /// Returns the same with the time to retry after.
    pub(crate) fn later(self, later: Duration) -> Self {
        Self {
            later: Some(later),
            ..self
        }
    }

    /// Returns the same, which keeps the request's permit.
    pub(crate) fn holding(self, permit: ExchangePermit) -> Self {
        Self {
            permit: Some(permit),
            ..self
        }
    }

    /// Returns a problem for a client of the proxy.
    pub(crate) fn at_proxy(failure: Failure) -> Self {
        Self {
            at_proxy: true,
            ..failure.into()
        }
    }

    /// Returns the same, after which an HTTP/1.1 connection is closed.
    pub(crate) fn closing(self) -> Self {
        Self {
            closes: true,
            ..self
        }
    }

    /// Returns the same for a caller that holds its body back: it may send the body or not, so the connection is
    /// closed. A request for a key has no document.
    pub(crate) fn before_body(self) -> Self {
        Self {
            is_bare: self.failure.code == Code::Unauthorized,
            ..self.closing()
        }
    }

    /// Returns the same with another status than that of its code.
    pub(crate) fn with_status(self, status: StatusCode) -> Self {
        Self {
            other_status: Some(status),
            ..self
        }
    }

    fn status(&self) -> u16 {
        if let Some(status) = self.other_status {
            return status.as_u16();
        }
        match self.failure.code {
            // A client of a proxy would otherwise attribute the 401 to the target.
            Code::Unauthorized if self.at_proxy => 407,
            code => code.http_status(),
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        self.later.or_else(|| self.usual_retry_after())
    }

    fn usual_retry_after(&self) -> Option<Duration> {
        let usual = self.failure.code.retry_after()?;
        Some(self.failure.retry_after().unwrap_or(usual))
    }

    /// Returns the document.
    pub(crate) fn document(&self) -> Value {
        let code = self.failure.code;
        let mut out = Map::new();
        let kind = format!("urn:integration-bridge:problem:{code}");
        out.insert("type".into(), json!(kind));
        out.insert("title".into(), json!(code.as_str().replace('_', " ")));
        out.insert("status".into(), json!(self.status()));
        // A bridge may have written it, and people read it on terminals.
        out.insert("detail".into(), json!(escape(&self.failure.detail)));
        out.insert("code".into(), json!(code.as_str()));
        let execution = self.failure.execution.as_str();
        out.insert("execution".into(), json!(execution));
        // A relative path would be one of the target, where the client believes that it talks to the target.
        if !self.at_proxy {
            out.insert("help".into(), json!(help::path(code)));
        }
        if let Some(id) = &self.id {
            out.insert("id".into(), json!(&**id));
        }
        if let Some(after) = self.retry_after() {
            out.insert("retry_after".into(), json!(after.as_secs()));
        }
        Value::Object(out)
    }

    /// Returns the response.
    pub(crate) fn into_response(self) -> Response<Body> {
        let code = self.failure.code;
        let mut body = match self.is_bare {
            true => body::empty(),
            false => body::full(format!("{}\n", self.document())),
        };
        if let Some(permit) = self.permit.clone() {
            body = body.with_permit(permit);
        }
        let mut response = Response::new(body);
        *response.status_mut() =
            // Every code has a valid status. The fallback only avoids a panic.
            StatusCode::from_u16(self.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        if !self.is_bare {
            let kind = HeaderValue::from_static("application/problem+json");
            headers.insert(header::CONTENT_TYPE, kind);
        }
        headers.insert(BRIDGE_ERROR, HeaderValue::from_static(code.as_str()));
        if let Some(id) = &self.id {
            headers.insert(REQUEST_ID, id_header(id));
        }
        if code == Code::Unauthorized {
            let name = match self.at_proxy {
                true => header::PROXY_AUTHENTICATE,
                false => header::WWW_AUTHENTICATE,
            };
            headers.insert(
                name,
                HeaderValue::from_static("Basic realm=\"integration-relay\", charset=\"UTF-8\""),
            );
        }
        if self.closes {
            // hyper closes an HTTP/1.1 connection for this field, and removes it over HTTP/2.
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if let Some(allow) = &self.allow
            && let Ok(allow) = HeaderValue::from_str(allow)
        {
            headers.insert(header::ALLOW, allow);
        }
        if let Some(after) = self.retry_after() {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(after.as_secs()));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_document_status_and_header() {
        for code in Code::ALL {
            let problem = Problem::not_sent(*code, "a fact").of_request("c1");
            let document = problem.document();
            assert_eq!(document["code"], code.as_str());
            assert_eq!(document["execution"], "not_sent");
            assert_eq!(document["id"], "c1");
            assert_eq!(document["help"], format!("/errors/{code}"));
            let response = problem.into_response();
            assert_eq!(response.status().as_u16(), code.http_status());
            assert_eq!(response.headers()[BRIDGE_ERROR], code.as_str());
            assert_eq!(response.headers()[REQUEST_ID], "c1");
            let again = response.headers().contains_key(header::RETRY_AFTER);
            let expected = [
                Code::Overloaded,
                Code::RateLimited,
                Code::BridgeOffline,
                Code::NoBridge,
                Code::Standby,
                Code::DirectoryStale,
            ];
            assert_eq!(again, expected.contains(code));
        }
    }
}
