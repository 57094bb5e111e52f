//! Replaces a SQLite database by another file. A crash at any moment leaves either the old database or the new one.
//!
//! ```text
//! relay.db, relay.db-wal    the old database; its last changes may be in the log alone
//! relay.db                  the log is written back: the file alone is the old database
//! relay.db, aside           a second name of the old file; on a volume without hard links, a copy
//! relay.db (new), aside     one rename
//! ```
//!
//! SQLite applies a log or a journal to whatever file has the name next to it, also to one that it does not belong
//! to. So none may remain when the new file gets the name.

use crate::engine::StoreError;
use crate::engine::error::words;
use crate::lock::{ServingLock, with_suffix};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, Row as _};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The files that SQLite keeps next to a database: log, index of the log, rollback journal.
const PARTS: [&str; 3] = ["-wal", "-shm", "-journal"];

/// End of the name of a copy that is not complete.
const UNFINISHED: &str = ".unfinished";

/// How long it is waited for a command that has the database open.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// What [`replace`] did to the previous database.
#[derive(Debug, PartialEq, Eq)]
pub struct Replaced {
    /// Whether there was one. It is now the file `aside`.
    pub had_database: bool,
    /// Why SQLite could not read it, if it was damaged. Its files next to it were moved unchanged.
    pub damage: Option<String>,
    /// Log and journal that were there without a database, or with a damaged one, under their new names.
    pub moved: Vec<PathBuf>,
}

/// Replaces the database `to` by the file `by`, which no process has open. The previous one becomes `aside`, a name
/// in the same directory that is free. `to` must not be a symbolic link.
///
/// # Errors
/// [`StoreError::Unusable`] when another process has the database open, or a file cannot be moved. `to` is then
/// the previous database.
pub async fn replace(
    lock: &ServingLock,
    to: &Path,
    by: &Path,
    aside: &Path,
) -> Result<Replaced, StoreError> {
    replace_with(lock, to, by, aside, |to, aside| fs::hard_link(to, aside)).await
}

/// The same, with the function that gives a file a second name.
async fn replace_with(
    _lock: &ServingLock,
    to: &Path,
    by: &Path,
    aside: &Path,
    link: impl Fn(&Path, &Path) -> io::Result<()>,
) -> Result<Replaced, StoreError> {
    let failed = |what: &str, path: &Path, error: &io::Error| {
        StoreError::Unusable(format!("cannot {what} {}: {error}", path.display()))
    };
    let mut replaced = Replaced {
        had_database: to.exists(),
        damage: None,
        moved: Vec::new(),
    };
    if replaced.had_database {
        replaced.damage = write_back(to).await?;
        remove_second_names(to).map_err(|error| failed("read the directory of", to, &error))?;
        // A link, not a rename: the old database keeps its name until the new one has it.
        if link(to, aside).is_err() {
            // FAT, some network volumes and some containers have no hard links. A cause that also concerns a copy is
            // reported by it.
            copy_aside(to, aside).map_err(|error| failed("copy", to, &error))?;
        }
    }
    for part in PARTS {
        let file = with_suffix(to, part);
        if !file.exists() {
            continue;
        }
        if replaced.had_database && replaced.damage.is_none() {
            // SQLite removes its files with the last connection.
            let _ = fs::remove_file(aside);
            return Err(StoreError::Unusable(format!(
                "{}: another process has the database open ({} exists); wait for the other command, and \
                 try again",
                to.display(),
                file.display()
            )));
        }
        let moved = with_suffix(aside, part);
        fs::rename(&file, &moved).map_err(|error| failed("move", &file, &error))?;
        replaced.moved.push(moved);
    }
    // Before the rename: a log that comes back after a crash would be applied to the new file.
    sync_dir_of(to).map_err(|error| failed("sync the directory of", to, &error))?;
    fs::rename(by, to).map_err(|error| failed("move", by, &error))?;
    sync_dir_of(to).map_err(|error| failed("sync the directory of", to, &error))?;
    Ok(replaced)
}

