//! Stores rows of the audit record without delaying the requests that they are about.
//!
//! ```text
//! calls, deliveries --- one row each ---> bounded queue ---> one task, a transaction for many rows
//! calls and deliveries of which nothing was sent, beyond a tenant's budget of rows --- added to the sums of denials
//! endpoint exchanges, denials --- added to a sum in memory ---> stored once a minute, and at the end
//! ```
//!
//! A full queue delays a request by a few seconds at most, and not at all while the database fails. Rows
//! without room are counted as lost and logged at level ERROR. When the database works again, the count is
//! stored as a row of its own (`audit.lost`). Sums stay in memory meanwhile.

use crate::access::Principal;
use crate::denials::{Denials, Denied, DeniedClient};
use crate::exchange::{TrafficLog, TrafficSum};
use crate::storage::audit::{AuditEvent, LOST};
use crate::storage::tenants::SITE;
use crate::storage::{Storage, StorageError, StoreError, now_ms};
use protocol::Execution;
use runtime::limit::{Refill, TokenBucket};
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

/// Sums in memory. Exchanges of further kinds are summed by key and result alone.
const SUMS_MAX: usize = 50_000;

/// Sums of one tenant: callers can invent any number of names, and must leave room for other tenants.
const SUMS_PER_TENANT_MAX: usize = 5_000;

/// Replaces the endpoint in a sum beyond the bounds.
const OTHERS: &str = "(others)";

