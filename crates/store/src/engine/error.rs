//! Why the database did not do what it was asked to, by what a caller can do about it.

use super::{backend, sqlite};
use sqlx::postgres::PgDatabaseError;
use std::io;
use std::sync::Arc;

/// An error of the database. Cheap to clone, because the changes of one batch share one.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The disk is full or failing, the server is away, or another process holds the database. Nothing was
    /// changed, and a retry may succeed.
    #[error("the database cannot be read or written now: {0}")]
    Unavailable(#[source] Arc<sqlx::Error>),
    /// The database did not acknowledge the commit, and its outcome could not be looked up.
    #[error("the database did not confirm whether the change was stored: {0}")]
    OutcomeUnknown(#[source] Arc<sqlx::Error>),
    /// The file is not a database of this program, or a newer version of the program wrote it.
    #[error("the database cannot be used: {0}")]
    Unusable(String),
    /// The statement failed: a defect of the program or of the data. A retry fails again.
    #[error("the database reported an error: {0}")]
    Database(#[source] Arc<sqlx::Error>),
    /// Another process holds the lease now.
    #[error("this process does not hold the lease: another one serves")]
    LeaseLost,
}

impl StoreError {
    /// Wraps the error of a commit whose outcome is unknown.
    pub(crate) fn outcome_unknown(error: sqlx::Error) -> Self {
        Self::OutcomeUnknown(Arc::new(error))
    }

    /// Wraps an error after which nothing was changed, and a retry may succeed.
    pub(crate) fn unavailable(error: sqlx::Error) -> Self {
        Self::Unavailable(Arc::new(error))
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        // Decided once, here: retries depend on it, and no caller should know the databases' codes.
        if backend::is_transient(&error) {
            Self::unavailable(error)
        } else {
            Self::Database(Arc::new(error))
        }
    }
}

/// Returns why a database cannot be opened, for its operator: without codes, and without the words of the libraries.
pub(crate) fn words(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Database(error) => match error.try_downcast_ref::<PgDatabaseError>() {
            // The server's own words name the user or the database.
            Some(error) => error.message().to_owned(),
            None => error
                .code()
                .and_then(|code| sqlite::words(&code))
                .map_or_else(|| error.message().to_owned(), str::to_owned),
        },
        sqlx::Error::Io(error) => network_words(error),
        error => error.to_string(),
    }
}

/// Returns why a database server cannot be reached.
fn network_words(error: &io::Error) -> String {
    let text = error.to_string();
    match error.kind() {
        io::ErrorKind::ConnectionRefused => {
            "nothing accepts connections there: start PostgreSQL, or correct host and port in storage.url".to_owned()
        }
        io::ErrorKind::TimedOut => {
            "it does not respond: check host, port and firewall (storage.url)".to_owned()
        }
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            "no network route leads there: correct the host in storage.url, or check the network".to_owned()
        }
        _ if text.contains("lookup address") => {
            "its host name cannot be resolved: correct the host in storage.url, or check DNS".to_owned()
        }
        _ => io_words(error),
    }
}

/// Returns why a file cannot be used, as the end of a sentence about it.
pub(crate) fn io_words(error: &io::Error) -> String {
    let words = match error.kind() {
        io::ErrorKind::NotFound => "it does not exist",
        io::ErrorKind::PermissionDenied => {
            "this user may not use it: run the command as the user who owns it, or change its owner or mode"
        }
        io::ErrorKind::IsADirectory => "it is a directory: name a file in it",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "the disk is full",
        io::ErrorKind::ReadOnlyFilesystem => "its file system is read-only",
        _ => {
            let text = error.to_string();
            return text
                .split(" (os error")
                .next()
                .unwrap_or_default()
                .to_lowercase();
        }
    };
    words.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_errors_have_words_and_no_numbers() {
        let refused = io::Error::from_raw_os_error(111);
        let words = words(&sqlx::Error::Io(refused));
        assert!(words.contains("storage.url"), "{words}");
        for number in [2, 13, 21, 28, 5, 110] {
            let words = io_words(&io::Error::from_raw_os_error(number));
            assert!(!words.contains("os error"), "{words}");
        }
    }
}
