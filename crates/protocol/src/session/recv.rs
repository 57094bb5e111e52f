//! Frames from the peer: what each of them does.

use super::event::Event;
use super::stream::{QueuedIn, RecvClosed, RecvState, ResetState, Stream};
use super::{EndReason, Session, Side};
use crate::code::{Code, Execution, Failure};
use crate::frame::{self, Credit, Frame, FrameError, GoAway, Headers, RequestHead, ResponseHead};
use crate::limits::INFORMATIONAL_MAX;
use bytes::Bytes;
use std::sync::Arc;
use std::time::Instant;

/// Largest window that is accepted from a peer, so that sums of windows cannot overflow.
const WINDOW_LIMIT: u64 = 1 << 40;

/// Rejections of streams that wait to be sent. A relay that causes more is flooding.
const REFUSALS_MAX: usize = 1024;

/// `Event::Serves`, and `Event::Versions`, that wait for the owner. They carry no data, so one of each is enough.
const CHANGE_EVENTS: usize = 1;

fn broken(what: impl Into<String>) -> EndReason {
    EndReason::Protocol(what.into())
}

/// Returns the execution state that the bridge reports, corrected by what came from it.
fn reported_execution(stream: &Stream, reported: Execution) -> Execution {
    if stream.recv.state.has_head() {
        // A head is the target's response, whatever the bridge reports.
        Execution::Executed
    } else {
        // The bridge received the OPEN, or it could not report on the stream: `not_sent` is impossible.
        reported.max(Execution::NotDispatched)
    }
}

impl Session {
    /// Takes one message from the peer.
    ///
    /// # Errors
    /// The session's end: the peer broke the protocol.
    pub fn handle_frame(&mut self, now: Instant, message: Bytes) -> Result<(), EndReason> {
        if let Some(reason) = &self.ended {
            return Err(reason.clone());
        }
        self.clock = now;
        // Before decoding: any frame is a sign of life, also one that is skipped (W-53, W-61).
        self.timers.heard(now);
        if !self.config.has_large_heads() && frame::exceeds_version_1(&message) {
            return Err(broken(FrameError::TooLarge.to_string()));
        }
        let frame = Frame::decode(message).map_err(|error| broken(error.to_string()))?;
        match frame {
            None => Ok(()),
            Some(Frame::Data { id, data, end }) => {
                self.with_stream(id, |session, id| session.on_data(id, data, end))
            }
            Some(Frame::Credit { id, credit }) => {
                self.with_stream(id, |session, id| session.on_credit(id, credit))
            }
            Some(Frame::Open {
                id,
                head,
                body,
                end,
            }) => self.on_open(id, head, body, end),
            Some(Frame::Head {
                id,
                head,
                body,
                end,
            }) => {
                self.from(Side::Bridge, "HEAD")?;
                self.with_stream(id, |session, id| session.on_head(id, head, body, end))
            }
            Some(Frame::Dispatched { id }) => {
                self.from(Side::Bridge, "DISPATCHED")?;
                self.with_stream(id, Self::on_dispatched)
            }
            Some(Frame::Trailers { id, headers }) => {
                self.with_stream(id, |session, id| session.on_trailers(id, headers))
            }
            Some(Frame::Stop { id }) => self.with_stream(id, Self::on_stop),
            Some(Frame::Reset { id, failure }) => {
                self.with_stream(id, |session, id| session.on_reset(id, failure))
            }
            Some(Frame::Ping(token)) => {
                // One slot is enough: of several unanswered PINGs only the last one needs a PONG (W-53). So a
                // flood of PINGs queues nothing.
                self.pong = Some(token);
                Ok(())
            }
            Some(Frame::Pong(token)) => {
                self.timers.pong(now, token);
                Ok(())
            }
            Some(Frame::Status(serves)) => {
                self.from(Side::Bridge, "STATUS")?;
                // A new allocation for each STATUS: watchers compare the pointer to see a change.
                self.serves = Arc::new(serves);
                // Its list of endpoints is positional: it belongs to the STATUS before (W-63).
                self.report = None;
                self.push_change(Event::Serves);
                Ok(())
            }
            Some(Frame::Report(report)) => {
                self.from(Side::Bridge, "REPORT")?;
                self.report = Some(Arc::from(report));
                Ok(())
            }
            Some(Frame::Versions(versions)) => {
                self.from(Side::Relay, "VERSIONS")?;
                // As for STATUS: watchers compare the pointer.
                self.versions = Some(Arc::from(versions));
                self.push_change(Event::Versions);
                Ok(())
            }
            Some(Frame::GoAway(goaway)) => self.on_goaway(goaway),
            Some(Frame::Result(result)) => {
                self.from(Side::Bridge, "RESULT")?;
                self.events.push_back(Event::Result(result));
                Ok(())
            }
            Some(Frame::ResultAck(attempt)) => {
                self.from(Side::Relay, "RESULT_ACK")?;
                self.events.push_back(Event::ResultAck(attempt));
                Ok(())
            }
            Some(
                Frame::Challenge(_) | Frame::Hello { .. } | Frame::Welcome(_) | Frame::Refused(_),
            ) => Err(broken("a frame of the opening after WELCOME")),
        }
    }

