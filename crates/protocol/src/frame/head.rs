//! The heads of an exchange: the fields of OPEN and HEAD before the body.

use super::headers::Headers;
use super::{FrameError, serial};
use crate::limits::NAME_MAX_BYTES;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::num::NonZeroU8;
use std::time::Duration;

/// The priority of a stream when several have something to send (W-34).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Class {
    /// Call URL: small, and a user may wait for it.
    Interactive,
    /// Synchronizer: long transfers that can wait.
    Bulk,
}

/// The caller of a stream and its weight, among the streams of a class (W-34).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CallerWeight {
    /// Distinguishes callers; an opaque number chosen by the relay.
    pub caller: u32,
    /// The number of shares of this caller under contention, 1 to 255.
    pub weight: NonZeroU8,
}

impl CallerWeight {
    /// Creates a caller's weight; a weight of 0 becomes 1.
    pub fn new(caller: u32, weight: u8) -> Self {
        Self {
            caller,
            weight: NonZeroU8::new(weight).unwrap_or(NonZeroU8::MIN),
        }
    }
}

impl Default for CallerWeight {
    /// The anonymous caller 0, with a weight of one.
    fn default() -> Self {
        Self::new(0, 1)
    }
}

/// The target of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestTarget {
    /// A Call URL: an absolute `http` or `https` URL.
    Url(String),
    /// A named endpoint, and the rest of the path with the query, byte for byte.
    Endpoint {
        /// The name that the bridge's config declares.
        name: String,
        /// Empty, or from `/` or `?` on.
        path_and_query: String,
    },
    /// A raw byte stream to `host:port`, as for CONNECT.
    Connect {
        /// A name or an address.
        host: String,
        /// The TCP port.
        port: u16,
    },
}

/// What is known of a body's length when its head is sent. It decides the framing on the other side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum BodyLength {
    /// There is no body, and no length was given.
    None,
    /// A length was given.
    Known(u64),
    /// The length is not known before the end.
    Unknown,
}

/// The time left, in milliseconds from now. Zero means no limit. Clock times are never sent (W-25).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TimeLeft {
    /// Until the response's final head.
    pub head_ms: u32,
    /// Between two signs of progress.
    pub idle_ms: u32,
    /// Until the end of the exchange.
    pub total_ms: u32,
}

impl TimeLeft {
    /// Returns the time until the response's final head, if limited.
    pub fn head(&self) -> Option<Duration> {
        millis(self.head_ms)
    }

    /// Returns the time between two signs of progress, if limited.
    pub fn idle(&self) -> Option<Duration> {
        millis(self.idle_ms)
    }

    /// Returns the time until the end, if limited.
    pub fn total(&self) -> Option<Duration> {
        millis(self.total_ms)
    }
}

fn millis(ms: u32) -> Option<Duration> {
    (ms != 0).then(|| Duration::from_millis(ms.into()))
}

/// Identifies one attempt of a stored call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CallAttempt {
    /// The call's id.
    pub call: [u8; 16],
    /// Its attempt, from 1.
    pub attempt: u32,
}

/// The head of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestHead {
    /// Its class, in both directions.
    pub class: Class,
    /// Its caller and weight, in both directions.
    pub share: CallerWeight,
    /// Its target.
    pub target: RequestTarget,
    /// The method, as the caller wrote it.
    pub method: String,
    /// End-to-end header fields.
    pub headers: Headers,
    /// What is known of the body's length.
    pub body: BodyLength,
    /// Whether the caller waits for `100 Continue` (RFC 9110, 10.1.1); then nothing is inlined.
    pub expect_continue: bool,
    /// The time left.
    pub time_left: TimeLeft,
    /// The call that this is an attempt of, if it is a Call URL.
    pub call: Option<CallAttempt>,
    /// The name of the credential that the bridge adds.
    pub credential: Option<String>,
}

/// The head of a response. Several may come; all but the final one are informational.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResponseHead {
    /// The status, 100 to 999.
    pub status: u16,
    /// End-to-end header fields.
    pub headers: Headers,
    /// What is known of the body's length.
    pub body: BodyLength,
}

impl ResponseHead {
    /// Whether another head follows: for 1xx except 101, after which raw bytes follow.
    pub fn is_informational(&self) -> bool {
        (100..200).contains(&self.status) && self.status != 101
    }
}

#[derive(Serialize, Deserialize)]
enum WireTarget<'a> {
    Url(&'a str),
    Endpoint(&'a str, &'a str),
    Connect(&'a str, u16),
}

#[derive(Serialize, Deserialize)]
struct WireRequest<'a> {
    class: Class,
    share: CallerWeight,
    #[serde(borrow)]
    target: WireTarget<'a>,
    method: &'a str,
    body: BodyLength,
    expect_continue: bool,
    time_left: TimeLeft,
    call: Option<CallAttempt>,
    credential: Option<&'a str>,
    #[serde(serialize_with = "serial::as_bytes")]
    headers: &'a [u8],
}

