//! Changes of one stored call or one idempotency key, committed in groups by the [`Batch`](super::super::Batch).

use super::{Accepted, CallState, ExpiresIn, NewCall, Settlement, Via};
use crate::storage::idempotency::{self, ClaimOutcome};
use crate::storage::rows::word;
use protocol::Code;
use sqlx::Row as _;
use std::sync::Arc;
use store::batch::Change;
use store::{Backend, StoreError, Transaction};

/// One change.
#[derive(Debug)]
pub enum Write {
    /// Stores a call.
    Accept(Box<NewCall>),
    /// Records that an attempt is about to be sent. A repeat changes nothing and reports success, so that it can
    /// be repeated after a commit with an unknown outcome.
    Begin {
        /// The call's id.
        id: Arc<str>,
        /// The attempt: one more than were begun.
        attempt: u32,
        /// Where it is sent.
        via: Via,
        /// A call that has expired by now is not sent.
        now_ms: i64,
    },
    /// Records the end of an attempt.
    Settle(Box<Settlement>),
    /// Makes a pending call wait for a bridge.
    Park {
        /// The call's id.
        id: Arc<str>,
        /// How long it would still have waited, in milliseconds.
        left_ms: i64,
    },
    /// Ends a pending call without an attempt.
    Drop {
        /// The call's id.
        id: Arc<str>,
        /// The final state.
        state: CallState,
        /// The failure's code.
        code: Code,
        /// The failure in plain text.
        detail: String,
        /// When it ended, in milliseconds since 1970.
        now_ms: i64,
    },
    /// Claims an idempotency key for a request that is about to be executed.
    ClaimKey(Box<idempotency::ClaimKey>),
    /// Records the outcome of such a request.
    CompleteKey(Box<idempotency::CompleteKey>),
}

/// The result of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Written {
    /// Of [`Write::Accept`].
    Accepted(Accepted),
    /// Whether the change was made; if not, it came too late.
    Changed(bool),
    /// Of [`Write::Settle`]: the call's state now; `None` if the attempt was settled before.
    Settled(Option<CallState>),
    /// Of [`Write::ClaimKey`].
    Claimed(ClaimOutcome),
}

impl Change for Write {
    type Output = Written;

    fn needs_lease(&self) -> bool {
        match self {
            Self::Accept(_)
            | Self::Begin { .. }
            | Self::Settle(_)
            | Self::Park { .. }
            | Self::Drop { .. }
            | Self::ClaimKey(_) => true,
            // The request was executed, whichever process serves now. The row's token is the fence.
            Self::CompleteKey(_) => false,
        }
    }

