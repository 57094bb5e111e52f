//! Log lines, to standard error, which may be stuck or gone: that costs lines and nothing else.

use crate::config::{Log, LogFormat, LogLevel};
use runtime::log::StandardError;
use std::io::IsTerminal as _;
use tracing_subscriber::EnvFilter;

/// Begins to log. What is there already (a program that embeds the relay) stays.
pub(super) fn start(log: &Log) {
    let level = log.level.as_str();
    // Libraries speak up when something is wrong, or when everything is wanted.
    let filter = match log.level {
        LogLevel::Trace => EnvFilter::new("trace"),
        LogLevel::Error | LogLevel::Warn => EnvFilter::new(level),
        LogLevel::Info | LogLevel::Debug => EnvFilter::new(format!(
            "warn,integration_relay={level},transport={level},protocol={level}"
        )),
    };
    let queue = runtime::log::start(StandardError);
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .log_internal_errors(false)
        .with_writer(move || queue.clone())
        .with_ansi(std::io::stderr().is_terminal());
    // An error means that somebody else logs already.
    let _ = match log.format {
        LogFormat::Text => lines.try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
}
