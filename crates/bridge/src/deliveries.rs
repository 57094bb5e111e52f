//! Deliveries on the bridge: which run, and the reports about those that ended.
//!
//! A delivery outlives the stream and the session that it arrived on: whatever happens to the tunnel, the request
//! to the target continues and its outcome is written. The bridge reports the outcome on every session that
//! comes up, until the relay acknowledges it.

use crate::journal::{Journal, JournalError, Outcome};
use protocol::frame::{CallAttempt, DeliveryResult};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use transport::Session;

/// Outcomes that are read from the journal at a time.
const PAGE_LEN: usize = 64;

/// Pause before a report, or a write to the journal, is retried.
const REPORT_RETRY: Duration = Duration::from_millis(200);
const WRITE_RETRY: Duration = Duration::from_secs(1);

/// The limits of deliveries.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Deliveries at a time.
    pub(crate) concurrent_max: usize,
    /// Bytes of a request body.
    pub(crate) body_max: u64,
}

type Ended = watch::Receiver<Option<Outcome>>;

/// The deliveries of one bridge.
#[derive(Debug)]
pub(crate) struct Deliveries {
    pub(crate) journal: Journal,
    pub(crate) limits: Limits,
    running: Mutex<HashMap<CallAttempt, Ended>>,
    permits: Arc<Semaphore>,
    /// Notified when an outcome was written.
    completed: Notify,
}

/// Whether a task may execute an attempt.
pub(crate) enum Admission {
    /// It may.
    Accepted(Claim),
    /// Another task executes it: a receiver of its outcome.
    Running(Ended),
    /// The limit of concurrent deliveries is reached.
    Full,
}

/// An attempt that belongs to one task until it is dropped.
pub(crate) struct Claim {
    deliveries: Arc<Deliveries>,
    attempt: CallAttempt,
    ended: watch::Sender<Option<Outcome>>,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Claim {
    fn drop(&mut self) {
        // Also if the task panics: the attempt could never be retried otherwise.
        self.deliveries.lock().remove(&self.attempt);
    }
}

impl Claim {
    /// Writes the attempt's outcome, however long the disk rejects it, and has it reported to the relay.
    pub(crate) async fn complete(self, outcome: Outcome) {
        let journal = &self.deliveries.journal;
        while let Err(error) = journal.end(self.attempt, outcome).await {
            if error == JournalError::Closed {
                return;
            }
            // The claim is kept meanwhile: a second attempt must not run before the outcome is known. If the
            // process ends first, its next start finds an intent without an outcome, and reports that.
            tokio::time::sleep(WRITE_RETRY).await;
        }
        self.ended.send_replace(Some(outcome));
        self.deliveries.completed.notify_one();
    }
}

impl Deliveries {
    pub(crate) fn new(journal: Journal, limits: Limits) -> Arc<Self> {
        Arc::new(Self {
            journal,
            limits,
            running: Mutex::default(),
            permits: Arc::new(Semaphore::new(limits.concurrent_max)),
            completed: Notify::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<CallAttempt, Ended>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Claims an attempt, unless another task has it.
    pub(crate) fn admit(self: &Arc<Self>, attempt: CallAttempt) -> Admission {
        // Held until the claim is inserted: two tasks with the same attempt must not both get it.
        let mut running = self.lock();
        if let Some(ended) = running.get(&attempt) {
            return Admission::Running(ended.clone());
        }
        let Ok(permit) = self.permits.clone().try_acquire_owned() else {
            return Admission::Full;
        };
        let (ended, receiver) = watch::channel(None);
        running.insert(attempt, receiver);
        Admission::Accepted(Claim {
            deliveries: self.clone(),
            attempt,
            ended,
            _permit: permit,
        })
    }

    /// Notes that the relay has stored an outcome.
    pub(crate) fn acknowledged(&self, attempt: CallAttempt) {
        self.journal.acknowledge(attempt);
    }

    /// Reports every outcome that the relay has not acknowledged, on each new session. Ends with the sender of
    /// the sessions.
    pub(crate) async fn report(self: Arc<Self>, mut sessions: watch::Receiver<Vec<Session>>) {
        let mut reported = DeliveryReport::default();
        loop {
            let all = sessions.borrow_and_update().clone();
            reported.on_sessions(&all);
            if !all.is_empty() && !self.report_all(&all, &mut reported).await {
                // The session's queue is full, or the journal cannot be read.
                tokio::time::sleep(REPORT_RETRY).await;
                continue;
            }
            tokio::select! {
                changed = sessions.changed() => if changed.is_err() { return },
                () = self.completed.notified() => {}
            }
        }
    }

    /// Returns whether everything was reported.
    async fn report_all(&self, sessions: &[Session], reported: &mut DeliveryReport) -> bool {
        let mut after = None;
        let mut open = HashSet::new();
        loop {
            let Ok(results) = self.journal.open_outcomes(after, PAGE_LEN).await else {
                return false;
            };
            for result in &results {
                open.insert(result.attempt);
                if !reported.attempts.contains(&result.attempt) {
                    if !send_result(sessions, *result) {
                        return false;
                    }
                    reported.attempts.insert(result.attempt);
                }
            }
            if results.len() < PAGE_LEN {
                break;
            }
            after = results.last().map(|result| result.attempt);
        }
        // Acknowledged outcomes are not reported again, so they need not be remembered.
        reported.attempts.retain(|attempt| open.contains(attempt));
        true
    }
}

/// The outcomes that were reported on the connected sessions.
#[derive(Default)]
struct DeliveryReport {
    sessions: Vec<[u8; 16]>,
    attempts: HashSet<CallAttempt>,
}

impl DeliveryReport {
    /// Takes the connected sessions. A new session may be with another relay process, so everything is
    /// reported again.
    fn on_sessions(&mut self, sessions: &[Session]) {
        let ids: Vec<_> = sessions.iter().map(Session::id).collect();
        if ids.iter().any(|id| !self.sessions.contains(id)) {
            self.attempts.clear();
        }
        self.sessions = ids;
    }
}

/// Sends a result on the newest session that has room.
fn send_result(sessions: &[Session], result: DeliveryResult) -> bool {
    sessions
        .iter()
        .rev()
        .any(|session| !session.is_over() && session.send_result(result))
}
