//! Log lines on their way to standard error or a file.
//!
//! ```text
//! any thread --> bounded queue --> one thread --> sink (standard error, a file)
//! ```
//!
//! A line never holds up the thread that wrote it, and never fails it: a pipe that is full or has no
//! reader, a disk that is full and a file that is gone cost lines, and nothing else. Lines that find no room
//! in the queue, or that the sink does not take, are counted; the count is a line as soon as one is taken
//! again.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// Bytes of lines that wait for the sink.
const QUEUE_BYTES_MAX: usize = 1024 * 1024;

/// Lines that wait for the sink.
const QUEUE_LINES_MAX: usize = 8192;

/// How long the end of a program waits for its last lines to be taken.
const FLUSH_WITHIN: Duration = Duration::from_secs(1);

/// The program's own lines.
static PROGRAM: OnceLock<Lines> = OnceLock::new();

/// Starts the program's lines, and has panics logged. A second call starts nothing: the lines of the first
/// are returned.
pub fn start(sink: impl Sink + 'static) -> Lines {
    let lines = PROGRAM.get_or_init(|| Lines::start(sink)).clone();
    log_panics();
    lines
}

/// Waits for the program's last lines, for a second at most.
pub fn flush() {
    if let Some(lines) = PROGRAM.get() {
        lines.flush(FLUSH_WITHIN);
    }
}

/// Where lines go. May block.
pub trait Sink: Send {
    /// Writes a line with its line break, whole.
    ///
    /// # Errors
    /// What the system says; the line is lost.
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
    /// Lines that were lost since the last one that was taken.
    lost: u64,
    is_writing: bool,
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    /// There is a line.
    changed: Condvar,
    /// Everything was taken or is lost.
    idle: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes lines. Cheap to clone. [`Write::write`] takes a whole line and always succeeds.
#[derive(Debug, Clone)]
pub struct Lines {
    shared: Arc<Shared>,
}

impl Lines {
    /// Starts the thread that hands lines to the sink. Where the system has no thread to give, all lines
    /// beyond the queue's bounds are lost.
    pub fn start(sink: impl Sink + 'static) -> Self {
        let shared = Arc::<Shared>::default();
        let lines = Self {
            shared: shared.clone(),
        };
        let thread = std::thread::Builder::new().name("log".to_owned());
        let _ = thread.spawn(move || hand_over(&shared, sink));
        lines
    }

    /// Waits until the lines so far were taken or are lost, for so long at most: a sink may be stuck.
    pub fn flush(&self, within: Duration) {
        let until = Instant::now() + within;
        let mut queue = self.shared.lock();
        while !queue.lines.is_empty() || queue.is_writing {
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

/// The thread that hands lines to the sink, for as long as the process lives.
fn hand_over(shared: &Shared, mut sink: impl Sink) {
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
        let is_taken = sink.write_line(&line).is_ok();
        let lost = {
            let mut queue = shared.lock();
            queue.is_writing = false;
            if !is_taken {
                queue.lost += 1;
            }
            if queue.lines.is_empty() {
                shared.idle.notify_all();
            }
            match is_taken {
                true => std::mem::take(&mut queue.lost),
                false => 0,
            }
        };
        if lost > 0 {
            // By way of the queue, so that it has the form of all lines.
            tracing::warn!(
                lost,
                "log lines were lost: they could not be written in time"
            );
        }
    }
}

/// Has panics logged as errors: the standard hook writes to standard error itself, and waits for it.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string);
        let text = panic.payload_as_str().unwrap_or("a value that is no text");
        let thread = std::thread::current();
        let thread = thread.name().unwrap_or("unnamed");
        tracing::error!(place, thread, "panic: {text}");
    }));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    /// Hands lines on, when it may, and fails while it is told to.
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
    fn stuck_sink_costs_lines_and_no_time() {
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
    fn failing_sink_fails_nobody_and_is_used_again() {
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
