//! Log lines on their way to standard error or a file.
//!
//! ```text
//! any thread --> bounded queue --> one thread --> sink (standard error, a file)
//! ```
//!
//! A line neither delays nor fails the thread that writes it. A full or closed pipe, a full disk and a removed file
//! lose lines, and nothing else. Lines that do not fit into the queue, or that the sink rejects, are counted; the
//! count is logged as soon as the sink accepts a line again.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// Bytes of queued lines.
const QUEUE_BYTES_MAX: usize = 1024 * 1024;

/// Queued lines.
const QUEUE_LINES_MAX: usize = 8192;

/// How long an ending program waits for its last lines.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// The lines of this program.
static PROGRAM: OnceLock<Lines> = OnceLock::new();

/// Starts the program's lines, and logs panics from now on. A second call starts nothing, and returns the lines of the
/// first.
pub fn start(sink: impl Sink + 'static) -> Lines {
    // A program that embeds another one may start twice: the first sink stays.
    let lines = PROGRAM.get_or_init(|| Lines::start(sink)).clone();
    log_panics();
    lines
}

/// Waits for the program's last lines, at most one second.
pub fn flush() {
    if let Some(lines) = PROGRAM.get() {
        lines.flush(FLUSH_TIMEOUT);
    }
}

/// The destination of lines. May block.
pub trait Sink: Send {
    /// Writes a whole line with its line break.
    ///
    /// # Errors
    /// The system's error; the line is lost.
    fn write_line(&mut self, line: &[u8]) -> io::Result<()>;
}

/// Standard error.
#[derive(Debug)]
pub struct StandardError;

impl Sink for StandardError {
    fn write_line(&mut self, line: &[u8]) -> io::Result<()> {
        io::stderr().lock().write_all(line)
    }
}

#[derive(Debug, Default)]
struct Queue {
    lines: VecDeque<Box<[u8]>>,
    bytes: usize,
    /// Lines that were lost since the last one that the sink accepted.
    lost: u64,
    is_writing: bool,
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    /// Signals that a line is queued.
    changed: Condvar,
    /// Signals that the queue is empty.
    idle: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Accepts lines. Cheap to clone. [`Write::write`] accepts a whole line and always succeeds.
#[derive(Debug, Clone)]
pub struct Lines {
    shared: Arc<Shared>,
}

impl Lines {
    /// Starts the thread that passes lines to the sink. Where the system has no thread left, all lines beyond the
    /// queue's bounds are lost.
    pub fn start(sink: impl Sink + 'static) -> Self {
        let shared = Arc::<Shared>::default();
        let lines = Self {
            shared: shared.clone(),
        };
        let thread = std::thread::Builder::new().name("log".to_owned());
        let _ = thread.spawn(move || pass_on(&shared, sink));
        lines
    }

    /// Waits until the queued lines are written or lost, at most for `timeout`: a sink may be stuck.
    pub fn flush(&self, timeout: Duration) {
        let until = Instant::now() + timeout;
        let mut queue = self.shared.lock();
        while !queue.lines.is_empty() || queue.is_writing {
            // A condition variable wakes up spuriously, so the deadline is absolute.
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let waited = self.shared.idle.wait_timeout(queue, left);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn push(&self, line: &[u8]) {
        let mut queue = self.shared.lock();
        if queue.lines.len() >= QUEUE_LINES_MAX || queue.bytes + line.len() > QUEUE_BYTES_MAX {
            // The newest line is dropped: those before it explain what began to go wrong.
            queue.lost += 1;
            return;
        }
        queue.bytes += line.len();
        queue.lines.push_back(line.into());
        drop(queue);
        self.shared.changed.notify_one();
    }
}

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Passes lines to the sink as long as the process lives.
fn pass_on(shared: &Shared, mut sink: impl Sink) {
    loop {
        let line = {
            let mut queue = shared.lock();
            loop {
                if let Some(line) = queue.lines.pop_front() {
                    queue.bytes -= line.len();
                    queue.is_writing = true;
                    break line;
                }
                let woken = shared.changed.wait(queue);
                queue = woken.unwrap_or_else(PoisonError::into_inner);
            }
        };
        // Without the lock: the sink may block for ever, and writers must not.
        let is_accepted = sink.write_line(&line).is_ok();
        let lost = {
            let mut queue = shared.lock();
            queue.is_writing = false;
            if !is_accepted {
                queue.lost += 1;
            }
            if queue.lines.is_empty() {
                shared.idle.notify_all();
            }
            match is_accepted {
                true => std::mem::take(&mut queue.lost),
                false => 0,
            }
        };
        if lost > 0 {
            // Through the queue, so that it has the form of all lines.
            tracing::warn!(
                lost,
                "log lines were lost because they could not be written in time"
            );
        }
    }
}

/// Logs panics as errors. The standard hook would write to standard error itself, and wait for it.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string);
        let text = panic.payload_as_str().unwrap_or("a value that is not text");
        let thread = std::thread::current();
        let thread = thread.name().unwrap_or("unnamed");
        tracing::error!(place, thread, "panic: {text}");
    }));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    /// Accepts or rejects each line as the test decides.
    struct Scripted {
        taken: mpsc::Sender<Vec<u8>>,
        may: mpsc::Receiver<bool>,
    }

    impl Sink for Scripted {
        fn write_line(&mut self, line: &[u8]) -> io::Result<()> {
            match self.may.recv() {
                Ok(true) => {
                    let _ = self.taken.send(line.to_vec());
                    Ok(())
                }
                Ok(false) | Err(_) => Err(io::ErrorKind::StorageFull.into()),
            }
        }
    }

    const LONG: Duration = Duration::from_secs(20);

    fn scripted() -> (Lines, mpsc::Sender<bool>, mpsc::Receiver<Vec<u8>>) {
        let (taken, lines) = mpsc::channel();
        let (permit, may) = mpsc::channel();
        (Lines::start(Scripted { taken, may }), permit, lines)
    }

    #[test]
    fn stuck_sink_delays_no_writer() {
        let (mut lines, permit, taken) = scripted();
        let line = [b'x'; 1024];
        let began = Instant::now();
        for _ in 0..10_000 {
            lines.write_all(&line).unwrap();
        }
        lines.flush(Duration::from_millis(1));
        assert!(began.elapsed() < LONG);
        {
            let queue = lines.shared.lock();
            assert!(queue.bytes <= QUEUE_BYTES_MAX && queue.lost > 8000);
        }
        permit.send(true).unwrap();
        assert_eq!(taken.recv_timeout(LONG).unwrap(), line);
    }

    #[test]
    fn failing_sink_is_used_again() {
        let (mut lines, permit, taken) = scripted();
        for (line, is_taken) in [("a", true), ("b", false), ("c", false), ("d", true)] {
            permit.send(is_taken).unwrap();
            lines.write_all(line.as_bytes()).unwrap();
            lines.flush(LONG);
        }
        assert_eq!(taken.recv_timeout(LONG).unwrap(), b"a");
        assert_eq!(taken.recv_timeout(LONG).unwrap(), b"d");
        assert_eq!(lines.shared.lock().lost, 0);
    }
}
