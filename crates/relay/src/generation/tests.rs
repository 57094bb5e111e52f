use super::*;
use crate::config::Database;
use crate::testing::TempDir;

/// How long something may take that must come, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

struct World {
    dir: TempDir,
    storage: Storage,
    key_file: PathBuf,
}

impl World {
    async fn new(label: &str) -> Self {
        let dir = TempDir::new(label);
        let storage = open(&dir.path().join("relay.db")).await;
        let key_file = dir.path().join("relay-secrets.key");
        Self {
            dir,
            storage,
            key_file,
        }
    }

    fn file(&self) -> PathBuf {
        self.key_file.with_extension("generation")
    }

    /// A relay that runs.
    async fn run(&self) -> tokio::task::JoinHandle<()> {
        let generation = Generation::begin(self.storage.clone(), &self.key_file).await;
        tokio::spawn(generation.unwrap().follow())
    }

    async fn until(&self, what: impl Fn(i64) -> bool) {
        let began = Instant::now();
        while !what(read(&self.file())) {
            let now = read(&self.file());
            assert!(began.elapsed() < PATIENCE, "the file stays at {now}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

async fn open(path: &Path) -> Storage {
    Storage::open(&Database::Sqlite(path.to_owned()))
        .await
        .unwrap()
}

/// The relay is not restarted between copy and restore, and not even stopped in order.
#[tokio::test]
async fn an_earlier_copy_shows_without_a_restart_before_it() {
    let world = World::new("generation").await;
    let running = world.run().await;
    let noted = read(&world.file());
    assert!(noted > 0);
    // Nothing has happened since: the copy is as good as the database.
    let same = world.dir.path().join("same.db");
    world.storage.copy_to(&same).await.unwrap();
    let (_, is_older) = open(&same).await.raise_generation(noted).await.unwrap();
    assert!(!is_older);

    let copy = world.dir.path().join("copy.db");
    world.storage.copy_to(&copy).await.unwrap();
    world.storage.touched();
    world.until(|number| number > noted).await;
    running.abort();
    let copy = open(&copy).await;
    Generation::begin(copy.clone(), &world.key_file)
        .await
        .unwrap();
    assert!(copy.deliveries_paused().await.unwrap());
    // Known once; the database itself never was older.
    Generation::begin(world.storage.clone(), &world.key_file)
        .await
        .unwrap();
    assert!(copy.deliveries_paused().await.unwrap());
}

#[tokio::test]
async fn a_restart_is_not_an_earlier_copy() {
    let world = World::new("generation-restart").await;
    for _ in 0..3 {
        let generation = Generation::begin(world.storage.clone(), &world.key_file)
            .await
            .unwrap();
        world.storage.touched();
        generation.advance().await.unwrap();
        // After a crash between the two the file has the smaller number, never the larger.
        world.storage.advance_generation().await.unwrap();
    }
    assert!(!world.storage.deliveries_paused().await.unwrap());
}

/// Changes that come together share one number, and without a change nothing is written.
#[tokio::test]
async fn the_number_rises_only_with_changes_and_slowly() {
    let world = World::new("generation-pace").await;
    let generation = Generation::begin(world.storage.clone(), &world.key_file)
        .await
        .unwrap();
    let first = read(&world.file());
    for _ in 0..100 {
        world.storage.touched();
    }
    for _ in 0..3 {
        generation.advance().await.unwrap();
    }
    assert_eq!(read(&world.file()), first + 1);
}

/// A file that cannot be written stops nothing, and is written when it can be.
#[tokio::test]
async fn a_file_that_cannot_be_written_is_tried_again() {
    let world = World::new("generation-file").await;
    let in_the_way = world.dir.path().join("relay-secrets.generation.new");
    fs::create_dir(&in_the_way).unwrap();
    let _running = world.run().await;
    assert_eq!(read(&world.file()), 0);
    world.storage.touched();
    tokio::time::sleep(Duration::from_millis(300)).await;
    fs::remove_dir(&in_the_way).unwrap();
    world.until(|number| number > 0).await;
}

/// A crash at any moment leaves the number before or this one; a link is not followed.
#[tokio::test]
async fn the_file_is_replaced_as_a_whole() {
    let world = World::new("generation-atomic").await;
    let other = world.dir.path().join("other");
    fs::write(&other, "untouched").unwrap();
    std::os::unix::fs::symlink(&other, world.file()).unwrap();
    let new = world.dir.path().join("relay-secrets.generation.new");
    std::os::unix::fs::symlink(&other, &new).unwrap();
    write(&world.file(), 7).unwrap();
    assert_eq!(read(&world.file()), 7);
    assert_eq!(fs::read_to_string(&other).unwrap(), "untouched");
    assert!(!new.exists());
}
