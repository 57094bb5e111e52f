//! How the relay logs; the rest is `runtime::logging`'s. The environment variable `RELAY_LOG` sets filters by
//! module.

use crate::config::{Config, LOG_ENV};
use runtime::logging::Program;

const PROGRAM: Program = Program {
    filter_variable: LOG_ENV,
    crates: &["integration_relay", "runtime", "transport", "protocol"],
    has_target: false,
};

/// Starts to log. In a process that logs already (a program that embeds the relay) it changes nothing.
///
/// # Errors
/// What is wrong with the filter in the environment.
pub(super) fn start(config: &Config) -> Result<(), String> {
    PROGRAM.start(&config.log, &config.data_dir())?;
    // The config is read before there is a log to warn in.
    Config::warn_of_unknown_variables();
    Ok(())
}

/// Checks the filter in the environment.
///
/// # Errors
/// The variable, and what is wrong with it.
pub(super) fn check() -> Result<(), String> {
    PROGRAM.check()
}
