//! What a session tells its owner.

use crate::code::Failure;
use crate::frame::{CallAttempt, DeliveryResult, GoAway, Headers, RequestHead};
use bytes::Bytes;

/// Something happened that the owner of the session, or the user of a stream, waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Bridge: the relay opened a stream. Its body, if any, is read as that of any stream.
    Opened {
        /// The stream.
        id: u32,
        /// What is asked for.
        head: Box<RequestHead>,
    },
    /// A head, bytes, trailers, an end or a failure can be taken.
    Readable(u32),
    /// A writer that found no room may try again, or learn that nobody reads on.
    Writable(u32),
    /// The stream failed: its user should drop its work.
    Failed(u32),
    /// Relay: the bridge serves something else now, see `Session::serves`.
    Serves,
    /// The peer wants the session to end.
    GoAway(GoAway),
    /// This side said GOAWAY (on the relay: both did), and nothing runs any more: close.
    Drained,
    /// Relay: what became of a delivery.
    Result(DeliveryResult),
    /// Bridge: the relay has stored that.
    ResultAck(CallAttempt),
}

/// What a reader gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Read {
    /// Bytes of the body. Taking them returns their credit.
    Data(Bytes),
    /// Trailer fields; the end follows.
    Trailers(Headers),
    /// The whole body was read.
    End,
    /// Nothing yet; [`Event::Readable`] follows.
    Pending,
    /// The exchange failed: what was read is not the whole.
    Failed(Failure),
}

/// What became of bytes offered for sending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendCapacity {
    /// There is room.
    Free,
    /// There is none; [`Event::Writable`] follows.
    Full,
    /// The peer wants no more of this direction; the exchange goes on.
    Stopped,
}

/// Why a stream was not opened. Nothing was sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The session is over.
    #[error("the session is over")]
    Ended,
    /// The session is about to end and takes no new streams.
    #[error("the session is draining")]
    Draining,
    /// As many streams are open as the peer takes.
    #[error("the session has no free stream")]
    Full,
    /// The head does not fit a frame.
    #[error("the head does not fit a frame: {0}")]
    Head(#[from] crate::frame::FrameError),
}
