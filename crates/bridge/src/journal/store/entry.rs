//! One entry of the journal, as it is on disk.

use super::super::{JournalEntryState, Outcome};
use protocol::frame::CallAttempt;
use protocol::{Code, Execution};

/// A call's id, and the number of the attempt.
pub(super) type Key = [u8; 20];
pub(super) type Value = [u8; 22];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Begun,
    Ended,
    Acknowledged,
}

/// The entry of one attempt.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    pub(super) state: State,
    /// The number of its intent.
    pub(super) number: u64,
    /// When the intent was written, in seconds since 1970. It is for people: no decision depends on it, because
    /// a clock may be wrong.
    pub(super) at: u64,
    pub(super) outcome: Outcome,
}

/// The outcome of an attempt without one: it may have been executed.
pub(super) const BEGUN: Outcome = Outcome {
    status: None,
    code: None,
    execution: Execution::PossiblyExecuted,
};

impl Entry {
    pub(super) fn write(&self) -> Value {
        let mut value = [0; 22];
        value[0] = match self.state {
            State::Begun => 1,
            State::Ended => 2,
            State::Acknowledged => 3,
        };
        value[1..9].copy_from_slice(&self.number.to_be_bytes());
        value[9..17].copy_from_slice(&self.at.to_be_bytes());
        let status = self.outcome.status.unwrap_or(0);
        value[17..19].copy_from_slice(&status.to_be_bytes());
        let code = self.outcome.code.map_or(0, Code::to_wire);
        value[19..21].copy_from_slice(&code.to_be_bytes());
        value[21] = self.outcome.execution.to_wire();
        value
    }

    pub(super) fn read(value: &Value) -> Self {
        let long = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&value[at..at + 8]);
            u64::from_be_bytes(bytes)
        };
        let short = |at: usize| match u16::from_be_bytes([value[at], value[at + 1]]) {
            0 => None,
            number => Some(number),
        };
        Self {
            state: match value[0] {
                2 => State::Ended,
                3 => State::Acknowledged,
                // An unknown state of a newer version counts as begun: the outcome is then "possibly executed".
                _ => State::Begun,
            },
            number: long(1),
            at: long(9),
            outcome: Outcome {
                status: short(17),
                code: short(19).map(Code::from_wire),
                execution: Execution::from_wire(value[21]),
            },
        }
    }

    pub(super) fn state(&self) -> JournalEntryState {
        match self.state {
            State::Begun => JournalEntryState::Begun,
            State::Ended | State::Acknowledged => JournalEntryState::Ended(self.outcome),
        }
    }
}

pub(super) fn key(attempt: CallAttempt) -> Key {
    let mut key = [0; 20];
    key[..16].copy_from_slice(&attempt.call);
    key[16..].copy_from_slice(&attempt.attempt.to_be_bytes());
    key
}

pub(super) fn attempt(key: &Key) -> CallAttempt {
    let (mut call, mut number) = ([0; 16], [0; 4]);
    call.copy_from_slice(&key[..16]);
    number.copy_from_slice(&key[16..]);
    CallAttempt {
        call,
        attempt: u32::from_be_bytes(number),
    }
}
