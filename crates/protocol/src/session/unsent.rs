//! Bytes that wait unsent in a session, by caller.

use crate::limits::SEND_QUEUE_SESSION_BYTES;

/// Counts the bytes that wait to be sent.
#[derive(Debug, Default)]
pub(super) struct Unsent {
    total: usize,
    /// For each caller that has any. Only a few have at the same time.
    by_caller: Vec<(u32, usize)>,
}

impl Unsent {
    pub(super) fn is_empty(&self) -> bool {
        self.total == 0
    }

    pub(super) fn add(&mut self, caller: u32, bytes: usize) {
        if bytes == 0 {
            return;
        }
        self.total += bytes;
        match self.by_caller.iter_mut().find(|(of, _)| *of == caller) {
            Some((_, queued)) => *queued += bytes,
            None => self.by_caller.push((caller, bytes)),
        }
    }

    pub(super) fn sub(&mut self, caller: u32, bytes: usize) {
        if bytes == 0 {
            return;
        }
        self.total -= bytes;
        if let Some(index) = self.by_caller.iter().position(|(of, _)| *of == caller) {
            self.by_caller[index].1 -= bytes;
            if self.by_caller[index].1 == 0 {
                self.by_caller.swap_remove(index);
            }
        }
    }

    /// Whether other callers have bytes queued and this one has none.
    pub(super) fn is_only_from_others(&self, caller: u32) -> bool {
        self.total > 0 && !self.by_caller.iter().any(|(of, _)| *of == caller)
    }

    /// Whether a caller has to wait: the session's queue is full, and the caller has at least its part of it.
    pub(super) fn is_full_for(&self, caller: u32) -> bool {
        if self.total < SEND_QUEUE_SESSION_BYTES {
            return false;
        }
        let own = self.by_caller.iter().find(|(of, _)| *of == caller);
        let own = own.map_or(0, |(_, bytes)| *bytes);
        // A caller with little queued may exceed the bound. Otherwise it would have nothing to send
        // when the scheduler reaches it, and would lose its share to callers that filled the queue.
        own >= SEND_QUEUE_SESSION_BYTES / (self.by_caller.len() + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caller_with_little_queued_passes_a_full_queue() {
        let mut unsent = Unsent::default();
        unsent.add(1, SEND_QUEUE_SESSION_BYTES - 1);
        assert!(!unsent.is_full_for(1));
        unsent.add(1, 1);
        assert!(unsent.is_full_for(1) && !unsent.is_full_for(2));
        unsent.add(2, SEND_QUEUE_SESSION_BYTES / 3);
        assert!(unsent.is_full_for(2), "it has its share");
        unsent.sub(1, SEND_QUEUE_SESSION_BYTES);
        assert!(!unsent.is_full_for(2) && unsent.by_caller.len() == 1);
        unsent.sub(2, SEND_QUEUE_SESSION_BYTES / 3);
        assert!(unsent.is_empty() && unsent.by_caller.is_empty());
    }
}
