//! The states of a stream: one enum for each direction, one for a reset, one for DISPATCHED.
//!
//! ```text
//! sending      AwaitingHead --head left--> Open --END queued--> Finishing --END left--.
//!                   |                        |                      |                 v
//!                   '----- STOP came, RESET, session lost ---------------------->  Closed
//!
//! receiving    AwaitingHead --final head--> Open --END or TRAILERS came--> Closed
//!                   |                         |                              ^
//!                   '----- STOP queued, RESET, session lost -----------------'
//!
//! reset        None --RESET queued by the relay--> AwaitingAck --RESET, END, GOAWAY came--> Failed
//!                |                                                                           ^
//!                '---- any other failure ----------------------------------------------------'
//! ```
//!
//! "Head" is OPEN from the relay, and the HEAD that is not informational from the bridge. On the
//! bridge the receiving direction begins in `Open`: OPEN created the stream.
//!
//! Membership in a queue of the session is not a state of the exchange. It stays a flag, next to the
//! queue's other data in [`super::Stream`].

use crate::code::{Execution, Failure};

/// The direction that this side sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::session) enum SendState {
    /// The head is not yet handed to the socket.
    AwaitingHead {
        /// Informational HEADs that were queued.
        informational: u32,
        /// END is queued after the head.
        is_finished: bool,
    },
    /// The head left; the user may queue more.
    Open,
    /// The head left and END is queued.
    Finishing,
    /// Nothing more leaves.
    Closed {
        /// Whether the head left before. It decides the execution state of a failure.
        has_head_left: bool,
        /// What closed it.
        cause: SendClosed,
    },
}

/// What closed a sending direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::session) enum SendClosed {
    /// END left.
    End,
    /// STOP came, or the session was lost with the response complete.
    Stop {
        /// Whether the user had queued END before.
        is_finished: bool,
    },
    /// The exchange failed.
    Reset,
}

impl SendState {
    pub(in crate::session) fn new() -> Self {
        Self::AwaitingHead {
            informational: 0,
            is_finished: false,
        }
    }

    /// Whether OPEN, or the final HEAD, was handed to the socket.
    pub(in crate::session) fn has_head_left(self) -> bool {
        match self {
            Self::AwaitingHead { .. } => false,
            Self::Open | Self::Finishing => true,
            Self::Closed { has_head_left, .. } => has_head_left,
        }
    }

    /// Whether the user may queue no more: END is queued, or the exchange failed.
    pub(in crate::session) fn is_finished(self) -> bool {
        match self {
            Self::AwaitingHead { is_finished, .. } => is_finished,
            Self::Open => false,
            Self::Finishing => true,
            Self::Closed { cause, .. } => match cause {
                SendClosed::End | SendClosed::Reset => true,
                SendClosed::Stop { is_finished } => is_finished,
            },
        }
    }

    /// Whether nothing more leaves.
    pub(in crate::session) fn is_closed(self) -> bool {
        matches!(self, Self::Closed { .. })
    }

    /// Whether the peer wants no more of this direction, while the exchange goes on.
    pub(in crate::session) fn is_stopped(self) -> bool {
        matches!(
            self,
            Self::Closed {
                cause: SendClosed::Stop { .. },
                ..
            }
        )
    }

    /// Whether the user may queue more.
    pub(in crate::session) fn takes_more(self) -> bool {
        match self {
            Self::AwaitingHead { is_finished, .. } => !is_finished,
            Self::Open => true,
            Self::Finishing | Self::Closed { .. } => false,
        }
    }

    /// END was queued.
    pub(in crate::session) fn finish(&mut self) {
        match self {
            Self::AwaitingHead { is_finished, .. } => *is_finished = true,
            Self::Open => *self = Self::Finishing,
            Self::Finishing | Self::Closed { .. } => {}
        }
    }

    /// Counts an informational HEAD. Returns whether it may be queued: at most `max` of them, and
    /// none after the final head left.
    pub(in crate::session) fn count_informational(&mut self, max: u32) -> bool {
        match self {
            Self::AwaitingHead { informational, .. } if *informational < max => {
                *informational += 1;
                true
            }
            Self::AwaitingHead { .. } | Self::Open | Self::Finishing | Self::Closed { .. } => false,
        }
    }

