//! Config files in TOML, read once into types that cannot be wrong.
//!
//! ```text
//! file --parse--> tree with spans --environment--> merged tree --Deserialize--> a program's own types
//!                                                       |
//!                       Mistake (a key or a span) ------+--> ConfigError: file:line, or the variable
//! ```
//!
//! Syntax is explained by `slips`, the deserializer's messages by `words`; a value from outside is read by
//! [`crate::value`]. Every value keeps its place in the file while it is checked, so each mistake has its line: of a plain key,
//! a dotted key and an inline table alike. A value from the environment has a place after the end of the
//! file, one for each variable. Unknown keys are mistakes, and get a suggestion.
//!
//! The programs' own keys, defaults and checks are not here: each section has a file in the program's
//! `config` module.

mod changes;
mod environment;
mod error;
mod schema;
mod slips;
mod units;
mod words;

pub use changes::first_change;
pub use environment::{Environment, Unknown, Variable, missing_from_examples};
pub use error::{ConfigError, Location, Mistake};
pub use schema::{Key, Kind};
pub use units::{
    BoundedInt, ByteSize, ConfigDuration, DataPath, FilePath, Interval, Timeout, UnitError,
    as_text, at_least_one, longer_than_zero, optional_path, text,
};
pub use words::{PROGRAM_SECTIONS, closest};

use crate::value::{self, ValueError};
use environment::Set;
use error::At;
use serde::de::DeserializeOwned;
use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt;
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
    environment: Option<Environment>,
    /// Where sections and keys are, by `section` and `section.key`.
    spans: HashMap<String, Range<usize>>,
}

/// Where a config comes from. `Display` describes it for people.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Source {
    /// The file; `None` where there is none.
    pub file: Option<PathBuf>,
    /// The number of environment variables that set a key.
    pub variables: usize,
    /// Another file of the program with values of keys that both lack, if there is one.
    pub kept: Option<PathBuf>,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = match self.variables {
            1 => "1 environment variable".to_owned(),
            count => format!("{count} environment variables"),
        };
        match (&self.file, self.variables) {
            (Some(file), 0) => write!(f, "{}", file.display())?,
            (Some(file), _) => write!(f, "{} and {count}", file.display())?,
            (None, _) => write!(f, "{count}, without a config file")?,
        }
        match &self.kept {
            Some(kept) => write!(f, ", with {}", kept.display()),
            None => Ok(()),
        }
    }
}

impl Environment {
    /// Reads a file, and overrides it by the environment. Where the environment sets a key, the file need not
    /// exist.
    ///
    /// # Errors
    /// [`ConfigError`] with the line or the variable of the first mistake.
    pub fn load<T: DeserializeOwned>(&self, path: &Path) -> Result<(T, Document), ConfigError> {
        self.load_with(path, |name| std::env::var_os(name))
    }

