//! Journals of installations: how far the relay has seen each of them, so that a lost journal is detected.

use super::calls::Via;
use super::{Storage, StorageError, tenants};
use sqlx::Row as _;
use sqlx::any::AnyRow;

/// Returns whether a journal contains what the relay knows of it: it is the one in the row, and at least as long.
fn contains(row: Option<&AnyRow>, journal: &[u8], sequence: i64) -> Result<bool, StorageError> {
    let Some(row) = row else {
        return Ok(true);
    };
    let known: Vec<u8> = row.try_get("journal")?;
    Ok(known == journal && sequence >= row.try_get::<i64, _>("sequence")?)
}

impl Storage {
    /// Returns whether a journal with this mark can contain what the relay knows of the installation: the same
    /// journal, and not shorter than it was. Changes nothing.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not respond.
    pub async fn journal_holds(
        &self,
        via: &Via,
        journal: &[u8],
        sequence: i64,
    ) -> Result<bool, StorageError> {
        let row = sqlx::query(
            "SELECT journal, sequence FROM journals WHERE bridge_id = $1 AND instance = $2",
        )
        .bind(&*via.bridge)
        .bind(via.instance.clone())
        .fetch_optional(self.pool())
        .await?;
        contains(row.as_ref(), journal, sequence)
    }

    /// Records the mark of an installation's journal. Returns whether that journal can contain what the relay knows
    /// of the installation: the same journal, and not shorter than it was.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not respond.
    pub async fn journal_seen(
        &self,
        tenant: &str,
        via: &Via,
        journal: &[u8],
        sequence: i64,
        now_ms: i64,
    ) -> Result<bool, StorageError> {
        let mut tx = self.begin().await?;
        // The deletion of the tenant waits for this transaction, and then deletes the new row as well.
        tenants::lock(&mut tx, tenant).await?;
        let row = sqlx::query(
            "SELECT journal, sequence FROM journals WHERE bridge_id = $1 AND instance = $2",
        )
        .bind(&*via.bridge)
        .bind(via.instance.clone())
        .fetch_optional(&mut *tx)
        .await?;
        // Compared before the row is overwritten: a lost journal is reported once, and then is the known one.
        let contains = contains(row.as_ref(), journal, sequence)?;
        sqlx::query(
            "INSERT INTO journals (bridge_id, instance, tenant_id, journal, sequence, seen_ms)
             SELECT $1, $2, id, $3, $4, $5 FROM tenants WHERE id = $6 AND state <> 'deleted'
             ON CONFLICT (bridge_id, instance)
             DO UPDATE SET journal = $3, sequence = $4, seen_ms = $5",
        )
        .bind(&*via.bridge)
        .bind(via.instance.clone())
        .bind(journal.to_vec())
        .bind(sequence)
        .bind(now_ms)
        .bind(tenant)
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(contains)
    }

    /// Records that an installation is, or was until now, connected.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not respond.
    pub async fn instance_alive(&self, via: &Via, now_ms: i64) -> Result<(), StorageError> {
        // Only an update: the row is created when the installation first reports its journal.
        let mut tx = self.begin().await?;
        sqlx::query("UPDATE journals SET seen_ms = $1 WHERE bridge_id = $2 AND instance = $3")
            .bind(now_ms)
            .bind(&*via.bridge)
            .bind(via.instance.clone())
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(())
    }

    /// Returns when an installation was last connected, in milliseconds since 1970.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not respond.
    pub async fn instance_seen(&self, via: &Via) -> Result<Option<i64>, StorageError> {
        let row =
            sqlx::query("SELECT seen_ms FROM journals WHERE bridge_id = $1 AND instance = $2")
                .bind(&*via.bridge)
                .bind(via.instance.clone())
                .fetch_optional(self.pool())
                .await?;
        Ok(row.map(|row| row.try_get("seen_ms")).transpose()?)
    }
}
