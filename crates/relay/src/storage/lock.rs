//! One process serves from a SQLite database.
//!
//! Two locks, both of the kind `flock`: one on a file next to the database, by its name without
//! symbolic links, and one on the database itself, which is the same under every name: through
//! symbolic and hard links, and through mounts. Linux keeps such locks apart from the record locks that SQLite
//! takes on the same file. Neither is taken from a network file system, where WAL does not work either.
//!
//! Closing any descriptor of the database drops SQLite's own locks in this process (POSIX). So the
//! descriptor is opened before SQLite opens the file, and stays open as long as the process serves.

use super::{StorageError, sqlite};
use crate::config::Database;
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often a lock is tried: a command holds one for a moment.
const TRIES: u32 = 10;

/// Between two tries.
const TRY_AGAIN: Duration = Duration::from_millis(50);

/// Held by the process that serves from a SQLite database; nothing for PostgreSQL.
#[derive(Debug)]
pub struct ServingLock {
    _by_name: Option<File>,
    _by_file: Option<File>,
}

/// Takes the locks of a process that serves, and creates the file if it is not there.
///
/// # Errors
/// [`StorageError::Unusable`] when another process serves from it.
pub fn lock(database: &Database) -> Result<ServingLock, StorageError> {
    if let Database::Sqlite(path) = database {
        sqlite::create(path)?;
    }
    lock_existing(database)
}

/// The same, and creates nothing.
///
/// # Errors
/// [`StorageError::Unusable`] when another process serves from it.
pub fn lock_existing(database: &Database) -> Result<ServingLock, StorageError> {
    let Database::Sqlite(path) = database else {
        return Ok(ServingLock {
            _by_name: None,
            _by_file: None,
        });
    };
    let unusable = |detail: String| StorageError::Unusable(format!("{}: {detail}", path.display()));
    let taken = || unusable("another integration-relay serves from this database".to_owned());
    let failed = |error: io::Error| unusable(format!("it cannot be locked: {error}"));
    let by_name = with_suffix(&real(path), ".lock");
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let by_name = options.open(&by_name).map_err(failed)?;
    if !tried(|| by_name.try_lock()).map_err(failed)? {
        return Err(taken());
    }
    let by_file = by_file(path).map_err(failed)?;
    Ok(ServingLock {
        _by_name: Some(by_name),
        _by_file: by_file.ok_or_else(taken)?,
    })
}

/// A lock on the database itself, if it is there; `None` when another process has it.
#[cfg(unix)]
fn by_file(path: &Path) -> io::Result<Option<Option<File>>> {
    use std::os::unix::fs::MetadataExt as _;
    for _ in 0..TRIES {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Some(None)),
            Err(error) => return Err(error),
        };
        if !tried(|| file.try_lock())? {
            // A relay in this same process may serve from it: closing would drop its SQLite locks.
            std::mem::forget(file);
            return Ok(None);
        }
        let (locked, named) = (file.metadata()?, std::fs::metadata(path)?);
        if (locked.dev(), locked.ino()) == (named.dev(), named.ino()) {
            return Ok(Some(Some(file)));
        }
        // Another file was put in its place meanwhile.
    }
    Err(io::Error::other("other files are put in its place"))
}

/// Locks of Windows keep everybody from reading, SQLite too.
#[cfg(not(unix))]
fn by_file(_: &Path) -> io::Result<Option<Option<File>>> {
    Ok(Some(None))
}

