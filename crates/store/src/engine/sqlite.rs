//! The SQLite file: how it is opened, and which of its errors are transient.
//!
//! WAL, so that commands read and write next to a running server. A commit is on disk before it is
//! acknowledged (`synchronous = FULL`), and a writer waits up to five seconds for another one.

use super::StoreError;
use super::backend::PoolSettings;
use super::error::io_words;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

/// How long a writer waits for another process: the `busy_timeout` of [`SETUP`].
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Connections of this process. Each is a thread.
const CONNECTIONS_MAX: u32 = 4;

const SETUP: &str = "PRAGMA busy_timeout = 5000; PRAGMA journal_mode = WAL; \
                     PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON";

/// What is said of a path that names no file.
pub(crate) const NOT_A_FILE: &str = "is not a regular file";

/// Returns whether a path names a pipe, a socket or a device. The open of a pipe would wait for ever.
pub(crate) fn is_special(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|found| !found.is_file() && !found.is_dir())
}

/// Checks that a path names no pipe, socket or device.
pub(crate) fn require_file(path: &Path) -> Result<(), StoreError> {
    match is_special(path) {
        true => Err(StoreError::Unusable(format!(
            "{}: {NOT_A_FILE}",
            path.display()
        ))),
        false => Ok(()),
    }
}

/// Creates the file and its directory, if they do not exist.
pub(crate) fn create(path: &Path) -> Result<(), StoreError> {
    let unusable = |detail: String| StoreError::Unusable(format!("{}: {detail}", path.display()));
    require_file(path)?;
    if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        std::fs::create_dir_all(dir).map_err(|error| {
            unusable(format!("cannot create its directory: {}", io_words(&error)))
        })?;
    }
    create_private(path).map_err(|error| unusable(io_words(&error)))
}

pub(crate) fn settings(path: &Path) -> Result<PoolSettings, StoreError> {
    let unusable = |detail: String| StoreError::Unusable(format!("{}: {detail}", path.display()));
    create(path)?;
    let absolute = std::path::absolute(path).map_err(|error| unusable(error.to_string()))?;
    let absolute = absolute
        .to_str()
        .ok_or_else(|| unusable("its path is not UTF-8".to_owned()))?;
    Ok(PoolSettings {
        url: url(absolute),
        connections_max: CONNECTIONS_MAX,
        // Longer than a writer waits, so that a busy database is reported as such.
        acquire_timeout: 2 * BUSY_TIMEOUT,
        setup: SETUP,
        display_name: path.display().to_string(),
    })
}

/// Returns the URL under which a file is read, and nothing is created or changed.
pub(crate) fn url_to_read(path: &Path) -> Option<String> {
    let has = |part: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(part);
        Path::new(&name).exists()
    };
    let absolute = std::path::absolute(path).ok()?;
    let url = url(absolute.to_str()?);
    // The last changes are in the log, which needs its index. Where either is missing, SQLite would create the index.
    let how = match has("-wal") && has("-shm") {
        true => "mode=ro",
        false => "mode=ro&immutable=1",
    };
    Some(url.replace("mode=rw", how))
}

/// Returns the path as a URL, whatever characters it contains.
fn url(path: &str) -> String {
    let mut url = "sqlite://".to_owned();
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'-' | b'_' | b'.') {
            url.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(url, "%{byte:02X}");
        }
    }
    url.push_str("?mode=rw");
    url
}

/// Creates the file, readable by its owner only.
fn create_private(path: &Path) -> std::io::Result<()> {
    // An existing file is not opened: closing it again would drop SQLite's own locks if this process has the
    // database open already (POSIX advisory locks belong to the process, not to the descriptor).
    if path.exists() {
        return Ok(());
    }
    crate::owner::open_private(path, std::fs::OpenOptions::new().append(true)).map(drop)
}

/// Returns whether an error is transient, by SQLite's primary result code: BUSY 5, LOCKED 6, READONLY 8,
/// IOERR 10, FULL 13, CANTOPEN 14.
pub(crate) fn is_transient(code: &str) -> bool {
    let code = code.parse::<u32>();
    code.is_ok_and(|code| matches!(code & 0xff, 5 | 6 | 8 | 10 | 13 | 14))
}

/// Returns what an error means for the operator, by SQLite's primary result code.
pub(crate) fn words(code: &str) -> Option<&'static str> {
    Some(match code.parse::<u32>().ok()? & 0xff {
        3 | 23 => {
            "this user may not use it: run the command as the user who owns it, or change its owner or mode"
        }
        5 | 6 => "another process is writing to it: wait for the other command, and try again",
        8 => {
            "this user may not write to it or to its directory: run the command as the user who owns it, or change \
             its owner or mode"
        }
        10 => "the disk reports an error: check the disk, and the system's log",
        11 => "it is damaged or cut short: use a whole copy of it",
        13 => "the disk is full",
        14 => {
            "this user may not open it, or may not write to its directory: run the command as the user who owns it, \
             or change its owner or mode"
        }
        26 => "it is not a SQLite database",
        _ => return None,
    })
}

/// Returns whether a failed COMMIT may have left a whole transaction in the log. No reader sees it there until
/// recovery reads the log after a crash. The causes are a failed sync or write (IOERR 10), and errors without a
/// code.
pub(crate) fn may_reappear(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(error) => {
            let code = error.code().and_then(|code| code.parse::<u32>().ok());
            code.is_none_or(|code| code & 0xff == 10)
        }
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn url_escapes_special_characters_of_the_path() {
        assert_eq!(
            url("/var/lib/ä b?#%/relay.db"),
            "sqlite:///var/lib/%C3%A4%20b%3F%23%25/relay.db?mode=rw"
        );
    }
}
