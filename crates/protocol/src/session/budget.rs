//! Window memory that the sessions of a process share, and each tenant's share of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of memory that all sessions of a process share for windows beyond the initial size.
///
/// A [share](Budget::share) belongs to one tenant. It is a dynamic threshold: a tenant may take at most
/// its weight times twice what is left for others. So the first tenant always leaves some memory.
#[derive(Debug)]
pub struct Budget {
    left: AtomicU64,
    of: Option<TenantShare>,
}

/// The share of one tenant.
#[derive(Debug)]
struct TenantShare {
    total: Arc<Budget>,
    taken: AtomicU64,
    weight: u8,
}

impl Budget {
    /// Creates a budget of `bytes`.
    pub fn new(bytes: u64) -> Arc<Self> {
        Arc::new(Self {
            left: AtomicU64::new(bytes),
            of: None,
        })
    }

    /// Creates the share of one tenant.
    pub fn share(total: &Arc<Self>, weight: u8) -> Arc<Self> {
        Arc::new(Self {
            left: AtomicU64::new(0),
            of: Some(TenantShare {
                total: total.clone(),
                taken: AtomicU64::new(0),
                weight: weight.max(1),
            }),
        })
    }

    /// Takes all of `bytes`, or nothing. Returns whether they were taken.
    pub fn try_take(&self, bytes: u64) -> bool {
        let Some(share) = &self.of else {
            // Relaxed everywhere: the counters guard no other memory. Each update is atomic, so the sum of
            // what is taken never exceeds the budget.
            return self
                .left
                .try_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                    left.checked_sub(bytes)
                })
                .is_ok();
        };
        // The tenant's counter is raised first and lowered again on failure. Two sessions of one tenant
        // that race may see each other's attempt and both fail, but neither overlooks the other.
        let taken = share.taken.fetch_add(bytes, Ordering::Relaxed);
        let left_then = share.total.left().saturating_sub(bytes);
        let is_fair = taken.saturating_add(bytes) <= share.may_have(left_then);
        let is_taken = is_fair && share.total.try_take(bytes);
        if !is_taken {
            share.taken.fetch_sub(bytes, Ordering::Relaxed);
        }
        is_taken
    }

    /// Returns bytes that were taken.
    pub fn give(&self, bytes: u64) {
        match &self.of {
            None => self.left.fetch_add(bytes, Ordering::Relaxed),
            Some(share) => {
                share.total.give(bytes);
                share.taken.fetch_sub(bytes, Ordering::Relaxed)
            }
        };
    }

    /// Returns the bytes that are free and may be taken here.
    pub fn left(&self) -> u64 {
        let Some(share) = &self.of else {
            return self.left.load(Ordering::Relaxed);
        };
        let left = share.total.left();
        let taken = share.taken.load(Ordering::Relaxed);
        left.min(share.may_have(left).saturating_sub(taken))
    }
}

impl TenantShare {
    /// Returns the tenant's threshold, when `left` bytes are free.
    fn may_have(&self, left: u64) -> u64 {
        left.saturating_mul(2 * u64::from(self.weight))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take_all(budget: &Budget) -> u64 {
        let taken = std::iter::from_fn(|| budget.try_take(1000).then_some(1000));
        taken.sum()
    }

    #[test]
    fn greedy_tenant_leaves_a_share_for_the_next() {
        let total = Budget::new(900_000);
        let (first, second) = (Budget::share(&total, 1), Budget::share(&total, 1));
        assert_eq!(take_all(&first), 600_000);
        assert_eq!(take_all(&second), 200_000);
        assert_eq!(first.left(), 0);
        first.give(600_000);
        second.give(200_000);
        assert_eq!(total.left(), 900_000);
        let heavy = Budget::share(&total, 4);
        assert_eq!(take_all(&heavy), 800_000);
    }

    #[test]
    fn rejected_bytes_are_not_charged() {
        let total = Budget::new(100);
        let share = Budget::share(&total, 255);
        assert!(!share.try_take(101));
        assert_eq!((share.left(), total.left()), (100, 100));
        assert!(share.try_take(90));
        share.give(90);
        assert_eq!(total.left(), 100);
    }
}
