//! What the delivery engine reads of stored calls, and its changes of many calls at once.

use super::{CallState, DirectClass, StoredCall, Via, class, number, stored};
use crate::storage::rows::word;
use crate::storage::{Storage, StorageError};
use sqlx::Row as _;
use std::sync::Arc;

/// A retry time that was computed this much later than now, in milliseconds, is from a clock that has stepped
/// back. The clocks of two hosts may differ by less.
const CLOCK_SLACK_MS: i64 = 2_000;

/// The columns of [`StoredCall`].
macro_rules! stored_columns {
    ($rest:literal) => {
        concat!(
            "SELECT id, tenant_id, label, method, host, bridge, bytes, at_least_once, attempt, step, \
                    cancelled, direct, direct_mark FROM calls ",
            $rest
        )
    };
}

/// The next due calls of a tenant.
pub(in crate::storage) const DUE: &str = stored_columns!(
    "WHERE tenant_id = $1 AND state = 'pending' AND due_ms <= $2
       AND (expires_ms IS NULL OR expires_ms > $2)
     ORDER BY due_ms, seq LIMIT $3"
);

/// Moves up to `$5` calls of a group (`$2`, `$3`, `$4`, `$6`, `$7`) from one state to another at `$1`.
///
/// The state is compared outside of the inner SELECT, too: PostgreSQL evaluates only that part again for a row
/// that it had to wait for.
macro_rules! move_group {
    // The states are literals in the text and not parameters: otherwise no partial index applies.
    ($from:literal, $changes:literal) => {
        concat!(
            "UPDATE calls SET ",
            $changes,
            " WHERE seq IN (SELECT seq FROM calls
                            WHERE tenant_id = $2 AND state = '",
            $from,
            "' AND host = $3 AND bridge IS NOT DISTINCT FROM $4
                              AND CASE WHEN direct = 1 THEN 1 ELSE 0 END = $6
                              AND direct_mark = $7
                            ORDER BY seq LIMIT $5)
                AND state = '",
            $from,
            "'"
        )
    };
}

/// The rest of a call's time is stored with it. A due time from a clock that has stepped back counts from when it
/// was computed.
const PARK: &str = move_group!(
    "pending",
    "state = 'waiting_for_bridge',
     left_ms = CASE WHEN due_set_ms > $1 THEN due_ms - due_set_ms
                    WHEN due_ms > $1 THEN due_ms - $1 ELSE 0 END"
);

const UNPARK: &str = move_group!(
    "waiting_for_bridge",
    "state = 'pending', due_ms = $1 + left_ms, due_set_ms = $1, left_ms = 0"
);

/// Calls of one tenant that have the same route: the same host, the same named bridge and the same class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// The URL's host.
    pub host: String,
    /// The bridge that the caller named.
    pub bridge: Option<String>,
    /// Whether the relay may call their URLs directly.
    pub class: DirectClass,
}

/// A call that has expired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpiredCall {
    /// Its id.
    pub id: String,
    /// Its tenant's id.
    pub tenant: Arc<str>,
    /// Attempts that were begun.
    pub attempts: u32,
    /// The execution state of the last attempt.
    pub execution: String,
}

/// Calls of one tenant in one state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queued {
    /// The tenant's id.
    pub tenant: Arc<str>,
    /// Their state.
    pub state: CallState,
    /// Their number.
    pub calls: u64,
    /// When the oldest was submitted, in milliseconds since 1970.
    pub oldest_ms: i64,
}

impl Storage {
    /// Returns due calls of a tenant, in the order in which they are due, then oldest first.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not respond.
    pub async fn due_calls(
        &self,
        tenant: &str,
        now_ms: i64,
        limit: u32,
    ) -> Result<Vec<StoredCall>, StorageError> {
        let rows = sqlx::query(DUE)
            .bind(tenant)
            .bind(now_ms)
            .bind(i64::from(limit))
            .fetch_all(self.pool())
            .await?;
        rows.iter().map(stored).collect()
    }