    /// Queues an event without data, unless the owner has not taken the last one yet.
    fn push_change(&mut self, change: Event) {
        let queued = self.events.iter().filter(|event| **event == change);
        if queued.count() < CHANGE_EVENTS {
            self.events.push_back(change);
        }
    }

    /// The peer may send this only if it is `side`.
    fn from(&self, side: Side, what: &str) -> Result<(), EndReason> {
        if self.config.side == side {
            return Err(broken(format!("{what} from the wrong side")));
        }
        Ok(())
    }

    /// Applies a frame to its stream. Frames for a stream that is closed, or that was never accepted, are
    /// ignored: they may have crossed the RESET.
    fn with_stream(
        &mut self,
        wire: u32,
        act: impl FnOnce(&mut Self, u32) -> Result<(), EndReason>,
    ) -> Result<(), EndReason> {
        // Closed streams are forgotten, so an unknown id is only an error if no OPEN has used it.
        if wire > self.wire_last {
            return Err(broken(format!(
                "a frame for stream {wire}, which was never opened"
            )));
        }
        let id = match self.config.side {
            Side::Relay => self.wired.get(&wire).copied(),
            Side::Bridge => Some(wire),
        };
        match id {
            Some(id) => act(self, id),
            None => Ok(()),
        }
    }

    /// Returns the stream, unless it failed for good.
    fn known(&mut self, id: u32) -> Option<&mut Stream> {
        self.streams
            .get_mut(&id)
            .filter(|stream| stream.reset.is_none() || stream.reset.is_awaiting_ack())
    }

    /// Returns the stream, if bytes may still come on it.
    fn receiving(&mut self, id: u32) -> Result<Option<&mut Stream>, EndReason> {
        let Some(stream) = self.known(id) else {
            return Ok(None);
        };
        // The rest of a response may cross our RESET. Its END still counts as an acknowledgement.
        if stream.reset.is_awaiting_ack() {
            return Ok(Some(stream));
        }
        match stream.recv.state {
            RecvState::Open => Ok(Some(stream)),
            RecvState::AwaitingHead { .. } => {
                Err(broken(format!("a body on stream {id} before its head")))
            }
            RecvState::Closed { cause, .. } => match cause {
                RecvClosed::Stop => Ok(None),
                RecvClosed::End | RecvClosed::Reset => {
                    Err(broken(format!("a frame for stream {id} after its end")))
                }
            },
        }
    }

    fn on_open(
        &mut self,
        id: u32,
        head: Box<RequestHead>,
        body: Bytes,
        end: bool,
    ) -> Result<(), EndReason> {
        self.from(Side::Relay, "OPEN")?;
        if id <= self.wire_last {
            return Err(broken(format!("stream {id} was opened before")));
        }
        self.wire_last = id;
        if self.local_goaway.is_some() {
            // It is above the last stream of our GOAWAY, so the relay sends it to another session.
            return Ok(());
        }
        self.last_id = id;
        let limit = self.config.local.streams_max;
        // Streams that are closed on the wire and not yet released cost memory as well.
        let held = u32::try_from(self.streams.len()).unwrap_or(u32::MAX);
        if self.live >= limit || held >= limit.saturating_mul(2) {
            if self.refusals.len() >= REFUSALS_MAX {
                return Err(broken("a flood of streams above the limit"));
            }
            let detail = format!("the bridge reached its limit of {limit} concurrent exchanges");
            let failure = Failure::not_dispatched(Code::Overloaded, detail);
            self.refusals.push_back((id, failure));
            return Ok(());
        }
        let mut stream = Stream::new(
            (head.class, head.share),
            self.config.peer.stream_bytes,
            self.config.local.stream_bytes,
            RecvState::Open,
            head.body,
        );
        stream.wire = id;
        self.streams.insert(id, stream);
        self.live += 1;
        self.events.push_back(Event::Opened { id, head });
        self.take_bytes(id, body)?;
        if end {
            self.on_end(id);
        }
        Ok(())
    }

