//! Frames: the content of one WebSocket message.
//!
//! ```text
//!  0        1        2                 6
//!  +--------+--------+-----------------+------------------
//!  | type   | flags  | stream id, BE   | payload
//!  +--------+--------+-----------------+------------------
//! ```
//!
//! The header is encoded here, control payloads by the serializer in `serial`; bodies are unchanged.
//! [`Frame::decode`] accepts hostile bytes: it neither panics nor allocates beyond the frame's own size
//! and [`crate::limits`].

mod context;
mod control;
mod decode;
mod head;
mod headers;
mod serial;

pub use context::{CONTEXT_SINCE_VERSION, ContextText, RequestContext};
pub use control::{
    AuditHead, Challenge, Credit, DeliveryResult, EndpointHealth, GoAway, GoAwayReason, Hello,
    JournalMark, PreviousSession, Reach, Refused, RefusedCode, Report, Serves, VERSION,
    VERSION_MIN, Welcome, Windows,
};
pub use head::{
    BodyLength, CallAttempt, CallerWeight, Class, RequestHead, RequestTarget, ResponseHead,
    TimeLeft,
};
pub use headers::{Headers, HeadersBuilder};
pub use serial::Bounded;

use crate::code::Failure;
use crate::limits::{
    DATA_MAX_BYTES, FRAME_MAX_BYTES, FRAME_MAX_BYTES_V1, HEAD_MAX_BYTES_V1, HEADER_BYTES,
};
use crate::version::AcceptedVersions;
use bytes::{Buf, Bytes, BytesMut};
use control::{WireReset, WireVersions};

/// Bytes of the proof after a [`Hello`]: an Ed25519 signature.
pub const PROOF_BYTES: usize = 64;

/// The sender's direction of the stream ends with this frame.
const FLAG_END: u8 = 0x01;
/// A peer that does not know the type skips the frame (W-61).
const FLAG_SKIPPABLE: u8 = 0x80;

mod kind {
    pub(super) const CHALLENGE: u8 = 0x01;
    pub(super) const HELLO: u8 = 0x02;
    pub(super) const WELCOME: u8 = 0x03;
    pub(super) const REFUSED: u8 = 0x04;
    pub(super) const OPEN: u8 = 0x10;
    pub(super) const DISPATCHED: u8 = 0x11;
    pub(super) const HEAD: u8 = 0x12;
    pub(super) const DATA: u8 = 0x13;
    pub(super) const TRAILERS: u8 = 0x14;
    pub(super) const CREDIT: u8 = 0x15;
    pub(super) const STOP: u8 = 0x16;
    pub(super) const RESET: u8 = 0x17;
    pub(super) const RESULT: u8 = 0x20;
    pub(super) const RESULT_ACK: u8 = 0x21;
    pub(super) const PING: u8 = 0x30;
    pub(super) const PONG: u8 = 0x31;
    pub(super) const STATUS: u8 = 0x32;
    pub(super) const GOAWAY: u8 = 0x33;
    pub(super) const REPORT: u8 = 0x34;
    pub(super) const VERSIONS: u8 = 0x35;
}

