//! Logs to standard error, as text or as one JSON object a line.
//!
//! INFO a session up or down, WARN worth a look (what the policy refused), ERROR what somebody has
//! to mend. Never a header's value, a body, a query or a secret. The environment variable
//! `BRIDGE_LOG` sets filters by module, for looking into a problem.

use crate::config::{LogFormat, LogLevel, LogSection};
use tracing_subscriber::EnvFilter;

/// The environment variable with filters, as `tracing-subscriber` has them.
pub const LOG_ENV: &str = "BRIDGE_LOG";

/// Begins to log. A second call changes nothing.
pub fn start(section: LogSection) {
    let level = match section.level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
        LogLevel::Trace => "trace",
    };
    let filter = EnvFilter::try_from_env(LOG_ENV).unwrap_or_else(|_| EnvFilter::new(level));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_writer(std::io::stderr);
    let started = match section.format {
        LogFormat::Text => {
            let is_terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
            builder.with_ansi(is_terminal).try_init()
        }
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    if let Err(error) = started {
        tracing::debug!(%error, "logging was set up already");
    }
}
