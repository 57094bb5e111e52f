//! What follows when an attempt is over: written down, in one transaction with the attempt itself.

use super::state::{AttemptEnd, CallState, Facts, Next, next};
use crate::state::State;
use crate::storage::audit::Act;
use crate::storage::batch::WriteError;
use crate::storage::calls::{Settlement, StoredCall, Via, Write, Written};
use crate::storage::now_ms;
use protocol::Code;
use protocol::frame::JournalMark;
use std::sync::Arc;
use std::time::Duration;

/// After a failure of the database.
const AGAIN_AFTER_FAILURE: Duration = Duration::from_secs(1);

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

/// Writes down how an attempt ended and what follows. Does not give up while this process delivers.
pub(super) async fn settle(state: &Arc<State>, ended: Ended<'_>) -> bool {
    let deliveries = &state.deliveries;
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
    let (to, due_ms, step) = match next(facts, &end, &deliveries.config.waits(), random) {
        Next::Stay => return false,
        Next::Again { after, step } => {
            let after = i64::try_from(after.as_millis()).unwrap_or(i64::MAX);
            (CallState::Pending, now_ms.saturating_add(after), step)
        }
        Next::Final(to) => (to, now_ms, call.step),
    };
    let settlement = Settlement {
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
    };
    loop {
        let write = Write::Settle(Box::new(settlement.clone()));
        match deliveries.batch.write(write).await {
            Ok(Written::Settled(Some(now))) => {
                tracing::debug!(call = %call.id, attempt = ended.number, state = %now, "attempt over");
                state
                    .metrics
                    .attempt(settlement.code.map_or("answered", Code::as_str));
                if now.is_final() {
                    deliveries.count_out(&call.tenant);
                    state.metrics.delivery(now.as_str());
                }
                written_down(state, &settlement, now).await;
                return true;
            }
            Ok(_) => return false,
            Err(WriteError::LeaseLost | WriteError::Closed) => return false,
            Err(error) => {
                tracing::warn!(%error, call = %call.id, "an outcome cannot be stored yet");
                tokio::time::sleep(AGAIN_AFTER_FAILURE).await;
            }
        }
    }
}

/// Writes an attempt's end into the audit record.
async fn written_down(state: &State, end: &Settlement, now: CallState) {
    let act = Act {
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
        ..Act::default()
    };
    state.audit.record(act).await;
}
