//! The nonces that were used, on disk until they expire: a restart makes none usable again.
//!
//! ```text
//!            reserve               spend, on disk           the target responded with a failure
//! (unknown) ---------> reserved ---------------------> used -----------------------------------> repeatable
//!     ^                   |                             |     (an attempt of a delivery)            |
//!     |     dropped       |       not dispatched        |                                           |
//!     +-------------------+<----------------------------+      reserve, for the same call only      |
//!                                                              and the same signature <-------------+
//! ```
//!
//! A reservation is in memory only: an exchange that ends before anything was sent leaves nothing, however it
//! ends. The file maps nonce (SHA-256) -> state, expiry, binding, executions.

use protocol::frame::CallAttempt;
use redb::backends::FileBackend;
use redb::{
    Database, Durability, ReadableDatabase as _, ReadableTable as _, ReadableTableMetadata as _,
    TableDefinition,
};
use ring::digest::{SHA256, digest};
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

const USES: TableDefinition<'_, &[u8; 32], (u8, u64, u128, u8)> = TableDefinition::new("uses");
const ABOUT: TableDefinition<'_, &str, u64> = TableDefinition::new("about");

/// The key in `about` of the time since which every use is in the file, in seconds since 1970.
const SINCE: &str = "since";

/// The key in `about` of the time of the last sweep. A signature that had expired by then stays rejected after the
/// clock was set back: its nonce may have been removed.
const SWEPT: &str = "swept";

/// Nonces in the store. When it is full, signed requests are rejected until some have expired.
const NONCES_MAX: u64 = 200_000;

/// Expired nonces are removed after this many reservations.
const SWEEP_EVERY: u32 = 1000;

/// The database's cache in memory.
const CACHE_BYTES: usize = 256 * 1024;

/// Executions of one signed delivery: its attempts, including those that an operator requests.
const EXECUTIONS_MAX: u8 = 64;

/// A request with it is in progress, or was executed.
const USED: u8 = 1;
/// The target responded to an attempt with a failure: another attempt of the same call may follow.
const REPEATABLE: u8 = 2;

/// What a nonce is bound to: the call that used it, and the signed content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Binding(u128);

impl Binding {
    /// Returns the binding of a request, which may be an attempt of a delivery.
    pub(crate) fn of(attempt: Option<CallAttempt>, base: &[u8; 32]) -> Self {
        let mut all = base.to_vec();
        if let Some(attempt) = attempt {
            all.extend_from_slice(&attempt.call);
        }
        let hash = digest(&SHA256, &all);
        let mut first = [0; 16];
        first.copy_from_slice(&hash.as_ref()[..16]);
        Self(u128::from_be_bytes(first))
    }
}

/// The result of a reservation.
#[derive(Debug)]
pub(crate) enum ReserveResult {
    /// This request may use the nonce, and no other.
    Reserved(Reserved),
    /// A request with it is in progress.
    InUse,
    /// A request with it was executed.
    Used,
    /// The signature is older than the store, or than its last sweep: it may have been used.
    TooOld,
    /// The store is full.
    Full,
}

/// A nonce that this request may use. Dropping it unspent leaves no trace.
#[derive(Debug)]
pub(crate) struct Reserved {
    nonces: Arc<Nonces>,
    key: [u8; 32],
    expires: u64,
    binding: Binding,
    executions: u8,
    pub(crate) is_spent: bool,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.nonces.reserved().remove(&self.key);
    }
}

/// The store.
#[derive(Debug)]
pub(crate) struct Nonces {
    path: PathBuf,
    /// `None` until it is needed, and after an error: redb rejects everything on a handle that failed once.
    database: Mutex<Option<Database>>,
    reserved: Mutex<HashSet<[u8; 32]>>,
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

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

impl Nonces {
    /// Returns a store in this file, which is opened when it is needed.
    pub(crate) fn new(path: PathBuf) -> Arc<Self> {
        Arc::new(Self {
            path,
            database: Mutex::new(None),
            reserved: Mutex::default(),
            since_sweep: Mutex::new(SWEEP_EVERY),
        })
    }

