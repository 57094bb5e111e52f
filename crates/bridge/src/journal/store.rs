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
//! A database that had one I/O error is of no use any more: it is closed, and opened again when something is
//! wanted of it, after a pause that grows. What this process has begun stays begun over that, because its
//! outcome is still to be written; an intent whose commit failed is removed, because nothing has left.

use super::{Answer, Ask, JournalEntryState, JournalError, Outcome};
use crate::data_dir::PrivateDir;
use protocol::frame::{CallAttempt, DeliveryResult, JournalMark};
use protocol::{Code, Execution};
use redb::backends::FileBackend;
use redb::{
    Database, Durability, ReadableDatabase as _, ReadableTable, Table, TableDefinition, TableError,
    WriteTransaction,
};
use runtime::shortage;
use std::collections::HashSet;
use std::io;
use std::ops::Bound::{Excluded, Unbounded};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

type Key = [u8; 20];
type Value = [u8; 22];

const ENTRIES: TableDefinition<'_, &Key, &Value> = TableDefinition::new("entries");
const ORDER: TableDefinition<'_, u64, &Key> = TableDefinition::new("order");
const ABOUT: TableDefinition<'_, &str, u128> = TableDefinition::new("about");

const ID: &str = "id";
const SEQUENCE: &str = "sequence";

/// What the database keeps in memory.
const CACHE_BYTES: usize = 256 * 1024;

/// About what an entry takes on disk, its place in both tables included.
const ENTRY_BYTES: u64 = 128;

/// Acknowledged entries that are dropped in one commit.
const DROPPED_AT_ONCE: usize = 128;

/// Entries that are inspected for that. Each commit goes on where the one before ended.
const LOOKED_AT: usize = 256;

/// The pause before a database that failed is opened again: at first, and at most.
const REOPEN_AFTER: Duration = Duration::from_secs(1);
const REOPEN_AFTER_MAX: Duration = Duration::from_secs(15);

/// How often the log says that the journal still does not work.
const SAY_AGAIN: Duration = Duration::from_secs(60);

/// How much a journal holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Entries, an attempt each.
    pub entries_max: u64,
    /// Bytes, about.
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
        /// What the system said.
        detail: String,
    },
    /// The thread.
    #[error("the journal's thread cannot be started")]
    Thread(#[source] io::Error),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Begun,
    Ended,
    Acknowledged,
}

/// What is written of an attempt.
#[derive(Debug, Clone, Copy)]
struct Entry {
    state: State,
    /// The number of its intent.
    number: u64,
    /// When that was, in seconds since 1970: for people. Nothing depends on it, for a clock may be wrong.
    at: u64,
    outcome: Outcome,
}

const BEGUN: Outcome = Outcome {
    status: None,
    code: None,
    execution: Execution::PossiblyExecuted,
};

impl Entry {
    fn write(&self) -> Value {
        let mut value = [0; 22];
        value[0] = match self.state {
            State::Begun => 1,
            State::Ended => 2,
            State::Acknowledged => 3,
        };
        value[1..9].copy_from_slice(&self.number.to_be_bytes());
        value[9..17].copy_from_slice(&self.at.to_be_bytes());
        let status = self.outcome.status.unwrap_or(0);
        value[17..19].copy_from_slice(&status.to_be_bytes());
        let code = self.outcome.code.map_or(0, Code::to_wire);
        value[19..21].copy_from_slice(&code.to_be_bytes());
        value[21] = self.outcome.execution.to_wire();
        value
    }

    fn read(value: &Value) -> Self {
        let long = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&value[at..at + 8]);
            u64::from_be_bytes(bytes)
        };
        let short = |at: usize| match u16::from_be_bytes([value[at], value[at + 1]]) {
            0 => None,
            number => Some(number),
        };
        Self {
            state: match value[0] {
                2 => State::Ended,
                3 => State::Acknowledged,
                _ => State::Begun,
            },
            number: long(1),
            at: long(9),
            outcome: Outcome {
                status: short(17),
                code: short(19).map(Code::from_wire),
                execution: Execution::from_wire(value[21]),
            },
        }
    }

    fn state(&self) -> JournalEntryState {
        match self.state {
            State::Begun => JournalEntryState::Begun,
            State::Ended | State::Acknowledged => JournalEntryState::Ended(self.outcome),
        }
    }
}

