//! Requests with an idempotency key: what is known of them after a restart.
//!
//! ```text
//! begin   committed before anything is sent   -> begun, or what is known of an earlier request
//! finish  the outcome                         -> kept for [`DONE_KEPT_MS`]
//! forget  it certainly had no effect          -> the key is free
//! ```
//!
//! A row belongs to the process that began it, by a random token. Times are those of the database's
//! clock. The outcome is sealed by the caller (`crate::idempotency`).

use super::pool::Tx;
use super::{Storage, StorageError};
use sqlx::{AssertSqlSafe, Row as _};
use std::collections::HashMap;
use std::sync::Arc;

/// How long an outcome is kept, in milliseconds.
pub const DONE_KEPT_MS: i64 = 600_000;

/// How long a request is remembered whose outcome is not known, in milliseconds.
pub const BEGUN_KEPT_MS: i64 = 24 * 3600 * 1000;

/// Rows that are deleted in one transaction.
const FORGOTTEN_AT_ONCE: i64 = 500;

/// Which request, and which attempt at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyedRow {
    /// The tenant's id.
    pub tenant: Arc<str>,
    /// `call`, or the id of the operation.
    pub operation: &'static str,
    /// The caller's key.
    pub key: String,
    /// Random, of this attempt.
    pub token: [u8; 16],
    /// The database's clock, as an expression.
    clock: &'static str,
}

/// A request that begins.
#[derive(Debug)]
pub struct Begin {
    /// Which one.
    pub row: KeyedRow,
    /// The API key that made it.
    pub client_id: Arc<str>,
    /// Hash of the request.
    pub digest: Vec<u8>,
    /// An earlier attempt of this process that certainly had no effect, and whose row may be there.
    pub prior: Option<[u8; 16]>,
}

/// What became of a request that was to begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Begun {
    /// It is on disk, and may be made.
    New,
    /// The key was used before.
    Known {
        /// Whether for the same request.
        is_same: bool,
        /// The sealed outcome, if it is known.
        outcome: Option<Vec<u8>>,
    },
    /// The key was used for a stored call.
    OfDelivery,
    /// The tenant is gone.
    NoTenant,
}

/// The end of a request.
#[derive(Debug)]
pub struct Finish {
    /// Which one.
    pub row: KeyedRow,
    /// Its sealed outcome; none to forget it, for it certainly had no effect.
    pub outcome: Option<Vec<u8>>,
}

/// What is stored of one API key's requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stored {
    /// Rows.
    pub rows: u64,
    /// Bytes of their outcomes.
    pub bytes: u64,
}

/// The operation of calls.
pub const CALL: &str = "call";

impl Storage {
    /// Names a row.
    pub fn keyed_row(
        &self,
        tenant: Arc<str>,
        operation: &'static str,
        key: String,
        token: [u8; 16],
    ) -> KeyedRow {
        KeyedRow {
            tenant,
            operation,
            key,
            token,
            clock: self.backend.clock_ms(),
        }
    }

    /// Deletes what has expired. Returns whether there may be more.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not answer.
    pub async fn forget_keyed(&self) -> Result<bool, StorageError> {
        let clock = self.backend.clock_ms();
        let text = format!(
            "DELETE FROM idempotency WHERE (tenant_id, operation, key) IN
             (SELECT tenant_id, operation, key FROM idempotency WHERE expires_ms < {clock} LIMIT $1)"
        );
        let mut tx = self.pool.begin_with(self.backend.begin()).await?;
        let gone = sqlx::query(AssertSqlSafe(text))
            .bind(FORGOTTEN_AT_ONCE)
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(gone.rows_affected() >= FORGOTTEN_AT_ONCE.unsigned_abs())
    }

    /// What is stored, by tenant and API key.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not answer.
    pub async fn keyed_counts(
        &self,
    ) -> Result<HashMap<Arc<str>, HashMap<Arc<str>, Stored>>, StorageError> {
        let rows = sqlx::query(
            "SELECT tenant_id, client_id, COUNT(*) AS rows_stored,
                    CAST(SUM(bytes) AS BIGINT) AS bytes_stored
             FROM idempotency GROUP BY tenant_id, client_id",
        )
        .fetch_all(&self.pool)
        .await?;
        let mut counts: HashMap<Arc<str>, HashMap<Arc<str>, Stored>> = HashMap::new();
        for row in rows {
            let tenant: String = row.try_get("tenant_id")?;
            let client: String = row.try_get("client_id")?;
            let stored = Stored {
                rows: row.try_get::<i64, _>("rows_stored")?.unsigned_abs(),
                bytes: row.try_get::<i64, _>("bytes_stored")?.unsigned_abs(),
            };
            counts
                .entry(tenant.into())
                .or_default()
                .insert(client.into(), stored);
        }
        Ok(counts)
    }
}

