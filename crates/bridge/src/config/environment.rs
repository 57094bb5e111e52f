//! The environment, which stands above the file: for containers, where everything is set by variables.
//!
//! Every key of a section has a variable, `BRIDGE_` and the section and the key in capitals; those of
//! `[bridge]` have no section in their name. `BRIDGE_ENDPOINTS` and `BRIDGE_ALLOW` are TOML arrays of inline
//! tables, in place of the file's. `deploy/examples/bridge.env` lists them all.

use toml::{Table, Value};

/// How a variable's text becomes a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// As it is.
    Text,
    /// A number or a truth.
    Bare,
    /// A TOML array, which takes the place of the file's.
    Array,
}

/// A variable.
pub(super) struct Variable {
    pub(super) name: &'static str,
    pub(super) section: &'static str,
    pub(super) key: &'static str,
    pub(super) kind: Kind,
}

macro_rules! variables {
    ($($name:literal $section:literal $key:literal $kind:ident;)*) => {
        /// All of them.
        pub(super) const VARIABLES: &[Variable] = &[
            $(Variable { name: $name, section: $section, key: $key, kind: Kind::$kind },)*
        ];
    };
}

variables! {
    "BRIDGE_RELAY_URL" "relay" "url" Text;
    "BRIDGE_RELAY_CA_FILE" "relay" "ca_file" Text;
    "BRIDGE_RELAY_PROXY" "relay" "proxy" Text;
    "BRIDGE_RELAY_PROXY_CREDENTIAL" "relay" "proxy_credential" Text;
    "BRIDGE_RELAY_TLS_MIN" "relay" "tls_min" Text;
    "BRIDGE_RELAY_CONNECTIONS" "relay" "connections" Bare;
    "BRIDGE_NAME" "bridge" "name" Text;
    "BRIDGE_DATA_DIR" "bridge" "data_dir" Text;
    "BRIDGE_KEY_FILE" "bridge" "key_file" Text;
    "BRIDGE_PAUSED" "bridge" "paused" Bare;
    "BRIDGE_ADVERTISE_HOSTS" "bridge" "advertise_hosts" Bare;
    "BRIDGE_ENDPOINTS" "" "endpoint" Array;
    "BRIDGE_ALLOW" "" "allow" Array;
    "BRIDGE_TARGETS_CA_FILE" "targets" "ca_file" Text;
    "BRIDGE_TARGETS_PROXY" "targets" "proxy" Text;
    "BRIDGE_TARGETS_PROXY_CREDENTIAL" "targets" "proxy_credential" Text;
    "BRIDGE_TARGETS_TLS_MIN" "targets" "tls_min" Text;
    "BRIDGE_TARGETS_HTTP2" "targets" "http2" Bare;
    "BRIDGE_TARGETS_CONNECT_TIMEOUT" "targets" "connect_timeout" Text;
    "BRIDGE_TARGETS_HEAD_TIMEOUT" "targets" "head_timeout" Text;
    "BRIDGE_TARGETS_IDLE_TIMEOUT" "targets" "idle_timeout" Text;
    "BRIDGE_TARGETS_POOL_IDLE_TIMEOUT" "targets" "pool_idle_timeout" Text;
    "BRIDGE_TARGETS_POOL_IDLE_PER_TARGET" "targets" "pool_idle_per_target" Bare;
    "BRIDGE_TARGETS_POOL_IDLE_MAX" "targets" "pool_idle_max" Bare;
    "BRIDGE_TARGETS_HEALTH_INTERVAL" "targets" "health_interval" Text;
    "BRIDGE_TARGETS_ALM_SESSION_MAX_AGE" "targets" "alm_session_max_age" Text;
    "BRIDGE_LIMITS_STREAMS_MAX" "limits" "streams_max" Bare;
    "BRIDGE_LIMITS_REQUEST_MAX" "limits" "request_max" Text;
    "BRIDGE_LIMITS_RESPONSE_MAX" "limits" "response_max" Text;
    "BRIDGE_LIMITS_WINDOW_BUDGET" "limits" "window_budget" Text;
    "BRIDGE_LIMITS_MEMORY_MAX" "limits" "memory_max" Text;
    "BRIDGE_DELIVERIES_CONCURRENT_MAX" "deliveries" "concurrent_max" Bare;
    "BRIDGE_DELIVERIES_BODY_MAX" "deliveries" "body_max" Text;
    "BRIDGE_DELIVERIES_JOURNAL_ENTRIES_MAX" "deliveries" "journal_entries_max" Bare;
    "BRIDGE_DELIVERIES_JOURNAL_BYTES_MAX" "deliveries" "journal_bytes_max" Text;
    "BRIDGE_SIGNED_CALLS_PUBLIC_KEY_FILE" "signed_calls" "public_key_file" Text;
    "BRIDGE_SIGNED_CALLS_VALIDITY_MAX" "signed_calls" "validity_max" Text;
    "BRIDGE_SIGNED_CALLS_BODY_MAX" "signed_calls" "body_max" Text;
    "BRIDGE_SIGNED_CALLS_REQUIRE_BRIDGE_KEY" "signed_calls" "require_bridge_key" Bare;
    "BRIDGE_AUDIT_ENABLED" "audit" "enabled" Bare;
    "BRIDGE_AUDIT_FILE" "audit" "file" Text;
    "BRIDGE_AUDIT_FILE_MAX" "audit" "file_max" Text;
    "BRIDGE_AUDIT_FILE_MAX_AGE" "audit" "file_max_age" Text;
    "BRIDGE_AUDIT_FILES" "audit" "files" Bare;
    "BRIDGE_METRICS_LISTEN" "metrics" "listen" Text;
    "BRIDGE_LOG_LEVEL" "log" "level" Text;
    "BRIDGE_LOG_FORMAT" "log" "format" Text;
    "BRIDGE_LOG_FILE" "log" "file" Text;
    "BRIDGE_LOG_FILE_MAX" "log" "file_max" Text;
    "BRIDGE_LOG_FILES" "log" "files" Bare;
}