/// Writes the log of a database back into its file, and removes the log. Returns the damage of a database that
/// SQLite cannot read.
async fn write_back(path: &Path) -> Result<Option<String>, StoreError> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .busy_timeout(BUSY_TIMEOUT)
        .disable_statement_logging();
    let is_damage = |error: &sqlx::Error| {
        // CORRUPT 11, NOTADB 26: waiting does not help.
        let code = error.as_database_error().and_then(|error| error.code());
        let code = code.and_then(|code| code.parse::<u32>().ok());
        code.is_some_and(|code| matches!(code & 0xff, 11 | 26))
    };
    let written = async {
        let mut connection = options.connect().await?;
        // Reads the first page: a file that is no database fails here.
        let read = sqlx::query("SELECT count(*) FROM sqlite_master");
        read.fetch_one(&mut connection).await?;
        let row = sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)")
            .fetch_one(&mut connection)
            .await?;
        let is_busy: i64 = row.try_get(0)?;
        connection.close().await?;
        Ok::<_, sqlx::Error>(is_busy != 0)
    };
    match written.await {
        Ok(false) => Ok(None),
        Ok(true) => Err(StoreError::Unusable(format!(
            "{}: another process has the database open; wait for the other command, and try again",
            path.display()
        ))),
        Err(error) if is_damage(&error) => Ok(Some(words(&error))),
        Err(error) => Err(error.into()),
    }
}

/// Checks that SQLite finds no defect in a database that no process has open.
///
/// # Errors
/// [`StoreError::Unusable`] with the first defect.
pub async fn check(path: &Path) -> Result<(), StoreError> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .disable_statement_logging();
    let unusable =
        |what: &dyn std::fmt::Display| StoreError::Unusable(format!("{}: {what}", path.display()));
    let checked = async {
        let mut connection = options.connect().await?;
        let row = sqlx::query("PRAGMA quick_check(1)")
            .fetch_one(&mut connection)
            .await?;
        let found: String = row.try_get(0)?;
        connection.close().await?;
        Ok::<_, sqlx::Error>(found)
    };
    let found = checked.await.map_err(|error| unusable(&words(&error)))?;
    match found.as_str() {
        "ok" => Ok(()),
        defect => Err(unusable(&defect)),
    }
}

/// Copies the old database to a new file with the same owner and rights. The copy is complete and on disk before it
/// gets the name `aside`.
fn copy_aside(from: &Path, aside: &Path) -> io::Result<()> {
    let unfinished = with_suffix(aside, UNFINISHED);
    let copied = copy_to_new(from, &unfinished).and_then(|()| fs::rename(&unfinished, aside));
    if copied.is_err() {
        let _ = fs::remove_file(&unfinished);
    }
    copied
}

fn copy_to_new(from: &Path, to: &Path) -> io::Result<()> {
    let mut source = File::open(from)?;
    let mut options = File::options();
    options.write(true).create_new(true);
    #[cfg(unix)]
    {
        // No other user may read it, not even for a moment.
        use std::os::unix::fs::OpenOptionsExt as _;
        options.mode(0o600);
    }
    let mut copy = options.open(to)?;
    io::copy(&mut source, &mut copy)?;
    let found = source.metadata()?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::{MetadataExt as _, fchown};
        // Only root may, and only root needs to.
        let _ = fchown(&copy, Some(found.uid()), Some(found.gid()));
    }
    copy.set_permissions(found.permissions())?;
    copy.sync_all()
}

/// Removes what a crash between the second name and the rename has left: names of the old file, and a part of a copy.
fn remove_second_names(path: &Path) -> io::Result<()> {
    let own = fs::metadata(path)?;
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok(());
    };
    let mut prefix = name.to_owned();
    prefix.push(".replaced-");
    let dir = match dir.as_os_str().is_empty() {
        true => Path::new("."),
        false => dir,
    };
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.as_encoded_bytes();
        if !name.starts_with(prefix.as_encoded_bytes()) {
            continue;
        }
        // It may have been removed in the meantime.
        let Ok(found) = entry.metadata() else {
            continue;
        };
        if name.ends_with(UNFINISHED.as_bytes()) || is_one_file(&found, &own) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Returns whether two descriptions are of one file with several names.
#[cfg(unix)]
fn is_one_file(one: &fs::Metadata, other: &fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

#[cfg(not(unix))]
fn is_one_file(_: &fs::Metadata, _: &fs::Metadata) -> bool {
    false
}

/// Syncs the directory of a file: only then are its names on disk.
fn sync_dir_of(path: &Path) -> io::Result<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    match cfg!(unix) {
        true => File::open(dir.unwrap_or(Path::new(".")))?.sync_all(),
        false => Ok(()),
    }
}

#[cfg(test)]
#[cfg(unix)]
mod tests;