/// Why bytes are not a valid frame. It is always the sender's fault, and ends the session (W-43).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Shorter than a header, or than its type requires.
    #[error("frame is truncated")]
    Short,
    /// Longer than its type allows.
    #[error("frame or head is larger than its limit")]
    TooLarge,
    /// An unknown type that may not be skipped.
    #[error("unknown frame type {0:#04x}")]
    UnknownType(u8),
    /// A flag that this type does not have.
    #[error("flags {flags:#04x} are not valid for frame type {kind:#04x}")]
    UnknownFlags {
        /// The frame's type.
        kind: u8,
        /// Its flags.
        flags: u8,
    },
    /// A session frame with a stream id, or a stream frame without.
    #[error("frame type {0:#04x} on the wrong stream")]
    WrongStream(u8),
    /// The payload does not decode.
    #[error("payload does not decode")]
    Payload,
    /// Bytes are left over after the payload.
    #[error("payload has trailing bytes")]
    TrailingBytes,
    /// A header block that cannot be read to its end.
    #[error("header block is malformed")]
    Headers,
    /// More header fields than [`crate::limits::HEADERS_MAX`].
    #[error("too many header fields")]
    TooManyHeaders,
    /// A DATA frame without bytes and without END.
    #[error("empty data frame")]
    EmptyData,
}

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "fields are named by the frame they belong to; WIRE.md explains each"
)]
pub enum Frame {
    /// Opening: the relay's first frame.
    Challenge(Challenge),
    /// Opening: the bridge's reply, and the proof after it. `body` holds the signed bytes.
    Hello {
        hello: Box<Hello>,
        body: Bytes,
        proof: [u8; PROOF_BYTES],
    },
    /// Opening: the tunnel is accepted.
    Welcome(Welcome),
    /// Opening: the tunnel is refused.
    Refused(Refused),
    /// A request, with its complete body if that is small.
    Open {
        id: u32,
        head: Box<RequestHead>,
        body: Bytes,
        end: bool,
    },
    /// The first byte is about to leave for the target.
    Dispatched { id: u32 },
    /// The head of a response, with its complete body if that is small.
    Head {
        id: u32,
        head: ResponseHead,
        body: Bytes,
        end: bool,
    },
    /// A piece of a body.
    Data { id: u32, data: Bytes, end: bool },
    /// Trailer fields; ends its direction.
    Trailers { id: u32, headers: Headers },
    /// Bytes were consumed, or the window grows.
    Credit { id: u32, credit: Credit },
    /// Send no more of this direction; the exchange goes on.
    Stop { id: u32 },
    /// The exchange failed or is cancelled.
    Reset { id: u32, failure: Failure },
    /// A delivery's outcome.
    Result(DeliveryResult),
    /// The outcome is stored; that attempt is never sent again.
    ResultAck(CallAttempt),
    /// Keepalive request.
    Ping(u64),
    /// Keepalive response.
    Pong(u64),
    /// What the bridge serves has changed.
    Status(Serves),
    /// The session will end.
    GoAway(GoAway),
    /// The bridge's health. Peers that do not know this frame skip it.
    Report(Box<Report>),
    /// The versions of bridges that the relay's operator names. Peers that do not know this frame skip it.
    Versions(Box<AcceptedVersions>),
}

/// The offset of the flags in a frame.
const FLAGS_AT: usize = 1;

fn start(kind: u8, flags: u8, id: u32, capacity: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_BYTES + capacity);
    out.push(kind);
    out.push(flags);
    out.extend_from_slice(&id.to_be_bytes());
    out
}

fn control<T: serde::Serialize>(kind: u8, id: u32, payload: &T) -> Result<Bytes, FrameError> {
    let mut out = start(kind, 0, id, 32);
    serial::encode(payload, &mut out)?;
    Ok(out.into())
}

fn with_head(
    kind: u8,
    id: u32,
    capacity: usize,
    body: &[u8],
    end: bool,
    encode: impl FnOnce(&mut Vec<u8>) -> Result<usize, FrameError>,
) -> Result<Bytes, FrameError> {
    if body.len() > DATA_MAX_BYTES {
        return Err(FrameError::TooLarge);
    }
    let flags = if end { FLAG_END } else { 0 };
    let mut out = start(kind, flags, id, 4 + capacity + body.len());
    out.extend_from_slice(&[0; 4]);
    let head_bytes = encode(&mut out)?;
    let length = u32::try_from(head_bytes).map_err(|_| FrameError::TooLarge)?;
    out[HEADER_BYTES..HEADER_BYTES + 4].copy_from_slice(&length.to_be_bytes());
    out.extend_from_slice(body);
    Ok(out.into())
}