    fn on_head(
        &mut self,
        id: u32,
        head: ResponseHead,
        body: Bytes,
        end: bool,
    ) -> Result<(), EndReason> {
        let Some(stream) = self.known(id) else {
            return Ok(());
        };
        stream.dispatch.mark();
        let is_informational = head.is_informational();
        // A head that crosses our RESET or STOP is dropped, but it proves that the target responded.
        if stream.reset.is_awaiting_ack() {
            if !is_informational {
                stream.recv.state.head_came();
            }
            if end {
                self.on_end(id);
            }
            return Ok(());
        }
        if stream.recv.state.is_stopped() {
            if !is_informational {
                stream.recv.state.head_came();
            }
            return Ok(());
        }
        if stream.recv.state.has_head() {
            return Err(broken(format!("a second final head on stream {id}")));
        }
        if is_informational {
            let count = stream.recv.state.count_informational();
            if end || !body.is_empty() || count > INFORMATIONAL_MAX {
                return Err(broken(format!("too much before the head of stream {id}")));
            }
        } else {
            stream.recv.state.head_came();
            stream.recv.body = head.body;
        }
        stream.recv.heads.push_back(head);
        self.events.push_back(Event::Readable(id));
        self.take_bytes(id, body)?;
        if end {
            self.on_end(id);
        }
        Ok(())
    }

    fn on_data(&mut self, id: u32, data: Bytes, end: bool) -> Result<(), EndReason> {
        if self.receiving(id)?.is_none() {
            return Ok(());
        }
        self.take_bytes(id, data)?;
        if end {
            self.on_end(id);
        }
        Ok(())
    }

    fn on_trailers(&mut self, id: u32, headers: Headers) -> Result<(), EndReason> {
        let Some(stream) = self.receiving(id)? else {
            return Ok(());
        };
        if !stream.reset.is_awaiting_ack() {
            stream.recv.trailers = Some(headers);
        }
        self.on_end(id);
        Ok(())
    }

    /// Counts bytes that came, and buffers them for the reader.
    fn take_bytes(&mut self, id: u32, data: Bytes) -> Result<(), EndReason> {
        let session_bytes = self.config.local.session_bytes;
        let was_pressed = self.is_pressed();
        let Some(stream) = self.streams.get_mut(&id) else {
            return Ok(());
        };
        // After our RESET the window is not counted any more, on either side (W-42).
        if data.is_empty() || stream.reset.is_awaiting_ack() {
            return Ok(());
        }
        let window = &mut stream.recv.window;
        // Checked after counting: bytes that exceed a window end the session, so nothing is undone.
        let before = window.charge();
        window.outstanding += data.len() as u64;
        if window.outstanding > window.size {
            return Err(broken(format!("more bytes on stream {id} than its window")));
        }
        self.recv_charge += window.charge() - before;
        if self.recv_charge > session_bytes {
            return Err(broken("more bytes than the session's window"));
        }
        // Only the first bytes wake the reader: it reads until `Pending`.
        let wake = stream.recv.buffered == 0;
        stream.recv.push(data);
        if wake {
            self.events.push_back(Event::Readable(id));
        }
        // Streams that took less than half of their window hold credit back. Under pressure they must
        // return it now: their readers may never read again.
        if !was_pressed && self.is_pressed() {
            self.return_all_credit();
        }
        Ok(())
    }

    /// Whether more than half of the session's window is used, or there is none. Streams may then have to
    /// work with their reserve alone, so credit is returned at half of that (W-32).
    pub(super) fn is_pressed(&self) -> bool {
        let session_bytes = self.config.local.session_bytes;
        session_bytes == 0 || self.recv_charge > session_bytes / 2
    }

    fn on_end(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        stream.recv.state.close(RecvClosed::End);
        // A complete response crossed our RESET. The bridge may have forgotten the stream by the time
        // the RESET arrives, so this END takes the place of the acknowledgement.
        if stream.reset.acknowledge(Execution::Executed) {
            self.events.push_back(Event::Failed(id));
        } else {
            // The reader took everything before the end was known: no later read returns its credit.
            if stream.recv.buffered == 0 && stream.recv.window.charge() > 0 {
                stream.pending.credit = true;
                self.list_control(id);
            }
            self.events.push_back(Event::Readable(id));
        }
        self.close_on_wire(id);
    }

    fn on_dispatched(&mut self, id: u32) -> Result<(), EndReason> {
        if let Some(stream) = self.known(id) {
            stream.dispatch.mark();
        }
        Ok(())
    }

