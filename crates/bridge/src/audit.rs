//! The audit file: requests and their outcomes, in lines whose change or truncation is detectable.
//!
//! ```text
//! exchanges --> bounded queue --> one thread --> audit.jsonl  (rotated: audit.jsonl.1, .2, ...)
//!                                     \--> every minute: audit.head.json, signed; and REPORT to the relay
//! ```
//!
//! Each line is a JSON object with its number (`seq`), its time (`at`, milliseconds since 1970), the SHA-256
//! of the previous line (`prev`, without the line break; zeros for the first), and an `event`.
//!
//! The head is the number and hash of the last line. The bridge signs it with its key and reports it to the
//! relay. A changed line breaks the chain; a truncated file ends before its head. The start, signed as well, is the
//! first line that rotation has left: a file without its first lines begins after its start.
//!
//! Each call has a line; exchanges with endpoints are summed up by the minute. So are calls that fail before anything
//! leaves, beyond a budget of lines for each caller (`refusals`). Queries, header fields and
//! bodies are never written. Texts of callers and targets are escaped and bounded ([`cut`]). `head` has the head's file,
//! `lines` the chain on the disk, `verify` the check.

mod head;
mod lines;
mod refusals;
pub(crate) mod verify;

use crate::identity::Key;
use lines::Lines;
use protocol::frame::{AuditHead, Bounded};
use refusals::Refusals;
use runtime::peer_text::escape;
use serde_json::{Value, json};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

pub(crate) use lines::Keep;
pub(crate) use refusals::Kind;

/// The file in the data directory, unless `audit.file` names another.
pub(crate) const FILE: &str = "audit.jsonl";

/// Lines that wait to be written. Further ones are dropped and counted; the count is written as a line.
const QUEUE_MAX: usize = 2048;

/// How often the head is signed and sums are written.
const HEAD_INTERVAL: Duration = Duration::from_secs(60);

/// Pause before a file that failed is opened again.
const REOPEN_WAIT: Duration = Duration::from_secs(2);

/// Distinct sums in memory. Further exchanges are summed by their outcome alone.
const SUMS_MAX: usize = 4096;

/// Replaces endpoint and method in a sum beyond [`SUMS_MAX`].
const OTHERS: &str = "(others)";

/// Longest text that callers and targets choose, in characters: a line must not be as long as they like.
const TEXT_MAX_CHARS: usize = 256;

/// A message to the writing thread.
enum Message {
    Line(Value),
    Stop,
}

/// The sum of equal exchanges since the last write.
#[derive(Debug, Default)]
struct Sum {
    count: u64,
    took_ms: u64,
}

/// Endpoint, method and outcome.
type SumKey = (String, String, String);

/// The audit file of a running bridge.
pub(crate) struct Audit {
    queue: SyncSender<Message>,
    lost: Arc<AtomicU64>,
    seq: Arc<AtomicU64>,
    head: Arc<Mutex<Option<AuditHead>>>,
    sums: Arc<Mutex<BTreeMap<SumKey, Sum>>>,
    refusals: Arc<Mutex<Refusals>>,
    writer: Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl std::fmt::Debug for Audit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Audit")
            .field("lines", &self.lines())
            .finish_non_exhaustive()
    }
}

