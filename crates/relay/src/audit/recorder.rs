//! What is written into the audit record while requests run, without holding them up.
//!
//! ```text
//! calls, deliveries --- a row each ---> bounded queue ---> one task, a transaction for many rows
//! endpoint exchanges, denials --- added to a sum in memory ---> written once a minute, and at the end
//! ```
//!
//! A full queue makes a request wait for a few seconds at most, and not at all while the database
//! takes nothing. What then has no room is counted as lost and said at level ERROR; when the database
//! takes rows again, the count is written as a row of its own (`audit.lost`). Sums wait in memory.

use crate::auth::Principal;
use crate::denials::Denials;
use crate::storage::audit::{AuditEvent, LOST};
use crate::storage::tenants::SITE;
use crate::storage::{Storage, StorageError, StoreError, now_ms};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

/// Rows that wait to be written.
const WAITING_MAX: usize = 8192;

/// Rows of one transaction.
const BATCH_MAX: usize = 500;

/// How long a batch gathers.
const GATHER: Duration = Duration::from_millis(100);

/// After a failure of the database.
const AGAIN: Duration = Duration::from_secs(1);

/// How long somebody waits for room.
const PATIENCE: Duration = Duration::from_secs(5);

/// Different sums in memory; beyond, a row is written at once.
const SUMS_MAX: usize = 50_000;

/// Rows that are deleted in one transaction.
const FORGOTTEN_AT_ONCE: u32 = 500;

/// How often rows that are too old are deleted.
const FORGET_EVERY: Duration = Duration::from_secs(600);

/// What exchanges of one kind add up to.
#[derive(Debug, Default)]
pub struct Sum {
    count: AtomicU64,
    up: AtomicU64,
    down: AtomicU64,
    took_us: AtomicU64,
}

impl Sum {
    /// An exchange was answered, after so long.
    pub fn answered(&self, took: Duration, up: u64) {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.up.fetch_add(up, Ordering::Relaxed);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.took_us.fetch_add(micros, Ordering::Relaxed);
    }

    /// Bytes went towards the target, behind the head.
    pub fn sent(&self, bytes: u64) {
        self.up.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes came back.
    pub fn received(&self, bytes: u64) {
        self.down.fetch_add(bytes, Ordering::Relaxed);
    }

    /// What there is, which is then nobody's any more.
    fn take(&self) -> Option<[u64; 4]> {
        let taken = [&self.count, &self.up, &self.down, &self.took_us]
            .map(|number| number.swap(0, Ordering::Relaxed));
        taken.iter().any(|number| *number > 0).then_some(taken)
    }
}

#[derive(Debug)]
struct Row {
    endpoint: Box<str>,
    bridge: Arc<str>,
    result: &'static str,
    sum: Arc<Sum>,
}

#[derive(Debug)]
struct OfKey {
    tenant: Arc<str>,
    rows: Vec<Row>,
}

#[derive(Debug, Default)]
struct Sums {
    by_key: HashMap<Arc<str>, OfKey>,
    count: usize,
}

enum Message {
    AuditEvent(Box<AuditEvent>),
    /// Answers when everything before is written.
    Flush(oneshot::Sender<()>),
}

/// Writes the audit record of what runs.
#[derive(Debug)]
pub struct Auditing {
    queue: mpsc::Sender<Message>,
    sums: Mutex<Sums>,
    /// What was denied, until it is written.
    pub denials: Denials,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Rows that were lost since the start.
    lost: AtomicU64,
    /// The database takes nothing now.
    is_failing: AtomicBool,
}

impl Shared {
    fn lose(&self, rows: u64) {
        if self.lost.fetch_add(rows, Ordering::Relaxed) == 0 {
            tracing::error!("rows of the audit record are lost: the database takes none");
        }
    }
}

impl Auditing {
    /// Begins to write, and to delete what is older than `keep`.
    pub fn start(storage: Storage, sums_every: Duration, keep: Duration) -> Arc<Self> {
        let (queue, waiting) = mpsc::channel(WAITING_MAX);
        let shared = Arc::new(Shared::default());
        tokio::spawn(write(storage.clone(), waiting, shared.clone()));
        let auditing = Arc::new(Self {
            queue,
            sums: Mutex::default(),
            denials: Denials::default(),
            shared,
        });
        tokio::spawn(summing(
            Arc::downgrade(&auditing),
            storage,
            sums_every,
            keep,
        ));
        auditing
    }

