//! Seals of the audit record: rows that are changed or removed otherwise than by age are noticed.
//!
//! ```text
//! rows 1 ... 812   rows 813 ... 1040   rows 1041 ...
//!   seal 1  <---------  seal 2               not sealed yet
//! ```
//!
//! A seal has the number of rows in its range and their SHA-256. It is signed with the relay's key file, together with the
//! previous seal's signature. An attacker who can only change the database can therefore make no seal. The newest seal says from which
//! moment on rows must exist, and which is the first seal: it is written before rows and seals are deleted by age.
//!
//! Rows and seals that are removed together at the end leave no trace in the database. The head that `audit verify` prints,
//! kept elsewhere, shows it.

use super::{AuditRow, audit_row};
use crate::storage::{Storage, StorageError};
use ring::digest::{Context, SHA256};
use runtime::sealed::SealingKey;
use serde_json::json;
use sqlx::Row as _;
use sqlx::any::AnyRow;

/// Rows in the range of one seal.
const SEAL_ROWS_MAX: i64 = 50_000;

/// Rows that are read at once.
const PAGE: i64 = 1_000;

/// How often a check is repeated, because the running relay has sealed or deleted rows meanwhile.
const CHECKS_MAX: u32 = 5;

/// One seal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Seal {
    number: i64,
    first_seq: i64,
    last_seq: i64,
    rows: Digest,
    forgotten_ms: i64,
    first_number: i64,
    prev: String,
    mac: String,
}

/// What is sealed of a range of rows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Digest {
    count: i64,
    min_at_ms: i64,
    max_at_ms: i64,
    hash: String,
}

/// The result of a check without a defect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SealedRecord {
    /// Number and signature of the newest seal; `None` if there is none.
    pub(crate) head: Option<(i64, String)>,
    /// Rows that were compared with their seal.
    pub(crate) checked: i64,
    /// Rows after the newest seal.
    pub(crate) unsealed: i64,
}

impl Seal {
    fn sign(&self, key: &SealingKey) -> String {
        // A list in JSON: no other seal has the same text.
        let text = json!([
            "integration-relay audit seal v1",
            self.number,
            self.first_seq,
            self.last_seq,
            self.rows.count,
            self.rows.min_at_ms,
            self.rows.max_at_ms,
            self.rows.hash,
            self.forgotten_ms,
            self.first_number,
            self.prev,
        ]);
        runtime::hex::encode(&key.mark(&text.to_string()))
    }

    fn of(row: &AnyRow) -> Result<Self, StorageError> {
        Ok(Self {
            number: row.try_get("number")?,
            first_seq: row.try_get("first_seq")?,
            last_seq: row.try_get("last_seq")?,
            rows: Digest {
                count: row.try_get("count")?,
                min_at_ms: row.try_get("min_at_ms")?,
                max_at_ms: row.try_get("max_at_ms")?,
                hash: row.try_get("hash")?,
            },
            forgotten_ms: row.try_get("forgotten_ms")?,
            first_number: row.try_get("first_number")?,
            prev: row.try_get("prev")?,
            mac: row.try_get("mac")?,
        })
    }
}

