//! The SQLite file: how it is opened, and which of its errors pass by themselves.
//!
//! WAL, so that commands read and write beside a running relay; every commit is on disk before it
//! is acknowledged (`synchronous = FULL`); a writer waits up to five seconds for another.

use super::StorageError;
use super::db::Opening;
use sqlx::migrate::Migrator;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

static MIGRATOR: Migrator = sqlx::migrate!("./migrations/sqlite");

/// How long a writer waits for another process: the `busy_timeout` of [`FIRST`].
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Connections of this process. The data path needs none; each is a thread.
const CONNECTIONS_MAX: u32 = 4;

const FIRST: &str = "PRAGMA busy_timeout = 5000; PRAGMA journal_mode = WAL; \
                     PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON";

/// Creates the file and its directory, if they are not there.
pub(super) fn create(path: &Path) -> Result<(), StorageError> {
    let unusable = |detail: String| StorageError::Unusable(format!("{}: {detail}", path.display()));
    if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        std::fs::create_dir_all(dir)
            .map_err(|error| unusable(format!("its directory cannot be made: {error}")))?;
    }
    private(path).map_err(|error| unusable(error.to_string()))
}

pub(super) fn opening(path: &Path) -> Result<Opening, StorageError> {
    let unusable = |detail: String| StorageError::Unusable(format!("{}: {detail}", path.display()));
    create(path)?;
    let whole = std::path::absolute(path).map_err(|error| unusable(error.to_string()))?;
    let whole = whole
        .to_str()
        .ok_or_else(|| unusable("its path is not UTF-8".to_owned()))?;
    Ok(Opening {
        url: url(whole),
        connections_max: CONNECTIONS_MAX,
        acquire_timeout: 2 * BUSY_TIMEOUT,
        first: FIRST,
        migrator: &MIGRATOR,
        shown: path.display().to_string(),
    })
}

/// The path as a URL, whatever characters it has.
fn url(path: &str) -> String {
    let mut url = "sqlite://".to_owned();
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'-' | b'_' | b'.') {
            url.push(char::from(byte));
        } else {
            // Writing to a string does not fail.
            let _ = write!(url, "%{byte:02X}");
        }
    }
    url.push_str("?mode=rw");
    url
}

/// Creates the file for its owner alone. One that exists is not opened: closing it again would drop
/// SQLite's own locks, if this process has the database open already (POSIX advisory locks).
fn private(path: &Path) -> std::io::Result<()> {
    if path.exists() {
        return Ok(());
    }
    let mut options = std::fs::OpenOptions::new();
    options.create(true).append(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map(drop)
}

/// By SQLite's primary result code: BUSY 5, LOCKED 6, READONLY 8, IOERR 10, FULL 13, CANTOPEN 14.
pub(super) fn is_passing(code: &str) -> bool {
    let code = code.parse::<u32>();
    code.is_ok_and(|code| matches!(code & 0xff, 5 | 6 | 8 | 10 | 13 | 14))
}

/// Whether a failed COMMIT may have left a whole transaction in the log, where no reader sees it until
/// a recovery reads the log after a crash: a failed sync or write (IOERR 10), or an unknown end.
pub(super) fn may_reappear(error: &sqlx::Error) -> bool {
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
    fn a_path_may_have_any_characters() {
        assert_eq!(
            url("/var/lib/ä b?#%/relay.db"),
            "sqlite:///var/lib/%C3%A4%20b%3F%23%25/relay.db?mode=rw"
        );
    }
}
