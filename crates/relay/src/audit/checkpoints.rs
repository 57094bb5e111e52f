//! Checkpoints of the bridges' audit files: a file that is altered or cut later no longer matches the
//! checkpoint that the relay has stored.
//!
//! Bridges report the heads of their files (W-64) once a minute. A head that has moved becomes a row of the
//! audit record, at most every ten minutes for each bridge: `bridge.audit_head`, with the file's id, its
//! number of lines, the hash of the last line and the bridge's signature.
//!
//! The number of a file's lines only rises. A lower one is reported when an earlier copy of the file and of its head
//! was put back, which the bridge itself cannot see: `bridge.audit_rollback`, and a warning in the log.

use super::recorder::Auditing;
use crate::registry::{TunnelEntry, TunnelOwner};
use crate::storage::audit::{AuditEvent, AuditFilter};
use crate::storage::{Storage, StorageError};
use protocol::frame::AuditHead;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often heads are stored.
const INTERVAL: Duration = Duration::from_secs(600);

/// The first time is earlier, so that a bridge that is connected only for a short time leaves a head, too.
const FIRST_AFTER: Duration = Duration::from_secs(90);

/// The action of a row with a head.
const HEAD: &str = "bridge.audit_head";

/// The newest rows of a bridge in which the last head of a file is looked up.
const RECALLED_MAX: u32 = 16;

pub(crate) use runtime::hex::encode as hex;

/// Stores heads until the relay stops. `tunnels` returns the connected ones.
pub(crate) async fn run(
    tunnels: impl Fn() -> Vec<Arc<TunnelEntry>> + Send,
    storage: Storage,
    audit: Arc<Auditing>,
) {
    let mut stored = StoredHeads::new();
    tokio::time::sleep(FIRST_AFTER).await;
    loop {
        stored = round(tunnels(), &storage, &audit, stored).await;
        tokio::time::sleep(INTERVAL).await;
    }
}

/// A bridge's id, and the id of its file.
type FileKey = (Arc<str>, [u8; 16]);

/// What was last stored of each file.
type StoredHeads = HashMap<FileKey, StoredHead>;

/// The head of a file that was stored last.
#[derive(Debug, Clone, PartialEq, Eq)]
struct StoredHead {
    /// The number of lines.
    sequence: u64,
    /// The hash of the last line, in hexadecimal.
    hash: String,
    /// When this process stored it; `None` if an earlier one did, or if no session was there since.
    at: Option<Instant>,
}

impl StoredHead {
    /// Whether the file has lost lines since. A rewritten file may have the same number again, with another last line.
    fn is_ahead_of(&self, head: &AuditHead) -> bool {
        self.sequence > head.sequence
            || (self.sequence == head.sequence && self.hash != hex(&head.hash))
    }
}

/// A head that a session has reported.
#[derive(Debug)]
struct Reported {
    owner: TunnelOwner,
    /// When the session was opened.
    since: Instant,
    head: AuditHead,
}

impl Reported {
    fn of(entry: &TunnelEntry) -> Option<Self> {
        let report = entry.session.report()?;
        Some(Self {
            owner: entry.owner.clone(),
            since: entry.since,
            head: report.audit.clone()?,
        })
    }

    fn key(&self) -> FileKey {
        (self.owner.bridge.clone(), self.head.id)
    }
}

/// Stores the heads that have moved. Returns those of the connected bridges; the others are dropped, so the
/// map is bounded by the number of tunnels.
async fn round(
    tunnels: Vec<Arc<TunnelEntry>>,
    storage: &Storage,
    audit: &Auditing,
    mut stored: StoredHeads,
) -> StoredHeads {
    let reported = tunnels.iter().filter_map(|entry| Reported::of(entry));
    let mut reported: Vec<Reported> = reported.collect();
    // Nothing is in memory of a bridge that was away, and of all bridges after a start.
    let mut new = HashSet::new();
    for head in &reported {
        let key = head.key();
        if stored.contains_key(&key) || new.contains(&key) {
            continue;
        }
        match recall(storage, &head.owner, &head.head.id).await {
            Ok(Some(last)) => {
                stored.insert(key, last);
            }
            Ok(None) => {
                new.insert(key);
            }
            Err(error) => {
                tracing::debug!(%error, "cannot read the last head of a bridge's audit file yet");
                break;
            }
        }
    }
    // After an error of the database: the next round compares the others.
    reported.retain(|head| {
        let key = head.key();
        stored.contains_key(&key) || new.contains(&key)
    });
    let (events, seen) = moved(&reported, &stored, Instant::now());
    for event in events {
        audit.record(event).await;
    }
    seen
}

/// Returns the last head of a file in the audit record.
async fn recall(
    storage: &Storage,
    owner: &TunnelOwner,
    id: &[u8; 16],
) -> Result<Option<StoredHead>, StorageError> {
    let filter = AuditFilter {
        tenant: Some(owner.tenant.to_string()),
        action: Some(HEAD.to_owned()),
        object: Some(owner.name.to_string()),
        ..AuditFilter::default()
    };
    let rows = storage.audit_rows(&filter, i64::MAX, RECALLED_MAX).await?;
    let file = hex(id);
    let mut heads = rows.iter().filter_map(|row| {
        let detail: Value = serde_json::from_str(&row.detail).ok()?;
        let head = StoredHead {
            sequence: detail["lines"].as_u64()?,
            hash: detail["hash"].as_str()?.to_owned(),
            at: None,
        };
        (detail["file"] == file.as_str()).then_some(head)
    });
    // Newest first.
    Ok(heads.next())
}

