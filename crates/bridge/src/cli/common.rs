//! What the commands have in common: exit codes, the config argument, output.

use crate::config::{Config, ConfigError};
use clap::Args;
use std::error::Error;
use std::path::PathBuf;

/// The command succeeded.
pub(super) const DONE: u8 = 0;
/// The command failed.
pub(super) const FAILED: u8 = 1;
/// The command line is wrong, as for an unknown option.
pub(super) const USAGE: u8 = 2;
/// `policy test`: the request would be refused. `credential test`: a target rejects the credential.
pub(super) const REFUSED: u8 = 3;

/// `audit verify`: no defect was found, but lines may be missing.
pub(super) const UNPROVED: u8 = 4;

/// `run`: the config or the pairing must be corrected before another start can succeed.
pub(super) const NEEDS_CORRECTION: u8 = 5;

/// An exit code, or the error to print.
pub(super) type Outcome = Result<u8, Box<dyn Error>>;

/// The config file.
#[derive(Debug, Clone, Args)]
pub(super) struct ConfigArg {
    /// The config file.
    #[arg(
        long,
        env = "BRIDGE_CONFIG",
        default_value = "bridge.toml",
        value_name = "FILE"
    )]
    pub(super) config: PathBuf,
}

impl ConfigArg {
    /// Returns the data directory, even if the config has a mistake elsewhere: a running bridge must be
    /// reachable while its file is being edited.
    pub(super) fn data_dir(&self) -> Result<PathBuf, ConfigError> {
        Config::data_dir_of(&self.config)
    }

    pub(super) fn load(&self) -> Result<Config, ConfigError> {
        Config::load(&self.config)
    }
}

/// Prints a line of a command's result.
pub(super) fn print(line: &str) {
    runtime::output::print(&format!("{line}\n"));
}

/// Prints an error.
pub(super) fn complain(line: &str) {
    runtime::output::complain(line);
}

/// Prints a warning to standard error.
pub(super) fn warn(line: &str) {
    runtime::output::warn(line);
}

/// Returns a runtime for commands that finish soon.
pub(super) fn short_runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
}
