//! Group commit: what is to be written of deliveries at the same moment is one transaction.
//!
//! ```text
//! accept, attempts ... --- Write, reply ---> one task --- BEGIN, all that waits, COMMIT ---> replies
//! ```
//!
//! A reply comes after the commit, so it may be relied on. While one commit waits for the disk, the
//! next batch gathers: the more is asked for, the more shares a commit. A change that fails by
//! itself does not take the others of its batch along: they are written again without it.

use super::calls::{Write, Written};
use super::{Storage, StorageError};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use tokio::sync::{mpsc, oneshot};

/// Changes of one transaction.
const BATCH_MAX: usize = 256;

/// Changes that wait for their transaction. Beyond, whoever wants one waits.
const WAITING_MAX: usize = 1024;

type Reply = oneshot::Sender<Result<Written, Arc<StorageError>>>;

/// Why a change was not made.
#[derive(Debug, Clone, thiserror::Error)]
pub enum WriteError {
    /// The database.
    #[error(transparent)]
    Storage(#[from] Arc<StorageError>),
    /// Another process serves now.
    #[error("this relay does not hold the lease: another one serves")]
    LeaseLost,
    /// The relay stops.
    #[error("the relay is stopping")]
    Closed,
}

/// Makes changes of deliveries durable. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Batch {
    waiting: mpsc::Sender<(Write, Reply)>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    storage: Storage,
    /// Of the lease that this process holds; zero for none.
    epoch: AtomicI64,
    commits: AtomicU64,
    changes: AtomicU64,
}

impl Batch {
    /// Begins to write. Ends when the last clone is dropped.
    pub fn start(storage: Storage) -> Self {
        let (waiting, queue) = mpsc::channel(WAITING_MAX);
        let shared = Arc::new(Shared {
            storage,
            epoch: AtomicI64::new(0),
            commits: AtomicU64::new(0),
            changes: AtomicU64::new(0),
        });
        tokio::spawn(run(shared.clone(), queue));
        Self { waiting, shared }
    }

    /// Makes a change, and returns when it is on disk.
    ///
    /// # Errors
    /// [`WriteError`]. Nothing was changed, unless it is [`StorageError::Unknown`].
    pub async fn write(&self, write: Write) -> Result<Written, WriteError> {
        let (reply, answer) = oneshot::channel();
        let sent = self.waiting.send((write, reply)).await;
        sent.map_err(|_| WriteError::Closed)?;
        answered(answer).await
    }

    /// Makes several changes, which share a commit as far as they fit into one, and returns when each is on
    /// disk or has failed. The results are in the order of the changes.
    pub async fn write_all(&self, writes: Vec<Write>) -> Vec<Result<Written, WriteError>> {
        let mut answers = Vec::with_capacity(writes.len());
        for write in writes {
            let (reply, answer) = oneshot::channel();
            let sent = self.waiting.send((write, reply)).await;
            answers.push(sent.map(|()| answer).map_err(|_| WriteError::Closed));
        }
        let mut results = Vec::with_capacity(answers.len());
        for answer in answers {
            results.push(match answer {
                Ok(answer) => answered(answer).await,
                Err(closed) => Err(closed),
            });
        }
        results
    }

    /// Changes that need the lease are made under this epoch from now on; zero for none.
    pub fn hold(&self, epoch: i64) {
        self.shared.epoch.store(epoch, Ordering::Release);
    }

    /// The epoch that changes are made under; zero for none.
    pub fn held(&self) -> i64 {
        self.shared.epoch.load(Ordering::Acquire)
    }

    /// Commits, and the changes that they made, since the start.
    pub fn counts(&self) -> (u64, u64) {
        let shared = &self.shared;
        (
            shared.commits.load(Ordering::Relaxed),
            shared.changes.load(Ordering::Relaxed),
        )
    }
}

async fn answered(
    answer: oneshot::Receiver<Result<Written, Arc<StorageError>>>,
) -> Result<Written, WriteError> {
    match answer.await {
        Ok(Ok(written)) => Ok(written),
        Ok(Err(error)) if matches!(*error, StorageError::LeaseLost) => Err(WriteError::LeaseLost),
        Ok(Err(error)) => Err(error.into()),
        // It was on its way when the process began to stop.
        Err(_) => Err(Arc::new(StorageError::Unknown(sqlx::Error::PoolClosed)).into()),
    }
}

async fn run(shared: Arc<Shared>, mut queue: mpsc::Receiver<(Write, Reply)>) {
    let mut batch = Vec::with_capacity(BATCH_MAX);
    while queue.recv_many(&mut batch, BATCH_MAX).await > 0 {
        let (writes, replies): (Vec<Write>, Vec<Reply>) = batch.drain(..).unzip();
        let results = shared.commit_each_if_need_be(&writes).await;
        for (reply, result) in replies.into_iter().zip(results) {
            // Whoever asked may have gone.
            let _ = reply.send(result);
        }
    }
}

