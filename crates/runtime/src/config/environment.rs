//! The environment, which overrides the file: for containers, where variables set everything.
//!
//! Every key has a variable: the program's prefix, the section and the key in capitals
//! (`BRIDGE_LIMITS_STREAMS_MAX`). The names come from the config's types. Three rules deviate:
//!
//! - a section that is named like the prefix is left out (`[bridge] name` is `BRIDGE_NAME`);
//! - a list of tables has the plural that the program gives it (`BRIDGE_ENDPOINTS`);
//! - lists and tables are written in TOML (`RELAY_LISTEN_AUTHORITIES='["a.example"]'`).
//!
//! An empty variable counts as not set. [`crate::value`] has the forms that a value may have.

use super::schema::{self, Key, Kind};
use super::slips;
use super::words::closest;
use crate::value::{self, Form, ValueError, shown};
use serde::de::DeserializeOwned;
use std::ffi::OsString;
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// The variables of one program.
#[derive(Debug, Clone, Copy)]
pub struct Environment {
    /// What their names begin with, without the underscore: `BRIDGE`.
    pub prefix: &'static str,
    /// Names for keys of the top level that are not the key in capitals: `("endpoint", "ENDPOINTS")`.
    pub names: &'static [(&'static str, &'static str)],
    /// Variables with this prefix that are no config keys: `BRIDGE_CONFIG`.
    pub others: &'static [&'static str],
}

/// A variable of a config key.
#[derive(Debug, Clone)]
pub struct Variable {
    /// Its name.
    pub name: String,
    /// Its key.
    pub key: Key,
}

/// A variable that is set, with its text.
#[derive(Debug)]
pub(super) struct Set {
    pub(super) variable: Variable,
    pub(super) text: String,
}

impl Environment {
    /// Returns the variables of all keys of a config.
    pub fn variables<T: DeserializeOwned>(&self) -> Vec<Variable> {
        let named = |key: Key| Variable {
            name: self.name(&key),
            key,
        };
        schema::keys::<T>().into_iter().map(named).collect()
    }

    fn name(&self, key: &Key) -> String {
        let given = self.names.iter().find(|(name, _)| *name == key.name);
        // `BRIDGE_BRIDGE_NAME` would stutter.
        let own = match (key.section, given) {
            (None, Some((_, given))) => (*given).to_owned(),
            (Some(section), _) if !section.eq_ignore_ascii_case(self.prefix) => {
                format!("{section}_{}", key.name)
            }
            (Some(_) | None, _) => key.name.to_owned(),
        };
        format!("{}_{}", self.prefix, own.to_ascii_uppercase())
    }

    /// Returns the name of the variable of a section's key.
    pub(super) fn variable_of(&self, section: &str, key: &str) -> String {
        let own = match section.eq_ignore_ascii_case(self.prefix) {
            true => key.to_owned(),
            false => format!("{section}_{key}"),
        };
        format!("{}_{}", self.prefix, own.to_ascii_uppercase())
    }

    /// Returns the variables that are set.
    ///
    /// # Errors
    /// A variable whose value has a form that is refused.
    pub(super) fn set<T: DeserializeOwned, V: Into<OsString>>(
        &self,
        get: impl Fn(&str) -> Option<V>,
    ) -> Result<Vec<Set>, (String, ValueError)> {
        let mut found = Vec::new();
        for variable in self.variables::<T>() {
            let Some(text) = get(&variable.name) else {
                continue;
            };
            let form = match variable.key.kind {
                Kind::Text | Kind::Boolean | Kind::Integer | Kind::Float => Form::Setting,
                Kind::List | Kind::Table => Form::Toml,
            };
            let text: OsString = text.into();
            match value::read(form, text.as_encoded_bytes()) {
                Ok(text) if text.is_empty() => {}
                Ok(text) => found.push(Set { variable, text }),
                Err(error) => return Err((variable.name, error)),
            }
        }
        Ok(found)
    }

    /// Logs what [`Self::unknown`] finds in this process's environment. Only names are logged: a value may be a
    /// secret.
    pub fn warn_of_unknown<T: DeserializeOwned>(&self) {
        let unknown = self.unknown::<T>(variables_of_process());
        for mistake in unknown.mistakes {
            tracing::warn!("{mistake}");
        }
        if let Some(note) = unknown.note {
            tracing::debug!("{note}");
        }
    }

