//! This machine: its resources, and programs that should not run next to a bridge.

use super::report::Check;
use crate::config::Config;
use crate::text::error_chain;
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
    match std::thread::available_parallelism() {
        Ok(cores) => Check::ok("system", format!("{cores} cores, {}", std::env::consts::OS)),
        Err(error) => Check::warn("system", format!("cannot count the cores: {error}"), ""),
    }
}

fn memory() -> Check {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    // Not `MemFree`: the kernel gives memory of its page cache to programs that need it.
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|line| {
        line.trim()
            .trim_end_matches("kB")
            .trim()
            .parse::<u64>()
            .ok()
    });
    match kib.map(|kib| kib * 1024) {
        None => Check::skipped("memory", "this system does not report free memory"),
        Some(bytes) if bytes < MEMORY_MIN_BYTES => Check::warn(
            "memory",
            format!("{} MiB free", bytes / MIB),
            "free at least 128 MiB for the bridge",
        ),
        Some(bytes) => Check::ok("memory", format!("{} MiB free", bytes / MIB)),
    }
}

#[cfg(unix)]
fn files() -> Check {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    match limit.current {
        Some(files) if files < FILES_MIN => Check::warn(
            "files",
            format!("this process may open {files} files"),
            "raise the limit to 4096 or more (LimitNOFILE in the unit of the service, ulimit -n in a shell): each \
             exchange needs a connection to its target",
        ),
        Some(files) => Check::ok("files", format!("this process may open {files} files")),
        None => Check::ok("files", "this process may open any number of files"),
    }
}

#[cfg(not(unix))]
fn files() -> Check {
    let _ = FILES_MIN;
    Check::skipped("files", "this system has no limit of open files")
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

#[cfg(unix)]
fn disk(path: &Path) -> Option<Check> {
    let found = rustix::fs::statvfs(path).ok()?;
    // `f_bavail`, not `f_bfree`: a part of the disk is reserved for root.
    let free = found.f_bavail.saturating_mul(found.f_frsize);
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

#[cfg(not(unix))]
fn disk(_: &Path) -> Option<Check> {
    let _ = DISK_MIN_BYTES;
    None
}

/// Detects ALM or Octane on this host: an attacker on the host would have both systems, and both need its
/// memory.
fn neighbours() -> Option<Check> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").ok()?.flatten() {
        let is_process = entry
            .file_name()
            .to_str()
            .is_some_and(|name| name.parse::<u32>().is_ok());
        let Some(line) = is_process
            // Processes of other users may be hidden, and any process may have ended since.
            .then(|| std::fs::read(entry.path().join("cmdline")).ok())
            .flatten()
        else {
            continue;
        };
        if let Some(name) = neighbour(&String::from_utf8_lossy(&line))
            && !found.contains(&name)
        {
            found.push(name);
        }
    }
    Some(if found.is_empty() {
        Check::ok("neighbours", "no ALM or Octane detected on this host")
    } else {
        Check::warn(
            "neighbours",
            format!("{} appears to run on this host", found.join(" and ")),
            "run the bridge on a separate host: an attacker on this one would have both, and both compete for \
             memory",
        )
    })
}

/// Returns the program that a command line starts, if it is one of them.
fn neighbour(line: &str) -> Option<&'static str> {
    let line = line.to_ascii_lowercase();
    // Both are Java programs. Without this a text editor with a file of that name would match.
    let is_java = line.contains("java") || line.contains("wrapper");
    if !is_java {
        return None;
    }
    if line.contains("octane") {
        return Some("Octane");
    }
    let alm = ["qcbin", "/alm/", "\\alm\\", "hpalm", "almserver"];
    alm.iter().any(|part| line.contains(part)).then_some("ALM")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbour_is_detected_by_command_line() {
        let alm = "/opt/jre/bin/java\0-Dserver=/var/opt/ALM/webapps/qcbin\0";
        assert_eq!(neighbour(alm), Some("ALM"));
        assert_eq!(
            neighbour("wrapper\0/opt/octane/wrapper.conf"),
            Some("Octane")
        );
        assert_eq!(neighbour("vim\0octane-notes.txt"), None);
        assert_eq!(neighbour("java\0-jar\0app.jar"), None);
    }
}