    /// OPEN, or the final HEAD, was handed to the socket.
    pub(in crate::session) fn head_left(&mut self) {
        if let Self::AwaitingHead { is_finished, .. } = *self {
            *self = if is_finished {
                Self::Finishing
            } else {
                Self::Open
            };
        }
    }

    /// END was handed to the socket.
    pub(in crate::session) fn end(&mut self) {
        self.close(SendClosed::End);
    }

    /// The peer wants no more.
    pub(in crate::session) fn stop(&mut self) {
        let is_finished = self.is_finished();
        self.close(SendClosed::Stop { is_finished });
    }

    /// The exchange failed.
    pub(in crate::session) fn reset(&mut self) {
        self.close(SendClosed::Reset);
    }

    fn close(&mut self, cause: SendClosed) {
        let has_head_left = self.has_head_left();
        *self = Self::Closed {
            has_head_left,
            cause,
        };
    }
}

/// The direction that the peer sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::session) enum RecvState {
    /// Relay: the final HEAD has not come.
    AwaitingHead {
        /// Informational HEADs that came.
        informational: u32,
    },
    /// DATA may come.
    Open,
    /// Nothing more is taken.
    Closed {
        /// Whether the head came. A HEAD that crosses a STOP or RESET of this side still counts: it
        /// proves that the target responded.
        has_head: bool,
        /// What closed it.
        cause: RecvClosed,
    },
}

/// What closed a receiving direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::session) enum RecvClosed {
    /// END or TRAILERS came.
    End,
    /// This side sends STOP: what still comes is dropped.
    Stop,
    /// The exchange failed.
    Reset,
}

impl RecvState {
    /// Whether the head came: for the relay, the proof that the target responded.
    pub(in crate::session) fn has_head(self) -> bool {
        match self {
            Self::AwaitingHead { .. } => false,
            Self::Open => true,
            Self::Closed { has_head, .. } => has_head,
        }
    }

    /// Whether nothing more is taken.
    pub(in crate::session) fn is_closed(self) -> bool {
        matches!(self, Self::Closed { .. })
    }

    /// Whether this side asked the peer to send no more.
    pub(in crate::session) fn is_stopped(self) -> bool {
        matches!(
            self,
            Self::Closed {
                cause: RecvClosed::Stop,
                ..
            }
        )
    }

    /// Counts an informational HEAD. Returns how many came by now.
    pub(in crate::session) fn count_informational(&mut self) -> u32 {
        match self {
            Self::AwaitingHead { informational } => {
                *informational += 1;
                *informational
            }
            Self::Open | Self::Closed { .. } => 0,
        }
    }

    /// The final HEAD came.
    pub(in crate::session) fn head_came(&mut self) {
        match self {
            Self::AwaitingHead { .. } => *self = Self::Open,
            Self::Open => {}
            Self::Closed { has_head, .. } => *has_head = true,
        }
    }

    pub(in crate::session) fn close(&mut self, cause: RecvClosed) {
        let has_head = self.has_head();
        *self = Self::Closed { has_head, cause };
    }
}

/// Whether, and how, an exchange failed.
#[derive(Debug)]
pub(in crate::session) enum ResetState {
    /// It has not failed.
    None,
    /// Relay: RESET is queued or left. The bridge's RESET, which states how far the request came, is
    /// still due (W-42). Until then no user sees the failure.
    AwaitingAck(Failure),
    /// It failed for good.
    Failed(Failure),
}

impl ResetState {
    /// Whether it neither failed nor is being cancelled.
    pub(in crate::session) fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }

    /// Relay: whether the bridge's acknowledgement is due.
    pub(in crate::session) fn is_awaiting_ack(&self) -> bool {
        matches!(self, Self::AwaitingAck(_))
    }

    /// The failure, settled or not.
    pub(in crate::session) fn failure(&self) -> Option<&Failure> {
        match self {
            Self::None => None,
            Self::AwaitingAck(failure) | Self::Failed(failure) => Some(failure),
        }
    }

    /// Relay: the acknowledgement came, with how far the request came. Returns whether it was due.
    pub(in crate::session) fn acknowledge(&mut self, execution: Execution) -> bool {
        match std::mem::replace(self, Self::None) {
            Self::AwaitingAck(failure) => {
                *self = Self::Failed(Failure {
                    execution,
                    ..failure
                });
                true
            }
            other @ (Self::None | Self::Failed(_)) => {
                *self = other;
                false
            }
        }
    }
}