/// Rows that a tenant may cause at once, and then in the long run, by calls and deliveries of which nothing was sent.
const UNSENT: Refill = Refill {
    per_second: 0.5,
    burst: 300.0,
};

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
    /// Number of sums of each tenant.
    of_tenant: HashMap<Arc<str>, usize>,
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
    /// The tenants' budgets of rows for calls and deliveries of which nothing was sent. A full one is the same as none.
    unsent: Mutex<HashMap<Arc<str>, TokenBucket>>,
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
    /// Starts to store rows.
    pub(crate) fn start(storage: Storage, sums_every: Duration) -> Arc<Self> {
        let (queue, waiting) = mpsc::channel(QUEUED_MAX);
        let shared = Arc::new(Shared::default());
        tokio::spawn(write(storage, waiting, shared.clone()));
        let auditing = Arc::new(Self {
            queue,
            sums: Mutex::default(),
            unsent: Mutex::default(),
            denials: Denials::default(),
            shared,
        });
        tokio::spawn(summing(
            // Weak: the task ends with the recorder instead of keeping it alive.
            Arc::downgrade(&auditing),
            sums_every,
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

    /// Adds a row for a call that has ended. One that the target certainly did not receive cost its caller nothing, so
    /// its tenant has a budget of such rows.
    pub(crate) async fn record_call(
        &self,
        principal: &Principal,
        execution: Execution,
        event: AuditEvent,
    ) {
        match execution.is_safe_to_repeat() {
            true => {
                let client = DeniedClient::of(principal);
                self.record_unsent(Denied::Call, client, event).await;
            }
            false => self.record(event).await,
        }
    }

    /// Adds a row for an attempt of a delivery, or for a delivery that expired. If the target certainly received
    /// nothing, it shares the budget of calls: a key can have any number of deliveries refused. `execution` is `None` if
    /// no attempt was made.
    pub(crate) async fn record_delivery(&self, execution: Option<Execution>, event: AuditEvent) {
        match execution.is_none_or(Execution::is_safe_to_repeat) {
            true => {
                let client = DeniedClient {
                    tenant: event.tenant.clone(),
                    ..DeniedClient::default()
                };
                self.record_unsent(Denied::Delivery, client, event).await;
            }
            false => self.record(event).await,
        }
    }

    /// Adds a row for a request of which nothing was sent, within its tenant's budget. Beyond it the request is counted:
    /// a key could otherwise fill the record with requests that cost it nothing.
    async fn record_unsent(&self, denied: Denied, client: DeniedClient, event: AuditEvent) {
        let has_budget = {
            let now = Instant::now();
            let mut unsent = self.unsent.lock().unwrap_or_else(PoisonError::into_inner);
            let budget = unsent.entry(client.tenant.clone());
            let budget = budget.or_insert_with(|| TokenBucket::full(UNSENT, now));
            budget.take(UNSENT, now).is_ok()
        };
        match has_budget {
            true => self.record(event).await,
            false => self.denials.count_unsent(denied, event.result, client),
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

    fn forget_full_budgets(&self) {
        let now = Instant::now();
        let mut unsent = self.unsent.lock().unwrap_or_else(PoisonError::into_inner);
        unsent.retain(|_, budget| !budget.is_full(UNSENT, now));
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
        let mut kept = HashMap::<Arc<str>, usize>::new();
        for of_key in sums.by_key.values_mut() {
            of_key.rows.retain(|row| Arc::strong_count(&row.sum) > 1);
            *kept.entry(of_key.tenant.clone()).or_default() += of_key.rows.len();
        }
        sums.by_key.retain(|_, of_key| !of_key.rows.is_empty());
        kept.retain(|_, rows| *rows > 0);
        sums.count = kept.values().sum();
        sums.of_tenant = kept;
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
        let find = |sums: &Sums, endpoint: &str, bridge: &str| {
            let of_key = sums.by_key.get(&principal.client_id)?;
            let row = of_key.rows.iter().find(|row| {
                row.result == result && *row.endpoint == *endpoint && *row.bridge == *bridge
            });
            row.map(|row| row.sum.clone())
        };
        if let Some(sum) = find(&sums, endpoint, bridge) {
            return sum;
        }
        let of_tenant = sums.of_tenant.get(&principal.tenant).copied();
        let is_full =
            sums.count >= SUMS_MAX || of_tenant.unwrap_or_default() >= SUMS_PER_TENANT_MAX;
        let (endpoint, bridge) = match is_full {
            false => (endpoint, bridge.clone()),
            true => {
                // Bounded without a further check: a key has one such sum for each result.
                if let Some(sum) = find(&sums, OTHERS, "") {
                    return sum;
                }
                (OTHERS, Arc::default())
            }
        };
        let sum = Arc::new(TrafficSum::default());
        sums.count += 1;
        *sums.of_tenant.entry(principal.tenant.clone()).or_default() += 1;
        let of_key = sums.by_key.entry(principal.client_id.clone());
        let of_key = of_key.or_insert_with(|| OfKey {
            tenant: principal.tenant.clone(),
            rows: Vec::new(),
        });
        of_key.rows.push(Row {
            endpoint: endpoint.into(),
            bridge,
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

/// Stores the sums at intervals.
async fn summing(auditing: std::sync::Weak<Auditing>, every: Duration) {
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
        auditing.forget_full_budgets();
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
        let auditing = Auditing::start(storage.clone(), long);
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

    #[tokio::test]
    async fn invented_names_lose_no_exchange() {
        let dir = TempDir::new("auditing-names");
        let database = Database::Sqlite(dir.path().join("relay.db"));
        let storage = Storage::open(&database).await.unwrap();
        let long = Duration::from_secs(3600);
        let auditing = Auditing::start(storage, long);
        let bridge: Arc<str> = "b1".into();
        let other = Principal {
            tenant: "other".into(),
            ..principal("k2")
        };
        let names = SUMS_PER_TENANT_MAX + 700;
        for number in 0..names {
            let name = format!("invented-{number}");
            let sum = auditing.endpoint(&principal("k1"), &name, &bridge, "not_served");
            sum.responded(Duration::from_millis(1), 1);
        }
        let sum = auditing.endpoint(&other, "alm", &bridge, "ok");
        sum.responded(Duration::from_millis(1), 1);
        let events = auditing.sums();
        let counts = |tenant: &str| {
            let of = events.iter().filter(|event| &*event.tenant == tenant);
            of.map(|event| event.count).sum::<u64>()
        };
        assert_eq!(counts("t"), names as u64);
        assert_eq!(counts("other"), 1);
        let merged = events.iter().find(|event| event.object == OTHERS).unwrap();
        assert_eq!((merged.count, &*merged.bridge), (700, ""));
        assert_eq!(events.len(), SUMS_PER_TENANT_MAX + 2);
    }

    #[tokio::test]
    async fn flood_of_unsent_calls_is_few_rows() {
        let dir = TempDir::new("auditing-unsent");
        let database = Database::Sqlite(dir.path().join("relay.db"));
        let storage = Storage::open(&database).await.unwrap();
        let long = Duration::from_secs(3600);
        let auditing = Auditing::start(storage.clone(), long);
        let event = |tenant: &Arc<str>, number: usize| AuditEvent {
            tenant: tenant.clone(),
            actor: "k1".into(),
            action: "call",
            object: format!("call_{number}"),
            result: "refused_by_policy",
            count: 1,
            ..AuditEvent::default()
        };
        let flooding = principal("k1");
        let other = Principal {
            tenant: "other".into(),
            ..principal("k2")
        };
        for number in 0..2000 {
            let event = event(&flooding.tenant, number);
            let execution = Execution::NotSent;
            auditing.record_call(&flooding, execution, event).await;
        }
        let own = event(&other.tenant, 1);
        let execution = Execution::NotSent;
        auditing.record_call(&other, execution, own).await;
        auditing.flush().await;
        let filter = AuditFilter::default();
        let rows = storage.audit_rows(&filter, i64::MAX, 10_000).await.unwrap();
        let of = |tenant: &str| {
            let counts = rows.iter().filter(|row| row.tenant == tenant);
            counts.map(|row| row.count).collect::<Vec<_>>()
        };
        assert_eq!(of("other"), [1]);
        assert!(of("t").len() <= 310, "{} rows", of("t").len());
        assert_eq!(of("t").iter().sum::<i64>(), 2000);
        auditing.forget_full_budgets();
        assert_eq!(auditing.unsent.lock().unwrap().len(), 2);
    }

    #[tokio::test]
    async fn flood_of_refused_deliveries_is_few_rows() {
        let dir = TempDir::new("auditing-deliveries");
        let database = Database::Sqlite(dir.path().join("relay.db"));
        let storage = Storage::open(&database).await.unwrap();
        let long = Duration::from_secs(3600);
        let auditing = Auditing::start(storage.clone(), long);
        let event = |result: &'static str, number: usize| AuditEvent {
            tenant: "t".into(),
            actor: "relay".into(),
            action: "delivery",
            object: format!("call_{number}"),
            result,
            count: 1,
            ..AuditEvent::default()
        };
        let refused = Some(Execution::NotDispatched);
        for number in 0..1000 {
            let event = event("refused_by_policy", number);
            auditing.record_delivery(refused, event).await;
        }
        for number in 0..1000 {
            // Expired before the first attempt.
            auditing
                .record_delivery(None, event("timeout", number))
                .await;
        }
        // What was or may have been executed always has a row.
        let executed = [Execution::PossiblyExecuted, Execution::Executed];
        for number in 0..20 {
            let execution = Some(executed[number % 2]);
            let event = event("target_closed", number);
            auditing.record_delivery(execution, event).await;
        }
        auditing.flush().await;
        let filter = AuditFilter::default();
        let rows = storage.audit_rows(&filter, i64::MAX, 10_000).await.unwrap();
        let counts = |result: &str| {
            let of = rows.iter().filter(|row| row.result == result);
            of.map(|row| row.count).collect::<Vec<_>>()
        };
        assert_eq!(counts("refused_by_policy").iter().sum::<i64>(), 1000);
        assert_eq!(counts("timeout").iter().sum::<i64>(), 1000);
        assert_eq!(counts("target_closed"), [1; 20]);
        assert!(rows.len() < 340, "{} rows", rows.len());
        let sum = rows.iter().find(|row| row.count > 1).unwrap();
        assert_eq!((&*sum.action, &*sum.actor), ("delivery", "relay"));
    }

    /// While the database fails, a request loses its row instead of its time. Afterwards the record has the
    /// number of missing rows.
    #[tokio::test]
    async fn lost_rows_are_counted_in_the_record() {
        let disk = support::SmallDisk::mount(32 << 20);
        let database = Database::Sqlite(disk.path().join("relay.db"));
        let storage = Storage::open(&database).await.unwrap();
        let long = Duration::from_secs(3600);
        let auditing = Auditing::start(storage.clone(), long);
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
