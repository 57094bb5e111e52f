//! What readers do: take heads and bytes, and by that return credit.

use super::event::Read;
use super::stream::Stream;
use super::{Session, unknown_stream};
use crate::code::Failure;
use crate::frame::{BodyLength, Frame, ResponseHead};
use crate::limits::STREAM_RESERVE_BYTES;
use std::time::Instant;

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
            stream.recv.taken += data.len() as u64;
            self.return_credit(now, id);
            return Read::Data(data);
        }
        if !stream.recv.ended {
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
        self.end_on_wire(id);
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

    /// Lists a stream for CREDIT when that is due (W-32): at half its window, or at half its
    /// reserve when the session's window is half used, or at its end when it is still charged.
    pub(super) fn return_credit(&mut self, now: Instant, id: u32) {
        let pressed = self.is_pressed();
        let rtt = self.timers.rtt();
        let cap = self.config.stream_window_cap;
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let recv = &mut stream.recv;
        let due = if recv.ended {
            recv.buffered == 0 && recv.window.charge() > 0
        } else if pressed {
            recv.taken >= STREAM_RESERVE_BYTES / 2
        } else {
            recv.taken >= recv.window.size / 2
        };
        if !due || stream.pending.credit {
            return;
        }
        stream.pending.credit = true;
        // Half a window in less than a round trip: the window is below twice the path's
        // bandwidth-delay product, and what was read is all that came, so the reader keeps up.
        let fast = recv
            .credited_at
            .is_some_and(|at| now.saturating_duration_since(at) < rtt);
        if fast && !recv.ended && recv.buffered <= recv.window.size / 4 {
            let wanted = recv.window.size.min(cap.saturating_sub(recv.window.size));
            if wanted > 0 && self.config.budget.try_take(wanted) {
                recv.window.size += wanted;
                recv.growth += wanted;
            }
        }
        if recv.credited_at.is_none() {
            recv.credited_at = Some(now);
        }
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
