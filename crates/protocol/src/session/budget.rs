//! Memory that the sessions of a process share, and each tenant's part of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of memory that all sessions of a process share for windows beyond the initial one.
///
/// A [share](Budget::share) of it is one tenant's: it may take as much as its weight times twice of what is
/// left for others, so that whoever came first leaves some.
#[derive(Debug)]
pub struct Budget {
    left: AtomicU64,
    of: Option<Part>,
}

/// Whose a part of a budget is.
#[derive(Debug)]
struct Part {
    whole: Arc<Budget>,
    taken: AtomicU64,
    weight: u8,
}

impl Budget {
    /// A budget of so many bytes.
    pub fn new(bytes: u64) -> Arc<Self> {
        Arc::new(Self {
            left: AtomicU64::new(bytes),
            of: None,
        })
    }

    /// One tenant's part of it.
    pub fn share(whole: &Arc<Self>, weight: u8) -> Arc<Self> {
        Arc::new(Self {
            left: AtomicU64::new(0),
            of: Some(Part {
                whole: whole.clone(),
                taken: AtomicU64::new(0),
                weight: weight.max(1),
            }),
        })
    }

    /// Takes all of `bytes` or nothing.
    pub fn try_take(&self, bytes: u64) -> bool {
        let Some(part) = &self.of else {
            return self
                .left
                .try_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                    left.checked_sub(bytes)
                })
                .is_ok();
        };
        let taken = part.taken.fetch_add(bytes, Ordering::Relaxed);
        let left_then = part.whole.left().saturating_sub(bytes);
        let is_fair = taken.saturating_add(bytes) <= part.may_have(left_then);
        let is_taken = is_fair && part.whole.try_take(bytes);
        if !is_taken {
            part.taken.fetch_sub(bytes, Ordering::Relaxed);
        }
        is_taken
    }

    /// Gives back what was taken.
    pub fn give(&self, bytes: u64) {
        match &self.of {
            None => self.left.fetch_add(bytes, Ordering::Relaxed),
            Some(part) => {
                part.whole.give(bytes);
                part.taken.fetch_sub(bytes, Ordering::Relaxed)
            }
        };
    }

    /// Bytes that nobody has taken, as far as they may be taken here.
    pub fn left(&self) -> u64 {
        let Some(part) = &self.of else {
            return self.left.load(Ordering::Relaxed);
        };
        let left = part.whole.left();
        let taken = part.taken.load(Ordering::Relaxed);
        left.min(part.may_have(left).saturating_sub(taken))
    }
}

impl Part {
    /// What it may have in all, when so much is left for others.
    fn may_have(&self, left: u64) -> u64 {
        left.saturating_mul(2 * u64::from(self.weight))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_that_it_gets(budget: &Budget) -> u64 {
        let taken = std::iter::from_fn(|| budget.try_take(1000).then_some(1000));
        taken.sum()
    }

    #[test]
    fn who_takes_all_it_gets_leaves_a_share_for_the_next() {
        let whole = Budget::new(900_000);
        let (first, second) = (Budget::share(&whole, 1), Budget::share(&whole, 1));
        assert_eq!(all_that_it_gets(&first), 600_000);
        assert_eq!(all_that_it_gets(&second), 200_000);
        assert_eq!(first.left(), 0);
        first.give(600_000);
        second.give(200_000);
        assert_eq!(whole.left(), 900_000);
        let heavy = Budget::share(&whole, 4);
        assert_eq!(all_that_it_gets(&heavy), 800_000);
    }

    #[test]
    fn what_was_not_taken_is_not_charged() {
        let whole = Budget::new(100);
        let share = Budget::share(&whole, 255);
        assert!(!share.try_take(101));
        assert_eq!((share.left(), whole.left()), (100, 100));
        assert!(share.try_take(90));
        share.give(90);
        assert_eq!(whole.left(), 100);
    }
}
