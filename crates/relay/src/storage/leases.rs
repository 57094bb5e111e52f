//! Who makes the deliveries: one process at a time, fenced by an epoch.

use super::audit::{self, Act};
use super::tenants::SITE;
use super::{Storage, StorageError};
use sqlx::Row as _;

/// How long a lease lasts that is not renewed, in milliseconds.
pub const LEASE_MS: i64 = 10_000;

impl Storage {
    /// Takes the lease of the deliveries, if it is free, was this holder's, or `is_alone` says that
    /// nobody else can have it. Returns its epoch, above all before.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not answer.
    pub async fn take_lease(
        &self,
        holder: &str,
        now_ms: i64,
        is_alone: bool,
    ) -> Result<Option<i64>, StorageError> {
        let mut tx = self.pool.begin_with(self.backend.begin()).await?;
        let row = sqlx::query(
            "UPDATE leases SET epoch = epoch + 1, holder = $1, until_ms = $2
             WHERE name = 'deliveries' AND (until_ms < $3 OR holder = $1 OR $4 = 1)
             RETURNING epoch",
        )
        .bind(holder)
        .bind(now_ms + LEASE_MS)
        .bind(now_ms)
        .bind(i64::from(is_alone))
        .fetch_optional(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(row.map(|row| row.try_get("epoch")).transpose()?)
    }

    /// Keeps the lease. False when somebody else has it by now.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not answer.
    pub async fn renew_lease(&self, epoch: i64, now_ms: i64) -> Result<bool, StorageError> {
        let mut tx = self.pool.begin_with(self.backend.begin()).await?;
        let renewed =
            sqlx::query("UPDATE leases SET until_ms = $1 WHERE name = 'deliveries' AND epoch = $2")
                .bind(now_ms + LEASE_MS)
                .bind(epoch)
                .execute(&mut *tx)
                .await?;
        tx.commit().await?;
        Ok(renewed.rows_affected() > 0)
    }

    /// Gives the lease back.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not answer.
    pub async fn give_lease_back(&self, epoch: i64) -> Result<(), StorageError> {
        let mut tx = self.pool.begin_with(self.backend.begin()).await?;
        sqlx::query("UPDATE leases SET until_ms = 0 WHERE name = 'deliveries' AND epoch = $1")
            .bind(epoch)
            .execute(&mut *tx)
            .await?;
        Ok(tx.commit().await?)
    }

    /// Whether deliveries stand still until somebody resumes them.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not answer.
    pub async fn deliveries_paused(&self) -> Result<bool, StorageError> {
        let row = sqlx::query("SELECT deliveries_paused FROM meta WHERE id = 1")
            .fetch_one(&self.pool)
            .await?;
        Ok(row.try_get::<i64, _>("deliveries_paused")? != 0)
    }

    /// Pauses deliveries, or resumes them.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not answer.
    pub async fn set_deliveries_paused(&self, paused: bool) -> Result<(), StorageError> {
        let mut tx = self.pool.begin_with(self.backend.begin()).await?;
        sqlx::query("UPDATE meta SET deliveries_paused = $1 WHERE id = 1")
            .bind(i64::from(paused))
            .execute(&mut *tx)
            .await?;
        let action = match paused {
            true => "deliveries.pause",
            false => "deliveries.resume",
        };
        audit::add(&mut tx, &self.actor, &Act::done(SITE, action, "")).await?;
        Ok(tx.commit().await?)
    }

    /// Whether this is the only process that can have the database open.
    pub fn is_of_one_machine(&self) -> bool {
        self.backend == super::Backend::Sqlite
    }
}
