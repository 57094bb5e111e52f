//! What the users of streams do: open, send, finish. Nothing here waits.

use super::stream::{DispatchState, Outgoing, RecvState, Stream};
use super::{OpenError, SendCapacity, Session, Side, unknown_stream};
use crate::code::{Code, Execution, Failure};
use crate::frame::{self, Headers, RequestHead, ResponseHead};
use crate::limits::INFORMATIONAL_MAX;
use bytes::Bytes;
use std::time::Instant;

impl Session {
    /// Relay: opens a stream. A `body` of at most 16 KiB travels inside OPEN; `end` marks it as
    /// complete.
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
        // Encoded at once, with a placeholder for the id: an error reaches the caller, and nothing was
        // changed yet.
        let frame = frame::encode_open(0, head, body, end)?;
        let (bytes, max) = (frame::head_bytes(&frame), self.config.head_max_bytes());
        if bytes > max {
            return Err(OpenError::VersionLimit { bytes, max });
        }
        self.last_id = id;
        let mut stream = Stream::new(
            (head.class, head.share),
            self.config.peer.stream_bytes,
            self.config.local.stream_bytes,
            RecvState::AwaitingHead { informational: 0 },
            frame::BodyLength::Unknown,
        );
        if end {
            stream.send.state.finish();
        }
        stream.send.queued = body.len();
        self.unsent.add(head.share.caller, body.len());
        stream.send.queue.push_back(Outgoing::Head {
            frame,
            body: body.len() as u64,
            end,
            is_final: true,
        });
        self.streams.insert(id, stream);
        self.live += 1;
        self.enqueue(id);
        self.advance(id);
        Ok(id)
    }

    /// Bridge: sends a head of the response. Only the final one has a `body` (at most 16 KiB) or an
    /// `end`. Informational heads above [`INFORMATIONAL_MAX`], and those that do not fit a frame, are dropped:
    /// they carry no meaning of their own. The relay would treat more of them as a flood.
    ///
    /// # Errors
    /// The stream's failure if it has failed; `response_too_large` when the head does not fit a frame of this
    /// session. The caller resets the stream with it.
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
        let max = self.config.head_max_bytes();
        let stream = self.sending(id)?;
        let encoded = frame::encode_head(id, head, body, end);
        let fitting = encoded.ok().filter(|frame| frame::head_bytes(frame) <= max);
        let Some(frame) = fitting else {
            stream.dispatch.mark();
            return match informational {
                true => Ok(()),
                false => Err(too_large(Side::Bridge, "head", max)),
            };
        };
        stream.dispatch.mark();
        // After STOP the relay wants no response: the head is dropped, and that is no failure.
        if stream.send.state.is_closed() {
            return Ok(());
        }
        if informational && !stream.send.state.count_informational(INFORMATIONAL_MAX) {
            return Ok(());
        }
        // A HEAD implies DISPATCHED (W-22).
        stream.dispatch.settle();
        if end {
            stream.send.state.finish();
        }
        let caller = stream.share.caller;
        stream.send.queued += body.len();
        stream.send.queue.push_back(Outgoing::Head {
            frame,
            body: body.len() as u64,
            end,
            is_final: !informational,
        });
        self.unsent.add(caller, body.len());
        self.enqueue(id);
        Ok(())
    }

    /// Bridge: the first byte is about to leave for the target. From here on the exchange is
    /// `possibly_executed`. Returns whether [`Self::poll_timeout`] is due earlier than before.
    ///
    /// # Errors
    /// The stream's failure: the relay cancelled it, and nothing may leave for the target.
    pub fn mark_dispatched(&mut self, now: Instant, id: u32) -> Result<bool, Failure> {
        let stream = self.streams.get_mut(&id).ok_or_else(unknown_stream)?;
        if let Some(failure) = stream.reset.failure() {
            return Err(failure.clone());
        }
        match stream.dispatch {
            DispatchState::NotDispatched => {
                stream.dispatch = DispatchState::Owed;
                self.owed.push_back(id);
                Ok(self.timers.owe_dispatched(now))
            }
            DispatchState::Owed | DispatchState::Reported => Ok(false),
        }
    }

    /// Returns whether more bytes may be queued. After `Full`,
    /// [`Event::Writable`](super::Event::Writable) follows.
    ///
    /// # Errors
    /// The stream's failure.
    pub fn send_capacity(&mut self, id: u32) -> Result<SendCapacity, Failure> {
        let caller = self.sending(id)?.share.caller;
        let session_full = self.unsent.is_full_for(caller);
        let stream = self.sending(id)?;
        if stream.send.state.is_stopped() {
            return Ok(SendCapacity::Stopped);
        }
        // Even in a full session each stream may queue one piece. A stream with an empty queue would
        // otherwise wait for an event that only its own frames cause.
        if stream.send.is_full() || (session_full && stream.send.queued > 0) {
            stream.send.is_writer_waiting = true;
            return Ok(SendCapacity::Full);
        }
        Ok(SendCapacity::Free)
    }

    /// Queues bytes of the body. Call [`Self::send_capacity`] first: this method never rejects bytes.
    ///
    /// # Errors
    /// The stream's failure.
    pub fn send_data(&mut self, id: u32, data: Bytes) -> Result<(), Failure> {
        let stream = self.sending(id)?;
        debug_assert!(!stream.send.state.is_finished(), "data after the end");
        if data.is_empty() || !stream.send.state.takes_more() {
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

    /// Ends the sending direction, with trailers if there are any. Trailers that are too large for this session
    /// reset the stream.
    ///
    /// # Errors
    /// The stream's failure.
    pub fn finish(&mut self, id: u32, trailers: Option<Headers>) -> Result<(), Failure> {
        let stream = self.sending(id)?;
        if !stream.send.state.takes_more() {
            return Ok(());
        }
        let trailer_bytes = trailers.as_ref().map_or(0, |fields| fields.block().len());
        let max = self.config.head_max_bytes();
        if trailer_bytes > max {
            let failure = too_large(self.config.side, "trailers", max);
            self.reset(id, failure.clone());
            return Err(failure);
        }
        let stream = self.sending(id)?;
        stream.send.state.finish();
        // Empty trailers are sent as END, which can share a frame with the last bytes.
        let trailers = trailers.filter(|fields| !fields.is_empty());
        stream.send.queue.push_back(Outgoing::End(trailers));
        self.enqueue(id);
        Ok(())
    }

    /// Returns how far an exchange has come, as far as this side knows it. `None` for one that was released.
    pub fn execution(&self, id: u32) -> Option<Execution> {
        let stream = self.streams.get(&id)?;
        Some(match self.failure(id) {
            Some(failure) => failure.execution,
            None => self.execution_of(stream),
        })
    }

    pub(super) fn sending(&mut self, id: u32) -> Result<&mut Stream, Failure> {
        let stream = self.streams.get_mut(&id).ok_or_else(unknown_stream)?;
        match stream.reset.failure() {
            Some(failure) => Err(failure.clone()),
            None => Ok(stream),
        }
    }

    /// Returns the failure of a stream, once it has failed for good: after a cancellation, once the
    /// bridge has acknowledged the RESET.
    pub fn failure(&self, id: u32) -> Option<Failure> {
        match self.streams.get(&id) {
            None => Some(unknown_stream()),
            Some(stream) if stream.reset.is_awaiting_ack() => None,
            Some(stream) => stream.reset.failure().cloned(),
        }
    }
}

/// Returns the failure of an exchange whose head or trailers may not be sent in this session.
fn too_large(side: Side, what: &str, max: usize) -> Failure {
    let limit = format!("than the {max} bytes that the tunnel allows");
    match side {
        Side::Relay => {
            let detail = format!("the request's {what} are larger {limit}");
            Failure::possibly_executed(Code::HeadersTooLarge, detail)
        }
        Side::Bridge => {
            let detail = format!("the header fields of the response ({what}) are larger {limit}");
            Failure::new(Code::ResponseTooLarge, Execution::Executed, detail)
        }
    }
}