    /// Returns when the next pending call of each tenant is due, in milliseconds since 1970.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not respond.
    pub async fn next_due(&self) -> Result<Vec<(Arc<str>, i64)>, StorageError> {
        let rows = sqlx::query(
            "SELECT tenant_id, MIN(due_ms) AS due_ms FROM calls WHERE state = 'pending'
             GROUP BY tenant_id",
        )
        .fetch_all(self.pool())
        .await?;
        rows.iter()
            .map(|row| {
                let tenant: String = row.try_get("tenant_id")?;
                Ok((tenant.into(), row.try_get("due_ms")?))
            })
            .collect()
    }

    /// Returns when the next pending call of one tenant is due.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not respond.
    pub async fn next_due_of(&self, tenant: &str) -> Result<Option<i64>, StorageError> {
        let row = sqlx::query(
            "SELECT due_ms FROM calls WHERE tenant_id = $1 AND state = 'pending'
             ORDER BY due_ms, seq LIMIT 1",
        )
        .bind(tenant)
        .fetch_optional(self.pool())
        .await?;
        Ok(row.map(|row| row.try_get("due_ms")).transpose()?)
    }

    /// Returns the calls whose attempts went to an installation and have no outcome.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not respond.
    pub async fn calls_in_flight(&self, via: &Via) -> Result<Vec<StoredCall>, StorageError> {
        let rows = sqlx::query(stored_columns!(
            "WHERE via_bridge = $1 AND via_instance = $2 AND state = 'attempting' ORDER BY seq"
        ))
        .bind(&*via.bridge)
        .bind(via.instance.clone())
        .fetch_all(self.pool())
        .await?;
        rows.iter().map(stored).collect()
    }

    /// Returns the installations, with their tenants, that have attempts without an outcome.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not respond.
    pub async fn instances_in_flight(&self) -> Result<Vec<(Arc<str>, Via)>, StorageError> {
        let rows = sqlx::query(
            "SELECT DISTINCT tenant_id, via_bridge, via_instance FROM calls
             WHERE state = 'attempting'",
        )
        .fetch_all(self.pool())
        .await?;
        rows.iter()
            .map(|row| {
                let via = Via {
                    bridge: row.try_get::<String, _>("via_bridge")?.into(),
                    instance: row.try_get("via_instance")?,
                };
                Ok((row.try_get::<String, _>("tenant_id")?.into(), via))
            })
            .collect()
    }

    /// Returns a call of any tenant.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not respond.
    pub async fn stored_call(&self, id: &str) -> Result<Option<StoredCall>, StorageError> {
        let row = sqlx::query(stored_columns!("WHERE id = $1"))
            .bind(id)
            .fetch_optional(self.pool())
            .await?;
        row.as_ref().map(stored).transpose()
    }

    /// Returns whether a call has this attempt open at this installation.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not respond.
    pub async fn is_attempting(
        &self,
        id: &str,
        attempt: u32,
        via: &Via,
    ) -> Result<bool, StorageError> {
        let row = sqlx::query(
            "SELECT id FROM calls WHERE id = $1 AND state = 'attempting' AND attempt = $2
               AND via_bridge = $3 AND via_instance = $4",
        )
        .bind(id)
        .bind(i64::from(attempt))
        .bind(&*via.bridge)
        .bind(via.instance.clone())
        .fetch_optional(self.pool())
        .await?;
        Ok(row.is_some())
    }

    /// Returns the sealed request of a call.
    ///
    /// # Errors
    /// [`StorageError::NotFound`] when the call was deleted.
    pub async fn sealed_request(&self, id: &str) -> Result<Vec<u8>, StorageError> {
        let row = sqlx::query("SELECT sealed FROM calls WHERE id = $1")
            .bind(id)
            .fetch_optional(self.pool())
            .await?;
        let row = row.ok_or_else(|| StorageError::NotFound("the call was deleted".into()))?;
        Ok(row.try_get("sealed")?)
    }

