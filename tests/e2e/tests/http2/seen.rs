//! What came back on a connection: by stream, and of the connection itself.

use super::frames::{self, Frame, flag, kind, setting};
use std::collections::BTreeMap;

/// So much of a response's body is kept.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// All that came so far.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    streams: BTreeMap<u32, Stream>,
    /// The code of the last GOAWAY.
    gone_away: Option<u32>,
    pub(crate) is_closed: bool,
    pub(crate) has_settings: bool,
    /// The most concurrent streams, where the relay announces a limit.
    pub(crate) streams_max: Option<u32>,
}

/// A response, as far as it came.
#[derive(Debug, Default)]
pub(crate) struct Stream {
    status: Option<u16>,
    /// The code of a reset.
    pub(crate) reset: Option<u32>,
    /// Whether the response came to its own end.
    pub(crate) is_ended: bool,
    pub(crate) body: Vec<u8>,
}

/// What a request came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// A response with this status, which is final.
    Answered(u16),
    /// RST_STREAM with this code.
    Reset(u32),
    /// GOAWAY with this code.
    GoneAway(u32),
    /// The end of the connection without a GOAWAY.
    Closed,
}

impl Ending {
    /// Whether it reports that the request was invalid.
    pub(crate) fn is_refusal(self) -> bool {
        match self {
            Self::Answered(status) => (400..500).contains(&status),
            Self::Reset(_) | Self::GoneAway(_) | Self::Closed => true,
        }
    }
}

impl Seen {
    /// Notes a frame. What it wants to be answered with, if anything.
    pub(crate) fn note(&mut self, frame: &Frame) -> Option<Vec<u8>> {
        let is_ack = frame.flags & flag::ACK != 0;
        match frame.kind {
            kind::SETTINGS if !is_ack => {
                self.has_settings = true;
                let streams = setting::MAX_CONCURRENT_STREAMS;
                self.streams_max = frames::setting_in(&frame.payload, streams).or(self.streams_max);
                return Some(frames::frame(kind::SETTINGS, flag::ACK, 0, &[]));
            }
            kind::PING if !is_ack => {
                return Some(frames::frame(kind::PING, flag::ACK, 0, &frame.payload));
            }
            kind::GOAWAY => self.gone_away = frames::number(&frame.payload, 4),
            kind::HEADERS | kind::DATA | kind::RST_STREAM => {
                self.streams.entry(frame.stream).or_default().note(frame);
            }
            _ => {}
        }
        None
    }

    /// What a request came to, if it has.
    pub(crate) fn ending(&self, stream: u32) -> Option<Ending> {
        let answer = self.stream(stream);
        let status = answer.and_then(|answer| answer.status);
        let reset = answer.and_then(|answer| answer.reset);
        // One without an error lets what runs come to its end.
        let gone_away = self.gone_away.filter(|code| *code != 0);
        let of_connection = || {
            let closed = self.is_closed.then_some(Ending::Closed);
            gone_away.map(Ending::GoneAway).or(closed)
        };
        let of_stream = status.map(Ending::Answered).or(reset.map(Ending::Reset));
        of_stream.or_else(of_connection)
    }

    /// A stream on which something came.
    pub(crate) fn stream(&self, stream: u32) -> Option<&Stream> {
        self.streams.get(&stream)
    }

    /// Streams that came to this.
    pub(crate) fn count(&self, ending: impl Fn(Ending) -> bool) -> usize {
        let endings = self.streams.keys().filter_map(|id| self.ending(*id));
        endings.filter(|came| ending(*came)).count()
    }

    /// Whether the relay has ended the connection.
    pub(crate) fn is_over(&self) -> bool {
        self.is_closed || self.gone_away.is_some()
    }
}

impl Stream {
    fn note(&mut self, frame: &Frame) {
        match frame.kind {
            kind::RST_STREAM => self.reset = frames::number(&frame.payload, 0),
            kind::HEADERS => {
                // One that is informational does not count, and trailers have none.
                let status = frames::status(&frame.payload).filter(|status| *status >= 200);
                self.status = self.status.or(status);
            }
            _ => {
                let room = BODY_BYTES_MAX.saturating_sub(self.body.len());
                let kept = frame.payload.len().min(room);
                self.body.extend(&frame.payload[..kept]);
            }
        }
        let may_end = frame.kind != kind::RST_STREAM;
        self.is_ended |= may_end && frame.flags & flag::END_STREAM != 0;
    }
}
