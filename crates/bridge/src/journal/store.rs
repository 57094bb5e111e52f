//! The journal on disk: one file, a commit is one `fsync`.
//!
//! ```text
//! entries  call id, attempt        -> state, number, seconds since 1970, status, code, execution
//! order    number of the record    -> call id, attempt       oldest first, to drop acknowledged ones
//! about    "id", "sequence"
//!
//! open --(any error)--> closed --(next request, after a pause)--> opened again
//! ```
//!
//! redb rejects everything after an I/O error. The database is then closed, and opened again for the next
//! request, after a pause that grows. Attempts that this process has begun stay registered meanwhile, because their
//! outcome is still to be written. An intent whose commit failed is removed, because nothing was sent.

mod entry;
mod fault;
mod tables;

use super::{JournalEntryState, JournalError, JournalReply, JournalRequest, Outcome};
use crate::data_dir::PrivateDir;
use entry::{BEGUN, Entry, Key, State, Value, key};
use fault::{Fault, disk};
use protocol::Code;
use protocol::frame::JournalMark;
use redb::backends::FileBackend;
use redb::{
    Database, Durability, ReadableDatabase as _, ReadableTable as _, TableDefinition, TableError,
    WriteTransaction,
};
use runtime::shortage;
use std::collections::HashSet;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tables::{Tables, empty_reply, lookup};

const ENTRIES: TableDefinition<'_, &Key, &Value> = TableDefinition::new("entries");
const ORDER: TableDefinition<'_, u64, &Key> = TableDefinition::new("order");
const ABOUT: TableDefinition<'_, &str, u128> = TableDefinition::new("about");

const ID: &str = "id";
const SEQUENCE: &str = "sequence";

/// The database's cache in memory.
const CACHE_BYTES: usize = 256 * 1024;

/// Approximate size of an entry on disk, in both tables.
const ENTRY_BYTES: u64 = 128;

/// The pause before a database that failed is opened again: at first, and at most.
const REOPEN_AFTER: Duration = Duration::from_secs(1);
const REOPEN_AFTER_MAX: Duration = Duration::from_secs(15);

/// Pause between two log lines about a journal that still fails.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// The bounds of a journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// Entries, one for each attempt.
    pub entries_max: u64,
    /// Approximate bytes.
    pub bytes_max: u64,
}

impl Bounds {
    fn entries(self) -> u64 {
        self.entries_max.min(self.bytes_max / ENTRY_BYTES).max(1)
    }
}

/// Why there is no journal.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file.
    #[error("the journal of deliveries {path} cannot be opened: {detail}")]
    File {
        /// Its path.
        path: PathBuf,
        /// The system's error.
        detail: String,
    },
    /// The thread.
    #[error("the journal's thread cannot be started")]
    Thread(#[source] io::Error),
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// Counters over the tables.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Counts {
    sequence: u64,
    entries: u64,
    acknowledged: u64,
}

/// The journal's file.
pub(super) struct Store {
    dir: PrivateDir,
    name: String,
    bounds: Bounds,
    /// `None` after an error, until it is opened again.
    database: Option<Database>,
    /// `None` until the file could be read for the first time.
    id: Option<[u8; 16]>,
    /// Whether attempts that an earlier process left without an outcome have one.
    is_settled: bool,
    counts: Counts,
    /// Attempts of this process whose intent is on disk and whose outcome is not: at most the concurrent
    /// deliveries.
    running: HashSet<Key>,
    /// The number of the record up to which acknowledged entries were searched.
    scanned_to: u64,
    trouble: Option<Trouble>,
}

/// The state from an error until the next successful commit.
struct Trouble {
    fault: Fault,
    reopen_at: Instant,
    /// The pause before the next retry.
    pause: Duration,
    log_at: Instant,
}

