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

mod rotated;

use crate::config::{BoundedInt, ByteSize, FilePath};
use crate::log::{Lines, StandardError};
use crate::peer_text::{Escaping, escape};
use rotated::Rotated;
use serde::{Deserialize, Serialize};
use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal as _};
use std::sync::OnceLock;
use tracing::field::Field;
use tracing_subscriber::field::MakeExt as _;
use tracing_subscriber::fmt::format::{Writer, debug_fn};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry, reload};

static FILTER: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// `[log]`: what is written to standard error, or to a file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogSection {
    /// From which level on lines are written. Defaults to `"info"`.
    pub level: LogLevel,
    /// Text for people, or JSON for programs. Defaults to `"text"`.
    pub format: LogFormat,
    /// A file to write to. Defaults to none: lines go to standard error.
    pub file: Option<FilePath>,
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
    fn filter(&self, level: LogLevel) -> EnvFilter {
        if let Ok(filter) = EnvFilter::try_from_env(self.filter_variable) {
            return filter;
        }
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
    pub fn start(&self, section: &LogSection) {
        // Reloadable, so that an operator can debug a fault that a restart would hide.
        let (filter, handle) = reload::Layer::new(self.filter(section.level));
        let mut not_opened = None;
        let (lines, is_terminal) = match &section.file {
            None => (crate::log::start(StandardError), io::stderr().is_terminal()),
            Some(file) => {
                let (size, files) = (section.file_max.bytes(), section.files.get());
                let (rotated, opened) = Rotated::open(file.get(), size, files);
                not_opened = opened.err();
                (crate::log::start(rotated), false)
            }
        };
        let layer = tracing_subscriber::fmt::layer()
            .with_target(self.has_target)
            .log_internal_errors(false)
            .with_writer(move || lines.clone());
        let registry = tracing_subscriber::registry().with(filter);
        let started = match section.format {
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
        if let Some(error) = not_opened {
            tracing::error!(%error, "cannot open log.file; logging to standard error until it can be opened");
        }
    }
}

/// Writes a field of an event as `name=value`, and the message alone.
fn field(writer: &mut Writer<'_>, field: &Field, value: &dyn fmt::Debug) -> fmt::Result {
    match field.name() {
        "message" => {}
        name if writer.has_ansi_escapes() => {
            // Italic and dimmed, as in the library's own format.
            write!(writer, "\u{1b}[3m{name}\u{1b}[0m\u{1b}[2m=\u{1b}[0m")?;
        }
        name => write!(writer, "{name}=")?,
    }
    write!(Escaping::line(writer), "{value:?}")
}

/// Escapes in lines of JSON what JSON itself allows in strings, such as C1 and changes of direction.
struct EscapedLines(Lines);

impl io::Write for EscapedLines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match std::str::from_utf8(line.strip_suffix(b"\n").unwrap_or(line)) {
            Ok(text) => {
                let mut text = escape(text).into_owned();
                text.push('\n');
                io::Write::write_all(&mut self.0, text.as_bytes())?;
            }
            // The formatter writes UTF-8 only.
            Err(_) => io::Write::write_all(&mut self.0, line)?,
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Replaces the filter of the running program.
///
/// # Errors
/// What is wrong with the filter.
pub fn set_filter(filter: &str) -> Result<(), String> {
    let filter = EnvFilter::try_new(filter)
        .map_err(|error| format!("{filter:?} is not a log filter: {error}"))?;
    let handle = FILTER
        .get()
        .ok_or("another part of this process set up its log")?;
    handle.reload(filter).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn peer_text_forges_no_log_line() {
        let hostile = "x\n2026-01-01T00:00:00Z ERROR forged\u{1b}[2J\u{9b}31m\u{202e}\r";
        for is_terminal in [false, true] {
            let written = Shared::default();
            let writer = written.clone();
            let layer = tracing_subscriber::fmt::layer()
                .with_writer(move || writer.clone())
                .fmt_fields(debug_fn(field).delimited(" "))
                .with_ansi(is_terminal);
            let subscriber = tracing_subscriber::registry().with(layer);
            tracing::subscriber::with_default(subscriber, || {
                tracing::warn!(host = %hostile, text = hostile, number = 3, "hello {hostile}");
            });
            let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
            assert_eq!(text.lines().count(), 1, "{text:?}");
            assert!(!text.contains("\u{1b}[2J"), "{text:?}");
            for c in ['\r', '\u{9b}', '\u{202e}'] {
                assert!(!text.contains(c), "{text:?}");
            }
            if !is_terminal {
                assert!(text.contains("hello x\\n2026"), "{text:?}");
                assert!(text.contains("host=x\\n2026"), "{text:?}");
                assert!(text.contains(" number=3"), "{text:?}");
                assert!(!text.contains('\u{1b}'), "{text:?}");
            }
        }
    }
}