    fn reserved(&self) -> MutexGuard<'_, HashSet<[u8; 32]>> {
        self.reserved.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the file, so that signatures from now on are accepted. Blocks.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub(crate) fn open(&self) -> Result<(), String> {
        self.with(|_| Ok(()))
    }

    /// Runs work on the database. After an error it is closed, and the next use opens it again.
    fn with<T>(&self, work: impl FnOnce(&Database) -> Result<T, String>) -> Result<T, String> {
        let mut slot = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        let database = match slot.take() {
            Some(database) => database,
            None => open(&self.path)?,
        };
        let result = work(&database);
        // Put back only if it worked: after an I/O error redb rejects everything on this handle.
        if result.is_ok() {
            *slot = Some(database);
        }
        result
    }

    /// Reserves a nonce for a request that was signed at `created`. Blocks.
    ///
    /// # Errors
    /// What is wrong with the disk.
    pub(crate) fn reserve(
        self: &Arc<Self>,
        nonce: &str,
        (created, expires): (u64, u64),
        binding: Binding,
    ) -> Result<ReserveResult, String> {
        self.sweep_if_due()?;
        let key = key(nonce);
        // In memory before on disk: a request that ends meanwhile writes the disk first and then releases its
        // reservation, so that its nonce is always found in one of the two.
        if !self.reserved().insert(key) {
            return Ok(ReserveResult::InUse);
        }
        let mut reserved = Reserved {
            nonces: self.clone(),
            key,
            expires,
            binding,
            executions: 0,
            is_spent: false,
        };
        let (known, count, is_too_old) = self.with(|database| {
            let read = database.begin_read().map_err(text)?;
            let uses = read.open_table(USES).map_err(text)?;
            let known = uses.get(&key).map_err(text)?.map(|value| value.value());
            let about = read.open_table(ABOUT).map_err(text)?;
            let since = about.get(SINCE).map_err(text)?.map(|value| value.value());
            let swept = about.get(SWEPT).map_err(text)?.map(|value| value.value());
            let is_too_old = created < since.unwrap_or(u64::MAX) || expires <= swept.unwrap_or(0);
            let count = uses.len().map_err(text)?;
            Ok((known, count, is_too_old))
        })?;
        reserved.executions = match known {
            Some((REPEATABLE, _, bound, executions))
                if bound == binding.0 && executions < EXECUTIONS_MAX =>
            {
                executions
            }
            Some(_) => return Ok(ReserveResult::Used),
            None if is_too_old => return Ok(ReserveResult::TooOld),
            // No nonce is removed before it expires: its signature could be used again.
            None if count >= NONCES_MAX => return Ok(ReserveResult::Full),
            None => 0,
        };
        Ok(ReserveResult::Reserved(reserved))
    }

    fn write(&self, key: &[u8; 32], value: Option<(u8, u64, u128, u8)>) -> Result<(), String> {
        self.with(|database| {
            let mut write = database.begin_write().map_err(text)?;
            // On disk before the request is sent: a crash must not make the nonce usable again.
            write.set_durability(Durability::Immediate).map_err(text)?;
            {
                let mut uses = write.open_table(USES).map_err(text)?;
                match value {
                    Some(value) => uses.insert(key, value).map(drop),
                    None => uses.remove(key).map(drop),
                }
                .map_err(text)?;
            }
            write.commit().map_err(text)
        })
    }

    fn sweep_if_due(&self) -> Result<(), String> {
        {
            let mut since = self
                .since_sweep
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            *since += 1;
            if *since < SWEEP_EVERY {
                return Ok(());
            }
            *since = 0;
        }
        self.with(|database| {
            let write = database.begin_write().map_err(text)?;
            {
                let mut uses = write.open_table(USES).map_err(text)?;
                let now = now();
                uses.retain(|_, (_, expires, _, _)| expires > now)
                    .map_err(text)?;
                let mut about = write.open_table(ABOUT).map_err(text)?;
                let before = about.get(SWEPT).map_err(text)?.map(|value| value.value());
                // Never lower: a clock that was set back must not make swept nonces usable again.
                let swept = before.unwrap_or(0).max(now);
                about.insert(SWEPT, swept).map_err(text)?;
            }
            write.commit().map_err(text)
        })
    }

