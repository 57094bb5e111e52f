//! Memory for the bodies of requests and responses, with a share for each tenant and API key.
//!
//! The shares are dynamic thresholds, as in `concurrency`: a tenant may use its weight times the memory that is left,
//! and a key likewise within its tenant. A client that uses its whole share leaves room for the next one.
//!
//! ```text
//! pool (limits.call_memory_max) -> tenant -> key -> Reservation (one body)
//! ```
//!
//! Here are the levels and their counters; `reservation` has the memory of one body.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use tokio::sync::{Notify, Semaphore};

/// Bodies of all tenants that may exceed their shares at once.
const OVERDRAFTS_MAX: usize = 8;

/// The memory that the bodies of all tenants share.
#[derive(Debug)]
pub(crate) struct BodyMemory {
    pub(super) max_bytes: u64,
    used_bytes: AtomicU64,
    pub(super) overdrafts: Arc<Semaphore>,
    pub(super) released: Notify,
    /// Responses that wait for [`Self::released`].
    pub(super) waiting: AtomicU32,
}

impl BodyMemory {
    /// Returns an empty pool of `max_bytes`.
    pub(crate) fn new(max_bytes: u64) -> Arc<Self> {
        Arc::new(Self {
            max_bytes,
            used_bytes: AtomicU64::new(0),
            overdrafts: Arc::new(Semaphore::new(OVERDRAFTS_MAX)),
            released: Notify::new(),
            waiting: AtomicU32::new(0),
        })
    }

    /// Returns how many bytes are in use.
    pub(crate) fn used_bytes(&self) -> u64 {
        self.used_bytes.load(Ordering::Relaxed)
    }

    /// Wakes the responses that wait for memory.
    pub(super) fn wake(&self) {
        if self.waiting.load(Ordering::Relaxed) > 0 {
            self.released.notify_waiters();
        }
    }
}

/// The part of the pool that one tenant uses.
#[derive(Debug)]
pub(crate) struct TenantMemory {
    pub(super) pool: Arc<BodyMemory>,
    weight: u8,
    used_bytes: AtomicU64,
    /// Reservations that hold any bytes.
    pub(super) reservations: AtomicU32,
    /// The permit for this tenant's overdraft. Made when it is needed first.
    pub(super) turn: OnceLock<Arc<Semaphore>>,
}

impl TenantMemory {
    /// Returns an unused part of `pool`.
    pub(crate) fn new(pool: &Arc<BodyMemory>, weight: u8) -> Arc<Self> {
        Arc::new(Self {
            pool: pool.clone(),
            weight,
            used_bytes: AtomicU64::new(0),
            reservations: AtomicU32::new(0),
            turn: OnceLock::new(),
        })
    }
}

/// The part of its tenant's memory that one API key uses.
#[derive(Debug)]
pub(crate) struct KeyMemory {
    pub(super) tenant: Arc<TenantMemory>,
    weight: u8,
    used_bytes: AtomicU64,
    /// Bytes that responses which are being read may still grow by. Nothing is reserved for them: they limit how
    /// many responses are read at once, so that few are finished instead of many begun.
    pub(super) awaited_bytes: AtomicU64,
    /// Orders the key's bodies that wait for the tenant's overdraft. Made when it is needed first.
    pub(super) turn: OnceLock<Arc<Semaphore>>,
}

/// How much is in use at each level.
#[derive(Debug, Clone, Copy)]
pub(super) struct Used {
    pub(super) pool: u64,
    tenant: u64,
    key: u64,
}

/// Returns the most that a member of this weight may use of `room`, which is what the others leave.
fn share_of(room: u64, weight: u8) -> u64 {
    let weight = u64::from(weight);
    // A single member of weight 1 gets half of the room, so that another one finds memory.
    room.saturating_mul(weight) / (weight + 1)
}

pub(super) fn one_permit(turn: &OnceLock<Arc<Semaphore>>) -> Arc<Semaphore> {
    turn.get_or_init(|| Arc::new(Semaphore::new(1))).clone()
}

impl KeyMemory {
    /// Returns an unused part of the tenant's memory.
    pub(crate) fn new(tenant: &Arc<TenantMemory>, weight: u8) -> Arc<Self> {
        Arc::new(Self {
            tenant: tenant.clone(),
            weight,
            used_bytes: AtomicU64::new(0),
            awaited_bytes: AtomicU64::new(0),
            turn: OnceLock::new(),
        })
    }

    /// Returns how many bytes the key uses.
    #[cfg(test)]
    pub(crate) fn used_bytes(&self) -> u64 {
        self.used_bytes.load(Ordering::Relaxed)
    }

    /// Adds `bytes` at every level, whatever the shares are.
    pub(crate) fn add(&self, bytes: u64) {
        self.added(bytes);
    }

    pub(super) fn added(&self, bytes: u64) -> Used {
        let add = |used: &AtomicU64| used.fetch_add(bytes, Ordering::Relaxed) + bytes;
        Used {
            pool: add(&self.tenant.pool.used_bytes),
            tenant: add(&self.tenant.used_bytes),
            key: add(&self.used_bytes),
        }
    }

    pub(super) fn subtract(&self, bytes: u64) {
        let pool = &self.tenant.pool;
        // Relaxed: the counters are independent, and every decision is made from a snapshot that may be
        // slightly old.
        for used in [&pool.used_bytes, &self.tenant.used_bytes, &self.used_bytes] {
            used.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    /// Gives `bytes` back at every level, and wakes the responses that wait for memory.
    pub(crate) fn release(&self, bytes: u64) {
        self.subtract(bytes);
        self.tenant.pool.wake();
    }

    /// Returns whether the key may use `bytes` more now. Nothing is reserved.
    pub(crate) fn has_room(&self, bytes: u64) -> bool {
        self.is_within(self.used_with(bytes), false)
    }

    /// Returns the same for bytes that are kept for a retry only: they leave a quarter of the share free.
    pub(crate) fn has_room_to_spare(&self, bytes: u64) -> bool {
        self.is_within(self.used_with(bytes), true)
    }

    fn used_with(&self, bytes: u64) -> Used {
        let load = |used: &AtomicU64| used.load(Ordering::Relaxed).saturating_add(bytes);
        Used {
            pool: load(&self.tenant.pool.used_bytes),
            tenant: load(&self.tenant.used_bytes),
            key: load(&self.used_bytes),
        }
    }

    /// Returns whether a response may be read that will grow by `bytes`: with those that are being read, it comes to
    /// no more than large bodies may have. One of a key always may.
    pub(super) fn try_await(&self, bytes: u64) -> bool {
        // Added first and subtracted again: with a check before, two responses could both pass it.
        let before = self.awaited_bytes.fetch_add(bytes, Ordering::Relaxed);
        let may = before == 0 || self.is_within(self.used_with(before + bytes), true);
        if !may {
            self.awaited_bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
        may
    }

    /// Returns whether this use is within the key's share and its tenant's.
    pub(super) fn is_within(&self, used: Used, leaves_quarter: bool) -> bool {
        let room = self.tenant.pool.max_bytes;
        if used.pool > room {
            return false;
        }
        let left_by_tenants = room - used.pool.saturating_sub(used.tenant);
        let of_tenant = share_of(left_by_tenants, self.tenant.weight);
        let left_by_keys = of_tenant.saturating_sub(used.tenant.saturating_sub(used.key));
        let mut of_key = share_of(left_by_keys, self.weight);
        if leaves_quarter {
            of_key -= of_key / 4;
        }
        used.tenant <= of_tenant && used.key <= of_key
    }
}
