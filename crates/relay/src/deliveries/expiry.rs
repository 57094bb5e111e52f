//! Ends calls whose time has run out before a target took them: by wall clock, also while no bridge
//! is there for them.

use crate::control_plane::ControlPlane;
use crate::storage::audit::AuditEvent;
use crate::storage::calls::ExpiredCall;
use crate::storage::{StorageError, now_ms};
use protocol::Code;
use std::sync::Arc;
use std::time::Duration;

use super::state::CallState;

/// How often expired calls are looked for.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Calls that expire in one transaction.
const EXPIRED_AT_ONCE: u32 = 500;

/// Ends expired calls until the relay stops, in the process that makes the deliveries.
pub async fn expire(state: Arc<ControlPlane>) {
    let mut is_said = false;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        if state.deliveries.batch.held() == 0 {
            continue;
        }
        match round(&state).await {
            Ok(()) => is_said = false,
            Err(error) if !is_said => {
                is_said = true;
                tracing::warn!(%error, "calls do not expire: the database does not answer");
            }
            Err(_) => {}
        }
    }
}

async fn round(state: &ControlPlane) -> Result<(), StorageError> {
    let storage = &state.deliveries.storage;
    loop {
        let expired = storage.expire_calls(now_ms(), EXPIRED_AT_ONCE).await?;
        for call in &expired {
            state.deliveries.count_out(&call.tenant);
            state.metrics.delivery(CallState::Expired.as_str());
            state.audit.record(act(call)).await;
        }
        if expired.len() < EXPIRED_AT_ONCE as usize {
            return Ok(());
        }
    }
}

fn act(call: &ExpiredCall) -> AuditEvent {
    AuditEvent {
        tenant: call.tenant.clone(),
        actor: "relay".into(),
        action: "delivery",
        object: call.id.clone(),
        result: Code::Timeout.as_str(),
        execution: execution(&call.execution),
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

/// The word itself, as long as it is one.
fn execution(word: &str) -> &'static str {
    use protocol::Execution as E;
    let all = [
        E::NotSent,
        E::NotDispatched,
        E::PossiblyExecuted,
        E::Executed,
    ];
    let found = all.into_iter().find(|known| known.as_str() == word);
    found.map_or("", E::as_str)
}
