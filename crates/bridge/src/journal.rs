//! The journal of deliveries: written before a delivery is sent to its target, and again when its outcome is
//! known.
//!
//! ```text
//! begin(attempt)    intent    on disk, then the request is sent
//! end(attempt)      outcome   on disk, then it is reported to the relay
//! acknowledge       the relay has stored it, and never sends this attempt again
//! ```
//!
//! A repeated attempt gets its outcome from here. After a crash, an intent without an outcome becomes "possibly
//! executed": the relay decides whether the attempt is retried. One thread owns the database (`store`) and
//! writes all requests that wait in one commit. Nothing is reported before its commit is on disk. While the
//! disk fails, every request fails with [`JournalError::Disk`], and the store is opened again until it works.

mod store;

pub(crate) use store::{Bounds, OpenError};

use crate::data_dir::PrivateDir;
use protocol::frame::{CallAttempt, DeliveryResult, JournalMark};
use protocol::{Code, Execution, Failure};
use store::Store;
use tokio::sync::{mpsc, oneshot, watch};

/// Changes that are written in one commit.
const BATCH_MAX: usize = 128;

/// Requests in the queue. Further callers wait.
const WAITING_MAX: usize = 512;

/// How a delivery ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// The target's status, if it responded.
    pub status: Option<u16>,
    /// The failure's code, if it failed.
    pub code: Option<Code>,
    /// How far it got.
    pub execution: Execution,
}

impl Outcome {
    /// The outcome of a response.
    pub(crate) fn answered(status: u16) -> Self {
        Self {
            status: Some(status),
            code: None,
            execution: Execution::Executed,
        }
    }

    /// The outcome of a failure.
    pub(crate) fn failed(failure: &Failure) -> Self {
        Self {
            status: None,
            code: Some(failure.code),
            execution: failure.execution,
        }
    }

    /// Returns the report for the relay.
    pub(crate) fn to_result(self, attempt: CallAttempt) -> DeliveryResult {
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
pub(crate) enum JournalEntryState {
    /// The journal has no entry.
    Unknown,
    /// The intent is written, and no outcome.
    Begun,
    /// The outcome is written.
    Ended(Outcome),
}

/// Why a request was not written. The journal has nothing of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum JournalError {
    /// It is full: the relay has not acknowledged enough outcomes.
    #[error(
        "the journal of deliveries is full: {0} outcomes not yet acknowledged by the relay (deliveries.journal_entries_max)"
    )]
    Full(u64),
    /// The disk failed.
    #[error("the journal of deliveries cannot be written: {0}")]
    Disk(String),
    /// The bridge stops.
    #[error("the journal of deliveries is closed")]
    Closed,
}

enum JournalRequest {
    Lookup(CallAttempt),
    Begin(CallAttempt),
    End(CallAttempt, Outcome),
    Acknowledge(CallAttempt),
    /// Outcomes that are not acknowledged, after this attempt.
    Open(Option<CallAttempt>, usize),
}

enum JournalReply {
    State(JournalEntryState),
    Done,
    Open(Vec<DeliveryResult>),
}

type ReplySender = Option<oneshot::Sender<Result<JournalReply, JournalError>>>;

