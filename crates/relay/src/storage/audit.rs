//! The audit record: actor, action, object, time and result. Rows are added, and deleted when they are too old. They
//! are never changed.

pub(crate) mod seals;

use super::model::now_ms;
use super::{Storage, StorageError};
use protocol::Code;
use sqlx::Row as _;
use sqlx::any::AnyRow;
use std::ops::RangeInclusive;
use std::sync::{Arc, LazyLock};
use store::Transaction;

/// The action of a row that counts rows which could not be stored.
pub const LOST: &str = "audit.lost";

/// The action of a row that says that the seals are signed with another key file from here on.
pub(crate) const KEY_CHANGED: &str = "audit.key_changed";
/// Every action that a row may have.
const ACTIONS: &[&str] = &[
    KEY_CHANGED,
    LOST,
    "auth.denied",
    "bridge.audit_head",
    "bridge.audit_rollback",
    "bridge.cloned",
    "bridge.disable",
    "bridge.enable",
    "bridge.inspected",
    "bridge.not_inspected",
    "bridge.pair",
    "bridge.revoke",
    "call",
    "call.cancel",
    "call.redeliver",
    "database.older_copy",
    "database.restore",
    "deliveries.pause",
    "deliveries.resume",
    "delivery",
    "endpoint",
    "endpoint.assign",
    "endpoint.claim",
    "endpoint.conflict",
    "endpoint.release",
    "key.create",
    "key.revoke",
    "key.rotate",
    "signing_secret.reveal",
    "signing_secret.rotate",
    "tenant.change",
    "tenant.create",
    "tenant.delete",
    "tunnel.denied",
];

/// Results that are no code of a failed request: the filter for all failures, and those of tunnels, notices and lost
/// rows.
const RESULTS: &[&str] = &[
    "ok",
    "failed",
    "authority",
    "channel_binding",
    "lost",
    "refused",
    "revoked",
];

/// Checks the action of a filter: a known one, or the beginning of some with a `.` at its end.
///
/// # Errors
/// The value, and the known ones.
pub fn check_action(action: &str) -> Result<(), String> {
    let is_prefix = action.ends_with('.') && ACTIONS.iter().any(|known| known.starts_with(action));
    match is_prefix || ACTIONS.contains(&action) {
        true => Ok(()),
        false => Err(unknown("action", action, &ACTIONS.join(", "))),
    }
}

/// Checks the result of a filter.
///
/// # Errors
/// The value, and the known ones.
pub fn check_result(result: &str) -> Result<(), String> {
    let codes = Code::ALL.iter().map(|code| code.as_str());
    let mut known: Vec<&str> = RESULTS.to_vec();
    // `revoked` and others are both.
    known.extend(codes.filter(|code| !RESULTS.contains(code)));
    match known.contains(&result) {
        true => Ok(()),
        false => Err(unknown("result", result, &known.join(", "))),
    }
}

fn unknown(what: &str, value: &str, known: &str) -> String {
    // Escaped and cut: the value is the client's, and the text goes into logs.
    let shown: String = value.escape_debug().take(80).collect();
    format!("{what} is \"{shown}\"; known are: {known}")
}

/// One row to be added. It holds no body, no header value and no secret.
#[derive(Debug, Clone, Default)]
pub struct AuditEvent {
    /// When it happened, in milliseconds since 1970; zero for now.
    pub at_ms: i64,
    /// The tenant's id.
    pub tenant: Arc<str>,
    /// A client id, `cli:ACCOUNT`, or `relay`; empty for the storage handle's actor.
    pub actor: Arc<str>,
    /// `key.create`, `bridge.revoke`, `call`, `endpoint`, ...
    pub action: &'static str,
    /// The object of the action: an id, a name or a host.
    pub object: String,
    /// The bridge that was used.
    pub bridge: Arc<str>,
    /// `ok`, or the code of the failure.
    pub result: &'static str,
    /// The execution state of the request.
    pub execution: &'static str,
    /// Bytes of bodies towards the target.
    pub bytes_up: u64,
    /// Bytes of bodies towards the caller.
    pub bytes_down: u64,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
    /// The number of exchanges that the row sums up.
    pub count: u64,
    /// Additional attributes as JSON, or empty.
    pub detail: String,
}

impl AuditEvent {
    /// Returns the event of an administrative action that succeeded.
    pub(super) fn done(tenant: &str, action: &'static str, object: &str) -> Self {
        Self {
            tenant: tenant.into(),
            action,
            object: object.to_owned(),
            result: "ok",
            count: 1,
            ..Self::default()
        }
    }

    /// Returns the same event with additional attributes.
    pub(super) fn with(self, detail: &serde_json::Value) -> Self {
        Self {
            detail: detail.to_string(),
            ..self
        }
    }
}

