//! What follows when an attempt ends: stored in one transaction with the attempt itself.

use super::context::DeliveryContext;
use super::state::{AttemptEnd, CallState, Facts, Next, next};
use crate::storage::audit::AuditEvent;
use crate::storage::calls::{Settlement, StoredCall, Via, Write, Written};
use crate::storage::{WriteError, now_ms};
use protocol::Code;
use protocol::frame::JournalMark;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Pause after an error of the database.
const ERROR_DELAY: Duration = Duration::from_secs(1);

/// How long an outcome is kept in memory while this process does not hold the lease. The lease may come
/// back, and nothing else knows the outcome of a direct call.
const KEPT_WITHOUT_LEASE: Duration = Duration::from_secs(300);

/// An attempt that has ended.
pub(super) struct FinishedAttempt<'a> {
    pub(super) call: &'a StoredCall,
    pub(super) via: Via,
    pub(super) bridge_name: &'a str,
    pub(super) number: u32,
    pub(super) started_ms: i64,
    pub(super) took_ms: i64,
    /// How far the bridge's journal has come for certain.
    pub(super) journal_reached: Option<JournalMark>,
    pub(super) end: AttemptEnd,
}

/// The result of storing an outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Settled {
    /// The outcome is stored.
    Stored,
    /// The outcome changes nothing: it was stored before, or the attempt is not that installation's.
    Stale,
    /// The attempt stays open.
    Open,
    /// The outcome is not stored, and must not be acknowledged.
    Unwritten,
}

impl Settled {
    /// Returns whether the bridge may forget its outcome.
    pub(super) fn may_be_acknowledged(self) -> bool {
        match self {
            Self::Stored | Self::Stale => true,
            Self::Open | Self::Unwritten => false,
        }
    }
}

/// Returns what to store of an attempt's end; `None` if the attempt stays open.
pub(super) fn settlement(
    cx: &DeliveryContext,
    finished: FinishedAttempt<'_>,
) -> Option<Settlement> {
    let (call, end) = (finished.call, finished.end);
    let facts = Facts {
        method: &call.method,
        at_least_once: call.at_least_once,
        step: call.step,
        attempt: finished.number,
        is_cancelled: call.is_cancelled,
    };
    // Without random bytes the delay is the mean, which is no reason to lose an outcome.
    let random = crate::storage::random::<4>().map_or(0.5, |bytes| {
        f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX)
    });
    let now_ms = now_ms();
    let schedule = cx.deliveries.config.waits();
    let (state, due_ms, step) = match next(facts, &end, &schedule, random) {
        Next::Stay => return None,
        Next::Retry { after, step } => {
            let after = i64::try_from(after.as_millis()).unwrap_or(i64::MAX);
            (CallState::Pending, now_ms.saturating_add(after), step)
        }
        Next::Final(state) => (state, now_ms, call.step),
    };
    Some(Settlement {
        id: call.id.clone(),
        tenant: call.tenant.clone(),
        label: call.label.clone(),
        host: call.host.clone(),
        bytes_up: match end.execution.is_safe_to_repeat() {
            true => 0,
            false => u64::try_from(call.bytes).unwrap_or(0),
        },
        attempt: finished.number,
        via: finished.via,
        bridge_name: finished.bridge_name.to_owned(),
        state,
        due_ms,
        now_ms,
        step,
        began_ms: finished.started_ms,
        took_ms: finished.took_ms,
        status: end.status,
        code: end.code,
        execution: end.execution,
        detail: end.detail,
        journal_reached: finished.journal_reached,
        is_misrouted: end.is_misrouted,
    })
}

/// Stores how an attempt ended and what follows. Retries while the database does not respond, and for some
/// time while another process holds the lease.
pub(super) async fn settle(cx: &Arc<DeliveryContext>, finished: FinishedAttempt<'_>) -> Settled {
    let Some(settlement) = settlement(cx, finished) else {
        return Settled::Open;
    };
    let mut without_lease: Option<Instant> = None;
    loop {
        // Storing it twice is harmless: the statement expects the attempt to be open.
        let write = Write::Settle(Box::new(settlement.clone()));
        match cx.deliveries.batch.write(write).await {
            Ok(written) => {
                let Some(now) = after_write(cx, &settlement, &written) else {
                    return Settled::Stale;
                };
                // After the commit: the record must not have an outcome that was not stored.
                let event = audit_event(&settlement, now);
                let execution = Some(settlement.execution);
                cx.audit.record_delivery(execution, event).await;
                return Settled::Stored;
            }
            // The relay stops. The bridge keeps the outcome, since it gets no acknowledgement.
            Err(WriteError::Closed) => return Settled::Unwritten,
            Err(WriteError::LeaseLost) => {
                let since = *without_lease.get_or_insert_with(Instant::now);
                if since.elapsed() > KEPT_WITHOUT_LEASE {
                    return Settled::Unwritten;
                }
            }
            Err(WriteError::Store(error)) => {
                tracing::warn!(%error, call = %settlement.id, "cannot store an outcome yet");
            }
        }
        tokio::time::sleep(ERROR_DELAY).await;
    }
}