impl Store {
    /// Opens the file or creates it. Attempts that were begun and have no outcome get the outcome "possibly
    /// executed". While the disk fails, the journal is opened later, and nothing is begun until then.
    pub(super) fn open(dir: &PrivateDir, name: &str, bounds: Bounds) -> Result<Self, OpenError> {
        let mut store = Self {
            dir: dir.clone(),
            name: name.to_owned(),
            bounds,
            database: None,
            id: None,
            is_settled: false,
            counts: Counts::default(),
            running: HashSet::new(),
            scanned_to: 0,
            trouble: None,
        };
        match store.reopen() {
            Ok(()) => {}
            // A full disk must not keep the bridge from starting: everything but deliveries works without the
            // journal.
            Err(fault) if fault.may_pass => store.failed(fault),
            Err(fault) => {
                return Err(OpenError::File {
                    path: dir.path(name),
                    detail: fault.detail,
                });
            }
        }
        Ok(store)
    }

    /// Returns the journal's id and sequence, or `None` until the file could be read for the first time.
    pub(super) fn mark(&self) -> Option<JournalMark> {
        self.id.map(|id| JournalMark {
            id,
            sequence: self.counts.sequence,
        })
    }

    fn reopen(&mut self) -> Result<(), Fault> {
        let database = match self.id {
            None => self.create()?,
            // The relay has this journal's id: another file must not replace it while the process runs.
            Some(_) => {
                let file = self.dir.open_existing(&self.name);
                database(file.map_err(redb::Error::Io).map_err(disk)?)?
            }
        };
        let (id, sequence) = read_about(&database)?;
        if self.id.is_some() && self.id != id {
            return Err(Fault::lasting("the file was replaced by another journal"));
        }
        if id.is_some() {
            self.id = id;
            self.counts.sequence = sequence;
        }
        self.settle(&database)?;
        self.database = Some(database);
        Ok(())
    }

    /// Opens the file or creates it. A file that is not a journal is set aside.
    fn create(&self) -> Result<Database, Fault> {
        let open = || {
            let file = self.dir.open_or_create(&self.name);
            let file = file.map_err(|error| match shortage::io_error(&error) {
                Some(source) => Fault {
                    may_pass: shortage::is_disk_trouble(source),
                    ..Fault::lasting(crate::text::error_chain(&error))
                },
                None => Fault::lasting(error.to_string()),
            })?;
            database(file)
        };
        match open() {
            // Only damage: a file that the disk cannot read now may be intact.
            Err(fault) if fault.is_damage => {
                self.set_aside(&fault.detail)
                    .map_err(redb::Error::Io)
                    .map_err(disk)?;
                open()
            }
            opened => opened,
        }
    }

    /// Keeps a journal that cannot be read, for an administrator to inspect.
    fn set_aside(&self, why: &str) -> io::Result<()> {
        let stem = self.name.trim_end_matches(".redb");
        let aside = format!("{stem}.unreadable-{}", now());
        self.dir.rename(&self.name, &aside)?;
        tracing::error!(
            journal = %self.dir.path(&self.name).display(),
            kept_as = aside,
            why,
            "cannot read the journal of deliveries; starting a new one. The relay will report the outcome of \
             attempts in progress as unknown"
        );
        Ok(())
    }

    /// Counts the entries, and settles attempts without an outcome. After a crash, such an attempt may have been
    /// executed. After an error of this process, nothing was sent, and its entry is removed.
    fn settle(&mut self, database: &Database) -> Result<(), Fault> {
        let write = begin_write(database)?;
        let mut counts = Counts {
            sequence: self.counts.sequence,
            ..Counts::default()
        };
        let mut has_changed = false;
        let id = {
            let mut about = write.open_table(ABOUT).map_err(disk)?;
            let id = match self.id {
                Some(id) => id,
                None => {
                    let fresh = transport::handshake::random();
                    let id: [u8; 16] =
                        fresh.map_err(|_| Fault::lasting("the system has no random bytes"))?;
                    about.insert(ID, u128::from_be_bytes(id)).map_err(disk)?;
                    has_changed = true;
                    id
                }
            };
            let mut entries = write.open_table(ENTRIES).map_err(disk)?;
            let mut order = write.open_table(ORDER).map_err(disk)?;
            let mut begun = Vec::new();
            for item in entries.iter().map_err(disk)? {
                let (key, value) = item.map_err(disk)?;
                let entry = Entry::read(value.value());
                counts.entries += 1;
                match entry.state {
                    // Its task still runs in this process, and will write the outcome.
                    State::Begun if self.running.contains(key.value()) => {}
                    State::Begun => begun.push((*key.value(), entry)),
                    State::Acknowledged => counts.acknowledged += 1,
                    State::Ended => {}
                }
            }
            for (key, entry) in begun {
                counts.sequence += 1;
                has_changed = true;
                // Its intent was on disk, but its commit was reported as failed, so the request was not sent.
                if self.is_settled {
                    entries.remove(&key).map_err(disk)?;
                    order.remove(entry.number).map_err(disk)?;
                    counts.entries -= 1;
                    continue;
                }
                let ended = Entry {
                    state: State::Ended,
                    outcome: Outcome {
                        code: Some(Code::TunnelLost),
                        ..BEGUN
                    },
                    ..entry
                };
                entries.insert(&key, &ended.write()).map_err(disk)?;
            }
            about
                .insert(SEQUENCE, u128::from(counts.sequence))
                .map_err(disk)?;
            id
        };
        if has_changed {
            write.commit().map_err(disk)?;
        } else {
            // Nothing is written then, so that a start on a full disk succeeds.
            write.abort().map_err(disk)?;
        }
        self.id = Some(id);
        self.counts = counts;
        self.is_settled = true;
        Ok(())
    }

