//! Copies of a SQLite database.

use super::{Storage, StorageError};
use std::fs::OpenOptions;
use std::path::Path;

impl Storage {
    /// Copies a SQLite database, as it is at one moment, into a new file for its owner alone.
    ///
    /// # Errors
    /// [`StorageError::Unusable`] when the file cannot be written.
    pub async fn copy_to(&self, file: &Path) -> Result<(), StorageError> {
        let name = file.to_str().ok_or_else(|| {
            StorageError::Unusable(format!("{}: its path is not UTF-8", file.display()))
        })?;
        let mut options = OpenOptions::new();
        options.create_new(true).write(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        // SQLite takes an empty file for a new one, and leaves its mode as it is.
        options
            .open(file)
            .map_err(|error| StorageError::Unusable(format!("{}: {error}", file.display())))?;
        sqlx::query("VACUUM INTO $1")
            .bind(name)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// Raises the database's generation by one, and returns it.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not answer.
    pub async fn advance_generation(&self) -> Result<i64, StorageError> {
        use sqlx::Row as _;
        let mut tx = self.pool.begin_with(self.backend.begin()).await?;
        let row = sqlx::query(
            "UPDATE meta SET generation = generation + 1 WHERE id = 1 RETURNING generation",
        )
        .fetch_one(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(row.try_get("generation")?)
    }

    /// Raises the database's generation above what is noted beside it. Returns whether the database
    /// is older than that: somebody has put an earlier copy in its place.
    ///
    /// # Errors
    /// [`StorageError`] when the database does not answer.
    pub async fn raise_generation(&self, noted: i64) -> Result<(i64, bool), StorageError> {
        use sqlx::Row as _;
        let mut tx = self.pool.begin_with(self.backend.begin()).await?;
        // In this order: another process may be raising it, too, and a row is locked by its change.
        let paused = sqlx::query(
            "UPDATE meta SET deliveries_paused = 1, generation = $1
             WHERE id = 1 AND generation < $1",
        )
        .bind(noted)
        .execute(&mut *tx)
        .await?;
        let is_older = paused.rows_affected() > 0;
        let row = sqlx::query(
            "UPDATE meta SET generation = generation + 1 WHERE id = 1 RETURNING generation",
        )
        .fetch_one(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok((row.try_get("generation")?, is_older))
    }
}