    async fn apply(&self, tx: &mut Transaction) -> Result<Written, StoreError> {
        match self {
            Self::Accept(call) => accept(tx, call).await.map(Written::Accepted),
            Self::Begin {
                id,
                attempt,
                via,
                now_ms,
            } => {
                let changed = begin(tx, id, *attempt, via, *now_ms).await?;
                Ok(Written::Changed(changed))
            }
            Self::Settle(settlement) => settle(tx, settlement).await.map(Written::Settled),
            Self::Park { id, left_ms } => {
                let changed = park(tx, id, *left_ms).await?;
                Ok(Written::Changed(changed))
            }
            Self::Drop {
                id,
                state,
                code,
                detail,
                now_ms,
            } => {
                // Only while it waits: an attempt that has begun meanwhile decides.
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
            Self::ClaimKey(claim) => {
                let outcome = idempotency::claim(tx, claim).await?;
                Ok(Written::Claimed(outcome))
            }
            Self::CompleteKey(complete) => {
                let changed = idempotency::complete(tx, complete).await?;
                Ok(Written::Changed(changed))
            }
        }
    }
}

/// Returns the statement that stores a call. Its tenant's row determines when it expires, unless the call does;
/// zero means never.
macro_rules! insert_call {
    ($lock:literal) => {
        concat!(
            "INSERT INTO calls (id, tenant_id, client_id, created_ms, state, method, host, bridge, \
                                at_least_once, idempotency_key, digest, sealed, bytes, due_ms, \
                                due_set_ms, expires_in_ms, expires_ms, direct, direct_mark, \
                                label) \
             SELECT $1, id, $2, $3, 'pending', $4, $5, $6, $7, $8, $9, $10, $11, $3, $3, \
                    NULLIF(COALESCE($13, expires_in * 1000, $14), 0), \
                    $3 + NULLIF(COALESCE($13, expires_in * 1000, $14), 0), $15, $16, $17 \
             FROM tenants WHERE id = $12 AND state <> 'deleted'",
            $lock,
            " ON CONFLICT DO NOTHING"
        )
    };
}

async fn accept(tx: &mut Transaction, call: &NewCall) -> Result<Accepted, StoreError> {
    if let Some(key) = &call.idempotency_key
        && idempotency::is_key_of_call(tx, &call.tenant, key).await?
    {
        return Ok(Accepted::KeyInUse);
    }
    // One statement, so that a tenant that is being deleted gets no call stored. PostgreSQL must lock the
    // tenant's row for that: otherwise it reads the row as it was before the concurrent deletion.
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
        .bind(call.digest.stored().to_vec())
        .bind(call.sealed.clone())
        .bind(call.bytes)
        .bind(&*call.tenant)
        .bind(own)
        .bind(default)
        .bind(i64::from(call.class.is_direct))
        .bind(call.class.mark)
        .bind(call.label.clone())
        .execute(&mut **tx)
        .await?;
    if inserted.rows_affected() > 0 {
        return Ok(Accepted::Stored);
    }
    // No row: either the tenant is gone, or the unique index on the key has found another call.
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
        is_same: call.digest.is_of(&row.try_get::<Vec<u8>, _>("digest")?),
    })
}

async fn begin(
    tx: &mut Transaction,
    id: &str,
    attempt: u32,
    via: &Via,
    now_ms: i64,
) -> Result<bool, StoreError> {
    // The part after OR matches the row after this same change: a repeat after an unknown commit outcome.
    let changed = sqlx::query(
        "UPDATE calls SET state = 'attempting', attempt = $1, via_bridge = $2,
                via_instance = $3
         WHERE id = $4
           AND ((state IN ('pending', 'waiting_for_bridge') AND attempt = $5
                 AND cancelled = 0 AND (expires_ms IS NULL OR expires_ms > $6))
             OR (state = 'attempting' AND attempt = $1 AND via_bridge = $2
                 AND via_instance = $3))",
    )
    .bind(i64::from(attempt))
    .bind(&*via.bridge)
    .bind(via.instance.clone())
    .bind(id)
    .bind(i64::from(attempt) - 1)
    .bind(now_ms)
    .execute(&mut **tx)
    .await?;
    Ok(changed.rows_affected() > 0)
}

async fn park(tx: &mut Transaction, id: &str, left_ms: i64) -> Result<bool, StoreError> {
    let changed = sqlx::query(
        "UPDATE calls SET state = 'waiting_for_bridge', left_ms = $1
         WHERE id = $2 AND state = 'pending'",
    )
    .bind(left_ms)
    .bind(id)
    .execute(&mut **tx)
    .await?;
    Ok(changed.rows_affected() > 0)
}

async fn settle(tx: &mut Transaction, end: &Settlement) -> Result<Option<CallState>, StoreError> {
    // A call whose cancellation was requested during the attempt is cancelled instead of retried. If it has
    // ended anyway, its outcome stands.
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
    // Settled before, or by another installation: no second row of the attempt either.
    let Some(row) = row else {
        return Ok(None);
    };
    let route = if end.via.bridge.is_empty() {
        "direct"
    } else {
        "bridge"
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
    .bind(route)
    .bind(&end.bridge_name)
    .bind(end.status.map(i64::from))
    .bind(end.code.map(|code| code.as_str().to_owned()))
    .bind(end.execution.as_str())
    .bind(&end.detail)
    .execute(&mut **tx)
    .await?;
    if let Some(reached) = end.journal_reached {
        // With the outcome itself: a journal that ends before this position later has lost the outcome.
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