impl Audit {
    /// Opens the file, continues after its last line, and starts the writing thread. If the disk fails for a
    /// while, the file is opened later; lines that are lost until then are counted.
    ///
    /// # Errors
    /// The system's error, if waiting does not help.
    pub(crate) fn open(path: &Path, keep: Keep, key: Key) -> io::Result<Arc<Self>> {
        let lines = match Lines::open(path, keep.clone(), &key) {
            Ok(lines) => Some(lines),
            Err(error) if runtime::shortage::is_disk_trouble(&error) => {
                tracing::error!(%error, file = %path.display(), "cannot write the audit file; lines are counted until it can be written");
                None
            }
            Err(error) => return Err(error),
        };
        let (queue, waiting) = sync_channel(QUEUE_MAX);
        let (lost, seq) = (
            Arc::new(AtomicU64::new(0)),
            Arc::new(AtomicU64::new(lines.as_ref().map_or(0, Lines::seq))),
        );
        let (head, sums) = (Arc::default(), Arc::default());
        let refusals = Arc::<Mutex<Refusals>>::default();
        let writer = Writer {
            is_failing: lines.is_none(),
            lines,
            path: path.to_owned(),
            keep,
            reopen_at: Instant::now() + REOPEN_WAIT,
            key,
            waiting,
            lost: lost.clone(),
            seq: seq.clone(),
            head: Arc::clone(&head),
            sums: Arc::clone(&sums),
            refusals: refusals.clone(),
        };
        // A thread, not a task: a synchronous write to a slow disk would block a worker of the runtime.
        let writer = std::thread::Builder::new()
            .name("audit".into())
            .spawn(move || writer.run())?;
        Ok(Arc::new(Self {
            queue,
            lost,
            seq,
            head,
            sums,
            refusals,
            writer: Mutex::new(Some(writer)),
        }))
    }

    /// Returns the number of the last line.
    pub(crate) fn lines(&self) -> u64 {
        self.seq.load(Ordering::Relaxed)
    }

    /// Returns the head that was signed last.
    pub(crate) fn head(&self) -> Option<AuditHead> {
        let head = self.head.lock().unwrap_or_else(PoisonError::into_inner);
        head.clone()
    }

    /// Adds a line. `event` is an object with a field `event`. Never waits.
    pub(crate) fn add(&self, event: Value) {
        // A full queue must not delay an exchange: the audit file is allowed to have counted gaps.
        if self.queue.try_send(Message::Line(event)).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Adds a line for a request of which nothing left the bridge, or counts it if its caller has caused many.
    pub(crate) fn refusal(&self, caller: u32, kind: Kind, event: impl FnOnce() -> Value) {
        let may_write = {
            let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
            refusals.may_write(caller, kind, Instant::now())
        };
        if may_write {
            self.add(event());
        }
    }

    /// Adds an exchange with an endpoint to its sum.
    pub(crate) fn endpoint(&self, name: &str, method: &str, outcome: String, took: Duration) {
        let mut sums = self.sums.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (cut(name).into_owned(), cut(method).into_owned(), outcome);
        // Methods come from callers, so the number of keys needs a bound. The few outcomes are beyond it.
        let key = match sums.len() >= SUMS_MAX && !sums.contains_key(&key) {
            true => (OTHERS.to_owned(), OTHERS.to_owned(), key.2),
            false => key,
        };
        let sum = sums.entry(key).or_default();
        sum.count += 1;
        sum.took_ms += u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    }

    /// Writes the queued lines and the sums, signs the head, and ends the thread. Blocks.
    pub(crate) fn stop(&self) {
        // Waits for space in the queue: this message must not be lost, unlike a line.
        let _ = self.queue.send(Message::Stop);
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(writer) = writer.take() {
            let _ = writer.join();
        }
    }
}

/// Returns the beginning of a text that a caller or a target has chosen, without characters that a terminal obeys.
pub(crate) fn cut(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(TEXT_MAX_CHARS) {
        None => escape(text),
        Some((end, _)) => format!("{}...", escape(&text[..end])).into(),
    }
}

/// The state of the writing thread.
struct Writer {
    /// `None` after an error, until the file is opened again.
    lines: Option<Lines>,
    path: PathBuf,
    keep: Keep,
    reopen_at: Instant,
    is_failing: bool,
    key: Key,
    waiting: Receiver<Message>,
    lost: Arc<AtomicU64>,
    seq: Arc<AtomicU64>,
    head: Arc<Mutex<Option<AuditHead>>>,
    sums: Arc<Mutex<BTreeMap<SumKey, Sum>>>,
    refusals: Arc<Mutex<Refusals>>,
}

impl Writer {
    fn run(mut self) {
        let mut next_head = Instant::now();
        loop {
            let mut stops = false;
            let wait = next_head.saturating_duration_since(Instant::now());
            // All queued lines are written before the head is considered, so that one signature covers them.
            match self.waiting.recv_timeout(wait) {
                Ok(Message::Line(event)) => {
                    let mut events = vec![event];
                    while let Ok(message) = self.waiting.try_recv() {
                        match message {
                            Message::Line(event) => events.push(event),
                            Message::Stop => stops = true,
                        }
                        // Producers may be faster than the disk; the head must be signed nevertheless.
                        if events.len() >= QUEUE_MAX {
                            break;
                        }
                    }
                    events.into_iter().for_each(|event| self.write(event));
                }
                Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => stops = true,
                Err(RecvTimeoutError::Timeout) => {}
            }
            self.write_lost();
            if stops || Instant::now() >= next_head {
                self.write_sums();
                self.sign();
                next_head = Instant::now() + HEAD_INTERVAL;
            }
            if stops {
                return;
            }
        }
    }

