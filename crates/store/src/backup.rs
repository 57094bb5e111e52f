//! Copies of a SQLite database, and the generation by which an older copy is detected.

use crate::{Store, StoreError};
use sqlx::Row as _;
use std::fs::OpenOptions;
use std::path::Path;

impl Store {
    /// Copies a SQLite database, as it is at one moment, into a new file that only its owner can read.
    ///
    /// # Errors
    /// [`StoreError::Unusable`] when the file cannot be created.
    pub async fn copy_to(&self, file: &Path) -> Result<(), StoreError> {
        let name = file.to_str().ok_or_else(|| {
            StoreError::Unusable(format!("{}: its path is not UTF-8", file.display()))
        })?;
        let mut options = OpenOptions::new();
        options.create_new(true).write(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        // SQLite accepts an empty file as a new database, and leaves its mode as it is.
        options
            .open(file)
            .map_err(|error| StoreError::Unusable(format!("{}: {error}", file.display())))?;
        sqlx::query("VACUUM INTO $1")
            .bind(name)
            .execute(self.pool())
            .await?;
        Ok(())
    }

    /// Raises the database's generation by one, and returns it.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not respond.
    pub async fn advance_generation(&self) -> Result<i64, StoreError> {
        let mut tx = self.begin().await?;
        let row = sqlx::query(
            "UPDATE meta SET generation = generation + 1 WHERE id = 1 RETURNING generation",
        )
        .fetch_one(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(row.try_get("generation")?)
    }

    /// Raises the database's generation above `noted`, the number that is kept outside of it. Returns it, and
    /// whether the database's own was lower: it is then an older copy, and the same transaction has executed
    /// `if_older`.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not respond.
    pub async fn raise_generation(
        &self,
        noted: i64,
        if_older: &'static str,
    ) -> Result<(i64, bool), StoreError> {
        let mut tx = self.begin().await?;
        // The comparison is part of the update, which locks the row: another process may raise it, too.
        let raised =
            sqlx::query("UPDATE meta SET generation = $1 WHERE id = 1 AND generation < $1")
                .bind(noted)
                .execute(&mut *tx)
                .await?;
        let is_older = raised.rows_affected() > 0;
        if is_older {
            sqlx::query(if_older).execute(&mut *tx).await?;
        }
        let row = sqlx::query(
            "UPDATE meta SET generation = generation + 1 WHERE id = 1 RETURNING generation",
        )
        .fetch_one(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok((row.try_get("generation")?, is_older))
    }
}
