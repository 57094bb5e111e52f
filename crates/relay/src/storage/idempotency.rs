//! Idempotency keys in the database: they survive a restart of the relay.
//!
//! ```text
//! claim     committed before anything is sent     -> new, or the state of an earlier request with the key
//! complete  with an outcome                       -> kept for [`COMPLETED_KEPT_MS`]
//! complete  without one: it certainly had no effect -> the key is free
//! ```
//!
//! A row belongs to the process that claimed it, by a random token. Times are those of the database's clock. The
//! outcome is sealed by the caller (`crate::idempotency`).

use super::{Storage, StorageError};
use sqlx::{AssertSqlSafe, Row as _};
use std::collections::HashMap;
use std::sync::Arc;
use store::{StoreError, Transaction};

/// How long an outcome is kept, in milliseconds.
pub const COMPLETED_KEPT_MS: i64 = 600_000;

/// How long a key is kept whose request has no known outcome, in milliseconds.
pub const CLAIMED_KEPT_MS: i64 = 24 * 3600 * 1000;

/// Rows that one transaction deletes.
const DELETED_AT_ONCE: i64 = 500;

/// A key, and one attempt to execute its request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyedRow {
    /// The tenant's id.
    pub tenant: Arc<str>,
    /// [`CALL`], or the id of the operation.
    pub operation: &'static str,
    /// The caller's key.
    pub key: String,
    /// A random number of this attempt.
    pub token: [u8; 16],
    /// The database's clock, as an SQL expression.
    clock: &'static str,
}

/// The hash of a request, by which a repeat with the same key is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestDigest {
    own: Vec<u8>,
    /// What an earlier version of the relay has stored for the same request.
    former: Option<Vec<u8>>,
}

impl RequestDigest {
    /// Returns a digest that is stored as `own`. A row of an earlier version has `former` for the same request.
    pub fn new(own: Vec<u8>, former: Vec<u8>) -> Self {
        Self {
            own,
            former: Some(former),
        }
    }

    /// Returns the digest of the same request of one API key.
    pub fn of_client(self, client_id: &str) -> Self {
        let join = |digest: Vec<u8>| [&digest[..], client_id.as_bytes()].concat();
        Self {
            own: join(self.own),
            former: self.former.map(join),
        }
    }

    /// Returns what is stored.
    pub fn stored(&self) -> &[u8] {
        &self.own
    }

    /// Returns whether a stored digest is that of this request.
    pub fn is_of(&self, stored: &[u8]) -> bool {
        stored == self.own || self.former.as_deref() == Some(stored)
    }
}

impl From<Vec<u8>> for RequestDigest {
    fn from(own: Vec<u8>) -> Self {
        Self { own, former: None }
    }
}

/// The claim of a key, before its request is executed.
#[derive(Debug)]
pub struct ClaimKey {
    /// The key and the attempt.
    pub row: KeyedRow,
    /// The client id of the API key that sent the request.
    pub client_id: Arc<str>,
    /// Hash of the request.
    pub digest: RequestDigest,
    /// The token of an earlier attempt of this process that certainly had no effect. Its row may exist.
    pub prior: Option<[u8; 16]>,
}

/// The outcome of a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClaimOutcome {
    /// The claim is on disk: the request may be executed.
    New,
    /// The key was used before.
    Known {
        /// Whether for the same request.
        is_same: bool,
        /// The sealed outcome, if it is known.
        outcome: Option<Vec<u8>>,
    },
    /// A stored call has the key.
    OfStoredCall,
    /// The tenant was deleted.
    NoTenant,
}

/// The end of a request.
#[derive(Debug)]
pub struct CompleteKey {
    /// The key and the attempt.
    pub row: KeyedRow,
    /// The sealed outcome; `None` releases the key, because the request certainly had no effect.
    pub outcome: Option<Vec<u8>>,
}

/// What is stored of one API key's requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KeyUsage {
    /// Rows.
    pub rows: u64,
    /// Bytes of their outcomes.
    pub bytes: u64,
}

/// The operation of calls.
pub const CALL: &str = "call";

