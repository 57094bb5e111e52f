//! The ingresses: each converts its requests into the same kind of exchange.
//!
//! | ingress | file |
//! | --- | --- |
//! | `POST /v1/calls` | `calls` (the handler, with idempotency and stored calls, is `crate::calls`) |
//! | `ANY /v1/endpoints/{endpoint}/{path}` | `endpoints` |
//! | the listener `proxy`: absolute-form and CONNECT | `forward_proxy` |
//!
//! `pass` passes a request on unchanged, with `fields` (header fields), `bodies`, `hop_headers` (`Via`,
//! `Forwarded`) and `recording` (sums, metrics, trace); `failure_log` has the log lines of all ingresses; `raw` passes bytes that are not HTTP.

mod bodies;
pub(crate) mod calls;
pub(crate) mod endpoints;
pub(crate) mod failure_log;
mod fields;
pub(crate) mod forward_proxy;
mod hop_headers;
mod pass;
mod raw;
mod recording;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use std::time::Duration;

/// How much is read of a request's body that is not wanted any more, and for how long.
const DRAIN_MAX_BYTES: usize = 8 * 1024 * 1024;
const DRAIN_WITHIN: Duration = Duration::from_secs(10);

/// Reads a request's body on to its end, after a response over HTTP/2 that came before it.
///
/// A reset with NO_ERROR would be right (RFC 9113, 8.1), but widely used clients then lose the response.
pub(crate) fn drain(mut body: Incoming) {
    let reading = async move {
        let mut bytes = 0;
        while let Some(Ok(frame)) = body.frame().await {
            bytes += frame.data_ref().map_or(0, Bytes::len);
            if bytes > DRAIN_MAX_BYTES {
                return;
            }
        }
    };
    // A task of its own: the response must not wait for it. It ends by itself at the latest in DRAIN_WITHIN.
    tokio::spawn(tokio::time::timeout(DRAIN_WITHIN, reading));
}
