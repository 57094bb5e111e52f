//! Logs to standard error or to a file, as text or as one JSON object a line.
//!
//! ERROR: the operator must act. WARN: worth a look. INFO: a session up or down. DEBUG: small events. TRACE:
//! frames. Header values, bodies, queries and secrets are never logged.
//!
//! An event is one line: what a peer can put into a field (line breaks, terminal escapes) is escaped, so that it cannot
//! forge a line or control a terminal.
//!
//! Lines pass through a bounded queue ([`crate::log`]): a log that cannot be written loses lines, and delays
//! no request.
//!
//! Where standard error is the journal of systemd, it has the time and the priority itself ([`journal`]).

mod escaped;
mod filter;
mod journal;
mod rotated;
#[cfg(test)]
mod testing;

pub use filter::parse_filter;

use crate::config::{BoundedInt, ByteSize, DataPath};
use crate::files::make_private_dir;
use crate::log::StandardError;
use crate::shortage::in_words;
use crate::value::{self, Form};
use escaped::{EscapedLines, field};
use rotated::Rotated;
use serde::{Deserialize, Serialize};
use std::io::{self, IsTerminal as _};
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use tracing_subscriber::field::MakeExt as _;
use tracing_subscriber::fmt::format::debug_fn;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry, reload};

/// Counts the calls of [`reopen`].
static REOPENS: AtomicU64 = AtomicU64::new(0);

static FILTER: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// `[log]`: what is written to standard error, or to a file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogSection {
    /// From which level on lines are written. Defaults to `"info"`.
    pub level: LogLevel,
    /// Text for people, or JSON for programs. Defaults to `"text"`.
    pub format: LogFormat,
    /// A file to write to; a relative path is resolved against the directory of the program's data. Defaults to none:
    /// lines go to standard error.
    pub file: Option<DataPath>,
    /// Size above which the file is rotated. Defaults to `"16MiB"`.
    pub file_max: ByteSize,
    /// Number of rotated files that are kept, 1 to 999. Defaults to 5.
    pub files: BoundedInt<1, 999>,
}

impl Default for LogSection {
    fn default() -> Self {
        Self {
            level: LogLevel::default(),
            format: LogFormat::default(),
            file: None,
            file_max: ByteSize::mib(16),
            files: BoundedInt::known(5),
        }
    }
}

/// From which level on lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// The operator must act.
    Error,
    /// Worth a look.
    Warn,
    /// A session up or down.
    #[default]
    Info,
    /// Small events, for example each exchange.
    Debug,
    /// Everything, also of libraries.
    Trace,
}

impl LogLevel {
    /// Returns the name that log filters know.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Text for people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// How one program logs.
#[derive(Debug, Clone, Copy)]
pub struct Program {
    /// The environment variable with filters by module, as `tracing-subscriber` has them. Overrides the level.
    pub filter_variable: &'static str,
    /// The crates that log from the level on; others do so from WARN on. Empty: all crates alike.
    pub crates: &'static [&'static str],
    /// Whether a line names its module.
    pub has_target: bool,
}

impl Program {
    /// Checks the environment variable with filters.
    ///
    /// # Errors
    /// The variable, and what is wrong with it.
    pub fn check(&self) -> Result<(), String> {
        self.filter(LogLevel::default()).map(|_| ())
    }

    fn filter(&self, level: LogLevel) -> Result<EnvFilter, String> {
        let name = self.filter_variable;
        let of_variable = |error: String| format!("environment variable {name}: {error}");
        match value::variable(Form::Setting, name) {
            Ok(Some(text)) => parse_filter(&text).map_err(of_variable),
            Ok(None) => Ok(self.of_level(level)),
            Err(error) => Err(of_variable(error.to_string())),
        }
    }

    fn of_level(&self, level: LogLevel) -> EnvFilter {
        let name = level.as_str();
        let is_of_all = self.crates.is_empty();
        match level {
            LogLevel::Info | LogLevel::Debug if !is_of_all => {
                // Libraries report trouble only: their small events would hide the program's own.
                let own = self.crates.iter().map(|own| format!(",{own}={name}"));
                EnvFilter::new(format!("warn{}", own.collect::<String>()))
            }
            LogLevel::Info | LogLevel::Debug => EnvFilter::new(name),
            LogLevel::Error | LogLevel::Warn | LogLevel::Trace => EnvFilter::new(name),
        }
    }

