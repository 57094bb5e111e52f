//! The way out: which frame leaves next, and what it costs.

use super::event::Event;
use super::stream::{Outgoing, Stream};
use super::{Session, Side};
use crate::frame::{self, Credit, DataFrame, Frame};
use crate::limits::DATA_SENT_BYTES;
use bytes::Bytes;
use std::time::{Duration, Instant};

/// A stream that had nothing to send for this long is fresh again: long enough that a transfer
/// which runs dry between two reads is not, short enough that somebody who clicks is.
const IDLE: Duration = Duration::from_millis(100);

impl Session {
    /// The next frame, or `None` when nothing may leave now.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<Bytes> {
        self.clock = now;
        if self.ended.is_some() {
            return None;
        }
        if let Some(token) = self.pong.take() {
            return Some(encode(&Frame::Pong(token)));
        }
        if let Some(frame) = self.outbox.pop_front() {
            self.results_queued = self.results_queued.min(self.outbox.len());
            return Some(frame);
        }
        if let Some((id, failure)) = self.refusals.pop_front() {
            return Some(encode(&Frame::Reset { id, failure }));
        }
        if let Some(frame) = self.next_control() {
            return Some(frame);
        }
        self.next_scheduled(now)
    }

    /// Whether, since this was asked last, a caller ran out of what it had queued while others have more:
    /// who fills its queue should be let do so before the next batch, or that is theirs alone.
    pub fn take_underrun(&mut self) -> bool {
        std::mem::take(&mut self.underrun)
    }

    /// Whether [`Self::poll_transmit`] may have something.
    pub fn has_frames(&self) -> bool {
        self.pong.is_some()
            || !self.outbox.is_empty()
            || !self.refusals.is_empty()
            || !self.controls.is_empty()
            || !self.schedule.is_empty()
    }

    fn next_control(&mut self) -> Option<Bytes> {
        while let Some(id) = self.controls.front().copied() {
            // What concerns a stream follows its OPEN.
            if let Some(stream) = self.streams.get_mut(&id)
                && stream.wire != 0
            {
                let wire = stream.wire;
                if let Some(failure) = stream.pending.reset.take() {
                    stream.pending.credit = false;
                    stream.pending.stop = false;
                    stream.dispatched_owed = false;
                    return Some(encode(&Frame::Reset { id: wire, failure }));
                }
                if std::mem::take(&mut stream.pending.stop) {
                    stream.pending.credit = false;
                    return Some(encode(&Frame::Stop { id: wire }));
                }
                if std::mem::take(&mut stream.pending.credit)
                    && let Some(credit) = self.collect_credit(id)
                {
                    self.close_on_wire(id);
                    return Some(encode(&Frame::Credit { id: wire, credit }));
                }
            }
            self.controls.pop_front();
            if let Some(stream) = self.streams.get_mut(&id) {
                stream.pending.listed = false;
                self.close_on_wire(id);
            }
        }
        None
    }

    /// What CREDIT says now; `None` when there is nothing to say.
    fn collect_credit(&mut self, id: u32) -> Option<Credit> {
        let stream = self.streams.get_mut(&id)?;
        let recv = &mut stream.recv;
        let before = recv.window.charge();
        let returned = u32::try_from(recv.taken).unwrap_or(u32::MAX);
        let grown = u32::try_from(recv.growth).unwrap_or(u32::MAX);
        if returned == 0 && grown == 0 {
            return None;
        }
        recv.taken -= u64::from(returned);
        recv.growth -= u64::from(grown);
        recv.window.outstanding -= u64::from(returned);
        self.recv_charge -= before - recv.window.charge();
        Some(Credit { returned, grown })
    }

    /// Puts a stream into the list of those with control frames pending.
    pub(super) fn list_control(&mut self, id: u32) {
        if let Some(stream) = self.streams.get_mut(&id)
            && !stream.pending.listed
        {
            stream.pending.listed = true;
            self.controls.push_back(id);
        }
    }

    /// DISPATCHED frames that have waited long enough.
    pub(super) fn send_owed(&mut self) {
        debug_assert_eq!(self.config.side, Side::Bridge);
        while let Some(id) = self.owed.pop_front() {
            let owed = self.streams.get_mut(&id).is_some_and(|stream| {
                stream.failure.is_none() && std::mem::take(&mut stream.dispatched_owed)
            });
            if owed {
                self.outbox.push_back(encode(&Frame::Dispatched { id }));
            }
        }
    }

    /// Puts a stream in line if it has something that may leave.
    pub(super) fn enqueue(&mut self, id: u32) {
        let session_left = self.config.peer.session_bytes - self.send_charge;
        let clock = self.clock;
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if stream.send.scheduled || stream.send.blocked {
            return;
        }
        if !stream.send.queue.is_empty()
            && let Some(since) = stream.send.idle_since.take()
            && clock.saturating_duration_since(since) >= IDLE
        {
            stream.send.burst = 0;
        }
        match sendable(stream, session_left) {
            Sendable::Yes => {
                stream.send.scheduled = true;
                let burst = stream.send.burst;
                self.schedule.push(id, (stream.class, stream.share), burst);
            }
            Sendable::SessionFull => {
                stream.send.blocked = true;
                self.blocked.push_back(id);
            }
            Sendable::No => {}
        }
    }

    fn next_scheduled(&mut self, now: Instant) -> Option<Bytes> {
        loop {
            let id = self.schedule.pop()?;
            let session_left = self.config.peer.session_bytes - self.send_charge;
            let Some(stream) = self.streams.get_mut(&id) else {
                continue;
            };
            stream.send.scheduled = false;
            if sendable(stream, session_left) != Sendable::Yes {
                self.enqueue(id);
                self.close_on_wire(id);
                continue;
            }
            if stream.wire == 0 {
                self.wire_last += 1;
                stream.wire = self.wire_last;
                self.wired.insert(stream.wire, id);
            }
            let before = stream.send.window.charge();
            let (frame, body) = next_frame(stream, session_left);
            self.send_charge += stream.send.window.charge() - before;
            stream.send.burst += frame.len() as u64;
            stream.send.queued -= body;
            self.unsent.sub(stream.share.caller, body);
            if stream.send.queue.is_empty() {
                stream.send.idle_since = Some(now);
                let has_more = !stream.send.ended && !stream.send.finished;
                self.underrun |= has_more && self.unsent.is_only_from_others(stream.share.caller);
            }
            let class = stream.class;
            if stream.send.writer_waits && !stream.send.is_full() {
                stream.send.writer_waits = false;
                self.events.push_back(Event::Writable(id));
            }
            let controls_wait = stream.pending.stop || stream.pending.credit;
            self.schedule.sent(class, frame.len() as u64);
            if controls_wait {
                self.list_control(id);
            }
            self.enqueue(id);
            self.close_on_wire(id);
            return Some(frame);
        }
    }

    /// Bytes of a stream came back: those that waited for the session's window may go on.
    pub(super) fn unblock(&mut self) {
        for _ in 0..self.blocked.len() {
            let Some(id) = self.blocked.pop_front() else {
                return;
            };
            if let Some(stream) = self.streams.get_mut(&id) {
                stream.send.blocked = false;
                self.enqueue(id);
                if self.send_charge >= self.config.peer.session_bytes {
                    return;
                }
            }
        }
    }

    /// Drops what waits to be sent, and what it was charged.
    pub(super) fn drop_unsent(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let charge = stream.send.window.charge();
        if std::mem::take(&mut stream.send.blocked) {
            self.blocked.retain(|blocked| *blocked != id);
        }
        stream.send.queue.clear();
        self.unsent.sub(stream.share.caller, stream.send.queued);
        stream.send.queued = 0;
        stream.send.window.outstanding = 0;
        self.send_charge -= charge;
        if charge > 0 {
            self.unblock();
        }
    }
}