fn key(attempt: CallAttempt) -> Key {
    let mut key = [0; 20];
    key[..16].copy_from_slice(&attempt.call);
    key[16..].copy_from_slice(&attempt.attempt.to_be_bytes());
    key
}

fn attempt(key: &Key) -> CallAttempt {
    let (mut call, mut number) = ([0; 16], [0; 4]);
    call.copy_from_slice(&key[..16]);
    number.copy_from_slice(&key[16..]);
    CallAttempt {
        call,
        attempt: u32::from_be_bytes(number),
    }
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// Why the database does not do what it should.
#[derive(Debug, Clone)]
struct Fault {
    detail: String,
    /// It is the disk's, or the machine's, and may pass.
    may_pass: bool,
    /// The file is not what was written.
    is_damage: bool,
}

impl Fault {
    fn lasting(detail: impl Into<String>) -> Self {
        Self {
            detail: detail.into(),
            may_pass: false,
            is_damage: false,
        }
    }
}

fn disk(error: impl Into<redb::Error>) -> Fault {
    let error = error.into();
    let (may_pass, is_damage) = match &error {
        redb::Error::Io(error) if error.kind() == io::ErrorKind::InvalidData => (false, true),
        redb::Error::Io(error) => (shortage::is_disk_trouble(error), false),
        redb::Error::PreviousIo | redb::Error::DatabaseClosed => (true, false),
        redb::Error::Corrupted(_) => (false, true),
        _ => (false, false),
    };
    Fault {
        detail: error.to_string(),
        may_pass,
        is_damage,
    }
}

/// Numbers that follow from what is on disk.
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
    /// None after an error, until it is opened again.
    database: Option<Database>,
    /// None until the file could be read for the first time.
    id: Option<[u8; 16]>,
    /// What a process before this one left without an outcome has one.
    is_settled: bool,
    counts: Counts,
    /// Attempts of this process whose intent is on disk and whose outcome is not. As many as deliveries run.
    running: HashSet<Key>,
    /// The number of the record up to which acknowledged entries were looked for.
    looked_up_to: u64,
    trouble: Option<Trouble>,
}

/// The time since something last failed, until something is on disk again.
struct Trouble {
    fault: Fault,
    reopen_at: Instant,
    /// The pause before the next try.
    pause: Duration,
    say_at: Instant,
}

