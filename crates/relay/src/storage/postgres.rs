//! PostgreSQL: how it is reached, and which of its errors pass by themselves.

use super::db::Opening;
use crate::config::PostgresUrl;
use sqlx::migrate::Migrator;
use std::time::Duration;

static MIGRATOR: Migrator = sqlx::migrate!("./migrations/postgres");

/// Connections of this process. The data path needs none.
const CONNECTIONS_MAX: u32 = 8;

/// How long somebody waits for one of them.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);

/// A statement that takes longer is forgotten work; a process that is frozen or cut off
/// within a transaction does not keep the lease's row from the one that takes over; and a commit is on
/// disk before it is acknowledged, whatever the server's default.
const FIRST: &str = "SET synchronous_commit = on; SET statement_timeout = '30s'; \
                     SET lock_timeout = '5s'; SET client_min_messages = warning; \
                     SET idle_in_transaction_session_timeout = '5s'";

pub(super) fn opening(url: &PostgresUrl) -> Opening {
    Opening {
        url: url.reveal().to_owned(),
        connections_max: CONNECTIONS_MAX,
        acquire_timeout: ACQUIRE_TIMEOUT,
        first: FIRST,
        migrator: &MIGRATOR,
        shown: url.to_string(),
    }
}

/// By its SQLSTATE: connection (08), rolled back for another's sake (40), out of resources, a full
/// disk among them (53), a lock that did not come (55P03), the server stops or a timeout ran out
/// (57), the system (58), read only (25006).
pub(super) fn is_passing(code: &str) -> bool {
    matches!(code.get(..2), Some("08" | "40" | "53" | "57" | "58"))
        || matches!(code, "55P03" | "25006")
}

/// Whether the server says that it ends the connection: it stops, or another session ended this one.
pub(super) fn is_disconnect(code: &str) -> bool {
    code.starts_with("08") || matches!(code, "57P01" | "57P02" | "57P03" | "57P05")
}

/// Whether a transaction may be committed although COMMIT failed so: unless the server refused it,
/// for a rule (23), as not serializable (40, but not 40003) or for want of something (53).
pub(super) fn may_be_committed(error: &sqlx::Error) -> bool {
    let sqlx::Error::Database(error) = error else {
        return true;
    };
    match error.code() {
        Some(code) => code == "40003" || !matches!(code.get(..2), Some("23" | "25" | "40" | "53")),
        None => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_passes_and_a_broken_rule_does_not() {
        for code in ["53100", "57P01", "40001", "55P03", "08006"] {
            assert!(is_passing(code), "{code}");
        }
        for code in ["23505", "42P01", "22001", ""] {
            assert!(!is_passing(code), "{code}");
        }
    }
}
