//! Which stream sends the next frame.
//!
//! ```text
//! class      interactive before bulk; after 4 full frames of interactive, one of bulk
//! freshness  streams that sent little since they were idle before the others; after 4, one other
//! caller     deficit round robin by weight, then round robin among the streams of a caller
//! ```
//!
//! Nothing starves, and a small request waits for a few frames only. Callers are in [`super::scheduler`].

use super::scheduler::DrrScheduler;
use crate::frame::{CallerWeight, Class};
use crate::limits::{DATA_SENT_BYTES, HEADER_BYTES};

/// A stream that has sent less than this since it was idle counts as fresh: two frames.
pub(super) const FRESH_BYTES: u64 = 2 * FULL_FRAME_BYTES;

/// Interactive bytes that may pass a waiting bulk stream: four frames, so bulk gets a fifth.
const INTERACTIVE_BURST_BYTES: u64 = 4 * FULL_FRAME_BYTES;

/// The longest DATA frame that is sent.
pub(super) const FULL_FRAME_BYTES: u64 = (HEADER_BYTES + DATA_SENT_BYTES) as u64;

/// Fresh streams that may pass a waiting stream that is not fresh.
const FRESH_RUN: u32 = 4;

/// The streams of one class.
#[derive(Debug, Default)]
struct ClassQueue {
    fresh: DrrScheduler,
    rotation: DrrScheduler,
    fresh_run: u32,
    /// Whether a fresh stream was popped last: its bytes are charged there.
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
    /// Queues a stream. The caller ensures that a stream is queued at most once.
    pub(super) fn push(&mut self, id: u32, (class, share): (Class, CallerWeight), burst: u64) {
        let queue = match class {
            Class::Interactive => &mut self.interactive,
            Class::Bulk => &mut self.bulk,
        };
        if burst < FRESH_BYTES {
            queue.fresh.push(id, share);
        } else {
            queue.rotation.push(id, share);
        }
    }

    /// Returns unused memory.
    pub(super) fn trim(&mut self) {
        for queue in [&mut self.interactive, &mut self.bulk] {
            queue.fresh.trim();
            queue.rotation.trim();
        }
    }

    /// Whether no stream is queued.
    pub(super) fn is_empty(&self) -> bool {
        self.interactive.is_empty() && self.bulk.is_empty()
    }

    /// Removes and returns the next stream.
    pub(super) fn pop(&mut self) -> Option<u32> {
        let bulk_is_due = self.interactive_burst >= INTERACTIVE_BURST_BYTES;
        if self.interactive.is_empty() || (bulk_is_due && !self.bulk.is_empty()) {
            self.interactive_burst = 0;
            return self.bulk.pop();
        }
        self.interactive.pop()
    }

    /// Charges the bytes that the stream popped last has sent.
    pub(super) fn sent(&mut self, class: Class, bytes: u64) {
        match class {
            Class::Interactive => {
                self.interactive.sent(bytes);
                // Only bytes that bulk had to wait for count: otherwise bulk would pass an interactive
                // stream for traffic from before it had anything to send.
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
    fn interactive_goes_first_and_bulk_gets_a_fifth() {
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
    fn fresh_streams_do_not_starve_the_rotation() {
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
    fn fresh_streams_of_one_caller_do_not_delay_another() {
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
        let position = order.iter().position(|id| *id == 100).unwrap();
        assert!(position <= 2, "{position}");
    }
}
