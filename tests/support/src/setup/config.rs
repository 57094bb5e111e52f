//! Configuration files: a base that works, and what a test wants otherwise.

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

/// A path as a TOML string.
pub(super) fn path(path: &Path) -> Value {
    Value::String(path.to_str().expect("a temporary path in UTF-8").to_owned())
}

/// Writes a configuration file.
pub(super) fn write(file: &Path, config: &Table) {
    fs::write(file, config.to_string())
        .unwrap_or_else(|error| panic!("cannot write {}: {error}", file.display()));
}

#[cfg(test)]
mod tests {
    use super::{merge, parse};

    #[test]
    fn extra_adds_keys_and_entries_and_replaces_values() {
        let mut base = parse("[listen]\npublic = 'a'\n[[allow]]\nhost = 'x'\n");
        let extra = "[listen]\npublic = 'b'\nproxy = 'c'\n[[allow]]\nhost = 'y'\n[limits]\nn = 1\n";
        merge(&mut base, parse(extra));
        let expected = "[listen]\npublic = 'b'\nproxy = 'c'\n[[allow]]\nhost = 'x'\n[[allow]]\n\
                        host = 'y'\n[limits]\nn = 1\n";
        assert_eq!(base, parse(expected));
    }
}
