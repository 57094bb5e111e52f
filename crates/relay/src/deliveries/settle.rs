//! What follows when an attempt is over: written down, in one transaction with the attempt itself.

use super::state::{AttemptEnd, CallState, Facts, Next, next};
use crate::state::State;
use crate::storage::audit::AuditEvent;
use crate::storage::calls::{Settlement, StoredCall, Via, Write, Written};
use crate::storage::{WriteError, now_ms};
use protocol::Code;
use protocol::frame::JournalMark;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// After a failure of the database.
const AGAIN_AFTER_FAILURE: Duration = Duration::from_secs(1);

/// How long an outcome is kept in memory while this process does not have the lease. It may come back; and
/// of a direct call, nothing else knows the outcome.
const KEPT_WITHOUT_LEASE: Duration = Duration::from_secs(300);

/// An attempt that is over.
pub(super) struct Ended<'a> {
    pub(super) call: &'a StoredCall,
    pub(super) via: Via,
    pub(super) bridge_name: &'a str,
    pub(super) number: u32,
    pub(super) began_ms: i64,
    pub(super) took_ms: i64,
    pub(super) journal_reached: Option<JournalMark>,
    pub(super) end: AttemptEnd,
}

/// What became of writing an outcome down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Settled {
    /// It is stored.
    Stored,
    /// It changes nothing: it was stored before, or the attempt is not that installation's.
    Stale,
    /// The attempt stays open.
    Open,
    /// It is not stored, and must not be acknowledged.
    Unwritten,
}

impl Settled {
    /// Whether the bridge may forget its outcome.
    pub(super) fn may_be_acknowledged(self) -> bool {
        match self {
            Self::Stored | Self::Stale => true,
            Self::Open | Self::Unwritten => false,
        }
    }
}

/// What is to be written of an attempt's end; `None` where the attempt stays open.
pub(super) fn settlement(state: &State, ended: Ended<'_>) -> Option<Settlement> {
    let (call, end) = (ended.call, ended.end);
    let facts = Facts {
        method: &call.method,
        at_least_once: call.at_least_once,
        step: call.step,
        attempt: ended.number,
        is_cancelled: call.is_cancelled,
    };
    let random = crate::storage::random::<4>().map_or(0.5, |bytes| {
        f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX)
    });
    let now_ms = now_ms();
    let schedule = state.deliveries.config.waits();
    let (to, due_ms, step) = match next(facts, &end, &schedule, random) {
        Next::Stay => return None,
        Next::Again { after, step } => {
            let after = i64::try_from(after.as_millis()).unwrap_or(i64::MAX);
            (CallState::Pending, now_ms.saturating_add(after), step)
        }
        Next::Final(to) => (to, now_ms, call.step),
    };
    Some(Settlement {
        id: call.id.clone(),
        tenant: call.tenant.clone(),
        attempt: ended.number,
        via: ended.via,
        bridge_name: ended.bridge_name.to_owned(),
        state: to,
        due_ms,
        now_ms,
        step,
        began_ms: ended.began_ms,
        took_ms: ended.took_ms,
        status: end.status,
        code: end.code,
        execution: end.execution,
        detail: end.detail,
        journal_reached: ended.journal_reached,
        is_misrouted: end.is_misrouted,
    })
}

/// Writes down how an attempt ended and what follows. Tries again while the database does not answer, and
/// for some time while another process has the lease.
pub(super) async fn settle(state: &Arc<State>, ended: Ended<'_>) -> Settled {
    let Some(settlement) = settlement(state, ended) else {
        return Settled::Open;
    };
    let mut without_lease: Option<Instant> = None;
    loop {
        let write = Write::Settle(Box::new(settlement.clone()));
        match state.deliveries.batch.write(write).await {
            Ok(written) => {
                let Some(now) = after_write(state, &settlement, &written) else {
                    return Settled::Stale;
                };
                state.audit.record(act(&settlement, now)).await;
                return Settled::Stored;
            }
            Err(WriteError::Closed) => return Settled::Unwritten,
            Err(WriteError::LeaseLost) => {
                let since = *without_lease.get_or_insert_with(Instant::now);
                if since.elapsed() > KEPT_WITHOUT_LEASE {
                    return Settled::Unwritten;
                }
            }
            Err(WriteError::Store(error)) => {
                tracing::warn!(%error, call = %settlement.id, "an outcome cannot be stored yet");
            }
        }
        tokio::time::sleep(AGAIN_AFTER_FAILURE).await;
    }
}

/// Writes several outcomes in one go, and does not try again. Returns what became of each, in order.
pub(super) async fn settle_all(
    state: &Arc<State>,
    settlements: Vec<Settlement>,
) -> Vec<Result<Settled, WriteError>> {
    let writes = settlements.iter().cloned().map(Box::new);
    let all = state
        .deliveries
        .batch
        .write_all(writes.map(Write::Settle).collect())
        .await;
    let mut results = Vec::with_capacity(settlements.len());
    let mut acts = Vec::new();
    for (settlement, written) in settlements.iter().zip(all) {
        results.push(written.map(|written| {
            let Some(now) = after_write(state, settlement, &written) else {
                return Settled::Stale;
            };
            acts.push(act(settlement, now));
            Settled::Stored
        }));
    }
    if !acts.is_empty() {
        // The audit record may have no room for seconds, and the caller is the engine.
        let state = state.clone();
        tokio::spawn(async move {
            for act in acts {
                state.audit.record(act).await;
            }
        });
    }
    results
}

/// Counts an outcome that is on disk; where the call stands now. `None` for one that changed nothing.
fn after_write(state: &State, settlement: &Settlement, written: &Written) -> Option<CallState> {
    let Written::Settled(Some(now)) = *written else {
        return None;
    };
    tracing::debug!(call = %settlement.id, attempt = settlement.attempt, state = %now, "attempt over");
    state
        .metrics
        .attempt(settlement.code.map_or("answered", Code::as_str));
    if now.is_final() {
        state.deliveries.count_out(&settlement.tenant);
        state.metrics.delivery(now.as_str());
    }
    Some(now)
}

/// An attempt's end, for the audit record.
fn act(end: &Settlement, now: CallState) -> AuditEvent {
    AuditEvent {
        tenant: end.tenant.clone(),
        actor: "relay".into(),
        action: "delivery",
        object: end.id.to_string(),
        bridge: end.bridge_name.as_str().into(),
        result: end.code.map_or("ok", Code::as_str),
        execution: end.execution.as_str(),
        took_ms: u64::try_from(end.took_ms).unwrap_or(0),
        count: 1,
        detail: serde_json::json!({
            "attempt": end.attempt,
            "status": end.status,
            "state": now.as_str(),
        })
        .to_string(),
        ..AuditEvent::default()
    }
}