    /// Returns the groups of a tenant's calls in one of the two waiting states.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not respond.
    pub async fn call_groups(
        &self,
        tenant: &str,
        state: CallState,
    ) -> Result<Vec<Group>, StorageError> {
        let rows = sqlx::query(
            "SELECT DISTINCT host, bridge, direct, direct_mark FROM calls
             WHERE tenant_id = $1 AND state = $2",
        )
        .bind(tenant)
        .bind(state.as_str())
        .fetch_all(self.pool())
        .await?;
        rows.iter()
            .map(|row| {
                Ok(Group {
                    host: row.try_get("host")?,
                    bridge: row.try_get("bridge")?,
                    class: class(row)?,
                })
            })
            .collect()
    }

    /// Returns up to `limit` waiting calls of a tenant whose class was decided by other patterns than those with
    /// this mark.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not respond.
    pub async fn calls_of_other_patterns(
        &self,
        tenant: &str,
        mark: i64,
        limit: u32,
    ) -> Result<Vec<StoredCall>, StorageError> {
        let rows = sqlx::query(stored_columns!(
            "WHERE tenant_id = $1 AND state IN ('pending', 'waiting_for_bridge')
               AND direct_mark <> $2 LIMIT $3"
        ))
        .bind(tenant)
        .bind(mark)
        .bind(i64::from(limit))
        .fetch_all(self.pool())
        .await?;
        rows.iter().map(stored).collect()
    }

