//! Whose frame goes next.
//!
//! Two classes: interactive before bulk, but after [`INTERACTIVE_BURST_BYTES`] of interactive
//! traffic while bulk waits, one bulk frame goes. Within a class, streams that have sent little
//! since they were idle go before those in the rotation; after [`FRESH_RUN`] of them, one of the
//! rotation goes. So nothing starves, and a small call never waits for more than a few frames. Among
//! those that are equal so far, callers take [turns](super::scheduler).

use super::scheduler::DrrScheduler;
use crate::frame::{CallerWeight, Class};
use crate::limits::{DATA_SENT_BYTES, HEADER_BYTES};

/// A stream that has sent less than this since it was idle counts as fresh: two frames.
pub(super) const FRESH_BYTES: u64 = 2 * FULL_FRAME_BYTES;

/// Interactive bytes that may pass a waiting bulk stream: four frames, so bulk keeps a fifth.
const INTERACTIVE_BURST_BYTES: u64 = 4 * FULL_FRAME_BYTES;

/// The longest DATA frame that is sent.
pub(super) const FULL_FRAME_BYTES: u64 = (HEADER_BYTES + DATA_SENT_BYTES) as u64;

/// Fresh streams that may pass a waiting stream of the rotation.
const FRESH_RUN: u32 = 4;

#[derive(Debug, Default)]
struct ClassQueue {
    fresh: DrrScheduler,
    rotation: DrrScheduler,
    fresh_run: u32,
    /// Whether a fresh one was popped last.
    was_fresh: bool,
}

impl ClassQueue {
    fn is_empty(&self) -> bool {
        self.fresh.is_empty() && self.rotation.is_empty()
    }

    fn pop(&mut self) -> Option<u32> {
        if (self.fresh_run < FRESH_RUN || self.rotation.is_empty())
            && let Some(id) = self.fresh.pop()
        {
            self.fresh_run += 1;
            self.was_fresh = true;
            return Some(id);
        }
        self.fresh_run = 0;
        self.was_fresh = false;
        self.rotation.pop()
    }

    fn sent(&mut self, bytes: u64) {
        if self.was_fresh {
            self.fresh.sent(bytes);
        } else {
            self.rotation.sent(bytes);
        }
    }
}

/// The streams that have something to send and may send it.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    interactive: ClassQueue,
    bulk: ClassQueue,
    interactive_burst: u64,
}

impl Schedule {
    /// Puts a stream in line. The caller keeps it from standing there twice.
    pub(super) fn push(&mut self, id: u32, (class, share): (Class, CallerWeight), burst: u64) {
        let lane = match class {
            Class::Interactive => &mut self.interactive,
            Class::Bulk => &mut self.bulk,
        };
        if burst < FRESH_BYTES {
            lane.fresh.push(id, share);
        } else {
            lane.rotation.push(id, share);
        }
    }

    /// Gives back the room for more streams than stand in line.
    pub(super) fn trim(&mut self) {
        for lane in [&mut self.interactive, &mut self.bulk] {
            lane.fresh.trim();
            lane.rotation.trim();
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
        match class {
            Class::Interactive => {
                self.interactive.sent(bytes);
                if !self.bulk.is_empty() {
                    self.interactive_burst += bytes;
                }
            }
            Class::Bulk => self.bulk.sent(bytes),
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
        schedule.push(
            1,
            (Class::Interactive, CallerWeight::default()),
            FRESH_BYTES,
        );
        schedule.push(2, (Class::Bulk, CallerWeight::default()), FRESH_BYTES);
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
            schedule.push(id, (class, CallerWeight::default()), FRESH_BYTES);
        }
        assert_eq!(bulk, 200);
    }

    #[test]
    fn fresh_streams_pass_the_rotation_and_do_not_starve_it() {
        let mut schedule = Schedule::default();
        schedule.push(1, (Class::Bulk, CallerWeight::default()), FRESH_BYTES);
        for id in 10..30 {
            schedule.push(id, (Class::Bulk, CallerWeight::default()), 0);
        }
        let order: Vec<_> = std::iter::from_fn(|| schedule.pop()).collect();
        assert_eq!(order[0], 10);
        assert_eq!(order.iter().position(|id| *id == 1), Some(4));
        assert_eq!(order.len(), 21);
    }

    #[test]
    fn a_crowd_of_fresh_streams_of_one_caller_is_not_in_front_of_another() {
        let mut schedule = Schedule::default();
        for id in 0..100 {
            schedule.push(id, (Class::Bulk, CallerWeight::new(1, 1)), 0);
        }
        schedule.push(100, (Class::Bulk, CallerWeight::new(2, 1)), 0);
        let mut order = Vec::new();
        while let Some(id) = schedule.pop() {
            schedule.sent(Class::Bulk, 16 * 1024);
            order.push(id);
        }
        let place = order.iter().position(|id| *id == 100).unwrap();
        assert!(place <= 2, "{place}");
    }
}
