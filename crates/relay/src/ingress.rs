//! The ways in: each turns what it got into the same exchange.
//!
//! | way | file |
//! | --- | --- |
//! | `POST /v1/calls` | `calls` |
//! | `ANY /v1/endpoints/{endpoint}/{path}` | `endpoints` |
//! | the listener `proxy`: absolute-form and CONNECT | `forward` |
//!
//! What passes through as it is does so in `pass`; bytes that are not HTTP in `raw`.

pub mod calls;
pub mod endpoints;
pub mod forward;
pub mod forwarded;
pub mod pass;
pub mod raw;

use crate::problem::Problem;
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use protocol::Code;
use std::time::Duration;
use tokio::time::Instant;

/// What is read of a body that nobody wants any more, and for how long.
const DRAIN_MAX_BYTES: usize = 8 * 1024 * 1024;
const DRAIN_WITHIN: Duration = Duration::from_secs(10);

/// Reads on, behind an answer by HTTP/2 that came before its request's end. Resetting the stream would be
/// right (RFC 9113, 8.1), but clients that are widely used then lose the answer.
pub fn drain(mut body: Incoming) {
    let reading = async move {
        let mut bytes = 0;
        while let Some(Ok(frame)) = body.frame().await {
            bytes += frame.data_ref().map_or(0, Bytes::len);
            if bytes > DRAIN_MAX_BYTES {
                return;
            }
        }
    };
    tokio::spawn(tokio::time::timeout(DRAIN_WITHIN, reading));
}

/// How long a body may take.
#[derive(Debug, Clone, Copy)]
pub enum Within {
    /// All of it.
    All(Duration),
    /// Each of its pieces.
    Piece(Duration),
}

/// Reads a whole body of at most `max` bytes, within `limit`.
///
/// # Errors
/// `request_too_large`, or `invalid_request` when the caller broke off, or `timeout`.
pub async fn whole_body(body: Incoming, max: u64, limit: Within) -> Result<Bytes, Problem> {
    let max_bytes = usize::try_from(max).unwrap_or(usize::MAX);
    let mut body = Limited::new(body, max_bytes);
    let (until, each) = match limit {
        Within::All(limit) => (Some(Instant::now() + limit), limit),
        Within::Piece(limit) => (None, limit),
    };
    let mut first = Bytes::new();
    let mut more = BytesMut::new();
    loop {
        let by = until.unwrap_or_else(|| Instant::now() + each);
        match tokio::time::timeout_at(by, body.frame()).await {
            Ok(None) => break,
            Ok(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) if first.is_empty() => first = data,
                Ok(data) => more.extend_from_slice(&data),
                Err(_) => {}
            },
            Ok(Some(Err(error))) if error.is::<LengthLimitError>() => {
                let detail = format!("the body is larger than {max} bytes, the limit here");
                return Err(Problem::not_sent(Code::RequestTooLarge, detail));
            }
            Ok(Some(Err(error))) => {
                return Err(Problem::invalid(format!("the body broke off: {error}")));
            }
            Err(_) => {
                let detail = match limit {
                    Within::All(_) => format!("the body was not there within {each:?}"),
                    Within::Piece(_) => format!(
                        "the caller sent nothing of its body for {each:?} (limits.caller_idle_timeout)"
                    ),
                };
                return Err(Problem::not_sent(Code::Timeout, detail));
            }
        }
    }
    if more.is_empty() {
        return Ok(first);
    }
    let mut all = BytesMut::with_capacity(first.len() + more.len());
    all.extend_from_slice(&first);
    all.extend_from_slice(&more);
    Ok(all.freeze())
}
