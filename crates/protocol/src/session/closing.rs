//! How exchanges end: cancelled, released, lost with the session; and when a stream is forgotten.

use super::schedule::Schedule;
use super::stream::{Pending, QueuedIn, RecvClosed, ResetState, Stream};
use super::{EndReason, Event, Session, Side};
use crate::code::{Code, Execution, Failure};

impl Session {
    /// Ends the session. Every stream fails exactly once, with its execution state. A complete
    /// response can still be read; the writer of its request is stopped.
    pub fn fail(&mut self, reason: EndReason) {
        if self.ended.is_some() {
            return;
        }
        let ids: Vec<u32> = self.streams.keys().copied().collect();
        for id in ids {
            let Some(stream) = self.streams.get(&id) else {
                continue;
            };
            if stream.reset.is_none() || stream.reset.is_awaiting_ack() {
                let execution = self.execution_of(stream);
                // The response is already here in full: losing the tunnel takes nothing from the caller.
                let is_response_complete = stream.reset.is_none()
                    && stream.recv.state.is_closed()
                    && stream.recv.state.has_head();
                if is_response_complete && self.config.side == Side::Relay {
                    self.stop_sending(id);
                } else {
                    let detail = format!("the tunnel was lost: {reason}");
                    let failure = Failure::new(Code::TunnelLost, execution, detail);
                    self.close_stream(id, ResetState::Failed(failure));
                }
            }
        }
        self.ended = Some(reason);
        self.forget_the_wire();
    }

    /// Drops everything that waits to leave, and all accounting of what is outstanding at the peer.
    pub(super) fn forget_the_wire(&mut self) {
        self.schedule = Schedule::default();
        self.controls.clear();
        self.blocked.clear();
        self.owed.clear();
        self.refusals.clear();
        self.outbox.clear();
        self.results_queued = 0;
        self.pong = None;
        self.send_charge = 0;
        self.recv_charge = 0;
        for stream in self.streams.values_mut() {
            stream.pending = Pending::default();
            stream.send.queued_in = QueuedIn::Nothing;
            stream.send.window.outstanding = 0;
            stream.recv.window.outstanding = 0;
        }
        let ids: Vec<u32> = self.streams.keys().copied().collect();
        for id in ids {
            self.forget_if_done(id);
        }
    }

    /// The peer takes no more of what this side sends; the exchange goes on.
    pub(super) fn stop_sending(&mut self, id: u32) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.send.state.stop();
            self.drop_unsent(id);
            self.events.push_back(Event::Writable(id));
        }
    }

    /// Returns the execution state of a stream, as far as this side knows it.
    pub(super) fn execution_of(&self, stream: &Stream) -> Execution {
        let has_head_left = stream.send.state.has_head_left();
        match self.config.side {
            Side::Relay if stream.recv.state.has_head() => Execution::Executed,
            Side::Relay if !has_head_left => Execution::NotSent,
            // The relay cannot know whether the bridge dispatched it: DISPATCHED may be on its way.
            Side::Relay => Execution::PossiblyExecuted,
            Side::Bridge if has_head_left => Execution::Executed,
            Side::Bridge if stream.dispatch.is_dispatched() => Execution::PossiblyExecuted,
            Side::Bridge => Execution::NotDispatched,
        }
    }

    /// Ends an exchange in both directions.
    ///
    /// On the relay this cancels the request; [`Event::Failed`] follows when its execution state is
    /// settled: at once when OPEN has not left, else with the bridge's RESET (W-42). On the bridge it
    /// is the response.
    pub fn reset(&mut self, id: u32, failure: Failure) {
        let Some(stream) = self.streams.get(&id) else {
            return;
        };
        if !stream.reset.is_none() || stream.is_closed() {
            return;
        }
        let has_head_left = stream.send.state.has_head_left();
        let is_relay = self.config.side == Side::Relay;
        if is_relay && !has_head_left {
            // The bridge never learns of this stream, so there is nothing to send and no
            // acknowledgement to wait for.
            let failure = Failure {
                execution: Execution::NotSent,
                ..failure
            };
            self.close_stream(id, ResetState::Failed(failure));
            self.close_on_wire(id);
            return;
        }
        // A bridge that has sent its complete response may have forgotten the stream, and then never
        // acknowledges: do not wait for it.
        let needs_ack = is_relay && !stream.recv.state.is_closed();
        let reset = if needs_ack {
            ResetState::AwaitingAck(failure)
        } else {
            ResetState::Failed(failure)
        };
        self.close_stream(id, reset);
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.pending.reset = true;
        }
        self.list_control(id);
        self.close_on_wire(id);
    }

    /// The user of a stream drops it. An unfinished exchange is reset. One of which everything was queued
    /// and everything was received is complete, although some of it may still have to leave.
    pub fn release(&mut self, id: u32) {
        let Some(stream) = self.streams.get(&id) else {
            return;
        };
        if self.is_answered(stream) {
            self.stop(id);
        } else if stream.reset.is_none() && !stream.is_closed() && !stream.is_complete() {
            let failure = match self.config.side {
                Side::Relay => {
                    Failure::possibly_executed(Code::Cancelled, "the caller closed its connection")
                }
                Side::Bridge => Failure::new(
                    Code::Internal,
                    self.execution_of(stream),
                    "the response was left unfinished",
                ),
            };
            self.reset(id, failure);
        }
        self.take_all(id);
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.is_released = true;
        }
        self.forget_if_done(id);
    }

    /// Bridge: whether the complete response is queued, so that a release is no failure. The rest of the
    /// request is not needed.
    pub(super) fn is_answered(&self, stream: &Stream) -> bool {
        self.config.side == Side::Bridge
            && stream.reset.is_none()
            && stream.send.state.is_finished()
    }

    /// Closes an exchange in both directions, with a failure.
    pub(super) fn close_stream(&mut self, id: u32, reset: ResetState) {
        debug_assert!(!reset.is_none(), "a closed stream has a failure");
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        stream.reset = reset;
        stream.send.state.reset();
        stream.recv.state.close(RecvClosed::Reset);
        stream.dispatch.settle();
        self.drop_unsent(id);
        self.drop_unread(id);
        self.events.push_back(Event::Failed(id));
    }

    /// Stops counting a stream once both directions are closed on the wire, and forgets it once it is
    /// not needed any more.
    pub(super) fn close_on_wire(&mut self, id: u32) {
        self.forget_if_done(id);
        self.emit_drained();
    }

    pub(super) fn forget_if_done(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if !stream.is_uncharged() || !stream.is_closed() {
            return;
        }
        if stream.is_live {
            stream.is_live = false;
            self.live -= 1;
        }
        // A stream that is still named in a queue stays until the queue has reached it.
        let is_queued = stream.pending.is_listed || stream.send.queued_in == QueuedIn::Schedule;
        if stream.is_released && !is_queued {
            if let Some(stream) = self.streams.remove(&id) {
                self.wired.remove(&stream.wire);
                self.return_growth(id, &stream);
            }
            self.emit_drained();
        }
    }

    pub(super) fn emit_drained(&mut self) {
        // The bridge closes the connection. A relay that asked for the end waits for the bridge's own
        // GOAWAY, so that the bridge has its next session before it loses this one.
        let leaving = match self.config.side {
            Side::Bridge => self.local_goaway.is_some(),
            Side::Relay => self.local_goaway.is_some() && self.peer_goaway.is_some(),
        };
        if leaving && self.live == 0 && !self.drained_emitted && self.ended.is_none() {
            self.drained_emitted = true;
            self.events.push_back(Event::Drained);
        }
    }
}
