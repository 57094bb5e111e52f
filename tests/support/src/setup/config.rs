//! Config files: a base that works, and the sections that a test changes.

use std::fs;
use std::path::Path;

use toml::{Table, Value};

/// Parses TOML that a test wrote.
pub(super) fn parse(toml: &str) -> Table {
    toml.parse()
        .unwrap_or_else(|error| panic!("the test's own TOML: {error}\n{toml}"))
}

/// Merges `extra` into `base`: tables key by key, lists one after the other, and anything else
/// replaces what was there.
pub(super) fn merge(base: &mut Table, extra: Table) {
    for (key, value) in extra {
        match (base.get_mut(&key), value) {
            (Some(Value::Table(base)), Value::Table(extra)) => merge(base, extra),
            (Some(Value::Array(base)), Value::Array(extra)) => base.extend(extra),
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

/// Sets the value at a dotted path of keys, such as `limits.streams_max`.
pub(super) fn set(base: &mut Table, path: &str, value: Value) {
    let mut nested = Table::new();
    let (tables, key) = path.rsplit_once('.').unwrap_or(("", path));
    nested.insert(key.to_owned(), value);
    for table in tables.split('.').rev().filter(|table| !table.is_empty()) {
        nested = Table::from_iter([(table.to_owned(), Value::Table(nested))]);
    }
    merge(base, nested);
}

/// Returns a path as a TOML string.
pub fn path(path: impl AsRef<Path>) -> Value {
    let path = path.as_ref().to_str().expect("a temporary path in UTF-8");
    Value::String(path.to_owned())
}

/// Writes a config file.
pub(super) fn write(file: &Path, config: &Table) {
    fs::write(file, config.to_string())
        .unwrap_or_else(|error| panic!("cannot write {}: {error}", file.display()));
}

/// One entry of `[[endpoint]]`.
#[derive(Debug, Clone)]
pub struct Endpoint(Table);

impl Endpoint {
    /// An endpoint with its two required keys.
    pub fn new(name: &str, url: impl Into<String>) -> Self {
        let keys = [("name", Value::from(name)), ("url", url.into().into())];
        Self(
            keys.into_iter()
                .map(|(key, value)| (key.to_owned(), value))
                .collect(),
        )
    }

    /// Sets another key of the entry.
    pub fn set(mut self, key: &str, value: impl Into<Value>) -> Self {
        set(&mut self.0, key, value.into());
        self
    }
}

/// One entry of `[[allow]]`.
#[derive(Debug, Clone)]
pub struct Allow(Table);

impl Allow {
    /// A rule for a host, with every method and the ports that are the default.
    pub fn host(host: &str) -> Self {
        let any = vec!["*"];
        Self(Table::from_iter([("host".to_owned(), host.into())])).set("methods", any)
    }

    /// A rule for one port of 127.0.0.1, with every method.
    pub fn loopback(port: u16) -> Self {
        Self::host("127.0.0.1").ports([port])
    }

    /// Allows these ports alone.
    pub fn ports(self, ports: impl IntoIterator<Item = u16>) -> Self {
        let ports: Vec<i64> = ports.into_iter().map(i64::from).collect();
        self.set("ports", ports)
    }

    /// Allows these methods alone.
    pub fn methods(self, methods: &[&str]) -> Self {
        self.set("methods", methods.to_vec())
    }

    /// Sets another key of the entry.
    pub fn set(mut self, key: &str, value: impl Into<Value>) -> Self {
        // A list replaces the one before: `merge` would append to it.
        self.0.insert(key.to_owned(), value.into());
        self
    }
}

impl From<Endpoint> for Table {
    fn from(endpoint: Endpoint) -> Self {
        endpoint.0
    }
}

impl From<Allow> for Table {
    fn from(rule: Allow) -> Self {
        rule.0
    }
}

/// Adds an entry to a list of tables.
pub(super) fn push(base: &mut Table, list: &str, entry: Table) {
    set(base, list, Value::Array(vec![Value::Table(entry)]));
}

#[cfg(test)]
mod tests {
    use super::{Allow, Endpoint, merge, parse, push, set};
    use toml::Table;

    #[test]
    fn merge_adds_keys_and_entries_and_replaces_values() {
        let mut base = parse("[listen]\npublic = 'a'\n[[allow]]\nhost = 'x'\n");
        let extra = "[listen]\npublic = 'b'\nproxy = 'c'\n[[allow]]\nhost = 'y'\n[limits]\nn = 1\n";
        merge(&mut base, parse(extra));
        let expected = "[listen]\npublic = 'b'\nproxy = 'c'\n[[allow]]\nhost = 'x'\n[[allow]]\n\
                        host = 'y'\n[limits]\nn = 1\n";
        assert_eq!(base, parse(expected));
    }

    #[test]
    fn typed_sections_write_the_same_toml() {
        let mut config = Table::new();
        set(&mut config, "limits.streams_max", 4.into());
        set(&mut config, "limits.log.level", "debug".into());
        set(&mut config, "top", true.into());
        push(
            &mut config,
            "endpoint",
            Endpoint::new("a", "http://b/").set("rate", "3/h").into(),
        );
        push(
            &mut config,
            "allow",
            Allow::loopback(80).methods(&["GET"]).into(),
        );
        push(&mut config, "allow", Allow::host("x").into());
        let expected = "top = true\n[limits]\nstreams_max = 4\n[limits.log]\nlevel = 'debug'\n\
                        [[endpoint]]\nname = 'a'\nurl = 'http://b/'\nrate = '3/h'\n\
                        [[allow]]\nhost = '127.0.0.1'\nports = [80]\nmethods = ['GET']\n\
                        [[allow]]\nhost = 'x'\nmethods = ['*']\n";
        assert_eq!(config, parse(expected));
    }
}
