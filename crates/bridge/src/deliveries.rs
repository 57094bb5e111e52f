//! Deliveries on the bridge: which run, what is told of those that ended, and to whom.
//!
//! A delivery outlives the stream and the session that it came by: whatever happens to the tunnel,
//! the request to the target goes on and its outcome is written. The relay is told over whichever
//! session is up, again on the next one, until it acknowledges.

use crate::journal::{Journal, JournalError, Outcome};
use protocol::frame::{CallAttempt, DeliveryResult};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use transport::Session;

/// Outcomes that are read from the journal in one go.
const PAGE: usize = 64;

/// Between two tries to tell, or to write, what there was no room for.
const AGAIN: Duration = Duration::from_millis(200);
const WRITE_AGAIN: Duration = Duration::from_secs(1);

/// How much there may be of deliveries.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// At once.
    pub(crate) concurrent_max: usize,
    /// Bytes of a body.
    pub(crate) body_max: u64,
}

type Ended = watch::Receiver<Option<Outcome>>;

/// The deliveries of one bridge.
#[derive(Debug)]
pub(crate) struct Deliveries {
    pub(crate) journal: Journal,
    pub(crate) limits: Limits,
    running: Mutex<HashMap<CallAttempt, Ended>>,
    places: Arc<Semaphore>,
    /// There is something new to tell.
    news: Notify,
}

/// Whether an attempt is this task's to make.
pub(crate) enum Turn {
    /// It is.
    Mine(Mine),
    /// Another task makes it: how it ends.
    Running(Ended),
    /// As many run as may.
    Full,
}

/// An attempt that this task makes.
pub(crate) struct Mine {
    deliveries: Arc<Deliveries>,
    attempt: CallAttempt,
    tell: watch::Sender<Option<Outcome>>,
    _place: OwnedSemaphorePermit,
}

impl Drop for Mine {
    fn drop(&mut self) {
        self.deliveries.lock().remove(&self.attempt);
    }
}

impl Mine {
    /// Writes how the attempt ended, however long the disk takes for it, and has the relay told.
    pub(crate) async fn ended(self, outcome: Outcome) {
        let journal = &self.deliveries.journal;
        while let Err(error) = journal.end(self.attempt, outcome).await {
            if error == JournalError::Closed {
                return;
            }
            // The next start finds an intent without an outcome, and says so.
            tokio::time::sleep(WRITE_AGAIN).await;
        }
        self.tell.send_replace(Some(outcome));
        self.deliveries.news.notify_one();
    }
}

impl Deliveries {
    pub(crate) fn new(journal: Journal, limits: Limits) -> Arc<Self> {
        Arc::new(Self {
            journal,
            limits,
            running: Mutex::default(),
            places: Arc::new(Semaphore::new(limits.concurrent_max)),
            news: Notify::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<CallAttempt, Ended>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an attempt, unless another task has it.
    pub(crate) fn turn(self: &Arc<Self>, attempt: CallAttempt) -> Turn {
        let mut running = self.lock();
        if let Some(ended) = running.get(&attempt) {
            return Turn::Running(ended.clone());
        }
        let Ok(place) = self.places.clone().try_acquire_owned() else {
            return Turn::Full;
        };
        let (tell, ended) = watch::channel(None);
        running.insert(attempt, ended);
        Turn::Mine(Mine {
            deliveries: self.clone(),
            attempt,
            tell,
            _place: place,
        })
    }

    /// The relay has stored an outcome.
    pub(crate) fn acknowledged(&self, attempt: CallAttempt) {
        self.journal.acknowledge(attempt);
    }

    /// Tells the relay every outcome that it has not acknowledged, on each session that comes up
    /// anew. Ends with the sender of the sessions.
    pub(crate) async fn report(self: Arc<Self>, mut sessions: watch::Receiver<Vec<Session>>) {
        let mut told = Told::default();
        loop {
            let all = sessions.borrow_and_update().clone();
            told.on(&all);
            if !all.is_empty() && !self.tell_all(&all, &mut told).await {
                // No room, or the disk does not answer: in a moment.
                tokio::time::sleep(AGAIN).await;
                continue;
            }
            tokio::select! {
                changed = sessions.changed() => if changed.is_err() { return },
                () = self.news.notified() => {}
            }
        }
    }

    /// Whether everything was told.
    async fn tell_all(&self, sessions: &[Session], told: &mut Told) -> bool {
        let mut behind = None;
        let mut open = HashSet::new();
        loop {
            let Ok(results) = self.journal.open_outcomes(behind, PAGE).await else {
                return false;
            };
            for result in &results {
                open.insert(result.attempt);
                if !told.attempts.contains(&result.attempt) {
                    if !tell(sessions, *result) {
                        return false;
                    }
                    told.attempts.insert(result.attempt);
                }
            }
            if results.len() < PAGE {
                break;
            }
            behind = results.last().map(|result| result.attempt);
        }
        // What is acknowledged need not be remembered.
        told.attempts.retain(|attempt| open.contains(attempt));
        true
    }
}

/// What was told on the sessions that are up.
#[derive(Default)]
struct Told {
    sessions: Vec<[u8; 16]>,
    attempts: HashSet<CallAttempt>,
}

impl Told {
    /// A session that was not there before may be another relay process: it is told everything.
    fn on(&mut self, sessions: &[Session]) {
        let ids: Vec<_> = sessions.iter().map(Session::id).collect();
        if ids.iter().any(|id| !self.sessions.contains(id)) {
            self.attempts.clear();
        }
        self.sessions = ids;
    }
}

/// Over the newest session that has room.
fn tell(sessions: &[Session], result: DeliveryResult) -> bool {
    sessions
        .iter()
        .rev()
        .any(|session| !session.is_over() && session.send_result(result))
}
