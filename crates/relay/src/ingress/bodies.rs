//! The bodies of a request and a response that pass through, with the framing that the other side declared.

use crate::body::{Body, DeclaredFraming};
use crate::exchange::{TunnelBody, UploadError};
use bytes::Bytes;
use http::{StatusCode, Version, header};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use protocol::frame::{BodyLength, ResponseHead};
use std::pin::Pin;
use std::task::{Context, Poll};

/// A request's body that ends in order or in an error, and is read on to its end when it is dropped over
/// HTTP/2.
///
/// hyper reports an HTTP/2 stream that its caller resets with NO_ERROR or CANCEL as an ordinary end. Whether
/// END_STREAM was received tells the two apart.
pub(super) struct DrainOnDrop {
    body: Option<Incoming>,
    is_http2: bool,
}

impl DrainOnDrop {
    pub(super) fn new(body: Incoming, is_http2: bool) -> Self {
        Self {
            body: Some(body),
            is_http2,
        }
    }
}

impl Drop for DrainOnDrop {
    fn drop(&mut self) {
        if let Some(body) = self.body.take()
            && self.is_http2
            && !body.is_end_stream()
        {
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
        let is_http2 = self.is_http2;
        let Some(body) = &mut self.body else {
            return Poll::Ready(None);
        };
        let frame = std::task::ready!(Pin::new(&mut *body).poll_frame(cx));
        let is_short = is_http2 && !body.is_end_stream();
        Poll::Ready(match frame {
            Some(Ok(frame)) => Some(Ok(frame)),
            None if !is_short => None,
            None | Some(Err(_)) => {
                // Nothing more will come of it, so there is nothing to drain.
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
