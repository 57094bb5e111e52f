//! The release that is made: its version, its time and where its files are.
//!
//! The time is that of the commit. Every archive has it instead of the current time, so that a second build gives the same bytes.

use crate::step::{Failed, Step, profile_dir};
use std::env;
use std::path::PathBuf;

/// The variable by which other tools take the time, too. See <https://reproducible-builds.org/specs/source-date-epoch/>.
pub(super) const TIME_VARIABLE: &str = "SOURCE_DATE_EPOCH";

/// Gives the commit where the sources are not a git checkout.
pub(super) const COMMIT_VARIABLE: &str = "RELEASE_COMMIT";

/// The time of sources that are not a git checkout, in seconds since 1970: the first that a `.zip` can have.
const TIME_UNKNOWN: u64 = 315_532_800;

/// One version of all programs.
#[derive(Debug)]
pub(super) struct Release {
    pub(super) version: &'static str,
    /// Seconds since 1970.
    pub(super) time: u64,
    /// The commit's hash, and whether the sources differ from it.
    pub(super) commit: String,
}

impl Release {
    /// The release of the sources as they are.
    pub(super) fn here() -> Result<Self, Failed> {
        let git = |args: &[&str]| Step::program("git").args(args).output();
        let is_checkout = Step::program("git").args(["rev-parse", "HEAD"]).succeeds();
        let time = match env::var(TIME_VARIABLE) {
            Ok(given) => given,
            Err(_) if is_checkout => git(&["log", "-1", "--format=%ct"])?,
            Err(_) => TIME_UNKNOWN.to_string(),
        };
        let time = time.trim().parse::<u64>();
        let commit = match env::var(COMMIT_VARIABLE) {
            Ok(given) => given,
            Err(_) if is_checkout => {
                let commit = git(&["rev-parse", "HEAD"])?;
                let changed = git(&["status", "--porcelain"])?;
                match changed.trim() {
                    "" => commit.trim().to_owned(),
                    _ => format!("{}, with changes", commit.trim()),
                }
            }
            Err(_) => "unknown".to_owned(),
        };
        Ok(Self {
            // All crates have the workspace's version.
            version: env!("CARGO_PKG_VERSION"),
            time: time
                .map_err(|_| Failed::new(format!("{TIME_VARIABLE} is no number of seconds")))?
                .max(TIME_UNKNOWN),
            commit,
        })
    }

    /// Returns the time as RFC 3339 writes it.
    pub(super) fn timestamp(&self) -> Result<String, Failed> {
        let seconds = format!("--date=@{}", self.time);
        let written = Step::program("date")
            .args(["--utc", &seconds, "+%Y-%m-%dT%H:%M:%SZ"])
            .output()?;
        Ok(written.trim().to_owned())
    }
}

/// Returns the directory of the artefacts.
pub(super) fn directory() -> PathBuf {
    profile_dir("dist")
}

/// Returns the directory for what artefacts are made of.
pub(super) fn work_directory() -> PathBuf {
    profile_dir("dist-work")
}