/// Encodes an OPEN frame without an owned [`Frame`].
///
/// # Errors
/// [`FrameError::TooLarge`] when the head, the body or a name is larger than its limit,
/// [`FrameError::Payload`] when there is no method.
pub(crate) fn encode_open(
    id: u32,
    head: &RequestHead,
    body: &[u8],
    end: bool,
) -> Result<Bytes, FrameError> {
    with_head(kind::OPEN, id, head.size_hint(), body, end, |out| {
        head.encode(out)
    })
}

/// Encodes a HEAD frame without an owned [`Frame`].
///
/// # Errors
/// [`FrameError::TooLarge`] when the head or the body is larger than its limit.
pub(crate) fn encode_head(
    id: u32,
    head: &ResponseHead,
    body: &[u8],
    end: bool,
) -> Result<Bytes, FrameError> {
    with_head(kind::HEAD, id, head.size_hint(), body, end, |out| {
        head.encode(out)
    })
}

/// Returns the length of the head in an OPEN or HEAD frame, in bytes.
pub(crate) fn head_bytes(frame: &[u8]) -> usize {
    let length = frame.get(HEADER_BYTES..HEADER_BYTES + 4);
    let length = length.and_then(|bytes| <[u8; 4]>::try_from(bytes).ok());
    let length = length.map_or(0, u32::from_be_bytes);
    usize::try_from(length).unwrap_or(usize::MAX)
}

/// Whether a message is larger than a session of version 1 allows (W-60).
pub(crate) fn exceeds_version_1(message: &[u8]) -> bool {
    let Some(([kind, flags, ..], payload)) = message.split_first_chunk::<HEADER_BYTES>() else {
        return false;
    };
    if message.len() > FRAME_MAX_BYTES_V1 {
        return true;
    }
    match *kind {
        kind::OPEN | kind::HEAD => head_bytes(message) > HEAD_MAX_BYTES_V1,
        // A frame that may be skipped is read as far as its header (W-61).
        _ if flags & FLAG_SKIPPABLE != 0 => false,
        _ => payload.len() > HEAD_MAX_BYTES_V1,
    }
}

/// Encodes a DATA frame. The caller passes at most [`DATA_MAX_BYTES`].
pub(crate) fn encode_data(id: u32, data: &[u8], end: bool) -> Bytes {
    let mut frame = DataFrame::new(id, data.len());
    frame.push(data);
    frame.finish(end)
}

/// A DATA frame under construction, from any number of pieces.
pub(crate) struct DataFrame(Vec<u8>);

impl DataFrame {
    /// Creates a frame with capacity for `capacity` bytes of data.
    pub(crate) fn new(id: u32, capacity: usize) -> Self {
        Self(start(kind::DATA, 0, id, capacity))
    }

    /// Adds a piece.
    pub(crate) fn push(&mut self, data: &[u8]) {
        self.0.extend_from_slice(data);
    }

    /// Returns the complete frame. The caller has added at most [`DATA_MAX_BYTES`].
    pub(crate) fn finish(mut self, end: bool) -> Bytes {
        debug_assert!(self.0.len() <= HEADER_BYTES + DATA_MAX_BYTES);
        if end {
            self.0[FLAGS_AT] |= FLAG_END;
        }
        self.0.into()
    }
}

/// Sets the stream id of an encoded frame. An OPEN is encoded when it is queued, and gets its id when
/// it leaves (W-20).
pub(crate) fn on_stream(frame: Bytes, id: u32) -> Bytes {
    let id = id.to_be_bytes();
    // On the bridge the id is right already: no copy.
    if frame.get(2..HEADER_BYTES) == Some(&id[..]) {
        return frame;
    }
    let mut frame = BytesMut::from(frame);
    frame[2..HEADER_BYTES].copy_from_slice(&id);
    frame.freeze()
}

