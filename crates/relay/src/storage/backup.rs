//! Copies of a SQLite database, and who may have it open to serve.

use super::{Storage, StorageError};
use crate::config::Database;
use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};

/// Held by the process that serves from a SQLite database.
#[derive(Debug)]
pub struct ServingLock {
    _file: Option<File>,
}

/// Takes the lock beside a SQLite database; PostgreSQL has none.
///
/// # Errors
/// [`StorageError::Unusable`] when another process serves from it.
pub fn lock(database: &Database) -> Result<ServingLock, StorageError> {
    let Database::Sqlite(path) = database else {
        return Ok(ServingLock { _file: None });
    };
    let path = beside(path, ".lock");
    let unusable = |detail: String| StorageError::Unusable(format!("{}: {detail}", path.display()));
    if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        std::fs::create_dir_all(dir).map_err(|error| unusable(error.to_string()))?;
    }
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let file = options
        .open(&path)
        .map_err(|error| unusable(error.to_string()))?;
    match file.try_lock() {
        Ok(()) => Ok(ServingLock { _file: Some(file) }),
        Err(TryLockError::WouldBlock) => Err(unusable(
            "another integration-relay serves from this database".to_owned(),
        )),
        Err(TryLockError::Error(error)) => Err(unusable(error.to_string())),
    }
}

fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}

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
