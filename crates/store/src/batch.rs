//! Group commit: changes that wait at the same moment share one transaction.
//!
//! ```text
//! writers --- change, reply ---> one task --- BEGIN, all that wait, COMMIT ---> replies
//! ```
//!
//! A reply comes after the commit, so a writer may rely on it. While one commit waits for the disk, the next
//! batch gathers: the more writers there are, the more of them share a commit. A change that fails by itself
//! does not fail the others of its batch: they are committed again without it.

use crate::fence::Fence;
use crate::{Store, StoreError, Transaction};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::{mpsc, oneshot};

/// Changes of one transaction.
const BATCH_MAX: usize = 256;

/// Changes that wait for their transaction. Further writers wait for a slot.
const WAITING_MAX: usize = 1024;

/// One change of a batch.
pub trait Change: Send + Sync + 'static {
    /// The result of the change.
    type Output: Send + 'static;

    /// Returns whether only the holder of the lease may make it.
    fn needs_lease(&self) -> bool;

    /// Makes the change. It may be called again, in another transaction, after the batch was rolled back.
    fn apply(
        &self,
        tx: &mut Transaction,
    ) -> impl Future<Output = Result<Self::Output, StoreError>> + Send;
}

type Reply<C> = oneshot::Sender<Result<<C as Change>::Output, StoreError>>;

/// Why a change was not made.
#[derive(Debug, Clone, thiserror::Error)]
pub enum WriteError {
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Another process holds the lease now.
    #[error("this process does not hold the lease: another one serves")]
    LeaseLost,
    /// The program is stopping.
    #[error("the program is stopping")]
    Closed,
}

/// Makes changes durable. Cheap to clone.
#[derive(Debug)]
pub struct Batch<C: Change> {
    waiting: mpsc::Sender<(C, Reply<C>)>,
    shared: Arc<Shared>,
}

impl<C: Change> Clone for Batch<C> {
    fn clone(&self) -> Self {
        Self {
            waiting: self.waiting.clone(),
            shared: self.shared.clone(),
        }
    }
}

#[derive(Debug)]
struct Shared {
    store: Store,
    /// Apart from the store's own fence: a process that leaves gives up its batches before other changes.
    fence: Fence,
    commits: AtomicU64,
    changes: AtomicU64,
}

impl<C: Change> Batch<C> {
    /// Starts the task that writes. It ends when the last clone is dropped. `lease` is the lease that changes
    /// need.
    pub fn start(store: Store, lease: &'static str) -> Self {
        let (waiting, queue) = mpsc::channel(WAITING_MAX);
        let shared = Arc::new(Shared {
            store,
            fence: Fence::new(lease),
            commits: AtomicU64::new(0),
            changes: AtomicU64::new(0),
        });
        tokio::spawn(run(shared.clone(), queue));
        Self { waiting, shared }
    }

    /// Makes a change, and returns when it is on disk.
    ///
    /// # Errors
    /// [`WriteError`]. Nothing was changed, unless it is [`StoreError::OutcomeUnknown`].
    pub async fn write(&self, change: C) -> Result<C::Output, WriteError> {
        let (reply, outcome) = oneshot::channel();
        let sent = self.waiting.send((change, reply)).await;
        sent.map_err(|_| WriteError::Closed)?;
        received(outcome).await
    }

    /// Makes several changes, which share commits as far as possible, and returns when each is on disk or has
    /// failed. The results are in the order of the changes.
    pub async fn write_all(&self, changes: Vec<C>) -> Vec<Result<C::Output, WriteError>> {
        // All are sent before the first reply is awaited, so that they can share a commit.
        let mut outcomes = Vec::with_capacity(changes.len());
        for change in changes {
            let (reply, outcome) = oneshot::channel();
            let sent = self.waiting.send((change, reply)).await;
            outcomes.push(sent.map(|()| outcome).map_err(|_| WriteError::Closed));
        }
        let mut results = Vec::with_capacity(outcomes.len());
        for outcome in outcomes {
            results.push(match outcome {
                Ok(outcome) => received(outcome).await,
                Err(closed) => Err(closed),
            });
        }
        results
    }

