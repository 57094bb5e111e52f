//! Ends calls that expired before a target accepted them: by wall clock, and also while no bridge is
//! connected for them.

use super::context::DeliveryContext;
use super::state::CallState;
use crate::storage::audit::AuditEvent;
use crate::storage::calls::ExpiredCall;
use crate::storage::{StorageError, now_ms};
use protocol::{Code, Execution};
use std::sync::Arc;
use std::time::Duration;

/// How often the task checks for expired calls.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Calls that expire in one transaction.
const EXPIRED_PER_TRANSACTION: u32 = 500;

/// Ends expired calls until the relay stops, in the process that delivers.
pub(crate) async fn expire(cx: Arc<DeliveryContext>) {
    let mut is_failing = false;
    loop {
        tokio::time::sleep(CHECK_INTERVAL).await;
        // Without the lease the write would be fenced off anyway.
        if cx.deliveries.batch.held() == 0 {
            continue;
        }
        match round(&cx).await {
            Ok(()) => is_failing = false,
            // One line for each outage, not one a second.
            Err(error) if !is_failing => {
                is_failing = true;
                tracing::warn!(%error, "database unavailable; calls do not expire");
            }
            Err(_) => {}
        }
    }
}

async fn round(cx: &DeliveryContext) -> Result<(), StorageError> {
    let storage = &cx.deliveries.storage;
    loop {
        let expired = storage
            .expire_calls(now_ms(), EXPIRED_PER_TRANSACTION)
            .await?;
        for call in &expired {
            cx.deliveries.count_out(&call.tenant);
            cx.data.metrics.delivery(CallState::Expired.as_str());
            // Awaited one by one: a full audit queue slows the expiry down instead of growing without a
            // bound.
            let execution = execution(&call.execution);
            cx.audit
                .record_delivery(execution, audit_event(call, execution))
                .await;
        }
        if expired.len() < EXPIRED_PER_TRANSACTION as usize {
            return Ok(());
        }
    }
}

fn audit_event(call: &ExpiredCall, execution: Option<Execution>) -> AuditEvent {
    AuditEvent {
        tenant: call.tenant.clone(),
        actor: "relay".into(),
        action: "delivery",
        object: call.id.clone(),
        result: Code::Timeout.as_str(),
        execution: execution.map_or("", Execution::as_str),
        count: 1,
        detail: serde_json::json!({
            "attempt": call.attempts,
            "status": null,
            "state": CallState::Expired.as_str(),
        })
        .to_string(),
        ..AuditEvent::default()
    }
}

/// Returns the stored execution status; `None` if no attempt was made.
fn execution(stored: &str) -> Option<Execution> {
    let all = [
        Execution::NotSent,
        Execution::NotDispatched,
        Execution::PossiblyExecuted,
        Execution::Executed,
    ];
    all.into_iter().find(|known| known.as_str() == stored)
}