/// One row.
#[derive(Debug, Clone)]
pub struct AuditRow {
    /// Orders rows: rises.
    pub seq: i64,
    /// When it happened, in milliseconds since 1970.
    pub at_ms: i64,
    /// The tenant's id.
    pub tenant: String,
    /// The actor.
    pub actor: String,
    /// The action.
    pub action: String,
    /// The object of the action.
    pub object: String,
    /// The bridge that was used.
    pub bridge: String,
    /// `ok`, or the code of the failure.
    pub result: String,
    /// The execution state of the request.
    pub execution: String,
    /// Bytes towards the target.
    pub bytes_up: i64,
    /// Bytes towards the caller.
    pub bytes_down: i64,
    /// How long it took, in milliseconds.
    pub took_ms: i64,
    /// The number of exchanges that the row sums up.
    pub count: i64,
    /// Additional attributes as JSON.
    pub detail: String,
}

/// Selects rows.
#[derive(Debug, Clone, Default)]
pub struct AuditFilter {
    /// Rows of this tenant (its id).
    pub tenant: Option<String>,
    /// Rows of this action; with a trailing `.`, of all actions that begin with it.
    pub action: Option<String>,
    /// Rows of this actor.
    pub actor: Option<String>,
    /// Rows about this object.
    pub object: Option<String>,
    /// Rows with this result; `failed` for every result but `ok`.
    pub result: Option<String>,
    /// Rows of requests that the target answered with this status.
    pub status: Option<u16>,
    /// Rows of this moment or later, in milliseconds since 1970.
    pub since_ms: Option<i64>,
    /// Rows before this moment.
    pub until_ms: Option<i64>,
}

/// Rows that one statement adds, if there are that many: each statement costs a round trip to the database.
const ROWS_AT_ONCE: usize = 32;

const INTO: &str =
    "INSERT INTO audit (at_ms, tenant_id, actor, action, object, bridge, result, execution,
                    bytes_up, bytes_down, took_ms, count, detail) VALUES ";

/// Columns of a row.
const COLUMNS: usize = 13;

// Two fixed texts: the library caches prepared statements by their text, and a batch may have any size.
static ONE: LazyLock<String> = LazyLock::new(|| insert(1));
static MANY: LazyLock<String> = LazyLock::new(|| insert(ROWS_AT_ONCE));

/// Returns the statement that adds this many rows.
fn insert(rows: usize) -> String {
    let row = |row: usize| {
        let columns = (1..=COLUMNS).map(|column| format!("${}", row * COLUMNS + column));
        format!("({})", columns.collect::<Vec<_>>().join(", "))
    };
    let rows: Vec<String> = (0..rows).map(row).collect();
    format!("{INTO}{}", rows.join(", "))
}

/// Adds a row in a transaction.
pub(super) async fn add(
    tx: &mut Transaction,
    actor: &str,
    event: &AuditEvent,
) -> Result<(), StorageError> {
    let one = sqlx::query(ONE.as_str());
    bind(one, actor, event).execute(&mut **tx).await?;
    Ok(())
}

/// Adds rows in a transaction, in this order.
async fn add_all(
    tx: &mut Transaction,
    actor: &str,
    events: &[AuditEvent],
) -> Result<(), StorageError> {
    let mut chunks = events.chunks_exact(ROWS_AT_ONCE);
    for chunk in chunks.by_ref() {
        let mut many = sqlx::query(MANY.as_str());
        for event in chunk {
            many = bind(many, actor, event);
        }
        many.execute(&mut **tx).await?;
    }
    for event in chunks.remainder() {
        add(tx, actor, event).await?;
    }
    Ok(())
}

type Query<'q> = sqlx::query::Query<'q, sqlx::Any, sqlx::any::AnyArguments>;

fn bind<'q>(query: Query<'q>, actor: &'q str, event: &'q AuditEvent) -> Query<'q> {
    // Both databases have signed integers only.
    let whole = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let or = |text: &'q str, other: &'q str| if text.is_empty() { other } else { text };
    query
        .bind(if event.at_ms == 0 {
            now_ms()
        } else {
            event.at_ms
        })
        .bind(&*event.tenant)
        .bind(or(&event.actor, actor))
        .bind(event.action)
        .bind(&*event.object)
        .bind(&*event.bridge)
        .bind(event.result)
        .bind(event.execution)
        .bind(whole(event.bytes_up))
        .bind(whole(event.bytes_down))
        .bind(whole(event.took_ms))
        .bind(whole(event.count))
        .bind(or(&event.detail, "{}"))
}

/// Rows that match, newest first. The detail is JSON in which quotes are escaped, so no text in it can look like a
/// status.
macro_rules! rows_where {
    ($more:literal) => {
        concat!(
            "SELECT * FROM audit WHERE seq < $1 AND ($2 = '' OR action = $2
                  OR ($2 LIKE '%.' AND substr(action, 1, length($2)) = $2))
             AND ($3 = '' OR actor = $3) AND at_ms >= $4 AND at_ms < $5
             AND ($7 = '' OR result = $7 OR ($7 = 'failed' AND result <> 'ok'))
             AND ($8 = '' OR detail LIKE $8)",
            $more,
            " ORDER BY seq DESC LIMIT $6"
        )
    };
}

