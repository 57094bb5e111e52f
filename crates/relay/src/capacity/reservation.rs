//! The memory of one body.
//!
//! A body reserves memory for the bytes that have arrived, in steps, never for bytes that may follow.
//!
//! A request whose body gets no memory is rejected: nothing was sent yet. A response waits for memory, because
//! the target has already executed the request. Responses that are partly read could then wait for each other
//! forever, so one of each tenant, in the order of arrival, may exceed the share (an overdraft).

use super::memory::{BodyMemory, KeyMemory, Used, one_permit};
use crate::connection::Connection;
use protocol::{Code, Failure};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;

/// The smallest step of a reservation, in bytes.
const STEP_MIN_BYTES: u64 = 4 * 1024;

/// A body up to this size may use the whole share of its key. A larger one leaves a quarter of the share free,
/// so that slow large bodies do not block small ones of the same key.
const SMALL_BODY_BYTES: u64 = 64 * 1024;

/// A response up to this size comes in one piece: it does not wait for the larger ones that are being read.
const FIRST_PIECE_BYTES: u64 = 16 * 1024;

/// How often a response that waits for memory tries again without a signal: reservations of other tenants
/// change its share as well.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// Permits to exceed the share: one for each tenant, and few in all.
#[derive(Debug)]
struct Overdraft {
    _key: OwnedSemaphorePermit,
    _tenant: OwnedSemaphorePermit,
    _pool: OwnedSemaphorePermit,
}

/// Why memory was not reserved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoMemory {
    /// The key, its tenant, or the relay has used up its share.
    Share,
    /// The connection has reached its limit of bytes in memory.
    Connection,
}

impl NoMemory {
    /// Returns the rejection of a request that was not sent.
    pub(crate) fn failure(self) -> Failure {
        let detail = match self {
            Self::Share => {
                "the request and response bodies of this API key use up its share of memory \
                 (limits.call_memory_max)"
            }
            Self::Connection => {
                "the request and response bodies of this connection use up its memory \
                 (limits.connection_memory_max); read the responses"
            }
        };
        Failure::not_sent(Code::Overloaded, detail)
    }
}

/// Memory for one body. Released when dropped.
#[derive(Debug)]
pub(crate) struct Reservation {
    memory: Arc<KeyMemory>,
    /// The connection that the body belongs to, and the most that one may have, in bytes.
    connection: Option<(Arc<Connection>, u64)>,
    bytes: u64,
    /// Its part of [`KeyMemory::awaited_bytes`], while it is a response that is being read.
    awaited: u64,
    overdraft: Option<Overdraft>,
}

impl Reservation {
    /// Returns an empty reservation.
    pub(crate) fn new(memory: Arc<KeyMemory>) -> Self {
        Self {
            memory,
            connection: None,
            bytes: 0,
            awaited: 0,
            overdraft: None,
        }
    }

    /// Returns the same, which also counts for a connection that may have `max_bytes`.
    pub(crate) fn on(mut self, connection: &Arc<Connection>, max_bytes: u64) -> Self {
        self.connection = Some((connection.clone(), max_bytes));
        self
    }

    /// Returns another empty reservation of the same key and connection.
    pub(crate) fn sibling(&self) -> Self {
        Self {
            memory: self.memory.clone(),
            connection: self.connection.clone(),
            bytes: 0,
            awaited: 0,
            overdraft: None,
        }
    }

    /// Returns how many bytes are reserved.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns the next step for a body that needs `needed` bytes and may come to `most`.
    pub(crate) fn step(&self, needed: u64, most: u64) -> u64 {
        let doubled = self.bytes.saturating_mul(2).max(STEP_MIN_BYTES);
        needed.max(doubled.min(most))
    }

    fn count(&mut self, bytes: u64) -> Used {
        if self.bytes == 0 && bytes > 0 {
            let reservations = &self.memory.tenant.reservations;
            reservations.fetch_add(1, Ordering::Relaxed);
        }
        if let Some((connection, _)) = &self.connection {
            connection.memory().add(bytes);
        }
        self.bytes += bytes;
        self.memory.added(bytes)
    }