    /// Sets the epoch under which changes that need the lease are made from now on; zero for none.
    pub fn hold(&self, epoch: i64) {
        self.shared.fence.hold(epoch);
    }

    /// Returns the epoch under which changes are made; zero for none.
    pub fn held(&self) -> i64 {
        self.shared.fence.held()
    }

    /// Returns the commits since the start, and the changes that they made.
    pub fn counts(&self) -> (u64, u64) {
        let shared = &self.shared;
        // Relaxed: statistics, which order nothing.
        (
            shared.commits.load(Ordering::Relaxed),
            shared.changes.load(Ordering::Relaxed),
        )
    }
}

async fn received<T>(outcome: oneshot::Receiver<Result<T, StoreError>>) -> Result<T, WriteError> {
    match outcome.await {
        Ok(Ok(output)) => Ok(output),
        Ok(Err(StoreError::LeaseLost)) => Err(WriteError::LeaseLost),
        Ok(Err(error)) => Err(error.into()),
        // The task ended with the process while the change was being committed.
        Err(_) => Err(StoreError::outcome_unknown(sqlx::Error::PoolClosed).into()),
    }
}

async fn run<C: Change>(shared: Arc<Shared>, mut queue: mpsc::Receiver<(C, Reply<C>)>) {
    let mut batch = Vec::with_capacity(BATCH_MAX);
    while queue.recv_many(&mut batch, BATCH_MAX).await > 0 {
        let (changes, replies): (Vec<C>, Vec<Reply<C>>) = batch.drain(..).unzip();
        let results = shared.commit_all(&changes).await;
        for (reply, result) in replies.into_iter().zip(results) {
            // The writer may have been cancelled; its change is made all the same.
            let _ = reply.send(result);
        }
    }
}

impl Shared {
    /// Commits the changes together, or each by itself if one of them fails.
    async fn commit_all<C: Change>(&self, changes: &[C]) -> Vec<Result<C::Output, StoreError>> {
        match self.commit(changes).await {
            Ok(outputs) => outputs.into_iter().map(Ok).collect(),
            // Not retried: a smaller transaction would fail for the same reason, and after an unknown outcome
            // the changes may have been made already.
            Err(error @ (StoreError::Unavailable(_) | StoreError::OutcomeUnknown(_))) => {
                all_failed(changes.len(), &error)
            }
            Err(error) if changes.len() == 1 => all_failed(1, &error),
            // One change is at fault, and rolled back the others: the batch has changed nothing.
            Err(_) => {
                let mut results = Vec::with_capacity(changes.len());
                for change in changes {
                    results.push(self.commit_one(change).await);
                }
                results
            }
        }
    }

    async fn commit_one<C: Change>(&self, change: &C) -> Result<C::Output, StoreError> {
        let mut outputs = self.commit(std::slice::from_ref(change)).await?;
        Ok(outputs.pop().expect("one change has one output"))
    }

    async fn commit<C: Change>(&self, changes: &[C]) -> Result<Vec<C::Output>, StoreError> {
        let mut tx = self.store.begin().await?;
        // In the transaction: the lease cannot pass to another process before the commit.
        if changes.iter().any(Change::needs_lease) {
            self.fence.check(&mut tx).await?;
        }
        let mut outputs = Vec::with_capacity(changes.len());
        for change in changes {
            outputs.push(change.apply(&mut tx).await?);
        }
        tx.commit().await?;
        self.store.mark_changed();
        self.commits.fetch_add(1, Ordering::Relaxed);
        self.changes
            .fetch_add(changes.len() as u64, Ordering::Relaxed);
        Ok(outputs)
    }
}

fn all_failed<T>(count: usize, error: &StoreError) -> Vec<Result<T, StoreError>> {
    (0..count).map(|_| Err(error.clone())).collect()
}
