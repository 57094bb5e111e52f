//! Stored calls: what one transaction does to them.
//!
//! Everything that changes a delivery's state goes through [`batch`](super::batch), which groups
//! what comes together into one commit; a state is only left from where it is expected, so that
//! what comes late, or twice, or from somebody who lost the lease, changes nothing.

use super::db::Backend;
use super::idempotency::{self, Begun};
use super::pool::Tx;
use super::rows::{corrupt, word};
use super::{Storage, StorageError};
use crate::deliveries::state::CallState;
use crate::routing::DirectClass;
use protocol::frame::JournalMark;
use protocol::{Code, Execution};
use sqlx::Row;
use sqlx::any::AnyRow;
use std::sync::Arc;

/// A retry time that was computed this much later than now, in milliseconds, is of a clock that has
/// stepped back. Clocks of two machines may differ by less.
const CLOCK_SLACK_MS: i64 = 2_000;

/// A call that is to be stored.
#[derive(Debug)]
pub struct NewCall {
    /// Its id, as callers see it.
    pub id: String,
    /// Whose it is.
    pub tenant: Arc<str>,
    /// Who handed it over.
    pub client_id: String,
    /// When, in milliseconds since 1970.
    pub created_ms: i64,
    /// The request's method.
    pub method: String,
    /// The URL's host.
    pub host: String,
    /// The bridge that it shall go through, if one was named.
    pub bridge: Option<String>,
    /// Whether it may be made again when nobody can say what became of it.
    pub at_least_once: bool,
    /// The caller's key for repeats.
    pub idempotency_key: Option<String>,
    /// Hash of the request.
    pub digest: Vec<u8>,
    /// The request, sealed.
    pub sealed: Vec<u8>,
    /// Bytes of the request's body.
    pub bytes: i64,
    /// How long it may wait before it expires.
    pub expires_in: ExpiresIn,
    /// Whether it may go direct.
    pub class: DirectClass,
}

/// After how long a call expires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExpiresIn {
    /// As the call itself says, in milliseconds; zero: never.
    Own(i64),
    /// As its tenant says; where that says nothing, after so many milliseconds; zero: never.
    Default(i64),
}

/// What became of a call that was to be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Accepted {
    /// It is on disk.
    Stored,
    /// One with the same idempotency key is: its id, state, and whether it is the same request.
    Known {
        /// Its id.
        id: String,
        /// Where it stands.
        state: CallState,
        /// Whether its request is the same.
        is_same: bool,
    },
    /// A waiting call has the same idempotency key.
    KeyInUse,
    /// Its tenant is gone.
    NoTenant,
}

/// What an attempt needs to know of a call.
#[derive(Debug, Clone)]
pub struct StoredCall {
    /// Its id.
    pub id: Arc<str>,
    /// Whose it is.
    pub tenant: Arc<str>,
    /// The request's method.
    pub method: String,
    /// The URL's host.
    pub host: String,
    /// The bridge that was asked for.
    pub bridge: Option<String>,
    /// Whether it may be made again when nobody can say what became of it.
    pub at_least_once: bool,
    /// Attempts that were begun.
    pub attempt: u32,
    /// Steps of the schedule that were used up.
    pub step: u32,
    /// It is to be taken back.
    pub is_cancelled: bool,
    /// Whether it may go direct.
    pub class: DirectClass,
}

/// Where an attempt went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Via {
    /// The bridge's id; empty for a direct one.
    pub bridge: Arc<str>,
    /// The installation; for a direct one its tenant.
    pub instance: Vec<u8>,
}

/// The end of an attempt, and what follows.
#[derive(Debug, Clone)]
pub struct Settlement {
    /// The call.
    pub id: Arc<str>,
    /// Whose it is.
    pub tenant: Arc<str>,
    /// The attempt.
    pub attempt: u32,
    /// Where it went: only that installation's word counts.
    pub via: Via,
    /// The bridge's name, for people; empty for a direct one.
    pub bridge_name: String,
    /// What follows.
    pub state: CallState,
    /// When, if it is pending again.
    pub due_ms: i64,
    /// When that was computed, by the same clock.
    pub now_ms: i64,
    /// Steps of the schedule that are used up then.
    pub step: u32,
    /// When the attempt began and how long it took.
    pub began_ms: i64,
    /// In milliseconds.
    pub took_ms: i64,
    /// The target's status.
    pub status: Option<u16>,
    /// The failure's code.
    pub code: Option<Code>,
    /// How far it came.
    pub execution: Execution,
    /// In words.
    pub detail: String,
    /// What the installation's journal must have reached by what was seen.
    pub journal_reached: Option<JournalMark>,
    /// The relay cannot make this call itself after all, by the patterns that the tenant has now.
    pub is_misrouted: bool,
}

