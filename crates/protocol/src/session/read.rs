//! What readers do: take heads and bytes, and by that return credit.

use super::event::Read;
use super::stream::Stream;
use super::{Session, unknown_stream};
use crate::code::Failure;
use crate::frame::{BodyLength, Frame, ResponseHead};
use crate::limits::STREAM_RESERVE_BYTES;
use std::time::Instant;

/// Bytes that are returned together, at least; less where that is half of the window.
const CREDIT_BYTES_MIN: u64 = 128 * 1024;

impl Session {
    /// Relay: the next head of the answer.
    ///
    /// # Errors
    /// The stream's failure.
    pub fn read_head(&mut self, id: u32) -> Result<Option<ResponseHead>, Failure> {
        let Some(stream) = self.streams.get_mut(&id) else {
            return Err(unknown_stream());
        };
        match (stream.recv.heads.pop_front(), &stream.failure) {
            (Some(head), None) => Ok(Some(head)),
            (None, None) => Ok(None),
            (_, Some(failure)) => Err(failure.clone()),
        }
    }

    /// What is known of the length of the body that comes in.
    pub fn body_length(&self, id: u32) -> BodyLength {
        self.streams
            .get(&id)
            .map_or(BodyLength::Unknown, |stream| stream.recv.body)
    }

    /// Whether all of the incoming body was read, or there was none.
    pub fn is_read_to_end(&self, id: u32) -> bool {
        self.streams.get(&id).is_some_and(|stream| {
            let recv = &stream.recv;
            stream.failure.is_none() && recv.ended && recv.buffered == 0 && recv.trailers.is_none()
        })
    }

    /// The next bytes of the body. Taking them returns their credit, in due course.
    pub fn read(&mut self, now: Instant, id: u32) -> Read {
        let Some(stream) = self.streams.get_mut(&id) else {
            return Read::Failed(unknown_stream());
        };
        if let Some(failure) = &stream.failure {
            return Read::Failed(failure.clone());
        }
        if let Some(data) = stream.recv.pop() {
            let bytes = data.len() as u64;
            stream.recv.taken += bytes;
            stream.recv.total += bytes;
            stream.recv.rate.took(now, self.timers.rtt(), bytes);
            self.return_credit(now, id);
            return Read::Data(data);
        }
        if !stream.recv.ended {
            self.grow(now, id);
            return Read::Pending;
        }
        match stream.recv.trailers.take() {
            Some(headers) => Read::Trailers(headers),
            None => Read::End,
        }
    }

    /// Asks the peer to send no more of its body; the exchange goes on.
    pub fn stop(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if stream.recv.ended || stream.failure.is_some() {
            self.take_all(id);
            return;
        }
        stream.recv.stopped = true;
        stream.recv.ended = true;
        stream.pending.stop = true;
        self.drop_unread(id);
        self.list_control(id);
        self.close_on_wire(id);
    }

    /// Gives up what was not read, as if it had been.
    pub(super) fn take_all(&mut self, id: u32) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.recv.taken += stream.recv.discard();
            stream.recv.trailers = None;
            if stream.failure.is_none() && stream.recv.window.charge() > 0 {
                stream.pending.credit = true;
                self.list_control(id);
            }
        }
    }

    /// Drops what was not read, and what it was charged: the sender does the same.
    pub(super) fn drop_unread(&mut self, id: u32) {
        if let Some(stream) = self.streams.get_mut(&id) {
            let charge = stream.recv.window.charge();
            stream.recv.discard();
            stream.recv.heads.clear();
            stream.recv.trailers = None;
            stream.recv.window.outstanding = 0;
            stream.recv.taken = 0;
            stream.pending.credit = false;
            self.recv_charge -= charge;
        }
    }

    /// Lists a stream for CREDIT when that is due (W-32): at half its window, of a large one
    /// earlier, or at half its reserve when the session's window is half used, or at its end when
    /// it is still charged.
    pub(super) fn return_credit(&mut self, now: Instant, id: u32) {
        let pressed = self.is_pressed();
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let recv = &mut stream.recv;
        let due = if recv.ended {
            recv.buffered == 0 && recv.window.charge() > 0
        } else if pressed {
            recv.taken >= STREAM_RESERVE_BYTES / 2
        } else {
            recv.taken >= credit_due_bytes(recv.window.size)
        };
        if !due || stream.pending.credit {
            return;
        }
        stream.pending.credit = true;
        if self.timers.wants_rtt(now) {
            let token = self.timers.ping(now);
            self.push_frame(&Frame::Ping(token));
        }
        self.list_control(id);
    }

    /// The session's window is half used: whatever was taken goes back.
    pub(super) fn return_all_credit(&mut self) {
        let due = |stream: &Stream| {
            stream.failure.is_none()
                && stream.recv.taken >= STREAM_RESERVE_BYTES / 2
                && !stream.pending.credit
        };
        let ids: Vec<u32> = self
            .streams
            .iter()
            .filter(|(_, stream)| due(stream))
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            if let Some(stream) = self.streams.get_mut(&id) {
                stream.pending.credit = true;
            }
            self.list_control(id);
        }
    }
}

/// What a reader takes before it is returned: half of a window; of one that has grown a sixteenth,
/// so that little more is granted than what the path holds.
fn credit_due_bytes(window_bytes: u64) -> u64 {
    let some = CREDIT_BYTES_MIN.max(window_bytes / 16);
    some.min(window_bytes / 2)
}