    /// Returns what [`Self::unknown`] finds in this process's environment.
    pub fn unknown_of_process<T: DeserializeOwned>(&self) -> Unknown {
        self.unknown::<T>(variables_of_process())
    }

    fn without_prefix<'a>(&self, names: &[&'a str]) -> Vec<&'a str> {
        let own = names.iter().filter_map(|name| {
            let rest = name.strip_prefix(self.prefix)?;
            rest.strip_prefix('_')
        });
        own.collect()
    }

    /// Returns the variables with the prefix that are no key. A misspelled variable would otherwise be ignored, and
    /// the default be active. Each item is a name with its value.
    pub fn unknown<T: DeserializeOwned>(
        &self,
        variables: impl Iterator<Item = (String, String)>,
    ) -> Unknown {
        let known = self.variables::<T>();
        let known: Vec<&str> = known
            .iter()
            .map(|variable| variable.name.as_str())
            .chain(self.others.iter().copied())
            .collect();
        let mut unknown = Unknown::default();
        let mut ignored = Vec::new();
        for (name, value) in variables {
            let upper = name.to_ascii_uppercase();
            let own = upper
                .strip_prefix(self.prefix)
                .and_then(|rest| rest.strip_prefix('_'));
            let Some(own) = own.filter(|_| !known.contains(&name.as_str())) else {
                continue;
            };
            // Names in small letters belong to other programs, unless they are exactly a key's.
            if upper != name && !known.contains(&upper.as_str()) {
                continue;
            }
            if is_of_kubernetes(own, &value) {
                ignored.push(name);
                continue;
            }
            // `BRIDGE_BRIDGE_NAME`: the section is named like the prefix, and left out.
            let again = format!("{}_", self.prefix);
            let short = own
                .strip_prefix(&again)
                .map(|rest| format!("{again}{rest}"));
            let short = short.and_then(|short| known.iter().copied().find(|known| *known == short));
            let near = short.map(str::to_owned).or_else(|| {
                let near = meant(own, &self.without_prefix(&known))?;
                Some(format!("{again}{near}"))
            });
            unknown.mistakes.push(match near {
                Some(near) => format!("unknown environment variable {name}; did you mean {near}?"),
                None => {
                    format!("unknown environment variable {name}: no config key has this name")
                }
            });
        }
        if let [first, rest @ ..] = ignored.as_slice() {
            let more = match rest.len() {
                0 => String::new(),
                count => format!(" and {count} more"),
            };
            unknown.note = Some(format!(
                "ignored: {first}{more}, which Kubernetes makes for a service of this name (enableServiceLinks: false \
                 switches them off)"
            ));
        }
        unknown
    }
}

/// Returns the variable that is probably meant; all names are without the prefix, which would make them look alike. One
/// that has all the words of the given name comes first: `URL` is meant as `RELAY_URL`.
fn meant<'a>(own: &str, known: &[&'a str]) -> Option<&'a str> {
    let has_all = |name: &str| {
        let mut words = own.split('_');
        words.all(|word| name.split('_').any(|part| part == word))
    };
    let length = |name: &str| name.split('_').count();
    let complete: Vec<&'a str> = known.iter().copied().filter(|name| has_all(name)).collect();
    let fewest = complete.iter().map(|name| length(name)).min();
    let mut shortest = complete
        .iter()
        .copied()
        .filter(|name| Some(length(name)) == fewest);
    // Several of them say nothing: `FILE` is a part of many names.
    if let (Some(only), None) = (shortest.next(), shortest.next()) {
        return Some(only);
    }
    closest(own, known.iter().copied())
}

/// Variables with the prefix of a program that are none of its keys.
#[derive(Debug, Default)]
pub struct Unknown {
    /// One message for each that looks like a mistake, with a suggestion.
    pub mistakes: Vec<String>,
    /// One line about those that Kubernetes makes.
    pub note: Option<String>,
}