/// One change of a stored call.
#[derive(Debug)]
pub enum Write {
    /// Stores a call.
    Accept(Box<NewCall>),
    /// An attempt is about to leave. Made twice, it changes nothing the second time and says that it is
    /// done: after a commit whose answer was lost it can be repeated.
    Begin {
        /// The call.
        id: Arc<str>,
        /// The attempt, one more than were begun.
        attempt: u32,
        /// Where it goes.
        via: Via,
        /// A call that has expired by now does not leave.
        now_ms: i64,
    },
    /// An attempt is over.
    Settle(Box<Settlement>),
    /// A pending one waits for a bridge, with so much of its time left.
    Park {
        /// The call.
        id: Arc<str>,
        /// In milliseconds.
        left_ms: i64,
    },
    /// A pending one ends without an attempt.
    Drop {
        /// The call.
        id: Arc<str>,
        /// The final state.
        state: CallState,
        /// Why.
        code: Code,
        /// In words.
        detail: String,
        /// When.
        now_ms: i64,
    },
    /// A request with an idempotency key is about to be made.
    BeginKeyed(Box<idempotency::Begin>),
    /// Such a request is over.
    FinishKeyed(Box<idempotency::Finish>),
}

/// What a change did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Written {
    /// A call was to be stored.
    Accepted(Accepted),
    /// The change was made, or came too late.
    Changed(bool),
    /// An attempt was settled: where the call stands now; `None` if that was known before.
    Settled(Option<CallState>),
    /// A request with an idempotency key was to begin.
    Keyed(Begun),
}

impl Write {
    /// Whether only the holder of the lease may do it.
    pub(super) fn needs_lease(&self) -> bool {
        match self {
            Self::Accept(_)
            | Self::Begin { .. }
            | Self::Settle(_)
            | Self::Park { .. }
            | Self::Drop { .. }
            | Self::BeginKeyed(_) => true,
            // The request was made, also if another process serves now; the row's token is its fence.
            Self::FinishKeyed(_) => false,
        }
    }

    pub(super) async fn apply(&self, tx: &mut Tx) -> Result<Written, StorageError> {
        match self {
            Self::Accept(call) => accept(tx, call).await.map(Written::Accepted),
            Self::BeginKeyed(begin) => {
                let begun = idempotency::begin(tx, begin).await?;
                Ok(Written::Keyed(begun))
            }
            Self::FinishKeyed(finish) => {
                let changed = idempotency::finish(tx, finish).await?;
                Ok(Written::Changed(changed))
            }
            Self::Begin {
                id,
                attempt,
                via,
                now_ms,
            } => {
                // The second half is this same change: a repeat of one with an unknown outcome.
                let changed = sqlx::query(
                    "UPDATE calls SET state = 'attempting', attempt = $1, via_bridge = $2,
                            via_instance = $3
                     WHERE id = $4
                       AND ((state IN ('pending', 'waiting_for_bridge') AND attempt = $5
                             AND cancelled = 0 AND (expires_ms IS NULL OR expires_ms > $6))
                         OR (state = 'attempting' AND attempt = $1 AND via_bridge = $2
                             AND via_instance = $3))",
                )
                .bind(i64::from(*attempt))
                .bind(&*via.bridge)
                .bind(via.instance.clone())
                .bind(&**id)
                .bind(i64::from(*attempt) - 1)
                .bind(now_ms)
                .execute(&mut **tx)
                .await?;
                Ok(Written::Changed(changed.rows_affected() > 0))
            }
            Self::Settle(settlement) => settle(tx, settlement).await.map(Written::Settled),
            Self::Park { id, left_ms } => {
                let changed = sqlx::query(
                    "UPDATE calls SET state = 'waiting_for_bridge', left_ms = $1
                     WHERE id = $2 AND state = 'pending'",
                )
                .bind(left_ms)
                .bind(&**id)
                .execute(&mut **tx)
                .await?;
                Ok(Written::Changed(changed.rows_affected() > 0))
            }
            Self::Drop {
                id,
                state,
                code,
                detail,
                now_ms,
            } => {
                let changed = sqlx::query(
                    "UPDATE calls SET state = $1, code = $2, execution = 'not_sent', detail = $3,
                            finished_ms = $4
                     WHERE id = $5 AND state IN ('pending', 'waiting_for_bridge')",
                )
                .bind(state.as_str())
                .bind(code.as_str())
                .bind(detail)
                .bind(now_ms)
                .bind(&**id)
                .execute(&mut **tx)
                .await?;
                Ok(Written::Changed(changed.rows_affected() > 0))
            }
        }
    }
}

