//! How the relay logs; the rest is `runtime::logging`'s. The environment variable `RELAY_LOG` sets filters by
//! module.

use crate::config::{Config, LOG_ENV, LogSection};
use runtime::logging::Program;

/// Starts to log. In a process that logs already (a program that embeds the relay) it changes nothing.
pub(super) fn start(section: &LogSection) {
    let program = Program {
        filter_variable: LOG_ENV,
        crates: &["integration_relay", "runtime", "transport", "protocol"],
        has_target: true,
    };
    program.start(section);
    // The config is read before there is a log to warn in.
    Config::warn_of_unknown_variables();
}