fn variables_of_process() -> impl Iterator<Item = (String, String)> {
    // A name that is not UTF-8 is not one of ours.
    std::env::vars_os().filter_map(|(name, value)| {
        Some((
            name.into_string().ok()?,
            value.to_string_lossy().into_owned(),
        ))
    })
}

/// For a service named `relay`, every pod gets `RELAY_SERVICE_HOST`, `RELAY_PORT_443_TCP` and others, whether or not it
/// uses them.
fn is_of_kubernetes(own: &str, value: &str) -> bool {
    let own = format!("_{own}");
    let is_url = ["tcp://", "udp://", "sctp://"]
        .iter()
        .any(|scheme| value.starts_with(scheme));
    let is_number = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    // `_PORT_443_TCP`, and the same with `_PROTO`, `_PORT`, `_ADDR`.
    let is_port = own.rsplit("_PORT_").any(|rest| {
        let (number, rest) = rest.split_once('_').unwrap_or((rest, ""));
        let protocol = rest.split('_').next().unwrap_or_default();
        !number.is_empty()
            && number.bytes().all(|byte| byte.is_ascii_digit())
            && matches!(protocol, "TCP" | "UDP" | "SCTP")
    });
    own.ends_with("_SERVICE_HOST")
        || (is_number && (own.ends_with("_SERVICE_PORT") || own.contains("_SERVICE_PORT_")))
        || (is_url && own.ends_with("_PORT"))
        || is_port
}

/// Returns what the examples of a program's config lack, and what they have that does not exist. For tests. A
/// line after `#` counts, so that an example can show a default without setting it.
pub fn missing_from_examples(variables: &[Variable], toml: &str, env: &str) -> Vec<String> {
    let path = |variable: &Variable| match variable.key.section {
        Some(section) => format!("{section}.{}", variable.key.name),
        // A list of tables: its own keys have no variables.
        None => variable.key.name.to_owned(),
    };
    let known: Vec<String> = variables.iter().map(path).collect();
    let shown = keys_of(toml);
    let mut problems = Vec::new();
    for (variable, key) in variables.iter().zip(&known) {
        if !shown.contains(key) {
            problems.push(format!("the example file lacks {key}"));
        }
        let assigned = format!("{}=", variable.name);
        let is_listed = |line: &str| line.trim_start_matches(['#', ' ']).starts_with(&assigned);
        if !env.lines().any(is_listed) {
            problems.push(format!("the example environment lacks {}", variable.name));
        }
    }
    let unknown = shown.iter().filter(|key| !known.contains(key));
    problems.extend(unknown.map(|key| format!("the example file has {key}, which does not exist")));
    problems
}

/// Returns `section.key` of each line of an example, and the names of its lists of tables.
fn keys_of(toml: &str) -> Vec<String> {
    let header = |line: &str, open: &str| {
        let name = line.strip_prefix(open)?.split(']').next()?;
        Some(name.to_owned())
    };
    let mut section = None;
    let mut keys = Vec::new();
    for line in toml.lines() {
        if let Some(list) = header(line, "[[") {
            keys.push(list);
            section = None;
            continue;
        }
        if let Some(name) = header(line, "[") {
            section = Some(name);
            continue;
        }
        let line = line.trim_start_matches(['#', ' ']);
        let Some((key, _)) = line.split_once(" = ") else {
            continue;
        };
        let is_key = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        if let Some(section) = &section
            && key.bytes().all(is_key)
        {
            keys.push(format!("{section}.{key}"));
        }
    }
    keys
}

/// Puts a variable's value into a table; all of it gets the variable's span.
///
/// # Errors
/// What is wrong with the text.
pub(super) fn put<'a>(
    table: &mut DeTable<'a>,
    set: &'a Set,
    span: Range<usize>,
    outside: Range<usize>,
) -> Result<(), String> {
    let key = set.variable.key;
    let value = everywhere(value(key, &set.text)?, &span);
    let section = match key.section {
        None => table,
        Some(section) => {
            // A section that only the environment has lies outside: what is missing in it is no
            // variable's fault.
            let entry = table
                .entry(Spanned::new(outside.clone(), section.into()))
                .or_insert_with(|| Spanned::new(outside, DeValue::Table(DeTable::new())));
            match entry.get_mut() {
                DeValue::Table(table) => table,
                _ => return Err(format!("{section} must be a section of the config file")),
            }
        }
    };
    // A key compares by its name alone, so an insert would keep the file's span with the new value.
    section.remove(key.name);
    section.insert(
        Spanned::new(span.clone(), key.name.into()),
        Spanned::new(span, value),
    );
    Ok(())
}

