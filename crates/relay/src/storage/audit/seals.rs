//! Seals of the audit record: rows that are changed or removed otherwise than by age are noticed.
//!
//! ```text
//! rows 1 ... 812   rows 813 ... 1040   rows 1041 ...
//!   seal 1  <---------  seal 2               not sealed yet
//! ```
//!
//! A seal has the number of rows in its range and their SHA-256. It is signed with the relay's key file, together with the
//! previous seal's signature. An attacker who can only change the database can therefore make no seal. The newest seal says which is the
//! first one that must exist, with all its rows. It is written before older rows are deleted: only whole ranges are. The
//! seals of these rows are deleted last, so that rows below the first seal are always rows that were added.
//!
//! ```text
//! a new seal names the first one that is kept  ->  older rows are deleted  ->  their seals are deleted
//! ```
//!
//! A relay with a new key file begins a new chain. Its seals say which is the first of them. Those before it still show accidents,
//! but no key can tell any more whether they were changed.
//!
//! Rows and seals that are removed together at the end leave no trace in the database. The head that `audit verify` prints,
//! kept elsewhere, shows it. A record without a seal proves nothing, also without a row: every tenant and every key has left
//! one.

use super::{AuditEvent, AuditRow, KEY_CHANGED, add, audit_row};
use crate::storage::{Storage, StorageError};
use ring::digest::{Context, SHA256};
use runtime::sealed::SealingKey;
use serde_json::json;
use sqlx::Row as _;
use sqlx::any::AnyRow;
use std::ops::RangeInclusive;
use std::time::Duration;
use store::{Backend, Transaction};

/// Rows in the range of one seal.
const SEAL_ROWS_MAX: i64 = 50_000;

/// Rows that are read at once.
const PAGE: i64 = 1_000;

/// How often a check is repeated, because the running relay has sealed or deleted rows meanwhile.
const CHECKS_MAX: u32 = 5;

/// Pause before a check is repeated because the relay is deleting rows.
const DELETION_WAIT: Duration = Duration::from_millis(300);

/// One seal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Seal {
    number: i64,
    first_seq: i64,
    last_seq: i64,
    rows: Digest,
    /// When it was made, or the time of its newest row if that is earlier.
    sealed_ms: i64,
    first_number: i64,
    /// The fingerprint of the key that signed it.
    key_id: String,
    /// The first seal of that key.
    chain_first: i64,
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
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct SealedRecord {
    /// Number and signature of the newest seal; `None` if there is none.
    pub(crate) head: Option<(i64, String)>,
    /// Rows that were compared with their seal.
    pub(crate) checked: i64,
    /// Rows whose seal another key signed.
    pub(crate) unproved: i64,
    /// Rows that are too old and wait for their deletion. They are not compared: some may be gone already.
    pub(crate) expired: i64,
    /// Rows after the newest seal.
    pub(crate) unsealed: i64,
    /// The last row whose seal another key signed; `None` if the present key signed all.
    pub(crate) unproved_upto: Option<i64>,
    /// The last of the rows that were gone before the first seal was made; `None` if there is none, or if that is
    /// unknown.
    pub(crate) absent_upto: Option<i64>,
}

impl SealedRecord {
    /// Returns the number of rows. Every row is one of these.
    pub(crate) fn rows(&self) -> i64 {
        self.checked + self.unproved + self.expired + self.unsealed
    }
}

/// Why a check did not succeed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Defect {
    /// Rows or seals were changed, added or removed.
    Changed(String),
    /// The newest seal names another key: with the present one, nothing can be concluded.
    OtherKey(String),
}

/// Another key signs from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeyChange {
    /// The fingerprint of the previous key.
    pub(crate) before: String,
    /// The fingerprint of the present key.
    pub(crate) now: String,
    /// The last row whose seal the previous key signed.
    pub(crate) after_row: i64,
}

/// Returns a key's name in seals. It reveals nothing of the key.
fn fingerprint(key: &SealingKey) -> String {
    let mark = key.mark("integration-relay audit key");
    runtime::hex::encode(mark.get(..8).unwrap_or(&mark))
}

impl Seal {
    /// Returns the seal that follows `last`, without rows and not signed.
    fn after(last: Self, key: &SealingKey, now_ms: i64) -> Self {
        let number = last.number + 1;
        // A seal that was changed must not be taken over into one with a valid signature: it could hide that seals were removed.
        let is_genuine = last.number == 0 || last.mac == last.sign(key);
        Self {
            number,
            first_seq: last.last_seq + 1,
            last_seq: last.last_seq,
            rows: Digest::empty(),
            sealed_ms: now_ms,
            first_number: if is_genuine {
                last.first_number.max(1)
            } else {
                1
            },
            key_id: fingerprint(key),
            chain_first: if is_genuine {
                last.chain_first.max(1)
            } else {
                1
            },
            prev: last.mac,
            mac: String::new(),
        }
    }

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
            self.sealed_ms,
            self.first_number,
            self.key_id,
            self.chain_first,
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
            sealed_ms: row.try_get("sealed_ms")?,
            first_number: row.try_get("first_number")?,
            key_id: row.try_get("key_id")?,
            chain_first: row.try_get("chain_first")?,
            prev: row.try_get("prev")?,
            mac: row.try_get("mac")?,
        })
    }
}

