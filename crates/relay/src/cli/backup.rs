//! `backup` and `restore`: a SQLite database as one file.

use super::{CliError, output};
use crate::config::{Config, Database};
use crate::generation::PAUSE_DELIVERIES;
use crate::storage::audit::AuditEvent;
use crate::storage::tenants::SITE;
use crate::storage::{Storage, StorageError, StoreError};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// Counts tables that the database of every version of the relay has.
const RELAY_TABLES: &str = "SELECT COUNT(*) FROM sqlite_master WHERE type = 'table'
     AND name IN ('_sqlx_migrations', 'meta', 'tenants', 'api_keys')";

/// The number of tables that [`RELAY_TABLES`] names.
const RELAY_TABLES_COUNT: i64 = 4;

fn unusable(what: String) -> StorageError {
    StorageError::Store(StoreError::Unusable(what))
}

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
    let dir = to.parent().filter(|dir| !dir.as_os_str().is_empty());
    if let Some(dir) = dir.filter(|dir| !dir.is_dir()) {
        return Err(failed(format!(
            "the directory {} does not exist: create it, or name a file in another one",
            dir.display()
        )));
    }
    crate::storage::check_name(&config.database).map_err(StorageError::from)?;
    let storage = Storage::open(&config.database).await?;
    // Under another name until it is whole: a backup that was interrupted must not look like one.
    let partial = next_to(to, "partial");
    remove(&partial);
    let copied = storage.copy_to(&partial, PAUSE_DELIVERIES).await;
    let moved = copied.map_err(StorageError::from).and_then(|()| {
        let synced = File::open(&partial).and_then(|file| file.sync_all());
        let moved = synced.and_then(|()| fs::rename(&partial, to));
        moved.map_err(|error| unusable(format!("{}: {error}", to.display())))
    });
    if let Err(error) = moved {
        remove(&partial);
        return Err(error.into());
    }
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
    let lock = crate::storage::lock_existing(&config.database).map_err(StorageError::from)?;
    // SQLite keeps its log next to the file that a symbolic link names.
    let to = to.canonicalize().unwrap_or_else(|_| to.to_owned());
    if to.exists() && !replace {
        return Err(failed(format!(
            "a database exists at {}; --replace moves it aside",
            to.display()
        )));
    }
    // Copied next to the target and renamed, so that a crash leaves either the old database or the new one.
    let made = next_to(&to, "restoring");
    require_another_file(from, &[&to, &made])?;
    require_database(from).await?;
    let is_backup = crate::storage::is_backup(from)
        .map_err(|error| failed(format!("cannot read {}: {error}", from.display())))?;
    // Removes what a crash left there, and a link that another user may have put there.
    remove(&made);
    if let Err(error) = prepare(&made, from).await {
        remove(&made);
        return Err(error);
    }
    let aside = free_name(&to);
    let replaced = crate::storage::replace(&lock, &to, &made, &aside).await;
    let replaced = replaced.map_err(|error| {
        remove(&made);
        StorageError::from(error)
    })?;
    let mut lines = Vec::new();
    if replaced.had_database {
        lines.push(format!("The previous database is now {}.", aside.display()));
    }
    if let Some(damage) = replaced.damage {
        lines.push(format!("It cannot be read: {damage}."));
    }
    for file in replaced.moved {
        lines.push(format!(
            "A log that was next to it is now {}.",
            file.display()
        ));
    }
    lines.push(format!(
        "{} was restored from {}.",
        to.display(),
        from.display()
    ));
    if !is_backup {
        lines.push(
            "The file was not made by `integration-relay backup`. A copy that another program makes of a \
             running relay's database may lack the last changes, and is not protected against a second delivery \
             where it is put in place by hand."
                .to_owned(),
        );
    }
    lines.push(
        "Deliveries are paused, because the relay cannot know what was delivered since the copy was made. \
         Review the pending calls, then run `integration-relay deliveries resume`."
            .to_owned(),
    );
    output::lines(&lines)
}

