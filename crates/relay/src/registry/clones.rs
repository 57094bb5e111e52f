//! Detects two processes with one identity, for example after a data directory was copied, and distinguishes
//! them from one process that reconnects.
//!
//! HELLO names the session that the process had before (W-51). A process that reconnects after another one replaced
//! its session proves that both are alive:
//!
//! ```text
//! original: P ----------x            Y(before: P)  <- P was replaced by X, which is up and is not
//! copy:                 X(before: none) ------x       of the process that had P: a clone
//!                                                  X(before: X) refused while Y is up
//! ```
//!
//! The process that reconnects first is admitted: it is the one that was connected before. From then on the other one
//! is refused while a session is open. After a restart a process names no session, and after a lost connection it
//! names the session that it replaces: neither is proof.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// A session's id.
pub(super) type SessionId = [u8; 16];

/// Replaced sessions of a slot that are kept.
const REPLACED_KEPT: usize = 4;

/// How long a slot counts as cloned after the last proof. A refused copy retries about once a minute.
const CLONED_FOR: Duration = Duration::from_secs(600);

/// The open session of a slot, and the one that its process had before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Live {
    pub(super) id: SessionId,
    pub(super) before: Option<SessionId>,
}

/// What is known of the processes of a slot.
#[derive(Debug, Default)]
pub(super) struct Clones {
    /// Open sessions that were replaced, oldest first.
    replaced: VecDeque<SessionId>,
    proved: Option<Instant>,
}

impl Clones {
    /// Returns whether two processes seem to run with the identity.
    pub(super) fn is_cloned(&self, now: Instant) -> bool {
        let since = |at| now.saturating_duration_since(at);
        self.proved.is_some_and(|at| since(at) < CLONED_FOR)
    }

    /// Notes that an open session is replaced.
    pub(super) fn replaces(&mut self, id: SessionId) {
        if self.replaced.len() >= REPLACED_KEPT {
            self.replaced.pop_front();
        }
        self.replaced.push_back(id);
    }

    /// Returns whether a process that had the session `before` may replace the open one.
    pub(super) fn may_replace(
        &mut self,
        live: Live,
        before: Option<SessionId>,
        now: Instant,
    ) -> bool {
        // The second case: the WELCOME of the open session was lost, and the process retries with the session that it
        // had before.
        let is_same = before == Some(live.id) || (before.is_some() && before == live.before);
        if is_same {
            return true;
        }
        let was_cloned = self.is_cloned(now);
        let is_proof = before.is_some_and(|before| self.replaced.contains(&before));
        if is_proof || was_cloned {
            self.proved = Some(now);
        }
        !was_cloned
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u8) -> SessionId {
        [number; 16]
    }

    /// A slot with the rule of the registry.
    struct Slot {
        clones: Clones,
        live: Option<Live>,
        now: Instant,
    }

    impl Slot {
        fn new() -> Self {
            Self {
                clones: Clones::default(),
                live: None,
                now: Instant::now(),
            }
        }

        /// Connects a process that had `before`. Returns whether it is admitted.
        fn connects(&mut self, number: u8, before: Option<u8>) -> bool {
            self.now += Duration::from_secs(61);
            let before = before.map(id);
            if let Some(live) = self.live {
                if !self.clones.may_replace(live, before, self.now) {
                    return false;
                }
                self.clones.replaces(live.id);
            }
            self.live = Some(Live {
                id: id(number),
                before,
            });
            true
        }

        fn is_cloned(&self) -> bool {
            self.clones.is_cloned(self.now)
        }
    }

    #[test]
    fn copy_is_detected_when_original_reconnects() {
        let mut slot = Slot::new();
        assert!(slot.connects(1, None));
        assert!(slot.connects(100, None), "the copy connects");
        assert!(!slot.is_cloned());
        assert!(slot.connects(2, Some(1)), "the original reconnects");
        assert!(slot.is_cloned());
        for _ in 0..20 {
            assert!(!slot.connects(101, Some(100)), "the copy is refused");
            assert!(slot.is_cloned());
        }
        assert!(!slot.connects(102, None), "also after its restart");
        assert!(slot.connects(3, Some(2)), "the original reconnects again");
        // The copy is gone.
        slot.now += CLONED_FOR;
        assert!(!slot.is_cloned());
    }

    #[test]
    fn copy_is_detected_after_relay_restart() {
        let mut slot = Slot::new();
        assert!(slot.connects(10, Some(9)));
        assert!(slot.connects(100, Some(99)));
        assert!(!slot.is_cloned());
        assert!(slot.connects(11, Some(10)));
        assert!(slot.is_cloned());
    }

    #[test]
    fn reconnecting_process_is_no_clone() {
        let mut slot = Slot::new();
        assert!(slot.connects(1, None));
        // Its connection breaks again and again, and the relay does not notice.
        for number in 1..100 {
            assert!(slot.connects(number + 1, Some(number)));
        }
        // WELCOME is lost, twice: the bridge does not know of sessions 150 and 151.
        assert!(slot.connects(150, Some(100)));
        assert!(slot.connects(151, Some(100)));
        assert!(slot.connects(152, Some(100)));
        assert!(slot.connects(153, Some(152)));
        assert!(!slot.is_cloned());
    }

    #[test]
    fn restarting_process_is_no_clone() {
        let mut slot = Slot::new();
        // Killed and started, and the relay does not notice the end of any.
        for number in 0..100 {
            assert!(slot.connects(number, None));
        }
        assert!(slot.connects(101, Some(99)));
        assert!(!slot.is_cloned());
    }

    #[test]
    fn free_slot_admits_either_process() {
        let mut slot = Slot::new();
        for (number, before) in [(1, None), (100, None), (2, Some(1))] {
            assert!(slot.connects(number, before));
        }
        assert!(slot.is_cloned());
        slot.live = None;
        assert!(slot.connects(101, Some(100)));
    }
}