    fn on_credit(&mut self, id: u32, credit: Credit) -> Result<(), EndReason> {
        let Some(stream) = self.known(id) else {
            return Ok(());
        };
        let window = &mut stream.send.window;
        let before = window.charge();
        // After STOP and RESET nothing is counted as outstanding, but CREDIT may have been on its way.
        window.outstanding = if stream.send.state.is_stopped() || !stream.reset.is_none() {
            0
        } else {
            window
                .outstanding
                .checked_sub(credit.returned.into())
                .ok_or_else(|| broken(format!("stream {id} got more credit than was sent")))?
        };
        let grown = window.size.saturating_add(credit.grown.into());
        window.size = grown.min(WINDOW_LIMIT.max(window.initial));
        let freed = before - window.charge();
        let was_blocked = stream.send.queued_in == QueuedIn::Blocked;
        if was_blocked {
            stream.send.queued_in = QueuedIn::Nothing;
        }
        self.send_charge -= freed;
        if was_blocked {
            // It is within its reserve again, or comes first for what it freed itself.
            self.blocked.retain(|blocked| *blocked != id);
        }
        self.enqueue(id);
        if freed > 0 && !self.blocked.is_empty() {
            self.unblock();
        }
        self.close_on_wire(id);
        Ok(())
    }

    fn on_stop(&mut self, id: u32) -> Result<(), EndReason> {
        let Some(stream) = self.known(id) else {
            return Ok(());
        };
        // The stream is closed already, and its state must stay that of a reset.
        if stream.reset.is_awaiting_ack() {
            return Ok(());
        }
        self.stop_sending(id);
        self.close_on_wire(id);
        Ok(())
    }

    fn on_reset(&mut self, id: u32, failure: Failure) -> Result<(), EndReason> {
        let side = self.config.side;
        let Some(stream) = self.known(id) else {
            return Ok(());
        };
        match side {
            Side::Relay => {
                let execution = reported_execution(stream, failure.execution);
                if stream.reset.acknowledge(execution) {
                    self.events.push_back(Event::Failed(id));
                } else {
                    let failure = Failure {
                        execution,
                        ..failure
                    };
                    self.close_stream(id, ResetState::Failed(failure));
                }
            }
            Side::Bridge => {
                // Every RESET from the relay is acknowledged with the execution state (W-42). It is
                // read before the stream closes; from then on `mark_dispatched` fails, so it stays true.
                let stream = &self.streams[&id];
                let failure = Failure {
                    execution: self.execution_of(stream),
                    ..failure
                };
                self.close_stream(id, ResetState::Failed(failure));
                if let Some(stream) = self.streams.get_mut(&id) {
                    stream.pending.reset = true;
                }
                self.list_control(id);
            }
        }
        self.close_on_wire(id);
        Ok(())
    }

    fn on_goaway(&mut self, goaway: GoAway) -> Result<(), EndReason> {
        if goaway.last_stream.is_some() {
            self.from(Side::Bridge, "GOAWAY with a last stream")?;
        }
        if self.peer_goaway.is_some() {
            return Ok(());
        }
        self.peer_goaway = Some(goaway);
        self.events.push_back(Event::GoAway(goaway));
        if let Some(last) = goaway.last_stream {
            self.give_up_above(last)?;
        }
        self.emit_drained();
        Ok(())
    }

    /// Relay: the bridge accepted no stream above `last`. Those streams may use another session.
    fn give_up_above(&mut self, last: u32) -> Result<(), EndReason> {
        // A stream without an id has not left: the bridge cannot have accepted it.
        let above = |stream: &Stream| stream.wire == 0 || stream.wire > last;
        let ids: Vec<u32> = self
            .streams
            .iter()
            .filter(|(_, stream)| above(stream))
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            let Some(stream) = self.streams.get_mut(&id) else {
                continue;
            };
            if stream.dispatch.is_dispatched() {
                return Err(broken(format!(
                    "GOAWAY below stream {id}, which was dispatched"
                )));
            }
            if stream.reset.acknowledge(Execution::NotDispatched) {
                self.events.push_back(Event::Failed(id));
            } else if stream.reset.is_none() {
                let detail = "the bridge was shutting down and did not accept the request";
                let failure = if stream.wire == 0 {
                    Failure::not_sent(Code::TunnelLost, detail)
                } else {
                    Failure::not_dispatched(Code::TunnelLost, detail)
                };
                self.close_stream(id, ResetState::Failed(failure));
            }
            self.close_on_wire(id);
        }
        Ok(())
    }
}
