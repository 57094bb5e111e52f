//! How exchanges end: taken back, let go of, lost with the session; and when a stream is forgotten.

use super::schedule::Schedule;
use super::stream::{Pending, Stream};
use super::{EndReason, Event, Session, Side};
use crate::code::{Code, Execution, Failure};

impl Session {
    /// Ends the session. Every stream fails exactly once, with how far it came. An answer that
    /// had come whole can still be read; whoever writes its request learns that nobody reads on.
    pub fn fail(&mut self, reason: EndReason) {
        if self.ended.is_some() {
            return;
        }
        let ids: Vec<u32> = self.streams.keys().copied().collect();
        for id in ids {
            let Some(stream) = self.streams.get(&id) else {
                continue;
            };
            if stream.failure.is_none() || stream.awaits_word {
                let execution = self.execution_of(stream);
                let whole = stream.recv.ended && !stream.awaits_word && stream.recv.final_head;
                if whole && self.config.side == Side::Relay {
                    self.stop_sending(id);
                } else {
                    let detail = format!("the tunnel was lost: {reason}");
                    self.close_stream(id, Failure::new(Code::TunnelLost, execution, detail));
                }
            }
        }
        self.ended = Some(reason);
        self.forget_the_wire();
    }

    /// Nothing leaves any more, and nobody counts what came.
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
            stream.send.scheduled = false;
            stream.send.blocked = false;
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
            stream.send.stopped = true;
            stream.send.ended = true;
            self.drop_unsent(id);
            self.events.push_back(Event::Writable(id));
        }
    }

    /// How far a stream came, as far as this side knows.
    pub(super) fn execution_of(&self, stream: &Stream) -> Execution {
        match self.config.side {
            Side::Relay if stream.recv.final_head => Execution::Executed,
            Side::Relay if !stream.send.head_left => Execution::NotSent,
            Side::Relay => Execution::PossiblyExecuted,
            Side::Bridge if stream.send.head_left => Execution::Executed,
            Side::Bridge if stream.dispatched => Execution::PossiblyExecuted,
            Side::Bridge => Execution::NotDispatched,
        }
    }

    /// Ends an exchange in both directions.
    ///
    /// On the relay this takes the request back; [`Event::Failed`] follows when it is settled how
    /// far it came: at once when OPEN had not left, else with the bridge's word (W-42). On the
    /// bridge it is the answer.
    pub fn reset(&mut self, id: u32, failure: Failure) {
        let Some(stream) = self.streams.get(&id) else {
            return;
        };
        if stream.failure.is_some() || stream.is_closed() {
            return;
        }
        let left = stream.send.head_left;
        // A bridge that has sent its whole answer may have forgotten the stream.
        let word_needed = self.config.side == Side::Relay && left && !stream.recv.ended;
        if self.config.side == Side::Relay && !left {
            let failure = Failure {
                execution: Execution::NotSent,
                ..failure
            };
            self.close_stream(id, failure);
            self.close_on_wire(id);
            return;
        }
        self.close_stream(id, failure.clone());
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.awaits_word = word_needed;
            stream.pending.reset = Some(failure);
        }
        self.list_control(id);
        self.close_on_wire(id);
    }

    /// The user of a stream lets go of it. An exchange that is not over is reset; one of which all was said
    /// and all was heard is over, though some of it may still have to leave.
    pub fn release(&mut self, id: u32) {
        let Some(stream) = self.streams.get(&id) else {
            return;
        };
        if self.is_answered(stream) {
            self.stop(id);
        } else if stream.failure.is_none() && !stream.is_closed() && !stream.is_complete() {
            let failure = match self.config.side {
                Side::Relay => Failure::possibly_executed(Code::Cancelled, "the caller went away"),
                Side::Bridge => Failure::new(
                    Code::Internal,
                    self.execution_of(stream),
                    "the answer was left unfinished",
                ),
            };
            self.reset(id, failure);
        }
        self.take_all(id);
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.released = true;
        }
        self.forget_if_done(id);
    }

    /// Bridge: the whole answer is queued, so that letting go is no failure. What is still to
    /// come of the request is of no interest.
    pub(super) fn is_answered(&self, stream: &Stream) -> bool {
        self.config.side == Side::Bridge && stream.failure.is_none() && stream.send.finished
    }

    /// The exchange is over in both directions, with a failure.
    pub(super) fn close_stream(&mut self, id: u32, failure: Failure) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        stream.failure = Some(failure);
        stream.awaits_word = false;
        stream.send.finished = true;
        self.drop_unsent(id);
        self.drop_unread(id);
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.send.ended = true;
            stream.recv.ended = true;
            stream.dispatched_owed = false;
        }
        self.events.push_back(Event::Failed(id));
    }

    /// Counts a stream out once it is over on the wire, and forgets it once nobody needs it.
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
        if stream.live {
            stream.live = false;
            self.live -= 1;
        }
        if stream.released && !stream.pending.listed && !stream.send.scheduled {
            if let Some(stream) = self.streams.remove(&id) {
                self.wired.remove(&stream.wire);
                self.give_growth(id, &stream);
            }
            self.emit_drained();
        }
    }

    pub(super) fn emit_drained(&mut self) {
        // The bridge closes; the relay, once it has asked, waits for the bridge to have made its
        // next session.
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
