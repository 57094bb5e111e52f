//! A fair queue of streams: callers share by weight, and the streams of one caller take turns.
//!
//! This is deficit round robin (Shreedhar and Varghese, 1995). A caller's quantum is a number of bytes;
//! what its last frame goes beyond the quantum is deducted from the next one. A caller with 100
//! streams gets the same share as a caller with one.

use crate::frame::CallerWeight;
use std::collections::VecDeque;

/// Bytes of one quantum, for each unit of weight: one full frame.
const QUANTUM_BYTES: i64 = super::schedule::FULL_FRAME_BYTES as i64;

/// The queued streams of one caller.
#[derive(Debug)]
struct CallerQueue {
    share: CallerWeight,
    ids: VecDeque<u32>,
    /// Bytes that the caller may still send before the next caller is served. Negative after a frame that
    /// went beyond the quantum.
    deficit: i64,
}

impl CallerQueue {
    fn quantum(&self) -> i64 {
        QUANTUM_BYTES * i64::from(self.share.weight.get())
    }
}

/// Streams that wait for their turn, grouped by caller. The first caller is the one that is served.
#[derive(Debug, Default)]
pub(super) struct DrrScheduler {
    callers: VecDeque<CallerQueue>,
    ids: usize,
}

impl DrrScheduler {
    pub(super) fn is_empty(&self) -> bool {
        self.ids == 0
    }

    pub(super) fn push(&mut self, id: u32, share: CallerWeight) {
        self.ids += 1;
        // A linear search: only a few callers have something to send at the same time.
        let found = self
            .callers
            .iter_mut()
            .find(|queue| queue.share.caller == share.caller);
        if let Some(queue) = found {
            queue.share = share;
            queue.ids.push_back(id);
            return;
        }
        let mut queue = CallerQueue {
            share,
            ids: VecDeque::from([id]),
            deficit: 0,
        };
        queue.deficit = queue.quantum();
        self.callers.push_back(queue);
    }

    pub(super) fn pop(&mut self) -> Option<u32> {
        // A caller whose queue ran empty is kept until the next `pop`: its stream usually comes back at
        // once, and must not get a fresh quantum each time that it does.
        if self.ids == 0 {
            return None;
        }
        loop {
            let is_alone = self.callers.len() == 1;
            let queue = self.callers.front_mut()?;
            // Without competition there is no deficit to pay back, or a lone caller would have to loop
            // here once for each quantum that it overdrew.
            if queue.deficit <= 0 && is_alone {
                queue.deficit = queue.quantum();
            }
            if queue.deficit > 0 {
                let Some(id) = queue.ids.pop_front() else {
                    self.callers.pop_front();
                    continue;
                };
                self.ids -= 1;
                return Some(id);
            }
            queue.deficit += queue.quantum();
            self.callers.rotate_left(1);
        }
    }

    /// Charges the bytes of the stream that was popped last to its caller.
    pub(super) fn sent(&mut self, bytes: u64) {
        if let Some(queue) = self.callers.front_mut() {
            queue.deficit -= i64::try_from(bytes).unwrap_or(i64::MAX);
        }
    }

    /// Returns unused memory.
    pub(super) fn trim(&mut self) {
        self.callers.retain(|queue| !queue.ids.is_empty());
        for queue in &mut self.callers {
            queue.ids.shrink_to_fit();
        }
        self.callers.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn share(caller: u32, weight: u8) -> CallerWeight {
        CallerWeight::new(caller, weight)
    }

    /// Frames of each caller among the first `frames`, when every stream always has more to send.
    fn frames_of(
        streams: &[(u32, CallerWeight)],
        frames: usize,
        bytes: u64,
    ) -> HashMap<u32, usize> {
        let mut scheduler = DrrScheduler::default();
        let by_id: HashMap<u32, CallerWeight> = streams.iter().copied().collect();
        for (id, share) in streams {
            scheduler.push(*id, *share);
        }
        let mut counts = HashMap::new();
        for _ in 0..frames {
            let id = scheduler.pop().unwrap();
            scheduler.sent(bytes);
            scheduler.push(id, by_id[&id]);
            *counts.entry(by_id[&id].caller).or_insert(0) += 1;
        }
        counts
    }

    #[test]
    fn caller_with_many_streams_gets_the_share_of_one() {
        let mut streams: Vec<_> = (0..100).map(|id| (id, share(1, 1))).collect();
        streams.push((100, share(2, 1)));
        let counts = frames_of(&streams, 1000, 16 * 1024);
        assert_eq!(counts[&1].abs_diff(counts[&2]), 0);
    }

    #[test]
    fn weight_is_a_share_of_the_bytes() {
        let streams = [(1, share(1, 3)), (2, share(2, 1)), (3, share(2, 1))];
        for bytes in [100, 5_000, 16 * 1024] {
            let counts = frames_of(&streams, 4000, bytes);
            assert!(counts[&1].abs_diff(3000) <= 200, "{bytes}: {counts:?}");
        }
    }

    #[test]
    fn streams_of_one_caller_take_turns() {
        let streams: Vec<_> = (0..4).map(|id| (id, share(9, 1))).collect();
        let mut scheduler = DrrScheduler::default();
        for (id, share) in streams {
            scheduler.push(id, share);
        }
        let mut order = Vec::new();
        for _ in 0..8 {
            let id = scheduler.pop().unwrap();
            scheduler.sent(16 * 1024);
            scheduler.push(id, share(9, 1));
            order.push(id);
        }
        assert_eq!(order, [0, 1, 2, 3, 0, 1, 2, 3]);
    }

    #[test]
    fn idle_caller_is_forgotten() {
        let mut scheduler = DrrScheduler::default();
        for caller in 0..50 {
            scheduler.push(caller, share(caller, 1));
        }
        for _ in 0..50 {
            assert!(scheduler.pop().is_some());
            scheduler.sent(1);
        }
        assert!(scheduler.is_empty() && scheduler.pop().is_none());
        scheduler.trim();
        assert!(scheduler.callers.is_empty());
    }
}
