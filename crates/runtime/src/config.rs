//! Config files in TOML, read once into types that cannot be wrong.
//!
//! ```text
//! file --parse--> tree with spans --environment--> merged tree --Deserialize--> a program's own types
//!                                                       |
//!                       Mistake (a key or a span) ------+--> ConfigError: file:line, or the variable
//! ```
//!
//! Every value keeps its place in the file while it is checked, so each mistake has its line: of a plain key,
//! a dotted key and an inline table alike. A value from the environment has a place after the end of the
//! file, one for each variable. Unknown keys are mistakes, and get a suggestion.
//!
//! The programs' own keys, defaults and checks are not here: each section has a file in the program's
//! `config` module.

mod changes;
mod environment;
mod error;
mod schema;
mod units;

pub use changes::first_change;
pub use environment::{Environment, Variable, missing_from_examples};
pub use error::{ConfigError, Location, Mistake};
pub use schema::{Key, Kind};
pub use units::{
    BoundedInt, ByteSize, ConfigDuration, FilePath, Interval, Timeout, UnitError, as_text,
    at_least_one, longer_than_zero, optional_path, text,
};

use environment::Set;
use error::At;
use serde::de::DeserializeOwned;
use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Largest config file, in bytes. A longer one is a wrong `--config`.
const FILE_MAX_BYTES: u64 = 4 * 1024 * 1024;

/// A config that was read, and where its values are: for mistakes that a program's checks find.
#[derive(Debug)]
pub struct Document {
    path: PathBuf,
    text: String,
    /// Whether the file exists; without it the environment gives everything.
    has_file: bool,
    set: Vec<Set>,
    /// Where sections and keys are, by `section` and `section.key`.
    spans: HashMap<String, Range<usize>>,
}

impl Environment {
    /// Reads a file, and overrides it by the environment. Where the environment sets a key, the file need not
    /// exist.
    ///
    /// # Errors
    /// [`ConfigError`] with the line or the variable of the first mistake.
    pub fn load<T: DeserializeOwned>(&self, path: &Path) -> Result<(T, Document), ConfigError> {
        self.load_with(path, |name| std::env::var(name).ok())
    }

    /// The same, with the variables that `get` returns.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_with<T: DeserializeOwned>(
        &self,
        path: &Path,
        get: impl Fn(&str) -> Option<String>,
    ) -> Result<(T, Document), ConfigError> {
        // The environment comes first: whether a missing file is a mistake depends on it.
        let set = self.set::<T>(get);
        let (text, has_file) = match read(path) {
            Ok(text) => (text, true),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !set.is_empty() => {
                (String::new(), false)
            }
            Err(source) => {
                return Err(ConfigError::Read {
                    path: path.to_owned(),
                    prefix: self.prefix,
                    source,
                });
            }
        };
        Document::new(path, text, has_file, set).read()
    }

    /// Reads one key, also when the rest of the config has mistakes.
    pub fn value_of<T: DeserializeOwned>(
        &self,
        path: &Path,
        section: &str,
        key: &str,
    ) -> Option<String> {
        let is_key =
            |set: &Set| set.variable.key.section == Some(section) && set.variable.key.name == key;
        let mut set = self.set::<T>(|name| std::env::var(name).ok()).into_iter();
        if let Some(set) = set.find(is_key) {
            return Some(set.text);
        }
        let table: toml::Table = read(path).ok()?.parse().ok()?;
        let value = table.get(section)?.get(key)?.as_str()?;
        Some(value.to_owned())
    }
}

/// Reads a text as the file at `path`, without the environment.
///
/// # Errors
/// [`ConfigError`] with the line of the first mistake.
pub fn parse<T: DeserializeOwned>(text: &str, path: &Path) -> Result<(T, Document), ConfigError> {
    Document::new(path, text.to_owned(), true, Vec::new()).read()
}

/// Returns the directory against which relative paths of a config file are resolved.
pub fn base_of(path: &Path) -> PathBuf {
    std::path::absolute(path)
        .ok()
        .and_then(|path| path.parent().map(Path::to_owned))
        .unwrap_or_default()
}

fn read(path: &Path) -> std::io::Result<String> {
    // Checked before the read: a wrong `--config` may name a disk image.
    if std::fs::metadata(path)?.len() > FILE_MAX_BYTES {
        let limit = FILE_MAX_BYTES >> 20;
        return Err(std::io::Error::other(format!(
            "it is larger than {limit} MiB, the limit for a config file"
        )));
    }
    std::fs::read_to_string(path)
}

