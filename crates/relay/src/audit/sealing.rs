//! Seals the audit record, and deletes old rows.
//!
//! Once a minute the new rows get a seal (`storage::audit::seals`). Before rows are deleted by age, a seal says so.

use crate::storage::{Storage, trusted_now_ms};
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
    let mut is_key_checked = false;
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
        if !is_key_checked {
            // Before the first seal of this process. In standby it fails, and is tried again.
            is_key_checked = check_key(&storage, &key).await;
            if !is_key_checked {
                continue;
            }
        }
        seal(&storage, &key, sealed_upto).await;
        if deleted_at.elapsed() >= DELETE_INTERVAL {
            deleted_at = Instant::now();
            delete(&storage, &key, keep).await;
        }
    }
}

/// Begins a new chain of seals if another key file signed the newest seal. Returns whether this is decided.
async fn check_key(storage: &Storage, key: &SealingKey) -> bool {
    match storage.begin_seal_chain(key, trusted_now_ms()).await {
        Ok(None) => true,
        Ok(Some(changed)) => {
            tracing::warn!(
                before = changed.before,
                now = changed.now,
                row = changed.after_row,
                "another key file signed the seals of the audit record up to this row; new seals are signed with the \
                 present one (storage.key_file). `integration-relay audit verify` cannot check the older seals: if \
                 the key file was not replaced on purpose, restore it"
            );
            true
        }
        Err(error) => {
            tracing::debug!(%error, "cannot read or write the seals of the audit record");
            false
        }
    }
}

/// Seals all rows up to `upto`.
async fn seal(storage: &Storage, key: &SealingKey, upto: i64) {
    loop {
        match storage.seal_audit(key, upto, trusted_now_ms()).await {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => {
                // The next round tries again. In standby this is the normal case.
                tracing::debug!(%error, "cannot seal the audit record");
                return;
            }
        }
    }
}

async fn delete(storage: &Storage, key: &SealingKey, keep: Duration) {
    let kept_ms = i64::try_from(keep.as_millis()).unwrap_or(i64::MAX);
    let now_ms = trusted_now_ms();
    let before_ms = now_ms.saturating_sub(kept_ms);
    // First the seal: rows that are gone without it would count as removed by hand.
    let Ok(Some(rows)) = storage.forget_seals(key, before_ms, now_ms).await else {
        return;
    };
    loop {
        match storage.forget_audit(&rows, DELETED_PER_TRANSACTION).await {
            Ok(0) => break,
            Ok(_) => {}
            // The next time it continues.
            Err(_) => return,
        }
    }
    // Last: while a row is there, its seal says that it is no added one.
    if let Err(error) = storage.forget_expired_seals().await {
        tracing::debug!(%error, "cannot delete the seals of deleted rows");
    }
}
