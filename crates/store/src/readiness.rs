//! Whether the database can be written now, for health checks.
//!
//! Load balancers check often, and clients without credentials may check, too. So there is at most one write a
//! second, and one at a time.

use crate::Store;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

/// How long a result is reused.
const RESULT_TTL: Duration = Duration::from_secs(1);

/// How long a caller waits for a write. A slower one goes on, and its result counts when it ends.
const WRITE_TIMEOUT: Duration = Duration::from_secs(2);

/// The last result, shared by all callers.
#[derive(Debug, Default)]
pub struct Readiness {
    probe: Mutex<Probe>,
}

#[derive(Debug, Default)]
struct Probe {
    last: Option<(Instant, bool)>,
    running: Option<JoinHandle<bool>>,
}

impl Readiness {
    /// Returns whether the database can be written. Takes at most two seconds. Concurrent callers share one
    /// result.
    pub async fn can_write(&self, store: &Store) -> bool {
        // Held across the write, so that concurrent callers wait for its result instead of writing, too.
        let mut probe = self.probe.lock().await;
        if let Some((at, is_writable)) = probe.last
            && at.elapsed() < RESULT_TTL
        {
            return is_writable;
        }
        let mut running = probe.running.take().unwrap_or_else(|| {
            let store = store.clone();
            tokio::spawn(async move {
                let written = store.test_write().await;
                if let Err(error) = &written {
                    tracing::warn!(%error, "not ready: the database cannot be written");
                }
                written.is_ok()
            })
        });
        let is_writable = match tokio::time::timeout(WRITE_TIMEOUT, &mut running).await {
            Ok(written) => written.unwrap_or(false),
            Err(_) => {
                // Kept, so that a database that hangs has one write waiting and not one for each check.
                probe.running = Some(running);
                false
            }
        };
        probe.last = Some((Instant::now(), is_writable));
        is_writable
    }
}
