//! Worker threads and open files of a program.
//!
//! One task drives a session, and the tasks that it wakes do little each. On one thread they cost less than on
//! two threads that pass them to each other. `TOKIO_WORKER_THREADS` overrides the number of threads.

use std::num::NonZero;
use tokio::runtime::Builder;

/// The share of the machine's cores that a program uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkerShare {
    /// All cores but one, which the kernel's network stack and the database use.
    AllButOne,
    /// Half of the cores: other programs run on this host.
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

/// Raises the limit of open files to the maximum that the system allows.
///
/// Each connection is an open file. The soft limit of a shell is often 1,024, and the hard limit far higher.
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
        tracing::debug!(%error, "cannot raise the limit of open files");
    }
}

#[cfg(not(unix))]
fn raise_files() {}

/// Returns how many files the process may have open.
#[cfg(unix)]
pub fn files_max() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let current = limit.current.unwrap_or(u64::MAX);
    usize::try_from(current).unwrap_or(usize::MAX)
}

/// Returns how many files the process may have open: this system has no such limit.
#[cfg(not(unix))]
pub fn files_max() -> usize {
    usize::MAX
}

/// Creates a runtime builder with the worker threads of a share and all drivers, and raises the
/// process's limit of open files.
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
    fn every_share_has_a_thread() {
        for (cores, all_but_one, half) in [(1, 1, 1), (2, 1, 1), (4, 3, 2), (64, 63, 32)] {
            assert_eq!(WorkerShare::AllButOne.threads(cores), all_but_one);
            assert_eq!(WorkerShare::Half.threads(cores), half);
        }
    }
}