pub(super) async fn begin(tx: &mut Tx, begin: &Begin) -> Result<Begun, StorageError> {
    let row = &begin.row;
    if row.operation == CALL {
        // A stored call with this key is another request: its mode differs.
        let stored = sqlx::query(
            "SELECT COUNT(*) AS stored FROM calls WHERE tenant_id = $1 AND idempotency_key = $2",
        )
        .bind(&*row.tenant)
        .bind(&row.key)
        .fetch_one(&mut **tx)
        .await?;
        if stored.try_get::<i64, _>("stored")? > 0 {
            return Ok(Begun::OfDelivery);
        }
    }
    let clock = row.clock;
    let text = format!(
        "INSERT INTO idempotency (tenant_id, operation, key, client_id, digest, token, expires_ms)
         SELECT id, $1, $2, $3, $4, $5, {clock} + $6
         FROM tenants WHERE id = $7 AND state <> 'deleted'
         ON CONFLICT (tenant_id, operation, key) DO UPDATE SET
            client_id = excluded.client_id, digest = excluded.digest, token = excluded.token,
            expires_ms = excluded.expires_ms, outcome = NULL, bytes = 0
         WHERE idempotency.expires_ms < {clock} OR idempotency.token = $8"
    );
    let inserted = sqlx::query(AssertSqlSafe(text))
        .bind(row.operation)
        .bind(&row.key)
        .bind(&*begin.client_id)
        .bind(begin.digest.clone())
        .bind(row.token.to_vec())
        .bind(BEGUN_KEPT_MS)
        .bind(&*row.tenant)
        .bind(begin.prior.map(Vec::from).unwrap_or_default())
        .execute(&mut **tx)
        .await?;
    if inserted.rows_affected() > 0 {
        return Ok(Begun::New);
    }
    let known = sqlx::query(
        "SELECT digest, outcome FROM idempotency
         WHERE tenant_id = $1 AND operation = $2 AND key = $3",
    )
    .bind(&*row.tenant)
    .bind(row.operation)
    .bind(&row.key)
    .fetch_optional(&mut **tx)
    .await?;
    let Some(known) = known else {
        return Ok(Begun::NoTenant);
    };
    Ok(Begun::Known {
        is_same: known.try_get::<Vec<u8>, _>("digest")? == begin.digest,
        outcome: known.try_get("outcome")?,
    })
}

pub(super) async fn finish(tx: &mut Tx, finish: &Finish) -> Result<bool, StorageError> {
    let row = &finish.row;
    let changed = match &finish.outcome {
        None => sqlx::query(
            "DELETE FROM idempotency
             WHERE tenant_id = $1 AND operation = $2 AND key = $3 AND token = $4",
        ),
        Some(_) => {
            let clock = row.clock;
            let text = format!(
                "UPDATE idempotency SET outcome = $5, bytes = $6, expires_ms = {clock} + $7
                 WHERE tenant_id = $1 AND operation = $2 AND key = $3 AND token = $4"
            );
            sqlx::query(AssertSqlSafe(text))
        }
    };
    let changed = changed
        .bind(&*row.tenant)
        .bind(row.operation)
        .bind(&row.key)
        .bind(row.token.to_vec());
    let changed = match &finish.outcome {
        None => changed,
        Some(outcome) => changed
            .bind(outcome.clone())
            .bind(i64::try_from(outcome.len()).unwrap_or(i64::MAX))
            .bind(DONE_KEPT_MS),
    };
    Ok(changed.execute(&mut **tx).await?.rows_affected() > 0)
}

/// Whether a waiting call used this key.
pub(super) async fn is_of_call(tx: &mut Tx, tenant: &str, key: &str) -> Result<bool, StorageError> {
    let row = sqlx::query(
        "SELECT COUNT(*) AS used FROM idempotency
         WHERE tenant_id = $1 AND operation = 'call' AND key = $2",
    )
    .bind(tenant)
    .bind(key)
    .fetch_one(&mut **tx)
    .await?;
    Ok(row.try_get::<i64, _>("used")? > 0)
}
