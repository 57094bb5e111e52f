//! The environment, which overrides the file: for containers, where variables set everything.
//!
//! Every key has a variable: the program's prefix, the section and the key in capitals
//! (`BRIDGE_LIMITS_STREAMS_MAX`). The names come from the config's types. Three rules deviate:
//!
//! - a section that is named like the prefix is left out (`[bridge] name` is `BRIDGE_NAME`);
//! - a list of tables has the plural that the program gives it (`BRIDGE_ENDPOINTS`);
//! - lists and tables are written in TOML (`RELAY_LISTEN_AUTHORITIES='["a.example"]'`).
//!
//! An empty variable counts as not set.

use super::error::closest;
use super::schema::{self, Key, Kind};
use serde::de::DeserializeOwned;
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

    /// Returns the variables that are set.
    pub(super) fn set<T: DeserializeOwned>(
        &self,
        get: impl Fn(&str) -> Option<String>,
    ) -> Vec<Set> {
        let variables = self.variables::<T>().into_iter();
        let set = |variable: Variable| {
            let text = get(&variable.name)?;
            // Secrets of Kubernetes often end in a line break, from `echo | base64`.
            let text = text.trim_end_matches(['\r', '\n']).to_owned();
            (!text.is_empty()).then_some(Set { variable, text })
        };
        variables.filter_map(set).collect()
    }

    /// Logs what [`Self::unknown`] finds in this process's environment. Only names are logged: a value may be a
    /// secret.
    pub fn warn_of_unknown<T: DeserializeOwned>(&self) {
        for warning in self.unknown::<T>(variable_names()) {
            tracing::warn!("{warning}");
        }
    }

    /// Returns a warning for each variable with the prefix that is no key, with a suggestion. Names that
    /// Kubernetes makes for a service (`RELAY_SERVICE_HOST`, `RELAY_PUBLIC_PORT_443_TCP`) are left out.
    pub fn unknown<T: DeserializeOwned>(&self, names: impl Iterator<Item = String>) -> Vec<String> {
        let known = self.variables::<T>();
        let known: Vec<&str> = known
            .iter()
            .map(|variable| variable.name.as_str())
            .collect();
        // A misspelled variable would otherwise be ignored, and the default be active.
        let is_unknown = |name: &String| {
            let own = name
                .strip_prefix(self.prefix)
                .and_then(|rest| rest.strip_prefix('_'));
            own.is_some_and(|own| !is_of_kubernetes(own))
                && !known.contains(&name.as_str())
                && !self.others.contains(&name.as_str())
        };
        let warn = |name: String| match closest(&name, known.iter().copied()) {
            Some(near) => format!("unknown environment variable {name}; did you mean {near}?"),
            None => format!("unknown environment variable {name}: no config key has this name"),
        };
        names.filter(is_unknown).map(warn).collect()
    }
}

fn variable_names() -> impl Iterator<Item = String> {
    // A name that is not UTF-8 is not one of ours.
    std::env::vars_os().filter_map(|(name, _)| name.into_string().ok())
}

fn is_of_kubernetes(own: &str) -> bool {
    // For a service named `relay` every pod gets these, whether or not it uses them.
    let is_port = own == "PORT" || own.ends_with("_PORT");
    is_port || own.contains("PORT_") || own.contains("SERVICE_HOST")
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
    // The message of the parser names no part of the text, which may be a secret.
    let parse = || {
        DeValue::parse(text.trim())
            .map(Spanned::into_inner)
            .map_err(|error| error.message().to_owned())
    };
    match key.kind {
        Kind::Text => Ok(DeValue::String(text.into())),
        Kind::Scalar => match parse() {
            Ok(value @ (DeValue::Integer(_) | DeValue::Float(_) | DeValue::Boolean(_))) => {
                Ok(value)
            }
            Ok(_) | Err(_) => Err(format!("{text:?} is not a number, and not true or false")),
        },
        Kind::List => match parse() {
            Ok(value @ DeValue::Array(_)) => Ok(value),
            other => Err(format!(
                "not a TOML array ({}); write {}",
                other.map_or_else(|error| error, |_| "it is another type".into()),
                match key.section {
                    None =>
                        "an array of inline tables, like [{name = \"a\", url = \"https://a.example/\"}]",
                    Some(_) => "one like [\"a\", \"b\"]",
                }
            )),
        },
        Kind::Table => match parse() {
            Ok(value @ DeValue::Table(_)) => Ok(value),
            other => Err(format!(
                "not a TOML inline table ({}); write one like {{ a = 1 }}",
                other.map_or_else(|error| error, |_| "it is another type".into()),
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
