//! Why a part of the engine's work was not done.

use crate::storage::{StorageError, StoreError, WriteError};
use std::sync::Arc;

/// Why a slice of the engine's work was not done.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum EngineError {
    /// The database failed.
    #[error(transparent)]
    Storage(Arc<StorageError>),
    /// Another process delivers, or this one stops.
    #[error("another process has taken over the deliveries")]
    LeaseLost,
}

impl EngineError {
    /// Returns whether the error concerns some rows only, and not the database as a whole.
    pub(super) fn is_local(&self) -> bool {
        match self {
            Self::Storage(error) => !matches!(
                **error,
                StorageError::Store(StoreError::Unavailable(_) | StoreError::OutcomeUnknown(_))
            ),
            Self::LeaseLost => false,
        }
    }
}

impl From<StorageError> for EngineError {
    fn from(error: StorageError) -> Self {
        Self::Storage(Arc::new(error))
    }
}

impl From<WriteError> for EngineError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Store(error) => Self::Storage(Arc::new(error.into())),
            WriteError::LeaseLost | WriteError::Closed => Self::LeaseLost,
        }
    }
}

/// Logs an error of some rows and converts it into success, so that it does not delay work that does not
/// need these rows.
pub(super) fn unless_local(done: Result<(), EngineError>, what: &str) -> Result<(), EngineError> {
    match done {
        Err(error) if error.is_local() => {
            tracing::error!(%error, what, "cannot read rows of the database");
            Ok(())
        }
        done => done,
    }
}