impl Digest {
    fn empty() -> Self {
        Self {
            hash: runtime::hex::encode(Context::new(&SHA256).finish().as_ref()),
            ..Self::default()
        }
    }
}

impl Storage {
    /// Seals the rows up to `upto`. Returns whether more rows wait for a seal. `now_ms` is when it happens, in milliseconds since
    /// 1970.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not respond; nothing was sealed.
    pub(crate) async fn seal_audit(
        &self,
        key: &SealingKey,
        upto: i64,
        now_ms: i64,
    ) -> Result<bool, StorageError> {
        let last = self.last_seal().await?.unwrap_or_default();
        if upto <= last.last_seq {
            return Ok(false);
        }
        let mut seal = Seal::after(last, key, now_ms);
        seal.last_seq = upto.min(seal.last_seq + SEAL_ROWS_MAX);
        seal.rows = self.digest(seal.first_seq, seal.last_seq).await?;
        if seal.rows.count > 0 {
            // Rows that were stored long before their first seal are not kept for longer than others.
            seal.sealed_ms = seal.rows.max_at_ms.min(now_ms);
        }
        let is_all = seal.last_seq == upto;
        let mut tx = self.begin().await?;
        add_seal(&mut tx, seal, key).await?;
        tx.commit().await?;
        Ok(!is_all)
    }

    /// Begins a new chain if another key signed the newest seal, and stores a row that says so. Returns what has changed.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not respond; nothing has changed.
    pub(crate) async fn begin_seal_chain(
        &self,
        key: &SealingKey,
        now_ms: i64,
    ) -> Result<Option<KeyChange>, StorageError> {
        let Some(last) = self.last_seal().await? else {
            return Ok(None);
        };
        if last.mac == last.sign(key) {
            return Ok(None);
        }
        let change = KeyChange {
            before: last.key_id.clone(),
            now: fingerprint(key),
            after_row: last.last_seq,
        };
        // At least one seal of the other key must exist, so that a changed seal does not go unnoticed with its removal.
        let first_number = last.first_number.min(last.number);
        let mut seal = Seal::after(last, key, now_ms);
        seal.first_number = first_number;
        seal.chain_first = seal.number;
        let event = AuditEvent {
            actor: "relay".into(),
            ..AuditEvent::done("", KEY_CHANGED, &change.now)
        };
        let event = event.with(&json!({"before": change.before, "after_row": change.after_row}));
        let mut tx = self.begin().await?;
        add(&mut tx, &self.actor, &event).await?;
        add_seal(&mut tx, seal, key).await?;
        tx.commit().await?;
        Ok(Some(change))
    }

    /// Records that the rows of ranges which were sealed before `before_ms` may be deleted. Returns the numbers of these
    /// rows, or `None`. Their seals stay until [`Self::forget_expired_seals`].
    ///
    /// The first range that is young enough is kept with all that follow. Seals of a moment after `now_ms` are of a clock that
    /// was ahead: their age is that of the next seal. A clock that was slow cannot make a range older than those before it.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not respond; nothing has changed.
    pub(crate) async fn forget_seals(
        &self,
        key: &SealingKey,
        before_ms: i64,
        now_ms: i64,
    ) -> Result<Option<RangeInclusive<i64>>, StorageError> {
        let Some(last) = self.last_seal().await? else {
            return Ok(None);
        };
        let row = sqlx::query(
            "SELECT CAST(COALESCE(MAX(number), 0) AS BIGINT) AS number FROM audit_seals
             WHERE sealed_ms < $1 AND number < (SELECT COALESCE(MIN(number), $3) FROM audit_seals
                                                WHERE sealed_ms >= $1 AND sealed_ms <= $2)",
        )
        .bind(before_ms)
        .bind(now_ms)
        .bind(i64::MAX)
        .fetch_one(self.pool())
        .await?;
        let old: i64 = row.try_get("number")?;
        let mut first_number = last.first_number;
        if old >= first_number {
            first_number = old + 1;
            let mut seal = Seal::after(last, key, now_ms);
            seal.first_number = first_number;
            let mut tx = self.begin().await?;
            add_seal(&mut tx, seal, key).await?;
            tx.commit().await?;
        }
        // Also without a new seal: the process may have ended before it had deleted all rows. Rows below the first seal
        // are no rows of the relay. They stay, so that `audit verify` finds them.
        let expired = "SELECT first_seq FROM audit_seals WHERE number < $1 ORDER BY number LIMIT 1";
        let kept = "SELECT first_seq FROM audit_seals WHERE number = $1";
        let expired = self.range_start(expired, first_number).await?;
        let kept = self.range_start(kept, first_number).await?;
        let rows = expired.zip(kept);
        Ok(rows.map(|(expired, kept)| expired..=kept.saturating_sub(1)))
    }