impl Store {
    /// Opens or makes it. What was begun and has no outcome gets one that no side can be sure of. Where the
    /// disk fails for a while, the journal is opened later: until then nothing is begun.
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
            looked_up_to: 0,
            trouble: None,
        };
        match store.reopen() {
            Ok(()) => {}
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

    /// None until the file could be read for the first time.
    pub(super) fn mark(&self) -> Option<JournalMark> {
        self.id.map(|id| JournalMark {
            id,
            sequence: self.counts.sequence,
        })
    }

    fn reopen(&mut self) -> Result<(), Fault> {
        let database = match self.id {
            None => self.create()?,
            // The relay knows this journal: no other may take its place while the process lives.
            Some(_) => {
                let file = self.dir.open_existing(&self.name);
                database(file.map_err(redb::Error::Io).map_err(disk)?)?
            }
        };
        let (id, sequence) = read_about(&database)?;
        if self.id.is_some() && self.id != id {
            return Err(Fault::lasting("another file is in its place"));
        }
        if id.is_some() {
            self.id = id;
            self.counts.sequence = sequence;
        }
        self.settle(&database)?;
        self.database = Some(database);
        Ok(())
    }

    /// Opens the file or makes it; one that is no journal is set aside.
    fn create(&self) -> Result<Database, Fault> {
        let open = || {
            let file = self.dir.open_or_create(&self.name);
            let file = file.map_err(|error| match shortage::io_error(&error) {
                Some(source) => Fault {
                    may_pass: shortage::is_disk_trouble(source),
                    ..Fault::lasting(crate::connection::chain(&error))
                },
                None => Fault::lasting(error.to_string()),
            })?;
            database(file)
        };
        match open() {
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
            "the journal of deliveries cannot be read; a new one is begun, and the relay will say of what \
             was on its way that its outcome is unknown"
        );
        Ok(())
    }

    /// Counts what is there, and ends what has no end: after a crash no side can be sure of it; after an
    /// error of this process nothing has left, and the entry goes.
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
                        fresh.map_err(|_| Fault::lasting("the system gave no random bytes"))?;
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
                    State::Begun if self.running.contains(key.value()) => {}
                    State::Begun => begun.push((*key.value(), entry)),
                    State::Acknowledged => counts.acknowledged += 1,
                    State::Ended => {}
                }
            }
            for (key, entry) in begun {
                counts.sequence += 1;
                has_changed = true;
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
            // A start on a full disk needs no room then.
            write.abort().map_err(disk)?;
        }
        self.id = Some(id);
        self.counts = counts;
        self.is_settled = true;
        Ok(())
    }

    /// The database is not used again as it is.
    fn failed(&mut self, fault: Fault) {
        // Closed before it is opened again: it has a lock.
        self.database = None;
        let now = Instant::now();
        let (pause, say_at) = match &self.trouble {
            None => (REOPEN_AFTER, now),
            Some(trouble) => ((2 * trouble.pause).min(REOPEN_AFTER_MAX), trouble.say_at),
        };
        let mut trouble = Trouble {
            fault,
            reopen_at: now + pause,
            pause,
            say_at,
        };
        if now >= trouble.say_at {
            trouble.say_at = now + SAY_AGAIN;
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

    /// Does what is asked for in one commit. Where that fails, nothing of it counts as done.
    pub(super) fn commit<'a>(
        &mut self,
        asks: impl ExactSizeIterator<Item = &'a Ask> + Clone,
    ) -> Vec<Result<Answer, JournalError>> {
        let count = asks.len();
        let refused = |fault: &Fault| {
            let error = JournalError::Disk(fault.detail.clone());
            (0..count).map(|_| Err(error.clone())).collect()
        };
        if self.database.is_none()
            && let Some(trouble) = &self.trouble
            && Instant::now() < trouble.reopen_at
        {
            return refused(&trouble.fault);
        }
        let only_reads = asks
            .clone()
            .all(|ask| matches!(ask, Ask::Lookup(_) | Ask::Open(..)));
        // A library that fails a disk by a panic must not end this thread: nothing would be delivered
        // until the next start.
        let done = catch_unwind(AssertUnwindSafe(|| {
            self.ready()?;
            match only_reads {
                true => self.read(asks),
                false => self.write(asks),
            }
        }));
        let done = done.unwrap_or_else(|_| Err(Fault::lasting("the database failed by a panic")));
        match done {
            Ok(answers) => {
                // That something can be read says nothing of the room for more.
                if !only_reads && self.trouble.take().is_some() {
                    tracing::info!("the journal of deliveries works again");
                }
                answers
            }
            Err(fault) => {
                let answers = refused(&fault);
                self.failed(fault);
                answers
            }
        }
    }

    fn read<'a>(
        &self,
        asks: impl Iterator<Item = &'a Ask>,
    ) -> Result<Vec<Result<Answer, JournalError>>, Fault> {
        let read = self.open_database()?.begin_read().map_err(disk)?;
        let entries = match read.open_table(ENTRIES) {
            Ok(entries) => entries,
            Err(TableError::TableDoesNotExist(_)) => {
                return Ok(asks.map(|ask| Ok(nothing(ask))).collect());
            }
            Err(error) => return Err(disk(error)),
        };
        asks.map(|ask| look(&entries, ask).map(Ok)).collect()
    }

    fn open_database(&self) -> Result<&Database, Fault> {
        let database = self.database.as_ref();
        database.ok_or_else(|| Fault::lasting("it is closed"))
    }

    fn write<'a>(
        &mut self,
        asks: impl Iterator<Item = &'a Ask> + Clone,
    ) -> Result<Vec<Result<Answer, JournalError>>, Fault> {
        let write = begin_write(self.open_database()?)?;
        let mut counts = self.counts;
        let mut looked_up_to = self.looked_up_to;
        let answers = {
            let mut tables = Tables {
                entries: write.open_table(ENTRIES).map_err(disk)?,
                order: write.open_table(ORDER).map_err(disk)?,
                counts: &mut counts,
                bounds: self.bounds,
            };
            tables.drop_acknowledged(&mut looked_up_to)?;
            let mut answers = Vec::new();
            for ask in asks.clone() {
                answers.push(tables.apply(ask)?);
            }
            let sequence = u128::from(tables.counts.sequence);
            drop(tables);
            let mut about = write.open_table(ABOUT).map_err(disk)?;
            about.insert(SEQUENCE, sequence).map_err(disk)?;
            answers
        };
        write.commit().map_err(disk)?;
        self.counts = counts;
        self.looked_up_to = looked_up_to;
        for (ask, answer) in asks.zip(&answers) {
            match (ask, answer) {
                (Ask::Begin(attempt), Ok(Answer::State(JournalEntryState::Unknown))) => {
                    self.running.insert(key(*attempt));
                }
                (Ask::End(attempt, _), Ok(_)) => {
                    self.running.remove(&key(*attempt));
                }
                _ => {}
            }
        }
        Ok(answers)
    }
}