impl Storage {
    /// Seals the rows up to `upto`, and records that rows before `forgotten_ms` may be deleted. Returns whether more rows
    /// wait for a seal.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not respond; nothing was sealed.
    pub(crate) async fn seal_audit(
        &self,
        key: &SealingKey,
        upto: i64,
        forgotten_ms: i64,
    ) -> Result<bool, StorageError> {
        let last = self.last_seal().await?.unwrap_or_default();
        let forgotten_ms = forgotten_ms.max(last.forgotten_ms);
        let first_seq = last.last_seq + 1;
        if upto < first_seq && forgotten_ms == last.forgotten_ms {
            return Ok(false);
        }
        let last_seq = upto.min(last.last_seq + SEAL_ROWS_MAX).max(last.last_seq);
        let number = last.number + 1;
        let mut seal = Seal {
            number,
            first_seq,
            last_seq,
            rows: self.digest(first_seq, last_seq).await?,
            forgotten_ms,
            first_number: self.first_kept(forgotten_ms, number).await?,
            prev: last.mac,
            mac: String::new(),
        };
        seal.mac = seal.sign(key);
        let mut tx = self.begin().await?;
        sqlx::query(
            "INSERT INTO audit_seals (number, first_seq, last_seq, count, min_at_ms, max_at_ms, hash,
                                      forgotten_ms, first_number, prev, mac)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
        )
        .bind(seal.number)
        .bind(seal.first_seq)
        .bind(seal.last_seq)
        .bind(seal.rows.count)
        .bind(seal.rows.min_at_ms)
        .bind(seal.rows.max_at_ms)
        .bind(seal.rows.hash)
        .bind(seal.forgotten_ms)
        .bind(seal.first_number)
        .bind(seal.prev)
        .bind(seal.mac)
        .execute(&mut *tx)
        .await?;
        sqlx::query("DELETE FROM audit_seals WHERE number < $1")
            .bind(seal.first_number)
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(last_seq < upto)
    }

    /// Returns the number of the newest row, or 0.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not respond.
    pub(crate) async fn last_audit_row(&self) -> Result<i64, StorageError> {
        let row = sqlx::query("SELECT CAST(COALESCE(MAX(seq), 0) AS BIGINT) AS last FROM audit")
            .fetch_one(self.pool())
            .await?;
        Ok(row.try_get("last")?)
    }

    /// Compares all rows with their seals. `kept` is a seal's number and signature that were stored elsewhere.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not respond. Inside, the first defect.
    pub(crate) async fn check_seals(
        &self,
        key: &SealingKey,
        kept: Option<&(i64, String)>,
    ) -> Result<Result<SealedRecord, String>, StorageError> {
        let mut checks = 0;
        loop {
            let newest = self.last_seal().await?;
            let found = self.check_since(key, newest.as_ref(), kept).await?;
            checks += 1;
            // Rows may have been deleted by age while they were compared. The newest seal then is another one.
            if found.is_ok() || checks == CHECKS_MAX || self.last_seal().await? == newest {
                return Ok(found);
            }
        }
    }

    async fn check_since(
        &self,
        key: &SealingKey,
        newest: Option<&Seal>,
        kept: Option<&(i64, String)>,
    ) -> Result<Result<SealedRecord, String>, StorageError> {
        let mut last = Seal::default();
        let mut checked = 0;
        if let Some(newest) = newest {
            if newest.mac != newest.sign(key) {
                return Ok(Err(not_signed(newest.number)));
            }
            last.number = newest.first_number - 1;
        }
        let mut is_kept_found = false;
        while newest.is_some_and(|newest| last.number < newest.number) {
            let seals = self.seals_after(last.number).await?;
            let wanted = last.number + 1;
            if seals.first().is_none_or(|seal| seal.number != wanted) {
                return Ok(Err(format!("the seal {wanted} is missing")));
            }
            for seal in seals {
                if let Err(defect) = follows(&last, &seal, key) {
                    return Ok(Err(defect));
                }
                let must_exist = newest.is_some_and(|newest| {
                    seal.rows.count > 0 && seal.rows.min_at_ms >= newest.forgotten_ms
                });
                if must_exist {
                    let rows = self.digest(seal.first_seq, seal.last_seq).await?;
                    if let Some(defect) = difference(&seal, &rows) {
                        return Ok(Err(defect));
                    }
                    checked += rows.count;
                }
                if let Some((number, mac)) = kept
                    && seal.number == *number
                {
                    if seal.mac != *mac {
                        return Ok(Err(format!(
                            "the seal {number} is another than the given one"
                        )));
                    }
                    is_kept_found = true;
                }
                last = seal;
            }
        }
        if let Some((number, _)) = kept
            && !is_kept_found
            && *number > last.number
        {
            return Ok(Err(format!(
                "the record ends at the seal {}, but the seal {number} existed: its end was cut off",
                last.number
            )));
        }
        let unsealed = self.digest(last.last_seq + 1, i64::MAX).await?.count;
        Ok(Ok(SealedRecord {
            head: newest.map(|newest| (newest.number, newest.mac.clone())),
            checked,
            unsealed,
        }))
    }

    async fn last_seal(&self) -> Result<Option<Seal>, StorageError> {
        let row = sqlx::query("SELECT * FROM audit_seals ORDER BY number DESC LIMIT 1")
            .fetch_optional(self.pool())
            .await?;
        row.as_ref().map(Seal::of).transpose()
    }

    async fn seals_after(&self, number: i64) -> Result<Vec<Seal>, StorageError> {
        let rows =
            sqlx::query("SELECT * FROM audit_seals WHERE number > $1 ORDER BY number LIMIT $2")
                .bind(number)
                .bind(PAGE)
                .fetch_all(self.pool())
                .await?;
        rows.iter().map(Seal::of).collect()
    }

    /// Returns the first seal with rows that may not be deleted by age; `next` if there is none.
    async fn first_kept(&self, forgotten_ms: i64, next: i64) -> Result<i64, StorageError> {
        let row = sqlx::query(
            "SELECT CAST(COALESCE(MIN(number), $2) AS BIGINT) AS first FROM audit_seals
             WHERE max_at_ms >= $1",
        )
        .bind(forgotten_ms)
        .bind(next)
        .fetch_one(self.pool())
        .await?;
        Ok(row.try_get("first")?)
    }

    async fn digest(&self, first: i64, last: i64) -> Result<Digest, StorageError> {
        let mut digest = Digest::default();
        let mut hash = Context::new(&SHA256);
        let mut after = first - 1;
        while after < last {
            // In pages, so that a long record needs no memory and no long statement.
            let rows = sqlx::query(
                "SELECT * FROM audit WHERE seq > $1 AND seq <= $2 ORDER BY seq LIMIT $3",
            )
            .bind(after)
            .bind(last)
            .bind(PAGE)
            .fetch_all(self.pool())
            .await?;
            if rows.is_empty() {
                break;
            }
            for row in &rows {
                let row = audit_row(row)?;
                hash.update(canonical(&row).as_bytes());
                digest.min_at_ms = match digest.count {
                    0 => row.at_ms,
                    _ => digest.min_at_ms.min(row.at_ms),
                };
                digest.max_at_ms = digest.max_at_ms.max(row.at_ms);
                digest.count += 1;
                after = row.seq;
            }
        }
        digest.hash = runtime::hex::encode(hash.finish().as_ref());
        Ok(digest)
    }
}

