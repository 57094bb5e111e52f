//! Whose frame goes next.
//!
//! Two classes: interactive before bulk, but after [`INTERACTIVE_BURST_BYTES`] of interactive
//! traffic while bulk waits, one bulk frame goes. Within a class, streams that have sent little
//! since they were idle go before those in the rotation; after [`FRESH_RUN`] of them, one of the
//! rotation goes. So nothing starves, and a small call never waits for more than a few frames.

use crate::frame::Class;
use crate::limits::{DATA_SENT_BYTES, HEADER_BYTES};
use std::collections::VecDeque;

/// A stream that has sent less than this since it was idle counts as fresh: two frames.
pub(super) const FRESH_BYTES: u64 = 2 * FULL_FRAME_BYTES;

/// Interactive bytes that may pass a waiting bulk stream: four frames, so bulk keeps a fifth.
const INTERACTIVE_BURST_BYTES: u64 = 4 * FULL_FRAME_BYTES;

/// The longest DATA frame that is sent.
const FULL_FRAME_BYTES: u64 = (HEADER_BYTES + DATA_SENT_BYTES) as u64;

/// Fresh streams that may pass a waiting stream of the rotation.
const FRESH_RUN: u32 = 4;

#[derive(Debug, Default)]
struct Lane {
    fresh: VecDeque<u32>,
    rotation: VecDeque<u32>,
    fresh_run: u32,
}

impl Lane {
    fn is_empty(&self) -> bool {
        self.fresh.is_empty() && self.rotation.is_empty()
    }

    fn pop(&mut self) -> Option<u32> {
        if (self.fresh_run < FRESH_RUN || self.rotation.is_empty())
            && let Some(id) = self.fresh.pop_front()
        {
            self.fresh_run += 1;
            return Some(id);
        }
        self.fresh_run = 0;
        self.rotation.pop_front()
    }
}

/// The streams that have something to send and may send it.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    interactive: Lane,
    bulk: Lane,
    interactive_burst: u64,
}

impl Schedule {
    /// Puts a stream in line. The caller keeps it from standing there twice.
    pub(super) fn push(&mut self, id: u32, class: Class, burst: u64) {
        let lane = match class {
            Class::Interactive => &mut self.interactive,
            Class::Bulk => &mut self.bulk,
        };
        if burst < FRESH_BYTES {
            lane.fresh.push_back(id);
        } else {
            lane.rotation.push_back(id);
        }
    }

    /// Gives back the room for more streams than stand in line.
    pub(super) fn trim(&mut self) {
        for lane in [&mut self.interactive, &mut self.bulk] {
            lane.fresh.shrink_to_fit();
            lane.rotation.shrink_to_fit();
        }
    }

    /// Whether nobody stands in line.
    pub(super) fn is_empty(&self) -> bool {
        self.interactive.is_empty() && self.bulk.is_empty()
    }

    /// The next stream.
    pub(super) fn pop(&mut self) -> Option<u32> {
        let bulk_is_due = self.interactive_burst >= INTERACTIVE_BURST_BYTES;
        if self.interactive.is_empty() || (bulk_is_due && !self.bulk.is_empty()) {
            self.interactive_burst = 0;
            return self.bulk.pop();
        }
        self.interactive.pop()
    }

    /// Tells what the stream that was popped last has sent.
    pub(super) fn sent(&mut self, class: Class, bytes: u64) {
        if class == Class::Interactive && !self.bulk.is_empty() {
            self.interactive_burst += bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interactive_goes_first_and_bulk_keeps_a_fifth() {
        let mut schedule = Schedule::default();
        let mut bulk = 0;
        schedule.push(1, Class::Interactive, FRESH_BYTES);
        schedule.push(2, Class::Bulk, FRESH_BYTES);
        for _ in 0..1000 {
            let id = schedule.pop().unwrap();
            let class = if id == 1 {
                Class::Interactive
            } else {
                Class::Bulk
            };
            if id == 2 {
                bulk += 1;
            }
            schedule.sent(class, 16 * 1024);
            schedule.push(id, class, FRESH_BYTES);
        }
        assert_eq!(bulk, 200);
    }

    #[test]
    fn fresh_streams_pass_the_rotation_and_do_not_starve_it() {
        let mut schedule = Schedule::default();
        schedule.push(1, Class::Bulk, FRESH_BYTES);
        for id in 10..30 {
            schedule.push(id, Class::Bulk, 0);
        }
        let order: Vec<_> = std::iter::from_fn(|| schedule.pop()).collect();
        assert_eq!(order[0], 10);
        assert_eq!(order.iter().position(|id| *id == 1), Some(4));
        assert_eq!(order.len(), 21);
    }
}
