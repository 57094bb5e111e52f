//! What a pairing file gave and the config lacks, kept in the data directory: a container cannot write its config.
//!
//! ```text
//! environment > config file > relay.json in the data directory
//! ```
//!
//! `run` writes it before it pairs a bridge (`pairing_file::prepare`). It has no secret. It is trusted like the CA next to it:
//! the identity decides which relay a paired bridge dials.

use super::{Config, check_name};
use crate::data_dir::{DataDirError, PrivateDir};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use toml::Table;
use transport::dial::RelayUrl;

/// Its name in the data directory.
pub(crate) const KEPT_FILE: &str = "relay.json";

/// The CA of the relay, in the data directory.
pub(crate) const CA_FILE: &str = "relay-ca.pem";

/// The keys that are kept: section, key and variable.
const KEYS: [(&str, &str, &str); 3] = [
    ("relay", "url", "BRIDGE_RELAY_URL"),
    ("relay", "ca_file", "BRIDGE_RELAY_CA_FILE"),
    ("bridge", "name", "BRIDGE_NAME"),
];

/// The file as it is written.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    relay_url: Option<String>,
    /// Whether [`CA_FILE`] is the relay's CA.
    has_ca: bool,
    bridge_name: Option<String>,
}

/// The values of keys that neither the config file nor the environment has.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    /// The file.
    pub(crate) path: PathBuf,
    /// In the order of [`KEYS`].
    values: [Option<String>; KEYS.len()],
}

impl Kept {
    /// Returns what is kept for the config at this path. Nothing where the file cannot be read: the check of the config then
    /// says what is missing.
    pub(crate) fn of(path: &Path) -> Self {
        Self::read(path).unwrap_or_default()
    }

    fn read(path: &Path) -> Option<Self> {
        let data_dir = Config::value_of(path, "bridge", "data_dir")?;
        let data_dir = runtime::config::base_of(path).join(data_dir);
        let kept = data_dir.join(KEPT_FILE);
        let stored = runtime::config::text_of(&kept).ok()?;
        let stored: Stored = serde_json::from_str(&stored).ok()?;
        let url = stored.relay_url;
        let name = stored.bridge_name;
        let ca = data_dir.join(CA_FILE).display().to_string();
        let mut values = [
            url.filter(|url| url.parse::<RelayUrl>().is_ok()),
            stored.has_ca.then_some(ca),
            name.filter(|name| check_name(name).is_ok()),
        ];
        let text = runtime::config::text_of(path).unwrap_or_default();
        let table: Table = text.parse().unwrap_or_default();
        for (value, (section, key, variable)) in values.iter_mut().zip(KEYS) {
            let in_file = table.get(section).and_then(|section| section.get(key));
            let is_set = std::env::var_os(variable).is_some_and(|text| !text.is_empty());
            if in_file.is_some() || is_set {
                *value = None;
            }
        }
        Some(Self { path: kept, values })
    }

    /// Returns the value of a key.
    pub(crate) fn value(&self, section: &str, key: &str) -> Option<&str> {
        let is_key = |known: &(&str, &str, &str)| known.0 == section && known.1 == key;
        let at = KEYS.iter().position(is_key)?;
        self.values[at].as_deref()
    }

    /// Returns the value of a key by its variable.
    pub(super) fn variable(&self, name: &str) -> Option<&str> {
        let at = KEYS.iter().position(|known| known.2 == name)?;
        self.values[at].as_deref()
    }

    /// Returns the number of values.
    pub(super) fn count(&self) -> usize {
        self.values.iter().flatten().count()
    }

    /// Writes these values and further ones: section, key and value.
    ///
    /// # Errors
    /// [`DataDirError::Io`].
    pub(crate) fn write_with(
        &self,
        more: &[(&str, &str, &str)],
        dir: &PrivateDir,
    ) -> Result<(), DataDirError> {
        let of = |section: &str, key: &str| {
            let new = more.iter().find(|new| new.0 == section && new.1 == key);
            let value = new.map(|new| new.2).or_else(|| self.value(section, key));
            value.map(str::to_owned)
        };
        let stored = Stored {
            relay_url: of("relay", "url"),
            has_ca: of("relay", "ca_file").is_some(),
            bridge_name: of("bridge", "name"),
        };
        let text = serde_json::to_vec_pretty(&stored).expect("strings are always JSON");
        dir.write_private(KEPT_FILE, &text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn kept_keys_have_variables() {
        let names = Config::variable_names();
        for (_, key, variable) in KEYS {
            assert!(names.contains(&variable.to_owned()), "{key}");
        }
    }

    #[test]
    fn kept_values_are_below_the_config() {
        let temp = TempDir::new("kept");
        let path = temp.path().join("bridge.toml");
        let dir = PrivateDir::open(&temp.path().join("state")).unwrap();
        let write = |more: &str| {
            let text = format!("{more}\n[bridge]\ndata_dir = \"state\"\n");
            std::fs::write(&path, text).unwrap();
        };
        write("");
        assert_eq!(Kept::of(&path).count(), 0);
        Config::load(&path).unwrap_err();
        let all = [
            ("relay", "url", "https://relay.example.com"),
            ("relay", "ca_file", "any"),
            ("bridge", "name", "dc1"),
        ];
        Kept::default().write_with(&all, &dir).unwrap();
        let config = Config::load(&path).unwrap();
        assert_eq!(config.bridge.name, "dc1");
        let ca = config.relay.ca_file.unwrap();
        assert_eq!(ca.get(), temp.path().join("state").join(CA_FILE));
        assert_eq!(config.source.variables, 0);
        assert_eq!(config.source.kept.unwrap(), Kept::of(&path).path);
        write("[relay]\nurl = \"https://own.example\"\nca_file = \"own.pem\"");
        let config = Config::load(&path).unwrap();
        assert!(config.relay.url.to_string().contains("own.example"));
        assert_eq!(
            config.relay.ca_file.unwrap().get(),
            temp.path().join("own.pem")
        );
        assert_eq!(config.bridge.name, "dc1");
        // A mistake stays one.
        write("[relay]\nurl = 5");
        Config::load(&path).unwrap_err();
        for damaged in ["{", "{\"relay_url\": \"ftp://a\", \"has_ca\": false}"] {
            dir.write_private(KEPT_FILE, damaged.as_bytes()).unwrap();
            assert_eq!(Kept::of(&path).count(), 0, "{damaged}");
        }
    }
}