    /// Adds a row. Waits for room; when this returns, it will be written, or is counted as lost.
    pub async fn record(&self, act: AuditEvent) {
        let act = AuditEvent {
            at_ms: now_ms(),
            ..act
        };
        let message = Message::AuditEvent(Box::new(act));
        let sent = match self.queue.try_send(message) {
            Ok(()) => return,
            // Nothing leaves the queue: the request does not wait in vain.
            Err(_) if self.shared.is_failing.load(Ordering::Relaxed) => {
                self.shared.lose(1);
                return;
            }
            Err(error) => {
                let message = error.into_inner();
                tokio::time::timeout(PATIENCE, self.queue.send(message)).await
            }
        };
        if !matches!(sent, Ok(Ok(()))) {
            self.shared.lose(1);
        }
    }

    /// The sum that an endpoint exchange belongs to.
    pub fn endpoint(
        &self,
        principal: &Principal,
        endpoint: &str,
        bridge: &Arc<str>,
        result: &'static str,
    ) -> Arc<Sum> {
        let mut sums = self.sums.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |row: &&Row| {
            row.result == result && *row.endpoint == *endpoint && row.bridge == *bridge
        };
        if let Some(of_key) = sums.by_key.get(&principal.client_id)
            && let Some(row) = of_key.rows.iter().find(fits)
        {
            return row.sum.clone();
        }
        let sum = Arc::new(Sum::default());
        if sums.count >= SUMS_MAX {
            // Names that somebody makes up; they all end alike.
            return sum;
        }
        sums.count += 1;
        let of_key = sums.by_key.entry(principal.client_id.clone());
        let of_key = of_key.or_insert_with(|| OfKey {
            tenant: principal.tenant.clone(),
            rows: Vec::new(),
        });
        of_key.rows.push(Row {
            endpoint: endpoint.into(),
            bridge: bridge.clone(),
            result,
            sum: sum.clone(),
        });
        sum
    }

    /// Rows that were lost since the start.
    pub fn lost(&self) -> u64 {
        self.shared.lost.load(Ordering::Relaxed)
    }

    /// Writes the sums as they are, and waits until everything is written.
    pub async fn flush(&self) {
        for act in self.sums() {
            self.record(act).await;
        }
        for act in self.denials.acts(Instant::now(), true) {
            self.record(act).await;
        }
        let (done, waiting) = oneshot::channel();
        if self.queue.send(Message::Flush(done)).await.is_ok() {
            let _ = tokio::time::timeout(PATIENCE, waiting).await;
        }
    }