/// Returns the rows for the heads that have moved since they were stored, and what is stored then.
fn moved(
    reported: &[Reported],
    stored: &StoredHeads,
    now: Instant,
) -> (Vec<AuditEvent>, StoredHeads) {
    let mut of_file: BTreeMap<FileKey, Vec<&Reported>> = BTreeMap::new();
    for one in reported {
        of_file.entry(one.key()).or_default().push(one);
    }
    let mut events = Vec::new();
    let mut seen = StoredHeads::new();
    for (key, reports) in of_file {
        let last = stored.get(&key);
        // A bridge may have several tunnels, whose reports differ in age. Only a file of a bridge that was started again
        // can have lost lines, so an old report of a session that was open before is none.
        let later = last.and_then(|last| newest(&reports, last.at));
        let rolled_back =
            last.zip(later.filter(|later| last.is_some_and(|last| last.is_ahead_of(&later.head))));
        if let Some((last, later)) = rolled_back {
            events.push(rollback_event(&later.owner, last, &later.head));
        }
        let current = rolled_back.map(|(_, later)| later);
        let Some(current) = current.or_else(|| newest(&reports, None)) else {
            continue;
        };
        let head = &current.head;
        let is_moved = last.is_none_or(|last| head.sequence > last.sequence);
        if is_moved || rolled_back.is_some() {
            events.push(audit_event(&current.owner, head));
        }
        let kept = last.filter(|_| !is_moved && rolled_back.is_none());
        let at = Some(kept.and_then(|last| last.at).unwrap_or(now));
        let next = match kept {
            Some(last) => StoredHead { at, ..last.clone() },
            None => StoredHead {
                sequence: head.sequence,
                hash: hex(&head.hash),
                at,
            },
        };
        seen.insert(key, next);
    }
    (events, seen)
}

/// Returns the report with the most lines, of the sessions that were opened after `since`.
fn newest<'a>(reports: &[&'a Reported], since: Option<Instant>) -> Option<&'a Reported> {
    let reports = reports.iter().copied();
    let later = reports.filter(|one| since.is_none_or(|since| one.since > since));
    later.max_by_key(|one| one.head.sequence)
}

/// Returns the row for a file that has lost lines, and logs it.
fn rollback_event(owner: &TunnelOwner, last: &StoredHead, head: &AuditHead) -> AuditEvent {
    let change = match last.sequence == head.sequence {
        true => format!("line {} is another one now", head.sequence),
        false => format!(
            "it had {} lines, and now has {}",
            last.sequence, head.sequence
        ),
    };
    let detail = format!(
        "the bridge's audit file has lost lines: {change}. An earlier copy of the file and of its head was put back. To \
         see it on the bridge: integration-bridge audit verify --head {}:{}",
        last.sequence, last.hash
    );
    tracing::warn!(
        tenant_id = &*owner.tenant,
        bridge = &*owner.name,
        file = hex(&head.id),
        detail,
        "an earlier copy of a bridge's audit file was put back"
    );
    AuditEvent {
        action: "bridge.audit_rollback",
        result: "lost",
        detail: json!({
            "file": hex(&head.id),
            "lines": head.sequence,
            "hash": hex(&head.hash),
            "stored_lines": last.sequence,
            "stored_hash": last.hash,
            "detail": detail,
        })
        .to_string(),
        ..audit_event(owner, head)
    }
}

