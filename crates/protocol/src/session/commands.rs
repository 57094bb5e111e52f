//! What users of streams want: open, send, finish. Nothing here waits.

use super::stream::{Outgoing, Stream};
use super::{OpenError, SendCapacity, Session, unknown_stream};
use crate::code::{Code, Execution, Failure};
use crate::frame::{self, Headers, RequestHead, ResponseHead};
use crate::limits::INFORMATIONAL_MAX;
use bytes::Bytes;
use std::time::Instant;

impl Session {
    /// Relay: opens a stream. A `body` (at most 16 KiB) travels inside OPEN; `end` says that it
    /// is the whole.
    ///
    /// # Errors
    /// [`OpenError`]; nothing was sent.
    pub fn open(&mut self, head: &RequestHead, body: &[u8], end: bool) -> Result<u32, OpenError> {
        if self.ended.is_some() {
            return Err(OpenError::Ended);
        }
        if !self.accepts_streams() {
            return Err(OpenError::Draining);
        }
        if self.live >= self.config.peer.streams_max {
            return Err(OpenError::Full);
        }
        let id = self.last_id + 1;
        let frame = frame::encode_open(0, head, body, end)?;
        self.last_id = id;
        let mut stream = Stream::new(
            (head.class, head.share),
            self.config.peer.stream_bytes,
            self.config.local.stream_bytes,
            frame::BodyLength::Unknown,
        );
        stream.send.finished = end;
        stream.send.queued = body.len();
        self.unsent.add(head.share.caller, body.len());
        stream.send.queue.push_back(Outgoing::Head {
            frame,
            body: body.len() as u64,
            end,
            last: true,
        });
        self.streams.insert(id, stream);
        self.live += 1;
        self.enqueue(id);
        self.advance(id);
        Ok(id)
    }

    /// Bridge: sends a head of the answer. Only the last one has a `body` (at most 16 KiB) or an
    /// `end`. Heads with an informational status above
    /// [`INFORMATIONAL_MAX`] are left out: they are only hints,
    /// and the relay would take them for a flood.
    ///
    /// # Errors
    /// The stream's failure if it has failed; `HeadersTooLarge` when the head does not fit.
    pub fn send_head(
        &mut self,
        id: u32,
        head: &ResponseHead,
        body: &[u8],
        end: bool,
    ) -> Result<(), Failure> {
        let informational = head.is_informational();
        debug_assert!(
            !informational || (body.is_empty() && !end),
            "a body before the head"
        );
        let stream = self.sending(id)?;
        let frame = frame::encode_head(id, head, body, end).map_err(|error| {
            let detail = format!("the answer's head does not fit a frame: {error}");
            Failure::new(Code::TargetProtocol, Execution::Executed, detail)
        })?;
        stream.dispatched = true;
        if stream.send.ended {
            return Ok(());
        }
        if informational {
            if stream.send.informational >= INFORMATIONAL_MAX {
                return Ok(());
            }
            stream.send.informational += 1;
        }
        stream.dispatched_owed = false;
        stream.send.finished |= end;
        let caller = stream.share.caller;
        stream.send.queued += body.len();
        stream.send.queue.push_back(Outgoing::Head {
            frame,
            body: body.len() as u64,
            end,
            last: !informational,
        });
        self.unsent.add(caller, body.len());
        self.enqueue(id);
        Ok(())
    }

    /// Bridge: the first byte is about to leave for the target. From here on the exchange is
    /// `possibly_executed`. Returns whether [`Self::poll_timeout`] came nearer.
    ///
    /// # Errors
    /// The stream's failure: it was taken back, and nothing may leave.
    pub fn mark_dispatched(&mut self, now: Instant, id: u32) -> Result<bool, Failure> {
        let stream = self.streams.get_mut(&id).ok_or_else(unknown_stream)?;
        if let Some(failure) = &stream.failure {
            return Err(failure.clone());
        }
        if !stream.dispatched {
            stream.dispatched = true;
            stream.dispatched_owed = true;
            self.owed.push_back(id);
            return Ok(self.timers.owe_dispatched(now));
        }
        Ok(false)
    }

    /// Whether there is room for more bytes. After `Full`, [`Event::Writable`](super::Event::Writable) follows.
    ///
    /// # Errors
    /// The stream's failure.
    pub fn send_capacity(&mut self, id: u32) -> Result<SendCapacity, Failure> {
        let caller = self.sending(id)?.share.caller;
        let session_full = self.unsent.is_full_for(caller);
        let stream = self.sending(id)?;
        if stream.send.stopped {
            return Ok(SendCapacity::Stopped);
        }
        if stream.send.is_full() || (session_full && stream.send.queued > 0) {
            stream.send.writer_waits = true;
            return Ok(SendCapacity::Full);
        }
        Ok(SendCapacity::Free)
    }

    /// Queues bytes of the body. Ask [`Self::send_capacity`] first: this takes them in any case.
    ///
    /// # Errors
    /// The stream's failure.
    pub fn send_data(&mut self, id: u32, data: Bytes) -> Result<(), Failure> {
        let stream = self.sending(id)?;
        debug_assert!(!stream.send.finished, "data after the end");
        if data.is_empty() || stream.send.ended || stream.send.finished {
            return Ok(());
        }
        let bytes = data.len();
        stream.send.queued += bytes;
        stream.send.queue.push_back(Outgoing::Data(data));
        let caller = stream.share.caller;
        self.unsent.add(caller, bytes);
        self.enqueue(id);
        Ok(())
    }

    /// Ends the sending direction, with trailers if there are any.
    ///
    /// # Errors
    /// The stream's failure.
    pub fn finish(&mut self, id: u32, trailers: Option<Headers>) -> Result<(), Failure> {
        let stream = self.sending(id)?;
        if stream.send.finished || stream.send.ended {
            return Ok(());
        }
        stream.send.finished = true;
        let trailers = trailers.filter(|fields| !fields.is_empty());
        stream.send.queue.push_back(Outgoing::End(trailers));
        self.enqueue(id);
        Ok(())
    }

    pub(super) fn sending(&mut self, id: u32) -> Result<&mut Stream, Failure> {
        let stream = self.streams.get_mut(&id).ok_or_else(unknown_stream)?;
        match &stream.failure {
            Some(failure) => Err(failure.clone()),
            None => Ok(stream),
        }
    }

    /// The failure of a stream, once it has failed for good: after a cancel, once the bridge's
    /// word has come.
    pub fn failure(&self, id: u32) -> Option<Failure> {
        match self.streams.get(&id) {
            None => Some(unknown_stream()),
            Some(stream) if stream.awaits_word => None,
            Some(stream) => stream.failure.clone(),
        }
    }
}