    /// The same, with the variables that `get` returns.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_with<T: DeserializeOwned, V: Into<OsString>>(
        &self,
        path: &Path,
        get: impl Fn(&str) -> Option<V>,
    ) -> Result<(T, Document), ConfigError> {
        // The environment comes first: whether a missing file is a mistake depends on it.
        let set = self
            .set::<T, V>(get)
            .map_err(|(name, error)| ConfigError::Mistake {
                path: path.to_owned(),
                location: Location::Variable(name),
                message: error.to_string(),
            })?;
        let (text, has_file) = match read(path) {
            Ok(text) => (text, true),
            Err(ReadError::Io(error))
                if error.kind() == std::io::ErrorKind::NotFound && !set.is_empty() =>
            {
                (String::new(), false)
            }
            Err(ReadError::Io(source)) => {
                return Err(ConfigError::Read {
                    path: path.to_owned(),
                    prefix: self.prefix,
                    source,
                });
            }
            Err(ReadError::Text(error)) => return Err(not_a_text(path, &error)),
        };
        let mut document = Document::new(path, text, has_file, set);
        document.environment = Some(*self);
        document.read()
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
        let set = self
            .set::<T, _>(|name| std::env::var_os(name))
            .unwrap_or_default();
        if let Some(set) = set.into_iter().find(is_key) {
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

/// Returns the text of a config file, in each encoding that is taken, also when it has mistakes.
///
/// # Errors
/// Why it cannot be read, for people.
pub fn text_of(path: &Path) -> Result<String, String> {
    read(path).map_err(|error| match error {
        ReadError::Io(error) => crate::shortage::in_words(&error),
        ReadError::Text(error) => error.to_string(),
    })
}

/// Returns the directory against which relative paths of a config file are resolved.
pub fn base_of(path: &Path) -> PathBuf {
    std::path::absolute(path)
        .ok()
        .and_then(|path| path.parent().map(Path::to_owned))
        .unwrap_or_default()
}

/// Why a config file cannot be read.
enum ReadError {
    Io(std::io::Error),
    Text(ValueError),
}

fn read(path: &Path) -> Result<String, ReadError> {
    let bytes = read_bytes(path).map_err(ReadError::Io)?;
    value::decode(&bytes).map_err(ReadError::Text)
}

fn read_bytes(path: &Path) -> std::io::Result<Vec<u8>> {
    // Checked before the read: a wrong `--config` may name a disk image.
    let metadata = std::fs::metadata(path)?;
    if metadata.is_dir() {
        return Err(std::io::Error::other("it is a directory, not a file"));
    }
    // The open of a named pipe waits until a program writes to it, perhaps for ever. A shell has opened what it names
    // with `<(...)`, so that works.
    if !metadata.is_file() && !is_descriptor(path) {
        return Err(std::io::Error::other("it is not a regular file"));
    }
    if metadata.len() > FILE_MAX_BYTES {
        let limit = FILE_MAX_BYTES >> 20;
        return Err(std::io::Error::other(format!(
            "it is larger than {limit} MiB, the limit for a config file"
        )));
    }
    std::fs::read(path)
}

/// Returns whether a path names an open file or a device, such as `/dev/stdin` and `/dev/fd/63`.
fn is_descriptor(path: &Path) -> bool {
    path.starts_with("/dev") || path.starts_with("/proc")
}

fn not_a_text(path: &Path, error: &ValueError) -> ConfigError {
    ConfigError::Mistake {
        path: path.to_owned(),
        location: match error {
            ValueError::NotUtf8 { line } => Location::Line(*line),
            _ => Location::Config,
        },
        message: error.to_string(),
    }
}

impl Document {
    fn new(path: &Path, text: String, has_file: bool, set: Vec<Set>) -> Self {
        Self {
            path: path.to_owned(),
            text,
            has_file,
            set,
            environment: None,
            spans: HashMap::new(),
        }
    }

    fn read<T: DeserializeOwned>(mut self) -> Result<(T, Self), ConfigError> {
        let tree = self.merged()?;
        self.check_sections(&tree, &schema::sections::<T>())?;
        self.check_headers(&tree, &schema::sections::<T>())?;
        self.check_texts(&tree, "")?;
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
            .map_err(|error| self.explain::<T>(&error))?;
        // Kept for checks that come after deserialization, when the tree is gone.
        self.spans = spans;
        Ok((config, self))
    }

    /// Rejects unknown sections, also those of the other program. The deserializer would take them for keys, and would
    /// first find the keys that differ in a section that both programs have.
    fn check_sections(
        &self,
        tree: &DeTable<'_>,
        sections: &[schema::Section],
    ) -> Result<(), ConfigError> {
        if sections.is_empty() {
            return Ok(());
        }
        let is_section = |value: &DeValue<'_>| match value {
            DeValue::Table(_) => true,
            DeValue::Array(items) => items.iter().any(|item| item.get_ref().is_table()),
            _ => false,
        };
        let unknown = tree.iter().filter(|(name, value)| {
            let name: &str = name.get_ref();
            is_section(value.get_ref()) && sections.iter().all(|section| section.name != name)
        });
        let unknown: Vec<_> = unknown.collect();
        let of_program = unknown.iter().find_map(|(name, value)| {
            let message = words::of_other_program(name.get_ref(), sections)?;
            Some((value.span(), message))
        });
        let found = of_program.or_else(|| {
            let (name, value) = unknown.first()?;
            Some((
                value.span(),
                words::unknown_section(name.get_ref(), sections),
            ))
        });
        match found {
            Some((span, message)) => Err(self.error(Some(span), &message)),
            None => Ok(()),
        }
    }

    /// Rejects `[name]` for a list and `[[name]]` for a section. The deserializer would take the entries of a list for
    /// the keys of the section, in their order.
    fn check_headers(
        &self,
        tree: &DeTable<'_>,
        sections: &[schema::Section],
    ) -> Result<(), ConfigError> {
        for section in sections {
            let Some(value) = tree.get(section.name) else {
                continue;
            };
            let name = section.name;
            let message = match (value.get_ref(), section.is_list) {
                (DeValue::Table(_), true) => {
                    format!("[{name}] is a list: write [[{name}]], one header for each entry")
                }
                (DeValue::Array(_), false) => format!("[[{name}]] is no list: write [{name}]"),
                _ => continue,
            };
            return Err(self.error(Some(value.span()), &message));
        }
        Ok(())
    }

    /// Rejects texts with invisible characters. The values' own checks would find them, too, and not see the reason.
    fn check_texts(&self, table: &DeTable<'_>, prefix: &str) -> Result<(), ConfigError> {
        for (name, value) in table {
            self.check_text(value, &format!("{prefix}{}", name.get_ref()))?;
        }
        Ok(())
    }

    fn check_text(&self, value: &Spanned<DeValue<'_>>, key: &str) -> Result<(), ConfigError> {
        match value.get_ref() {
            DeValue::String(text) => {
                // A control character in a path has words of its own, about backslashes.
                let is_odd = |c: &char| value::is_invisible(*c) && !c.is_control();
                match text.chars().find(is_odd) {
                    Some(odd) => {
                        let odd = value::name_of(odd);
                        Err(self.error(
                            Some(value.span()),
                            &format!("`{key}` has {odd} inside: remove it"),
                        ))
                    }
                    None => Ok(()),
                }
            }
            DeValue::Array(items) => items.iter().try_for_each(|item| self.check_text(item, key)),
            DeValue::Table(table) => self.check_texts(table, &format!("{key}.")),
            DeValue::Integer(_)
            | DeValue::Float(_)
            | DeValue::Boolean(_)
            | DeValue::Datetime(_) => Ok(()),
        }
    }

    /// Returns a mistake that the deserializer found, in the words of a config.
    fn explain<T: DeserializeOwned>(&self, error: &toml::de::Error) -> ConfigError {
        let sections = schema::sections::<T>();
        if let Some(error) = self.missing_in_section::<T>(error, &sections) {
            return self.in_words(&error, &sections);
        }
        self.in_words(error, &sections)
    }

    /// Where a whole section is missing, returns what is missing in it: this is what the administrator has to write.
    fn missing_in_section<T: DeserializeOwned>(
        &self,
        error: &toml::de::Error,
        sections: &[schema::Section],
    ) -> Option<toml::de::Error> {
        let name = error
            .message()
            .strip_prefix("missing field `")?
            .strip_suffix('`')?;
        let section = sections
            .iter()
            .find(|section| section.name == name && !section.is_list)?;
        let mut tree = self.merged().ok()?;
        let outside = self.variable_span(self.set.len());
        if tree.contains_key(section.name) {
            return None;
        }
        tree.insert(
            Spanned::new(outside.clone(), section.name.into()),
            Spanned::new(outside.clone(), DeValue::Table(DeTable::new())),
        );
        let deserializer = toml::de::Deserializer::from(Spanned::new(outside, tree));
        T::deserialize(deserializer).err()
    }

    fn in_words(&self, error: &toml::de::Error, sections: &[schema::Section]) -> ConfigError {
        // The names on the way are only in the text of the error: "message, line break, in `limits.wait`".
        let text = error.to_string();
        let path = text
            .trim_end()
            .rsplit_once("\nin `")
            .and_then(|(_, path)| path.strip_suffix('`'));
        let path: Vec<String> = path
            .into_iter()
            .flat_map(|path| path.split('.'))
            .map(str::to_owned)
            .collect();
        let value = error.span().and_then(|span| self.text.get(span));
        let context = words::Context {
            path: &path,
            sections,
            is_date: value.is_some_and(|value| value.starts_with(|c: char| c.is_ascii_digit())),
            variable: &|section, key| Some(self.environment?.variable_of(section, key)),
        };
        self.error(
            error.span(),
            &words::in_plain_words(error.message(), &context),
        )
    }

    /// Returns the file's tree with the environment's values in it.
    fn merged(&self) -> Result<DeTable<'_>, ConfigError> {
        let mut tree = DeTable::parse(&self.text)
            .map(Spanned::into_inner)
            .map_err(|error| {
                let at = error.span().map_or(0, |span| span.start);
                let message = slips::in_words(&self.text, at, error.message());
                self.error(error.span(), &message)
            })?;
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
        let whole = match self.has_file {
            true => Location::Config,
            false => Location::Environment,
        };
        let Some(start) = span.map(|span| span.start) else {
            return whole;
        };
        // Bytes, not characters: a span may end inside of one where the text is not TOML.
        if let Some(before) = self.text.as_bytes().get(..start) {
            let breaks = before.iter().filter(|byte| **byte == b'\n').count();
            return match self.has_file {
                true => Location::Line(1 + breaks),
                false => whole,
            };
        }
        let index = start - self.text.len() - 1;
        match self.set.get(index) {
            Some(set) => Location::Variable(set.variable.name.clone()),
            None => whole,
        }
    }

    fn error(&self, span: Option<Range<usize>>, message: &str) -> ConfigError {
        ConfigError::Mistake {
            path: self.path.clone(),
            location: self.location(span),
            message: message.to_owned(),
        }
    }

    /// Returns where the config comes from, for people: the file, the environment, or both.
    pub fn source(&self) -> Source {
        Source {
            file: self.has_file.then(|| self.path.clone()),
            variables: self.set.len(),
            kept: None,
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
