//! A mistake in a config: where it is, what is wrong, what would be right.

use std::fmt;
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
}

impl ConfigError {
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
                Location::Config => "config rejected".into(),
            },
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read { path, prefix, .. } => write!(
                f,
                "cannot read the config file {}; name another with --config or {prefix}_CONFIG",
                path.display()
            ),
            Self::Mistake {
                path,
                location,
                message,
            } => match location {
                Location::Line(line) => write!(f, "{}:{line}: {message}", path.display()),
                Location::Variable(name) => write!(f, "environment variable {name}: {message}"),
                Location::Config => write!(f, "{}: {message}", path.display()),
            },
        }
    }
}

impl std::error::Error for ConfigError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Read { source, .. } => Some(source),
            Self::Mistake { .. } => None,
        }
    }
}

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

/// Rewrites a message of the deserializer: an unknown key gets a suggestion.
///
/// serde has no typed error for it, only this text, which its documentation promises in
/// `serde::de::Error::unknown_field`.
pub(super) fn in_plain_words(message: &str) -> String {
    let message = message.trim();
    let Some(rest) = message.strip_prefix("unknown field `") else {
        return message
            .strip_prefix("missing field ")
            .map_or_else(|| message.to_owned(), |rest| format!("missing key {rest}"));
    };
    // The text is: name` , expected one of `a`, `b`. Every second part is between backticks.
    let mut quoted = rest.split('`').step_by(2);
    let given = quoted.next().unwrap_or_default();
    let known: Vec<&str> = quoted.filter(|name| !name.is_empty()).collect();
    match closest(given, known.iter().copied()) {
        Some(near) => format!("unknown key `{given}`; did you mean `{near}`?"),
        None => format!("unknown key `{given}`; known here: {}", known.join(", ")),
    }
}

/// Returns the known name that is most like the given one, if one is like it at all.
pub(super) fn closest<'a>(given: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let scored = known.map(|name| (strsim::damerau_levenshtein(given, name), name));
    let (distance, name) = scored.min_by_key(|(distance, _)| *distance)?;
    // A third of the letters may differ, as compilers have it: beyond that a suggestion misleads.
    (distance <= (given.len().max(3)) / 3).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_key_gets_a_suggestion_if_one_is_near() {
        let message = "unknown field `relais`, expected one of `relay`, `bridge`";
        assert_eq!(
            in_plain_words(message),
            "unknown key `relais`; did you mean `relay`?"
        );
        let message = "unknown field `colour`, expected `name` or `url`";
        assert_eq!(
            in_plain_words(message),
            "unknown key `colour`; known here: name, url"
        );
        assert_eq!(in_plain_words("missing field `url`"), "missing key `url`");
    }
}