/// Whether the request was dispatched to the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::session) enum DispatchState {
    /// Bridge: nothing left for the target. Relay: the bridge has not reported anything.
    NotDispatched,
    /// Bridge: the first byte is about to leave, and DISPATCHED is owed to the relay.
    Owed,
    /// Bridge: DISPATCHED or a HEAD is queued, or is not needed. Relay: one of them came.
    Reported,
}

impl DispatchState {
    /// Whether the target may have seen the request.
    pub(in crate::session) fn is_dispatched(self) -> bool {
        match self {
            Self::NotDispatched => false,
            Self::Owed | Self::Reported => true,
        }
    }

    /// The target may have seen the request; what is owed stays owed.
    pub(in crate::session) fn mark(&mut self) {
        if *self == Self::NotDispatched {
            *self = Self::Reported;
        }
    }

    /// DISPATCHED is not owed any more. Returns whether it was.
    pub(in crate::session) fn settle(&mut self) -> bool {
        let is_owed = *self == Self::Owed;
        if is_owed {
            *self = Self::Reported;
        }
        is_owed
    }
}

/// The queue of the session in which a stream waits to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::session) enum QueuedIn {
    /// None: it has nothing that may leave.
    Nothing,
    /// The scheduler.
    Schedule,
    /// The list of those that wait for the session's send window.
    Blocked,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::code::Code;

    #[test]
    fn send_state_follows_the_diagram() {
        let mut state = SendState::new();
        assert!(state.takes_more() && !state.has_head_left());
        state.head_left();
        assert_eq!(state, SendState::Open);
        state.finish();
        assert_eq!(state, SendState::Finishing);
        assert!(!state.takes_more() && !state.is_closed());
        state.end();
        assert!(state.is_closed() && state.is_finished() && state.has_head_left());
    }

    #[test]
    fn end_queued_with_the_head_is_kept() {
        let mut state = SendState::new();
        state.finish();
        assert!(state.is_finished() && !state.has_head_left());
        state.head_left();
        assert_eq!(state, SendState::Finishing);
    }

    #[test]
    fn stop_keeps_what_was_before() {
        for (is_head_sent, is_finished) in
            [(false, false), (false, true), (true, false), (true, true)]
        {
            let mut state = SendState::new();
            if is_head_sent {
                state.head_left();
            }
            if is_finished {
                state.finish();
            }
            state.stop();
            assert!(state.is_stopped() && state.is_closed() && !state.takes_more());
            assert_eq!(state.has_head_left(), is_head_sent);
            assert_eq!(state.is_finished(), is_finished);
        }
    }

    #[test]
    fn informational_heads_are_bounded() {
        let mut state = SendState::new();
        assert!(state.count_informational(2) && state.count_informational(2));
        assert!(!state.count_informational(2));
        state.head_left();
        assert!(!state.count_informational(2), "after the final head");
    }

    #[test]
    fn head_after_stop_or_reset_still_counts() {
        for cause in [RecvClosed::Stop, RecvClosed::Reset] {
            let mut state = RecvState::AwaitingHead { informational: 0 };
            state.close(cause);
            assert!(!state.has_head());
            state.head_came();
            assert!(state.has_head() && state.is_closed());
            assert_eq!(state.is_stopped(), cause == RecvClosed::Stop);
        }
    }

    #[test]
    fn reset_is_acknowledged_once() {
        let failure = Failure::possibly_executed(Code::Cancelled, "cancelled");
        let mut state = ResetState::AwaitingAck(failure);
        assert!(state.acknowledge(Execution::NotDispatched));
        assert!(!state.acknowledge(Execution::Executed));
        let settled = state.failure().map(|failure| failure.execution);
        assert_eq!(settled, Some(Execution::NotDispatched));
        assert!(!ResetState::None.acknowledge(Execution::Executed));
    }

    #[test]
    fn dispatched_is_owed_until_settled() {
        let mut state = DispatchState::Owed;
        state.mark();
        assert_eq!(state, DispatchState::Owed);
        assert!(state.settle() && !state.settle());
        assert!(state.is_dispatched());
        let mut state = DispatchState::NotDispatched;
        state.mark();
        assert!(state.is_dispatched() && !state.settle());
    }
}
