//! Why the database did not do what it was asked to, by what a caller can do about it.

use super::backend;
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