    /// Returns the number of stored nonces. For tests.
    #[cfg(test)]
    fn count(&self) -> u64 {
        self.with(|database| {
            let read = database.begin_read().map_err(text)?;
            let uses = read.open_table(USES).map_err(text)?;
            uses.len().map_err(text)
        })
        .unwrap()
    }
}

impl Reserved {
    /// Uses the nonce up; it is on disk when this returns. Must be called before anything is sent. Blocks.
    ///
    /// # Errors
    /// What is wrong with the disk. Nothing may be sent then.
    pub(crate) fn spend(&mut self) -> Result<(), String> {
        let executions = self.executions + 1;
        let value = (USED, self.expires, self.binding.0, executions);
        self.nonces.write(&self.key, Some(value))?;
        self.is_spent = true;
        Ok(())
    }

    /// Restores the nonce as it was before, because nothing was dispatched. Blocks.
    ///
    /// # Errors
    /// What is wrong with the disk; the nonce stays used.
    pub(crate) fn free(&self) -> Result<(), String> {
        let before = (self.executions > 0).then_some((
            REPEATABLE,
            self.expires,
            self.binding.0,
            self.executions,
        ));
        self.nonces.write(&self.key, before)
    }

    /// Allows another attempt of the same call to use the nonce, because the target responded to this one with a
    /// failure. Blocks.
    ///
    /// # Errors
    /// What is wrong with the disk; the nonce stays used.
    pub(crate) fn repeatable(&self) -> Result<(), String> {
        let executions = self.executions + 1;
        let value = (REPEATABLE, self.expires, self.binding.0, executions);
        self.nonces.write(&self.key, Some(value))
    }
}

/// Opens the file. A new one gets the time since which it is complete.
fn open(path: &Path) -> Result<Database, String> {
    let mut options = std::fs::OpenOptions::new();
    options.create(true).truncate(false).read(true).write(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        // The directory is private already; the file does not depend on that.
        options.mode(0o600);
    }
    let file = options.open(path).map_err(text)?;
    let backend = FileBackend::new(file).map_err(text)?;
    let database = Database::builder()
        .set_cache_size(CACHE_BYTES)
        .create_with_backend(backend)
        .map_err(text)?;
    let write = database.begin_write().map_err(text)?;
    {
        let mut about = write.open_table(ABOUT).map_err(text)?;
        let is_new = about.get(SINCE).map_err(text)?.is_none();
        if is_new {
            // A lost file knows no nonces, so signatures from before it must not be accepted.
            about.insert(SINCE, now()).map_err(text)?;
        }
        write.open_table(USES).map_err(text)?;
    }
    write.commit().map_err(text)?;
    Ok(database)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    fn attempt(call: u8, attempt: u32) -> Option<CallAttempt> {
        Some(CallAttempt {
            call: [call; 16],
            attempt,
        })
    }

    fn of(call: Option<CallAttempt>) -> Binding {
        Binding::of(call, &[7; 32])
    }

    fn reserve(nonces: &Arc<Nonces>, binding: Binding) -> ReserveResult {
        // Before the signature's time is taken: a store that is opened a second later rejects it as too old.
        nonces.open().unwrap();
        let now = now();
        let times = (now, now + 600);
        nonces.reserve("a", times, binding).unwrap()
    }

    fn reserved(nonces: &Arc<Nonces>, binding: Binding) -> Reserved {
        match reserve(nonces, binding) {
            ReserveResult::Reserved(reserved) => reserved,
            other => panic!("{other:?}"),
        }
    }

    fn is_used(nonces: &Arc<Nonces>, binding: Binding) -> bool {
        matches!(reserve(nonces, binding), ReserveResult::Used)
    }

    #[test]
    fn nonce_is_valid_once_also_after_a_restart() {
        let dir = TempDir::new("nonces");
        let path = dir.path().join("nonces.redb");
        let nonces = Nonces::new(path.clone());
        reserved(&nonces, of(None)).spend().unwrap();
        assert!(is_used(&nonces, of(None)));
        drop(nonces);
        let nonces = Nonces::new(path);
        for binding in [of(None), of(attempt(1, 1)), Binding::of(None, &[8; 32])] {
            assert!(is_used(&nonces, binding));
        }
    }

    #[test]
    fn reservation_excludes_others_and_leaves_nothing() {
        let dir = TempDir::new("nonces-reserved");
        let nonces = Nonces::new(dir.path().join("nonces.redb"));
        let first = reserved(&nonces, of(attempt(1, 1)));
        assert!(matches!(reserve(&nonces, of(None)), ReserveResult::InUse));
        drop(first);
        assert_eq!(nonces.count(), 0);
        let second = reserved(&nonces, of(None));
        drop(second);
    }

    #[test]
    fn request_not_dispatched_frees_its_nonce() {
        let dir = TempDir::new("nonces-free");
        let nonces = Nonces::new(dir.path().join("nonces.redb"));
        let mut first = reserved(&nonces, of(None));
        first.spend().unwrap();
        first.free().unwrap();
        drop(first);
        reserved(&nonces, of(attempt(2, 1))).spend().unwrap();
        assert!(is_used(&nonces, of(None)));
    }

    #[test]
    fn failed_delivery_repeats_for_its_own_call() {
        let dir = TempDir::new("nonces-repeat");
        let nonces = Nonces::new(dir.path().join("nonces.redb"));
        let mut first = reserved(&nonces, of(attempt(1, 1)));
        first.spend().unwrap();
        first.repeatable().unwrap();
        drop(first);
        for other in [
            of(None),
            of(attempt(2, 1)),
            Binding::of(attempt(1, 2), &[8; 32]),
        ] {
            assert!(is_used(&nonces, other));
        }
        let mut second = reserved(&nonces, of(attempt(1, 2)));
        second.spend().unwrap();
        second.free().unwrap();
        drop(second);
        assert!(is_used(&nonces, of(None)), "it was executed once");
        reserved(&nonces, of(attempt(1, 3))).spend().unwrap();
        assert!(is_used(&nonces, of(attempt(1, 4))));
    }

    #[test]
    fn executions_of_one_delivery_are_bounded() {
        let dir = TempDir::new("nonces-bound");
        let nonces = Nonces::new(dir.path().join("nonces.redb"));
        for _ in 0..EXECUTIONS_MAX {
            let mut one = reserved(&nonces, of(attempt(1, 1)));
            one.spend().unwrap();
            one.repeatable().unwrap();
        }
        assert!(is_used(&nonces, of(attempt(1, 1))));
    }

    #[test]
    fn signature_older_than_the_store_is_rejected() {
        let dir = TempDir::new("nonces-since");
        let nonces = Nonces::new(dir.path().join("nonces.redb"));
        nonces.open().unwrap();
        let now = now();
        let old = nonces.reserve("a", (now - 5, now + 600), of(None));
        assert!(matches!(old, Ok(ReserveResult::TooOld)));
        reserved(&nonces, of(None));
    }

    #[test]
    fn expired_nonces_are_removed() {
        let dir = TempDir::new("nonces-sweep");
        let nonces = Nonces::new(dir.path().join("nonces.redb"));
        let now = now();
        for (nonce, expires) in [("old", now - 1), ("new", now + 600)] {
            let used = (USED, expires, 0, 1);
            nonces.write(&key(nonce), Some(used)).unwrap();
        }
        *nonces.since_sweep.lock().unwrap() = SWEEP_EVERY;
        assert!(!is_used(&nonces, of(None)));
        assert_eq!(nonces.count(), 1);
        // The clock was set back: the old signature seems valid again.
        let again = nonces.reserve("old", (now + 5, now - 1), of(None));
        assert!(matches!(again, Ok(ReserveResult::TooOld)), "{again:?}");
    }
}