/// A database in a file, which it locks.
fn database(file: std::fs::File) -> Result<Database, Fault> {
    let backend = FileBackend::new(file).map_err(disk)?;
    redb::Builder::new()
        .set_cache_size(CACHE_BYTES)
        .create_with_backend(backend)
        .map_err(disk)
}

/// Its id, if it has one yet, and its sequence.
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
    write.set_durability(Durability::Immediate).map_err(disk)?;
    Ok(write)
}

struct Tables<'a> {
    entries: Table<'a, &'static Key, &'static Value>,
    order: Table<'a, u64, &'static Key>,
    counts: &'a mut Counts,
    bounds: Bounds,
}

impl Tables<'_> {
    fn get(&self, key: &Key) -> Result<Option<Entry>, Fault> {
        get(&self.entries, key)
    }

    fn put(&mut self, key: &Key, entry: &Entry) -> Result<(), Fault> {
        self.entries.insert(key, &entry.write()).map_err(disk)?;
        Ok(())
    }

    fn apply(&mut self, ask: &Ask) -> Result<Result<Answer, JournalError>, Fault> {
        match ask {
            Ask::Lookup(_) | Ask::Open(..) => look(&self.entries, ask).map(Ok),
            Ask::Begin(attempt) => self.begin(&key(*attempt)),
            Ask::End(attempt, outcome) => {
                let key = key(*attempt);
                if let Some(entry) = self.get(&key)?
                    && entry.state == State::Begun
                {
                    self.counts.sequence += 1;
                    let ended = Entry {
                        state: State::Ended,
                        outcome: *outcome,
                        ..entry
                    };
                    self.put(&key, &ended)?;
                }
                Ok(Ok(Answer::Done))
            }
            Ask::Acknowledge(attempt) => {
                let key = key(*attempt);
                if let Some(entry) = self.get(&key)?
                    && entry.state == State::Ended
                {
                    self.counts.acknowledged += 1;
                    let acknowledged = Entry {
                        state: State::Acknowledged,
                        ..entry
                    };
                    self.put(&key, &acknowledged)?;
                }
                Ok(Ok(Answer::Done))
            }
        }
    }

    fn begin(&mut self, key: &Key) -> Result<Result<Answer, JournalError>, Fault> {
        if let Some(entry) = self.get(key)? {
            return Ok(Ok(Answer::State(entry.state())));
        }
        if self.counts.entries >= self.bounds.entries() {
            let open = self.counts.entries - self.counts.acknowledged;
            return Ok(Err(JournalError::Full(open)));
        }
        self.counts.sequence += 1;
        self.counts.entries += 1;
        let entry = Entry {
            state: State::Begun,
            number: self.counts.sequence,
            at: now(),
            outcome: BEGUN,
        };
        self.put(key, &entry)?;
        self.order.insert(entry.number, key).map_err(disk)?;
        Ok(Ok(Answer::State(JournalEntryState::Unknown)))
    }

    /// Drops acknowledged entries, the oldest first, while they take more than half of the room, or the room
    /// that the next intents need. What is not acknowledged stays, however old it seems: a clock may be
    /// wrong, and an entry that is gone is a delivery that is made twice.
    fn drop_acknowledged(&mut self, looked_up_to: &mut u64) -> Result<(), Fault> {
        let (most, acknowledged) = (self.bounds.entries(), self.counts.acknowledged);
        let spare = (most / 8).min(DROPPED_AT_ONCE as u64);
        let above = self.counts.entries.saturating_sub(most - spare);
        let mut surplus = acknowledged
            .saturating_sub(most / 2)
            .max(above.min(acknowledged));
        if surplus == 0 {
            return Ok(());
        }
        let mut gone = Vec::new();
        let mut looked = 0;
        let from = (Excluded(*looked_up_to), Unbounded);
        for item in self.order.range::<u64>(from).map_err(disk)? {
            let (number, key) = item.map_err(disk)?;
            looked += 1;
            *looked_up_to = number.value();
            match self.get(key.value())? {
                Some(entry) if entry.state != State::Acknowledged => {}
                found => {
                    surplus = surplus.saturating_sub(u64::from(found.is_some()));
                    gone.push((number.value(), *key.value(), found.is_some()));
                }
            }
            if looked >= LOOKED_AT || gone.len() >= DROPPED_AT_ONCE || surplus == 0 {
                break;
            }
        }
        if looked < LOOKED_AT && surplus > 0 && gone.len() < DROPPED_AT_ONCE {
            // The end: older ones were acknowledged since.
            *looked_up_to = 0;
        }
        for (number, key, is_entry) in gone {
            self.order.remove(number).map_err(disk)?;
            if is_entry {
                self.entries.remove(&key).map_err(disk)?;
                self.counts.entries -= 1;
                self.counts.acknowledged -= 1;
            }
        }
        Ok(())
    }
}

