//! What readers do: take heads and bytes, which returns credit.

use super::event::Read;
use super::stream::{RecvClosed, Stream};
use super::{Session, unknown_stream};
use crate::code::Failure;
use crate::frame::{BodyLength, Frame, ResponseHead};
use crate::limits::STREAM_RESERVE_BYTES;
use std::time::Instant;

/// Least number of bytes that one CREDIT returns, unless half of the window is less.
const CREDIT_BYTES_MIN: u64 = 128 * 1024;

impl Session {
    /// Relay: returns the next head of the response, if one came.
    ///
    /// # Errors
    /// The stream's failure.
    pub fn read_head(&mut self, id: u32) -> Result<Option<ResponseHead>, Failure> {
        let Some(stream) = self.streams.get_mut(&id) else {
            return Err(unknown_stream());
        };
        match (stream.recv.heads.pop_front(), stream.reset.failure()) {
            (Some(head), None) => Ok(Some(head)),
            (None, None) => Ok(None),
            (_, Some(failure)) => Err(failure.clone()),
        }
    }

    /// Returns what is known of the length of the incoming body.
    pub fn body_length(&self, id: u32) -> BodyLength {
        self.streams
            .get(&id)
            .map_or(BodyLength::Unknown, |stream| stream.recv.body)
    }

    /// Returns whether all of the incoming body was read, or there was none.
    pub fn is_read_to_end(&self, id: u32) -> bool {
        self.streams.get(&id).is_some_and(|stream| {
            let recv = &stream.recv;
            stream.reset.is_none()
                && recv.state.is_closed()
                && recv.buffered == 0
                && recv.trailers.is_none()
        })
    }

    /// Reads the next bytes of the body. Their credit is returned later, together with that of others.
    pub fn read(&mut self, now: Instant, id: u32) -> Read {
        let Some(stream) = self.streams.get_mut(&id) else {
            return Read::Failed(unknown_stream());
        };
        if let Some(failure) = stream.reset.failure() {
            return Read::Failed(failure.clone());
        }
        if let Some(data) = stream.recv.pop() {
            let bytes = data.len() as u64;
            stream.recv.taken += bytes;
            stream.recv.total += bytes;
            stream.recv.rate.add(now, self.timers.rtt(), bytes);
            self.return_credit(now, id);
            return Read::Data(data);
        }
        if !stream.recv.state.is_closed() {
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
        // The end has come already, so a STOP would tell the peer nothing; only the credit is due.
        if stream.recv.state.is_closed() || !stream.reset.is_none() {
            self.take_all(id);
            return;
        }
        stream.recv.state.close(RecvClosed::Stop);
        stream.pending.stop = true;
        self.drop_unread(id);
        self.list_control(id);
        self.close_on_wire(id);
    }

    /// Discards what was not read, as if it had been read.
    pub(super) fn take_all(&mut self, id: u32) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.recv.taken += stream.recv.discard();
            stream.recv.trailers = None;
            if stream.reset.is_none() && stream.recv.window.charge() > 0 {
                stream.pending.credit = true;
                self.list_control(id);
            }
        }
    }

    /// Drops what was not read, and its charge. The sender drops the charge as well, so no CREDIT is due.
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

    /// Lists a stream for CREDIT when it is due (W-32): at half its window, earlier for a large window. Under
    /// pressure it is due at half the reserve, and after the end when the stream is still charged.
    pub(super) fn return_credit(&mut self, now: Instant, id: u32) {
        let pressed = self.is_pressed();
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let recv = &mut stream.recv;
        let due = if recv.state.is_closed() {
            // The last CREDIT of a stream releases its charge to the session, however little it is.
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
        // A transfer is running. Measure the round trip again, since window growth depends on it.
        if self.timers.wants_rtt(now) {
            let token = self.timers.ping(now);
            self.push_frame(&Frame::Ping(token));
        }
        self.list_control(id);
    }

    /// The session's window is half used: returns what readers have taken so far.
    pub(super) fn return_all_credit(&mut self) {
        let due = |stream: &Stream| {
            stream.reset.is_none()
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

/// Returns how many bytes a reader takes before they are returned: half of a window, a sixteenth of a
/// large one. Bytes that wait for CREDIT count as outstanding, so a large window would have to be
/// larger still.
fn credit_due_bytes(window_bytes: u64) -> u64 {
    let some = CREDIT_BYTES_MIN.max(window_bytes / 16);
    some.min(window_bytes / 2)
}
