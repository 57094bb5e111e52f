//! The old database with and without a log that was not written back, damaged, missing, and in use.

use super::*;
use crate::{Database, Store, lock_existing};
use sqlx::AssertSqlSafe;
use support::TempDir;

struct World {
    dir: TempDir,
    lock: ServingLock,
    to: PathBuf,
    by: PathBuf,
    aside: PathBuf,
}

impl World {
    async fn new(label: &str) -> Self {
        let dir = TempDir::new(label);
        let [to, by, aside] = ["db", "db.restoring", "db.replaced-1"].map(|name| dir.join(name));
        let lock = lock_existing(&Database::Sqlite(to.clone())).unwrap();
        let world = Self {
            dir,
            lock,
            to,
            by,
            aside,
        };
        world.make(&world.by.clone(), "new").await;
        world
    }

    /// Makes a database in WAL mode with this word in it.
    async fn make(&self, path: &Path, word: &str) {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(sqlx::sqlite::SqliteJournalMode::Wal);
        let mut connection = options.connect().await.unwrap();
        let text = format!("CREATE TABLE words (word TEXT); INSERT INTO words VALUES ('{word}')");
        sqlx::raw_sql(AssertSqlSafe(text))
            .execute(&mut connection)
            .await
            .unwrap();
        connection.close().await.unwrap();
    }

    /// Makes the old database as a killed process leaves it: its last word is in the log alone.
    async fn make_killed(&self) {
        let other = self.dir.join("killed");
        self.make(&other, "early").await;
        let mut connection = SqliteConnectOptions::new()
            .filename(&other)
            .connect()
            .await
            .unwrap();
        sqlx::query("UPDATE words SET word = 'old'")
            .execute(&mut connection)
            .await
            .unwrap();
        fs::copy(&other, &self.to).unwrap();
        for part in ["-wal", "-shm"] {
            fs::copy(with_suffix(&other, part), with_suffix(&self.to, part)).unwrap();
        }
        connection.close().await.unwrap();
    }

    async fn replace(&self) -> Result<Replaced, StoreError> {
        replace(&self.lock, &self.to, &self.by, &self.aside).await
    }
}

async fn word(path: &Path) -> String {
    let mut connection = SqliteConnectOptions::new()
        .filename(path)
        .connect()
        .await
        .unwrap();
    let row = sqlx::query("SELECT word FROM words")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    // A connection that is only dropped is closed later, and keeps its log until then.
    connection.close().await.unwrap();
    check(path).await.unwrap();
    row.get(0)
}

#[tokio::test]
async fn log_of_the_old_database_does_not_remain() {
    let world = World::new("replace-log").await;
    world.make_killed().await;
    let replaced = world.replace().await.unwrap();
    assert!(replaced.had_database && replaced.moved.is_empty());
    for part in PARTS {
        assert!(!with_suffix(&world.to, part).exists(), "{part}");
    }
    assert_eq!(word(&world.to).await, "new");
    // The old database is whole, with the change that only its log had.
    assert_eq!(word(&world.aside).await, "old");
}

#[tokio::test]
async fn log_without_a_database_is_moved() {
    let world = World::new("replace-stray").await;
    world.make_killed().await;
    fs::remove_file(&world.to).unwrap();
    let replaced = world.replace().await.unwrap();
    assert!(!replaced.had_database && !replaced.moved.is_empty());
    assert_eq!(word(&world.to).await, "new");
}

#[tokio::test]
async fn damaged_database_is_moved_aside() {
    let world = World::new("replace-damaged").await;
    world.make_killed().await;
    fs::write(&world.to, [b'x'; 8192]).unwrap();
    // With a log that is whole, the database could write it back into the damaged file first.
    fs::remove_file(with_suffix(&world.to, "-wal")).unwrap();
    let replaced = world.replace().await.unwrap();
    assert!(replaced.damage.is_some(), "{replaced:?}");
    assert_eq!(fs::read(&world.aside).unwrap(), [b'x'; 8192]);
    for part in PARTS {
        assert!(!with_suffix(&world.to, part).exists(), "{part}");
    }
    assert_eq!(word(&world.to).await, "new");
}

