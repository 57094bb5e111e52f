//! A mistake in the config file: where it is, what is wrong, what would be right.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Why a config cannot be used. Shown as `file:line: what is wrong`.
#[derive(Debug)]
pub enum ConfigError {
    /// The file cannot be read.
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Something is wrong once the environment was put above the file.
    Environment {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what would be right.
        message: String,
    },
    /// The file can be read and something in it is wrong.
    Mistake {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong, and what would be right.
        message: String,
    },
}

impl ConfigError {
    /// A mistake at a place in the text.
    pub(crate) fn at(
        path: &Path,
        text: &str,
        span: Option<Range<usize>>,
        message: impl Into<String>,
    ) -> Self {
        let start = span.map_or(0, |span| span.start).min(text.len());
        let before = &text.as_bytes()[..start];
        Self::Mistake {
            path: path.to_owned(),
            line: 1 + before.iter().filter(|byte| **byte == b'\n').count(),
            message: message.into(),
        }
    }
}

impl ConfigError {
    /// Where the mistake is, without a word of the file: a config may hold secrets, and this text leaves the
    /// machine.
    pub(crate) fn place(&self) -> String {
        match self {
            Self::Read { .. } => "the config file cannot be read".into(),
            Self::Environment { .. } => {
                "the config with the environment's BRIDGE_ variables was refused".into()
            }
            Self::Mistake { line, .. } => format!("the config was refused at line {line}"),
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read { path, .. } => write!(
                f,
                "the config file {} cannot be read; name another with --config or BRIDGE_CONFIG",
                path.display()
            ),
            Self::Environment { path, message } => write!(
                f,
                "{} with the environment's BRIDGE_ variables: {message}",
                path.display()
            ),
            Self::Mistake {
                path,
                line,
                message,
            } => write!(f, "{}:{line}: {message}", path.display()),
        }
    }
}

impl std::error::Error for ConfigError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Read { source, .. } => Some(source),
            Self::Mistake { .. } | Self::Environment { .. } => None,
        }
    }
}