/// The variables that are set, with their text.
pub(super) fn given(get: impl Fn(&str) -> Option<String>) -> Vec<(&'static Variable, String)> {
    let set = |variable: &'static Variable| {
        let text = get(variable.name).filter(|text| !text.is_empty())?;
        Some((variable, text))
    };
    VARIABLES.iter().filter_map(set).collect()
}

/// Puts them into a table.
///
/// # Errors
/// The variable that cannot be understood, and what would be right.
pub(super) fn put(table: &mut Table, given: &[(&Variable, String)]) -> Result<(), String> {
    for (variable, text) in given {
        let name = variable.name;
        let value = match variable.kind {
            Kind::Text => Value::String(text.clone()),
            Kind::Bare => bare(text)
                .ok_or_else(|| format!("{name}: {text:?} is no number, and not true or false"))?,
            Kind::Array => array(text).map_err(|error| {
                format!(
                    "{name}: {error}; write an array of inline tables, like \
                     [{{name = \"alm\", url = \"https://alm.corp.example/qcbin/\"}}]"
                )
            })?,
        };
        let place = match variable.section {
            "" => &mut *table,
            section => {
                let entry = table.entry(section).or_insert_with(|| Table::new().into());
                let wrong = || format!("{name}: {section} is no section of the config file");
                entry.as_table_mut().ok_or_else(wrong)?
            }
        };
        place.insert(variable.key.to_owned(), value);
    }
    Ok(())
}

fn bare(text: &str) -> Option<Value> {
    match text.trim() {
        "true" => Some(Value::Boolean(true)),
        "false" => Some(Value::Boolean(false)),
        number => number.parse().ok().map(Value::Integer),
    }
}

fn array(text: &str) -> Result<Value, String> {
    let table: Table = format!("x = {text}")
        .parse()
        .map_err(|error: toml::de::Error| error.message().to_owned())?;
    let value = table.get("x").filter(|value| value.is_array());
    value.cloned().ok_or_else(|| "it is no array".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::path::Path;

    fn example(name: &str) -> String {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/examples");
        std::fs::read_to_string(dir.join(name)).unwrap()
    }

    /// Section and key of each line of the example, also of those behind a `#`.
    fn keys_of_example() -> BTreeSet<(String, String)> {
        let mut section = String::new();
        let mut keys = BTreeSet::new();
        for line in example("bridge.toml").lines() {
            if let Some(name) = line
                .strip_prefix('[')
                .and_then(|line| line.split(']').next())
            {
                section = name.to_owned();
                continue;
            }
            let line = line.trim_start_matches('#');
            let Some((key, _)) = line.split_once(" = ") else {
                continue;
            };
            let is_key = key
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
            if is_key && !section.starts_with('[') {
                keys.insert((section.clone(), key.to_owned()));
            }
        }
        keys
    }

    #[test]
    fn every_key_of_the_example_has_a_variable_and_the_other_way_round() {
        let variables: BTreeSet<_> = VARIABLES
            .iter()
            .filter(|variable| variable.kind != Kind::Array)
            .map(|variable| (variable.section.to_owned(), variable.key.to_owned()))
            .collect();
        assert_eq!(keys_of_example(), variables);
    }

    #[test]
    fn the_example_of_an_environment_lists_every_variable() {
        let listed: BTreeSet<String> = example("bridge.env")
            .lines()
            .filter_map(|line| line.trim_start_matches('#').split_once('='))
            .map(|(name, _)| name.to_owned())
            .filter(|name| VARIABLES.iter().any(|variable| variable.name == name))
            .collect();
        let all: BTreeSet<String> = VARIABLES.iter().map(|v| v.name.to_owned()).collect();
        assert_eq!(listed, all);
    }
}
