//! Detects that an older copy of the database has replaced it.
//!
//! ```text
//! a change is committed --> within 250 ms: meta.generation + 1, committed
//!                       --> the same number into a file outside of the database, atomically
//! start: the file's number is above the database's --> the database is an older copy
//! ```
//!
//! The file is never ahead of its own database, because it is written after the commit. Changes that come
//! together share one number, so no change waits for it.

use crate::{Store, StoreError, owner};
#[cfg(unix)]
use std::fs::File;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

/// The least time between two numbers.
const ADVANCE_INTERVAL: Duration = Duration::from_millis(250);

/// The pause after a failure.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The interval between log lines while a failure lasts.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// The generation of a database, and the file outside of it that notes the same number.
#[derive(Debug)]
pub struct Generation {
    store: Store,
    file: PathBuf,
    /// The number that is in the database and not yet in the file.
    unwritten: Mutex<Option<i64>>,
}

/// What the two numbers say about a database at the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Nothing has replaced it.
    Current,
    /// No process has served from it yet. With a number in the file, another database was served before.
    New {
        /// The number in the file; zero for none.
        noted: i64,
    },
    /// It lacks changes that a process has made: it is a copy of an earlier time.
    Older {
        /// The database's number.
        own: i64,
        /// The number in the file.
        noted: i64,
    },
}

/// Why a generation was not noted.
#[derive(Debug, thiserror::Error)]
pub enum GenerationError {
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The file cannot be written.
    #[error(transparent)]
    File(#[from] io::Error),
}

impl Generation {
    /// Compares the database with the file, and begins another generation. Returns what the comparison found;
    /// `if_older` is a statement that is executed in the same transaction in an older copy. The file is written by
    /// [`Self::note`] and [`Self::follow`].
    ///
    /// # Errors
    /// [`StoreError`] when the database does not respond.
    pub async fn begin(
        store: Store,
        file: PathBuf,
        if_older: &'static str,
    ) -> Result<(Arc<Self>, Found), StoreError> {
        let noted = read(&file);
        let (next, found) = store.raise_generation(noted, if_older).await?;
        let generation = Self {
            store,
            file,
            unwritten: Mutex::new(Some(next)),
        };
        Ok((Arc::new(generation), found))
    }

    /// Notes changes until the task is aborted.
    pub async fn follow(self: Arc<Self>) {
        let mut logged: Option<Instant> = None;
        loop {
            // A number that is not in the file yet needs no further change to be retried.
            if self.unwritten.lock().await.is_none() {
                self.store.wait_changed().await;
            }
            match self.advance().await {
                Ok(()) => {
                    if logged.take().is_some() {
                        tracing::info!(
                            file = %self.file.display(),
                            "the database's generation is noted again"
                        );
                    }
                    tokio::time::sleep(ADVANCE_INTERVAL).await;
                }
                Err(error) => {
                    if logged.is_none_or(|at| at.elapsed() >= LOG_INTERVAL) {
                        logged = Some(Instant::now());
                        self.log_failure(&error);
                    }
                    tokio::time::sleep(RETRY_AFTER).await;
                }
            }
        }
    }

    /// Notes the changes made until now. A failure is logged, and retried by [`Self::follow`].
    pub async fn note(&self) {
        if let Err(error) = self.advance().await {
            self.log_failure(&error);
        }
    }

    /// Notes the changes made until now, if there are any.
    ///
    /// # Errors
    /// [`GenerationError`]; the next call retries.
    pub async fn advance(&self) -> Result<(), GenerationError> {
        let mut unwritten = self.unwritten.lock().await;
        // The mark is taken before the commit: a change that is stored meanwhile sets it again, and gets a
        // number of its own.
        if self.store.take_changed() {
            match self.store.advance_generation().await {
                Ok(next) => *unwritten = Some(next),
                Err(error) => {
                    self.store.mark_changed();
                    return Err(error.into());
                }
            }
        }
        let Some(number) = *unwritten else {
            return Ok(());
        };
        let file = self.file.clone();
        let written = tokio::task::spawn_blocking(move || write(&file, number)).await;
        written.map_err(io::Error::other)??;
        *unwritten = None;
        Ok(())
    }

    fn log_failure(&self, error: &GenerationError) {
        tracing::error!(
            %error,
            file = %self.file.display(),
            "cannot note the database's generation: an older copy that is restored now may not be \
             detected"
        );
    }
}

/// Returns the number in a file; zero for none.
fn read(file: &Path) -> i64 {
    let text = match fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::warn!(%error, file = %file.display(), "cannot read the generation file");
            }
            return 0;
        }
    };
    text.trim().parse().unwrap_or_else(|_| {
        tracing::warn!(file = %file.display(), "the generation file does not contain a number");
        0
    })
}

/// Replaces the file atomically: after a crash it holds the previous number or this one.
fn write(file: &Path, number: i64) -> io::Result<()> {
    let mut name = file.as_os_str().to_owned();
    name.push(".new");
    let new = PathBuf::from(name);
    // The remains of an earlier process, or a link that another user made: `create_new` below follows none.
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut options = OpenOptions::new();
    options.create_new(true).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut opened = options.open(&new)?;
    owner::give_to_dir_owner(&opened, &new)?;
    opened.write_all(format!("{number}\n").as_bytes())?;
    // Before the rename: it could reach the disk first, and leave an empty file after a crash.
    opened.sync_all()?;
    drop(opened);
    fs::rename(&new, file)?;
    let dir = file.parent().filter(|dir| !dir.as_os_str().is_empty());
    sync_dir(dir.unwrap_or(Path::new(".")))
}

/// Syncs a directory: only then is a rename in it on disk.
#[cfg(unix)]
fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

#[cfg(not(unix))]
fn sync_dir(_: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests;
