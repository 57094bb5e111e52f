//! `backup` and `restore`: a SQLite database as one file.

use super::{CliError, output};
use crate::config::{Config, Database};
use crate::storage::audit::AuditEvent;
use crate::storage::tenants::SITE;
use crate::storage::{Storage, StorageError, StoreError};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

fn failed(what: impl Into<String>) -> CliError {
    CliError::Backup(what.into())
}

/// Returns the SQLite file, or an error with the commands for PostgreSQL.
fn file_of(config: &Config) -> Result<&Path, CliError> {
    match &config.database {
        Database::Sqlite(path) => Ok(path),
        Database::Postgres(_) => Err(failed(
            "the database is PostgreSQL: use pg_dump and pg_restore. Run `integration-relay deliveries pause` \
             before the relay starts on a restored database",
        )),
    }
}

/// Copies the database as of one moment.
pub(super) async fn backup(config: &Config, to: &Path) -> Result<(), CliError> {
    let from = file_of(config)?;
    if !from.exists() {
        return Err(CliError::NoDatabase(from.to_owned()));
    }
    if to.exists() {
        return Err(failed(format!("{} exists already", to.display())));
    }
    crate::storage::check_name(&config.database).map_err(StorageError::from)?;
    let storage = Storage::open(&config.database).await?;
    storage.copy_to(to).await.map_err(StorageError::from)?;
    let synced = File::open(to).and_then(|file| file.sync_all());
    synced.map_err(|error| failed(format!("{}: {error}", to.display())))?;
    output::lines(&[
        format!("The database was copied to {}.", to.display()),
        format!(
            "Keep a copy of the key file in another place: {}",
            config.key_file.display()
        ),
    ])
}

/// Replaces the database by a backup.
pub(super) async fn restore(config: &Config, from: &Path, replace: bool) -> Result<(), CliError> {
    let to = file_of(config)?;
    // A running relay holds this lock.
    let _lock = crate::storage::lock_existing(&config.database).map_err(StorageError::from)?;
    if to.exists() && !replace {
        return Err(failed(format!(
            "a database exists at {}; --replace moves it aside",
            to.display()
        )));
    }
    // Copied next to the target and renamed, so that a crash leaves either the old database or the new one.
    let made = next_to(to, "restoring");
    // Removes what a crash left there, and a link that another user may have put there.
    remove(&made);
    let copied = copy_to_new(from, &made);
    copied.map_err(|error| failed(format!("cannot copy {}: {error}", from.display())))?;
    let opened = Storage::open(&Database::Sqlite(made.clone())).await;
    let checked = match opened {
        Ok(storage) => {
            let noted = written_down(&super::acting(&storage), from).await;
            storage.close().await;
            noted
        }
        Err(error) => Err(error),
    };
    if let Err(error) = checked {
        remove(&made);
        return Err(error.into());
    }
    let mut lines = Vec::new();
    if to.exists() {
        let aside = next_to(to, &format!("replaced-{}", crate::storage::now()));
        rename(to, &aside)?;
        lines.push(format!("The previous database is now {}.", aside.display()));
    }
    rename(&made, to)?;
    lines.push(format!(
        "{} was restored from {}.",
        to.display(),
        from.display()
    ));
    lines.push(
        "Deliveries are paused, because the relay cannot know what was delivered since the backup. Review \
         the pending calls, then run `integration-relay deliveries resume`."
            .to_owned(),
    );
    output::lines(&lines)
}

/// Copies a file to a new one that only its owner can read.
fn copy_to_new(from: &Path, to: &Path) -> std::io::Result<()> {
    let mut options = fs::OpenOptions::new();
    options.create_new(true).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut out = options.open(to)?;
    std::io::copy(&mut File::open(from)?, &mut out)?;
    out.sync_all()
}

/// Pauses deliveries, and records the restore in the audit record of the restored database.
async fn written_down(storage: &Storage, from: &Path) -> Result<(), StorageError> {
    storage.set_deliveries_paused(true).await?;
    let name = from.file_name().unwrap_or_default();
    let act = AuditEvent {
        tenant: SITE.into(),
        action: "database.restore",
        object: name.to_string_lossy().into_owned(),
        result: "ok",
        count: 1,
        ..AuditEvent::default()
    };
    storage.audit(&[act]).await
}

fn next_to(path: &Path, what: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{what}"));
    path.with_file_name(name)
}

/// Moves a database with the files that SQLite keeps next to it.
fn rename(from: &Path, to: &Path) -> Result<(), CliError> {
    for part in ["", "-wal", "-shm"] {
        let (mut old, mut new) = (from.as_os_str().to_owned(), to.as_os_str().to_owned());
        old.push(part);
        new.push(part);
        match fs::rename(&old, &new) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !part.is_empty() => {}
            Err(error) => {
                return Err(StorageError::Store(StoreError::Unusable(format!(
                    "cannot move {}: {error}",
                    from.display()
                )))
                .into());
            }
        }
    }
    Ok(())
}

fn remove(path: &Path) {
    for part in ["", "-wal", "-shm"] {
        let mut file = path.as_os_str().to_owned();
        file.push(part);
        let _ = fs::remove_file(file);
    }
}
