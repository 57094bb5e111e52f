//! The journal of deliveries: on disk before a delivery leaves for its target, and again when its
//! outcome is known.
//!
//! ```text
//! begin(attempt)    intent    on disk, then the request leaves
//! end(attempt)      outcome   on disk, then the relay is told
//! acknowledge       the relay has it, and never sends this attempt again
//! ```
//!
//! An attempt that comes again is answered from here. An intent without an outcome, after a crash,
//! becomes one that nobody can be sure of: the relay decides whether it is made again. One thread
//! owns the database (`store`) and writes what is asked for at the same moment in one commit;
//! nothing is told before its commit is on disk. While the disk fails, every request ends in
//! [`JournalError::Disk`], and the store is opened again until it works.

mod store;

pub use store::{Bounds, OpenError};

use crate::data_dir::PrivateDir;
use protocol::frame::{CallAttempt, DeliveryResult, JournalMark};
use protocol::{Code, Execution, Failure};
use store::Store;
use tokio::sync::{mpsc, oneshot, watch};

/// Changes that are written in one commit.
const BATCH_MAX: usize = 128;

/// Changes that wait for theirs. Beyond, whoever wants one waits.
const WAITING_MAX: usize = 512;

/// How a delivery ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// The target's status, if it answered.
    pub status: Option<u16>,
    /// The failure's code, if it failed.
    pub code: Option<Code>,
    /// How far it came.
    pub execution: Execution,
}

impl Outcome {
    /// The target answered.
    pub fn answered(status: u16) -> Self {
        Self {
            status: Some(status),
            code: None,
            execution: Execution::Executed,
        }
    }

    /// It failed.
    pub fn failed(failure: &Failure) -> Self {
        Self {
            status: None,
            code: Some(failure.code),
            execution: failure.execution,
        }
    }

    /// As the relay is told.
    pub fn told(self, attempt: CallAttempt) -> DeliveryResult {
        DeliveryResult {
            attempt,
            status: self.status,
            code: self.code.map(Code::to_wire),
            execution: self.execution.to_wire(),
        }
    }
}

/// The state of an attempt in the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JournalEntryState {
    /// The journal has no entry.
    Unknown,
    /// The intent is written, and no outcome.
    Begun,
    /// The outcome is written.
    Ended(Outcome),
}

/// Why something was not written. Nothing of it is in the journal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JournalError {
    /// It holds as much as it may, and the relay has not acknowledged enough of it.
    #[error(
        "the journal of deliveries is full: {0} outcomes not yet acknowledged by the relay (deliveries.journal_entries_max)"
    )]
    Full(u64),
    /// The disk.
    #[error("the journal of deliveries cannot be written: {0}")]
    Disk(String),
    /// The bridge stops.
    #[error("the journal of deliveries is closed")]
    Closed,
}

enum Ask {
    Lookup(CallAttempt),
    Begin(CallAttempt),
    End(CallAttempt, Outcome),
    Acknowledge(CallAttempt),
    /// Outcomes that are not acknowledged, behind this attempt.
    Open(Option<CallAttempt>, usize),
}

enum Answer {
    State(JournalEntryState),
    Done,
    Open(Vec<DeliveryResult>),
}

type Reply = Option<oneshot::Sender<Result<Answer, JournalError>>>;

/// Asks the thread that owns the journal. Cheap to clone; the thread ends with the last clone.
#[derive(Clone)]
pub struct Journal {
    asks: mpsc::Sender<(Ask, Reply)>,
    mark: watch::Receiver<Option<JournalMark>>,
}

impl std::fmt::Debug for Journal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Journal")
            .field("mark", &self.mark())
            .finish()
    }
}