    fn sums(&self) -> Vec<AuditEvent> {
        let mut sums = self.sums.lock().unwrap_or_else(PoisonError::into_inner);
        let mut acts = Vec::new();
        for (client_id, of_key) in &sums.by_key {
            for row in &of_key.rows {
                let Some([count, up, down, took_us]) = row.sum.take() else {
                    continue;
                };
                acts.push(AuditEvent {
                    tenant: of_key.tenant.clone(),
                    actor: client_id.clone(),
                    action: "endpoint",
                    object: row.endpoint.to_string(),
                    bridge: row.bridge.clone(),
                    result: row.result,
                    bytes_up: up,
                    bytes_down: down,
                    took_ms: took_us / 1000,
                    count,
                    ..AuditEvent::default()
                });
            }
        }
        // Those that nobody holds begin anew when they are needed.
        let mut kept = 0;
        for of_key in sums.by_key.values_mut() {
            of_key.rows.retain(|row| Arc::strong_count(&row.sum) > 1);
            kept += of_key.rows.len();
        }
        sums.by_key.retain(|_, of_key| !of_key.rows.is_empty());
        sums.count = kept;
        acts
    }
}

async fn write(storage: Storage, mut waiting: mpsc::Receiver<Message>, shared: Arc<Shared>) {
    // Of the lost ones, those that the record says.
    let mut said = 0;
    let mut messages = Vec::with_capacity(BATCH_MAX);
    while waiting.recv_many(&mut messages, BATCH_MAX).await > 0 {
        let has_flush = |all: &[Message]| all.iter().any(|m| matches!(m, Message::Flush(_)));
        if messages.len() < BATCH_MAX && !has_flush(&messages) {
            tokio::time::sleep(GATHER).await;
            let room = BATCH_MAX - messages.len();
            let _ =
                tokio::time::timeout(Duration::ZERO, waiting.recv_many(&mut messages, room)).await;
        }
        let mut acts = Vec::with_capacity(messages.len());
        let mut flushes = Vec::new();
        for message in messages.drain(..) {
            match message {
                Message::AuditEvent(act) => acts.push(*act),
                Message::Flush(done) => flushes.push(done),
            }
        }
        let lost = shared.lost.load(Ordering::Relaxed);
        if lost > said && !acts.is_empty() {
            acts.push(lost_rows(lost - said));
            said = lost;
        }
        write_all(&storage, &acts, &shared).await;
        for done in flushes {
            let _ = done.send(());
        }
    }
}

/// The row that says how many there are not.
fn lost_rows(count: u64) -> AuditEvent {
    AuditEvent {
        at_ms: now_ms(),
        tenant: SITE.into(),
        actor: "relay".into(),
        action: LOST,
        object: "audit".to_owned(),
        result: "lost",
        count,
        ..AuditEvent::default()
    }
}

/// Writes rows, and does not give up while the database cannot.
async fn write_all(storage: &Storage, acts: &[AuditEvent], shared: &Shared) {
    while !acts.is_empty() {
        match storage.audit(acts).await {
            Ok(()) => break,
            // The database works and does not take one of them: the others do not wait for that.
            Err(error) if !is_passing(&error) && acts.len() > 1 => {
                for act in acts {
                    Box::pin(write_all(storage, std::slice::from_ref(act), shared)).await;
                }
                break;
            }
            Err(error) if !is_passing(&error) => {
                tracing::error!(%error, "the database does not take a row of the audit record");
                shared.lose(1);
                break;
            }
            Err(error) => {
                if !shared.is_failing.swap(true, Ordering::Relaxed) {
                    tracing::error!(%error, "the audit record cannot be written; it waits");
                }
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
    if !acts.is_empty() && shared.is_failing.swap(false, Ordering::Relaxed) {
        tracing::info!("the audit record is written again");
    }
}

/// Whether the same rows may be taken later.
fn is_passing(error: &StorageError) -> bool {
    matches!(
        error,
        StorageError::Store(StoreError::Unavailable(_) | StoreError::OutcomeUnknown(_))
    )
}

/// Writes the sums now and then, and forgets what is too old.
async fn summing(
    auditing: std::sync::Weak<Auditing>,
    storage: Storage,
    every: Duration,
    keep: Duration,
) {
    let mut forgotten = tokio::time::Instant::now();
    loop {
        tokio::time::sleep(every).await;
        let Some(auditing) = auditing.upgrade() else {
            return;
        };
        if !auditing.shared.is_failing.load(Ordering::Relaxed) {
            for act in auditing.sums() {
                auditing.record(act).await;
            }
        }
        for act in auditing.denials.acts(Instant::now(), false) {
            auditing.record(act).await;
        }
        drop(auditing);
        if forgotten.elapsed() >= FORGET_EVERY {
            forgotten = tokio::time::Instant::now();
            let kept_ms = i64::try_from(keep.as_millis()).unwrap_or(i64::MAX);
            let before = now_ms().saturating_sub(kept_ms);
            while matches!(storage.forget_audit(before, FORGOTTEN_AT_ONCE).await, Ok(gone) if gone > 0)
            {
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::KeyScope;
    use crate::config::Database;
    use crate::storage::audit::AuditFilter;
    use crate::storage::{Existing, Role};
    use crate::testing::TempDir;

    fn principal(client_id: &str) -> Principal {
        Principal {
            tenant: "t".into(),
            tenant_name: "acme".into(),
            client_id: client_id.into(),
            role: Role::Synchronizer,
            existing: Existing::Refuse,
            scope: Arc::new(KeyScope::default()),
        }
    }

    #[tokio::test]
    async fn exchanges_are_one_row_for_each_kind_and_calls_a_row_each() {
        let dir = TempDir::new("auditing");
        let database = Database::Sqlite(dir.path().join("relay.db"));
        let storage = Storage::open(&database).await.unwrap();
        let long = Duration::from_secs(3600);
        let auditing = Auditing::start(storage.clone(), long, long);
        let bridge: Arc<str> = "b1".into();
        for (key, result) in [
            ("k1", "ok"),
            ("k1", "ok"),
            ("k1", "target_closed"),
            ("k2", "ok"),
        ] {
            let sum = auditing.endpoint(&principal(key), "alm", &bridge, result);
            sum.answered(Duration::from_millis(2), 10);
            sum.received(100);
        }
        for n in 0..3 {
            let act = AuditEvent {
                tenant: "t".into(),
                actor: "k1".into(),
                action: "call",
                object: format!("call_{n}"),
                result: "ok",
                count: 1,
                ..AuditEvent::default()
            };
            auditing.record(act).await;
        }
        auditing.flush().await;
        let of = |action: &str| {
            let (storage, action) = (storage.clone(), action.to_owned());
            async move {
                let filter = AuditFilter {
                    action: Some(action),
                    ..AuditFilter::default()
                };
                storage.audit_rows(&filter, i64::MAX, 100).await.unwrap()
            }
        };
        assert_eq!(of("call").await.len(), 3);
        let mut sums: Vec<_> = of("endpoint")
            .await
            .into_iter()
            .map(|row| {
                (
                    row.actor,
                    row.result,
                    row.count,
                    row.bytes_up,
                    row.bytes_down,
                )
            })
            .collect();
        sums.sort();
        assert_eq!(
            sums,
            [
                ("k1".to_owned(), "ok".to_owned(), 2, 20, 200),
                ("k1".to_owned(), "target_closed".to_owned(), 1, 10, 100),
                ("k2".to_owned(), "ok".to_owned(), 1, 10, 100),
            ]
        );
        // Nothing is written twice, and nothing of what nobody uses is kept.
        auditing.flush().await;
        assert_eq!(of("endpoint").await.len(), 3);
        assert_eq!(auditing.lost(), 0);
    }

    /// While the database takes nothing a request loses its row instead of its time; afterwards the
    /// record says how many there are not.
    #[tokio::test]
    async fn rows_that_are_lost_are_counted_in_the_record() {
        let disk = support::SmallDisk::mount(32 << 20);
        let database = Database::Sqlite(disk.path().join("relay.db"));
        let storage = Storage::open(&database).await.unwrap();
        let long = Duration::from_secs(3600);
        let auditing = Auditing::start(storage.clone(), long, long);
        let act = |number: usize| AuditEvent {
            tenant: "t".into(),
            actor: "k1".into(),
            action: "call",
            // Too large for what a checkpoint may leave free in the log.
            object: format!("{number} {}", "x".repeat(1_000)),
            result: "ok",
            count: 1,
            ..AuditEvent::default()
        };
        disk.fill();
        let patience = tokio::time::Instant::now() + Duration::from_secs(60);
        while !auditing.shared.is_failing.load(Ordering::Relaxed) {
            assert!(tokio::time::Instant::now() < patience);
            auditing.record(act(0)).await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let began = tokio::time::Instant::now();
        for number in 0..WAITING_MAX + BATCH_MAX + 300 {
            auditing.record(act(number)).await;
        }
        assert!(began.elapsed() < PATIENCE, "a request waits for the record");
        let lost = auditing.lost();
        assert!(lost >= 300, "{lost}");
        disk.free();
        let patience = tokio::time::Instant::now() + Duration::from_secs(60);
        loop {
            auditing.record(act(0)).await;
            auditing.flush().await;
            let (rows, said) = storage.audit_totals().await.unwrap();
            if said > 0 {
                assert!(rows > i64::try_from(WAITING_MAX).unwrap(), "{rows}");
                assert_eq!(u64::try_from(said).unwrap(), auditing.lost());
                break;
            }
            assert!(tokio::time::Instant::now() < patience, "{rows} rows");
        }
        let (_, said) = storage.audit_totals().await.unwrap();
        assert_eq!(u64::try_from(said).unwrap(), auditing.lost());
    }
}
