//! Copies of a database and of its key file, put back in every order.

use super::*;
use crate::Database;
use crate::tests::MIGRATIONS;
use sqlx::Row as _;
use support::TempDir;

/// How long an event may take that must come, on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The reaction of the tests to an older copy: visible, and harmless if repeated.
const IF_OLDER: &str = "UPDATE readiness SET at_ms = -1 WHERE id = 1";

struct World {
    dir: TempDir,
    store: Store,
    file: PathBuf,
}

impl World {
    async fn new(label: &str) -> Self {
        let dir = TempDir::new(label);
        let store = open(&dir.join("store.db")).await;
        let file = dir.join("store.generation");
        Self { dir, store, file }
    }

    async fn begin(&self, store: &Store) -> Arc<Generation> {
        let begun = Generation::begin(store.clone(), self.file.clone(), IF_OLDER);
        let (generation, _) = begun.await.unwrap();
        generation.note().await;
        generation
    }

    /// Starts a process that serves.
    async fn run(&self) -> tokio::task::JoinHandle<()> {
        tokio::spawn(self.begin(&self.store).await.follow())
    }

    async fn until(&self, is_reached: impl Fn(i64) -> bool) {
        let began = Instant::now();
        while !is_reached(read(&self.file)) {
            let now = read(&self.file);
            assert!(began.elapsed() < TIMEOUT, "the file stays at {now}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

async fn open(path: &Path) -> Store {
    let database = Database::Sqlite(path.to_owned());
    Store::open(&database, &MIGRATIONS).await.unwrap()
}

async fn is_marked_older(store: &Store) -> bool {
    let row = sqlx::query("SELECT at_ms FROM readiness WHERE id = 1")
        .fetch_one(store.pool())
        .await
        .unwrap();
    row.get::<i64, _>("at_ms") == -1
}

/// The process is not restarted between copy and restore, and not even stopped in order.
#[tokio::test]
async fn older_copy_is_detected_after_a_crash() {
    let world = World::new("generation").await;
    let running = world.run().await;
    let noted = read(&world.file);
    assert!(noted > 0);
    // Nothing has changed since: the copy is as good as the database.
    let same = world.dir.join("same.db");
    world.store.copy_to(&same, "").await.unwrap();
    let same = open(&same).await;
    let (_, found) = same.raise_generation(noted, IF_OLDER).await.unwrap();
    assert_eq!(found, Found::Current);

    let copy = world.dir.join("copy.db");
    world.store.copy_to(&copy, "").await.unwrap();
    world.store.mark_changed();
    world.until(|number| number > noted).await;
    running.abort();
    let copy = open(&copy).await;
    world.begin(&copy).await;
    assert!(is_marked_older(&copy).await);
    // The database itself never was an older copy, although the copy has raised the number in the file.
    world.begin(&world.store).await;
    assert!(is_marked_older(&copy).await);
}

#[tokio::test]
async fn restart_is_not_an_older_copy() {
    let world = World::new("generation-restart").await;
    for _ in 0..3 {
        let generation = world.begin(&world.store).await;
        world.store.mark_changed();
        generation.advance().await.unwrap();
        // After a crash between the two the file has the smaller number, never the larger.
        world.store.advance_generation().await.unwrap();
    }
    assert!(!is_marked_older(&world.store).await);
}

/// A database that replaces a lost one is no copy of anything.
#[tokio::test]
async fn new_database_is_not_an_older_copy() {
    let world = World::new("generation-new").await;
    world.begin(&world.store).await;
    let noted = read(&world.file);
    let new = open(&world.dir.join("new.db")).await;
    let (next, found) = new.raise_generation(noted, IF_OLDER).await.unwrap();
    assert_eq!(found, Found::New { noted });
    assert!(next > noted && !is_marked_older(&new).await);
    // From now on it is a database like any other.
    let (_, found) = new.raise_generation(next + 5, IF_OLDER).await.unwrap();
    assert!(matches!(found, Found::Older { .. }), "{found:?}");
}

/// Changes that come together share one number, and without a change nothing is written.
#[tokio::test]
async fn number_rises_only_with_changes() {
    let world = World::new("generation-pace").await;
    let generation = world.begin(&world.store).await;
    let first = read(&world.file);
    for _ in 0..100 {
        world.store.mark_changed();
    }
    for _ in 0..3 {
        generation.advance().await.unwrap();
    }
    assert_eq!(read(&world.file), first + 1);
}

/// A file that cannot be written stops nothing, and is written as soon as it can be.
#[tokio::test]
async fn failed_write_of_the_file_is_retried() {
    let world = World::new("generation-file").await;
    let obstacle = world.dir.join("store.generation.new");
    fs::create_dir(&obstacle).unwrap();
    let _running = world.run().await;
    assert_eq!(read(&world.file), 0);
    world.store.mark_changed();
    tokio::time::sleep(Duration::from_millis(300)).await;
    fs::remove_dir(&obstacle).unwrap();
    world.until(|number| number > 0).await;
}

/// A crash at any moment leaves the previous number or this one; a link is not followed.
#[tokio::test]
async fn file_is_replaced_atomically() {
    let world = World::new("generation-atomic").await;
    let other = world.dir.write("other", "untouched");
    std::os::unix::fs::symlink(&other, &world.file).unwrap();
    let new = world.dir.join("store.generation.new");
    std::os::unix::fs::symlink(&other, &new).unwrap();
    write(&world.file, 7).unwrap();
    assert_eq!(read(&world.file), 7);
    assert_eq!(fs::read_to_string(&other).unwrap(), "untouched");
    assert!(!new.exists());
}