impl Journal {
    /// Opens the journal of this name, or makes it. One that cannot be read is set aside, and the relay
    /// learns by the new one's id that it was lost. Where the disk fails for a while, it is opened later.
    ///
    /// # Errors
    /// [`OpenError`] when the file cannot be used, and waiting does not help.
    pub fn open(dir: &PrivateDir, name: &str, bounds: Bounds) -> Result<Self, OpenError> {
        let store = Store::open(dir, name, bounds)?;
        let (shown, mark) = watch::channel(store.mark());
        let (asks, queue) = mpsc::channel(WAITING_MAX);
        std::thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || serve(store, queue, &shown))
            .map_err(OpenError::Thread)?;
        Ok(Self { asks, mark })
    }

    /// Its id, and how many records were written to it. None until the disk could be read for the first
    /// time.
    pub fn mark(&self) -> Option<JournalMark> {
        *self.mark.borrow()
    }

    /// Waits until [`Self::mark`] is known. Cancel safe.
    pub(crate) async fn known_mark(&self) {
        let mut mark = self.mark.clone();
        if mark.wait_for(Option::is_some).await.is_err() {
            // The thread has ended: there will be none.
            std::future::pending::<()>().await;
        }
    }

    async fn ask(&self, ask: Ask) -> Result<Answer, JournalError> {
        let (reply, answer) = oneshot::channel();
        let sent = self.asks.send((ask, Some(reply))).await;
        sent.map_err(|_| JournalError::Closed)?;
        answer.await.unwrap_or(Err(JournalError::Closed))
    }

    async fn state(&self, ask: Ask) -> Result<JournalEntryState, JournalError> {
        Ok(match self.ask(ask).await? {
            Answer::State(known) => known,
            Answer::Done | Answer::Open(_) => JournalEntryState::Unknown,
        })
    }

    /// What is known of an attempt.
    ///
    /// # Errors
    /// [`JournalError`].
    pub async fn lookup(&self, attempt: CallAttempt) -> Result<JournalEntryState, JournalError> {
        self.state(Ask::Lookup(attempt)).await
    }

    /// Writes that an attempt is about to leave for its target, unless something is known of it.
    /// When this returns `Nothing`, the intent is on disk.
    ///
    /// # Errors
    /// [`JournalError`]: nothing may leave.
    pub async fn begin(&self, attempt: CallAttempt) -> Result<JournalEntryState, JournalError> {
        self.state(Ask::Begin(attempt)).await
    }

    /// Writes how an attempt ended. When this returns, it is on disk.
    ///
    /// # Errors
    /// [`JournalError`]; the intent is there still.
    pub async fn end(&self, attempt: CallAttempt, outcome: Outcome) -> Result<(), JournalError> {
        self.ask(Ask::End(attempt, outcome)).await.map(drop)
    }

    /// The relay has an outcome. Does not wait: one that is lost is acknowledged again.
    pub fn acknowledge(&self, attempt: CallAttempt) {
        let _ = self.asks.try_send((Ask::Acknowledge(attempt), None));
    }

    /// Up to `limit` outcomes that the relay has not acknowledged, in the order of their ids, behind
    /// this one.
    ///
    /// # Errors
    /// [`JournalError`].
    pub async fn open_outcomes(
        &self,
        behind: Option<CallAttempt>,
        limit: usize,
    ) -> Result<Vec<DeliveryResult>, JournalError> {
        Ok(match self.ask(Ask::Open(behind, limit)).await? {
            Answer::Open(results) => results,
            Answer::State(_) | Answer::Done => Vec::new(),
        })
    }
}

/// The thread that owns the store.
fn serve(
    mut store: Store,
    mut queue: mpsc::Receiver<(Ask, Reply)>,
    shown: &watch::Sender<Option<JournalMark>>,
) {
    while let Some(first) = queue.blocking_recv() {
        let mut batch = vec![first];
        while batch.len() < BATCH_MAX
            && let Ok(next) = queue.try_recv()
        {
            batch.push(next);
        }
        let answers = store.commit(batch.iter().map(|(ask, _)| ask));
        let mark = store.mark();
        shown.send_if_modified(|known| std::mem::replace(known, mark) != mark);
        for ((_, reply), answer) in batch.into_iter().zip(answers) {
            if let Some(reply) = reply {
                let _ = reply.send(answer);
            }
        }
    }
}

#[cfg(test)]
mod tests;
