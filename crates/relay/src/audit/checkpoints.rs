//! Checkpoints of the bridges' audit files: a file that is altered or cut later no longer matches the
//! checkpoint that the relay has stored.
//!
//! Bridges report the heads of their files (W-64) once a minute. A head that has moved becomes a row of the
//! audit record, at most every ten minutes for each bridge: `bridge.audit_head`, with the file's id, its
//! number of lines, the hash of the last line and the bridge's signature.

use super::recorder::Auditing;
use crate::registry::{TunnelEntry, TunnelOwner};
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

pub(crate) use runtime::hex::encode as hex;

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
    let heads = tunnels.iter().filter_map(|entry| {
        let report = entry.session.report()?;
        Some((&entry.owner, report.audit.clone()?))
    });
    let (events, seen) = moved(heads, stored);
    for event in events {
        audit.record(event).await;
    }
    seen
}

/// Returns the rows for the heads that have moved since they were stored, and what is stored then.
fn moved<'a>(
    heads: impl Iterator<Item = (&'a TunnelOwner, AuditHead)>,
    stored: &StoredHeads,
) -> (Vec<AuditEvent>, StoredHeads) {
    // A bridge may have several tunnels, whose reports differ in age: the newest head is stored.
    let mut newest: Vec<(&TunnelOwner, AuditHead)> = Vec::new();
    let mut seen = StoredHeads::new();
    for (owner, head) in heads {
        let key = (owner.bridge.clone(), head.id);
        let last = seen.get(&key).or_else(|| stored.get(&key)).copied();
        if last.is_none_or(|last| head.sequence > last) {
            newest.retain(|(other, older)| (&other.bridge, older.id) != (&owner.bridge, head.id));
            newest.push((owner, head.clone()));
        }
        seen.insert(key, last.unwrap_or(0).max(head.sequence));
    }
    let events = newest
        .into_iter()
        .map(|(owner, head)| audit_event(&owner.tenant, &owner.name, &head));
    (events.collect(), seen)
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

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::frame::Bounded;
    use serde_json::Value;

    fn owner(bridge: &str) -> TunnelOwner {
        TunnelOwner {
            tenant: "t".into(),
            bridge: bridge.into(),
            name: format!("name of {bridge}").into(),
            identity: "i".into(),
        }
    }

    fn head(id: u8, sequence: u64) -> AuditHead {
        AuditHead {
            id: [id; 16],
            sequence,
            hash: [u8::try_from(sequence).unwrap(); 32],
            signature: Bounded::truncated([9; 64]),
        }
    }

    fn lines(events: &[AuditEvent]) -> Vec<(String, u64)> {
        let line = |event: &AuditEvent| {
            let detail: Value = serde_json::from_str(&event.detail).unwrap();
            (event.object.clone(), detail["lines"].as_u64().unwrap())
        };
        events.iter().map(line).collect()
    }

    #[test]
    fn moved_head_is_one_row() {
        let (b1, b2) = (owner("b1"), owner("b2"));
        // Two tunnels of a bridge, the older report last.
        let heads = [(&b1, head(1, 7)), (&b2, head(2, 3)), (&b1, head(1, 5))];
        let (events, stored) = moved(heads.into_iter(), &StoredHeads::new());
        let of = |bridge: &str, lines| (format!("name of {bridge}"), lines);
        assert_eq!(lines(&events), [of("b1", 7), of("b2", 3)]);
        let detail: Value = serde_json::from_str(&events[0].detail).unwrap();
        assert_eq!(events[0].action, "bridge.audit_head");
        assert_eq!(detail["file"], "01".repeat(16));
        assert_eq!(detail["hash"], "07".repeat(32));
        assert_eq!(detail["signature"], "09".repeat(64));
        // The same heads again, also an older one after a restore, make no row.
        let heads = [(&b1, head(1, 7)), (&b2, head(2, 2))];
        let (events, stored) = moved(heads.into_iter(), &stored);
        assert!(events.is_empty());
        // The older report first.
        let heads = [(&b1, head(1, 8)), (&b1, head(1, 9))];
        let (events, stored) = moved(heads.into_iter(), &stored);
        assert_eq!(lines(&events), [of("b1", 9)]);
        // Another file of the bridge starts at its own number.
        let (events, _) = moved([(&b1, head(3, 1))].into_iter(), &stored);
        assert_eq!(lines(&events), [of("b1", 1)]);
    }

    #[test]
    fn head_of_a_closed_bridge_is_forgotten() {
        let b1 = owner("b1");
        let (_, stored) = moved([(&b1, head(1, 7))].into_iter(), &StoredHeads::new());
        let (_, stored) = moved(std::iter::empty(), &stored);
        assert!(stored.is_empty());
        // It reconnects: a row at once.
        let (events, _) = moved([(&b1, head(1, 7))].into_iter(), &stored);
        assert_eq!(events.len(), 1);
    }
}
