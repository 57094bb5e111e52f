//! Whether the relay can work: whether its database can be written.
//!
//! Load balancers ask often, and clients without a key may ask: there is at most one write a second,
//! and one at a time.

use crate::storage::Storage;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

/// How long an outcome is good.
const GOOD_FOR: Duration = Duration::from_secs(1);

/// How long a write may take. A slower one goes on, and counts when it is over.
const WRITE_MAX: Duration = Duration::from_secs(2);

/// What is known of the database.
#[derive(Debug, Default)]
pub struct Readiness {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    last: Option<(Instant, bool)>,
    running: Option<JoinHandle<bool>>,
}

impl Readiness {
    /// Whether the database can be written. Takes at most [`WRITE_MAX`]; those that ask at the same
    /// time share one outcome.
    pub async fn can_write(&self, storage: &Storage) -> bool {
        let mut known = self.known.lock().await;
        if let Some((at, outcome)) = known.last
            && at.elapsed() < GOOD_FOR
        {
            return outcome;
        }
        let mut running = known.running.take().unwrap_or_else(|| {
            let storage = storage.clone();
            tokio::spawn(async move {
                let written = storage.try_write().await;
                if let Err(error) = &written {
                    tracing::warn!(%error, "not ready: the database cannot be written");
                }
                written.is_ok()
            })
        });
        let outcome = match tokio::time::timeout(WRITE_MAX, &mut running).await {
            Ok(written) => written.unwrap_or(false),
            Err(_) => {
                known.running = Some(running);
                false
            }
        };
        known.last = Some((Instant::now(), outcome));
        outcome
    }
}