fn audit_row(row: &AnyRow) -> Result<AuditRow, StorageError> {
    Ok(AuditRow {
        seq: row.try_get("seq")?,
        at_ms: row.try_get("at_ms")?,
        tenant: row.try_get("tenant_id")?,
        actor: row.try_get("actor")?,
        action: row.try_get("action")?,
        object: row.try_get("object")?,
        bridge: row.try_get("bridge")?,
        result: row.try_get("result")?,
        execution: row.try_get("execution")?,
        bytes_up: row.try_get("bytes_up")?,
        bytes_down: row.try_get("bytes_down")?,
        took_ms: row.try_get("took_ms")?,
        count: row.try_get("count")?,
        detail: row.try_get("detail")?,
    })
}

impl Storage {
    /// Adds rows in one transaction.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not respond; nothing was added.
    pub async fn audit(&self, events: &[AuditEvent]) -> Result<(), StorageError> {
        let mut tx = self.begin().await?;
        add_all(&mut tx, &self.actor, events).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Returns rows, newest first, those before `before` (an [`AuditRow::seq`]).
    ///
    /// # Errors
    /// [`StorageError`] when the database does not respond.
    pub async fn audit_rows(
        &self,
        filter: &AuditFilter,
        before: i64,
        limit: u32,
    ) -> Result<Vec<AuditRow>, StorageError> {
        // Several texts: rows of one tenant or object are read from an index of its own.
        let text = match (&filter.tenant, &filter.object) {
            (Some(_), None) => rows_where!(" AND tenant_id = $9"),
            (None, Some(_)) => {
                rows_where!(" AND substr(object, 1, 64) = substr($9, 1, 64) AND object = $9")
            }
            // An expression instead of the column: the index of objects leads to few rows, that of tenants to many.
            (Some(_), Some(_)) => rows_where!(
                " AND tenant_id || '' = $9
                 AND substr(object, 1, 64) = substr($10, 1, 64) AND object = $10"
            ),
            (None, None) => rows_where!(""),
        };
        let status = filter.status.map(|status| format!("%\"status\":{status}%"));
        let mut query = sqlx::query(text)
            .bind(before)
            .bind(filter.action.clone().unwrap_or_default())
            .bind(filter.actor.clone().unwrap_or_default())
            .bind(filter.since_ms.unwrap_or(0))
            .bind(filter.until_ms.unwrap_or(i64::MAX))
            .bind(i64::from(limit))
            .bind(filter.result.clone().unwrap_or_default())
            .bind(status.unwrap_or_default());
        for value in [&filter.tenant, &filter.object].into_iter().flatten() {
            query = query.bind(value.clone());
        }
        let rows = query.fetch_all(self.pool()).await?;
        rows.iter().map(audit_row).collect()
    }

    /// Returns the number of rows, and of rows that are known to be missing.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not respond.
    pub async fn audit_totals(&self) -> Result<(i64, i64), StorageError> {
        let rows = sqlx::query(
            "SELECT COUNT(*) AS total, CAST(COALESCE(SUM(CASE WHEN action = $1 THEN count END), 0)
                                         AS BIGINT) AS lost FROM audit",
        )
        .bind(LOST)
        .fetch_one(self.pool())
        .await?;
        Ok((rows.try_get("total")?, rows.try_get("lost")?))
    }

    /// Deletes up to `limit` of the rows with these numbers. Returns how many it deleted.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not respond.
    pub async fn forget_audit(
        &self,
        rows: &RangeInclusive<i64>,
        limit: u32,
    ) -> Result<u64, StorageError> {
        let mut tx = self.begin().await?;
        // In slices: one deletion of a month of rows would keep SQLite's write lock for seconds.
        let gone = sqlx::query(
            "DELETE FROM audit WHERE seq IN
             (SELECT seq FROM audit WHERE seq >= $1 AND seq <= $2 ORDER BY seq LIMIT $3)",
        )
        .bind(*rows.start())
        .bind(*rows.end())
        .bind(i64::from(limit))
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(gone.rows_affected())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filter_takes_known_actions_and_results_only() {
        for action in ["key.create", "key.", "call", LOST] {
            check_action(action).unwrap();
        }
        for action in ["zzz", "key", ".", ""] {
            let error = check_action(action).unwrap_err();
            assert!(error.contains("key.create, key.revoke"), "{error}");
        }
        for result in ["ok", "failed", "refused_by_policy", "revoked", "lost"] {
            check_result(result).unwrap();
        }
        let error = check_result("bogus").unwrap_err();
        assert!(
            error.starts_with("result is \"bogus\"; known are: ok, failed,"),
            "{error}"
        );
    }
}
