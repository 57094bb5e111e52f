//! Checks a database without creating or changing anything, for `config check`.

use crate::StoreError;
use crate::database::{Database, PostgresUrl};
use crate::engine::{backend, error, sqlite as file};
use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::Path;

/// The first bytes of every SQLite file.
const SQLITE_HEADER: &[u8; 16] = b"SQLite format 3\0";

/// The state of a database that can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    /// It does not exist. A start creates it.
    Absent,
    /// It exists and has no tables. A start creates them.
    Empty,
    /// It has tables.
    Ready,
}

/// Checks a database.
///
/// # Errors
/// [`StoreError::Unusable`] when it cannot be reached or is something else.
pub async fn probe(database: &Database) -> Result<Probe, StoreError> {
    match database {
        Database::Sqlite(path) => sqlite(path)
            .map_err(|detail| StoreError::Unusable(format!("{}: {detail}", path.display()))),
        Database::Postgres(url) => postgres(url).await,
    }
}

/// Returns the number in a query's only row, such as a count. `bound` is the query's parameter. Creates and changes
/// nothing.
///
/// # Errors
/// [`StoreError::Unusable`] when the database cannot be read or has other tables.
pub async fn read_number(
    database: &Database,
    query: &'static str,
    bound: Option<&[u8]>,
) -> Result<i64, StoreError> {
    let unusable = |detail: &str| StoreError::Unusable(format!("{database}: {detail}"));
    let url = match database {
        Database::Sqlite(path) => {
            file::require_file(path)?;
            file::url_to_read(path).ok_or_else(|| unusable("its path is not UTF-8"))?
        }
        Database::Postgres(url) => url.reveal().to_owned(),
    };
    let number = backend::number(&url, query, bound).await;
    number.map_err(|error| unusable(&error::words(&error)))
}

/// By its first bytes: the library would create the index of the write-ahead log.
fn sqlite(path: &Path) -> Result<Probe, String> {
    if file::is_special(path) {
        return Err(file::NOT_A_FILE.to_owned());
    }
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Probe::Absent),
        Err(error) => return Err(format!("cannot be read: {}", error::io_words(&error))),
    };
    let mut header = Vec::new();
    let mut start = file.by_ref().take(SQLITE_HEADER.len() as u64);
    start
        .read_to_end(&mut header)
        .map_err(|error| format!("cannot be read: {}", error::io_words(&error)))?;
    match header.as_slice() {
        [] => Ok(Probe::Empty),
        header if header == SQLITE_HEADER => Ok(Probe::Ready),
        _ => Err("is not a SQLite database".to_owned()),
    }
}

async fn postgres(url: &PostgresUrl) -> Result<Probe, StoreError> {
    let unusable =
        |error: sqlx::Error| StoreError::Unusable(format!("{url}: {}", error::words(&error)));
    let has_tables = backend::has_tables(url).await.map_err(unusable)?;
    Ok(match has_tables {
        true => Probe::Ready,
        false => Probe::Empty,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use support::TempDir;

    #[tokio::test]
    async fn probe_of_sqlite_makes_nothing() {
        let dir = TempDir::new("probe");
        let path = dir.join("relay.db");
        let probe = async || probe(&Database::Sqlite(path.clone())).await;
        assert_eq!(probe().await.unwrap(), Probe::Absent);
        assert!(!path.exists());
        std::fs::write(&path, "").unwrap();
        assert_eq!(probe().await.unwrap(), Probe::Empty);
        std::fs::write(&path, "SQLite format 3\0 and more").unwrap();
        assert_eq!(probe().await.unwrap(), Probe::Ready);
        std::fs::write(&path, "a letter").unwrap();
        let error = probe().await.unwrap_err().to_string();
        assert!(error.contains("not a SQLite database"), "{error}");
    }

    /// The open of a pipe waits for a program that writes to it.
    #[cfg(unix)]
    #[tokio::test]
    async fn pipe_in_place_of_a_database_is_rejected() {
        let dir = TempDir::new("probe-pipe");
        let path = dir.join("relay.db");
        let made = std::process::Command::new("mkfifo").arg(&path).status();
        assert!(made.unwrap().success());
        let database = Database::Sqlite(path.clone());
        let errors = [
            probe(&database).await.unwrap_err(),
            read_number(&database, "SELECT 1", None).await.unwrap_err(),
            crate::lock(&database).map(drop).unwrap_err(),
            crate::lock_existing(&database).map(drop).unwrap_err(),
            crate::check_name(&database).unwrap_err(),
        ];
        for error in errors {
            let expected = format!("{}: is not a regular file", path.display());
            assert!(error.to_string().contains(&expected), "{error}");
        }
    }
}
