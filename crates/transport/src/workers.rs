//! How many threads a program works with, and how many files.
//!
//! A session is moved by one task, and the tasks that it wakes do little each: on one thread they
//! cost less than on two that hand them to each other. `TOKIO_WORKER_THREADS` says otherwise.

use std::num::NonZero;
use tokio::runtime::Builder;

/// Which part of the machine a program is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkerShare {
    /// All cores but one, which the kernel's side of the network and the database have work for.
    AllButOne,
    /// Half of the cores: others live on this host.
    Half,
}

impl WorkerShare {
    fn threads(self, cores: usize) -> usize {
        match self {
            Self::AllButOne => cores.saturating_sub(1).max(1),
            Self::Half => (cores / 2).max(1),
        }
    }
}

/// Each connection is an open file: takes as many as the system lets the program have. What is preset for
/// a shell is often 1,024, and the limit behind it far higher.
#[cfg(unix)]
fn raise_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    if limit.current != limit.maximum
        && let Err(error) = setrlimit(Resource::Nofile, raised)
    {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}

#[cfg(not(unix))]
fn raise_files() {}

/// How many open files the process may have.
#[cfg(unix)]
pub fn files_max() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let current = limit.current.unwrap_or(u64::MAX);
    usize::try_from(current).unwrap_or(usize::MAX)
}

/// How many open files the process may have: the system says no number.
#[cfg(not(unix))]
pub fn files_max() -> usize {
    usize::MAX
}

/// A runtime with that many worker threads, all drivers on, in a process that may have as many open
/// files as the system allows.
pub fn builder(share: WorkerShare) -> Builder {
    raise_files();
    let mut builder = Builder::new_multi_thread();
    if std::env::var_os("TOKIO_WORKER_THREADS").is_none() {
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        builder.worker_threads(share.threads(cores));
    }
    builder.enable_all();
    builder
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_always_a_thread() {
        for (cores, all_but_one, half) in [(1, 1, 1), (2, 1, 1), (4, 3, 2), (64, 63, 32)] {
            assert_eq!(WorkerShare::AllButOne.threads(cores), all_but_one);
            assert_eq!(WorkerShare::Half.threads(cores), half);
        }
    }
}