/// A handle of the thread that owns the journal. Cheap to clone; the thread ends with the last clone.
#[derive(Clone)]
pub(crate) struct Journal {
    requests: mpsc::Sender<(JournalRequest, ReplySender)>,
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
    /// Opens the journal of this name, or creates it. A journal that cannot be read is set aside; the new one's
    /// id shows the relay that it was lost. While the disk fails, it is opened later.
    ///
    /// # Errors
    /// [`OpenError`] when the file cannot be used, and waiting does not help.
    pub(crate) fn open(dir: &PrivateDir, name: &str, bounds: Bounds) -> Result<Self, OpenError> {
        let store = Store::open(dir, name, bounds)?;
        let (shown, mark) = watch::channel(store.mark());
        let (requests, queue) = mpsc::channel(WAITING_MAX);
        std::thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || serve(store, queue, &shown))
            .map_err(OpenError::Thread)?;
        Ok(Self { requests, mark })
    }

    /// Returns its id and the number of records written to it, or `None` until the disk could be read for the
    /// first time.
    pub(crate) fn mark(&self) -> Option<JournalMark> {
        *self.mark.borrow()
    }

    /// Waits until [`Self::mark`] is known. Cancel safe.
    pub(crate) async fn known_mark(&self) {
        let mut mark = self.mark.clone();
        if mark.wait_for(Option::is_some).await.is_err() {
            // The thread has ended, so there will be no mark.
            std::future::pending::<()>().await;
        }
    }

    async fn send(&self, request: JournalRequest) -> Result<JournalReply, JournalError> {
        let (reply, received) = oneshot::channel();
        let sent = self.requests.send((request, Some(reply))).await;
        sent.map_err(|_| JournalError::Closed)?;
        received.await.unwrap_or(Err(JournalError::Closed))
    }

    async fn state(&self, request: JournalRequest) -> Result<JournalEntryState, JournalError> {
        Ok(match self.send(request).await? {
            JournalReply::State(known) => known,
            JournalReply::Done | JournalReply::Open(_) => JournalEntryState::Unknown,
        })
    }

    /// Returns the state of an attempt.
    ///
    /// # Errors
    /// [`JournalError`].
    pub(crate) async fn lookup(
        &self,
        attempt: CallAttempt,
    ) -> Result<JournalEntryState, JournalError> {
        self.state(JournalRequest::Lookup(attempt)).await
    }

    /// Writes the intent to make an attempt, unless the journal has an entry for it. When this returns
    /// `Unknown`, the intent is on disk.
    ///
    /// # Errors
    /// [`JournalError`]: nothing may be sent.
    pub(crate) async fn begin(
        &self,
        attempt: CallAttempt,
    ) -> Result<JournalEntryState, JournalError> {
        self.state(JournalRequest::Begin(attempt)).await
    }

    /// Writes the outcome of an attempt. When this returns, it is on disk.
    ///
    /// # Errors
    /// [`JournalError`]; the intent stays.
    pub(crate) async fn end(
        &self,
        attempt: CallAttempt,
        outcome: Outcome,
    ) -> Result<(), JournalError> {
        self.send(JournalRequest::End(attempt, outcome))
            .await
            .map(drop)
    }

    /// Notes that the relay has stored an outcome. Does not wait: a lost acknowledgement is repeated, because the
    /// outcome is reported again.
    pub(crate) fn acknowledge(&self, attempt: CallAttempt) {
        // Not awaited: the task that reads the tunnel must not wait for the disk.
        let _ = self
            .requests
            .try_send((JournalRequest::Acknowledge(attempt), None));
    }

    /// Returns up to `limit` outcomes that the relay has not acknowledged, in the order of their ids, after
    /// `after`.
    ///
    /// # Errors
    /// [`JournalError`].
    pub(crate) async fn open_outcomes(
        &self,
        after: Option<CallAttempt>,
        limit: usize,
    ) -> Result<Vec<DeliveryResult>, JournalError> {
        Ok(match self.send(JournalRequest::Open(after, limit)).await? {
            JournalReply::Open(results) => results,
            JournalReply::State(_) | JournalReply::Done => Vec::new(),
        })
    }
}

/// Runs in the thread that owns the store.
fn serve(
    mut store: Store,
    mut queue: mpsc::Receiver<(JournalRequest, ReplySender)>,
    shown: &watch::Sender<Option<JournalMark>>,
) {
    while let Some(first) = queue.blocking_recv() {
        let mut batch = vec![first];
        // Requests that wait share one `fsync`, which costs more than all of their writes.
        while batch.len() < BATCH_MAX
            && let Ok(next) = queue.try_recv()
        {
            batch.push(next);
        }
        let replies = store.commit(batch.iter().map(|(request, _)| request));
        let mark = store.mark();
        shown.send_if_modified(|known| std::mem::replace(known, mark) != mark);
        for ((_, sender), reply) in batch.into_iter().zip(replies) {
            // A caller that is gone needs no reply.
            if let Some(sender) = sender {
                let _ = sender.send(reply);
            }
        }
    }
}

#[cfg(test)]
mod tests;
