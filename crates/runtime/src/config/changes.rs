//! What has changed between two configs: compared by value, key by key.
//!
//! A config type writes by `Serialize` what needs a restart. The mark for a key that can change while the
//! program runs is on its field, `#[serde(skip_serializing)]`: a key without it needs a restart, which is the
//! safe side for a new one. Values are compared as parsed, so `"60s"` equals `"1m"` and a key that is left
//! out equals its default.

use serde::Serialize;
use toml::{Table, Value};

/// Returns the first key, as `section.key`, whose value differs.
///
/// # Panics
/// Never for types that a TOML table can hold, which a config's are.
pub fn first_change<T: Serialize>(old: &T, new: &T) -> Option<String> {
    let table = |config: &T| Table::try_from(config).expect("a config is a TOML table");
    first_difference(&table(old), &table(new))
}

fn first_difference(old: &Table, new: &Table) -> Option<String> {
    // A key is absent where its option is `None`, so both directions count.
    let removed = old.keys().filter(|key| !new.contains_key(*key));
    for key in new.keys().chain(removed) {
        match (old.get(key), new.get(key)) {
            (Some(Value::Table(old)), Some(Value::Table(new))) => {
                if let Some(inner) = first_difference(old, new) {
                    return Some(format!("{key}.{inner}"));
                }
            }
            (old, new) if old != new => return Some(key.clone()),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ConfigDuration;

    #[derive(Serialize)]
    struct Config {
        limits: Limits,
        name: Option<&'static str>,
    }

    #[derive(Serialize)]
    struct Limits {
        wait: ConfigDuration,
        #[serde(skip_serializing)]
        _reloadable: u32,
    }

    fn config(wait: &str, reloadable: u32, name: Option<&'static str>) -> Config {
        Config {
            limits: Limits {
                wait: wait.parse().unwrap(),
                _reloadable: reloadable,
            },
            name,
        }
    }

    #[test]
    fn change_is_named_by_section_and_key() {
        let old = config("60s", 1, None);
        let change = |new| first_change(&old, &new);
        assert_eq!(change(config("1m", 2, None)), None);
        let wait = change(config("61s", 1, None));
        assert_eq!(wait.as_deref(), Some("limits.wait"));
        let name = change(config("60s", 1, Some("x")));
        assert_eq!(name.as_deref(), Some("name"));
        let removed = first_change(&config("60s", 1, Some("x")), &old);
        assert_eq!(removed.as_deref(), Some("name"));
    }
}
