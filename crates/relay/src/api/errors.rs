//! Errors of the database as problems for the caller.

use crate::problem::Problem;
use crate::storage::{StorageError, StoreError};
use protocol::{Execution, Failure};

/// Returns the problem that the caller gets. Errors that the caller did not cause are logged.
pub(crate) fn failed(error: StorageError) -> Problem {
    match &error {
        StorageError::Conflict(_)
        | StorageError::NotFound(_)
        | StorageError::Invalid(_)
        | StorageError::KeyGone
        | StorageError::KeySpent
        | StorageError::Changed => {}
        StorageError::Store(StoreError::OutcomeUnknown(_)) => {
            tracing::error!(%error, "outcome of a database commit unknown");
        }
        StorageError::Store(_) | StorageError::Random(_) => {
            tracing::error!(%error, "database error");
        }
    }
    Failure::from(error).into()
}

/// Returns the problem for an error after a change was committed: the change stands, only the response
/// cannot show its result. `executed` keeps clients from repeating the change.
pub(crate) fn failed_after_change(error: StorageError) -> Problem {
    let problem = failed(error);
    let detail = format!(
        "the change was made, but the relay cannot show its result: {}",
        problem.failure.detail
    );
    Failure::new(problem.failure.code, Execution::Executed, detail).into()
}