#[derive(Serialize, Deserialize)]
struct WireResponse<'a> {
    status: u16,
    body: BodyLength,
    #[serde(serialize_with = "serial::as_bytes")]
    headers: &'a [u8],
}

/// Bytes of a head except its text and its fields, at most.
const FIXED_BYTES: usize = 80;

impl RequestHead {
    /// Returns an upper estimate of the length of its encoding, so that one allocation is enough.
    pub(super) fn size_hint(&self) -> usize {
        let target = match &self.target {
            RequestTarget::Url(url) => url.len(),
            RequestTarget::Endpoint {
                name,
                path_and_query,
            } => name.len() + path_and_query.len(),
            RequestTarget::Connect { host, .. } => host.len(),
        };
        let credential = self.credential.as_ref().map_or(0, String::len);
        let text = target + self.method.len() + credential;
        FIXED_BYTES + text + self.headers.block().len()
    }

    /// Appends the head's encoding. Rejects what [`Self::decode`] would reject, so that the fault shows
    /// on the side that caused it.
    pub(super) fn encode(&self, out: &mut Vec<u8>) -> Result<usize, FrameError> {
        if self.method.is_empty() {
            return Err(FrameError::Payload);
        }
        let name = match &self.target {
            RequestTarget::Url(_) => "",
            RequestTarget::Endpoint { name, .. } => name,
            RequestTarget::Connect { host, .. } => host,
        };
        let credential = self.credential.as_deref().unwrap_or_default();
        if [&self.method, name, credential]
            .iter()
            .any(|name| name.len() > NAME_MAX_BYTES)
        {
            return Err(FrameError::TooLarge);
        }
        let target = match &self.target {
            RequestTarget::Url(url) => WireTarget::Url(url),
            RequestTarget::Endpoint {
                name,
                path_and_query,
            } => WireTarget::Endpoint(name, path_and_query),
            RequestTarget::Connect { host, port } => WireTarget::Connect(host, *port),
        };
        let wire = WireRequest {
            class: self.class,
            share: self.share,
            target,
            method: &self.method,
            body: self.body,
            expect_continue: self.expect_continue,
            time_left: self.time_left,
            call: self.call,
            credential: self.credential.as_deref(),
            headers: self.headers.block(),
        };
        serial::encode(&wire, out)
    }

    /// Decodes a head; header fields are slices of `bytes`.
    pub(super) fn decode(bytes: &Bytes) -> Result<Self, FrameError> {
        let wire: WireRequest<'_> = serial::decode(bytes)?;
        // The serializer's limit is that of the whole head. Names have their own, because they become
        // keys of maps and labels.
        let short = |s: &str| s.len() <= NAME_MAX_BYTES;
        if wire.method.is_empty() || !short(wire.method) {
            return Err(FrameError::Payload);
        }
        if wire.credential.is_some_and(|name| !short(name)) {
            return Err(FrameError::Payload);
        }
        let target = match wire.target {
            WireTarget::Url(url) => RequestTarget::Url(url.to_owned()),
            WireTarget::Endpoint(name, path) if short(name) => RequestTarget::Endpoint {
                name: name.to_owned(),
                path_and_query: path.to_owned(),
            },
            WireTarget::Connect(host, port) if short(host) => RequestTarget::Connect {
                host: host.to_owned(),
                port,
            },
            WireTarget::Endpoint(..) | WireTarget::Connect(..) => return Err(FrameError::Payload),
        };
        Ok(Self {
            class: wire.class,
            share: wire.share,
            target,
            method: wire.method.to_owned(),
            // A slice of the frame and not a copy: heads are on the hot path.
            headers: Headers::from_block(bytes.slice_ref(wire.headers))?,
            body: wire.body,
            expect_continue: wire.expect_continue,
            time_left: wire.time_left,
            call: wire.call,
            credential: wire.credential.map(str::to_owned),
        })
    }
}

impl ResponseHead {
    /// Returns an upper estimate of the length of its encoding, so that one allocation is enough.
    pub(super) fn size_hint(&self) -> usize {
        FIXED_BYTES + self.headers.block().len()
    }

    /// Appends the head's encoding. Rejects what [`Self::decode`] would reject, so that the fault shows
    /// on the side that caused it.
    pub(super) fn encode(&self, out: &mut Vec<u8>) -> Result<usize, FrameError> {
        if !(100..1000).contains(&self.status) {
            return Err(FrameError::Payload);
        }
        let wire = WireResponse {
            status: self.status,
            body: self.body,
            headers: self.headers.block(),
        };
        serial::encode(&wire, out)
    }

    /// Decodes a head; header fields are slices of `bytes`.
    pub(super) fn decode(bytes: &Bytes) -> Result<Self, FrameError> {
        let wire: WireResponse<'_> = serial::decode(bytes)?;
        if !(100..1000).contains(&wire.status) {
            return Err(FrameError::Payload);
        }
        Ok(Self {
            status: wire.status,
            headers: Headers::from_block(bytes.slice_ref(wire.headers))?,
            body: wire.body,
        })
    }
}