impl Document {
    fn new(path: &Path, text: String, has_file: bool, set: Vec<Set>) -> Self {
        Self {
            path: path.to_owned(),
            text,
            has_file,
            set,
            spans: HashMap::new(),
        }
    }

    fn read<T: DeserializeOwned>(mut self) -> Result<(T, Self), ConfigError> {
        let tree = self.merged()?;
        let mut spans = HashMap::new();
        collect_spans(&tree, "", &mut spans);
        // Without a file a mistake in the whole must not name its first line.
        let whole = match self.has_file {
            true => 0..self.text.len(),
            false => self.variable_span(self.set.len()),
        };
        let deserializer = toml::de::Deserializer::from(Spanned::new(whole, tree));
        let base = base_of(&self.path);
        let config = units::with_base(&base, || T::deserialize(deserializer))
            .map_err(|error| self.error(error.span(), error.message()))?;
        // Kept for checks that come after deserialization, when the tree is gone.
        self.spans = spans;
        Ok((config, self))
    }

    /// Returns the file's tree with the environment's values in it.
    fn merged(&self) -> Result<DeTable<'_>, ConfigError> {
        let mut tree = DeTable::parse(&self.text)
            .map(Spanned::into_inner)
            .map_err(|error| self.error(error.span(), error.message()))?;
        let outside = self.variable_span(self.set.len());
        for (index, set) in self.set.iter().enumerate() {
            let span = self.variable_span(index);
            environment::put(&mut tree, set, span.clone(), outside.clone())
                .map_err(|message| self.error(Some(span), &message))?;
        }
        Ok(tree)
    }

    /// Variables have one byte each after the end of the text; the byte after the last one is for what is
    /// in neither.
    fn variable_span(&self, index: usize) -> Range<usize> {
        let start = self.text.len() + 1 + index;
        start..start + 1
    }

    fn location(&self, span: Option<Range<usize>>) -> Location {
        let Some(start) = span.map(|span| span.start) else {
            return Location::Config;
        };
        // Bytes, not characters: a span may end inside of one where the text is not TOML.
        if let Some(before) = self.text.as_bytes().get(..start) {
            let breaks = before.iter().filter(|byte| **byte == b'\n').count();
            return match self.has_file {
                true => Location::Line(1 + breaks),
                false => Location::Config,
            };
        }
        let index = start - self.text.len() - 1;
        match self.set.get(index) {
            Some(set) => Location::Variable(set.variable.name.clone()),
            None => Location::Config,
        }
    }

    fn error(&self, span: Option<Range<usize>>, message: &str) -> ConfigError {
        let location = self.location(span);
        let mut message = error::in_plain_words(message);
        if let Location::Variable(name) = &location
            && let Some(set) = self.set.iter().find(|set| set.variable.name == *name)
            && set.variable.key.kind == Kind::Text
            && set.text.starts_with(['"', '\''])
        {
            // `docker --env-file` passes quotation marks on as part of the value.
            message.push_str("; the value begins with a quotation mark: remove the quotes");
        }
        ConfigError::Mistake {
            path: self.path.clone(),
            location,
            message,
        }
    }

    /// Returns the error for a mistake that a check of the program found.
    pub fn reject(&self, mistake: Mistake) -> ConfigError {
        let span = match mistake.at {
            At::Span(span) => Some(span),
            At::Key(key) => self.span_of(&key),
        };
        self.error(span, &mistake.message)
    }

    /// Returns where a key is, or its section where the key is left out.
    fn span_of(&self, key: &str) -> Option<Range<usize>> {
        let section = || self.spans.get(key.split_once('.')?.0);
        self.spans.get(key).or_else(section).cloned()
    }
}

fn collect_spans(table: &DeTable<'_>, prefix: &str, spans: &mut HashMap<String, Range<usize>>) {
    for (name, value) in table {
        let key = format!("{prefix}{}", name.get_ref());
        if let DeValue::Table(inner) = value.get_ref() {
            collect_spans(inner, &format!("{key}."), spans);
        }
        spans.insert(key, value.span());
    }
}

#[cfg(test)]
mod tests;
