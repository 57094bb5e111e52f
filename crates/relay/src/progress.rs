//! How far a request has come, for the record of a call whose caller leaves before its outcome is known.

use protocol::Execution;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The reason of a call whose caller left, in every list, log line and row.
pub(crate) const CALLER_LEFT: &str = "the caller closed its connection before the response";

/// The progress of one request. The exchange writes it, also when its future is dropped.
#[derive(Debug, Default)]
pub(crate) struct Progress(Mutex<State>);

#[derive(Debug)]
struct State {
    /// The bridge that the last attempt was sent to.
    bridge: Option<Arc<str>>,
    /// The furthest of the attempts that have ended.
    ended: Execution,
    /// The attempt that runs.
    running: Execution,
}

impl Default for State {
    fn default() -> Self {
        Self {
            bridge: None,
            ended: Execution::NotSent,
            running: Execution::NotSent,
        }
    }
}

impl Progress {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An attempt through a bridge begins.
    pub(crate) fn begin(&self, bridge: Arc<str>) {
        self.lock().bridge = Some(bridge);
    }

    /// The running attempt has come this far.
    pub(crate) fn note(&self, execution: Execution) {
        self.lock().running = execution;
    }

    /// The running attempt has ended, and another may follow.
    pub(crate) fn end_attempt(&self, execution: Execution) {
        let mut state = self.lock();
        state.ended = state.ended.max(execution);
        state.running = Execution::NotSent;
    }

    /// Returns how far the request has come: the furthest of its attempts.
    pub(crate) fn execution(&self) -> Execution {
        let state = self.lock();
        state.ended.max(state.running)
    }

    /// Returns the name of the bridge that the last attempt was sent to, if any was.
    pub(crate) fn bridge(&self) -> Option<Arc<str>> {
        self.lock().bridge.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_that_of_the_furthest_attempt() {
        let progress = Progress::default();
        assert_eq!(progress.execution(), Execution::NotSent);
        progress.begin("dc1".into());
        progress.note(Execution::PossiblyExecuted);
        assert_eq!(progress.execution(), Execution::PossiblyExecuted);
        // The bridge reported that it sent nothing to the target.
        progress.end_attempt(Execution::NotDispatched);
        assert_eq!(progress.execution(), Execution::NotDispatched);
        progress.begin("dc2".into());
        progress.note(Execution::PossiblyExecuted);
        progress.end_attempt(Execution::PossiblyExecuted);
        progress.note(Execution::NotSent);
        assert_eq!(progress.execution(), Execution::PossiblyExecuted);
        assert_eq!(progress.bridge().as_deref(), Some("dc2"));
    }
}