/// Stores several outcomes at once, without a retry. Returns the result of each, in order.
pub(super) async fn settle_all(
    cx: &Arc<DeliveryContext>,
    settlements: Vec<Settlement>,
) -> Vec<Result<Settled, WriteError>> {
    let writes = settlements.iter().cloned().map(Box::new);
    let all = cx
        .deliveries
        .batch
        .write_all(writes.map(Write::Settle).collect())
        .await;
    let mut results = Vec::with_capacity(settlements.len());
    let mut events = Vec::new();
    for (settlement, written) in settlements.iter().zip(all) {
        results.push(written.map(|written| {
            let Some(now) = after_write(cx, settlement, &written) else {
                return Settled::Stale;
            };
            events.push((settlement.execution, audit_event(settlement, now)));
            Settled::Stored
        }));
    }
    if !events.is_empty() {
        // Not awaited: a full audit queue can make this take seconds, and the caller is the engine.
        let cx = cx.clone();
        tokio::spawn(async move {
            for (execution, event) in events {
                cx.audit.record_delivery(Some(execution), event).await;
            }
        });
    }
    results
}

/// Counts a stored outcome and returns the call's new state; `None` for an outcome that changed nothing.
fn after_write(
    cx: &DeliveryContext,
    settlement: &Settlement,
    written: &Written,
) -> Option<CallState> {
    let Written::Settled(Some(now)) = *written else {
        return None;
    };
    log(cx, settlement, now);
    let metrics = &cx.data.metrics;
    metrics.attempt(settlement.code.map_or("answered", Code::as_str));
    if now.is_final() {
        cx.deliveries.count_out(&settlement.tenant);
        metrics.delivery(now.as_str());
    }
    Some(now)
}

/// Logs an attempt's end: a failure at level INFO, like a failed request.
fn log(cx: &DeliveryContext, end: &Settlement, now: CallState) {
    let is_failed = end.state != CallState::Succeeded;
    let limiter = &cx.data.failed_requests;
    if is_failed && limiter.allow() {
        let suppressed = limiter.suppressed();
        tracing::info!(
            id = &*end.id,
            label = end.label,
            tenant = cx.directory.tenant_name(&end.tenant).as_deref(),
            host = end.host,
            bridge = (!end.bridge_name.is_empty()).then_some(&*end.bridge_name),
            attempt = end.attempt,
            status = end.status,
            code = end.code.map(Code::as_str),
            execution = %end.execution,
            detail = end.detail,
            state = %now,
            took_ms = end.took_ms,
            suppressed = (suppressed > 0).then_some(suppressed),
            "delivery attempt failed"
        );
    } else if !is_failed {
        tracing::debug!(
            id = &*end.id,
            label = end.label,
            tenant = cx.directory.tenant_name(&end.tenant).as_deref(),
            host = end.host,
            bridge = (!end.bridge_name.is_empty()).then_some(&*end.bridge_name),
            attempt = end.attempt,
            status = end.status,
            took_ms = end.took_ms,
            "delivery attempt succeeded"
        );
    }
}

/// Returns the row of the audit record for an attempt's end.
fn audit_event(end: &Settlement, now: CallState) -> AuditEvent {
    AuditEvent {
        tenant: end.tenant.clone(),
        actor: "relay".into(),
        action: "delivery",
        object: end.id.to_string(),
        bridge: end.bridge_name.as_str().into(),
        result: end.code.map_or("ok", Code::as_str),
        execution: end.execution.as_str(),
        bytes_up: end.bytes_up,
        took_ms: u64::try_from(end.took_ms).unwrap_or(0),
        count: 1,
        detail: serde_json::json!({
            "attempt": end.attempt,
            "host": end.host,
            "label": end.label,
            "status": end.status,
            "state": now.as_str(),
            "detail": end.code.map(|_| &end.detail),
        })
        .to_string(),
        ..AuditEvent::default()
    }
}
