//! The ways in: each turns what it got into the same exchange.
//!
//! | way | file |
//! | --- | --- |
//! | `POST /v1/calls` | `calls` |
//! | `ANY /v1/endpoints/{endpoint}/{path}` | `endpoints` |

pub mod calls;
pub mod endpoints;

use crate::problem::Problem;
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use protocol::Code;

/// Reads a whole body of at most `max` bytes.
///
/// # Errors
/// `request_too_large`, or `invalid_request` when the caller broke off.
pub async fn whole_body(body: Incoming, max: u64) -> Result<Bytes, Problem> {
    let max_bytes = usize::try_from(max).unwrap_or(usize::MAX);
    match Limited::new(body, max_bytes).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            let detail = format!("the body is larger than {max} bytes, the limit here");
            Err(Problem::not_sent(Code::RequestTooLarge, detail))
        }
        Err(error) => Err(Problem::invalid(format!("the body broke off: {error}"))),
    }
}