/// Returns a row's text in the hash. A list in JSON: no other row has the same text.
fn canonical(row: &AuditRow) -> String {
    json!([
        row.seq,
        row.at_ms,
        row.tenant,
        row.actor,
        row.action,
        row.object,
        row.bridge,
        row.result,
        row.execution,
        row.bytes_up,
        row.bytes_down,
        row.took_ms,
        row.count,
        row.detail,
    ])
    .to_string()
}

fn not_signed(number: i64) -> String {
    format!("the seal {number} is not signed with the relay's key file: it was changed")
}

/// Checks that a seal continues the previous one, which may have been deleted by age.
fn follows(last: &Seal, seal: &Seal, key: &SealingKey) -> Result<(), String> {
    let number = seal.number;
    if number != last.number + 1 {
        return Err(format!("the seal {} is missing", last.number + 1));
    }
    if seal.mac != seal.sign(key) {
        return Err(not_signed(number));
    }
    let is_first = last.mac.is_empty();
    if !is_first && (seal.prev != last.mac || seal.first_seq != last.last_seq + 1) {
        return Err(format!(
            "the seal {number} does not follow the one before it"
        ));
    }
    Ok(())
}

/// Returns how the rows of a range differ from their seal.
fn difference(seal: &Seal, rows: &Digest) -> Option<String> {
    if *rows == seal.rows {
        return None;
    }
    let range = format!("rows {} to {}", seal.first_seq, seal.last_seq);
    Some(match seal.rows.count - rows.count {
        0 => format!("{range}: a row was changed"),
        missing if missing > 0 => format!(
            "{range}: {missing} of {} rows were removed",
            seal.rows.count
        ),
        added => format!("{range}: {} rows were added", -added),
    })
}
