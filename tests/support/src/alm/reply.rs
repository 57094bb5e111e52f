//! A response, with a body that is kept in pieces: a large attachment goes out as it came in, and
//! nothing of it is copied.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, SET_COOKIE};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use hyper::body::{Body, Frame, SizeHint};

use super::media::Format;

pub(super) type Reply = Response<Pieces>;

/// A body in memory.
#[derive(Debug, Clone, Default)]
pub(super) struct Pieces {
    all: Arc<[Bytes]>,
    next: usize,
    left: u64,
}

impl Pieces {
    pub(super) fn new(all: Arc<[Bytes]>) -> Self {
        let left = all.iter().map(|piece| piece.len() as u64).sum();
        Self { all, next: 0, left }
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = self.all.get(self.next).cloned();
        self.next += 1;
        self.left -= piece.as_ref().map_or(0, |piece| piece.len() as u64);
        Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// A response without a body.
pub(super) fn empty(status: StatusCode) -> Reply {
    let mut reply = Response::new(Pieces::default());
    *reply.status_mut() = status;
    reply
}

/// A response with a text of some type.
pub(super) fn text(status: StatusCode, content_type: &'static str, body: String) -> Reply {
    let mut reply = Response::new(Pieces::new(Arc::from([Bytes::from(body)])));
    *reply.status_mut() = status;
    let content_type = HeaderValue::from_static(content_type);
    reply.headers_mut().insert(CONTENT_TYPE, content_type);
    reply
}

/// A response with data.
pub(super) fn data(status: StatusCode, format: Format, body: String) -> Reply {
    text(status, format.content_type(), body)
}

/// With one more header.
pub(super) fn with(mut reply: Reply, name: HeaderName, value: &str) -> Reply {
    let value = HeaderValue::from_str(value).expect("a header's value");
    reply.headers_mut().append(name, value);
    reply
}

/// With a cookie; scripts may read the ones that are not a secret of the server's.
pub(super) fn with_cookie(reply: Reply, name: &str, value: &str) -> Reply {
    let is_open = name == "XSRF-TOKEN" || name == "ALM_USER";
    let more = if is_open { "" } else { ";HttpOnly" };
    with(reply, SET_COOKIE, &format!("{name}={value};Path=/{more}"))
}
