//! Stores rows of the audit record without delaying the requests that they are about.
//!
//! ```text
//! calls, deliveries --- one row each ---> bounded queue ---> one task, a transaction for many rows
//! endpoint exchanges, denials --- added to a sum in memory ---> stored once a minute, and at the end
//! ```
//!
//! A full queue delays a request by a few seconds at most, and not at all while the database fails. Rows
//! without room are counted as lost and logged at level ERROR. When the database works again, the count is
//! stored as a row of its own (`audit.lost`). Sums stay in memory meanwhile.

use crate::access::Principal;
use crate::denials::Denials;
use crate::exchange::{TrafficLog, TrafficSum};
use crate::storage::audit::{AuditEvent, LOST};
use crate::storage::tenants::SITE;
use crate::storage::{Storage, StorageError, StoreError, now_ms};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

/// Rows in the queue.
const QUEUED_MAX: usize = 8192;

/// Rows in one transaction.
const BATCH_MAX: usize = 500;

/// How long a batch collects rows.
const BATCH_DELAY: Duration = Duration::from_millis(100);

/// Pause after an error of the database.
const ERROR_DELAY: Duration = Duration::from_secs(1);

/// How long a request waits for room in the queue.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(5);

/// Sums in memory. Above it, exchanges of further kinds are not counted.
const SUMS_MAX: usize = 50_000;

/// Rows that are deleted in one transaction.
const DELETED_PER_TRANSACTION: u32 = 500;

/// How often old rows are deleted.
const DELETE_INTERVAL: Duration = Duration::from_secs(600);

#[derive(Debug)]
struct Row {
    endpoint: Box<str>,
    bridge: Arc<str>,
    result: &'static str,
    sum: Arc<TrafficSum>,
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
    /// Sent when everything before it is stored.
    Flush(oneshot::Sender<()>),
}

/// Stores the audit record.
#[derive(Debug)]
pub(crate) struct Auditing {
    queue: mpsc::Sender<Message>,
    sums: Mutex<Sums>,
    /// Denials that are not stored yet.
    pub denials: Denials,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Number of lost rows since the start.
    lost: AtomicU64,
    /// Whether the database currently fails to store rows.
    is_failing: AtomicBool,
}

impl Shared {
    fn lose(&self, rows: u64) {
        // Logged once; the metric and the record have the number.
        if self.lost.fetch_add(rows, Ordering::Relaxed) == 0 {
            tracing::error!("losing rows of the audit record: the database cannot store them");
        }
    }
}

impl Auditing {
    /// Starts to store rows, and to delete those older than `keep`.
    pub(crate) fn start(storage: Storage, sums_every: Duration, keep: Duration) -> Arc<Self> {
        let (queue, waiting) = mpsc::channel(QUEUED_MAX);
        let shared = Arc::new(Shared::default());
        tokio::spawn(write(storage.clone(), waiting, shared.clone()));
        let auditing = Arc::new(Self {
            queue,
            sums: Mutex::default(),
            denials: Denials::default(),
            shared,
        });
        tokio::spawn(summing(
            // Weak: the task ends with the recorder instead of keeping it alive.
            Arc::downgrade(&auditing),
            storage,
            sums_every,
            keep,
        ));
        auditing
    }

    /// Adds a row, and waits for room. When this returns, the row will be stored or is counted as lost.
    pub(crate) async fn record(&self, event: AuditEvent) {
        let event = AuditEvent {
            at_ms: now_ms(),
            ..event
        };
        let message = Message::AuditEvent(Box::new(event));
        let sent = match self.queue.try_send(message) {
            Ok(()) => return,
            // The queue does not drain while the database fails, so waiting would only delay the request.
            Err(_) if self.shared.is_failing.load(Ordering::Relaxed) => {
                self.shared.lose(1);
                return;
            }
            Err(error) => {
                let message = error.into_inner();
                tokio::time::timeout(QUEUE_TIMEOUT, self.queue.send(message)).await
            }
        };
        if !matches!(sent, Ok(Ok(()))) {
            self.shared.lose(1);
        }
    }

