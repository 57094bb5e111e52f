//! The bodies of a request and a response that pass through, with the framing that the other side declared.

use crate::body::{Body, DeclaredFraming};
use crate::capacity::is_misframed;
use crate::exchange::{TunnelBody, UploadError};
use bytes::Bytes;
use http::{StatusCode, Version, header};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use protocol::frame::{BodyLength, ResponseHead};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

/// The largest piece of a request's body. hyper's buffer has room for a long head and returns pieces of its size; the
/// upload keeps 64 KiB for a retry, and a larger first piece would prevent it.
const PIECE_MAX_BYTES: usize = 64 * 1024;

/// A request's body that ends in order or in an error, and is read on to its end when it is dropped: its caller may
/// still send, and would otherwise lose the response.
///
/// hyper reports an HTTP/2 stream that its caller resets with NO_ERROR or CANCEL as an ordinary end. Whether
/// END_STREAM was received tells the two apart.
pub(super) struct DrainOnDrop {
    body: Option<Incoming>,
    /// What is left of a piece that was too large.
    rest: Bytes,
    is_http2: bool,
    /// For a body that its caller holds back: whether it was read, which requests it.
    is_requested: Option<Arc<AtomicBool>>,
}

impl DrainOnDrop {
    pub(super) fn new(
        body: Incoming,
        is_http2: bool,
        is_requested: Option<Arc<AtomicBool>>,
    ) -> Self {
        Self {
            body: Some(body),
            rest: Bytes::new(),
            is_http2,
            is_requested,
        }
    }

    fn split_rest(&mut self) -> Bytes {
        let bytes = self.rest.len().min(PIECE_MAX_BYTES);
        self.rest.split_to(bytes)
    }
}

impl Drop for DrainOnDrop {
    fn drop(&mut self) {
        // A body that was never requested must not be requested now.
        let is_held_back = match &self.is_requested {
            Some(is_requested) => !is_requested.load(Ordering::Relaxed),
            None => false,
        };
        if let Some(body) = self.body.take().filter(|_| !is_held_back) {
            super::drain(body);
        }
    }
}

impl HttpBody for DrainOnDrop {
    type Data = Bytes;
    type Error = UploadError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        if let Some(is_requested) = &self.is_requested {
            is_requested.store(true, Ordering::Relaxed);
        }
        if !self.rest.is_empty() {
            let piece = self.split_rest();
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        let is_http2 = self.is_http2;
        let Some(body) = &mut self.body else {
            return Poll::Ready(None);
        };
        let frame = std::task::ready!(Pin::new(&mut *body).poll_frame(cx));
        let is_short = is_http2 && !body.is_end_stream();
        Poll::Ready(match frame {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => {
                    self.rest = data;
                    Some(Ok(Frame::data(self.split_rest())))
                }
                Err(frame) => Some(Ok(frame)),
            },
            // Nothing more will come of it, so there is nothing to drain.
            None if !is_short => {
                self.body = None;
                None
            }
            Some(Err(error)) if is_misframed(&error) => {
                self.body = None;
                Some(Err(UploadError::Misframed))
            }
            None | Some(Err(_)) => {
                self.body = None;
                Some(Err(UploadError::Aborted))
            }
        })
    }
}

/// Returns the response's body with the framing that the target declared.
///
/// hyper adds `Content-Length: 0` to a body that is already at its end. That is wrong for a 304, whose length
/// is that of another response (RFC 9110, 15.4.5), and changes a response without a length.
pub(super) fn with_declared_length(
    head: &ResponseHead,
    body: TunnelBody,
    version: Version,
) -> Body {
    let is_304 = head.status == StatusCode::NOT_MODIFIED.as_u16();
    if !body.is_end_stream() || !(is_304 || head.body == BodyLength::Unknown) {
        return body.into();
    }
    let declared = head.headers.iter().find_map(|(name, value)| {
        let value = std::str::from_utf8(value).ok()?;
        (name == header::CONTENT_LENGTH.as_str().as_bytes()).then(|| value.parse().ok())?
    });
    let length = match declared.filter(|_| is_304) {
        Some(length) => SizeHint::with_exact(length),
        None if is_304 => return body.into(),
        None => SizeHint::default(),
    };
    let framing = DeclaredFraming {
        length,
        // HTTP/2 states in the head itself that nothing follows; HTTP/1.1 needs an empty chunked body.
        is_end: version == Version::HTTP_2,
    };
    Body::declared(body, framing)
}
