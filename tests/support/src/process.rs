//! The real programs as processes.
//!
//! ```no_run
//! # async fn example() {
//! use std::time::Duration;
//! use support::process::{Running, command};
//!
//! let mut relay = command("integration-relay");
//! relay.args(["serve", "--config", "relay.toml"]);
//! let relay = Running::spawn("relay", relay);
//! relay.wait_log("listening", Duration::from_secs(10)).await;
//! relay.kill9();
//! # }
//! ```
//!
//! The output of a process is stored, and printed when the test fails. Memory and processor time are read
//! from `/proc`, so those parts need Linux.

mod log;

use crate::wait::{TIMEOUT, eventually};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use std::{env, fs, thread};

pub use log::{Line, Source};

use log::Log;

/// How often a wait looks again.
const POLL: Duration = Duration::from_millis(5);
/// What `/proc` counts processor time in: 100 ticks a second, on every Linux that we run on.
const TICK: Duration = Duration::from_millis(10);
/// Variables of the surroundings that would change what the programs do.
const FOREIGN_VARIABLES: [&str; 8] = [
    "ALL_PROXY",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "NO_PROXY",
    "all_proxy",
    "https_proxy",
    "http_proxy",
    "no_proxy",
];

/// The variable that names a directory of relay and bridge to use, in place of those next to the caller.
const PROGRAMS_VARIABLE: &str = "TEST_PROGRAMS";

/// The path of a program of this workspace, built with the same profile as the caller. Relay and bridge
/// are those in the directory `TEST_PROGRAMS`, if it is set.
///
/// # Panics
///
/// Where it was not built.
pub fn bin(name: &str) -> PathBuf {
    let mut dir = env::current_exe().expect("a process knows its own program");
    dir.pop();
    if dir.ends_with("deps") || dir.ends_with("examples") {
        dir.pop();
    }
    if name.starts_with("integration-")
        && let Some(programs) = env::var_os(PROGRAMS_VARIABLE)
    {
        dir = programs.into();
    }
    let path = dir.join(format!("{name}{}", env::consts::EXE_SUFFIX));
    assert!(
        path.exists(),
        "{} was not built: `cargo xtask test` does it, or `cargo build --workspace --bins`",
        path.display()
    );
    path
}

/// A command for [`bin`], without a proxy from the surroundings.
pub fn command(name: &str) -> Command {
    command_in(None, name)
}

/// The same, in a network namespace.
pub fn command_in(namespace: Option<&str>, name: &str) -> Command {
    let command = match namespace {
        None => Command::new(bin(name)),
        // `ip` becomes the program: the process is the same.
        Some(namespace) => {
            let mut command = Command::new("ip");
            command.args(["netns", "exec", namespace]).arg(bin(name));
            command
        }
    };
    without_foreign_variables(command)
}

/// The same, with this file as its `/etc/resolv.conf`. Needs root and Linux.
pub fn command_with_resolver(resolv_conf: &Path, name: &str) -> Command {
    // The shell becomes the program: the process is the same.
    let script = "mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script]);
    command.arg(resolv_conf).arg(bin(name));
    without_foreign_variables(command)
}

fn without_foreign_variables(mut command: Command) -> Command {
    for variable in FOREIGN_VARIABLES {
        command.env_remove(variable);
    }
    command
}

/// A process and what it wrote. Killed on drop.
#[derive(Debug)]
pub struct Running {
    name: String,
    pid: u32,
    child: Mutex<Child>,
    log: Log,
    readers: Mutex<Vec<JoinHandle<()>>>,
}

/// A process that came to its end by itself.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to its standard output.
    pub stdout: String,
    /// What it wrote to its standard error.
    pub stderr: String,
}

impl Running {
    /// Starts `command`; `name` is what it is called in messages.
    ///
    /// # Panics
    ///
    /// Where it does not start.
    pub fn spawn(name: impl Into<String>, command: Command) -> Self {
        Self::spawn_with_stderr(name, command, None)
    }