fn audit_event(owner: &TunnelOwner, head: &AuditHead) -> AuditEvent {
    AuditEvent {
        tenant: owner.tenant.clone(),
        actor: "relay".into(),
        action: HEAD,
        object: owner.name.to_string(),
        bridge: owner.name.clone(),
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
    use crate::config::Database;
    use crate::testing::TempDir;
    use protocol::frame::Bounded;

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

    /// What a session reports that was opened at `since`.
    fn report(bridge: &str, since: Instant, head: AuditHead) -> Reported {
        Reported {
            owner: owner(bridge),
            since,
            head,
        }
    }

    fn lines(events: &[AuditEvent]) -> Vec<(String, u64)> {
        let line = |event: &AuditEvent| {
            let detail: Value = serde_json::from_str(&event.detail).unwrap();
            (event.object.clone(), detail["lines"].as_u64().unwrap())
        };
        events.iter().map(line).collect()
    }

    fn actions(events: &[AuditEvent]) -> Vec<&'static str> {
        events.iter().map(|event| event.action).collect()
    }

    #[test]
    fn moved_head_is_one_row() {
        let start = Instant::now();
        let now = start + INTERVAL;
        // Two tunnels of a bridge, the older report last.
        let heads = [
            report("b1", start, head(1, 7)),
            report("b2", start, head(2, 3)),
            report("b1", start, head(1, 5)),
        ];
        let (events, stored) = moved(&heads, &StoredHeads::new(), now);
        let of = |bridge: &str, lines| (format!("name of {bridge}"), lines);
        assert_eq!(lines(&events), [of("b1", 7), of("b2", 3)]);
        let detail: Value = serde_json::from_str(&events[0].detail).unwrap();
        assert_eq!(events[0].action, "bridge.audit_head");
        assert_eq!(detail["file"], "01".repeat(16));
        assert_eq!(detail["hash"], "07".repeat(32));
        assert_eq!(detail["signature"], "09".repeat(64));
        // The same heads again, also an old report of a session that was open before, make no row.
        let heads = [
            report("b1", start, head(1, 7)),
            report("b2", start, head(2, 2)),
        ];
        let (events, stored) = moved(&heads, &stored, now + INTERVAL);
        assert!(events.is_empty(), "{events:?}");
        // The older report first.
        let heads = [
            report("b1", start, head(1, 8)),
            report("b1", start, head(1, 9)),
        ];
        let (events, stored) = moved(&heads, &stored, now + INTERVAL);
        assert_eq!(lines(&events), [of("b1", 9)]);
        // Another file of the bridge starts at its own number.
        let heads = [report("b1", now + INTERVAL, head(3, 1))];
        let (events, _) = moved(&heads, &stored, now + INTERVAL);
        assert_eq!(lines(&events), [of("b1", 1)]);
        assert_eq!(actions(&events), [HEAD]);
    }

    #[test]
    fn head_of_a_closed_bridge_is_forgotten() {
        let now = Instant::now();
        let heads = [report("b1", now, head(1, 7))];
        let (_, stored) = moved(&heads, &StoredHeads::new(), now);
        let (_, stored) = moved(&[], &stored, now);
        assert!(stored.is_empty());
        // It reconnects: the record has its head.
        let recalled = StoredHead {
            sequence: 7,
            hash: "07".repeat(32),
            at: None,
        };
        let stored = StoredHeads::from([(heads[0].key(), recalled)]);
        let (events, stored) = moved(&heads, &stored, now);
        assert!(events.is_empty(), "{events:?}");
        assert_eq!(stored[&heads[0].key()].at, Some(now));
    }

    #[test]
    fn file_that_lost_lines_is_a_row() {
        let start = Instant::now();
        let key: FileKey = (Arc::from("b1"), [1; 16]);
        let mut now = start;
        let mut stored = StoredHeads::new();
        let mut round = |heads: &[Reported]| {
            now += INTERVAL;
            let (events, seen) = moved(heads, &stored, now);
            stored = seen;
            (events, now)
        };
        let (_, stored_at) = round(&[report("b1", start, head(1, 45))]);
        // The bridge was started again with an earlier copy. An old session may still be there.
        let later = stored_at + Duration::from_secs(60);
        let (events, _) = round(&[
            report("b1", start, head(1, 45)),
            report("b1", later, head(1, 25)),
        ]);
        assert_eq!(actions(&events), ["bridge.audit_rollback", HEAD]);
        assert_eq!(events[0].result, "lost");
        let detail: Value = serde_json::from_str(&events[0].detail).unwrap();
        assert_eq!(
            (&detail["lines"], &detail["stored_lines"]),
            (&json!(25), &json!(45))
        );
        let words = detail["detail"].as_str().unwrap();
        let option = format!("--head 45:{}", "2d".repeat(32));
        assert!(words.contains(&option), "{words}");
        // From there on it is a file like any other.
        let (events, _) = round(&[report("b1", later, head(1, 25))]);
        assert!(events.is_empty(), "{events:?}");
        let (events, stored_at) = round(&[report("b1", later, head(1, 26))]);
        assert_eq!(actions(&events), [HEAD]);
        // The same number again, with another line.
        let other = AuditHead {
            hash: [0; 32],
            ..head(1, 26)
        };
        let again = stored_at + Duration::from_secs(1);
        let (events, _) = round(&[report("b1", again, other)]);
        assert_eq!(actions(&events), ["bridge.audit_rollback", HEAD]);
        assert_eq!(stored[&key].hash, "00".repeat(32));
    }

    #[tokio::test]
    async fn last_head_is_recalled_from_the_record() {
        let dir = TempDir::new("checkpoints");
        let database = Database::Sqlite(dir.path().join("relay.db"));
        let storage = Storage::open(&database).await.unwrap();
        let b1 = owner("b1");
        let none = recall(&storage, &b1, &[1; 16]).await.unwrap();
        assert_eq!(none, None);
        let heads = [head(1, 7), head(1, 9), head(2, 3)];
        let events = heads.each_ref().map(|head| audit_event(&b1, head));
        storage.audit(&events).await.unwrap();
        let last = recall(&storage, &b1, &[1; 16]).await.unwrap().unwrap();
        assert_eq!((last.sequence, last.hash), (9, "09".repeat(32)));
        let other = recall(&storage, &owner("b2"), &[1; 16]).await.unwrap();
        assert_eq!(other, None);
    }
}