/// Refuses the database itself, and the file that is about to be made.
fn require_another_file(from: &Path, others: &[&Path]) -> Result<(), CliError> {
    let is_same = |other: &&Path| is_same_file(from, other).unwrap_or(false);
    match others.iter().any(is_same) {
        true => Err(failed(format!(
            "{} is the database itself, or what a restore is making: name a file that `integration-relay backup` \
             created; nothing was changed",
            from.display()
        ))),
        false => Ok(()),
    }
}

/// Returns whether two names are those of one file. A hard link is, too.
#[cfg(unix)]
fn is_same_file(one: &Path, other: &Path) -> std::io::Result<bool> {
    use std::os::unix::fs::MetadataExt as _;
    let (one, other) = (fs::metadata(one)?, fs::metadata(other)?);
    Ok((one.dev(), one.ino()) == (other.dev(), other.ino()))
}

#[cfg(not(unix))]
fn is_same_file(one: &Path, other: &Path) -> std::io::Result<bool> {
    Ok(one.canonicalize()? == other.canonicalize()?)
}

/// Refuses a file that is missing, empty or no SQLite database.
async fn require_database(from: &Path) -> Result<(), CliError> {
    let name = "name a file that `integration-relay backup` created; nothing was changed";
    match store::probe(&Database::Sqlite(from.to_owned())).await {
        Ok(store::Probe::Ready) => Ok(()),
        Ok(store::Probe::Absent) => {
            Err(failed(format!("{} does not exist: {name}", from.display())))
        }
        Ok(store::Probe::Empty) => Err(failed(format!("{} is empty: {name}", from.display()))),
        Err(StoreError::Unusable(what)) => Err(failed(format!("{what}; {name}"))),
        Err(error) => Err(StorageError::from(error).into()),
    }
}

/// Makes the file that replaces the database: a checked copy, with deliveries paused.
async fn prepare(made: &Path, from: &Path) -> Result<(), CliError> {
    let copied = copy_to_new(from, made);
    copied.map_err(|error| failed(format!("cannot copy {}: {error}", from.display())))?;
    // A copy of a database's files, such as one that an earlier `restore` moved aside, has its last changes here.
    let log = with_part(from, "-wal");
    if log.exists() {
        let copied = copy_to_new(&log, &with_part(made, "-wal"));
        copied.map_err(|error| failed(format!("cannot copy {}: {error}", log.display())))?;
    }
    let not_usable = |error: StorageError| {
        let text = match error {
            StorageError::Store(StoreError::Unusable(text)) => text,
            error => error.to_string(),
        };
        let prefix = format!("{}: ", made.display());
        failed(format!(
            "{} cannot be restored, and nothing was changed: {}",
            from.display(),
            text.strip_prefix(&prefix).unwrap_or(&text)
        ))
    };
    let checked = crate::storage::check(made).await;
    checked.map_err(|error| not_usable(error.into()))?;
    let database = Database::Sqlite(made.to_owned());
    // Before the tables are migrated, which would create them in the database of another program.
    let tables = store::read_number(&database, RELAY_TABLES, None).await;
    if tables.map_err(|error| not_usable(error.into()))? < RELAY_TABLES_COUNT {
        return Err(failed(format!(
            "{} cannot be restored, and nothing was changed: it is a database of another program, without the \
             relay's tables",
            from.display()
        )));
    }
    let storage = Storage::open(&database).await.map_err(not_usable)?;
    let noted = written_down(&super::acting(&storage), from).await;
    // Also after an error: it writes the log back into the file, which then is the whole database.
    storage.close().await;
    noted?;
    Ok(())
}

/// Copies a file to a new one that only its owner can read. The owner is the directory's: root may restore for a
/// service of another user.
fn copy_to_new(from: &Path, to: &Path) -> std::io::Result<()> {
    let dir = to.parent().filter(|dir| !dir.as_os_str().is_empty());
    let name = to.file_name().and_then(|name| name.to_str());
    let name = name.ok_or_else(|| std::io::Error::other("its name is not UTF-8"))?;
    let dir = runtime::files::Dir::open(dir.unwrap_or(Path::new(".")))?;
    let mut out = dir.create(name, 0o600, runtime::files::Owner::Directory)?;
    std::io::copy(&mut runtime::files::open_given(from)?, &mut out)?;
    out.sync_all()
}

