//! The nonces that were used, on the disk until they expire: a restart makes none good again.
//!
//! ```text
//! nonce (SHA-256) -> state, when it expires
//! ```

use redb::backends::FileBackend;
use redb::{Database, Durability, ReadableTable as _, ReadableTableMetadata as _, TableDefinition};
use ring::digest::{SHA256, digest};
use std::path::Path;
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

const NONCES: TableDefinition<'_, &[u8; 32], (u8, u64)> = TableDefinition::new("nonces");

/// Nonces at once. Beyond, signed requests are turned away until some have expired.
const NONCES_MAX: u64 = 200_000;

/// Those that have expired are let go of when so many more have come.
const SWEEP_EVERY: u32 = 1000;

/// What the database keeps in memory.
const CACHE_BYTES: usize = 256 * 1024;

/// A request with it is on its way, or came to the target.
const USED: u8 = 1;
/// It did not, or the target answered with a failure: it may come again.
const FREE: u8 = 2;

/// Whether a nonce may be used.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// It may, and is used from now on.
    Fresh,
    /// It was used.
    Again,
    /// There are as many as there may be.
    Full,
}

/// The store.
#[derive(Debug)]
pub(crate) struct Nonces {
    database: Database,
    since_sweep: Mutex<u32>,
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}

fn key(nonce: &str) -> [u8; 32] {
    let mut key = [0; 32];
    key.copy_from_slice(digest(&SHA256, nonce.as_bytes()).as_ref());
    key
}

impl Nonces {
    /// Opens the store. Blocks.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub(crate) fn open(path: &Path) -> Result<Self, String> {
        let mut options = std::fs::OpenOptions::new();
        options.create(true).truncate(false).read(true).write(true);
        #[cfg(unix)]
        {
            use std::os::unix::fs::OpenOptionsExt as _;
            options.mode(0o600);
        }
        let file = options.open(path).map_err(|error| error.to_string())?;
        let backend = FileBackend::new(file).map_err(|error| error.to_string())?;
        let database = Database::builder()
            .set_cache_size(CACHE_BYTES)
            .create_with_backend(backend)
            .map_err(|error| error.to_string())?;
        Ok(Self {
            database,
            since_sweep: Mutex::new(SWEEP_EVERY),
        })
    }

    /// Uses a nonce, on the disk before this returns. Blocks.
    ///
    /// # Errors
    /// What is wrong with the disk; the nonce must not be taken for used then.
    pub(crate) fn take(&self, nonce: &str, expires: u64) -> Result<Use, String> {
        self.sweep_now_and_then()?;
        let mut write = self
            .database
            .begin_write()
            .map_err(|error| error.to_string())?;
        write
            .set_durability(Durability::Immediate)
            .map_err(|error| error.to_string())?;
        let used = {
            let mut table = write
                .open_table(NONCES)
                .map_err(|error| error.to_string())?;
            let key = key(nonce);
            let known = table.get(&key).map_err(|error| error.to_string())?;
            let known = known.map(|value| value.value());
            let count = table.len().map_err(|error| error.to_string())?;
            match known {
                Some((USED, _)) => Use::Again,
                None if count >= NONCES_MAX => Use::Full,
                _ => {
                    let stored = table.insert(&key, (USED, expires));
                    stored.map_err(|error| error.to_string())?;
                    Use::Fresh
                }
            }
        };
        if used == Use::Fresh {
            write.commit().map_err(|error| error.to_string())?;
        }
        Ok(used)
    }

    /// The request with it did not come to the target, or the target answered with a failure: it may come
    /// again. Blocks.
    ///
    /// # Errors
    /// What is wrong with the disk; the nonce stays used.
    pub(crate) fn free(&self, nonce: &str, expires: u64) -> Result<(), String> {
        let write = self
            .database
            .begin_write()
            .map_err(|error| error.to_string())?;
        {
            let mut table = write
                .open_table(NONCES)
                .map_err(|error| error.to_string())?;
            let stored = table.insert(&key(nonce), (FREE, expires));
            stored.map_err(|error| error.to_string())?;
        }
        write.commit().map_err(|error| error.to_string())
    }

    fn sweep_now_and_then(&self) -> Result<(), String> {
        {
            let mut since = self
                .since_sweep
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            *since += 1;
            if *since < SWEEP_EVERY {
                return Ok(());
            }
            *since = 0;
        }
        let write = self
            .database
            .begin_write()
            .map_err(|error| error.to_string())?;
        {
            let mut table = write
                .open_table(NONCES)
                .map_err(|error| error.to_string())?;
            let now = now();
            let kept = table.retain(|_, (_, expires)| expires > now);
            kept.map_err(|error| error.to_string())?;
        }
        write.commit().map_err(|error| error.to_string())
    }

    /// Nonces that are known. For tests.
    #[cfg(test)]
    fn count(&self) -> u64 {
        use redb::ReadableDatabase as _;
        let read = self.database.begin_read().unwrap();
        read.open_table(NONCES).unwrap().len().unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn a_nonce_is_good_once_also_after_a_restart_until_it_is_free() {
        let dir = TempDir::new("nonces");
        let path = dir.path().join("nonces.redb");
        let later = now() + 600;
        let nonces = Nonces::open(&path).unwrap();
        assert_eq!(nonces.take("a", later), Ok(Use::Fresh));
        assert_eq!(nonces.take("a", later), Ok(Use::Again));
        drop(nonces);
        let nonces = Nonces::open(&path).unwrap();
        assert_eq!(nonces.take("a", later), Ok(Use::Again));
        nonces.free("a", later).unwrap();
        assert_eq!(nonces.take("a", later), Ok(Use::Fresh));
        assert_eq!(nonces.take("a", later), Ok(Use::Again));
    }

    #[test]
    fn those_that_have_expired_are_let_go_of() {
        let dir = TempDir::new("nonces-sweep");
        let nonces = Nonces::open(&dir.path().join("nonces.redb")).unwrap();
        nonces.take("old", now() - 1).unwrap();
        nonces.take("new", now() + 600).unwrap();
        *nonces.since_sweep.lock().unwrap() = SWEEP_EVERY;
        assert_eq!(nonces.take("new", now() + 600), Ok(Use::Again));
        assert_eq!(nonces.count(), 1);
    }
}
