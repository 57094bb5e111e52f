//! Reads documents with a size limit, and writes them.

use crate::body::{self, Body};
use crate::capacity::{BodyLimits, Reservation, collect_body};
use crate::problem::{Problem, document};
use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use protocol::Code;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::time::Duration;

/// Size limit of a document in bytes.
const DOCUMENT_MAX_BYTES: u64 = 64 * 1024;

/// Time limit for a document to arrive.
const DOCUMENT_WITHIN: Duration = Duration::from_secs(30);

/// Reads the body of a request. The caller may pause for `idle` at most.
///
/// # Errors
/// `request_too_large`, `invalid_request`, `timeout`, `overloaded`.
pub(crate) async fn body(
    incoming: &mut Incoming,
    idle: Duration,
    memory: &mut Reservation,
) -> Result<Bytes, Problem> {
    let limits = BodyLimits {
        max_bytes: DOCUMENT_MAX_BYTES,
        total: DOCUMENT_WITHIN,
        idle,
    };
    Ok(collect_body(incoming, limits, memory).await?)
}

/// Parses the document of a request.
///
/// # Errors
/// `invalid_request` with the mistake and its position.
pub(crate) fn read<T: DeserializeOwned>(request: &Request<Bytes>) -> Result<T, Problem> {
    // Operations whose fields are all optional take an empty body.
    let text = match request.body().trim_ascii() {
        b"" => b"{}",
        text => text,
    };
    document::parse(text).map_err(Problem::invalid)
}

/// Returns a response with a document.
///
/// # Errors
/// `internal` when it cannot be serialized, which is a defect.
pub(crate) fn reply<T: Serialize>(
    status: StatusCode,
    document: &T,
) -> Result<Response<Body>, Problem> {
    let mut text = serde_json::to_vec(document)
        .map_err(|error| Problem::not_sent(Code::Internal, error.to_string()))?;
    text.push(b'\n');
    let mut response = Response::new(body::full(text));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    // Responses may have secrets, which no cache between relay and caller may store.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// Returns a response without a body.
pub(crate) fn empty() -> Response<Body> {
    let mut response = Response::new(body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}
