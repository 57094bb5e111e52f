//! Frames to the peer: which one leaves next, and what it charges to the windows.

use super::event::Event;
use super::stream::{Outgoing, QueuedIn, Stream};
use super::{Session, Side};
use crate::frame::{self, Credit, DataFrame, Frame};
use crate::limits::DATA_SENT_BYTES;
use bytes::Bytes;
use std::time::{Duration, Instant};

/// A stream that had nothing to send for this long counts as fresh again. It is longer than the pause of a
/// transfer between two reads of its source, and shorter than the pause between two user actions.
const IDLE: Duration = Duration::from_millis(100);

impl Session {
    /// Returns the next frame, or `None` when nothing may leave now.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<Bytes> {
        self.clock = now;
        if self.ended.is_some() {
            return None;
        }
        // PONG first: the peer measures the round trip with it, and must not measure our queues.
        if let Some(token) = self.pong.take() {
            return Some(encode(&Frame::Pong(token)));
        }
        if let Some(frame) = self.outbox.pop_front() {
            // An upper bound is enough: the outbox does not record which of its frames are results.
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

    /// Returns whether, since the last call, a caller's queue ran empty while other callers have more queued.
    ///
    /// Yield once so that callers can refill their queues; otherwise the next batch contains only streams
    /// that already have data.
    pub fn take_underrun(&mut self) -> bool {
        std::mem::take(&mut self.is_underrun)
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
        // The stream stays at the front until it has nothing more to send: its frames leave together.
        while let Some(id) = self.controls.front().copied() {
            // Frames about a stream follow its OPEN (W-20). Until OPEN leaves, they stay pending, and
            // `next_scheduled` lists the stream again.
            if let Some(stream) = self.streams.get_mut(&id)
                && stream.wire != 0
            {
                let wire = stream.wire;
                // RESET replaces STOP, CREDIT and DISPATCHED: it ends both directions and reports the
                // execution state.
                if std::mem::take(&mut stream.pending.reset)
                    && let Some(failure) = stream.reset.failure().cloned()
                {
                    stream.pending.credit = false;
                    stream.pending.stop = false;
                    stream.dispatch.settle();
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
                stream.pending.is_listed = false;
                self.close_on_wire(id);
            }
        }
        None
    }

    /// Collects what CREDIT reports now; `None` when there is nothing to report.
    fn collect_credit(&mut self, id: u32) -> Option<Credit> {
        let stream = self.streams.get_mut(&id)?;
        let recv = &mut stream.recv;
        let before = recv.window.charge();
        // What exceeds 32 bits stays for the next CREDIT.
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
            && !stream.pending.is_listed
        {
            stream.pending.is_listed = true;
            self.controls.push_back(id);
        }
    }

    /// Queues the DISPATCHED frames that are still owed.
    pub(super) fn send_owed(&mut self) {
        debug_assert_eq!(self.config.side, Side::Bridge);
        while let Some(id) = self.owed.pop_front() {
            // A HEAD or RESET that was queued meanwhile made it unnecessary.
            let owed = self
                .streams
                .get_mut(&id)
                .is_some_and(|stream| stream.reset.is_none() && stream.dispatch.settle());
            if owed {
                self.outbox.push_back(encode(&Frame::Dispatched { id }));
            }
        }
    }

    /// Adds a stream to the scheduler if it has something that may leave.
    pub(super) fn enqueue(&mut self, id: u32) {
        let session_left = self.config.peer.session_bytes - self.send_charge;
        let clock = self.clock;
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        match stream.send.queued_in {
            QueuedIn::Nothing => {}
            QueuedIn::Schedule | QueuedIn::Blocked => return,
        }
        // Interactive use has pauses. A stream that was idle gets the priority of a fresh one again.
        if !stream.send.queue.is_empty()
            && let Some(since) = stream.send.idle_since.take()
            && clock.saturating_duration_since(since) >= IDLE
        {
            stream.send.burst = 0;
        }
        match sendable(stream, session_left) {
            Sendable::Yes => {
                stream.send.queued_in = QueuedIn::Schedule;
                let burst = stream.send.burst;
                self.schedule.push(id, (stream.class, stream.share), burst);
            }
            Sendable::SessionFull => {
                stream.send.queued_in = QueuedIn::Blocked;
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
            stream.send.queued_in = QueuedIn::Nothing;
            // It was sendable when it was scheduled. Since then it may have been stopped or reset, or other
            // streams may have used up the session's window.
            if sendable(stream, session_left) != Sendable::Yes {
                self.enqueue(id);
                self.close_on_wire(id);
                continue;
            }
            // Ids are assigned in the order in which OPENs leave, so that they rise on the wire although
            // an urgent OPEN overtakes others (W-20).
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
                let has_more = stream.send.state.takes_more();
                self.is_underrun |=
                    has_more && self.unsent.is_only_from_others(stream.share.caller);
            }
            let class = stream.class;
            if stream.send.is_writer_waiting && !stream.send.is_full() {
                stream.send.is_writer_waiting = false;
                self.events.push_back(Event::Writable(id));
            }
            // `next_control` skips a stream whose OPEN has not left: list it again.
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

    /// Part of the session's window is free again: schedules the streams that wait for it, in order.
    pub(super) fn unblock(&mut self) {
        // At most one pass: `enqueue` may put a stream back at the end of the same list.
        for _ in 0..self.blocked.len() {
            let Some(id) = self.blocked.pop_front() else {
                return;
            };
            if let Some(stream) = self.streams.get_mut(&id) {
                stream.send.queued_in = QueuedIn::Nothing;
                self.enqueue(id);
                if self.send_charge >= self.config.peer.session_bytes {
                    return;
                }
            }
        }
    }

    /// Drops what waits to be sent on a stream, and returns its charge to the session.
    pub(super) fn drop_unsent(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let charge = stream.send.window.charge();
        if stream.send.queued_in == QueuedIn::Blocked {
            stream.send.queued_in = QueuedIn::Nothing;
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

/// Encodes a control frame of our own, which is always within its limits.
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
    if stream.send.state.is_closed() {
        return Sendable::No;
    }
    match stream.send.queue.front() {
        None => Sendable::No,
        // The body inside a head needs no check: the stream has sent nothing yet, and its reserve is as
        // large as the largest inlined body.
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

/// Takes the next frame of a sendable stream, with the number of body bytes in it.
fn next_frame(stream: &mut Stream, session_left: u64) -> (Bytes, usize) {
    let id = stream.wire;
    match stream.send.queue.pop_front() {
        Some(Outgoing::Head {
            frame,
            body,
            end,
            is_final,
        }) => {
            stream.send.window.outstanding += body;
            if is_final {
                stream.send.state.head_left();
            }
            if end {
                stream.send.state.end();
            }
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
            // END travels with the last bytes where there are no trailers: one frame less.
            let end = matches!(stream.send.queue.front(), Some(Outgoing::End(None)));
            if end {
                stream.send.queue.pop_front();
                stream.send.state.end();
            }
            (frame.finish(end), taken)
        }
        Some(Outgoing::End(trailers)) => {
            stream.send.state.end();
            let frame = match trailers {
                None => frame::encode_data(id, &[], true),
                Some(headers) => encode(&Frame::Trailers { id, headers }),
            };
            (frame, 0)
        }
        None => unreachable!("a sendable stream has something queued"),
    }
}

/// Copies up to `max` bytes from the front of the queue into a frame, from as many pieces as needed.
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
