//! Makes changes conditional on a lease: a process that lost the lease cannot write any more.

use crate::engine::{StoreError, Transaction};
use sqlx::Row as _;
use std::sync::atomic::{AtomicI64, Ordering};

/// Makes changes conditional on a lease: a process may change something only under the lease's current epoch.
#[derive(Debug)]
pub(crate) struct Fence {
    lease: &'static str,
    /// The epoch that this process holds; zero for none.
    epoch: AtomicI64,
}

impl Fence {
    pub(crate) fn new(lease: &'static str) -> Self {
        Self {
            lease,
            epoch: AtomicI64::new(0),
        }
    }

    /// Sets the epoch under which changes are made from now on; zero for none.
    pub(crate) fn hold(&self, epoch: i64) {
        // Pairs with the load in `held`: a task that sees the new epoch also sees the state that it came with.
        self.epoch.store(epoch, Ordering::Release);
    }

    /// Returns the epoch under which changes are made; zero for none.
    pub(crate) fn held(&self) -> i64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Checks that this process holds the lease, which then cannot change until the transaction ends.
    pub(crate) async fn check(&self, tx: &mut Transaction) -> Result<(), StoreError> {
        let text = tx.backend().lease_check();
        let row = sqlx::query(text)
            .bind(self.lease)
            .fetch_one(&mut **tx)
            .await?;
        let current: i64 = row.try_get("epoch")?;
        // Loaded after the row is locked: a process that stepped down meanwhile must not pass with the epoch
        // that it held before.
        if current == self.held() {
            Ok(())
        } else {
            Err(StoreError::LeaseLost)
        }
    }
}
