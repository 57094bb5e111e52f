//! The way in: what each frame from the peer does.

use super::event::Event;
use super::stream::Stream;
use super::{EndReason, Session, Side};
use crate::code::{Code, Execution, Failure};
use crate::frame::{Credit, Frame, GoAway, Headers, RequestHead, ResponseHead};
use crate::limits::INFORMATIONAL_MAX;
use bytes::Bytes;
use std::sync::Arc;
use std::time::Instant;

/// Largest window that arithmetic is done with; no peer needs more.
const WINDOW_LIMIT: u64 = 1 << 40;

/// Refusals of streams that wait to be sent. A relay that causes more floods.
const REFUSALS_MAX: usize = 1024;

/// Events that wait for the owner. It drains them after each frame, so more is a flood.
const SERVES_EVENTS: usize = 1;

fn broken(what: impl Into<String>) -> EndReason {
    EndReason::Protocol(what.into())
}

/// How far a stream came, by what the bridge says and by what came from it: a head is the
/// target's answer, whatever the bridge says, and what the bridge speaks of was sent.
fn reported_execution(stream: &Stream, word: Execution) -> Execution {
    if stream.recv.final_head {
        Execution::Executed
    } else {
        word.max(Execution::NotDispatched)
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
        self.timers.heard(now);
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
                self.pong = Some(token);
                Ok(())
            }
            Some(Frame::Pong(token)) => {
                self.timers.pong(now, token);
                Ok(())
            }
            Some(Frame::Status(serves)) => {
                self.from(Side::Bridge, "STATUS")?;
                self.serves = Arc::new(serves);
                // It was about the endpoints of before.
                self.report = None;
                let told = self.events.iter().filter(|event| **event == Event::Serves);
                if told.count() < SERVES_EVENTS {
                    self.events.push_back(Event::Serves);
                }
                Ok(())
            }
            Some(Frame::Report(report)) => {
                self.from(Side::Bridge, "REPORT")?;
                self.report = Some(Arc::from(report));
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
            ) => Err(broken("a frame of the opening after it")),
        }
    }

    /// The peer may send this only if it is `side`.
    fn from(&self, side: Side, what: &str) -> Result<(), EndReason> {
        if self.config.side == side {
            return Err(broken(format!("{what} from the wrong side")));
        }
        Ok(())
    }

    /// Does to a stream what its frame says. Frames that were on their way when it was over, or
    /// that followed an OPEN which was not taken, are of no interest.
    fn with_stream(
        &mut self,
        wire: u32,
        act: impl FnOnce(&mut Self, u32) -> Result<(), EndReason>,
    ) -> Result<(), EndReason> {
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

    /// The stream, unless it is over.
    fn known(&mut self, id: u32) -> Option<&mut Stream> {
        self.streams
            .get_mut(&id)
            .filter(|stream| stream.failure.is_none() || stream.awaits_word)
    }

    /// The stream, if bytes may still come on it.
    fn receiving(&mut self, id: u32) -> Result<Option<&mut Stream>, EndReason> {
        let side = self.config.side;
        let Some(stream) = self.known(id) else {
            return Ok(None);
        };
        if stream.awaits_word {
            return Ok(Some(stream));
        }
        if stream.recv.stopped {
            return Ok(None);
        }
        if stream.recv.ended {
            return Err(broken(format!("a frame for stream {id} after its end")));
        }
        if side == Side::Relay && !stream.recv.final_head {
            return Err(broken(format!("a body on stream {id} before its head")));
        }
        Ok(Some(stream))
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
            // Above the last stream taken: the relay sends it elsewhere.
            return Ok(());
        }
        self.last_id = id;
        let limit = self.config.local.streams_max;
        let held = u32::try_from(self.streams.len()).unwrap_or(u32::MAX);
        if self.live >= limit || held >= limit.saturating_mul(2) {
            if self.refusals.len() >= REFUSALS_MAX {
                return Err(broken("a flood of streams above the limit"));
            }
            let detail = format!("the bridge has {limit} exchanges running, its limit");
            let failure = Failure::not_dispatched(Code::Overloaded, detail);
            self.refusals.push_back((id, failure));
            return Ok(());
        }
        let mut stream = Stream::new(
            (head.class, head.share),
            self.config.peer.stream_bytes,
            self.config.local.stream_bytes,
            head.body,
        );
        stream.wire = id;
        stream.recv.final_head = true;
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
        stream.dispatched = true;
        if stream.awaits_word {
            stream.recv.final_head |= !head.is_informational();
            if end {
                self.on_end(id);
            }
            return Ok(());
        }
        if stream.recv.stopped {
            stream.recv.final_head |= !head.is_informational();
            return Ok(());
        }
        if stream.recv.final_head {
            return Err(broken(format!("a second head on stream {id}")));
        }
        if head.is_informational() {
            stream.recv.informational += 1;
            if end || !body.is_empty() || stream.recv.informational > INFORMATIONAL_MAX {
                return Err(broken(format!("too much before the head of stream {id}")));
            }
        } else {
            stream.recv.final_head = true;
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
        if !stream.awaits_word {
            stream.recv.trailers = Some(headers);
        }
        self.on_end(id);
        Ok(())
    }

    /// Counts bytes that came, and keeps them for the reader.
    fn take_bytes(&mut self, id: u32, data: Bytes) -> Result<(), EndReason> {
        let session_bytes = self.config.local.session_bytes;
        let was_pressed = self.is_pressed();
        let Some(stream) = self.streams.get_mut(&id) else {
            return Ok(());
        };
        if data.is_empty() || stream.awaits_word {
            return Ok(());
        }
        let window = &mut stream.recv.window;
        let before = window.charge();
        window.outstanding += data.len() as u64;
        if window.outstanding > window.size {
            return Err(broken(format!("more bytes on stream {id} than its window")));
        }
        self.recv_charge += window.charge() - before;
        if self.recv_charge > session_bytes {
            return Err(broken("more bytes than the session's window"));
        }
        let wake = stream.recv.buffered == 0;
        stream.recv.push(data);
        if wake {
            self.events.push_back(Event::Readable(id));
        }
        if !was_pressed && self.is_pressed() {
            self.return_all_credit();
        }
        Ok(())
    }

    /// More than half of the session's window is used, or there is none: streams may have to live
    /// on their reserve, so credit returns at half of that (W-32).
    pub(super) fn is_pressed(&self) -> bool {
        let session_bytes = self.config.local.session_bytes;
        session_bytes == 0 || self.recv_charge > session_bytes / 2
    }

    fn on_end(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        stream.recv.ended = true;
        if stream.awaits_word {
            // The whole answer crossed with our RESET.
            stream.awaits_word = false;
            if let Some(failure) = &mut stream.failure {
                failure.execution = Execution::Executed;
            }
            self.events.push_back(Event::Failed(id));
        } else {
            // Read to its end before the end was known: nothing more will return its credit.
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
            stream.dispatched = true;
        }
        Ok(())
    }

    fn on_credit(&mut self, id: u32, credit: Credit) -> Result<(), EndReason> {
        let Some(stream) = self.known(id) else {
            return Ok(());
        };
        let window = &mut stream.send.window;
        let before = window.charge();
        window.outstanding = if stream.send.stopped || stream.failure.is_some() {
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
        let was_blocked = std::mem::take(&mut stream.send.blocked);
        self.send_charge -= freed;
        if was_blocked {
            // Within its reserve again, or first in line for what came free.
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
        if stream.awaits_word {
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
            Side::Relay if stream.awaits_word => {
                stream.awaits_word = false;
                let execution = reported_execution(stream, failure.execution);
                if let Some(own) = &mut stream.failure {
                    own.execution = execution;
                }
                self.events.push_back(Event::Failed(id));
            }
            Side::Relay => {
                let execution = reported_execution(stream, failure.execution);
                self.close_stream(
                    id,
                    Failure {
                        execution,
                        ..failure
                    },
                );
            }
            Side::Bridge => {
                let stream = &self.streams[&id];
                let execution = self.execution_of(stream);
                let word = Failure {
                    execution,
                    ..failure
                };
                self.close_stream(id, word.clone());
                if let Some(stream) = self.streams.get_mut(&id) {
                    stream.pending.reset = Some(word);
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

    /// Relay: the bridge took no stream above `last`. They may go elsewhere.
    fn give_up_above(&mut self, last: u32) -> Result<(), EndReason> {
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
            if stream.dispatched {
                return Err(broken(format!("GOAWAY below stream {id}, which was taken")));
            }
            if stream.awaits_word {
                stream.awaits_word = false;
                if let Some(failure) = &mut stream.failure {
                    failure.execution = Execution::NotDispatched;
                }
                self.events.push_back(Event::Failed(id));
            } else if stream.failure.is_none() {
                let detail = "the bridge was leaving and did not take the request";
                let failure = if stream.wire == 0 {
                    Failure::not_sent(Code::TunnelLost, detail)
                } else {
                    Failure::not_dispatched(Code::TunnelLost, detail)
                };
                self.close_stream(id, failure);
            }
            self.close_on_wire(id);
        }
        Ok(())
    }
}
