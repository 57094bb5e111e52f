//! The ingresses: each converts its requests into the same kind of exchange.
//!
//! | ingress | file |
//! | --- | --- |
//! | `POST /v1/calls` | `calls` (the handler, with idempotency and stored calls, is `crate::calls`) |
//! | `ANY /v1/endpoints/{endpoint}/{path}` | `endpoints` |
//! | the listener `proxy`: absolute-form and CONNECT | `forward_proxy` |
//!
//! `pass` passes a request on unchanged, with `fields` (header fields), `bodies`, `hop_headers` (`Via`,
//! `Forwarded`), `shared_origin` (what a browser may do with a response) and `recording` (sums, metrics, trace); `failure_log` has the
//! log lines of all ingresses; `raw` passes bytes that are not HTTP.

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
mod shared_origin;

pub(crate) use fields::{Expectation, expectation};

use bytes::Bytes;
use http::Request;
use http_body::Body as _;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use std::time::Duration;

/// How much is read of a request's body that is not wanted any more, for how long, and how long its caller may
/// pause. The time is the bound that matters: many clients read the response only after they have sent all.
const DRAIN_MAX_BYTES: usize = 1024 * 1024 * 1024;
const DRAIN_WITHIN: Duration = Duration::from_secs(30);
const DRAIN_IDLE: Duration = Duration::from_secs(5);

/// Returns whether the caller holds the request's body back until it is requested. HTTP/1.0 has no such
/// expectation (RFC 9110, 10.1.1).
pub(crate) fn holds_body_back(request: &Request<Incoming>) -> bool {
    !request.body().is_end_stream()
        && fields::expects_continue(request.headers(), request.version())
}

/// Reads a request's body on to its end, after a response that came before it.
///
/// Over HTTP/1.1 the connection would otherwise be closed with unread bytes: that resets it, and a client that is
/// still sending loses the response. Over HTTP/2 a reset with NO_ERROR would be right (RFC 9113, 8.1), but widely
/// used clients then lose the response.
pub(crate) fn drain(mut body: Incoming) {
    if body.is_end_stream() {
        return;
    }
    let reading = async move {
        let mut bytes = 0;
        while let Ok(Some(Ok(frame))) = tokio::time::timeout(DRAIN_IDLE, body.frame()).await {
            bytes += frame.data_ref().map_or(0, Bytes::len);
            if bytes > DRAIN_MAX_BYTES {
                return;
            }
        }
    };
    // A task of its own: the response must not wait for it. It ends by itself at the latest in DRAIN_WITHIN.
    tokio::spawn(tokio::time::timeout(DRAIN_WITHIN, reading));
}
