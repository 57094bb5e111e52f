//! How the bridge logs; the rest is `runtime::logging`'s.
//!
//! The environment variable `BRIDGE_LOG` sets filters by module, and `integration-bridge log-level` replaces
//! them while the bridge runs. Under systemd, standard error is the journal.

use crate::config::{Config, LOG_ENV, LogSection};
use runtime::logging::Program;
pub(crate) use runtime::logging::set_filter;
use std::path::Path;

const PROGRAM: Program = Program {
    filter_variable: LOG_ENV,
    crates: &[],
    has_target: false,
};

/// Starts to log. A second call changes nothing.
///
/// # Errors
/// What is wrong with the filter in the environment.
pub(crate) fn start(section: &LogSection, data_dir: &Path) -> Result<(), String> {
    PROGRAM.start(section, data_dir)?;
    // The config is read before there is a log to warn in.
    Config::warn_of_unknown_variables();
    Ok(())
}

/// Checks the filter in the environment.
///
/// # Errors
/// The variable, and what is wrong with it.
pub(crate) fn check() -> Result<(), String> {
    PROGRAM.check()
}