/// Encodes the fields of a HELLO, the bytes that are signed, see [`crate::opening`].
///
/// # Errors
/// [`FrameError::TooLarge`] when it is larger than a control payload may be.
pub fn encode_hello_body(hello: &Hello) -> Result<Bytes, FrameError> {
    let mut out = Vec::new();
    serial::encode(hello, &mut out)?;
    Ok(out.into())
}

impl Frame {
    /// Encodes the frame.
    ///
    /// # Errors
    /// [`FrameError::TooLarge`] when a part is larger than its limit.
    pub fn encode(&self) -> Result<Bytes, FrameError> {
        match self {
            Self::Challenge(challenge) => control(kind::CHALLENGE, 0, challenge),
            Self::Hello { body, proof, .. } => {
                let mut out = start(kind::HELLO, 0, 0, body.len() + PROOF_BYTES);
                out.extend_from_slice(body);
                out.extend_from_slice(proof);
                Ok(out.into())
            }
            Self::Welcome(welcome) => control(kind::WELCOME, 0, welcome),
            Self::Refused(refused) => control(kind::REFUSED, 0, refused),
            Self::Open {
                id,
                head,
                body,
                end,
            } => encode_open(*id, head, body, *end),
            Self::Dispatched { id } => Ok(start(kind::DISPATCHED, 0, *id, 0).into()),
            Self::Head {
                id,
                head,
                body,
                end,
            } => encode_head(*id, head, body, *end),
            Self::Data { id, data, end } => {
                if data.len() > DATA_MAX_BYTES {
                    return Err(FrameError::TooLarge);
                }
                if data.is_empty() && !end {
                    return Err(FrameError::EmptyData);
                }
                Ok(encode_data(*id, data, *end))
            }
            Self::Trailers { id, headers } => {
                let block = headers.block();
                let mut out = start(kind::TRAILERS, FLAG_END, *id, block.len());
                out.extend_from_slice(block);
                Ok(out.into())
            }
            Self::Credit { id, credit } => control(kind::CREDIT, *id, credit),
            Self::Stop { id } => Ok(start(kind::STOP, 0, *id, 0).into()),
            Self::Reset { id, failure } => control(kind::RESET, *id, &WireReset::new(failure)),
            Self::Result(result) => control(kind::RESULT, 0, result),
            Self::ResultAck(attempt) => control(kind::RESULT_ACK, 0, attempt),
            Self::Ping(token) => control(kind::PING, 0, token),
            Self::Pong(token) => control(kind::PONG, 0, token),
            Self::Status(serves) => control(kind::STATUS, 0, serves),
            Self::GoAway(goaway) => control(kind::GOAWAY, 0, goaway),
            // The serializer knows only the limit of the whole payload, not that of the text.
            Self::Report(report) if !report.fits() => Err(FrameError::TooLarge),
            Self::Report(report) => {
                let mut out = start(kind::REPORT, FLAG_SKIPPABLE, 0, 64);
                serial::encode(report, &mut out)?;
                Ok(out.into())
            }
            Self::Versions(versions) => {
                let mut out = start(kind::VERSIONS, FLAG_SKIPPABLE, 0, 64);
                serial::encode(&WireVersions::new(versions), &mut out)?;
                Ok(out.into())
            }
        }
    }

    /// Decodes one WebSocket message. Returns `None` for an unknown type that may be skipped.
    ///
    /// # Errors
    /// Any [`FrameError`]: the peer violated the protocol.
    pub fn decode(mut bytes: Bytes) -> Result<Option<Self>, FrameError> {
        // The WebSocket has the same limit. It is checked again, because a session may be fed by other
        // means, as in tests.
        if bytes.len() > FRAME_MAX_BYTES {
            return Err(FrameError::TooLarge);
        }
        let Some(&[kind, flags, a, b, c, d]) = bytes.first_chunk::<HEADER_BYTES>() else {
            return Err(FrameError::Short);
        };
        bytes.advance(HEADER_BYTES);
        let id = u32::from_be_bytes([a, b, c, d]);
        decode::Header { kind, flags, id }.decode_payload(bytes)
    }
}
