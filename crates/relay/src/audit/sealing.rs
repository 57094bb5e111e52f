//! Seals the audit record, and deletes old rows.
//!
//! Once a minute the new rows get a seal (`storage::audit::seals`). Before rows are deleted by age, a seal says so.

use crate::storage::{Storage, now_ms};
use runtime::sealed::SealingKey;
use std::collections::VecDeque;
use std::time::Duration;
use store::Backend;
use tokio::time::Instant;

/// How often new rows are sealed.
const INTERVAL: Duration = Duration::from_secs(60);

/// The first time is earlier, so that a new record is soon under a seal.
const FIRST_AFTER: Duration = Duration::from_secs(5);

/// How often old rows are deleted.
const DELETE_INTERVAL: Duration = Duration::from_secs(600);

/// Rows that are deleted in one transaction.
const DELETED_PER_TRANSACTION: u32 = 500;

/// PostgreSQL numbers rows before their transactions commit. A row is sealed when no transaction with a lower number can be
/// open: none lasts longer.
const SETTLE: Duration = Duration::from_secs(180);

/// Numbers that wait for [`SETTLE`].
const OBSERVED_MAX: usize = 16;

/// Seals rows, and deletes those older than `keep`, until the relay stops. A relay in standby does neither: the database
/// rejects its changes.
pub(crate) async fn run(storage: Storage, key: SealingKey, keep: Duration) {
    let settle = match storage.backend() == Backend::Sqlite {
        // One transaction writes at a time: rows are visible in the order of their numbers.
        true => Duration::ZERO,
        false => SETTLE,
    };
    let mut observed: VecDeque<(Instant, i64)> = VecDeque::new();
    let mut sealed_upto = 0;
    let mut deleted_at = Instant::now();
    let mut wait = FIRST_AFTER;
    loop {
        tokio::time::sleep(wait).await;
        wait = INTERVAL;
        let Ok(last) = storage.last_audit_row().await else {
            continue;
        };
        observed.push_back((Instant::now(), last));
        observed.truncate(OBSERVED_MAX);
        while let Some((at, upto)) = observed.front().copied()
            && at.elapsed() >= settle
        {
            sealed_upto = upto.max(sealed_upto);
            observed.pop_front();
        }
        seal(&storage, &key, sealed_upto, 0).await;
        if deleted_at.elapsed() >= DELETE_INTERVAL {
            deleted_at = Instant::now();
            delete(&storage, &key, sealed_upto, keep).await;
        }
    }
}

/// Returns whether all was sealed.
async fn seal(storage: &Storage, key: &SealingKey, upto: i64, forgotten_ms: i64) -> bool {
    loop {
        match storage.seal_audit(key, upto, forgotten_ms).await {
            Ok(true) => {}
            Ok(false) => return true,
            Err(error) => {
                // The next round tries again. In standby this is the normal case.
                tracing::debug!(%error, "cannot seal the audit record");
                return false;
            }
        }
    }
}

async fn delete(storage: &Storage, key: &SealingKey, upto: i64, keep: Duration) {
    let kept_ms = i64::try_from(keep.as_millis()).unwrap_or(i64::MAX);
    let before = now_ms().saturating_sub(kept_ms);
    if !matches!(storage.has_audit_before(before).await, Ok(true)) {
        return;
    }
    // First the seal: rows that are gone without it would count as removed by hand.
    if !seal(storage, key, upto, before).await {
        return;
    }
    while matches!(storage.forget_audit(before, DELETED_PER_TRANSACTION).await, Ok(gone) if gone > 0)
    {
    }
}