    /// Starts to log. A second call changes nothing, nor does a call in a process that logs already. A file
    /// that cannot be opened is retried; until then lines go to standard error.
    ///
    /// # Errors
    /// What is wrong with the filter in the environment.
    pub fn start(&self, section: &LogSection, data_dir: &Path) -> Result<(), String> {
        // Reloadable, so that an operator can debug a fault that a restart would hide.
        let (filter, handle) = reload::Layer::new(self.filter(section.level)?);
        let mut not_opened = None;
        let (lines, is_terminal) = match &section.file {
            None => (crate::log::start(StandardError), io::stderr().is_terminal()),
            Some(file) => {
                let (size, files) = (section.file_max.bytes(), section.files.get());
                let path = file.in_dir(data_dir);
                if path.starts_with(data_dir) {
                    // Otherwise the log would make it, for all users. A failure shows when the file is opened.
                    let _ = make_private_dir(data_dir);
                }
                let (rotated, opened) = Rotated::open(&path, size, files);
                not_opened = opened.err();
                (crate::log::start(rotated), false)
            }
        };
        let layer = tracing_subscriber::fmt::layer()
            .with_target(self.has_target)
            .log_internal_errors(false)
            .with_writer(move || lines.clone());
        let registry = tracing_subscriber::registry().with(filter);
        let is_journal = section.file.is_none() && journal::is_standard_error();
        let started = match section.format {
            LogFormat::Text if is_journal => {
                let format = journal::Format::new(self.has_target);
                let layer = layer.fmt_fields(debug_fn(field).delimited(" "));
                registry
                    .with(layer.with_ansi(false).event_format(format))
                    .try_init()
            }
            LogFormat::Text => {
                // Fields are escaped one by one: on a terminal the whole line has colours, which are escapes.
                let layer = layer.fmt_fields(debug_fn(field).delimited(" "));
                registry.with(layer.with_ansi(is_terminal)).try_init()
            }
            LogFormat::Json => {
                let layer = layer.map_writer(|lines| move || EscapedLines(lines()));
                registry.with(layer.json().flatten_event(true)).try_init()
            }
        };
        match started {
            Ok(()) => {
                // Only here: a handle of a subscriber that is not installed would change nothing.
                let _ = FILTER.set(handle);
            }
            Err(error) => tracing::debug!(%error, "logging was already set up"),
        }
        let path = section.file.as_ref().map(|file| file.in_dir(data_dir));
        if let (Some(error), Some(path)) = (not_opened, &path) {
            tracing::error!(
                path = %path.display(), error = in_words(&error),
                "cannot open log.file; logging to standard error until it can be opened"
            );
        }
        let left = section
            .file
            .as_ref()
            .and_then(|file| file.left_behind(data_dir));
        if let (Some(left), Some(path)) = (left, &path) {
            tracing::warn!(
                former = %left.display(), now = %path.display(),
                "log.file is a relative path, which is resolved against the data directory; a former version wrote next \
                 to the config file"
            );
        }
        Ok(())
    }
}

/// Opens the log file again with the next line. For programs that rotate logs, which rename it and send SIGHUP.
pub fn reopen() {
    REOPENS.fetch_add(1, Ordering::Relaxed);
}

/// Returns how often [`reopen`] was called. Other files that a program rotates follow it, too.
pub fn reopens() -> u64 {
    REOPENS.load(Ordering::Relaxed)
}

/// Replaces the filter of the running program.
///
/// # Errors
/// What is wrong with the filter.
pub fn set_filter(filter: &str) -> Result<(), String> {
    let filter = parse_filter(filter.trim())?;
    let handle = FILTER
        .get()
        .ok_or("another part of this process set up its log")?;
    handle.reload(filter).map_err(|error| error.to_string())
}
