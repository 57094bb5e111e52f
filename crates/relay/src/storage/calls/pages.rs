//! Stored calls as their tenant sees them: pages of calls, one call with its attempts, redeliver and cancel.

use super::CallState;
use crate::storage::audit::{self, AuditEvent};
use crate::storage::rows::word;
use crate::storage::{Storage, StorageError};
use sqlx::Row as _;
use sqlx::any::AnyRow;

/// A call as its tenant sees it.
#[derive(Debug, Clone)]
pub struct CallSummary {
    /// Orders calls: rises with each call that is submitted.
    pub seq: i64,
    /// Its id.
    pub id: String,
    /// The client id of the key that submitted it.
    pub client_id: String,
    /// The caller's label.
    pub label: Option<String>,
    /// When it was submitted, in milliseconds since 1970.
    pub created_ms: i64,
    /// Its state.
    pub state: CallState,
    /// The request's method.
    pub method: String,
    /// The URL's host.
    pub host: String,
    /// The bridge that the caller named.
    pub bridge: Option<String>,
    /// Whether it may be repeated when its outcome cannot be determined.
    pub at_least_once: bool,
    /// Bytes of the request's body.
    pub bytes: i64,
    /// Attempts that were begun.
    pub attempts: i64,
    /// When the next attempt is due, if one is; in milliseconds since 1970.
    pub due_ms: Option<i64>,
    /// When it expires, if it waits and does not wait forever; in milliseconds since 1970.
    pub expires_ms: Option<i64>,
    /// When it reached a final state, in milliseconds since 1970.
    pub finished_ms: Option<i64>,
    /// The target's last status.
    pub status: Option<i64>,
    /// The code of the last failure.
    pub code: Option<String>,
    /// The execution state of the last attempt.
    pub execution: Option<String>,
    /// The last failure in plain text.
    pub detail: Option<String>,
    /// Whether its caller waits for the response. No such call is stored.
    pub is_waited_for: bool,
}

/// One attempt.
#[derive(Debug, Clone)]
pub struct CallAttemptRow {
    /// Its number, from 1.
    pub attempt: i64,
    /// When it began, in milliseconds since 1970.
    pub began_ms: i64,
    /// How long it took, in milliseconds.
    pub took_ms: i64,
    /// `bridge` or `direct`.
    pub route: String,
    /// The bridge's name.
    pub bridge: String,
    /// The target's status.
    pub status: Option<i64>,
    /// The failure's code.
    pub code: Option<String>,
    /// The execution state of the request.
    pub execution: String,
    /// The failure in plain text.
    pub detail: String,
}

/// Selects calls of a tenant.
#[derive(Debug, Clone, Default)]
pub struct CallFilter {
    /// Calls in this state.
    pub state: Option<CallState>,
    /// Calls to this host.
    pub host: Option<String>,
    /// Calls with this label.
    pub label: Option<String>,
    /// Calls submitted at this moment or later, in milliseconds since 1970.
    pub since_ms: Option<i64>,
    /// Calls submitted before this moment.
    pub until_ms: Option<i64>,
}

/// A page of calls. Two texts instead of `($8 = '' OR state = $8)`: each is then read from an index of its own, in
/// its order.
macro_rules! page {
    ($state:literal) => {
        concat!(
            "SELECT * FROM calls
             WHERE tenant_id = $1 AND seq < $2 AND ($3 = '' OR host = $3)
               AND created_ms >= $4 AND created_ms < $5 AND ($7 = '' OR label = $7)",
            $state,
            " ORDER BY seq DESC LIMIT $6"
        )
    };
}

pub(in crate::storage) const PAGE_OF_ALL: &str = page!("");

pub(in crate::storage) const PAGE_OF_STATE: &str = page!(" AND state = $8");

fn summary(row: &AnyRow) -> Result<CallSummary, StorageError> {
    let state: CallState = word(row, "state")?;
    let due_ms: i64 = row.try_get("due_ms")?;
    Ok(CallSummary {
        seq: row.try_get("seq")?,
        id: row.try_get("id")?,
        client_id: row.try_get("client_id")?,
        label: row.try_get("label")?,
        created_ms: row.try_get("created_ms")?,
        state,
        method: row.try_get("method")?,
        host: row.try_get("host")?,
        bridge: row.try_get("bridge")?,
        at_least_once: row.try_get::<i64, _>("at_least_once")? != 0,
        bytes: row.try_get("bytes")?,
        attempts: row.try_get("attempt")?,
        // The column keeps its last value in other states, where it means nothing.
        due_ms: (state == CallState::Pending).then_some(due_ms),
        expires_ms: match state.is_final() {
            true => None,
            false => row.try_get("expires_ms")?,
        },
        finished_ms: if state.is_final() {
            row.try_get("finished_ms")?
        } else {
            None
        },
        status: row.try_get("status")?,
        code: row.try_get("code")?,
        execution: row.try_get("execution")?,
        detail: row.try_get("detail")?,
        is_waited_for: false,
    })
}

