//! Whether the tasks that a program needs still make progress.
//!
//! ```text
//!              tick                      answered, between two polls of the task
//! keep_alive ---------> guarded tasks ------------------------------------------> keep_alive --> WATCHDOG=1
//! ```
//!
//! A task that blocks its thread, waits for a lock that is never released, or has panicked does not answer. The service
//! manager then gets no ping, ends the process and starts it again. A task that waits for the network or a database
//! answers, however long that takes: a restart would not help.

use crate::service_manager::ServiceManager;
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, watch};
use tokio::time::MissedTickBehavior;

/// How often a ping is tried while the queue of the service manager is full.
const PING_RETRIES: u32 = 5;

/// The guarded tasks of a program. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Liveness(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Counts the ticks.
    ticks: watch::Sender<u64>,
    tasks: Mutex<Tasks>,
    /// Wakes the waiter after an answer.
    answered: Notify,
}

#[derive(Debug, Default)]
struct Tasks {
    next_id: u64,
    guarded: BTreeMap<u64, Guarded>,
}

/// What is known of a task.
#[derive(Debug)]
struct Guarded {
    name: String,
    /// The last tick that it answered.
    tick: u64,
}

impl Liveness {
    /// Returns the task with an answer to each tick. It counts from now on until it ends or is dropped; after a panic
    /// it counts as stuck.
    pub fn guard<F: Future>(
        &self,
        name: &str,
        task: F,
    ) -> impl Future<Output = F::Output> + use<F> {
        let entry = self.enter(name);
        async move {
            let mut task = pin!(task);
            let mut answers = pin!(entry.answer());
            poll_fn(|cx| {
                // Never ends. A wake by a tick polls the task once more than needed.
                let _ = answers.as_mut().poll(cx);
                task.as_mut().poll(cx)
            })
            .await
        }
    }

    /// Pings the service manager for as long as every guarded task answers. Returns at once without a watchdog, and
    /// otherwise never. Cancel safe.
    pub async fn keep_alive(self, manager: ServiceManager) {
        let Some(timeout) = manager.watchdog() else {
            return;
        };
        // `sd_watchdog_enabled(3)` recommends half the time.
        let period = timeout / 2;
        let mut beats = tokio::time::interval(period);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            beats.tick().await;
            self.tick();
            if tokio::time::timeout(period / 2, self.all_answered())
                .await
                .is_err()
            {
                let tasks = self.late().join(", ");
                tracing::error!(
                    tasks,
                    "tasks are stuck or have panicked; the service manager restarts this process if that stays so"
                );
                self.all_answered().await;
                tracing::info!("every task makes progress again");
            }
            // The next beat may be too late. What was answered just now is still true after such a time.
            for _ in 0..PING_RETRIES {
                if !manager.ping() {
                    break;
                }
                tokio::time::sleep(period / 20).await;
            }
        }
    }

    fn enter(&self, name: &str) -> Entry {
        let mut tasks = self.tasks();
        let id = tasks.next_id;
        tasks.next_id += 1;
        let guarded = Guarded {
            name: name.to_owned(),
            tick: *self.0.ticks.borrow(),
        };
        tasks.guarded.insert(id, guarded);
        Entry {
            liveness: self.clone(),
            id,
        }
    }

    fn tick(&self) {
        self.0.ticks.send_modify(|tick| *tick += 1);
    }

    /// Returns the names of the tasks that have not answered the last tick.
    fn late(&self) -> Vec<String> {
        let tick = *self.0.ticks.borrow();
        let tasks = self.tasks();
        let late = tasks.guarded.values().filter(|task| task.tick != tick);
        late.map(|task| task.name.clone()).collect()
    }

    async fn all_answered(&self) {
        // The notification of an answer between the two steps is kept.
        while !self.late().is_empty() {
            self.0.answered.notified().await;
        }
    }

    fn tasks(&self) -> MutexGuard<'_, Tasks> {
        self.0.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The entry of one task.
struct Entry {
    liveness: Liveness,
    id: u64,
}

impl Entry {
    /// Answers each tick. Never returns.
    async fn answer(&self) {
        let mut ticks = self.liveness.0.ticks.subscribe();
        loop {
            let tick = *ticks.borrow_and_update();
            if let Some(own) = self.liveness.tasks().guarded.get_mut(&self.id) {
                own.tick = tick;
            }
            self.liveness.0.answered.notify_one();
            if ticks.changed().await.is_err() {
                // Not reached: the sender lives as long as `self`.
                std::future::pending::<()>().await;
            }
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        // The entry of a task that panics stays, and no later tick is answered.
        if !std::thread::panicking() {
            self.liveness.tasks().guarded.remove(&self.id);
            self.liveness.0.answered.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const LIMIT: Duration = Duration::from_secs(1);

    /// Returns the tasks that do not answer a tick.
    async fn stuck(liveness: &Liveness) -> Vec<String> {
        liveness.tick();
        match tokio::time::timeout(LIMIT, liveness.all_answered()).await {
            Ok(()) => Vec::new(),
            Err(_) => liveness.late(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_task_answers_and_ended_task_is_forgotten() {
        let liveness = Liveness::default();
        assert!(stuck(&liveness).await.is_empty(), "nothing is guarded");
        let waiting = tokio::spawn(liveness.guard("waiting", std::future::pending::<()>()));
        let ending = tokio::spawn(liveness.guard("ending", async { 5 }));
        assert!(stuck(&liveness).await.is_empty());
        assert_eq!(ending.await.unwrap(), 5);
        assert!(stuck(&liveness).await.is_empty());
        waiting.abort();
        waiting.await.unwrap_err();
        assert!(stuck(&liveness).await.is_empty());
        assert!(liveness.tasks().guarded.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn panicked_task_stays_stuck() {
        let liveness = Liveness::default();
        let task = tokio::spawn(liveness.guard("broken", async {
            tokio::task::yield_now().await;
            panic!("a defect");
        }));
        task.await.unwrap_err();
        assert_eq!(stuck(&liveness).await, ["broken"]);
    }

    #[tokio::test(start_paused = true)]
    async fn task_that_is_not_polled_is_late() {
        let liveness = Liveness::default();
        let _other = tokio::spawn(liveness.guard("other", std::future::pending::<()>()));
        let idle = liveness.guard("idle", async {});
        assert_eq!(stuck(&liveness).await, ["idle"]);
        idle.await;
        assert!(stuck(&liveness).await.is_empty());
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn pings_stop_while_a_task_is_stuck() {
        use crate::testing::TempDir;
        use std::os::unix::net::UnixDatagram;
        let dir = TempDir::new("liveness");
        let path = dir.path().join("notify");
        let receiver = UnixDatagram::bind(&path).unwrap();
        let manager = ServiceManager::with_watchdog(&path, Duration::from_millis(100));
        let liveness = Liveness::default();
        let idle = liveness.guard("idle", async {});
        let pinging = tokio::spawn(liveness.keep_alive(manager));
        tokio::time::sleep(Duration::from_millis(300)).await;
        receiver.set_nonblocking(true).unwrap();
        let mut buffer = [0; 64];
        receiver.recv(&mut buffer).unwrap_err();
        idle.await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        let length = receiver.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"WATCHDOG=1");
        pinging.abort();
    }
}
