//! Copies of a SQLite database, and the generation by which an older copy is detected.

use crate::engine::StoreError;
use crate::generation::Found;
use crate::{Store, owner};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Row as _};
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::Path;

/// The application id in the header of a copy that [`Store::copy_to`] made: "BRBK". A served database has another.
const BACKUP_ID: u32 = 0x4252_424b;

/// Where the header of a SQLite file has the application id, in four bytes (SQLite file format, 1.3).
const BACKUP_ID_AT: u64 = 68;

/// Returns whether a file is a copy that [`Store::copy_to`] made, and that nothing has opened to serve from since.
///
/// # Errors
/// The system's error.
pub fn is_backup(file: &Path) -> io::Result<bool> {
    let mut file = File::open(file)?;
    file.seek(SeekFrom::Start(BACKUP_ID_AT))?;
    let mut id = [0; 4];
    match file.read_exact(&mut id) {
        Ok(()) => Ok(u32::from_be_bytes(id) == BACKUP_ID),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

impl Store {
    /// Copies a SQLite database, as it is at one moment, into a new file that only its owner can read. Then executes
    /// `in_copy` in the copy.
    ///
    /// # Errors
    /// [`StoreError::Unusable`] when the file cannot be created.
    pub async fn copy_to(&self, file: &Path, in_copy: &'static str) -> Result<(), StoreError> {
        let unusable = |what: &dyn std::fmt::Display| {
            StoreError::Unusable(format!("{}: {what}", file.display()))
        };
        let name = file.to_str();
        let name = name.ok_or_else(|| unusable(&"its path is not UTF-8"))?;
        let mut options = OpenOptions::new();
        options.create_new(true).write(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        // SQLite accepts an empty file as a new database, and leaves its mode as it is.
        let made = options.open(file).map_err(|error| unusable(&error))?;
        owner::give_to_dir_owner(&made, file).map_err(|error| unusable(&error))?;
        drop(made);
        sqlx::query("VACUUM INTO $1")
            .bind(name)
            .execute(self.pool())
            .await?;
        let options = SqliteConnectOptions::new()
            .filename(file)
            .disable_statement_logging();
        let mut copy = options.connect().await?;
        let marked = format!("PRAGMA application_id = {BACKUP_ID}; {in_copy}");
        let marked = sqlx::raw_sql(AssertSqlSafe(marked));
        marked.execute(&mut copy).await?;
        copy.close().await?;
        Ok(())
    }

    /// Removes the mark of a copy that is about to be served.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not respond.
    pub async fn unmark_backup(&self) -> Result<(), StoreError> {
        sqlx::query("PRAGMA application_id = 0")
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
    /// what the database's own number says. In an older copy, the same transaction has executed `if_older`.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not respond.
    pub async fn raise_generation(
        &self,
        noted: i64,
        if_older: &'static str,
    ) -> Result<(i64, Found), StoreError> {
        let mut tx = self.begin().await?;
        // An update, because it locks the row: another process may raise the number, too.
        let row = sqlx::query(
            "UPDATE meta SET generation = generation + 0 WHERE id = 1 RETURNING generation",
        )
        .fetch_one(&mut *tx)
        .await?;
        let own: i64 = row.try_get("generation")?;
        let found = match own {
            0 => Found::New { noted },
            own if own < noted => Found::Older { own, noted },
            _ => Found::Current,
        };
        if let Found::Older { .. } = found {
            sqlx::query(if_older).execute(&mut *tx).await?;
        }
        let row = sqlx::query("UPDATE meta SET generation = $1 WHERE id = 1 RETURNING generation")
            .bind(own.max(noted) + 1)
            .fetch_one(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok((row.try_get("generation")?, found))
    }
}
