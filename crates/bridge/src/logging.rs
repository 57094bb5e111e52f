//! Logs to standard error or to a file, as text or as one JSON object a line.
//!
//! INFO a session up or down, WARN worth a look (what the policy refused), ERROR what somebody has
//! to mend. Never a header's value, a body, a query or a secret. The environment variable
//! `BRIDGE_LOG` sets filters by module, for looking into a problem; `integration-bridge log-level` does so
//! while it runs. Under systemd, standard error is the journal.
//!
//! Lines pass through a bounded queue (`runtime::log`): a log that cannot be written costs lines, and neither
//! a request nor the bridge.

mod rotated;

use crate::config::{LogFormat, LogLevel, LogSection};
use rotated::Rotated;
use runtime::log::StandardError;
use std::io::IsTerminal as _;
use std::sync::OnceLock;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry, reload};

/// The environment variable with filters, as `tracing-subscriber` has them.
pub const LOG_ENV: &str = "BRIDGE_LOG";

static FILTER: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// Begins to log. A second call changes nothing. A file that cannot be opened is tried again; until then lines
/// go to standard error.
pub fn start(section: &LogSection) {
    let level = match section.level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
        LogLevel::Trace => "trace",
    };
    let filter = EnvFilter::try_from_env(LOG_ENV).unwrap_or_else(|_| EnvFilter::new(level));
    let (filter, handle) = reload::Layer::new(filter);
    let mut not_opened = None;
    let (lines, is_terminal) = match &section.file {
        None => (
            runtime::log::start(StandardError),
            std::io::stderr().is_terminal(),
        ),
        Some(file) => {
            let (path, files) = (file.get(), section.files.get());
            let (rotated, opened) = Rotated::open(path, section.file_max.bytes(), files);
            not_opened = opened.err();
            (runtime::log::start(rotated), false)
        }
    };
    let layer = tracing_subscriber::fmt::layer()
        .with_target(false)
        .log_internal_errors(false)
        .with_writer(move || lines.clone());
    let registry = tracing_subscriber::registry().with(filter);
    let started = match section.format {
        LogFormat::Text => registry.with(layer.with_ansi(is_terminal)).try_init(),
        LogFormat::Json => registry.with(layer.json().flatten_event(true)).try_init(),
    };
    match started {
        Ok(()) => {
            let _ = FILTER.set(handle);
        }
        Err(error) => tracing::debug!(%error, "logging was set up already"),
    }
    if let Some(error) = not_opened {
        tracing::error!(%error, "log.file cannot be opened: lines go to standard error until it can");
    }
}

/// Logs by another filter from now on.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn set_filter(filter: &str) -> Result<(), String> {
    let filter = EnvFilter::try_new(filter)
        .map_err(|error| format!("{filter:?} is no filter for the log: {error}"))?;
    let handle = FILTER.get().ok_or("this program's log is another's")?;
    handle.reload(filter).map_err(|error| error.to_string())
}