#[tokio::test]
async fn database_in_use_is_not_replaced() {
    let world = World::new("replace-used").await;
    world.make(&world.to.clone(), "old").await;
    let mut other = SqliteConnectOptions::new()
        .filename(&world.to)
        .connect()
        .await
        .unwrap();
    sqlx::query("UPDATE words SET word = 'later'")
        .execute(&mut other)
        .await
        .unwrap();
    let error = world.replace().await.unwrap_err();
    assert!(error.to_string().contains("open"), "{error}");
    assert!(world.by.exists() && !world.aside.exists());
    other.close().await.unwrap();
    assert_eq!(word(&world.to).await, "later");
}

/// As a crash between the two steps leaves it: the database has two names.
#[tokio::test]
async fn second_name_of_a_crash_is_removed() {
    let world = World::new("replace-crash").await;
    world.make(&world.to.clone(), "old").await;
    let left = world.dir.join("db.replaced-0");
    fs::hard_link(&world.to, &left).unwrap();
    world.replace().await.unwrap();
    assert!(!left.exists());
    assert_eq!(word(&world.aside).await, "old");
}

#[tokio::test]
async fn backup_is_recognised_and_damage_found() {
    let dir = TempDir::new("replace-check");
    let [db, copy] = ["a.db", "b.db"].map(|name| dir.join(name));
    let database = Database::Sqlite(db);
    let store = Store::open(&database, &crate::tests::MIGRATIONS)
        .await
        .unwrap();
    store
        .copy_to(&copy, "UPDATE readiness SET at_ms = 7")
        .await
        .unwrap();
    assert!(crate::is_backup(&copy).unwrap());
    check(&copy).await.unwrap();
    let mut bytes = fs::read(&copy).unwrap();
    let at = bytes.len() - 4096;
    bytes[at..].fill(0xff);
    fs::write(&copy, bytes).unwrap();
    check(&copy).await.unwrap_err();
}

fn no_links(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::Error::from_raw_os_error(95))
}

#[tokio::test]
async fn volume_without_hard_links_gets_a_copy_aside() {
    use std::os::unix::fs::PermissionsExt as _;
    let world = World::new("replace-copy").await;
    world.make_killed().await;
    fs::set_permissions(&world.to, fs::Permissions::from_mode(0o640)).unwrap();
    let World {
        lock,
        to,
        by,
        aside,
        ..
    } = &world;
    // As crashes during copies leave them: of this attempt's name, and of an earlier one.
    for name in ["db.replaced-0", "db.replaced-1"] {
        fs::write(world.dir.join(format!("{name}{UNFINISHED}")), "half").unwrap();
    }
    let replaced = replace_with(lock, to, by, aside, no_links).await.unwrap();
    assert!(replaced.had_database && replaced.moved.is_empty());
    assert_eq!(word(to).await, "new");
    assert_eq!(word(aside).await, "old");
    assert_eq!(
        fs::metadata(aside).unwrap().permissions().mode() & 0o777,
        0o640
    );
    for name in ["db.replaced-0", "db.replaced-1"] {
        assert!(!world.dir.join(format!("{name}{UNFINISHED}")).exists());
    }
}

/// As a crash between the copy and the rename leaves it: the copy is complete, and the old database has its name.
#[tokio::test]
async fn crash_after_the_copy_leaves_the_old_database() {
    let world = World::new("replace-copied").await;
    world.make_killed().await;
    write_back(&world.to).await.unwrap();
    copy_aside(&world.to, &world.dir.join("db.replaced-0")).unwrap();
    assert_eq!(word(&world.to).await, "old");
    let World {
        lock,
        to,
        by,
        aside,
        ..
    } = &world;
    replace_with(lock, to, by, aside, no_links).await.unwrap();
    assert_eq!(word(to).await, "new");
    assert_eq!(word(aside).await, "old");
    assert_eq!(word(&world.dir.join("db.replaced-0")).await, "old");
}

#[tokio::test]
async fn failed_copy_leaves_the_old_database() {
    let world = World::new("replace-no-copy").await;
    world.make_killed().await;
    let aside = world.dir.join("missing").join("db.replaced-1");
    let result = replace_with(&world.lock, &world.to, &world.by, &aside, no_links).await;
    let error = result.unwrap_err().to_string();
    assert!(error.contains("cannot copy"), "{error}");
    assert_eq!(word(&world.to).await, "old");
    assert!(world.by.exists());
}
