//! PostgreSQL: how it is reached, and which of its errors are transient.

use super::backend::PoolSettings;
use crate::database::PostgresUrl;
use std::time::Duration;

/// Connections of this process.
const CONNECTIONS_MAX: u32 = 8;

/// How long a task waits for one of them.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);

/// `statement_timeout`: the client gives up on a slower statement soon afterwards. `lock_timeout` and
/// `idle_in_transaction_session_timeout`: a process that is frozen or disconnected within a transaction must not
/// keep the lease's row from the process that takes over. `synchronous_commit`: a commit is on disk before it is
/// acknowledged, whatever the server's default.
const SETUP: &str = "SET synchronous_commit = on; SET statement_timeout = '30s'; \
                     SET lock_timeout = '5s'; SET client_min_messages = warning; \
                     SET idle_in_transaction_session_timeout = '5s'";

pub(crate) fn settings(url: &PostgresUrl) -> PoolSettings {
    PoolSettings {
        url: url.reveal().to_owned(),
        connections_max: CONNECTIONS_MAX,
        acquire_timeout: ACQUIRE_TIMEOUT,
        setup: SETUP,
        display_name: url.to_string(),
    }
}

/// Returns whether an error is transient, by its SQLSTATE: connection (08), rolled back in favour of another
/// transaction (40), out of resources or disk (53), operator intervention or timeout (57), system (58), lock
/// not available (55P03), read only (25006).
pub(crate) fn is_transient(code: &str) -> bool {
    matches!(code.get(..2), Some("08" | "40" | "53" | "57" | "58"))
        || matches!(code, "55P03" | "25006")
}

/// Returns whether the server reports that it ends the connection: it shuts down, or another session
/// terminated this one.
pub(crate) fn is_disconnect(code: &str) -> bool {
    code.starts_with("08") || matches!(code, "57P01" | "57P02" | "57P03" | "57P05")
}

/// Returns whether a transaction may be committed although COMMIT failed with this error.
pub(crate) fn may_be_committed(error: &sqlx::Error) -> bool {
    let sqlx::Error::Database(error) = error else {
        return true;
    };
    match error.code() {
        // The server refused it: for a constraint (23), its state (25), a conflict (40) or missing resources
        // (53). 40003 means that the server itself does not know.
        Some(code) => code == "40003" || !matches!(code.get(..2), Some("23" | "25" | "40" | "53")),
        None => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_disk_is_transient_and_violation_is_not() {
        for code in ["53100", "57P01", "40001", "55P03", "08006"] {
            assert!(is_transient(code), "{code}");
        }
        for code in ["23505", "42P01", "22001", ""] {
            assert!(!is_transient(code), "{code}");
        }
    }
}
