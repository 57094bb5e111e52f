//! This machine: its resources, and programs that should not run next to a bridge.
//!
//! `facts` asks the system, with one function for each fact. `requirements` compares them with what
//! the bridge needs, for `doctor --system`; `table` shows the result.

mod facts;
pub(super) mod requirements;
mod table;

use super::report::Check;
use crate::config::Config;
use crate::text::error_chain;
use facts::OpenFiles;
use ring::rand::{SecureRandom as _, SystemRandom};
use std::path::Path;

const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;

/// Free memory below which there is a warning.
const MEMORY_MIN_BYTES: u64 = 128 * MIB;

/// Free disk space in the data directory below which there is a warning: for journal, audit file and log.
const DISK_MIN_BYTES: u64 = GIB;

/// Open files that a busy bridge needs: one for each connection to a target, and a margin.
const FILES_MIN: u64 = 4096;

/// Checks what does not depend on the config.
pub(super) fn check() -> Vec<Check> {
    let mut checks = vec![cores(), memory(), files(), randomness()];
    checks.extend(neighbours());
    checks
}

/// Checks the data directory and its disk.
pub(super) fn check_data_dir(config: &Config) -> Vec<Check> {
    let path = config.bridge.data_dir.get();
    let mut checks = Vec::new();
    if !path.exists() {
        // Not created here: it would belong to the user that runs `doctor`.
        let found = format!("{} does not exist yet; `pair` creates it", path.display());
        return vec![Check::skipped("data", found)];
    }
    match config.bridge.open_data_dir() {
        Ok(dir) => {
            // A real write: modes do not show a full disk or a read-only file system.
            let probe = dir.write_private("doctor", b"writable");
            let _ = std::fs::remove_file(dir.path("doctor"));
            checks.push(match probe {
                Ok(()) => Check::ok(
                    "data",
                    format!("{} is private and writable", path.display()),
                ),
                Err(error) => failed_data(&error),
            });
        }
        Err(error) => checks.push(failed_data(&error)),
    }
    checks.extend(disk(path));
    checks
}

fn failed_data(error: &dyn std::error::Error) -> Check {
    Check::fail(
        "data",
        error_chain(error),
        "run `doctor` as the user that runs the bridge",
    )
}

fn cores() -> Check {
    match facts::cores() {
        Ok(cores) => Check::ok("system", format!("{cores} cores, {}", std::env::consts::OS)),
        Err(error) => Check::warn("system", format!("cannot count the cores: {error}"), ""),
    }
}

fn memory() -> Check {
    match facts::free_memory() {
        None => Check::skipped("memory", "this system does not report free memory"),
        Some(bytes) if bytes < MEMORY_MIN_BYTES => Check::warn(
            "memory",
            format!("{} MiB free", bytes / MIB),
            "free at least 128 MiB for the bridge",
        ),
        Some(bytes) => Check::ok("memory", format!("{} MiB free", bytes / MIB)),
    }
}

/// The remedy where a process may open too few files.
const RAISE_FILES: &str = "raise the limit to 4096 or more (LimitNOFILE in the unit of the service, ulimit -n in a \
                           shell): each exchange needs a connection to its target";

fn files() -> Check {
    match facts::open_files() {
        Some(OpenFiles::AtMost(files)) if files < FILES_MIN => Check::warn(
            "files",
            format!("this process may open {files} files"),
            RAISE_FILES,
        ),
        Some(OpenFiles::AtMost(files)) => {
            Check::ok("files", format!("this process may open {files} files"))
        }
        Some(OpenFiles::Any) => Check::ok("files", "this process may open any number of files"),
        None => Check::skipped("files", "this system has no limit of open files"),
    }
}

fn randomness() -> Check {
    let mut bytes = [0; 32];
    match SystemRandom::new().fill(&mut bytes) {
        Ok(()) => Check::ok("random", "the random generator works"),
        Err(_) => Check::fail(
            "random",
            "the random generator of the system failed",
            "check that /dev/urandom exists; without it no key is secret",
        ),
    }
}

fn disk(path: &Path) -> Option<Check> {
    let free = facts::disk_free(path)?;
    let text = format!("{} MiB free at {}", free / MIB, path.display());
    Some(if free < DISK_MIN_BYTES {
        Check::warn(
            "disk",
            text,
            "free at least 1 GiB for journal, audit file and log",
        )
    } else {
        Check::ok("disk", text)
    })
}

/// The remedy where ALM or Octane runs on the same host.
const OTHER_HOST: &str = "run the bridge on a separate host: an attacker on this one would have both, and both \
                          compete for memory";

/// Detects ALM or Octane on this host: an attacker on the host would have both systems, and both need its
/// memory.
fn neighbours() -> Option<Check> {
    let found = facts::neighbours()?;
    Some(if found.is_empty() {
        Check::ok("neighbours", "no ALM or Octane detected on this host")
    } else {
        Check::warn(
            "neighbours",
            format!("{} appears to run on this host", found.join(" and ")),
            OTHER_HOST,
        )
    })
}