/// Stores a call. Its tenant's row says when it expires, unless the call does; zero is never.
macro_rules! insert_call {
    ($lock:literal) => {
        concat!(
            "INSERT INTO calls (id, tenant_id, client_id, created_ms, state, method, host, bridge, \
                                at_least_once, idempotency_key, digest, sealed, bytes, due_ms, \
                                due_set_ms, expires_in_ms, expires_ms, direct, direct_mark) \
             SELECT $1, id, $2, $3, 'pending', $4, $5, $6, $7, $8, $9, $10, $11, $3, $3, \
                    NULLIF(COALESCE($13, expires_in * 1000, $14), 0), \
                    $3 + NULLIF(COALESCE($13, expires_in * 1000, $14), 0), $15, $16 \
             FROM tenants WHERE id = $12 AND state <> 'deleted'",
            $lock,
            " ON CONFLICT DO NOTHING"
        )
    };
}

async fn accept(tx: &mut Tx, call: &NewCall) -> Result<Accepted, StorageError> {
    if let Some(key) = &call.idempotency_key
        && idempotency::is_of_call(tx, &call.tenant, key).await?
    {
        return Ok(Accepted::KeyInUse);
    }
    // One statement: a tenant that is deleted at this moment gets nothing stored. PostgreSQL must
    // lock its row for that, or would read what the deletion is about to change.
    let text = match tx.backend() {
        Backend::Sqlite => insert_call!(""),
        Backend::Postgres => insert_call!(" FOR KEY SHARE"),
    };
    let (own, default) = match call.expires_in {
        ExpiresIn::Own(ms) => (Some(ms), 0),
        ExpiresIn::Default(ms) => (None, ms),
    };
    let inserted = sqlx::query(text)
        .bind(&call.id)
        .bind(&call.client_id)
        .bind(call.created_ms)
        .bind(&call.method)
        .bind(&call.host)
        .bind(call.bridge.clone())
        .bind(i64::from(call.at_least_once))
        .bind(call.idempotency_key.clone())
        .bind(call.digest.clone())
        .bind(call.sealed.clone())
        .bind(call.bytes)
        .bind(&*call.tenant)
        .bind(own)
        .bind(default)
        .bind(i64::from(call.class.is_direct))
        .bind(call.class.mark)
        .execute(&mut **tx)
        .await?;
    if inserted.rows_affected() > 0 {
        return Ok(Accepted::Stored);
    }
    let Some(key) = &call.idempotency_key else {
        return Ok(Accepted::NoTenant);
    };
    let known = sqlx::query(
        "SELECT id, state, digest FROM calls WHERE tenant_id = $1 AND idempotency_key = $2",
    )
    .bind(&*call.tenant)
    .bind(key)
    .fetch_optional(&mut **tx)
    .await?;
    let Some(row) = known else {
        return Ok(Accepted::NoTenant);
    };
    Ok(Accepted::Known {
        id: row.try_get("id")?,
        state: word(&row, "state")?,
        is_same: row.try_get::<Vec<u8>, _>("digest")? == call.digest,
    })
}

