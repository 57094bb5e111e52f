//! Notices that an earlier copy of the database was put in its place.
//!
//! ```text
//! a delivery is committed --> within 250 ms: meta.generation + 1, committed
//!                             --> the same number in the file next to the key file, atomically
//! start: the file's number is above the database's --> deliveries are paused
//! ```
//!
//! The file is never ahead of its own database, for it is written after the commit. It costs no
//! delivery anything: changes that come together share one number.

use crate::running::StartError;
use crate::storage::audit::AuditEvent;
use crate::storage::tenants::SITE;
use crate::storage::{Storage, StorageError};
#[cfg(unix)]
use std::fs::File;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

/// The least time between two numbers.
const MARK_EVERY: Duration = Duration::from_millis(250);

/// After a failure.
const AGAIN: Duration = Duration::from_secs(1);

/// How often a failure that lasts is said.
const SAY_EVERY: Duration = Duration::from_secs(60);

/// The generation of a database, as it is noted outside of it.
#[derive(Debug)]
pub(crate) struct Generation {
    storage: Storage,
    file: PathBuf,
    /// The number that is in the database and not yet in the file.
    unwritten: Mutex<Option<i64>>,
}

impl Generation {
    /// Compares the database with the file, pauses deliveries where the database is older, and
    /// begins another generation.
    ///
    /// # Errors
    /// [`StartError`] when the database does not answer. A file that cannot be written is said and
    /// tried again by [`Self::follow`].
    pub(crate) async fn begin(storage: Storage, key_file: &Path) -> Result<Arc<Self>, StartError> {
        let file = key_file.with_extension("generation");
        let noted = read(&file);
        let (next, is_older) = storage.raise_generation(noted).await?;
        if is_older {
            let act = AuditEvent {
                tenant: SITE.into(),
                action: "database.older_copy",
                result: "ok",
                count: 1,
                ..AuditEvent::default()
            };
            storage.audit(&[act]).await?;
            tracing::warn!(
                "the database is an earlier copy: deliveries are paused, for what was delivered \
                 since is not known; `integration-relay deliveries resume` lets them go on"
            );
        }
        let generation = Self {
            storage,
            file,
            unwritten: Mutex::new(Some(next)),
        };
        if let Err(error) = generation.advance().await {
            generation.say(&error);
        }
        Ok(Arc::new(generation))
    }

    /// Follows the deliveries until the relay stops.
    pub(crate) async fn follow(self: Arc<Self>) {
        let mut said: Option<Instant> = None;
        loop {
            if self.unwritten.lock().await.is_none() {
                self.storage.wait_touched().await;
            }
            match self.advance().await {
                Ok(()) => {
                    if said.take().is_some() {
                        tracing::info!(file = %self.file.display(), "the generation is noted again");
                    }
                    tokio::time::sleep(MARK_EVERY).await;
                }
                Err(error) => {
                    if said.is_none_or(|at| at.elapsed() >= SAY_EVERY) {
                        said = Some(Instant::now());
                        self.say(&error);
                    }
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
    }

    /// Notes what was changed until now, if anything was.
    ///
    /// # Errors
    /// [`GenerationError`]; the next call tries it again.
    pub(crate) async fn advance(&self) -> Result<(), GenerationError> {
        let mut unwritten = self.unwritten.lock().await;
        if self.storage.take_touched() {
            match self.storage.advance_generation().await {
                Ok(next) => *unwritten = Some(next),
                Err(error) => {
                    self.storage.touched();
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

    fn say(&self, error: &GenerationError) {
        tracing::error!(
            %error,
            file = %self.file.display(),
            "the database's generation cannot be noted: an earlier copy that is put in its place \
             may not be noticed until it can"
        );
    }
}

/// Why a generation was not noted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GenerationError {
    /// In the database.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// In the file.
    #[error(transparent)]
    File(#[from] io::Error),
}

/// The number in a file; zero for none.
fn read(file: &Path) -> i64 {
    let text = match fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::warn!(%error, file = %file.display(), "the generation cannot be read");
            }
            return 0;
        }
    };
    text.trim().parse().unwrap_or_else(|_| {
        tracing::warn!(file = %file.display(), "the generation's file holds no number");
        0
    })
}

/// Replaces the file as a whole: a crash leaves the number before or this one.
fn write(file: &Path, number: i64) -> io::Result<()> {
    let mut name = file.as_os_str().to_owned();
    name.push(".new");
    let new = PathBuf::from(name);
    // What an earlier process left of it, or a link.
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut options = OpenOptions::new();
    options.create_new(true).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut opened = options.open(&new)?;
    opened.write_all(format!("{number}\n").as_bytes())?;
    opened.sync_all()?;
    drop(opened);
    fs::rename(&new, file)?;
    let dir = file.parent().filter(|dir| !dir.as_os_str().is_empty());
    sync_dir(dir.unwrap_or(Path::new(".")))
}

/// A renamed file is on disk when its directory is.
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
