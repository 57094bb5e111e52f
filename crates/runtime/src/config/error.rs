//! A mistake in a config: where it is, what is wrong, what would be right.

use crate::shortage::in_words;
use std::fmt;
use std::io::ErrorKind;
use std::ops::Range;
use std::path::PathBuf;

/// Why a config cannot be used. Shown as `file:line: what is wrong`.
#[derive(Debug)]
pub enum ConfigError {
    /// The file cannot be read.
    Read {
        /// The file.
        path: PathBuf,
        /// The prefix of the program's environment variables.
        prefix: &'static str,
        /// The error of the system.
        source: std::io::Error,
    },
    /// The file can be read, and something in it or in the environment is wrong.
    Mistake {
        /// The file.
        path: PathBuf,
        /// Where the mistake is.
        location: Location,
        /// What is wrong, and what would be right.
        message: String,
    },
}

/// Where a mistake is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// In a line of the file, counted from 1.
    Line(usize),
    /// In an environment variable.
    Variable(String),
    /// In the config as a whole, for example a key that is missing in both.
    Config,
    /// In the environment as a whole, where there is no file.
    Environment,
}

impl ConfigError {
    /// Returns whether the same error would end every further start until the administrator corrects the config.
    pub fn needs_correction(&self) -> bool {
        match self {
            Self::Mistake { .. } => true,
            // A file system may come back.
            Self::Read { source, .. } => matches!(
                source.kind(),
                ErrorKind::NotFound | ErrorKind::PermissionDenied
            ),
        }
    }

    /// Returns where the mistake is, without any text of the config. A config may hold secrets, and this text
    /// leaves the machine.
    pub fn place(&self) -> String {
        match self {
            Self::Read { .. } => "cannot read the config file".into(),
            Self::Mistake { location, .. } => match location {
                Location::Line(line) => format!("config rejected at line {line}"),
                Location::Variable(name) => {
                    format!("config rejected at the environment variable {name}")
                }
                Location::Config | Location::Environment => "config rejected".into(),
            },
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read {
                path,
                prefix,
                source,
            } => match source.kind() {
                ErrorKind::NotFound => write!(
                    f,
                    "the config file {} does not exist; name another with --config or {prefix}_CONFIG",
                    path.display()
                ),
                _ => write!(
                    f,
                    "cannot read the config file {}: {}; name another with --config or {prefix}_CONFIG",
                    path.display(),
                    in_words(source)
                ),
            },
            Self::Mistake {
                path,
                location,
                message,
            } => match location {
                Location::Line(line) => write!(f, "{}:{line}: {message}", path.display()),
                Location::Variable(name) => write!(f, "environment variable {name}: {message}"),
                Location::Config => write!(f, "{}: {message}", path.display()),
                Location::Environment => write!(
                    f,
                    "environment variables, without a config file {}: {message}",
                    path.display()
                ),
            },
        }
    }
}

// Without a source: the text has the cause, before the remedy.
impl std::error::Error for ConfigError {}

/// A value that parses, and contradicts another one or a limit.
#[derive(Debug, Clone)]
pub struct Mistake {
    pub(super) at: At,
    pub(super) message: String,
}

#[derive(Debug, Clone)]
pub(super) enum At {
    Key(String),
    Span(Range<usize>),
}

impl Mistake {
    /// At a key, `section.key`. The message begins with the key, so that it can be understood without its line.
    pub fn of_key(key: &str, message: impl fmt::Display) -> Self {
        Self {
            at: At::Key(key.to_owned()),
            message: format!("{key} {message}"),
        }
    }

    /// At a value that kept its span.
    pub fn at(span: Range<usize>, message: impl Into<String>) -> Self {
        Self {
            at: At::Span(span),
            message: message.into(),
        }
    }
}
