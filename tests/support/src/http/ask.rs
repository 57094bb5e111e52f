//! A request as one expression.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{HeaderName, HeaderValue, Method, Request};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Body;

use crate::pattern::{BoxError, PatternBody};

/// What a request's body is sent as.
pub type AskBody = BoxBody<Bytes, BoxError>;

/// Longer than any successful exchange on a loaded machine.
const WITHIN_USUAL: Duration = Duration::from_secs(60);

/// A client id and its secret.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// The public half.
    pub client_id: String,
    /// The secret half.
    pub client_secret: String,
}

impl ApiKey {
    /// A key of these two halves.
    pub fn new(client_id: impl Into<String>, client_secret: impl Into<String>) -> Self {
        Self {
            client_id: client_id.into(),
            client_secret: client_secret.into(),
        }
    }

    /// Reads a key from the JSON that the API and `key create --json` return.
    ///
    /// # Panics
    ///
    /// Panics where the text is something else.
    pub fn from_json(text: &str) -> Self {
        let key: serde_json::Value = serde_json::from_str(text.trim())
            .unwrap_or_else(|error| panic!("a key in JSON ({error}): {text}"));
        let half = |name: &str| match key[name].as_str() {
            Some(half) => half.to_owned(),
            None => panic!("no {name} in a key: {text}"),
        };
        Self::new(half("client_id"), half("client_secret"))
    }

    /// The value of an `Authorization: Basic` header (RFC 7617).
    pub fn basic(&self) -> String {
        let pair = format!("{}:{}", self.client_id, self.client_secret);
        format!("Basic {}", STANDARD.encode(pair))
    }
}

impl std::fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ApiKey({})", self.client_id)
    }
}

/// A request to send: method, path, headers, body.
#[derive(Debug)]
pub struct Ask {
    method: Method,
    path: String,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: AskBody,
    pub(super) within: Duration,
}

impl Ask {
    /// Any method.
    pub fn new(method: Method, path: impl Into<String>) -> Self {
        Self {
            method,
            path: path.into(),
            headers: Vec::new(),
            body: whole(Bytes::new()),
            within: WITHIN_USUAL,
        }
    }

    /// `GET path`.
    pub fn get(path: impl Into<String>) -> Self {
        Self::new(Method::GET, path)
    }

    /// `POST path`.
    pub fn post(path: impl Into<String>) -> Self {
        Self::new(Method::POST, path)
    }

    /// With this key as HTTP Basic.
    pub fn key(self, key: &ApiKey) -> Self {
        self.header(AUTHORIZATION.as_str(), &key.basic())
    }

    /// With one more header; a name may come several times.
    ///
    /// # Panics
    ///
    /// Where HTTP has no such name or value; for those there is [`Origin::raw`](super::Origin::raw).
    pub fn header(mut self, name: &str, value: &str) -> Self {
        let name = HeaderName::try_from(name).expect("a header's name");
        let value = HeaderValue::try_from(value).expect("a header's value");
        self.headers.push((name, value));
        self
    }

    /// With a JSON body.
    pub fn json(self, value: &serde_json::Value) -> Self {
        self.body(value.to_string())
            .header(CONTENT_TYPE.as_str(), "application/json")
    }

    /// With this body, of known length.
    pub fn body(self, body: impl Into<Bytes>) -> Self {
        self.stream(Full::new(body.into()).map_err(|never| match never {}))
    }

    /// With the first `bytes` bytes of the [pattern](crate::pattern), of known length.
    pub fn upload(self, bytes: u64) -> Self {
        self.stream(PatternBody::new(bytes))
    }

    /// The same, chunked.
    pub fn upload_chunked(self, bytes: u64) -> Self {
        self.stream(PatternBody::new(bytes).chunked())
    }

    /// With any body. Chunked, unless its size is exact.
    pub fn stream<B>(self, body: B) -> Self
    where
        B: Body<Data = Bytes, Error = BoxError> + Send + Sync + 'static,
    {
        Self {
            body: body.boxed(),
            ..self
        }
    }

    /// Sets the longest time until the end of the response. Defaults to 60 s.
    pub fn within(self, within: Duration) -> Self {
        Self { within, ..self }
    }

    pub(super) fn into_request(self, host: &str) -> Request<AskBody> {
        let mut request = Request::new(self.body);
        *request.method_mut() = self.method;
        *request.uri_mut() = self
            .path
            .parse()
            .unwrap_or_else(|error| panic!("{:?} is not a request target: {error}", self.path));
        for (name, value) in self.headers {
            request.headers_mut().append(name, value);
        }
        if !request.headers().contains_key(HOST) {
            let host = HeaderValue::from_str(host).expect("a host name and a port");
            request.headers_mut().insert(HOST, host);
        }
        request
    }
}

impl std::fmt::Display for Ask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.method, self.path)
    }
}

fn whole(body: Bytes) -> AskBody {
    Full::new(body).map_err(|never| match never {}).boxed()
}
