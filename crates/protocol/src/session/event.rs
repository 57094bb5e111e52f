//! What a session reports to its owner and to the users of streams.

use crate::code::Failure;
use crate::frame::{CallAttempt, DeliveryResult, GoAway, Headers, RequestHead};
use bytes::Bytes;

/// Something that the owner of the session, or the user of a stream, may wait for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Bridge: the relay opened a stream. Its body is read like that of any stream.
    Opened {
        /// The stream.
        id: u32,
        /// The request.
        head: Box<RequestHead>,
    },
    /// A head, bytes, trailers, an end or a failure can be read.
    Readable(u32),
    /// A writer that found its queue full may try again; it may find that the peer sent STOP.
    Writable(u32),
    /// The stream failed: its user should stop its work.
    Failed(u32),
    /// Relay: what the bridge serves has changed, see `Session::serves`.
    Serves,
    /// Bridge: the relay named other versions of bridges, see `Session::versions`.
    Versions,
    /// The peer sent GOAWAY.
    GoAway(GoAway),
    /// This side sent GOAWAY (on the relay: both sides did) and no exchange is left: close the connection.
    Drained,
    /// Relay: the outcome of a delivery.
    Result(DeliveryResult),
    /// Bridge: the relay has stored that outcome.
    ResultAck(CallAttempt),
}

/// The result of a read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Read {
    /// Bytes of the body. Taking them returns their credit.
    Data(Bytes),
    /// Trailer fields; the end follows.
    Trailers(Headers),
    /// The complete body was read.
    End,
    /// Nothing yet; [`Event::Readable`] follows.
    Pending,
    /// The exchange failed: the body is incomplete.
    Failed(Failure),
}

/// Whether more bytes may be queued for sending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendCapacity {
    /// They may be queued.
    Free,
    /// The queue is full; [`Event::Writable`] follows.
    Full,
    /// The peer wants no more of this direction; the exchange goes on.
    Stopped,
}

/// Why a stream was not opened. Nothing was sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The session has ended.
    #[error("the session has ended")]
    Ended,
    /// The session is about to end and accepts no new streams.
    #[error("the session is draining")]
    Draining,
    /// The peer's limit of concurrent streams is reached.
    #[error("the session reached the peer's limit of concurrent streams")]
    Full,
    /// The head does not fit a frame.
    #[error("the head does not fit a frame: {0}")]
    Head(#[from] crate::frame::FrameError),
    /// The head fits a frame, but not one of this session's version.
    #[error("the head has {bytes} bytes, the peer's version of the wire allows {max}")]
    VersionLimit {
        /// Its length.
        bytes: usize,
        /// The limit.
        max: usize,
    },
}