/// Makes calls pending again at `$1`, with their whole schedule and time to live. The result of the last attempt is
/// that of an earlier schedule, and stays in the list of attempts only. A direct call that was found to be misrouted
/// (2) is tried directly again.
macro_rules! redeliver {
    () => {
        "UPDATE calls SET state = 'pending', step = 0, due_ms = $1, due_set_ms = $1, left_ms = 0,
                cancelled = 0, finished_ms = NULL, expires_ms = $1 + expires_in_ms,
                status = NULL, code = NULL, execution = NULL, detail = NULL,
                direct = CASE WHEN direct = 2 THEN 1 ELSE direct END"
    };
}

impl Storage {
    /// Returns a tenant's calls, newest first, those before `before` (a [`CallSummary::seq`]).
    ///
    /// # Errors
    /// [`StorageError`] when the database does not respond.
    pub async fn calls(
        &self,
        tenant: &str,
        filter: &CallFilter,
        before: i64,
        limit: u32,
    ) -> Result<Vec<CallSummary>, StorageError> {
        let text = match filter.state {
            Some(_) => PAGE_OF_STATE,
            None => PAGE_OF_ALL,
        };
        let mut query = sqlx::query(text)
            .bind(tenant)
            .bind(before)
            .bind(filter.host.clone().unwrap_or_default())
            .bind(filter.since_ms.unwrap_or(0))
            .bind(filter.until_ms.unwrap_or(i64::MAX))
            .bind(i64::from(limit))
            .bind(filter.label.clone().unwrap_or_default());
        if let Some(state) = filter.state {
            query = query.bind(state.as_str());
        }
        let rows = query.fetch_all(self.pool()).await?;
        rows.iter().map(summary).collect()
    }

    /// Returns a tenant's call.
    ///
    /// # Errors
    /// [`StorageError::NotFound`], also for a call of another tenant.
    pub async fn call(&self, tenant: &str, id: &str) -> Result<CallSummary, StorageError> {
        let row = sqlx::query("SELECT * FROM calls WHERE tenant_id = $1 AND id = $2")
            .bind(tenant)
            .bind(id)
            .fetch_optional(self.pool())
            .await?;
        summary(&row.ok_or_else(no_call)?)
    }

    /// Returns the latest thousand attempts of a tenant's call, oldest first.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not respond.
    pub async fn call_attempts(
        &self,
        tenant: &str,
        id: &str,
    ) -> Result<Vec<CallAttemptRow>, StorageError> {
        let rows = sqlx::query(
            "SELECT * FROM call_attempts WHERE call_id = $1 AND tenant_id = $2
             ORDER BY attempt DESC LIMIT 1000",
        )
        .bind(id)
        .bind(tenant)
        .fetch_all(self.pool())
        .await?;
        let attempts = rows.iter().rev().map(|row| {
            Ok(CallAttemptRow {
                attempt: row.try_get("attempt")?,
                began_ms: row.try_get("began_ms")?,
                took_ms: row.try_get("took_ms")?,
                route: row.try_get("route")?,
                bridge: row.try_get("bridge")?,
                status: row.try_get("status")?,
                code: row.try_get("code")?,
                execution: row.try_get("execution")?,
                detail: row.try_get("detail")?,
            })
        });
        attempts.collect()
    }