    /// The same, with this file as its standard error, if there is one. What it writes there is not kept.
    ///
    /// # Panics
    ///
    /// Where it does not start, or the file cannot be opened for writing.
    pub fn spawn_with_stderr(
        name: impl Into<String>,
        mut command: Command,
        stderr: Option<&Path>,
    ) -> Self {
        let stderr = match stderr {
            None => Stdio::piped(),
            Some(path) => match fs::OpenOptions::new().append(true).open(path) {
                Ok(file) => file.into(),
                Err(error) => panic!("cannot open {}: {error}", path.display()),
            },
        };
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr);
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let log = Log::default();
        let stdout = child.stdout.take().expect("it is piped");
        let mut readers = vec![log.follow(Source::Stdout, stdout)];
        if let Some(stderr) = child.stderr.take() {
            readers.push(log.follow(Source::Stderr, stderr));
        }
        Self {
            name: name.into(),
            pid: child.id(),
            child: Mutex::new(child),
            log,
            readers: Mutex::new(readers),
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// What it is called in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Kills it at once (SIGKILL) and waits until it is gone. Nothing happens where it is already.
    pub fn kill9(&self) {
        let mut child = self.child();
        let _ = child.kill();
        let _ = child.wait();
    }

    /// Asks it to end (SIGTERM).
    pub fn terminate(&self) {
        self.signal("TERM");
    }

    /// Waits until the process handles SIGTERM, then sends it. A program that was started a moment ago would
    /// otherwise end by the signal's default action.
    pub async fn terminate_in_order(&self) {
        eventually(TIMEOUT, "a handler for SIGTERM", async || {
            self.exited().is_some() || self.handles_sigterm()
        })
        .await;
        self.terminate();
    }

    fn handles_sigterm(&self) -> bool {
        // Bit 14 of the mask in hexadecimal: signals are counted from 1.
        let status = self.proc("status");
        let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
        let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
        mask.is_some_and(|mask| mask & (1 << 14) != 0)
    }

    /// Sends a signal by name, such as `STOP` and `CONT`.
    ///
    /// # Panics
    ///
    /// Where there is no such process any more.
    pub fn signal(&self, name: &str) {
        if let Some(status) = self.exited() {
            self.fail(&format!("is gone ({status}) and takes no SIG{name}"));
        }
        let sent = Command::new("kill")
            .arg(format!("-{name}"))
            .arg(self.pid.to_string())
            .status();
        if !sent.as_ref().is_ok_and(ExitStatus::success) {
            self.fail(&format!("could not be sent SIG{name}: {sent:?}"));
        }
    }

    /// How it ended, where it has.
    pub fn exited(&self) -> Option<ExitStatus> {
        self.child()
            .try_wait()
            .expect("our own child can be waited for")
    }

    /// Waits for its end.
    ///
    /// # Panics
    ///
    /// Where it still runs after `within`.
    pub async fn wait_exit(&self, within: Duration) -> ExitStatus {
        let deadline = Instant::now() + within;
        loop {
            if let Some(status) = self.exited() {
                return status;
            }
            if Instant::now() > deadline {
                self.fail(&format!("still runs after {within:?}"));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits for a line that contains `part`, among those that were written already and those to
    /// come, and returns it.
    ///
    /// # Panics
    ///
    /// Where none comes within this time, or the process ends without one.
    pub async fn wait_log(&self, part: &str, within: Duration) -> String {
        self.wait_log_since(0, part, within).await
    }

    /// The same, looking only at lines after the first `mark`; see [`Self::log_mark`].
    ///
    /// # Panics
    ///
    /// Where none comes within this time, or the process ends without one.
    pub async fn wait_log_since(&self, mark: u64, part: &str, within: Duration) -> String {
        let deadline = Instant::now() + within;
        let mut mark = mark;
        loop {
            // In this order: what an ended process wrote last is then seen.
            let over = self.is_over();
            let (found, seen) = self.log.find(mark, part);
            if let Some(line) = found {
                return line;
            }
            mark = seen;
            if over {
                self.fail(&format!("ended without writing {part:?}"));
            }
            if Instant::now() > deadline {
                self.fail(&format!("did not write {part:?} within {within:?}"));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// How many lines it has written so far.
    pub fn log_mark(&self) -> u64 {
        self.log.written()
    }

    /// The lines that it wrote, the latest 20 000 of them.
    pub fn log(&self) -> Vec<Line> {
        self.log.lines()
    }

    /// Resident memory at present (`VmRSS`), in KiB.
    pub fn rss_kib(&self) -> u64 {
        self.status_kib("VmRSS")
    }

    /// Resident memory of its own at present (`RssAnon`), without the pages of files, in KiB.
    pub fn anonymous_rss_kib(&self) -> u64 {
        self.status_kib("RssAnon")
    }

    /// Resident memory at present without the pages of the program's own file, in KiB. How many of those are resident
    /// depends on the build, and on how the system has cached the file.
    ///
    /// # Panics
    ///
    /// Where the process has ended.
    pub fn rss_without_program_kib(&self) -> u64 {
        let program = fs::read_link(format!("/proc/{}/exe", self.pid)).unwrap_or_default();
        let program = program.to_string_lossy();
        let maps = self.proc("smaps");
        let number = |word: Option<&str>| word.and_then(|word| word.parse().ok()).unwrap_or(0);
        let mut is_program = false;
        let mut pages: u64 = 0;
        for line in maps.lines() {
            let mut words = line.split_whitespace();
            match words.next().unwrap_or_default() {
                "Rss:" if is_program => pages += number(words.next()),
                // Copies of its pages that the process has written to.
                "Anonymous:" if is_program => pages -= number(words.next()),
                first if first.ends_with(':') => {}
                _ => is_program = words.next_back().is_some_and(|file| file == program),
            }
        }
        self.rss_kib().saturating_sub(pages)
    }

    /// The most resident memory there was (`VmHWM`), in KiB, since the start or the last
    /// [reset](Self::reset_peak_rss).
    pub fn peak_rss_kib(&self) -> u64 {
        self.status_kib("VmHWM")
    }

    /// Makes the memory at present the peak. Where the system forbids that, the old peak stays,
    /// which makes a test of memory stricter.
    pub fn reset_peak_rss(&self) {
        let _ = fs::write(format!("/proc/{}/clear_refs", self.pid), "5");
    }

    /// Limits its open files to `count`, or with `None` to the limit of the test. Files that are open count.
    ///
    /// # Panics
    ///
    /// Where the system does not allow it.
    pub fn limit_files(&self, count: Option<u64>) {
        let count = count.map_or_else(|| self.files_hard_limit(), |count| count.to_string());
        let pid = self.pid.to_string();
        let status = Command::new("prlimit")
            .args(["--pid", &pid, &format!("--nofile={count}:")])
            .status();
        let is_set = status.is_ok_and(|status| status.success());
        assert!(is_set, "{} cannot be limited to {count} files", self.name);
    }

    fn files_hard_limit(&self) -> String {
        let limits = self.proc("limits");
        let line = limits
            .lines()
            .find(|line| line.starts_with("Max open files"));
        let hard = line.and_then(|line| line.split_whitespace().nth(4));
        hard.unwrap_or_else(|| self.fail("has no limit of open files"))
            .to_owned()
    }

    /// How many files it has open.
    pub fn files(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid)).map_or(0, Iterator::count)
    }

    /// Processor time that it has used, in user and system mode, in steps of 10 ms.
    pub fn cpu_time(&self) -> Duration {
        let stat = self.proc("stat");
        // The name, in parentheses, may hold anything; utime and stime are fields 14 and 15.
        let after_name = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        let ticks: u32 = after_name
            .split_whitespace()
            .skip(11)
            .take(2)
            .filter_map(|ticks| ticks.parse::<u32>().ok())
            .sum();
        TICK * ticks
    }

    fn status_kib(&self, key: &str) -> u64 {
        let status = self.proc("status");
        let value = status
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        value
            .and_then(|value| value.trim().strip_suffix(" kB")?.parse().ok())
            .unwrap_or_else(|| self.fail(&format!("has no {key}; is it gone?")))
    }

    fn proc(&self, file: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{file}", self.pid))
            .unwrap_or_else(|error| self.fail(&format!("has no /proc entry: {error}")))
    }

    /// Whether it has ended and all that it wrote has been read.
    fn is_over(&self) -> bool {
        let read = self.readers().iter().all(JoinHandle::is_finished);
        self.exited().is_some() && read
    }

    fn child(&self) -> MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn readers(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.readers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it wrote is printed as this panic passes its owner.
    fn fail(&self, what: &str) -> ! {
        panic!("{} (process {}) {what}", self.name, self.pid)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let status = self.exited();
        self.kill9();
        if thread::panicking() {
            // The readers end with the process; what it wrote last is often what matters.
            for reader in self.readers().drain(..) {
                let _ = reader.join();
            }
            self.log.print(&self.name, self.pid, status);
        }
    }
}

/// Runs `command` to its end.
///
/// # Panics
///
/// Where it does not start, or still runs after `within`.
pub async fn finish(name: &str, command: Command, within: Duration) -> Finished {
    let running = Running::spawn(name, command);
    let deadline = Instant::now() + within;
    while !running.is_over() {
        if Instant::now() > deadline {
            running.fail(&format!("still runs after {within:?}"));
        }
        tokio::time::sleep(POLL).await;
    }
    let status = running.exited().expect("it is over");
    Finished {
        status,
        stdout: running.log.text(Source::Stdout),
        stderr: running.log.text(Source::Stderr),
    }
}

impl Finished {
    /// What it wrote to its standard output, if it succeeded.
    ///
    /// # Panics
    ///
    /// Where it did not, with all that it wrote.
    #[track_caller]
    pub fn success(self) -> String {
        assert!(
            self.status.success(),
            "{}\n{}\n{}",
            self.status,
            self.stdout,
            self.stderr
        );
        self.stdout
    }

    /// What it wrote to its standard error, if it failed.
    ///
    /// # Panics
    ///
    /// Where it did not fail.
    #[track_caller]
    pub fn failure(self) -> String {
        assert!(
            !self.status.success(),
            "it succeeded\n{}\n{}",
            self.stdout,
            self.stderr
        );
        self.stderr
    }
}