fn value(key: Key, text: &str) -> Result<DeValue<'_>, String> {
    let parsed = DeValue::parse(text).map(Spanned::into_inner);
    let why = || slips::of_value(text).map_or_else(String::new, |why| format!(" ({why})"));
    match key.kind {
        Kind::Text => Ok(DeValue::String(text.into())),
        Kind::Boolean => match parsed {
            Ok(value @ DeValue::Boolean(_)) => Ok(value),
            Ok(_) | Err(_) => Err(format!(
                "{} is not true or false: write true or false, in small letters",
                shown(text)
            )),
        },
        Kind::Integer => match parsed {
            Ok(value @ DeValue::Integer(_)) => Ok(value),
            _ if slips::has_leading_zero(text) => Err(format!(
                "the number has leading zeros: write {}",
                slips::without_zeros(text)
            )),
            Ok(_) | Err(_) => Err(format!(
                "{} is not a whole number: write a whole number, like 512",
                shown(text)
            )),
        },
        Kind::Float => match parsed {
            Ok(value @ (DeValue::Integer(_) | DeValue::Float(_))) => Ok(value),
            Ok(_) | Err(_) => Err(format!(
                "{} is not a number: write a number, like 0.5",
                shown(text)
            )),
        },
        Kind::List => match parsed {
            Ok(value @ DeValue::Array(_)) => Ok(value),
            Ok(_) | Err(_) => Err(format!(
                "the value is not a TOML array{}; write {}",
                why(),
                match (key.section, key.name) {
                    (None, "allow") =>
                        "an array of inline tables, like [{host = \"a.example\", methods = [\"POST\"]}]",
                    (None, _) =>
                        "an array of inline tables, like [{name = \"a\", url = \"https://a.example/\"}]",
                    (Some(_), _) => "one like [\"a\", \"b\"]",
                }
            )),
        },
        Kind::Table => match parsed {
            Ok(value @ DeValue::Table(_)) => Ok(value),
            Ok(_) | Err(_) => Err(format!(
                "the value is not a TOML inline table{}; write one like {{ a = 1 }}",
                why()
            )),
        },
    }
}

/// Gives a value and everything in it the same span.
fn everywhere<'a>(value: DeValue<'a>, span: &Range<usize>) -> DeValue<'a> {
    let again = |value: Spanned<DeValue<'a>>| {
        Spanned::new(span.clone(), everywhere(value.into_inner(), span))
    };
    match value {
        DeValue::Array(items) => {
            let mut array = toml::de::DeArray::new();
            for item in items {
                array.push(again(item));
            }
            DeValue::Array(array)
        }
        DeValue::Table(entries) => {
            let mut table = DeTable::new();
            for (key, item) in entries {
                table.insert(Spanned::new(span.clone(), key.into_inner()), again(item));
            }
            DeValue::Table(table)
        }
        DeValue::String(_)
        | DeValue::Integer(_)
        | DeValue::Float(_)
        | DeValue::Boolean(_)
        | DeValue::Datetime(_) => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variable_with_all_words_is_suggested_first() {
        let known = [
            "LOG",
            "LOG_FILE",
            "KEY_FILE",
            "RELAY_URL",
            "RELAY_PROXY",
            "SIGNED_CALLS_PUBLIC_KEY_FILE",
        ];
        for (own, expected) in [
            ("URL", Some("RELAY_URL")),
            ("KEY", Some("KEY_FILE")),
            ("URL_RELAY", Some("RELAY_URL")),
            ("RELAY_URI", Some("RELAY_URL")),
            ("LOGS", Some("LOG")),
            ("FILE", None),
            ("TOKEN", None),
            ("X", None),
        ] {
            assert_eq!(meant(own, &known), expected, "{own}");
        }
    }
}