/// Whether the lock was to be had.
fn tried(lock: impl Fn() -> Result<(), TryLockError>) -> io::Result<bool> {
    for attempt in 1.. {
        match lock() {
            Ok(()) => return Ok(true),
            Err(TryLockError::WouldBlock) if attempt < TRIES => std::thread::sleep(TRY_AGAIN),
            Err(TryLockError::WouldBlock) => break,
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
    Ok(false)
}

/// Whether a command may use the database by this name while a relay serves from it. Under
/// another hard link or mount, SQLite would not find the relay's log of changes, and would destroy
/// the file.
///
/// # Errors
/// [`StorageError::Unusable`] when a relay serves from it under another name.
pub fn check_name(database: &Database) -> Result<(), StorageError> {
    let Database::Sqlite(path) = database else {
        return Ok(());
    };
    for attempt in 1.. {
        // This process has not opened the database yet: closing drops no lock.
        let is_served = cfg!(unix)
            && File::open(path)
                .is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)));
        // The log is there as long as the relay has a connection.
        if !is_served || with_suffix(&real(path), "-wal").exists() {
            break;
        }
        if attempt >= TRIES {
            return Err(StorageError::Unusable(format!(
                "{}: a relay serves from this database under another name (a hard link, or a \
                 mount of the file alone): use that name (storage.url)",
                path.display()
            )));
        }
        std::thread::sleep(TRY_AGAIN);
    }
    Ok(())
}

/// The path without symbolic links, also of a file that is not there.
fn real(path: &Path) -> PathBuf {
    if let Ok(real) = path.canonicalize() {
        return real;
    }
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    let dir = dir.unwrap_or(Path::new(".")).canonicalize();
    match (dir, path.file_name()) {
        (Ok(dir), Some(name)) => dir.join(name),
        _ => path.to_owned(),
    }
}

fn with_suffix(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use crate::storage::{Storage, TenantState};
    use crate::testing::TempDir;
    use std::os::unix::fs::symlink;

    fn is_refused(path: &Path) -> bool {
        match lock(&Database::Sqlite(path.to_owned())) {
            Ok(_) => false,
            Err(error) => {
                assert!(
                    error.to_string().contains("serves from this database"),
                    "{error}"
                );
                true
            }
        }
    }

    #[test]
    fn served_database_is_locked_under_every_name() {
        let dir = TempDir::new("lock");
        let [path, link, hard, away] =
            ["relay.db", "link.db", "hard.db", "moved.db"].map(|name| dir.path().join(name));
        symlink(&path, &link).unwrap();
        // The link leads to nothing yet, and is followed.
        let held = lock(&Database::Sqlite(link.clone())).unwrap();
        assert!(path.exists());
        std::fs::hard_link(&path, &hard).unwrap();
        let folder = dir.path().join("folder");
        symlink(dir.path(), &folder).unwrap();
        for name in [
            &path,
            &link,
            &hard,
            &folder.join("relay.db"),
            &folder.join("hard.db"),
        ] {
            assert!(is_refused(name), "{}", name.display());
        }
        std::fs::rename(&path, &away).unwrap();
        assert!(is_refused(&away));
        drop(held);
        assert!(!is_refused(&hard));
    }

    #[test]
    fn restore_creates_no_database() {
        let dir = TempDir::new("lock_restore");
        let path = dir.path().join("relay.db");
        let _held = lock_existing(&Database::Sqlite(path.clone())).unwrap();
        assert!(!path.exists());
        assert!(is_refused(&path));
    }

    #[tokio::test]
    async fn command_may_use_the_relays_name_and_no_other() {
        let dir = TempDir::new("lock_command");
        let [path, link, hard] =
            ["relay.db", "link.db", "hard.db"].map(|name| dir.path().join(name));
        let database = Database::Sqlite(path.clone());
        let held = lock(&database).unwrap();
        let storage = Storage::open(&database).await.unwrap();
        let tenant = storage.create_tenant("acme").await.unwrap();
        assert_eq!(tenant.state, TenantState::Active);
        symlink(&path, &link).unwrap();
        std::fs::hard_link(&path, &hard).unwrap();
        for (name, may) in [(&path, true), (&link, true), (&hard, false)] {
            let checked = check_name(&Database::Sqlite(name.clone()));
            assert_eq!(checked.is_ok(), may, "{}", name.display());
        }
        storage.close().await;
        drop(held);
        assert!(check_name(&Database::Sqlite(hard)).is_ok());
    }
}
