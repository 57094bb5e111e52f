//! The body of a response, as a handler returns it: the content, and what the response holds until it is
//! written.
//!
//! `sending` converts it into what the HTTP library writes.

mod call;

pub(crate) use call::CallBody;

use crate::capacity::{ExchangePermit, Reservation};
use crate::exchange::TunnelBody;
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use protocol::Failure;
use std::pin::Pin;
use std::task::{Context, Poll};

/// The largest piece of a body that is given to the HTTP library at once, in bytes.
pub(crate) const PIECE_MAX_BYTES: usize = 16 * 1024;

/// The body of a response. An error aborts the connection, so that a truncated response never looks
/// complete.
#[derive(Debug)]
pub(crate) struct Body {
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
    Tunnel(TunnelBody),
    /// A target's body that is at its end, with the framing that the target declared.
    Declared(TunnelBody, DeclaredFraming),
}

/// The framing of a body that is at its end, for the head of its response.
#[derive(Debug)]
pub(crate) struct DeclaredFraming {
    /// The length that the head states.
    pub(crate) length: SizeHint,
    /// Whether the head ends the message, as it can over HTTP/2.
    pub(crate) is_end: bool,
}

/// Returns an empty body.
pub(crate) fn empty() -> Body {
    Content::Empty.into()
}

/// Returns a body that is in memory.
pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
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
            ..Content::Tunnel(body).into()
        }
    }
}

impl From<CallBody> for Body {
    fn from(body: CallBody) -> Self {
        Content::Call(body).into()
    }
}

impl Body {
    /// Returns a target's body that is at its end, and whose framing must stay as the target declared it.
    pub(crate) fn declared(body: TunnelBody, framing: DeclaredFraming) -> Self {
        let permit = Some(body.permit());
        Self {
            permit,
            ..Content::Declared(body, framing).into()
        }
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

    /// Returns how many bytes of it are in memory without a reservation.
    pub(crate) fn unreserved_bytes(&self) -> u64 {
        match (&self.content, &self.memory) {
            // Bodies of targets are bounded by flow control, and those of calls are reserved while they are read.
            (Content::Full(bytes), None) => bytes.len() as u64,
            _ => 0,
        }
    }

    /// Returns how many bytes a call's document takes in addition to the target's body.
    pub(crate) fn document_bytes(&self) -> u64 {
        match &self.content {
            Content::Call(body) => body.document_bytes(),
            Content::Empty | Content::Full(_) | Content::Tunnel(_) | Content::Declared(..) => 0,
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
                // In pieces, so that a large document does not enter hyper's queue at once.
                let piece = bytes.split_to(bytes.len().min(PIECE_MAX_BYTES));
                Poll::Ready(Some(Ok(Frame::data(piece))))
            }
            Content::Call(body) => Poll::Ready(body.piece().map(|piece| Ok(Frame::data(piece)))),
            Content::Tunnel(body) | Content::Declared(body, _) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Empty => true,
            Content::Full(bytes) => bytes.is_empty(),
            Content::Call(body) => body.is_empty(),
            Content::Tunnel(body) => body.is_end_stream(),
            // Not the body's own end: hyper would derive a length of zero from it.
            Content::Declared(_, framing) => framing.is_end,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Empty => SizeHint::with_exact(0),
            Content::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Content::Call(body) => SizeHint::with_exact(body.left_bytes()),
            Content::Tunnel(body) => body.size_hint(),
            Content::Declared(_, framing) => framing.length,
        }
    }
}