    fn uncount(&mut self, bytes: u64) {
        if bytes == 0 {
            return;
        }
        self.memory.subtract(bytes);
        if let Some((connection, _)) = &self.connection {
            connection.memory().release(bytes);
        }
        self.bytes -= bytes;
        if self.bytes == 0 {
            let reservations = &self.memory.tenant.reservations;
            reservations.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn release(&mut self, bytes: u64) {
        self.uncount(bytes);
        self.memory.tenant.pool.wake();
    }

    /// Grows to `bytes`, if the shares allow it now.
    ///
    /// # Errors
    /// [`NoMemory`]; the reservation is as it was.
    pub(crate) fn try_grow_to(&mut self, bytes: u64) -> Result<(), NoMemory> {
        let more = bytes.saturating_sub(self.bytes);
        if more == 0 {
            return Ok(());
        }
        // Counted first and subtracted on refusal: with a check before, two bodies could both pass it.
        let used = self.count(more);
        // The only body of a tenant may use the whole pool: a small pool could otherwise hold no large body.
        let is_alone = self.memory.tenant.reservations.load(Ordering::Relaxed) == 1
            && used.pool <= self.memory.tenant.pool.max_bytes;
        let is_large = bytes > SMALL_BODY_BYTES;
        let refusal = if let Some((connection, max_bytes)) = &self.connection
            && connection.memory().bytes() > self.bytes.max(*max_bytes)
        {
            Some(NoMemory::Connection)
        } else if is_alone || self.memory.is_within(used, is_large) {
            None
        } else {
            Some(NoMemory::Share)
        };
        match refusal {
            None => Ok(()),
            Some(refusal) => {
                // No waiter is woken: the attempts of those that wait would wake each other forever.
                self.uncount(more);
                Err(refusal)
            }
        }
    }

    /// Grows to `bytes` regardless of the shares, for what cannot be rejected any more.
    pub(crate) fn grow_anyway_to(&mut self, bytes: u64) {
        let more = bytes.saturating_sub(self.bytes);
        if more > 0 {
            self.count(more);
        }
    }

    /// Grows to `bytes` for a response that may come to `most`, and waits until the shares allow it or this
    /// body may exceed them.
    ///
    /// Cancel safe: a wait that is dropped has reserved nothing more.
    pub(crate) async fn grow_to(&mut self, bytes: u64, most: u64) {
        if self.overdraft.is_some() {
            self.grow_anyway_to(bytes);
            return;
        }
        if self.try_read_to(bytes, most) {
            return;
        }
        let pool = self.memory.tenant.pool.clone();
        // Counted before the next attempt, so that a release after it sees the waiter.
        let _waiting = Waiting::new(&pool);
        let mut turn = std::pin::pin!(overdraft(self.memory.clone()));
        loop {
            // Registered before the attempt, so that a release in between is noticed.
            let mut released = std::pin::pin!(pool.released.notified());
            released.as_mut().enable();
            if self.try_read_to(bytes, most) {
                return;
            }
            tokio::select! {
                biased;
                overdraft = &mut turn => {
                    self.overdraft = overdraft;
                    self.grow_anyway_to(bytes);
                    return;
                }
                () = released => {}
                () = tokio::time::sleep(RETRY_INTERVAL) => {}
            }
        }
    }

    /// Grows to `bytes`, if the shares allow it now; a response that may become large also waits for those
    /// that are being read.
    fn try_read_to(&mut self, bytes: u64, most: u64) -> bool {
        let before = self.bytes;
        if most > FIRST_PIECE_BYTES && self.awaited == 0 && bytes > self.bytes {
            let awaited = most.saturating_sub(self.bytes);
            if !self.memory.try_await(awaited) {
                return false;
            }
            self.awaited = awaited;
        }
        let has_grown = self.try_grow_to(bytes).is_ok();
        if has_grown {
            // Bytes that have arrived are not awaited any more.
            let grown = self.bytes.saturating_sub(before).min(self.awaited);
            self.end_awaiting(grown);
        }
        has_grown
    }

    fn end_awaiting(&mut self, bytes: u64) {
        self.awaited -= bytes;
        let awaited = &self.memory.awaited_bytes;
        awaited.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Shrinks to `bytes`, and ends an overdraft that is not needed any more.
    pub(crate) fn shrink_to(&mut self, bytes: u64) {
        self.end_awaiting(self.awaited);
        self.release(self.bytes.saturating_sub(bytes));
        // An overdraft blocks the other bodies of the tenant, so it ends as soon as the share covers this one.
        if self.overdraft.is_some() && (self.bytes == 0 || self.memory.has_room(0)) {
            self.overdraft = None;
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.end_awaiting(self.awaited);
        self.release(self.bytes);
    }
}

/// Waits for the permits of an overdraft, first among the bodies of the key, then among those of the tenant.
///
/// Always in the order key, tenant, pool: the same order everywhere, so no two bodies wait for each other.
async fn overdraft(memory: Arc<KeyMemory>) -> Option<Overdraft> {
    let (key, tenant) = (one_permit(&memory.turn), one_permit(&memory.tenant.turn));
    let key = key.acquire_owned().await.ok()?;
    let tenant = tenant.acquire_owned().await.ok()?;
    let pool = memory.tenant.pool.overdrafts.clone();
    let pool = pool.acquire_owned().await.ok()?;
    Some(Overdraft {
        _key: key,
        _tenant: tenant,
        _pool: pool,
    })
}

/// Counts a response that waits for memory.
struct Waiting<'a>(&'a BodyMemory);

impl<'a> Waiting<'a> {
    fn new(pool: &'a BodyMemory) -> Self {
        pool.waiting.fetch_add(1, Ordering::Relaxed);
        Self(pool)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory::TenantMemory;
    use super::*;

    const MIB: u64 = 1024 * 1024;
    const POOL: u64 = 64 * MIB;

    fn tenant(pool: &Arc<BodyMemory>) -> Arc<TenantMemory> {
        TenantMemory::new(pool, 1)
    }

    /// Reserves bodies of this size until one is rejected.
    fn fill(key: &Arc<KeyMemory>, body: u64) -> Vec<Reservation> {
        std::iter::from_fn(|| {
            let mut reservation = Reservation::new(key.clone());
            reservation.try_grow_to(body).ok().map(|()| reservation)
        })
        .collect()
    }

    #[test]
    fn greedy_key_leaves_memory_for_others() {
        let pool = BodyMemory::new(POOL);
        let (first, second) = (tenant(&pool), tenant(&pool));
        let keys = [
            KeyMemory::new(&first, 1),
            KeyMemory::new(&first, 1),
            KeyMemory::new(&second, 1),
        ];
        let held: Vec<_> = keys.iter().map(|key| fill(key, 16 * 1024)).collect();
        let used: Vec<u64> = keys.iter().map(|key| key.used_bytes()).collect();
        assert!((15 * MIB..=16 * MIB).contains(&used[0]), "{used:?}");
        assert!(used[1] >= 7 * MIB, "the same tenant's next key: {used:?}");
        assert!(used[2] >= 9 * MIB, "another tenant: {used:?}");
        drop(held);
        assert_eq!(pool.used_bytes(), 0);
    }

    #[test]
    fn large_bodies_leave_room_for_small_ones_of_key() {
        let pool = BodyMemory::new(POOL);
        let key = KeyMemory::new(&tenant(&pool), 1);
        let _large = fill(&key, MIB);
        assert!(!fill(&key, 4096).is_empty());
    }

    #[test]
    fn idle_bodies_reserve_no_more_than_arrived() {
        let pool = BodyMemory::new(POOL);
        let key = KeyMemory::new(&tenant(&pool), 1);
        let mut reservation = Reservation::new(key.clone());
        let step = reservation.step(250, MIB);
        reservation.try_grow_to(step).unwrap();
        assert_eq!(key.used_bytes(), STEP_MIN_BYTES);
        let step = reservation.step(5000, MIB);
        assert_eq!(step, 2 * STEP_MIN_BYTES);
        assert_eq!(reservation.step(100, 300), 300);
    }

    #[test]
    fn only_body_of_a_tenant_may_use_a_small_pool() {
        let pool = BodyMemory::new(MIB);
        let key = KeyMemory::new(&tenant(&pool), 1);
        let mut only = Reservation::new(key.clone());
        assert_eq!(only.try_grow_to(MIB), Ok(()));
        let mut second = Reservation::new(key);
        assert_eq!(second.try_grow_to(4096), Err(NoMemory::Share));
    }

    #[tokio::test]
    async fn half_read_responses_finish_one_after_the_other() {
        let pool = BodyMemory::new(4 * MIB);
        let key = KeyMemory::new(&tenant(&pool), 1);
        // Together they exceed the share at a fraction of their size: without an order none would finish.
        let mut bodies = tokio::task::JoinSet::new();
        for _ in 0..50 {
            let key = key.clone();
            bodies.spawn(async move {
                let mut reservation = Reservation::new(key);
                for bytes in (1..=64).map(|step| step * 16 * 1024) {
                    reservation.grow_to(bytes, MIB).await;
                    tokio::task::yield_now().await;
                }
            });
        }
        let all = async { while bodies.join_next().await.is_some() {} };
        tokio::time::timeout(Duration::from_secs(30), all)
            .await
            .expect("every response gets its memory");
        assert_eq!(pool.used_bytes(), 0);
    }

    #[tokio::test]
    async fn responses_are_finished_before_others_are_begun() {
        let pool = BodyMemory::new(POOL);
        let key = KeyMemory::new(&tenant(&pool), 1);
        let mut begun = Vec::new();
        for _ in 0..100 {
            let mut response = Reservation::new(key.clone());
            if response.try_read_to(32 * 1024, MIB) {
                begun.push(response);
            }
        }
        assert!((11..=12).contains(&begun.len()), "{}", begun.len());
        assert!(key.used_bytes() < MIB, "no more than arrived");
        // A small one does not wait for them.
        let mut small = Reservation::new(key.clone());
        assert!(small.try_read_to(4096, 4096));
        drop(small);
        for response in &mut begun {
            assert!(response.try_read_to(MIB, MIB));
            response.shrink_to(MIB);
        }
        drop(begun);
        assert_eq!((key.used_bytes(), pool.used_bytes()), (0, 0));
        assert_eq!(key.awaited_bytes.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn overdraft_is_one_body_of_each_tenant() {
        let pool = BodyMemory::new(MIB);
        let key = KeyMemory::new(&tenant(&pool), 1);
        let _held = fill(&key, 16 * 1024);
        let full = key.used_bytes();
        let mut first = Reservation::new(key.clone());
        first.grow_to(MIB, MIB).await;
        assert_eq!(key.used_bytes(), full + MIB);
        let mut second = Reservation::new(key.clone());
        let waiting =
            tokio::time::timeout(Duration::from_millis(300), second.grow_to(MIB, MIB)).await;
        assert!(waiting.is_err(), "a second body exceeded the share");
        drop(first);
        second.grow_to(MIB, MIB).await;
        assert_eq!(key.used_bytes(), full + MIB);
    }
}