    /// Makes up to `limit` final calls of a tenant pending again, from the first step of the schedule, oldest
    /// first. Returns their number.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not respond.
    pub async fn redeliver_calls(
        &self,
        tenant: &str,
        filter: &CallFilter,
        now_ms: i64,
        limit: u32,
    ) -> Result<u64, StorageError> {
        let mut tx = self.begin().await?;
        // Calls that succeeded are redelivered only one by one, on purpose. The expected states stand outside of
        // the inner SELECT, too: PostgreSQL evaluates only that part again for a row that it had to wait for.
        let changed = sqlx::query(concat!(
            redeliver!(),
            " WHERE seq IN (SELECT seq FROM calls
                            WHERE tenant_id = $2 AND ($3 = '' OR state = $3)
                              AND state IN ('failed', 'refused', 'outcome_unknown', 'cancelled',
                                            'expired')
                              AND ($4 = '' OR host = $4) AND created_ms >= $5 AND created_ms < $6
                            ORDER BY seq LIMIT $7)
                AND ($3 = '' OR state = $3)
                AND state IN ('failed', 'refused', 'outcome_unknown', 'cancelled', 'expired')",
        ))
        .bind(now_ms)
        .bind(tenant)
        .bind(filter.state.map_or("", CallState::as_str))
        .bind(filter.host.clone().unwrap_or_default())
        .bind(filter.since_ms.unwrap_or(0))
        .bind(filter.until_ms.unwrap_or(i64::MAX))
        .bind(i64::from(limit))
        .execute(&mut *tx)
        .await?;
        let count = changed.rows_affected();
        if count > 0 {
            let act = event(tenant, "call.redeliver", "", count);
            audit::add(&mut tx, &self.actor, &act).await?;
        }
        tx.commit().await?;
        self.mark_changed();
        Ok(count)
    }

    /// Makes a final call pending again. Returns false when it is not final.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not respond.
    pub async fn redeliver_call(
        &self,
        tenant: &str,
        id: &str,
        now_ms: i64,
    ) -> Result<bool, StorageError> {
        let mut tx = self.begin().await?;
        let changed = sqlx::query(concat!(
            redeliver!(),
            " WHERE tenant_id = $2 AND id = $3
                AND state IN ('succeeded', 'failed', 'refused', 'outcome_unknown', 'cancelled',
                              'expired')",
        ))
        .bind(now_ms)
        .bind(tenant)
        .bind(id)
        .execute(&mut *tx)
        .await?;
        let is_changed = changed.rows_affected() > 0;
        if is_changed {
            let act = event(tenant, "call.redeliver", id, 1);
            audit::add(&mut tx, &self.actor, &act).await?;
        }
        tx.commit().await?;
        self.mark_changed();
        Ok(is_changed)
    }

    /// Cancels calls of a tenant that are not final: one by its id, or up to `limit` that match. A call whose
    /// attempt is in progress gets no further attempt. Returns the number of calls that ended, and of those that
    /// will end with their attempt.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not respond.
    pub async fn cancel_calls(
        &self,
        tenant: &str,
        id: Option<&str>,
        filter: &CallFilter,
        now_ms: i64,
        limit: u32,
    ) -> Result<(u64, u64), StorageError> {
        let mut tx = self.begin().await?;
        // One statement for waiting calls and for calls with an attempt: a call that changes from one to the other
        // meanwhile is cancelled either way. PostgreSQL evaluates everything outside of the inner SELECT again
        // for a row that it had to wait for.
        let rows = sqlx::query(
            "UPDATE calls SET cancelled = 1,
                    state = CASE WHEN state = 'attempting' THEN state ELSE 'cancelled' END,
                    finished_ms = CASE WHEN state = 'attempting' THEN finished_ms ELSE $1 END,
                    code = CASE WHEN state = 'attempting' THEN code ELSE 'cancelled' END,
                    detail = CASE WHEN state = 'attempting' THEN detail ELSE 'it was cancelled' END
             WHERE seq IN (SELECT seq FROM calls
                           WHERE tenant_id = $2
                             AND state IN ('pending', 'waiting_for_bridge', 'attempting')
                             AND (state <> 'attempting' OR cancelled = 0)
                             AND ($3 = '' OR id = $3) AND ($4 = '' OR state = $4)
                             AND ($5 = '' OR host = $5) AND created_ms >= $6 AND created_ms < $7
                           ORDER BY seq LIMIT $8)
               AND state IN ('pending', 'waiting_for_bridge', 'attempting')
               AND (state <> 'attempting' OR cancelled = 0) AND ($4 = '' OR state = $4)
             RETURNING state",
        )
        .bind(now_ms)
        .bind(tenant)
        .bind(id.unwrap_or_default())
        .bind(filter.state.map_or("", CallState::as_str))
        .bind(filter.host.clone().unwrap_or_default())
        .bind(filter.since_ms.unwrap_or(0))
        .bind(filter.until_ms.unwrap_or(i64::MAX))
        .bind(i64::from(limit))
        .fetch_all(&mut *tx)
        .await?;
        let (mut ended, mut ending) = (0, 0);
        for row in &rows {
            match word::<CallState>(row, "state")? {
                CallState::Attempting => ending += 1,
                _ => ended += 1,
            }
        }
        if !rows.is_empty() {
            let act = event(
                tenant,
                "call.cancel",
                id.unwrap_or_default(),
                ended + ending,
            );
            audit::add(&mut tx, &self.actor, &act).await?;
        }
        tx.commit().await?;
        self.mark_changed();
        Ok((ended, ending))
    }
}

/// Returns the audit event of a change, which is stored in the same transaction.
fn event(tenant: &str, action: &'static str, object: &str, count: u64) -> AuditEvent {
    AuditEvent {
        count,
        ..AuditEvent::done(tenant, action, object)
    }
}

pub(crate) fn no_call() -> StorageError {
    StorageError::NotFound("no call has this id".into())
}
