//! What waits unsent in a session, and whose it is.

use crate::limits::SEND_QUEUE_SESSION_BYTES;

/// Bytes that wait to be sent.
#[derive(Debug, Default)]
pub(super) struct Unsent {
    all: usize,
    /// Of each caller that has any. Few have at one time.
    of: Vec<(u32, usize)>,
}

impl Unsent {
    pub(super) fn is_empty(&self) -> bool {
        self.all == 0
    }

    pub(super) fn add(&mut self, caller: u32, bytes: usize) {
        if bytes == 0 {
            return;
        }
        self.all += bytes;
        match self.of.iter_mut().find(|(of, _)| *of == caller) {
            Some((_, queued)) => *queued += bytes,
            None => self.of.push((caller, bytes)),
        }
    }

    pub(super) fn sub(&mut self, caller: u32, bytes: usize) {
        if bytes == 0 {
            return;
        }
        self.all -= bytes;
        if let Some(index) = self.of.iter().position(|(of, _)| *of == caller) {
            self.of[index].1 -= bytes;
            if self.of[index].1 == 0 {
                self.of.swap_remove(index);
            }
        }
    }

    /// Whether others have something and this caller has nothing.
    pub(super) fn is_only_from_others(&self, caller: u32) -> bool {
        self.all > 0 && !self.of.iter().any(|(of, _)| *of == caller)
    }

    /// Whether a caller has to wait: everything is full, and that is not the doing of others. One that has
    /// little is let in, or it would have nothing at hand when its turn comes.
    pub(super) fn is_full_for(&self, caller: u32) -> bool {
        if self.all < SEND_QUEUE_SESSION_BYTES {
            return false;
        }
        let own = self.of.iter().find(|(of, _)| *of == caller);
        let own = own.map_or(0, |(_, bytes)| *bytes);
        own >= SEND_QUEUE_SESSION_BYTES / (self.of.len() + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_little_is_let_in_where_others_have_filled_everything() {
        let mut queued = Unsent::default();
        queued.add(1, SEND_QUEUE_SESSION_BYTES - 1);
        assert!(!queued.is_full_for(1));
        queued.add(1, 1);
        assert!(queued.is_full_for(1) && !queued.is_full_for(2));
        queued.add(2, SEND_QUEUE_SESSION_BYTES / 3);
        assert!(queued.is_full_for(2), "it has its share");
        queued.sub(1, SEND_QUEUE_SESSION_BYTES);
        assert!(!queued.is_full_for(2) && queued.of.len() == 1);
        queued.sub(2, SEND_QUEUE_SESSION_BYTES / 3);
        assert!(queued.is_empty() && queued.of.is_empty());
    }
}