async fn settle(tx: &mut Tx, end: &Settlement) -> Result<Option<CallState>, StorageError> {
    // Whoever asked meanwhile that it be taken back gets that, unless it is over anyway.
    let finished = end.state.is_final().then_some(end.began_ms + end.took_ms);
    let row = sqlx::query(
        "UPDATE calls SET
            state = CASE WHEN cancelled = 1 AND $1 = 'pending' THEN 'cancelled' ELSE $1 END,
            finished_ms = CASE WHEN cancelled = 1 AND $1 = 'pending' THEN $2 ELSE $3 END,
            due_ms = $4, due_set_ms = $15, step = $5, status = $6, code = $7, execution = $8, detail = $9,
            via_bridge = NULL, via_instance = NULL,
            direct = CASE WHEN $16 = 1 THEN 2 ELSE direct END
         WHERE id = $10 AND tenant_id = $11 AND state = 'attempting' AND attempt = $12
           AND via_bridge = $13 AND via_instance = $14
         RETURNING state",
    )
    .bind(end.state.as_str())
    .bind(end.began_ms + end.took_ms)
    .bind(finished)
    .bind(end.due_ms)
    .bind(i64::from(end.step))
    .bind(end.status.map(i64::from))
    .bind(end.code.map(|code| code.as_str().to_owned()))
    .bind(end.execution.as_str())
    .bind(&end.detail)
    .bind(&*end.id)
    .bind(&*end.tenant)
    .bind(i64::from(end.attempt))
    .bind(&*end.via.bridge)
    .bind(end.via.instance.clone())
    .bind(end.now_ms)
    .bind(i64::from(end.is_misrouted))
    .fetch_optional(&mut **tx)
    .await?;
    let Some(row) = row else {
        return Ok(None);
    };
    sqlx::query(
        "INSERT INTO call_attempts (call_id, attempt, tenant_id, began_ms, took_ms, route, bridge,
                                    status, code, execution, detail)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
         ON CONFLICT (call_id, attempt) DO NOTHING",
    )
    .bind(&*end.id)
    .bind(i64::from(end.attempt))
    .bind(&*end.tenant)
    .bind(end.began_ms)
    .bind(end.took_ms)
    .bind(if end.via.bridge.is_empty() {
        "direct"
    } else {
        "bridge"
    })
    .bind(&end.bridge_name)
    .bind(end.status.map(i64::from))
    .bind(end.code.map(|code| code.as_str().to_owned()))
    .bind(end.execution.as_str())
    .bind(&end.detail)
    .execute(&mut **tx)
    .await?;
    if let Some(reached) = end.journal_reached {
        sqlx::query(
            "UPDATE journals SET sequence = $1
             WHERE bridge_id = $2 AND instance = $3 AND journal = $4 AND sequence < $1",
        )
        .bind(i64::try_from(reached.sequence).unwrap_or(i64::MAX))
        .bind(&*end.via.bridge)
        .bind(end.via.instance.clone())
        .bind(reached.id.to_vec())
        .execute(&mut **tx)
        .await?;
    }
    Ok(Some(word(&row, "state")?))
}

fn small(row: &AnyRow, column: &'static str) -> Result<u32, StorageError> {
    let number: i64 = row.try_get(column)?;
    Ok(u32::try_from(number).map_err(|_| corrupt(column))?)
}

fn class(row: &AnyRow) -> Result<DirectClass, StorageError> {
    Ok(DirectClass {
        // 2: it was tried, and is none after all.
        is_direct: row.try_get::<i64, _>("direct")? == 1,
        mark: row.try_get("direct_mark")?,
    })
}

fn stored(row: &AnyRow) -> Result<StoredCall, StorageError> {
    Ok(StoredCall {
        id: row.try_get::<String, _>("id")?.into(),
        tenant: row.try_get::<String, _>("tenant_id")?.into(),
        method: row.try_get("method")?,
        host: row.try_get("host")?,
        bridge: row.try_get("bridge")?,
        at_least_once: row.try_get::<i64, _>("at_least_once")? != 0,
        attempt: small(row, "attempt")?,
        step: small(row, "step")?,
        is_cancelled: row.try_get::<i64, _>("cancelled")? != 0,
        class: class(row)?,
    })
}

/// The columns of [`StoredCall`].
macro_rules! stored_columns {
    ($rest:literal) => {
        concat!(
            "SELECT id, tenant_id, method, host, bridge, at_least_once, attempt, step, cancelled, \
                    direct, direct_mark FROM calls ",
            $rest
        )
    };
}

/// The next calls of a tenant that are due.
pub(super) const DUE: &str = stored_columns!(
    "WHERE tenant_id = $1 AND state = 'pending' AND due_ms <= $2
       AND (expires_ms IS NULL OR expires_ms > $2)
     ORDER BY due_ms, seq LIMIT $3"
);

/// What waits, or is to wait, in one tenant: calls of the same host, the same wish for a bridge and the same
/// class have the same way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// The URL's host.
    pub host: String,
    /// The bridge that was asked for.
    pub bridge: Option<String>,
    /// Whether they may go direct.
    pub class: DirectClass,
}