/// What an empty journal answers.
fn nothing(ask: &Ask) -> Answer {
    match ask {
        Ask::Lookup(_) => Answer::State(JournalEntryState::Unknown),
        Ask::Open(..) => Answer::Open(Vec::new()),
        Ask::Begin(_) | Ask::End(..) | Ask::Acknowledge(_) => Answer::Done,
    }
}

fn get(
    entries: &impl ReadableTable<&'static Key, &'static Value>,
    key: &Key,
) -> Result<Option<Entry>, Fault> {
    let found = entries.get(key).map_err(disk)?;
    Ok(found.map(|value| Entry::read(value.value())))
}

fn look(
    entries: &impl ReadableTable<&'static Key, &'static Value>,
    ask: &Ask,
) -> Result<Answer, Fault> {
    match ask {
        Ask::Lookup(attempt) => {
            let entry = get(entries, &key(*attempt))?;
            Ok(Answer::State(entry.map_or(JournalEntryState::Unknown, |e| e.state())))
        }
        Ask::Open(behind, limit) => {
            let from = behind.map_or([0; 20], key);
            let mut results: Vec<DeliveryResult> = Vec::new();
            for item in entries.range::<&Key>(&from..).map_err(disk)? {
                let (key, value) = item.map_err(disk)?;
                let entry = Entry::read(value.value());
                let is_first = behind.is_some() && *key.value() == from;
                if entry.state != State::Ended || is_first {
                    continue;
                }
                results.push(entry.outcome.told(attempt(key.value())));
                if results.len() >= *limit {
                    break;
                }
            }
            Ok(Answer::Open(results))
        }
        Ask::Begin(_) | Ask::End(..) | Ask::Acknowledge(_) => Ok(Answer::Done),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Makes all entries of a journal that no process has open look as old as this.
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
