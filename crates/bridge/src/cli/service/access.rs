//! `service check`: what the service needs, tried by its own account.
//!
//! ```text
//! service install (root) --runuser--> service check (the service's account, an empty environment)
//! ```
//!
//! Root can read and write everything, so only that account's own attempt shows what the service will meet.

use super::super::common::{ConfigArg, DONE, FAILED, Outcome, complain};
use crate::config::Config;
use crate::credentials;
use crate::identity::Identity;
use crate::own_files;
use crate::pairing::dialer;
use crate::text::error_chain;
use std::fs::{self, OpenOptions};
use std::io;
use std::path::Path;
use std::process::Command;

/// A file that is created and removed, to see that a directory can be written.
const PROBE: &str = ".write-test";

/// Tries everything, and prints what fails.
pub(super) fn check(config: &ConfigArg) -> Outcome {
    let problems = problems(&config.load()?);
    for problem in &problems {
        complain(problem);
    }
    Ok(if problems.is_empty() { DONE } else { FAILED })
}

/// Returns what this account cannot do and the service needs.
pub(super) fn problems(config: &Config) -> Vec<String> {
    let mut problems = Vec::new();
    let data_dir = config.bridge.data_dir.get();
    match config.bridge.open_data_dir() {
        Ok(dir) => {
            let written = dir
                .write_private(PROBE, b"")
                .and_then(|()| dir.remove(PROBE));
            problems.extend(written.err().map(|error| error_chain(&error)));
            problems.extend(Identity::load(&dir).err().map(|error| error_chain(&error)));
        }
        Err(error) => problems.push(error_chain(&error)),
    }
    match credentials::load(config) {
        Ok(credentials) => {
            let dialer = dialer(config, &credentials);
            problems.extend(dialer.err().map(|error| error_chain(&error)));
        }
        Err(error) => problems.push(error_chain(&error)),
    }
    let collisions = own_files::collisions(config);
    problems.extend(collisions.iter().map(ToString::to_string));
    let log = config.log.file.as_ref().map(|file| file.in_dir(data_dir));
    let audit = config.audit.enabled.then(|| config.audit.path(data_dir));
    for (key, file) in [("log.file", log), ("audit.file", audit)] {
        let Some(file) = file else { continue };
        if let Err(error) = try_to_write(&file) {
            problems.push(format!(
                "cannot write {key} ({}): {error}; use a directory that the service's account owns",
                file.display()
            ));
        }
    }
    problems
}

/// Tries to append to a file, and to create one in its directory, which rotation needs. The bridge makes a directory
/// that is missing, so the nearest one that exists is tried.
fn try_to_write(file: &Path) -> io::Result<()> {
    if file.exists() {
        OpenOptions::new().append(true).open(file)?;
        // A terminal or a pipe is not rotated.
        if !fs::metadata(file)?.is_file() {
            return Ok(());
        }
    }
    let dir = file.ancestors().skip(1).find(|above| above.exists());
    let probe = dir.unwrap_or(Path::new("/")).join(PROBE);
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&probe)?;
    fs::remove_file(&probe)
}

/// Runs `service check` as an account, which prints what fails. Returns whether nothing does.
pub(super) fn works_as(account: &str, program: &Path, config: &Path) -> Result<bool, String> {
    let mut command = Command::new("runuser");
    command.args(["-u", account, "--"]).arg(program);
    command.args(["service", "check", "--config"]).arg(config);
    // The service gets no variable of the administrator's shell.
    command.env_clear();
    command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
    let status = command
        .status()
        .map_err(|error| format!("cannot run runuser: {error}"))?;
    Ok(status.success())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn directory_that_the_bridge_makes_may_be_missing() {
        let dir = TempDir::new("service-access");
        try_to_write(&dir.path().join("logs/deep/audit.jsonl")).unwrap();
        let left: Vec<_> = fs::read_dir(dir.path()).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        try_to_write(&file).unwrap();
        try_to_write(&file.join("audit.jsonl")).unwrap_err();
    }
}