impl Shared {
    async fn commit_each_if_need_be(
        &self,
        writes: &[Write],
    ) -> Vec<Result<Written, Arc<StorageError>>> {
        match self.commit(writes).await {
            Ok(written) => written.into_iter().map(Ok).collect(),
            // Nothing gets better by asking for less; and what may have been done is not done again.
            Err(error @ (StorageError::Unavailable(_) | StorageError::Unknown(_))) => {
                all_failed(writes.len(), error)
            }
            Err(error) if writes.len() == 1 => all_failed(1, error),
            Err(_) => {
                let mut results = Vec::with_capacity(writes.len());
                for write in writes {
                    let alone = self.commit(std::slice::from_ref(write)).await;
                    results.push(match alone {
                        Ok(mut written) => Ok(written.pop().unwrap_or(Written::Changed(false))),
                        Err(error) => Err(Arc::new(error)),
                    });
                }
                results
            }
        }
    }

    async fn commit(&self, writes: &[Write]) -> Result<Vec<Written>, StorageError> {
        let storage = &self.storage;
        let mut tx = storage.pool.begin_with(storage.backend.begin()).await?;
        if writes.iter().any(Write::needs_lease) {
            let epoch = super::leases::epoch_of(&mut tx, storage.backend).await?;
            if epoch != self.epoch.load(Ordering::Acquire) {
                return Err(StorageError::LeaseLost);
            }
        }
        let mut written = Vec::with_capacity(writes.len());
        for write in writes {
            written.push(write.apply(&mut tx).await?);
        }
        tx.commit().await?;
        storage.touched();
        self.commits.fetch_add(1, Ordering::Relaxed);
        self.changes
            .fetch_add(writes.len() as u64, Ordering::Relaxed);
        Ok(written)
    }
}

fn all_failed(count: usize, error: StorageError) -> Vec<Result<Written, Arc<StorageError>>> {
    let error = Arc::new(error);
    (0..count).map(|_| Err(error.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Database;
    use crate::storage::calls::{Accepted, ExpiresIn, NewCall};
    use crate::testing::TempDir;

    /// Every connection of the pool may use so many pages.
    async fn allow_pages(storage: &Storage, pages: u32) {
        let mut held = Vec::new();
        for _ in 0..4 {
            let mut connection = storage.pool.acquire().await.unwrap();
            let limit = format!("PRAGMA max_page_count = {pages}");
            let _: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(limit))
                .fetch_one(&mut connection)
                .await
                .unwrap();
            held.push(connection);
        }
    }

    fn call(tenant: &str, number: u32) -> Write {
        Write::Accept(Box::new(NewCall {
            id: format!("call_{number}"),
            tenant: tenant.into(),
            client_id: "client".to_owned(),
            created_ms: 1,
            method: "POST".to_owned(),
            host: "a.example".to_owned(),
            bridge: None,
            at_least_once: false,
            idempotency_key: None,
            digest: vec![0; 32],
            sealed: vec![0; 16 << 10],
            bytes: 16 << 10,
            expires_in: ExpiresIn::Default(0),
            class: crate::routing::DirectClass::default(),
        }))
    }

    /// What was accepted before is there, what was refused is not, and it goes on with more room.
    #[tokio::test]
    async fn a_full_disk_refuses_as_unavailable_and_passes() {
        let dir = TempDir::new("full_disk");
        let database = Database::Sqlite(dir.path().join("relay.db"));
        let storage = Storage::open(&database).await.unwrap();
        let tenant = storage.create_tenant("acme").await.unwrap();
        let batch = Batch::start(storage.clone());
        allow_pages(&storage, 256).await;
        let mut stored = 0;
        let refused = loop {
            match batch.write(call(tenant.id.as_str(), stored)).await {
                Ok(written) => {
                    assert!(matches!(written, Written::Accepted(Accepted::Stored)));
                    stored += 1;
                    assert!(stored < 256, "a mebibyte holds no 256 such calls");
                }
                Err(error) => break error,
            }
        };
        let WriteError::Storage(error) = refused else {
            panic!("{refused:?}");
        };
        assert!(matches!(*error, StorageError::Unavailable(_)), "{error:?}");
        assert!(stored > 0);
        let count = || async {
            let count: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM calls")
                .fetch_one(&storage.pool)
                .await
                .unwrap();
            count
        };
        assert_eq!(count().await, i64::from(stored));
        allow_pages(&storage, 1 << 20).await;
        batch.write(call(tenant.id.as_str(), stored)).await.unwrap();
        assert_eq!(count().await, i64::from(stored) + 1);
    }
}