    fn write(&mut self, event: Value) {
        if !self.append(event) {
            // The next line that can be written reports how many were lost.
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn write_lost(&mut self) {
        let lost = self.lost.swap(0, Ordering::Relaxed);
        if lost > 0 && !self.append(json!({"event": "lost", "count": lost})) {
            self.lost.fetch_add(lost, Ordering::Relaxed);
        }
    }

    /// Appends a line. Returns whether it is in the file.
    fn append(&mut self, event: Value) -> bool {
        let appended = match &mut self.lines {
            Some(lines) => lines.append(event),
            None if Instant::now() < self.reopen_at => return false,
            None => Lines::open(&self.path, self.keep.clone(), &self.key).and_then(|mut lines| {
                let appended = lines.append(event);
                self.lines = Some(lines);
                appended
            }),
        };
        let was_failing = std::mem::replace(&mut self.is_failing, appended.is_err());
        match &appended {
            Err(error) => {
                // The file may end in half a line. Opening it again truncates that.
                self.lines = None;
                self.reopen_at = Instant::now() + REOPEN_WAIT;
                if !was_failing {
                    tracing::error!(%error, file = %self.path.display(), "cannot write the audit file; lines are counted until it can be written");
                }
            }
            Ok(()) if was_failing => tracing::info!("the audit file is written again"),
            Ok(()) => {}
        }
        if let Some(lines) = &self.lines {
            self.seq.store(lines.seq(), Ordering::Relaxed);
        }
        appended.is_ok()
    }

    fn write_sums(&mut self) {
        // The lock is held for the swap only: exchanges add to the sums meanwhile.
        let sums = {
            let mut sums = self.sums.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *sums)
        };
        for ((endpoint, method, outcome), sum) in sums {
            self.write(json!({
                "event": "endpoint", "endpoint": endpoint, "method": method,
                "outcome": outcome, "count": sum.count, "took_ms": sum.took_ms,
            }));
        }
        let refusals = {
            let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
            refusals.take(Instant::now())
        };
        refusals.into_iter().for_each(|event| self.write(event));
    }

    fn sign(&mut self) {
        let Some(lines) = &mut self.lines else {
            return;
        };
        let (head, signature) = match lines.sign_head() {
            Ok(signed) => signed,
            Err(error) => {
                tracing::error!(%error, "cannot write the head of the audit file");
                return;
            }
        };
        // Only after the file: a head that the relay has and the disk lost would look like a truncation.
        *self.head.lock().unwrap_or_else(PoisonError::into_inner) = Some(AuditHead {
            id: head.id,
            sequence: head.seq,
            hash: head.hash,
            signature: Bounded::truncated(signature),
        });
    }
}
