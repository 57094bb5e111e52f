//! A response that can be replayed, and its stored form.

use crate::body::{self, Body};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::BodyExt as _;
use protocol::Failure;
use serde::{Deserialize, Serialize};

/// The header field that marks a replayed response.
pub(super) const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// A response that can be replayed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoredResponse {
    status: StatusCode,
    headers: Vec<(String, String)>,
    body: Bytes,
}

/// The stored form. It must stay readable after an upgrade of the relay.
#[derive(Serialize, Deserialize)]
struct StoredDocument {
    status: u16,
    headers: Vec<(String, String)>,
    body: String,
}

impl StoredResponse {
    /// Reads a response to its end.
    ///
    /// # Errors
    /// The body's own.
    pub(crate) async fn read(response: Response<Body>) -> Result<Self, Failure> {
        let (parts, body) = response.into_parts();
        let headers = parts.headers.iter().filter_map(|(name, value)| {
            // A value that is not text is left out: the stored form is JSON.
            let value = value.to_str().ok()?;
            // A replay gets the date of its own response (RFC 9110, 6.6.1).
            (name != header::DATE).then(|| (name.as_str().to_owned(), value.to_owned()))
        });
        Ok(Self {
            status: parts.status,
            headers: headers.collect(),
            body: body.collect().await?.to_bytes(),
        })
    }

    /// Returns the response as it was.
    pub(crate) fn response(self) -> Response<Body> {
        let mut response = Response::new(body::full(self.body));
        *response.status_mut() = self.status;
        for (name, value) in self.headers {
            if let (Ok(name), Ok(value)) = (
                HeaderName::from_bytes(name.as_bytes()),
                HeaderValue::try_from(value),
            ) {
                response.headers_mut().append(name, value);
            }
        }
        response
    }

    /// Returns the response, marked as replayed.
    pub(super) fn replayed(self) -> Response<Body> {
        let mut response = self.response();
        let replayed = HeaderValue::from_static("true");
        response.headers_mut().insert(REPLAYED, replayed);
        response
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let document = StoredDocument {
            status: self.status.as_u16(),
            headers: self.headers.clone(),
            body: STANDARD.encode(&self.body),
        };
        serde_json::to_vec(&document).unwrap_or_default()
    }

    pub(super) fn decode(text: &[u8]) -> Option<Self> {
        let document: StoredDocument = serde_json::from_slice(text).ok()?;
        Some(Self {
            status: StatusCode::from_u16(document.status).ok()?,
            headers: document.headers,
            body: STANDARD.decode(document.body).ok()?.into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::Problem;
    use protocol::Code;

    #[tokio::test]
    async fn replayed_response_equals_the_first() {
        let problem = Problem::from(Failure::possibly_executed(Code::TunnelLost, "lost"));
        let first = StoredResponse::read(problem.of_request("c1").into_response())
            .await
            .unwrap();
        let again = StoredResponse::decode(&first.encode()).unwrap();
        assert_eq!(again, first);
        let response = again.replayed();
        assert_eq!(response.status(), 502);
        assert_eq!(response.headers()["bridge-error"], "tunnel_lost");
        assert_eq!(response.headers()[REPLAYED], "true");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, first.body);
    }
}