/// Returns a name for the previous database that no file has.
fn free_name(to: &Path) -> PathBuf {
    let now = crate::storage::now();
    let names = (0..).map(|number| match number {
        0 => next_to(to, &format!("replaced-{now}")),
        number => next_to(to, &format!("replaced-{now}-{number}")),
    });
    let mut free = names.filter(|name| !name.exists() && !with_part(name, "-wal").exists());
    free.next().expect("the names do not end")
}

/// Pauses deliveries, and records the restore in the audit record of the restored database.
async fn written_down(storage: &Storage, from: &Path) -> Result<(), StorageError> {
    storage.set_deliveries_paused(true).await?;
    storage.unmark_backup().await.map_err(StorageError::from)?;
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
    with_part(path, &format!(".{what}"))
}

/// Returns a path with more at the end of its name.
fn with_part(path: &Path, part: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(part);
    name.into()
}

fn remove(path: &Path) {
    for part in ["", "-wal", "-shm", "-journal"] {
        let _ = fs::remove_file(with_part(path, part));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    async fn refusal(config: &Config, from: &Path) -> String {
        let before = fs::read(from).ok();
        let error = restore(config, from, true).await.unwrap_err().to_string();
        assert!(error.contains("nothing was changed"), "{error}");
        assert!(
            !error.contains("code:") && !error.contains("os error"),
            "{error}"
        );
        assert_eq!(fs::read(from).ok(), before, "{error}");
        error
    }

    #[tokio::test]
    async fn restore_takes_only_a_database_of_the_relay() {
        let dir = TempDir::new("restore-foreign");
        let config = Config::local(dir.path());
        let Database::Sqlite(path) = &config.database else {
            panic!("a local config has a SQLite file");
        };
        let storage = Storage::open(&config.database).await.unwrap();
        storage.create_tenant("acme").await.unwrap();
        let copy = dir.path().join("copy.db");
        backup(&config, &copy).await.unwrap();
        storage.close().await;
        let at = |name: &str| dir.path().join(name);

        assert!(
            refusal(&config, &at("none.db"))
                .await
                .contains("does not exist")
        );
        fs::write(at("empty.db"), "").unwrap();
        assert!(refusal(&config, &at("empty.db")).await.contains("is empty"));
        #[cfg(unix)]
        {
            let pipe = std::process::Command::new("mkfifo")
                .arg(at("pipe.db"))
                .status();
            assert!(pipe.unwrap().success());
            // The open of a pipe would wait for ever.
            let error = restore(&config, &at("pipe.db"), true).await.unwrap_err();
            let error = error.to_string();
            assert!(
                error.contains("is not a regular file; name a file"),
                "{error}"
            );
            let error = backup(&config, &at("pipe.db")).await.unwrap_err();
            assert!(error.to_string().contains("exists already"), "{error}");
        }
        fs::write(at("letter.toml"), "a letter to the relay").unwrap();
        let error = refusal(&config, &at("letter.toml")).await;
        assert!(error.contains("is not a SQLite database"), "{error}");
        fs::write(at("cut.db"), &fs::read(&copy).unwrap()[..6000]).unwrap();
        let error = refusal(&config, &at("cut.db")).await;
        assert!(error.contains("cannot be restored"), "{error}");
        assert!(
            refusal(&config, path)
                .await
                .contains("is the database itself")
        );
        fs::hard_link(path, at("link.db")).unwrap();
        let error = refusal(&config, &at("link.db")).await;
        assert!(error.contains("is the database itself"), "{error}");
        fs::remove_file(at("link.db")).unwrap();
        let url = format!("sqlite://{}?mode=rwc", at("other.db").display());
        let other = sqlx::SqlitePool::connect(&url).await.unwrap();
        sqlx::query("CREATE TABLE t (x)")
            .execute(&other)
            .await
            .unwrap();
        other.close().await;
        let error = refusal(&config, &at("other.db")).await;
        assert!(error.contains("another program"), "{error}");

        let storage = Storage::open(&config.database).await.unwrap();
        storage.tenant("acme").await.unwrap();
        storage.close().await;
        restore(&config, &copy, true).await.unwrap();
        let storage = Storage::open(&config.database).await.unwrap();
        storage.tenant("acme").await.unwrap();
    }
}
