//! One process serves from a SQLite database.
//!
//! There are two locks, both of the kind `flock`. One is on a file next to the database, by the database's name
//! without symbolic links. The other is on the database file itself, which is the same under every name: through
//! symbolic links, hard links and mounts. Linux keeps such locks apart from the record locks that SQLite takes on
//! the same file. Neither works on a network file system, where WAL does not work either.
//!
//! Closing any descriptor of the database drops SQLite's own locks in this process (POSIX). So the descriptor is
//! opened before SQLite opens the file, and stays open as long as the process serves.

use crate::database::Database;
use crate::engine::{StoreError, sqlite};
use crate::owner;
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Attempts at a lock: a command holds one only for a moment.
const ATTEMPTS: u32 = 10;

/// The pause between two attempts.
const RETRY_AFTER: Duration = Duration::from_millis(50);

/// The locks of the process that serves from a SQLite database; none for PostgreSQL. Dropping releases them.
#[derive(Debug)]
pub struct ServingLock {
    _by_name: Option<File>,
    _by_file: Option<File>,
}

/// Takes the locks of a process that serves. Creates the database file if it does not exist.
///
/// # Errors
/// [`StoreError::Unusable`] when another process serves from it.
pub fn lock(database: &Database) -> Result<ServingLock, StoreError> {
    if let Database::Sqlite(path) = database {
        sqlite::create(path)?;
    }
    lock_existing(database)
}

/// Takes the locks of a process that serves, and does not create the database file.
///
/// # Errors
/// [`StoreError::Unusable`] when another process serves from it.
pub fn lock_existing(database: &Database) -> Result<ServingLock, StoreError> {
    let Database::Sqlite(path) = database else {
        return Ok(ServingLock {
            _by_name: None,
            _by_file: None,
        });
    };
    let unusable = |detail: String| StoreError::Unusable(format!("{}: {detail}", path.display()));
    sqlite::require_file(path)?;
    let is_held =
        || unusable("another process serves from this database: stop that relay first".to_owned());
    let failed = |error: io::Error| unusable(format!("cannot lock it: {error}"));
    let by_name = with_suffix(&resolve(path), ".lock");
    let by_name = owner::open_private(&by_name, OpenOptions::new().write(true)).map_err(failed)?;
    // By name first: it also guards a database file that does not exist yet, or that is about to be replaced.
    if !try_lock(|| by_name.try_lock()).map_err(failed)? {
        return Err(is_held());
    }
    let by_file = lock_file(path).map_err(failed)?;
    Ok(ServingLock {
        _by_name: Some(by_name),
        _by_file: by_file.ok_or_else(is_held)?,
    })
}

/// Locks the database file itself, if it exists. Returns `None` when another process holds the lock.
#[cfg(unix)]
fn lock_file(path: &Path) -> io::Result<Option<Option<File>>> {
    use std::os::unix::fs::MetadataExt as _;
    for _ in 0..ATTEMPTS {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Some(None)),
            Err(error) => return Err(error),
        };
        if !try_lock(|| file.try_lock())? {
            // Leaked on purpose: the holder may be a server in this same process, and closing this descriptor
            // would drop its SQLite locks.
            std::mem::forget(file);
            return Ok(None);
        }
        let (locked, named) = (file.metadata()?, std::fs::metadata(path)?);
        if (locked.dev(), locked.ino()) == (named.dev(), named.ino()) {
            return Ok(Some(Some(file)));
        }
        // The name led to another file between open and lock: the lock is on a file that is no longer the
        // database.
    }
    Err(io::Error::other("other processes keep replacing the file"))
}

/// On Windows a lock keeps every process from reading, SQLite too.
#[cfg(not(unix))]
fn lock_file(_: &Path) -> io::Result<Option<Option<File>>> {
    Ok(Some(None))
}

/// Takes a lock, with a few attempts. Returns whether it succeeded.
fn try_lock(lock: impl Fn() -> Result<(), TryLockError>) -> io::Result<bool> {
    for attempt in 1.. {
        match lock() {
            Ok(()) => return Ok(true),
            Err(TryLockError::WouldBlock) if attempt < ATTEMPTS => std::thread::sleep(RETRY_AFTER),
            Err(TryLockError::WouldBlock) => break,
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
    Ok(false)
}

/// Checks whether a command may use the database under this name while another process serves from it. Under
/// another hard link or mount, SQLite would not find that process's write-ahead log, and would destroy the file.
///
/// # Errors
/// [`StoreError::Unusable`] when a process serves from it under another name.
pub fn check_name(database: &Database) -> Result<(), StoreError> {
    let Database::Sqlite(path) = database else {
        return Ok(());
    };
    sqlite::require_file(path)?;
    for attempt in 1.. {
        // Closing the file drops no lock of SQLite: this process has not opened the database yet.
        let is_served = cfg!(unix)
            && File::open(path)
                .is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)));
        // The log exists next to the name that the server uses, as long as it has a connection. A server that
        // has the lock and no connection yet is the reason for the retries.
        if !is_served || with_suffix(&resolve(path), "-wal").exists() {
            break;
        }
        if attempt >= ATTEMPTS {
            return Err(StoreError::Unusable(format!(
                "{}: another process serves from this database under another name (a hard link, or \
                 a mount of the file alone): use that name (storage.url)",
                path.display()
            )));
        }
        std::thread::sleep(RETRY_AFTER);
    }
    Ok(())
}

/// Returns the path without symbolic links, also for a file that does not exist.
fn resolve(path: &Path) -> PathBuf {
    if let Ok(resolved) = path.canonicalize() {
        return resolved;
    }
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    let dir = dir.unwrap_or(Path::new(".")).canonicalize();
    match (dir, path.file_name()) {
        (Ok(dir), Some(name)) => dir.join(name),
        _ => path.to_owned(),
    }
}

pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use crate::Store;
    use crate::tests::MIGRATIONS;
    use std::os::unix::fs::symlink;
    use support::TempDir;

    fn is_rejected(path: &Path) -> bool {
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
        // The link's target does not exist yet; the lock is on its name.
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
            assert!(is_rejected(name), "{}", name.display());
        }
        std::fs::rename(&path, &away).unwrap();
        assert!(is_rejected(&away));
        drop(held);
        assert!(!is_rejected(&hard));
    }

    #[test]
    fn restore_creates_no_database() {
        let dir = TempDir::new("lock_restore");
        let path = dir.path().join("relay.db");
        let _held = lock_existing(&Database::Sqlite(path.clone())).unwrap();
        assert!(!path.exists());
        assert!(is_rejected(&path));
    }

    #[tokio::test]
    async fn command_must_use_the_name_of_the_server() {
        let dir = TempDir::new("lock_command");
        let [path, link, hard] =
            ["relay.db", "link.db", "hard.db"].map(|name| dir.path().join(name));
        let database = Database::Sqlite(path.clone());
        let held = lock(&database).unwrap();
        let store = Store::open(&database, &MIGRATIONS).await.unwrap();
        store.change().await.unwrap().0.commit().await.unwrap();
        symlink(&path, &link).unwrap();
        std::fs::hard_link(&path, &hard).unwrap();
        for (name, may) in [(&path, true), (&link, true), (&hard, false)] {
            let checked = check_name(&Database::Sqlite(name.clone()));
            assert_eq!(checked.is_ok(), may, "{}", name.display());
        }
        store.close().await;
        drop(held);
        assert!(check_name(&Database::Sqlite(hard)).is_ok());
    }
}
