//! The journal on disk: one file, a commit is one `fsync`.
//!
//! ```text
//! entries  call id, attempt        -> state, number, seconds since 1970, status, code, execution
//! order    number of the record    -> call id, attempt       oldest first, to let go of
//! about    "id", "sequence"
//! ```

use super::{Answer, Ask, JournalError, Known, Outcome};
use protocol::frame::{CallAttempt, DeliveryResult, JournalMark};
use protocol::{Code, Execution};
use redb::{
    Database, DatabaseError, Durability, ReadableDatabase as _, ReadableTable, Table,
    TableDefinition, WriteTransaction,
};
use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

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

/// How long an entry answers repeats, and waits for the relay's word.
const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

/// Entries that are let go of in one commit.
const DROPPED_AT_ONCE: usize = 64;

/// Entries that are looked at for that.
const LOOKED_AT: usize = 256;

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
    /// The system gave no random bytes.
    #[error("the system gave no random bytes")]
    Random,
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
    /// When that was, in seconds since 1970.
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

    fn known(&self) -> Known {
        match self.state {
            State::Begun => Known::Begun,
            State::Ended | State::Acknowledged => Known::Ended(self.outcome),
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

fn disk(error: impl std::fmt::Display) -> JournalError {
    JournalError::Disk(error.to_string())
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
    database: Database,
    id: [u8; 16],
    counts: Counts,
    bounds: Bounds,
}

impl Store {
    /// Opens or makes it. What was begun and has no outcome gets one that nobody can be sure of.
    pub(super) fn open(path: &Path, bounds: Bounds) -> Result<Self, OpenError> {
        let failed = |detail: String| OpenError::File {
            path: path.to_owned(),
            detail,
        };
        let database = match create(path) {
            Ok(database) => database,
            Err(DatabaseError::Storage(redb::StorageError::Corrupted(what))) => {
                set_aside(path, &what).map_err(|error| failed(error.to_string()))?;
                create(path).map_err(|error| failed(error.to_string()))?
            }
            Err(DatabaseError::Storage(redb::StorageError::Io(error)))
                if error.kind() == io::ErrorKind::InvalidData =>
            {
                set_aside(path, &error.to_string()).map_err(|error| failed(error.to_string()))?;
                create(path).map_err(|error| failed(error.to_string()))?
            }
            Err(error) => return Err(failed(error.to_string())),
        };
        let fresh: [u8; 16] = transport::tunnel::random().map_err(|_| OpenError::Random)?;
        let mut store = Self {
            database,
            id: fresh,
            counts: Counts::default(),
            bounds,
        };
        store.settle().map_err(|error| failed(error.to_string()))?;
        Ok(store)
    }

    pub(super) fn mark(&self) -> JournalMark {
        JournalMark {
            id: self.id,
            sequence: self.counts.sequence,
        }
    }

    /// Reads what it is, and ends what a crash left without an end.
    fn settle(&mut self) -> Result<(), JournalError> {
        let write = self.begin_write()?;
        let mut counts = Counts::default();
        {
            let mut about = write.open_table(ABOUT).map_err(disk)?;
            let known = about.get(ID).map_err(disk)?.map(|id| id.value());
            match known {
                Some(id) => self.id = id.to_be_bytes(),
                None => drop(
                    about
                        .insert(ID, u128::from_be_bytes(self.id))
                        .map_err(disk)?,
                ),
            }
            let sequence = about.get(SEQUENCE).map_err(disk)?.map(|at| at.value());
            counts.sequence = sequence.and_then(|at| at.try_into().ok()).unwrap_or(0);
            let mut entries = write.open_table(ENTRIES).map_err(disk)?;
            write.open_table(ORDER).map_err(disk)?;
            let mut begun = Vec::new();
            for item in entries.iter().map_err(disk)? {
                let (key, value) = item.map_err(disk)?;
                let entry = Entry::read(value.value());
                counts.entries += 1;
                match entry.state {
                    State::Begun => begun.push((*key.value(), entry)),
                    State::Acknowledged => counts.acknowledged += 1,
                    State::Ended => {}
                }
            }
            for (key, entry) in begun {
                counts.sequence += 1;
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
        }
        write.commit().map_err(disk)?;
        self.counts = counts;
        Ok(())
    }

    fn begin_write(&self) -> Result<WriteTransaction, JournalError> {
        let mut write = self.database.begin_write().map_err(disk)?;
        write.set_durability(Durability::Immediate).map_err(disk)?;
        Ok(write)
    }

    /// Does what is asked for in one commit. Where that fails, nothing of it was done.
    pub(super) fn commit<'a>(
        &mut self,
        asks: impl ExactSizeIterator<Item = &'a Ask> + Clone,
    ) -> Vec<Result<Answer, JournalError>> {
        let count = asks.len();
        let only_reads = asks
            .clone()
            .all(|ask| matches!(ask, Ask::Look(_) | Ask::Open(..)));
        let done = if only_reads {
            self.read(asks)
        } else {
            self.write(asks)
        };
        done.unwrap_or_else(|error| {
            tracing::error!(%error, "deliveries wait");
            (0..count).map(|_| Err(error.clone())).collect()
        })
    }

    fn read<'a>(
        &self,
        asks: impl Iterator<Item = &'a Ask>,
    ) -> Result<Vec<Result<Answer, JournalError>>, JournalError> {
        let read = self.database.begin_read().map_err(disk)?;
        let entries = read.open_table(ENTRIES).map_err(disk)?;
        asks.map(|ask| look(&entries, ask).map(Ok)).collect()
    }

    fn write<'a>(
        &mut self,
        asks: impl Iterator<Item = &'a Ask>,
    ) -> Result<Vec<Result<Answer, JournalError>>, JournalError> {
        let write = self.begin_write()?;
        let mut counts = self.counts;
        let answers = {
            let mut tables = Tables {
                entries: write.open_table(ENTRIES).map_err(disk)?,
                order: write.open_table(ORDER).map_err(disk)?,
                counts: &mut counts,
                bounds: self.bounds,
            };
            tables.let_go()?;
            let mut answers = Vec::new();
            for ask in asks {
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
        Ok(answers)
    }
}

struct Tables<'a> {
    entries: Table<'a, &'static Key, &'static Value>,
    order: Table<'a, u64, &'static Key>,
    counts: &'a mut Counts,
    bounds: Bounds,
}

impl Tables<'_> {
    fn get(&self, key: &Key) -> Result<Option<Entry>, JournalError> {
        get(&self.entries, key)
    }

    fn put(&mut self, key: &Key, entry: &Entry) -> Result<(), JournalError> {
        self.entries.insert(key, &entry.write()).map_err(disk)?;
        Ok(())
    }

    fn apply(&mut self, ask: &Ask) -> Result<Result<Answer, JournalError>, JournalError> {
        match ask {
            Ask::Look(_) | Ask::Open(..) => look(&self.entries, ask).map(Ok),
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

    fn begin(&mut self, key: &Key) -> Result<Result<Answer, JournalError>, JournalError> {
        if let Some(entry) = self.get(key)? {
            return Ok(Ok(Answer::Known(entry.known())));
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
        Ok(Ok(Answer::Known(Known::Nothing)))
    }

    /// Lets go of the oldest: those that are too old, and while acknowledged ones take more than
    /// half of the room, those.
    fn let_go(&mut self) -> Result<(), JournalError> {
        let too_old = now().saturating_sub(KEPT.as_secs());
        let half = self.bounds.entries() / 2;
        let mut surplus = self.counts.acknowledged.saturating_sub(half);
        let mut gone = Vec::new();
        for item in self.order.iter().map_err(disk)?.take(LOOKED_AT) {
            let (number, key) = item.map_err(disk)?;
            let Some(entry) = self.get(key.value())? else {
                gone.push((number.value(), *key.value(), None));
                continue;
            };
            let is_acknowledged = entry.state == State::Acknowledged;
            let is_old = entry.at < too_old && entry.state != State::Begun;
            if is_old || (is_acknowledged && surplus > 0) {
                surplus = surplus.saturating_sub(u64::from(is_acknowledged));
                gone.push((number.value(), *key.value(), Some(is_acknowledged)));
            } else if surplus == 0 && entry.at >= too_old {
                break;
            }
            if gone.len() == DROPPED_AT_ONCE {
                break;
            }
        }
        for (number, key, was_acknowledged) in gone {
            self.order.remove(number).map_err(disk)?;
            if let Some(was_acknowledged) = was_acknowledged {
                self.entries.remove(&key).map_err(disk)?;
                self.counts.entries -= 1;
                self.counts.acknowledged -= u64::from(was_acknowledged);
            }
        }
        Ok(())
    }
}

fn get(
    entries: &impl ReadableTable<&'static Key, &'static Value>,
    key: &Key,
) -> Result<Option<Entry>, JournalError> {
    let found = entries.get(key).map_err(disk)?;
    Ok(found.map(|value| Entry::read(value.value())))
}

fn look(
    entries: &impl ReadableTable<&'static Key, &'static Value>,
    ask: &Ask,
) -> Result<Answer, JournalError> {
    match ask {
        Ask::Look(attempt) => {
            let entry = get(entries, &key(*attempt))?;
            Ok(Answer::Known(entry.map_or(Known::Nothing, |e| e.known())))
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

/// Opens the file, or makes it for its owner alone.
fn create(path: &Path) -> Result<Database, DatabaseError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let opened = options.open(path);
    drop(opened.map_err(|error| DatabaseError::Storage(redb::StorageError::Io(error)))?);
    redb::Builder::new()
        .set_cache_size(CACHE_BYTES)
        .create(path)
}

/// Keeps a journal that cannot be read for whoever wants to look at it.
fn set_aside(path: &Path, why: &str) -> io::Result<()> {
    let aside = path.with_extension(format!("unreadable-{}", now()));
    std::fs::rename(path, &aside)?;
    tracing::error!(
        journal = %path.display(),
        kept_as = %aside.display(),
        why,
        "the journal of deliveries cannot be read; a new one is begun, and the relay will say of what \
         was on its way that its outcome is unknown"
    );
    Ok(())
}
