//! What a process wrote, line by line.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

/// Lines that are kept of one process.
const LINES_MAX: usize = 20_000;
/// Lines that a failure prints.
const LINES_PRINTED_MAX: usize = 300;

/// Which of its two outputs a process wrote to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// One line that a process wrote, without its end.
#[derive(Debug, Clone)]
pub struct Line {
    /// Where to.
    pub source: Source,
    /// The text.
    pub text: String,
}

/// The latest lines of one process.
#[derive(Debug, Default)]
pub(super) struct Log {
    kept: Arc<Mutex<Kept>>,
}

#[derive(Debug, Default)]
struct Kept {
    lines: VecDeque<Line>,
    /// Lines that had to go; so the first in `lines` is number `dropped`.
    dropped: u64,
}

impl Log {
    /// Reads `output` to its end, on a thread: a full pipe would stop the process, whatever the
    /// test's own runtime is doing.
    pub(super) fn follow(
        &self,
        source: Source,
        output: impl Read + Send + 'static,
    ) -> JoinHandle<()> {
        let kept = Arc::clone(&self.kept);
        thread::spawn(move || {
            let mut output = BufReader::new(output);
            let mut line = Vec::new();
            while output
                .read_until(b'\n', &mut line)
                .is_ok_and(|read| read > 0)
            {
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                lock(&kept).push(Line { source, text });
                line.clear();
            }
        })
    }

    /// The first line from number `mark` on that contains `part`, and the number of the next line
    /// to come.
    pub(super) fn find(&self, mark: u64, part: &str) -> (Option<String>, u64) {
        let kept = lock(&self.kept);
        let skip = usize::try_from(mark.saturating_sub(kept.dropped)).unwrap_or(usize::MAX);
        let found = kept
            .lines
            .iter()
            .skip(skip)
            .find(|line| line.text.contains(part));
        (found.map(|line| line.text.clone()), kept.written())
    }

    pub(super) fn written(&self) -> u64 {
        lock(&self.kept).written()
    }

    pub(super) fn lines(&self) -> Vec<Line> {
        lock(&self.kept).lines.iter().cloned().collect()
    }

    pub(super) fn text(&self, source: Source) -> String {
        let kept = lock(&self.kept);
        let lines = kept.lines.iter().filter(|line| line.source == source);
        lines.map(|line| format!("{}\n", line.text)).collect()
    }

    /// Prints the latest lines, for a test that fails.
    #[expect(
        clippy::print_stderr,
        reason = "the test harness shows it with the failure"
    )]
    pub(super) fn print(&self, name: &str, pid: u32, status: Option<ExitStatus>) {
        let kept = lock(&self.kept);
        let state = status.map_or("running".to_owned(), |status| status.to_string());
        let hidden = kept.lines.len().saturating_sub(LINES_PRINTED_MAX);
        eprintln!("---- {name} (process {pid}, {state}) wrote, {hidden} lines before left out:");
        for line in kept.lines.iter().skip(hidden) {
            eprintln!("{}", line.text);
        }
        eprintln!("---- end of {name}");
    }
}

impl Kept {
    fn push(&mut self, line: Line) {
        if self.lines.len() == LINES_MAX {
            self.lines.pop_front();
            self.dropped += 1;
        }
        self.lines.push_back(line);
    }

    fn written(&self) -> u64 {
        self.dropped + self.lines.len() as u64
    }
}

fn lock(kept: &Mutex<Kept>) -> MutexGuard<'_, Kept> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}