impl Storage {
    /// The calls of a tenant whose time has come, those that are due first and then the oldest.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not answer.
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
            .fetch_all(&self.pool)
            .await?;
        rows.iter().map(stored).collect()
    }

    /// When the next pending call of each tenant is due, in milliseconds since 1970.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not answer.
    pub async fn next_due(&self) -> Result<Vec<(Arc<str>, i64)>, StorageError> {
        let rows = sqlx::query(
            "SELECT tenant_id, MIN(due_ms) AS due_ms FROM calls WHERE state = 'pending'
             GROUP BY tenant_id",
        )
        .fetch_all(&self.pool)
        .await?;
        rows.iter()
            .map(|row| {
                let tenant: String = row.try_get("tenant_id")?;
                Ok((tenant.into(), row.try_get("due_ms")?))
            })
            .collect()
    }

    /// When the next pending call of one tenant is due.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not answer.
    pub async fn next_due_of(&self, tenant: &str) -> Result<Option<i64>, StorageError> {
        let row = sqlx::query(
            "SELECT due_ms FROM calls WHERE tenant_id = $1 AND state = 'pending'
             ORDER BY due_ms, seq LIMIT 1",
        )
        .bind(tenant)
        .fetch_optional(&self.pool)
        .await?;
        Ok(row.map(|row| row.try_get("due_ms")).transpose()?)
    }

    /// The attempts that went to an installation and have no outcome.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not answer.
    pub async fn calls_in_flight(&self, via: &Via) -> Result<Vec<StoredCall>, StorageError> {
        let rows = sqlx::query(stored_columns!(
            "WHERE via_bridge = $1 AND via_instance = $2 AND state = 'attempting' ORDER BY seq"
        ))
        .bind(&*via.bridge)
        .bind(via.instance.clone())
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(stored).collect()
    }

    /// Where attempts without an outcome went.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not answer.
    pub async fn instances_in_flight(&self) -> Result<Vec<(Arc<str>, Via)>, StorageError> {
        let rows = sqlx::query(
            "SELECT DISTINCT tenant_id, via_bridge, via_instance FROM calls
             WHERE state = 'attempting'",
        )
        .fetch_all(&self.pool)
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

    /// A call that an attempt may be on its way of, of whatever tenant.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not answer.
    pub async fn stored_call(&self, id: &str) -> Result<Option<StoredCall>, StorageError> {
        let row = sqlx::query(stored_columns!("WHERE id = $1"))
            .bind(id)
            .fetch_optional(&self.pool)
            .await?;
        row.as_ref().map(stored).transpose()
    }

    /// Whether a call has this attempt open at this installation.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not answer.
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
        .fetch_optional(&self.pool)
        .await?;
        Ok(row.is_some())
    }

    /// The sealed request of a call.
    ///
    /// # Errors
    /// [`StorageError::NotFound`] when it is gone.
    pub async fn sealed_request(&self, id: &str) -> Result<Vec<u8>, StorageError> {
        let row = sqlx::query("SELECT sealed FROM calls WHERE id = $1")
            .bind(id)
            .fetch_optional(&self.pool)
            .await?;
        let row = row.ok_or_else(|| StorageError::NotFound("the call is gone".into()))?;
        Ok(row.try_get("sealed")?)
    }

    /// The ways that a tenant's calls in one of the two waiting states want.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not answer.
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
        .fetch_all(&self.pool)
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

    /// Up to `limit` calls of a tenant that wait for an attempt, and whose class was decided by other
    /// patterns than those of this mark.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not answer.
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
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(stored).collect()
    }

    /// Stores the classes of calls that wait for an attempt.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not answer.
    pub async fn classify_calls(
        &self,
        classes: &[(Arc<str>, DirectClass)],
    ) -> Result<(), StorageError> {
        let mut tx = self.pool.begin_with(self.backend.begin()).await?;
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
        tx.commit().await
    }

    /// A way is there again: up to `limit` of the calls that waited for it are pending, each with
    /// what was left of its time. Returns how many.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not answer.
    pub async fn unpark(
        &self,
        tenant: &str,
        group: &Group,
        now_ms: i64,
        limit: u32,
    ) -> Result<u64, StorageError> {
        let mut tx = self.pool.begin_with(self.backend.begin()).await?;
        let changed = sqlx::query(
            "UPDATE calls SET state = 'pending', due_ms = $1 + left_ms, due_set_ms = $1, left_ms = 0
             WHERE seq IN (SELECT seq FROM calls
                           WHERE tenant_id = $2 AND state = 'waiting_for_bridge' AND host = $3
                             AND bridge IS NOT DISTINCT FROM $4
                             AND CASE WHEN direct = 1 THEN 1 ELSE 0 END = $6 AND direct_mark = $7
                           ORDER BY seq LIMIT $5)
               AND state = 'waiting_for_bridge'",
        )
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
        Ok(changed.rows_affected())
    }

    /// A way is gone: up to `limit` of the calls that want it wait, and their time stands still.
    /// Returns how many.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not answer.
    pub async fn park(
        &self,
        tenant: &str,
        group: &Group,
        now_ms: i64,
        limit: u32,
    ) -> Result<u64, StorageError> {
        let mut tx = self.pool.begin_with(self.backend.begin()).await?;
        let changed = sqlx::query(
            "UPDATE calls SET state = 'waiting_for_bridge',
                    left_ms = CASE WHEN due_set_ms > $1 THEN due_ms - due_set_ms
                                   WHEN due_ms > $1 THEN due_ms - $1 ELSE 0 END
             WHERE seq IN (SELECT seq FROM calls
                           WHERE tenant_id = $2 AND state = 'pending' AND host = $3
                             AND bridge IS NOT DISTINCT FROM $4
                             AND CASE WHEN direct = 1 THEN 1 ELSE 0 END = $6 AND direct_mark = $7
                           ORDER BY seq LIMIT $5)
               AND state = 'pending'",
        )
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
        Ok(changed.rows_affected())
    }

    /// Corrects retry times that were computed by a clock that has stepped back since: each such call
    /// waits as long from now as it was to wait then. Returns how many.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not answer.
    pub async fn correct_due_times(&self, now_ms: i64) -> Result<u64, StorageError> {
        let mut tx = self.pool.begin_with(self.backend.begin()).await?;
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

    /// Ends up to `limit` calls whose time has run out before an attempt took them. Returns them.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not answer.
    pub async fn expire_calls(
        &self,
        now_ms: i64,
        limit: u32,
    ) -> Result<Vec<ExpiredCall>, StorageError> {
        let any = sqlx::query(
            "SELECT seq FROM calls WHERE expires_ms <= $1
               AND state IN ('pending', 'waiting_for_bridge') ORDER BY expires_ms LIMIT 1",
        );
        if any.bind(now_ms).fetch_optional(&self.pool).await?.is_none() {
            return Ok(Vec::new());
        }
        let mut tx = self.pool.begin_with(self.backend.begin()).await?;
        let rows = sqlx::query(
            "UPDATE calls SET state = 'expired', finished_ms = $1, code = 'timeout',
                    execution = COALESCE(execution, 'not_sent'),
                    detail = 'it expired before a target took it'
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
        self.touched();
        let ended = rows.iter().map(|row| {
            Ok(ExpiredCall {
                id: row.try_get("id")?,
                tenant: row.try_get::<String, _>("tenant_id")?.into(),
                attempts: small(row, "attempt")?,
                execution: row.try_get("execution")?,
            })
        });
        ended.collect()
    }

    /// How many calls of each tenant are in each state that is not final, and when the oldest of
    /// them came.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not answer.
    pub async fn queued_calls(&self) -> Result<Vec<Queued>, StorageError> {
        let rows = sqlx::query(
            "SELECT tenant_id, state, COUNT(*) AS calls, MIN(created_ms) AS oldest_ms FROM calls
             WHERE state IN ('pending', 'waiting_for_bridge', 'attempting')
             GROUP BY tenant_id, state",
        )
        .fetch_all(&self.pool)
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

    /// Deletes up to `limit` calls that were finished before a moment, with their attempts.
    /// Returns how many.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not answer.
    pub async fn forget_calls(&self, before_ms: i64, limit: u32) -> Result<u64, StorageError> {
        let mut tx = self.pool.begin_with(self.backend.begin()).await?;
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

/// A call that has expired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpiredCall {
    /// Its id.
    pub id: String,
    /// Whose it was.
    pub tenant: Arc<str>,
    /// Attempts that were begun.
    pub attempts: u32,
    /// How far the last one came.
    pub execution: String,
}

/// Calls of one tenant in one state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queued {
    /// Whose they are.
    pub tenant: Arc<str>,
    /// Where they stand.
    pub state: CallState,
    /// How many.
    pub calls: u64,
    /// When the oldest was handed over, in milliseconds since 1970.
    pub oldest_ms: i64,
}