    /// Returns the first row of the range of a seal, which `statement` finds by a number.
    async fn range_start(
        &self,
        statement: &'static str,
        number: i64,
    ) -> Result<Option<i64>, StorageError> {
        let row = sqlx::query(statement)
            .bind(number)
            .fetch_optional(self.pool())
            .await?;
        Ok(row.map(|row| row.try_get("first_seq")).transpose()?)
    }

    /// Deletes the seals of rows that may be deleted, after these rows.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not respond; nothing has changed.
    pub(crate) async fn forget_expired_seals(&self) -> Result<(), StorageError> {
        let Some(last) = self.last_seal().await? else {
            return Ok(());
        };
        let mut tx = self.begin().await?;
        sqlx::query("DELETE FROM audit_seals WHERE number < $1")
            .bind(last.first_number)
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(())
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
    /// [`StorageError`] when the database does not respond. Inside, what shows that the record is not as it was sealed.
    pub(crate) async fn check_seals(
        &self,
        key: &SealingKey,
        kept: Option<&(i64, String)>,
    ) -> Result<Result<SealedRecord, Defect>, StorageError> {
        let mut checks = 0;
        loop {
            let (oldest, newest) = (self.first_seal_number().await?, self.last_seal().await?);
            let found = self.check_since(key, oldest, newest.as_ref(), kept).await?;
            checks += 1;
            let is_final = match &found {
                // A running relay deletes them in a moment; one that was killed meanwhile does it when it runs again.
                Ok(found) => found.expired == 0,
                // Rows may have been deleted by age while they were compared. Then the record has other seals now.
                Err(_) => {
                    (self.first_seal_number().await?, self.last_seal().await?) == (oldest, newest)
                }
            };
            if is_final || checks == CHECKS_MAX {
                return Ok(found);
            }
            if found.is_ok() {
                tokio::time::sleep(DELETION_WAIT).await;
            }
        }
    }

    /// Compares with the seals from `oldest` on.
    async fn check_since(
        &self,
        key: &SealingKey,
        oldest: i64,
        newest: Option<&Seal>,
        kept: Option<&(i64, String)>,
    ) -> Result<Result<SealedRecord, Defect>, StorageError> {
        let mut found = SealedRecord::default();
        let mut last = Seal::default();
        let (mut first_number, mut chain_first) = (1, 1);
        if let Some(newest) = newest {
            if newest.mac != newest.sign(key) {
                return Ok(Err(not_newest(newest, key)));
            }
            (first_number, chain_first) = (newest.first_number, newest.chain_first);
            // Earlier seals are those of rows that are about to be deleted.
            last.number = oldest.min(first_number) - 1;
        }
        let mut first_seq = None;
        let mut is_kept_found = false;
        while newest.is_some_and(|newest| last.number < newest.number) {
            let seals = self.seals_after(last.number).await?;
            let wanted = last.number + 1;
            if seals.first().is_none_or(|seal| seal.number != wanted) {
                return Ok(Err(missing(wanted)));
            }
            for seal in seals {
                let is_own = seal.number >= chain_first;
                if let Err(defect) = follows(&last, &seal, is_own.then_some(key)) {
                    return Ok(Err(Defect::Changed(defect)));
                }
                first_seq.get_or_insert(seal.first_seq);
                if seal.number < first_number {
                    found.expired += self.count(seal.first_seq, seal.last_seq).await?;
                    last = seal;
                    continue;
                }
                let rows = self.digest(seal.first_seq, seal.last_seq).await?;
                if let Some(defect) = difference(&seal, &rows) {
                    return Ok(Err(Defect::Changed(defect)));
                }
                match is_own {
                    true => found.checked += rows.count,
                    false => {
                        found.unproved += rows.count;
                        found.unproved_upto = Some(seal.last_seq);
                    }
                }
                if let Some((number, mac)) = kept
                    && seal.number == *number
                {
                    if seal.mac != *mac {
                        return Ok(Err(Defect::Changed(format!(
                            "the seal {number} is another than the given one"
                        ))));
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
            return Ok(Err(Defect::Changed(format!(
                "the record ends at the seal {}, but the seal {number} existed: its end was cut off",
                last.number
            ))));
        }
        // The databases number rows from 1 on.
        let first_seq = first_seq.unwrap_or(1);
        let below = self.count(i64::MIN, first_seq.saturating_sub(1)).await?;
        if below > 0 {
            return Ok(Err(added_below(below, first_seq)));
        }
        if newest.is_some() && first_number == 1 {
            found.absent_upto = self.absent_upto().await?;
        }
        found.unsealed = self
            .count(last.last_seq.saturating_add(1), i64::MAX)
            .await?;
        found.head = newest.map(|newest| (newest.number, newest.mac.clone()));
        Ok(Ok(found))
    }

    /// Returns the last row that is missing before the first one. The first seal, which exists, would show a removal after
    /// it was made.
    async fn absent_upto(&self) -> Result<Option<i64>, StorageError> {
        // PostgreSQL does not use the number of a transaction that it rolled back for another row.
        if self.backend() != Backend::Sqlite {
            return Ok(None);
        }
        let row = sqlx::query("SELECT CAST(COALESCE(MIN(seq), 1) AS BIGINT) AS first FROM audit")
            .fetch_one(self.pool())
            .await?;
        let first: i64 = row.try_get("first")?;
        Ok((first > 1).then(|| first - 1))
    }

    /// Returns the number of rows in a range.
    async fn count(&self, first: i64, last: i64) -> Result<i64, StorageError> {
        let row = sqlx::query("SELECT COUNT(*) AS found FROM audit WHERE seq >= $1 AND seq <= $2")
            .bind(first)
            .bind(last)
            .fetch_one(self.pool())
            .await?;
        Ok(row.try_get("found")?)
    }

    /// Returns the number of the oldest seal; 1 if there is none. No seal has a lower one.
    async fn first_seal_number(&self) -> Result<i64, StorageError> {
        let row = sqlx::query(
            "SELECT CAST(COALESCE(MIN(number), 1) AS BIGINT) AS number FROM audit_seals
             WHERE number > 0",
        )
        .fetch_one(self.pool())
        .await?;
        Ok(row.try_get("number")?)
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

/// Signs a seal and adds it.
async fn add_seal(
    tx: &mut Transaction,
    mut seal: Seal,
    key: &SealingKey,
) -> Result<(), StorageError> {
    seal.mac = seal.sign(key);
    sqlx::query(
        "INSERT INTO audit_seals (number, first_seq, last_seq, count, min_at_ms, max_at_ms, hash,
                                  sealed_ms, first_number, key_id, chain_first, prev, mac)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
    )
    .bind(seal.number)
    .bind(seal.first_seq)
    .bind(seal.last_seq)
    .bind(seal.rows.count)
    .bind(seal.rows.min_at_ms)
    .bind(seal.rows.max_at_ms)
    .bind(seal.rows.hash)
    .bind(seal.sealed_ms)
    .bind(seal.first_number)
    .bind(seal.key_id)
    .bind(seal.chain_first)
    .bind(seal.prev)
    .bind(seal.mac)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

fn added_below(rows: i64, first_seq: i64) -> Defect {
    let first = match first_seq {
        1 => "the first one that a database gives".to_owned(),
        first => format!("{first}, where the first seal begins"),
    };
    Defect::Changed(match rows {
        1 => format!("a row has a number below {first}: it was added"),
        rows => format!("{rows} rows have numbers below {first}: they were added"),
    })
}

fn missing(number: i64) -> Defect {
    Defect::Changed(format!("the seal {number} is missing"))
}

/// Returns why the newest seal's signature is not valid.
fn not_newest(newest: &Seal, key: &SealingKey) -> Defect {
    let own = fingerprint(key);
    match newest.key_id == own {
        true => Defect::Changed(not_signed(newest.number)),
        false => Defect::OtherKey(format!(
            "the newest seal, {}, names the key file with the fingerprint {}, but the present one (storage.key_file) has {own}: \
             restore the other file; if it is lost, start the relay, which then begins a new chain of seals",
            newest.number, newest.key_id
        )),
    }
}

fn not_signed(number: i64) -> String {
    format!("the seal {number} is not signed with the relay's key file: it was changed")
}

/// Checks that a seal continues the previous one, which may have been deleted by age. `key` is `None` for a seal of another key.
fn follows(last: &Seal, seal: &Seal, key: Option<&SealingKey>) -> Result<(), String> {
    let number = seal.number;
    if number != last.number + 1 {
        return Err(format!("the seal {} is missing", last.number + 1));
    }
    if key.is_some_and(|key| seal.mac != seal.sign(key)) {
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