/// Own control frames are within their limits.
fn encode(frame: &Frame) -> Bytes {
    frame
        .encode()
        .expect("own control frames are within their limits")
}

#[derive(PartialEq, Eq)]
enum Sendable {
    Yes,
    SessionFull,
    No,
}

fn sendable(stream: &Stream, session_left: u64) -> Sendable {
    if stream.send.ended {
        return Sendable::No;
    }
    match stream.send.queue.front() {
        None => Sendable::No,
        // A head's body fits the reserve of a stream that has sent nothing yet.
        Some(Outgoing::Head { .. } | Outgoing::End(_)) => Sendable::Yes,
        Some(Outgoing::Data(_)) => {
            let window = &stream.send.window;
            if window.fits(1, session_left) > 0 {
                Sendable::Yes
            } else if window.outstanding < window.size {
                Sendable::SessionFull
            } else {
                Sendable::No
            }
        }
    }
}

/// Takes the next frame off a stream that is sendable, and the bytes of body in it.
fn next_frame(stream: &mut Stream, session_left: u64) -> (Bytes, usize) {
    let id = stream.wire;
    match stream.send.queue.pop_front() {
        Some(Outgoing::Head {
            frame,
            body,
            end,
            last,
        }) => {
            stream.send.window.outstanding += body;
            stream.send.head_left |= last;
            stream.send.ended |= end;
            let frame = frame::on_stream(frame, id);
            (frame, usize::try_from(body).unwrap_or(usize::MAX))
        }
        Some(Outgoing::Data(data)) => {
            stream.send.queue.push_front(Outgoing::Data(data));
            let wanted = stream.send.queued.min(DATA_SENT_BYTES) as u64;
            let fits = stream.send.window.fits(wanted, session_left);
            let fits = usize::try_from(fits).unwrap_or(usize::MAX);
            let mut frame = DataFrame::new(id, fits);
            let taken = gather(stream, &mut frame, fits);
            stream.send.window.outstanding += taken as u64;
            let end = matches!(stream.send.queue.front(), Some(Outgoing::End(None)));
            if end {
                stream.send.queue.pop_front();
                stream.send.ended = true;
            }
            (frame.finish(end), taken)
        }
        Some(Outgoing::End(trailers)) => {
            stream.send.ended = true;
            let frame = match trailers {
                None => frame::encode_data(id, &[], true),
                Some(headers) => encode(&Frame::Trailers { id, headers }),
            };
            (frame, 0)
        }
        None => unreachable!("a sendable stream has something queued"),
    }
}

/// Up to `max` bytes from the front of the queue, copied into a frame; pieces go together.
fn gather(stream: &mut Stream, frame: &mut DataFrame, max: usize) -> usize {
    let queue = &mut stream.send.queue;
    let mut left = max;
    while left > 0
        && let Some(Outgoing::Data(piece)) = queue.front_mut()
    {
        let taken = piece.split_to(piece.len().min(left));
        frame.push(&taken);
        left -= taken.len();
        if piece.is_empty() {
            queue.pop_front();
        }
    }
    max - left
}
