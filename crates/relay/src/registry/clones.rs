//! Two processes on one identity, such as a copied data directory: told from one that reconnects.
//!
//! HELLO says which session the process had before (W-51). A process that comes back after another
//! one replaced its session proves that both are alive:
//!
//! ```text
//! original: P ----------x            Y(before: P)  <- P was replaced by X, which is up and is not
//! copy:                 X(before: none) ------x       of the process that had P: a clone
//!                                                  X(before: X) refused while Y is up
//! ```
//!
//! The one that comes back first is let in, which is the one that was there before. From then on the
//! other is refused for as long as a session is up. A restart says nothing of a session before, and a
//! process whose line breaks says the session that it replaces: neither is proof.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// A session's id.
pub(super) type SessionId = [u8; 16];

/// Replaced sessions of a slot that are remembered.
const REPLACED_KEPT: usize = 4;

/// How long a slot counts as cloned after the last proof: a copy comes again about once a minute.
const CLONED_FOR: Duration = Duration::from_secs(600);

/// The session of a slot that is up, and the one that its process had before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Live {
    pub(super) id: SessionId,
    pub(super) before: Option<SessionId>,
}

/// What is known of a slot's processes.
#[derive(Debug, Default)]
pub(super) struct Clones {
    /// Sessions that were up and replaced, oldest first.
    replaced: VecDeque<SessionId>,
    proved: Option<Instant>,
}

impl Clones {
    /// Whether two processes seem to run on the identity.
    pub(super) fn is_cloned(&self, now: Instant) -> bool {
        let since = |at| now.saturating_duration_since(at);
        self.proved.is_some_and(|at| since(at) < CLONED_FOR)
    }

    /// A session that was up is replaced.
    pub(super) fn replaces(&mut self, id: SessionId) {
        if self.replaced.len() >= REPLACED_KEPT {
            self.replaced.pop_front();
        }
        self.replaced.push_back(id);
    }

    /// Whether a process that had the session `before` may replace the one that is up.
    pub(super) fn may_replace(
        &mut self,
        live: Live,
        before: Option<SessionId>,
        now: Instant,
    ) -> bool {
        // The second: its WELCOME was lost, and the process came again.
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

    /// A slot, with the rule that the registry has.
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

        /// A process that had `before` connects; whether it is let in.
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
    fn copy_is_noticed_when_the_original_comes_back() {
        let mut slot = Slot::new();
        assert!(slot.connects(1, None));
        assert!(slot.connects(100, None), "the copy comes");
        assert!(!slot.is_cloned());
        assert!(slot.connects(2, Some(1)), "the original comes back");
        assert!(slot.is_cloned());
        for _ in 0..20 {
            assert!(!slot.connects(101, Some(100)), "the copy is refused");
            assert!(slot.is_cloned());
        }
        assert!(!slot.connects(102, None), "also after its restart");
        assert!(slot.connects(3, Some(2)), "the original's line breaks");
        // The copy is gone.
        slot.now += CLONED_FOR;
        assert!(!slot.is_cloned());
    }

    #[test]
    fn copy_is_noticed_after_a_restart_of_the_relay() {
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
        // Its line breaks again and again, and the relay does not notice.
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
    fn slot_that_is_free_is_taken_by_either() {
        let mut slot = Slot::new();
        for (number, before) in [(1, None), (100, None), (2, Some(1))] {
            assert!(slot.connects(number, before));
        }
        assert!(slot.is_cloned());
        slot.live = None;
        assert!(slot.connects(101, Some(100)));
    }
}
