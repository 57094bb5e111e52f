//! The body of a response, as a handler returns it: the content, and what the response holds until it is
//! written.
//!
//! `sending` turns it into what the HTTP library writes.

use crate::exchange::{ExchangePermit, Reservation, TunnelBody};
use crate::ingress::calls::CallBody;
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use protocol::Failure;
use std::pin::Pin;
use std::task::{Context, Poll};

/// The largest piece of a body that is given to the HTTP library at once, in bytes.
pub(crate) const PIECE_MAX_BYTES: usize = 16 * 1024;

/// The body of a response. An error breaks the connection off, so that a truncated response never looks
/// whole.
#[derive(Debug)]
pub struct Body {
    content: Content,
    permit: Option<ExchangePermit>,
    memory: Option<Reservation>,
}

#[derive(Debug)]
enum Content {
    Empty,
    /// A document in memory.
    Full(Bytes),
    /// The response to a call, written from the target's body as it is read.
    Call(CallBody),
    /// A target's body on its way.
    TunnelResponse(TunnelBody),
    /// A target's body of which something else is said.
    Other(UnsyncBoxBody<Bytes, Failure>),
}

/// Returns an empty body.
pub fn empty() -> Body {
    Content::Empty.into()
}

/// Returns a whole body.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Content::Full(bytes.into()).into()
}

impl From<Content> for Body {
    fn from(content: Content) -> Self {
        Self {
            content,
            permit: None,
            memory: None,
        }
    }
}

impl From<TunnelBody> for Body {
    fn from(body: TunnelBody) -> Self {
        let permit = Some(body.permit());
        Self {
            permit,
            ..Content::TunnelResponse(body).into()
        }
    }
}

impl From<CallBody> for Body {
    fn from(body: CallBody) -> Self {
        Content::Call(body).into()
    }
}

impl Body {
    /// Returns a body of another type, which keeps `permit` until it is written.
    pub(crate) fn other<B>(body: B, permit: ExchangePermit) -> Self
    where
        B: HttpBody<Data = Bytes, Error = Failure> + Send + 'static,
    {
        Self::from(Content::Other(body.boxed_unsync())).with_permit(permit)
    }

    /// Returns the same body, which keeps `permit` until it is written.
    pub(crate) fn with_permit(self, permit: ExchangePermit) -> Self {
        Self {
            permit: Some(permit),
            ..self
        }
    }

    /// Returns the same body, which keeps this memory until it is written.
    pub(crate) fn with_memory(self, memory: Reservation) -> Self {
        Self {
            memory: Some(memory),
            ..self
        }
    }

    /// Returns how many bytes of it are in memory and were not reserved.
    pub(crate) fn unreserved_bytes(&self) -> u64 {
        match (&self.content, &self.memory) {
            (Content::Full(bytes), None) => bytes.len() as u64,
            _ => 0,
        }
    }

    /// Returns how many bytes a call's document takes in addition to the target's body.
    pub(crate) fn document_bytes(&self) -> u64 {
        match &self.content {
            Content::Call(body) => body.document_bytes(),
            Content::Empty | Content::Full(_) | Content::TunnelResponse(_) | Content::Other(_) => 0,
        }
    }

    /// Takes what the response holds until it is written.
    pub(crate) fn take_holds(&mut self) -> (Option<ExchangePermit>, Option<Reservation>) {
        (self.permit.take(), self.memory.take())
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = Failure;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        match &mut self.get_mut().content {
            Content::Empty => Poll::Ready(None),
            Content::Full(bytes) if bytes.is_empty() => Poll::Ready(None),
            Content::Full(bytes) => {
                let piece = bytes.split_to(bytes.len().min(PIECE_MAX_BYTES));
                Poll::Ready(Some(Ok(Frame::data(piece))))
            }
            Content::Call(body) => Poll::Ready(body.piece().map(|piece| Ok(Frame::data(piece)))),
            Content::TunnelResponse(body) => Pin::new(body).poll_frame(cx),
            Content::Other(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Empty => true,
            Content::Full(bytes) => bytes.is_empty(),
            Content::Call(body) => body.is_empty(),
            Content::TunnelResponse(body) => body.is_end_stream(),
            Content::Other(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Empty => SizeHint::with_exact(0),
            Content::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Content::Call(body) => SizeHint::with_exact(body.left_bytes()),
            Content::TunnelResponse(body) => body.size_hint(),
            Content::Other(body) => body.size_hint(),
        }
    }
}