impl Storage {
    /// Returns the identity of a row.
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
            clock: self.backend().clock_ms(),
        }
    }

    /// Deletes expired rows. Returns whether there may be more.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not respond.
    pub async fn forget_keyed(&self) -> Result<bool, StorageError> {
        let clock = self.backend().clock_ms();
        // In slices: one transaction over all rows would keep SQLite's write lock for seconds.
        let text = format!(
            "DELETE FROM idempotency WHERE (tenant_id, operation, key) IN
             (SELECT tenant_id, operation, key FROM idempotency WHERE expires_ms < {clock} LIMIT $1)"
        );
        let mut tx = self.begin().await?;
        let deleted = sqlx::query(AssertSqlSafe(text))
            .bind(DELETED_AT_ONCE)
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(deleted.rows_affected() >= DELETED_AT_ONCE.unsigned_abs())
    }

    /// Returns what is stored, by tenant and API key.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not respond.
    pub async fn key_usage(
        &self,
    ) -> Result<HashMap<Arc<str>, HashMap<Arc<str>, KeyUsage>>, StorageError> {
        let rows = sqlx::query(
            "SELECT tenant_id, client_id, COUNT(*) AS rows_stored,
                    CAST(SUM(bytes) AS BIGINT) AS bytes_stored
             FROM idempotency GROUP BY tenant_id, client_id",
        )
        .fetch_all(self.pool())
        .await?;
        let mut usage: HashMap<Arc<str>, HashMap<Arc<str>, KeyUsage>> = HashMap::new();
        for row in rows {
            let tenant: String = row.try_get("tenant_id")?;
            let client: String = row.try_get("client_id")?;
            let of_client = KeyUsage {
                rows: row.try_get::<i64, _>("rows_stored")?.unsigned_abs(),
                bytes: row.try_get::<i64, _>("bytes_stored")?.unsigned_abs(),
            };
            usage
                .entry(tenant.into())
                .or_default()
                .insert(client.into(), of_client);
        }
        Ok(usage)
    }
}

pub(super) async fn claim(
    tx: &mut Transaction,
    claim: &ClaimKey,
) -> Result<ClaimOutcome, StoreError> {
    let row = &claim.row;
    if row.operation == CALL {
        // Synchronous and stored calls share the key's namespace; a stored call is never the same request.
        let stored = sqlx::query(
            "SELECT COUNT(*) AS stored FROM calls WHERE tenant_id = $1 AND idempotency_key = $2",
        )
        .bind(&*row.tenant)
        .bind(&row.key)
        .fetch_one(&mut **tx)
        .await?;
        if stored.try_get::<i64, _>("stored")? > 0 {
            return Ok(ClaimOutcome::OfStoredCall);
        }
    }
    let clock = row.clock;
    // An existing row is taken over if it has expired, or if it is this process's own attempt without effect. One
    // statement, so that of two concurrent claims only one gets the row.
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
        .bind(&*claim.client_id)
        .bind(claim.digest.stored().to_vec())
        .bind(row.token.to_vec())
        .bind(CLAIMED_KEPT_MS)
        .bind(&*row.tenant)
        .bind(claim.prior.map(Vec::from).unwrap_or_default())
        .execute(&mut **tx)
        .await?;
    if inserted.rows_affected() > 0 {
        return Ok(ClaimOutcome::New);
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
    // Neither inserted nor there: the SELECT from `tenants` found no row.
    let Some(known) = known else {
        return Ok(ClaimOutcome::NoTenant);
    };
    Ok(ClaimOutcome::Known {
        is_same: claim.digest.is_of(&known.try_get::<Vec<u8>, _>("digest")?),
        outcome: known.try_get("outcome")?,
    })
}

pub(super) async fn complete(
    tx: &mut Transaction,
    complete: &CompleteKey,
) -> Result<bool, StoreError> {
    let row = &complete.row;
    // By the token: a process that was slow must not change the row of the one that has taken the key over.
    let changed = match &complete.outcome {
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
    let changed = match &complete.outcome {
        None => changed,
        Some(outcome) => changed
            .bind(outcome.clone())
            .bind(i64::try_from(outcome.len()).unwrap_or(i64::MAX))
            .bind(COMPLETED_KEPT_MS),
    };
    Ok(changed.execute(&mut **tx).await?.rows_affected() > 0)
}

/// Returns whether a synchronous call used this key.
pub(super) async fn is_key_of_call(
    tx: &mut Transaction,
    tenant: &str,
    key: &str,
) -> Result<bool, StoreError> {
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
