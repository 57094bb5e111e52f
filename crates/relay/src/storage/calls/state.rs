//! The state of a stored call.

use crate::storage::model::words;

words! {
    /// The state of a stored call.
    CallState ("state of a call") {
        /// It waits until it is due.
        Pending = "pending",
        /// It waits for a bridge; its retry schedule is suspended.
        WaitingForBridge = "waiting_for_bridge",
        /// An attempt was sent, and its outcome is not known yet.
        Attempting = "attempting",
        /// The target responded with 2xx.
        Succeeded = "succeeded",
        /// The target rejected it, and no attempt follows: a dead letter.
        Failed = "failed",
        /// A policy does not allow it.
        Refused = "refused",
        /// The target may have executed it, the outcome cannot be determined, and it must not be repeated.
        OutcomeUnknown = "outcome_unknown",
        /// A caller or an administrator cancelled it.
        Cancelled = "cancelled",
        /// It expired before a target accepted it: a dead letter.
        Expired = "expired",
    }
}

impl CallState {
    /// Every state.
    pub const ALL: [Self; 9] = [
        Self::Pending,
        Self::WaitingForBridge,
        Self::Attempting,
        Self::Succeeded,
        Self::Failed,
        Self::Refused,
        Self::OutcomeUnknown,
        Self::Cancelled,
        Self::Expired,
    ];

    /// Returns whether no other state follows unless the call is redelivered.
    pub fn is_final(self) -> bool {
        match self {
            Self::Pending | Self::WaitingForBridge | Self::Attempting => false,
            Self::Succeeded
            | Self::Failed
            | Self::Refused
            | Self::OutcomeUnknown
            | Self::Cancelled
            | Self::Expired => true,
        }
    }
}
