//! How the bridge logs; the rest is `runtime::logging`'s.
//!
//! The environment variable `BRIDGE_LOG` sets filters by module, and `integration-bridge log-level` replaces
//! them while the bridge runs. Under systemd, standard error is the journal.

use crate::config::{Config, LOG_ENV, LogSection};
use runtime::logging::Program;
pub(crate) use runtime::logging::set_filter;

/// Starts to log. A second call changes nothing.
pub(crate) fn start(section: &LogSection) {
    let program = Program {
        filter_variable: LOG_ENV,
        crates: &[],
        has_target: false,
    };
    program.start(section);
    // The config is read before there is a log to warn in.
    Config::warn_of_unknown_variables();
}
