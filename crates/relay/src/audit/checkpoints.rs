//! How far the bridges' audit files have got, written down: a file that is changed or cut later no longer
//! fits what stands here.
//!
//! Bridges tell their heads (W-64) once a minute. One that has moved is a row of the audit record, at most
//! every ten minutes for each bridge: `bridge.audit_head`, with the file's id, its lines, the hash of the
//! last one and the bridge's signature.

use crate::control_plane::ControlPlane;
use crate::storage::audit::AuditEvent;
use protocol::frame::AuditHead;
use serde_json::json;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// How often heads are written down.
const EVERY: Duration = Duration::from_secs(600);

/// The first time, so that a bridge that is there for a short time only leaves its head, too.
const FIRST_AFTER: Duration = Duration::from_secs(90);

/// Bytes in hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Writes heads down until the relay stops.
pub async fn run(state: Arc<ControlPlane>) {
    let mut written = HashMap::new();
    tokio::time::sleep(FIRST_AFTER).await;
    loop {
        round(&state, &mut written).await;
        tokio::time::sleep(EVERY).await;
    }
}

/// By bridge and file.
type Written = HashMap<(Arc<str>, [u8; 16]), u64>;

async fn round(state: &ControlPlane, written: &mut Written) {
    let mut seen = Written::new();
    for entry in state.data.registry.all() {
        let Some(head) = entry
            .session
            .report()
            .and_then(|report| report.audit.clone())
        else {
            continue;
        };
        let key = (entry.owner.bridge.clone(), head.id);
        let last = seen.get(&key).or_else(|| written.get(&key)).copied();
        let is_new = last.is_none_or(|last| head.sequence > last);
        if is_new {
            let act = act(&entry.owner.tenant, &entry.owner.name, &head);
            state.audit.record(act).await;
        }
        seen.insert(key, last.unwrap_or(0).max(head.sequence));
    }
    // Bridges that are away begin anew.
    *written = seen;
}

fn act(tenant: &Arc<str>, bridge: &Arc<str>, head: &AuditHead) -> AuditEvent {
    AuditEvent {
        tenant: tenant.clone(),
        actor: "relay".into(),
        action: "bridge.audit_head",
        object: bridge.to_string(),
        bridge: bridge.clone(),
        result: "ok",
        count: 1,
        detail: json!({
            "file": hex(&head.id),
            "lines": head.sequence,
            "hash": hex(&head.hash),
            "signature": hex(head.signature.as_slice()),
        })
        .to_string(),
        ..AuditEvent::default()
    }
}