    /// Stores the classes of waiting calls.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not respond.
    pub async fn classify_calls(
        &self,
        classes: &[(Arc<str>, DirectClass)],
    ) -> Result<(), StorageError> {
        let mut tx = self.begin().await?;
        // A call whose attempt has begun meanwhile keeps the class by which that attempt was routed.
        for (id, class) in classes {
            sqlx::query(
                "UPDATE calls SET direct = $1, direct_mark = $2
                 WHERE id = $3 AND state IN ('pending', 'waiting_for_bridge')",
            )
            .bind(i64::from(class.is_direct))
            .bind(class.mark)
            .bind(&**id)
            .execute(&mut *tx)
            .await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// Makes up to `limit` calls of a group pending whose route is available again. Each is due after the rest of
    /// its time. Returns their number.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not respond.
    pub async fn unpark(
        &self,
        tenant: &str,
        group: &Group,
        now_ms: i64,
        limit: u32,
    ) -> Result<u64, StorageError> {
        self.move_group(UNPARK, tenant, group, now_ms, limit).await
    }

    /// Makes up to `limit` pending calls of a group wait whose route is unavailable; their retry schedule is
    /// suspended. Returns their number.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not respond.
    pub async fn park(
        &self,
        tenant: &str,
        group: &Group,
        now_ms: i64,
        limit: u32,
    ) -> Result<u64, StorageError> {
        self.move_group(PARK, tenant, group, now_ms, limit).await
    }

    async fn move_group(
        &self,
        text: &'static str,
        tenant: &str,
        group: &Group,
        now_ms: i64,
        limit: u32,
    ) -> Result<u64, StorageError> {
        let mut tx = self.begin().await?;
        let moved = sqlx::query(text)
            .bind(now_ms)
            .bind(tenant)
            .bind(&group.host)
            .bind(group.bridge.clone())
            .bind(i64::from(limit))
            .bind(i64::from(group.class.is_direct))
            .bind(group.class.mark)
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(moved.rows_affected())
    }

    /// Corrects retry times from a clock that has stepped back since: each such call waits as long from now as it
    /// was to wait then. Returns their number.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not respond.
    pub async fn correct_due_times(&self, now_ms: i64) -> Result<u64, StorageError> {
        let mut tx = self.begin().await?;
        // The difference of the two times is right even if both are wrong: one clock made both.
        let changed = sqlx::query(
            "UPDATE calls SET due_ms = $1 + (due_ms - due_set_ms), due_set_ms = $1
             WHERE state = 'pending' AND due_set_ms > $2",
        )
        .bind(now_ms)
        .bind(now_ms.saturating_add(CLOCK_SLACK_MS))
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(changed.rows_affected())
    }

    /// Ends up to `limit` waiting calls that have expired, and returns them.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not respond.
    pub async fn expire_calls(
        &self,
        now_ms: i64,
        limit: u32,
    ) -> Result<Vec<ExpiredCall>, StorageError> {
        // A read first: this runs all the time, and mostly finds nothing. A transaction that writes would take
        // SQLite's only write lock each time.
        let any = sqlx::query(
            "SELECT seq FROM calls WHERE expires_ms <= $1
               AND state IN ('pending', 'waiting_for_bridge') ORDER BY expires_ms LIMIT 1",
        );
        let any = any.bind(now_ms).fetch_optional(self.pool()).await?;
        if any.is_none() {
            return Ok(Vec::new());
        }
        let mut tx = self.begin().await?;
        let rows = sqlx::query(
            "UPDATE calls SET state = 'expired', finished_ms = $1, code = 'timeout',
                    execution = COALESCE(execution, 'not_sent'),
                    detail = 'it expired before a target accepted it'
             WHERE seq IN (SELECT seq FROM calls WHERE expires_ms <= $1
                             AND state IN ('pending', 'waiting_for_bridge')
                           ORDER BY expires_ms LIMIT $2)
               AND expires_ms <= $1 AND state IN ('pending', 'waiting_for_bridge')
             RETURNING id, tenant_id, attempt, execution",
        )
        .bind(now_ms)
        .bind(i64::from(limit))
        .fetch_all(&mut *tx)
        .await?;
        tx.commit().await?;
        self.mark_changed();
        let expired = rows.iter().map(|row| {
            Ok(ExpiredCall {
                id: row.try_get("id")?,
                tenant: row.try_get::<String, _>("tenant_id")?.into(),
                attempts: number(row, "attempt")?,
                execution: row.try_get("execution")?,
            })
        });
        expired.collect()
    }

    /// Returns the number of each tenant's calls in each state that is not final, and when the oldest was submitted.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not respond.
    pub async fn queued_calls(&self) -> Result<Vec<Queued>, StorageError> {
        let rows = sqlx::query(
            "SELECT tenant_id, state, COUNT(*) AS calls, MIN(created_ms) AS oldest_ms FROM calls
             WHERE state IN ('pending', 'waiting_for_bridge', 'attempting')
             GROUP BY tenant_id, state",
        )
        .fetch_all(self.pool())
        .await?;
        rows.iter()
            .map(|row| {
                let calls: i64 = row.try_get("calls")?;
                Ok(Queued {
                    tenant: row.try_get::<String, _>("tenant_id")?.into(),
                    state: word(row, "state")?,
                    calls: u64::try_from(calls).unwrap_or(0),
                    oldest_ms: row.try_get("oldest_ms")?,
                })
            })
            .collect()
    }

    /// Deletes up to `limit` calls that finished before a moment, with their attempts. Returns their number.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not respond.
    pub async fn forget_calls(&self, before_ms: i64, limit: u32) -> Result<u64, StorageError> {
        let mut tx = self.begin().await?;
        // The conditions stand outside of the inner SELECT, too: a call that was redelivered meanwhile stays.
        let rows = sqlx::query(
            "DELETE FROM calls WHERE seq IN (
                 SELECT seq FROM calls WHERE finished_ms IS NOT NULL AND finished_ms < $1
                 ORDER BY finished_ms LIMIT $2)
               AND finished_ms < $1 AND state IN ('succeeded', 'failed', 'refused',
                                                  'outcome_unknown', 'cancelled', 'expired')
             RETURNING id",
        )
        .bind(before_ms)
        .bind(i64::from(limit))
        .fetch_all(&mut *tx)
        .await?;
        // In the same transaction: attempts without their call would never be found again.
        for row in &rows {
            sqlx::query("DELETE FROM call_attempts WHERE call_id = $1")
                .bind(row.try_get::<String, _>("id")?)
                .execute(&mut *tx)
                .await?;
        }
        tx.commit().await?;
        Ok(rows.len() as u64)
    }
}
