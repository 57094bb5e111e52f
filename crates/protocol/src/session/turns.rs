//! Streams in line, by whose they are: callers take turns as their weights say, and so do the streams of
//! one caller among themselves. Somebody with a hundred transfers has the share of one caller.
//!
//! Deficit round robin (Shreedhar and Varghese): a caller's turn is so many bytes, and what a frame goes
//! beyond them is taken off its next.

use crate::frame::Share;
use std::collections::VecDeque;

/// Bytes in a turn, for each of a caller's weight: one full frame.
const TURN_BYTES: i64 = super::schedule::FULL_FRAME_BYTES as i64;

/// One caller's streams in line.
#[derive(Debug)]
struct Line {
    share: Share,
    ids: VecDeque<u32>,
    /// Bytes that are left of its turn.
    left: i64,
}

impl Line {
    fn turn(&self) -> i64 {
        TURN_BYTES * i64::from(self.share.weight.get())
    }
}

/// All of them. The first has its turn.
#[derive(Debug, Default)]
pub(super) struct Turns {
    lines: VecDeque<Line>,
    ids: usize,
}

impl Turns {
    pub(super) fn is_empty(&self) -> bool {
        self.ids == 0
    }

    pub(super) fn push(&mut self, id: u32, share: Share) {
        self.ids += 1;
        // Few have something to send at one time.
        let found = self
            .lines
            .iter_mut()
            .find(|line| line.share.caller == share.caller);
        if let Some(line) = found {
            line.share = share;
            line.ids.push_back(id);
            return;
        }
        let mut line = Line {
            share,
            ids: VecDeque::from([id]),
            left: 0,
        };
        line.left = line.turn();
        self.lines.push_back(line);
    }

    pub(super) fn pop(&mut self) -> Option<u32> {
        // Who was last in line stays known: as a rule it comes back.
        if self.ids == 0 {
            return None;
        }
        loop {
            let is_alone = self.lines.len() == 1;
            let line = self.lines.front_mut()?;
            if line.left <= 0 && is_alone {
                line.left = line.turn();
            }
            if line.left > 0 {
                let Some(id) = line.ids.pop_front() else {
                    // Its last stream did not come back.
                    self.lines.pop_front();
                    continue;
                };
                self.ids -= 1;
                return Some(id);
            }
            // The next one's turn.
            line.left += line.turn();
            self.lines.rotate_left(1);
        }
    }

    /// Takes what the stream that was popped last has sent off its caller's turn.
    pub(super) fn sent(&mut self, bytes: u64) {
        if let Some(line) = self.lines.front_mut() {
            line.left -= i64::try_from(bytes).unwrap_or(i64::MAX);
        }
    }

    pub(super) fn trim(&mut self) {
        self.lines.retain(|line| !line.ids.is_empty());
        for line in &mut self.lines {
            line.ids.shrink_to_fit();
        }
        self.lines.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn share(caller: u32, weight: u8) -> Share {
        Share::new(caller, weight)
    }

    /// Frames of each caller among the first so many, when every stream always has another.
    fn frames_of(streams: &[(u32, Share)], frames: usize, bytes: u64) -> HashMap<u32, usize> {
        let mut turns = Turns::default();
        let by_id: HashMap<u32, Share> = streams.iter().copied().collect();
        for (id, share) in streams {
            turns.push(*id, *share);
        }
        let mut counts = HashMap::new();
        for _ in 0..frames {
            let id = turns.pop().unwrap();
            turns.sent(bytes);
            turns.push(id, by_id[&id]);
            *counts.entry(by_id[&id].caller).or_insert(0) += 1;
        }
        counts
    }

    #[test]
    fn a_caller_with_many_streams_has_the_share_of_one() {
        let mut streams: Vec<_> = (0..100).map(|id| (id, share(1, 1))).collect();
        streams.push((100, share(2, 1)));
        let counts = frames_of(&streams, 1000, 16 * 1024);
        assert_eq!(counts[&1].abs_diff(counts[&2]), 0);
    }

    #[test]
    fn a_weight_is_a_share_of_the_bytes() {
        let streams = [(1, share(1, 3)), (2, share(2, 1)), (3, share(2, 1))];
        for bytes in [100, 5_000, 16 * 1024] {
            let counts = frames_of(&streams, 4000, bytes);
            assert!(counts[&1].abs_diff(3000) <= 200, "{bytes}: {counts:?}");
        }
    }

    #[test]
    fn the_streams_of_a_caller_take_turns() {
        let streams: Vec<_> = (0..4).map(|id| (id, share(9, 1))).collect();
        let mut turns = Turns::default();
        for (id, share) in streams {
            turns.push(id, share);
        }
        let mut order = Vec::new();
        for _ in 0..8 {
            let id = turns.pop().unwrap();
            turns.sent(16 * 1024);
            turns.push(id, share(9, 1));
            order.push(id);
        }
        assert_eq!(order, [0, 1, 2, 3, 0, 1, 2, 3]);
    }

    #[test]
    fn who_has_nothing_more_to_send_is_forgotten() {
        let mut turns = Turns::default();
        for caller in 0..50 {
            turns.push(caller, share(caller, 1));
        }
        for _ in 0..50 {
            assert!(turns.pop().is_some());
            turns.sent(1);
        }
        assert!(turns.is_empty() && turns.pop().is_none());
        turns.trim();
        assert!(turns.lines.is_empty());
    }
}
