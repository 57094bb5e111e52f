//! A booted Debian: its files, commands in it, and conditions that become true.

use super::expect;
use crate::dist;
use crate::engine::Engine;
use crate::step::{Failed, Step};
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// The release of Debian.
const SUITE: &str = "bookworm";

/// What it has in addition to Debian's essential packages: systemd with what its services of users need, the package
/// manager of other distributions, and programs for the test itself.
const PACKAGES: &str = "systemd,systemd-sysv,dbus,libpam-systemd,passwd,iproute2,procps,rpm,openssl,curl,busybox-static";

/// The name of container and image.
const PART: &str = "machine";

/// Seconds that one command may take.
const COMMAND_TIMEOUT: &str = "120";

/// How long the system may take to boot.
const BOOT_TIMEOUT: Duration = Duration::from_secs(60);

/// How often a state is observed.
const OBSERVE_EVERY: Duration = Duration::from_millis(200);

/// A booted system.
#[derive(Debug)]
pub(super) struct Machine {
    engine: Engine,
}

impl Machine {
    /// Boots it. Its files are made once, and kept in the directory.
    pub(super) fn boot(directory: &Path) -> Result<Self, Failed> {
        let files = root_files(directory)?;
        let mut engine = Engine::new(directory)?;
        engine.import(PART, &files)?;
        engine.boot(PART)?;
        let machine = Self { engine };
        machine.eventually("all units of the system run", BOOT_TIMEOUT, || {
            let (_, state) = machine.outcome("systemctl is-system-running")?;
            Ok(state.trim() == "running")
        })?;
        Ok(machine)
    }

    /// Runs commands of a shell as root. Returns all that they write.
    pub(super) fn run(&self, script: &str) -> Result<String, Failed> {
        let (has_succeeded, written) = self.outcome(script)?;
        match has_succeeded {
            true => Ok(written),
            false => Err(Failed::new(format!("`{script}` failed: {written}"))),
        }
    }

    /// Runs commands that must fail, and write this.
    pub(super) fn refuses(&self, script: &str, part: &str) -> Result<(), Failed> {
        match self.outcome(script)? {
            (false, written) => expect(&format!("`{script}`"), &written, part),
            (true, written) => Err(Failed::new(format!("`{script}` succeeded: {written}"))),
        }
    }

    /// Runs commands of a shell as root. Returns whether they succeeded, and all that they wrote.
    pub(super) fn outcome(&self, script: &str) -> Result<(bool, String), Failed> {
        let shell = ["timeout", COMMAND_TIMEOUT, "sh", "-ec", script];
        self.engine.exec(PART, &shell).outcome()
    }

    /// Runs commands of a shell as another user, without a session, as after `su`.
    pub(super) fn outcome_as(&self, user: &str, script: &str) -> Result<(bool, String), Failed> {
        let shell = [
            "timeout",
            COMMAND_TIMEOUT,
            "runuser",
            "-u",
            user,
            "--",
            "env",
            "--chdir",
            &format!("/home/{user}"),
            &format!("HOME=/home/{user}"),
            "sh",
            "-ec",
            script,
        ];
        self.engine.exec(PART, &shell).outcome()
    }

    /// Runs commands of a shell as another user. Returns all that they write.
    pub(super) fn run_as(&self, user: &str, script: &str) -> Result<String, Failed> {
        let (has_succeeded, written) = self.outcome_as(user, script)?;
        match has_succeeded {
            true => Ok(written),
            false => Err(Failed::new(format!(
                "`{script}` as {user} failed: {written}"
            ))),
        }
    }

    /// Copies a file into it.
    pub(super) fn put(&self, from: &Path, to: &str) -> Result<(), Failed> {
        let to = format!("{}:{to}", self.engine.name(PART));
        let step = self.engine.podman(&["cp"]).args([from]).args([to]);
        step.output().map(drop)
    }

    /// Waits until a condition is true.
    pub(super) fn eventually(
        &self,
        what: &str,
        within: Duration,
        condition: impl Fn() -> Result<bool, Failed>,
    ) -> Result<(), Failed> {
        let began = Instant::now();
        while !condition()? {
            if began.elapsed() > within {
                return Err(Failed::new(format!(
                    "not within {} s: {what}",
                    within.as_secs()
                )));
            }
            thread::sleep(OBSERVE_EVERY);
        }
        Ok(())
    }

    /// Shows the last lines of the system's log, after a failure.
    pub(super) fn show_journal(&self) {
        println!("== the last lines of the journal");
        let shown = self.outcome("journalctl --no-pager --lines 60 --output short-monotonic");
        if let Ok((_, text)) = shown {
            print!("{text}");
        }
    }
}

/// Returns the archive of a system's files, which is made if there is none of these packages.
fn root_files(directory: &Path) -> Result<PathBuf, Failed> {
    let files = directory.join("machine.tar");
    // Written last.
    let contents = directory.join("machine.txt");
    let wanted = format!("{SUITE} {PACKAGES}");
    if files.exists() && fs::read_to_string(&contents).is_ok_and(|made| made == wanted) {
        return Ok(files);
    }
    let cannot = |error| Failed::new(format!("cannot write to {}: {error}", directory.display()));
    let _ = fs::remove_file(&contents);
    let sources = directory.join("sources.list");
    fs::write(&sources, dist::debian_source(SUITE)?).map_err(cannot)?;
    Step::program("mmdebstrap")
        .args(["--quiet", "--variant=minbase", "--include", PACKAGES, SUITE])
        .args([&files, &sources])
        .run()?;
    fs::write(&contents, wanted).map_err(cannot)?;
    Ok(files)
}
