//! Checkpoints of the bridges' audit files: a file that is altered or cut later no longer matches the
//! checkpoint that the relay has stored.
//!
//! Bridges report the heads of their files (W-64) once a minute. A head that has moved becomes a row of the
//! audit record, at most every ten minutes for each bridge: `bridge.audit_head`, with the file's id, its
//! number of lines, the hash of the last line and the bridge's signature.

use super::recorder::Auditing;
use crate::registry::TunnelEntry;
use crate::storage::audit::AuditEvent;
use protocol::frame::AuditHead;
use serde_json::json;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// How often heads are stored.
const INTERVAL: Duration = Duration::from_secs(600);

/// The first time is earlier, so that a bridge that is connected only for a short time leaves a head, too.
const FIRST_AFTER: Duration = Duration::from_secs(90);

/// Returns the bytes in hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Stores heads until the relay stops. `tunnels` returns the connected ones.
pub(crate) async fn run(tunnels: impl Fn() -> Vec<Arc<TunnelEntry>> + Send, audit: Arc<Auditing>) {
    let mut stored = StoredHeads::new();
    tokio::time::sleep(FIRST_AFTER).await;
    loop {
        stored = round(tunnels(), &audit, &stored).await;
        tokio::time::sleep(INTERVAL).await;
    }
}

/// The number of lines that was last stored, by bridge and file.
type StoredHeads = HashMap<(Arc<str>, [u8; 16]), u64>;

/// Stores the heads that have moved. Returns those of the connected bridges; the others are dropped, so the
/// map is bounded by the number of tunnels, and a bridge that reconnects gets a row at once.
async fn round(
    tunnels: Vec<Arc<TunnelEntry>>,
    audit: &Auditing,
    stored: &StoredHeads,
) -> StoredHeads {
    let mut seen = StoredHeads::new();
    for entry in tunnels {
        let Some(head) = entry
            .session
            .report()
            .and_then(|report| report.audit.clone())
        else {
            continue;
        };
        let key = (entry.owner.bridge.clone(), head.id);
        // `seen` first: a bridge may have several tunnels, whose reports differ in age.
        let last = seen.get(&key).or_else(|| stored.get(&key)).copied();
        let has_moved = last.is_none_or(|last| head.sequence > last);
        if has_moved {
            let event = audit_event(&entry.owner.tenant, &entry.owner.name, &head);
            audit.record(event).await;
        }
        seen.insert(key, last.unwrap_or(0).max(head.sequence));
    }
    seen
}

fn audit_event(tenant: &Arc<str>, bridge: &Arc<str>, head: &AuditHead) -> AuditEvent {
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
