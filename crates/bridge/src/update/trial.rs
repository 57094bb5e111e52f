//! Runs a new program before it takes the place of the old one. Its signature was verified, so it is trusted to run; it may
//! still fail on this machine.

use runtime::peer_text::escape;
use runtime::shortage::in_words;
use std::ffi::OsStr;
use std::io::{self, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

/// Bytes of each output that are kept.
const OUTPUT_MAX_BYTES: u64 = 16 * 1024;

/// How often the child process is observed.
const OBSERVE_EVERY: Duration = Duration::from_millis(20);

/// How long the output of a child process that has ended may take to arrive.
const OUTPUT_TIMEOUT: Duration = Duration::from_secs(1);

/// Lines of the output that a message shows.
const LINES_SHOWN: usize = 12;

/// What a program did.
#[derive(Debug)]
pub(crate) struct Ran {
    /// Whether its exit code was 0.
    pub(crate) is_success: bool,
    /// Its standard output.
    pub(crate) stdout: String,
    /// Its standard error.
    stderr: String,
}

impl Ran {
    /// Returns the last lines of its output, for people.
    pub(crate) fn last_lines(&self) -> Vec<String> {
        let lines: Vec<&str> = self.stdout.lines().chain(self.stderr.lines()).collect();
        let shown = &lines[lines.len().saturating_sub(LINES_SHOWN)..];
        shown.iter().map(|line| escape(line).into_owned()).collect()
    }
}

/// Why a program did not end by itself.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TrialError {
    /// It could not be started.
    #[error("it does not start: {}", in_words(.0))]
    Start(#[source] io::Error),
    /// It was killed.
    #[error("it did not end within {} s", .0.as_secs())]
    Timeout(Duration),
}

/// Runs a program, and waits until it ends. Above `limit` it is killed, with the processes that it has started.
///
/// # Errors
/// [`TrialError`].
pub(crate) fn run(program: &Path, args: &[&OsStr], limit: Duration) -> Result<Ran, TrialError> {
    let mut command = Command::new(program);
    command
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    #[cfg(unix)]
    {
        use std::os::unix::process::CommandExt as _;
        // A group of its own, so that a kill reaches all of it.
        command.process_group(0);
    }
    let mut child = command.spawn().map_err(TrialError::Start)?;
    let stdout = child.stdout.take().map(collect);
    let stderr = child.stderr.take().map(collect);
    let until = Instant::now() + limit;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if Instant::now() < until => std::thread::sleep(OBSERVE_EVERY),
            Ok(None) => {
                kill(&mut child);
                return Err(TrialError::Timeout(limit));
            }
            Err(error) => {
                kill(&mut child);
                return Err(TrialError::Start(error));
            }
        }
    };
    Ok(Ran {
        is_success: status.success(),
        stdout: collected(stdout),
        stderr: collected(stderr),
    })
}

fn kill(child: &mut Child) {
    #[cfg(unix)]
    {
        let group = rustix::process::Pid::from_child(child);
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
    let _ = child.kill();
    let _ = child.wait();
}

/// Reads an output on a thread: a pipe has no timeout, and a full one would block the child process.
fn collect(mut output: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (done, waiting) = sync_channel(1);
    std::thread::spawn(move || {
        let mut kept = Vec::new();
        let _ = output
            .by_ref()
            .take(OUTPUT_MAX_BYTES)
            .read_to_end(&mut kept);
        let _ = io::copy(&mut output, &mut io::sink());
        let _ = done.send(kept);
    });
    waiting
}

fn collected(output: Option<Receiver<Vec<u8>>>) -> String {
    // A process that the program left may keep the pipe open.
    let bytes = output.and_then(|output| output.recv_timeout(OUTPUT_TIMEOUT).ok());
    String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned()
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    /// Runs a script. Not as a file of its own: a process that another test starts could hold it open for writing.
    fn shell(script: &str, limit: Duration) -> Result<Ran, TrialError> {
        let args = [OsStr::new("-c"), OsStr::new(script)];
        run(Path::new("/bin/sh"), &args, limit)
    }

    #[test]
    fn program_that_hangs_is_killed() {
        let began = Instant::now();
        let ran = shell("sleep 100; true", Duration::from_millis(300));
        assert!(matches!(ran, Err(TrialError::Timeout(_))), "{ran:?}");
        assert!(began.elapsed() < Duration::from_secs(50));
    }

    #[test]
    fn output_is_bounded_and_escaped() {
        let ran = shell(
            "i=0; while [ $i -lt 3000 ]; do echo 'a long line of text that repeats'; i=$((i+1)); done; \
             printf 'bad \\033[2J\\n' >&2; exit 3",
            LIMIT,
        )
        .unwrap();
        assert!(!ran.is_success);
        assert!(ran.stdout.len() as u64 <= OUTPUT_MAX_BYTES);
        let shown = ran.last_lines();
        assert!(shown.len() <= LINES_SHOWN, "{shown:?}");
        let last = shown.last().unwrap();
        assert!(
            last.starts_with("bad ") && !last.contains('\u{1b}'),
            "{last}"
        );
    }

    #[test]
    fn file_that_is_no_program_does_not_start() {
        let missing = run(Path::new("/nonexistent/program"), &[], LIMIT);
        assert!(matches!(missing, Err(TrialError::Start(_))), "{missing:?}");
    }
}