    /// Closes the database after an error.
    fn failed(&mut self, fault: Fault) {
        // Closed before it is opened again: redb locks the file.
        self.database = None;
        let now = Instant::now();
        let (pause, log_at) = match &self.trouble {
            None => (REOPEN_AFTER, now),
            Some(trouble) => ((2 * trouble.pause).min(REOPEN_AFTER_MAX), trouble.log_at),
        };
        let mut trouble = Trouble {
            fault,
            reopen_at: now + pause,
            pause,
            log_at,
        };
        if now >= trouble.log_at {
            trouble.log_at = now + LOG_INTERVAL;
            tracing::error!(
                error = trouble.fault.detail,
                journal = %self.dir.path(&self.name).display(),
                "the journal of deliveries does not work: deliveries wait"
            );
        }
        self.trouble = Some(trouble);
    }

    /// The database, opened again where it is time for that.
    fn ready(&mut self) -> Result<(), Fault> {
        if self.database.is_some() {
            return Ok(());
        }
        self.reopen()
    }

    /// Applies the requests in one commit. If that fails, none of them counts as done.
    pub(super) fn commit<'a>(
        &mut self,
        requests: impl ExactSizeIterator<Item = &'a JournalRequest> + Clone,
    ) -> Vec<Result<JournalReply, JournalError>> {
        let count = requests.len();
        let refused = |fault: &Fault| {
            let error = JournalError::Disk(fault.detail.clone());
            (0..count).map(|_| Err(error.clone())).collect()
        };
        if self.database.is_none()
            && let Some(trouble) = &self.trouble
            && Instant::now() < trouble.reopen_at
        {
            // Opening takes locks and reads the file: not for each request while the disk fails.
            return refused(&trouble.fault);
        }
        // Reads work on a full disk, so a batch of reads needs no write transaction.
        let only_reads = requests.clone().all(|request| {
            matches!(
                request,
                JournalRequest::Lookup(_) | JournalRequest::Open(..)
            )
        });
        // redb panics on some disk errors. That must not end this thread: nothing would be delivered until the
        // next start.
        let done = catch_unwind(AssertUnwindSafe(|| {
            self.ready()?;
            match only_reads {
                true => self.read(requests),
                false => self.write(requests),
            }
        }));
        let done = done.unwrap_or_else(|_| Err(Fault::lasting("the database panicked")));
        match done {
            Ok(replies) => {
                // Only a write shows that the disk has space again.
                if !only_reads && self.trouble.take().is_some() {
                    tracing::info!("the journal of deliveries can be written again");
                }
                replies
            }
            Err(fault) => {
                let replies = refused(&fault);
                self.failed(fault);
                replies
            }
        }
    }

    fn read<'a>(
        &self,
        requests: impl Iterator<Item = &'a JournalRequest>,
    ) -> Result<Vec<Result<JournalReply, JournalError>>, Fault> {
        let read = self.open_database()?.begin_read().map_err(disk)?;
        let entries = match read.open_table(ENTRIES) {
            Ok(entries) => entries,
            Err(TableError::TableDoesNotExist(_)) => {
                return Ok(requests.map(|request| Ok(empty_reply(request))).collect());
            }
            Err(error) => return Err(disk(error)),
        };
        requests
            .map(|request| lookup(&entries, request).map(Ok))
            .collect()
    }

    fn open_database(&self) -> Result<&Database, Fault> {
        let database = self.database.as_ref();
        database.ok_or_else(|| Fault::lasting("the journal is closed"))
    }

    fn write<'a>(
        &mut self,
        requests: impl Iterator<Item = &'a JournalRequest> + Clone,
    ) -> Result<Vec<Result<JournalReply, JournalError>>, Fault> {
        let write = begin_write(self.open_database()?)?;
        let mut counts = self.counts;
        let mut scanned_to = self.scanned_to;
        let replies = {
            let mut tables = Tables {
                entries: write.open_table(ENTRIES).map_err(disk)?,
                order: write.open_table(ORDER).map_err(disk)?,
                counts: &mut counts,
                bounds: self.bounds,
            };
            tables.drop_acknowledged(&mut scanned_to)?;
            let mut replies = Vec::new();
            for request in requests.clone() {
                replies.push(tables.apply(request)?);
            }
            let sequence = u128::from(tables.counts.sequence);
            // The tables borrow the transaction, which cannot be committed before.
            drop(tables);
            let mut about = write.open_table(ABOUT).map_err(disk)?;
            about.insert(SEQUENCE, sequence).map_err(disk)?;
            replies
        };
        write.commit().map_err(disk)?;
        // Only now: a failed commit must leave the counters as the file has them.
        self.counts = counts;
        self.scanned_to = scanned_to;
        for (request, reply) in requests.zip(&replies) {
            match (request, reply) {
                (
                    JournalRequest::Begin(attempt),
                    Ok(JournalReply::State(JournalEntryState::Unknown)),
                ) => {
                    self.running.insert(key(*attempt));
                }
                (JournalRequest::End(attempt, _), Ok(_)) => {
                    self.running.remove(&key(*attempt));
                }
                _ => {}
            }
        }
        Ok(replies)
    }
}

