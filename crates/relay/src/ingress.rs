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
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use protocol::Code;
use std::time::Duration;

/// Reads a whole body of at most `max` bytes, within `limit`.
///
/// # Errors
/// `request_too_large`, or `invalid_request` when the caller broke off or was too slow.
pub async fn whole_body(body: Incoming, max: u64, limit: Duration) -> Result<Bytes, Problem> {
    let max_bytes = usize::try_from(max).unwrap_or(usize::MAX);
    let reading = Limited::new(body, max_bytes).collect();
    match tokio::time::timeout(limit, reading).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            let detail = format!("the body is larger than {max} bytes, the limit here");
            Err(Problem::not_sent(Code::RequestTooLarge, detail))
        }
        Ok(Err(error)) => Err(Problem::invalid(format!("the body broke off: {error}"))),
        Err(_) => {
            let detail = format!("the body was not there within {limit:?}");
            Err(Problem::not_sent(Code::Timeout, detail))
        }
    }
}