    /// Rows that were lost since the start.
    pub(crate) fn lost(&self) -> u64 {
        self.shared.lost.load(Ordering::Relaxed)
    }

    /// Stores the sums, and waits until everything is stored.
    pub(crate) async fn flush(&self) {
        for event in self.sums() {
            self.record(event).await;
        }
        for event in self.denials.take_events(Instant::now(), true) {
            self.record(event).await;
        }
        let (done, waiting) = oneshot::channel();
        if self.queue.send(Message::Flush(done)).await.is_ok() {
            // Bounded, so that a failing database does not delay the shutdown.
            let _ = tokio::time::timeout(QUEUE_TIMEOUT, waiting).await;
        }
    }

    fn sums(&self) -> Vec<AuditEvent> {
        let mut sums = self.sums.lock().unwrap_or_else(PoisonError::into_inner);
        let mut events = Vec::new();
        for (client_id, of_key) in &sums.by_key {
            for row in &of_key.rows {
                let Some([count, up, down, took_us]) = row.sum.take() else {
                    continue;
                };
                events.push(AuditEvent {
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
        // A sum that no exchange holds is created again when it is needed.
        let mut kept = 0;
        for of_key in sums.by_key.values_mut() {
            of_key.rows.retain(|row| Arc::strong_count(&row.sum) > 1);
            kept += of_key.rows.len();
        }
        sums.by_key.retain(|_, of_key| !of_key.rows.is_empty());
        sums.count = kept;
        events
    }
}

impl TrafficLog for Auditing {
    fn endpoint(
        &self,
        principal: &Principal,
        endpoint: &str,
        bridge: &Arc<str>,
        result: &'static str,
    ) -> Arc<TrafficSum> {
        let mut sums = self.sums.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |row: &&Row| {
            row.result == result && *row.endpoint == *endpoint && row.bridge == *bridge
        };
        if let Some(of_key) = sums.by_key.get(&principal.client_id)
            && let Some(row) = of_key.rows.iter().find(fits)
        {
            return row.sum.clone();
        }
        let sum = Arc::new(TrafficSum::default());
        if sums.count >= SUMS_MAX {
            // Callers can invent any number of endpoint names. Beyond the bound their exchanges have no row.
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
}

async fn write(storage: Storage, mut waiting: mpsc::Receiver<Message>, shared: Arc<Shared>) {
    // Lost rows that the record already has.
    let mut recorded = 0;
    let mut messages = Vec::with_capacity(BATCH_MAX);
    while waiting.recv_many(&mut messages, BATCH_MAX).await > 0 {
        let has_flush = |all: &[Message]| all.iter().any(|m| matches!(m, Message::Flush(_)));
        // A short wait makes one transaction of many rows; a flush must not wait.
        if messages.len() < BATCH_MAX && !has_flush(&messages) {
            tokio::time::sleep(BATCH_DELAY).await;
            let room = BATCH_MAX - messages.len();
            let _ =
                tokio::time::timeout(Duration::ZERO, waiting.recv_many(&mut messages, room)).await;
        }
        let mut events = Vec::with_capacity(messages.len());
        let mut flushes = Vec::new();
        for message in messages.drain(..) {
            match message {
                Message::AuditEvent(event) => events.push(*event),
                Message::Flush(done) => flushes.push(done),
            }
        }
        let lost = shared.lost.load(Ordering::Relaxed);
        if lost > recorded && !events.is_empty() {
            events.push(lost_rows(lost - recorded));
            recorded = lost;
        }
        write_all(&storage, &events, &shared).await;
        for done in flushes {
            let _ = done.send(());
        }
    }
}

/// Returns the row that records how many are missing.
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

/// Stores rows, and retries while the database fails.
async fn write_all(storage: &Storage, events: &[AuditEvent], shared: &Shared) {
    while !events.is_empty() {
        match storage.audit(events).await {
            Ok(()) => break,
            // The database works but rejects one of the rows: they are stored one by one, so that only that
            // row is lost.
            Err(error) if !is_passing(&error) && events.len() > 1 => {
                for event in events {
                    Box::pin(write_all(storage, std::slice::from_ref(event), shared)).await;
                }
                break;
            }
            Err(error) if !is_passing(&error) => {
                tracing::error!(%error, "the database rejects a row of the audit record");
                shared.lose(1);
                break;
            }
            Err(error) => {
                if !shared.is_failing.swap(true, Ordering::Relaxed) {
                    tracing::error!(%error, "cannot store the audit record; retrying");
                }
                tokio::time::sleep(ERROR_DELAY).await;
            }
        }
    }
    if !events.is_empty() && shared.is_failing.swap(false, Ordering::Relaxed) {
        tracing::info!("the audit record is stored again");
    }
}

/// Returns whether a retry of the same rows can succeed.
fn is_passing(error: &StorageError) -> bool {
    matches!(
        error,
        StorageError::Store(StoreError::Unavailable(_) | StoreError::OutcomeUnknown(_))
    )
}

/// Stores the sums at intervals, and deletes old rows.
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
            for event in auditing.sums() {
                auditing.record(event).await;
            }
        }
        for event in auditing.denials.take_events(Instant::now(), false) {
            auditing.record(event).await;
        }
        drop(auditing);
        if forgotten.elapsed() >= DELETE_INTERVAL {
            forgotten = tokio::time::Instant::now();
            let kept_ms = i64::try_from(keep.as_millis()).unwrap_or(i64::MAX);
            let before = now_ms().saturating_sub(kept_ms);
            while matches!(storage.forget_audit(before, DELETED_PER_TRANSACTION).await, Ok(gone) if gone > 0)
            {
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::KeyScope;
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
    async fn exchanges_are_summed_and_calls_are_rows() {
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
            sum.responded(Duration::from_millis(2), 10);
            sum.received(100);
        }
        for n in 0..3 {
            let event = AuditEvent {
                tenant: "t".into(),
                actor: "k1".into(),
                action: "call",
                object: format!("call_{n}"),
                result: "ok",
                count: 1,
                ..AuditEvent::default()
            };
            auditing.record(event).await;
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
        // Nothing is stored twice, and sums that no exchange holds are dropped.
        auditing.flush().await;
        assert_eq!(of("endpoint").await.len(), 3);
        assert_eq!(auditing.lost(), 0);
    }

    /// While the database fails, a request loses its row instead of its time. Afterwards the record has the
    /// number of missing rows.
    #[tokio::test]
    async fn lost_rows_are_counted_in_the_record() {
        let disk = support::SmallDisk::mount(32 << 20);
        let database = Database::Sqlite(disk.path().join("relay.db"));
        let storage = Storage::open(&database).await.unwrap();
        let long = Duration::from_secs(3600);
        let auditing = Auditing::start(storage.clone(), long, long);
        let event = |number: usize| AuditEvent {
            tenant: "t".into(),
            actor: "k1".into(),
            action: "call",
            // Larger than the space that a checkpoint of SQLite may leave free in its log.
            object: format!("{number} {}", "x".repeat(1_000)),
            result: "ok",
            count: 1,
            ..AuditEvent::default()
        };
        disk.fill();
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        while !auditing.shared.is_failing.load(Ordering::Relaxed) {
            assert!(tokio::time::Instant::now() < deadline);
            auditing.record(event(0)).await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let began = tokio::time::Instant::now();
        for number in 0..QUEUED_MAX + BATCH_MAX + 300 {
            auditing.record(event(number)).await;
        }
        assert!(
            began.elapsed() < QUEUE_TIMEOUT,
            "a request waits for the audit record"
        );
        let lost = auditing.lost();
        assert!(lost >= 300, "{lost}");
        disk.free();
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        loop {
            auditing.record(event(0)).await;
            auditing.flush().await;
            let (rows, recorded) = storage.audit_totals().await.unwrap();
            if recorded > 0 {
                assert!(rows > i64::try_from(QUEUED_MAX).unwrap(), "{rows}");
                assert_eq!(u64::try_from(recorded).unwrap(), auditing.lost());
                break;
            }
            assert!(tokio::time::Instant::now() < deadline, "{rows} rows");
        }
        let (_, recorded) = storage.audit_totals().await.unwrap();
        assert_eq!(u64::try_from(recorded).unwrap(), auditing.lost());
    }
}