/// Opens a database in a file, which it locks.
fn database(file: std::fs::File) -> Result<Database, Fault> {
    let backend = FileBackend::new(file).map_err(disk)?;
    redb::Builder::new()
        .set_cache_size(CACHE_BYTES)
        .create_with_backend(backend)
        .map_err(disk)
}

/// Reads the journal's id, if it has one yet, and its sequence.
fn read_about(database: &Database) -> Result<(Option<[u8; 16]>, u64), Fault> {
    let read = database.begin_read().map_err(disk)?;
    let about = match read.open_table(ABOUT) {
        Ok(about) => about,
        Err(TableError::TableDoesNotExist(_)) => return Ok((None, 0)),
        Err(error) => return Err(disk(error)),
    };
    let id = about.get(ID).map_err(disk)?;
    let sequence = about.get(SEQUENCE).map_err(disk)?;
    let sequence = sequence.and_then(|at| at.value().try_into().ok());
    Ok((id.map(|id| id.value().to_be_bytes()), sequence.unwrap_or(0)))
}

fn begin_write(database: &Database) -> Result<WriteTransaction, Fault> {
    let mut write = database.begin_write().map_err(disk)?;
    // redb then syncs the file before `commit` returns: an intent must survive a power failure.
    write.set_durability(Durability::Immediate).map_err(disk)?;
    Ok(write)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Sets the time of all entries of a journal that no process has open.
    pub(crate) fn set_times(dir: &PrivateDir, name: &str, at: u64) {
        let database = database(dir.open_existing(name).unwrap()).unwrap();
        let write = begin_write(&database).unwrap();
        {
            let mut entries = write.open_table(ENTRIES).unwrap();
            let all: Vec<(Key, Entry)> = entries
                .iter()
                .unwrap()
                .map(Result::unwrap)
                .map(|(key, value)| (*key.value(), Entry::read(value.value())))
                .collect();
            for (key, entry) in all {
                entries
                    .insert(&key, &Entry { at, ..entry }.write())
                    .unwrap();
            }
        }
        write.commit().unwrap();
    }
}
