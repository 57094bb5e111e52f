//! `bridge.toml`: parsed once, here, into types that cannot be wrong.
//!
//! ```toml
//! [relay]
//! url = "https://relay.example.com"
//!
//! [bridge]
//! name = "berlin-dc1"
//! data_dir = "/var/lib/integration-bridge"
//!
//! [[endpoint]]
//! name = "alm"
//! url = "https://alm.corp.example:8443/qcbin/"
//!
//! [[allow]]
//! host = "ci.corp.example"
//! methods = ["POST"]
//! ```
//!
//! What the environment says stands above the file (`environment`). Unknown keys are mistakes. A mistake is said with its line, what is wrong and what would be
//! right ([`ConfigError`]). What the rules mean is the crate `policy`'s; `rules` puts its types
//! together.

mod credential_name;
mod environment;
mod error;
mod rewrite;
mod rules;
mod section;
mod value;

pub(crate) use credential_name::check_credential_name;
pub use error::ConfigError;
pub(crate) use rewrite::Rewrite;
pub(crate) use rules::Quotas;
pub use rules::Rules;
pub(crate) use section::check_name;
pub use section::{
    AllowSection, AuditSection, BridgeSection, CallerCredentials, DeliveriesSection,
    EndpointSection, LimitsSection, LogFormat, LogLevel, LogSection, MetricsSection, ProxySetting,
    RelaySection, SignedCallsSection, Targets, TlsMin,
};
pub use value::{Every, FilePath, Size, Span, Within};

use serde::Deserialize;
use std::path::{Path, PathBuf};

/// Largest config file, in bytes; a longer one is a mistake in `--config`.
const FILE_MAX_BYTES: u64 = 4 * 1024 * 1024;

/// A whole config that was checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where it came from.
    pub path: PathBuf,
    /// `[relay]`.
    pub relay: RelaySection,
    /// `[bridge]`.
    pub bridge: BridgeSection,
    /// `[targets]`.
    pub targets: Targets,
    /// `[limits]`.
    pub limits: LimitsSection,
    /// `[deliveries]`.
    pub deliveries: DeliveriesSection,
    /// `[signed_calls]`.
    pub signed_calls: SignedCallsSection,
    /// `[audit]`.
    pub audit: AuditSection,
    /// `[metrics]`.
    pub metrics: MetricsSection,
    /// `[log]`.
    pub log: LogSection,
    /// `[[endpoint]]` and `[[allow]]`, as the policy has them.
    pub rules: Rules,
}

/// The file as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    relay: RelaySection,
    bridge: BridgeSection,
    #[serde(default)]
    endpoint: Vec<EndpointSection>,
    #[serde(default)]
    allow: Vec<AllowSection>,
    #[serde(default)]
    targets: Targets,
    #[serde(default)]
    limits: LimitsSection,
    #[serde(default)]
    deliveries: DeliveriesSection,
    #[serde(default)]
    signed_calls: SignedCallsSection,
    #[serde(default)]
    audit: AuditSection,
    #[serde(default)]
    metrics: MetricsSection,
    #[serde(default)]
    log: LogSection,
}

impl Config {
    /// Reads and checks a file, and what the environment sets above it. Where the environment sets anything,
    /// the file need not be there.
    ///
    /// # Errors
    /// [`ConfigError`] with the line of the first mistake, or the variable.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        Self::load_with(path, |name| std::env::var(name).ok())
    }

    fn load_with(path: &Path, get: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let given = environment::given(get);
        let text = match read(path) {
            Err(ConfigError::Read { source, .. })
                if !given.is_empty() && source.kind() == std::io::ErrorKind::NotFound =>
            {
                String::new()
            }
            text => text?,
        };
        if given.is_empty() {
            return Self::parse(&text, path);
        }
        let mut table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
            ConfigError::at(path, &text, error.span(), error.message().trim())
        })?;
        let in_environment = |message: String| ConfigError::Environment {
            path: path.to_owned(),
            message,
        };
        environment::put(&mut table, &given).map_err(in_environment)?;
        let merged = table.to_string();
        Self::parse(&merged, path).map_err(|error| {
            let ConfigError::Mistake { line, message, .. } = error else {
                return error;
            };
            // A mistake of the file itself has its line there.
            if let Err(own) = Self::parse(&text, path)
                && matches!(&own, ConfigError::Mistake { message: same, .. } if *same == message)
            {
                return own;
            }
            in_environment(match key_at(&merged, line) {
                Some(key) => format!("`{key}`: {message}"),
                None => message,
            })
        })
    }

    /// Where a config's data is, also when the rest of it has mistakes: whoever asks a running bridge has
    /// nothing to do with those.
    ///
    /// # Errors
    /// [`ConfigError`] when the file does not say it.
    pub fn data_dir_of(path: &Path) -> Result<PathBuf, ConfigError> {
        let mistake = match Self::load(path) {
            Ok(config) => return Ok(config.bridge.data_dir.get().to_owned()),
            Err(error) => error,
        };
        let set = std::env::var("BRIDGE_DATA_DIR").ok();
        let table: Option<toml::Table> = read(path).ok().and_then(|text| text.parse().ok());
        let dir = table
            .as_ref()
            .and_then(|table| table.get("bridge")?.get("data_dir")?.as_str());
        let dir = set.as_deref().filter(|set| !set.is_empty()).or(dir);
        let Some(Ok(mut dir)) = dir.map(str::parse::<FilePath>) else {
            return Err(mistake);
        };
        dir.anchor(&base_of(path));
        Ok(dir.get().to_owned())
    }

    /// Checks a text. `path` names it in messages, and relative paths count from its directory.
    ///
    /// # Errors
    /// [`ConfigError::Mistake`] with the line of the first mistake.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let mistake = |span, message: String| ConfigError::at(path, text, span, message);
        let mut file: File = toml::from_str(text)
            .map_err(|error| mistake(error.span(), error.message().trim().to_owned()))?;
        let base = base_of(path);
        file.bridge.data_dir.anchor(&base);
        let files = [
            &mut file.relay.ca_file,
            &mut file.targets.ca_file,
            &mut file.bridge.key_file,
            &mut file.audit.file,
            &mut file.signed_calls.public_key_file,
            &mut file.log.file,
        ];
        let endpoint_files = file
            .endpoint
            .iter_mut()
            .map(|endpoint| &mut endpoint.ca_file);
        for file in files.into_iter().chain(endpoint_files).flatten() {
            file.anchor(&base);
        }
        let rules = Rules::new(file.endpoint, &file.allow)
            .map_err(|wrong| mistake(Some(wrong.span), wrong.message))?;
        Ok(Self {
            path: path.to_owned(),
            relay: file.relay,
            bridge: file.bridge,
            targets: file.targets,
            limits: file.limits,
            deliveries: file.deliveries,
            signed_calls: file.signed_calls,
            audit: file.audit,
            metrics: file.metrics,
            log: file.log,
            rules,
        })
    }
}

fn read(path: &Path) -> Result<String, ConfigError> {
    let unreadable = |source| ConfigError::Read {
        path: path.to_owned(),
        source,
    };
    let bytes = std::fs::metadata(path).map_err(unreadable)?.len();
    if bytes > FILE_MAX_BYTES {
        let what = std::io::Error::other("it is larger than any config file");
        return Err(unreadable(what));
    }
    std::fs::read_to_string(path).map_err(unreadable)
}

/// The key at a line of a config, with its section. The value is shown where it is a number; a text may
/// be a secret.
fn key_at(text: &str, line: usize) -> Option<String> {
    let mut section = "";
    let mut key = None;
    for line in text.lines().take(line) {
        key = None;
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']').trim_start_matches('[');
        } else if let Some((name, value)) = line.split_once('=') {
            key = Some((name.trim(), value.trim()));
        }
    }
    let is_bare = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    let key = key
        .filter(|(name, _)| name.bytes().all(is_bare))
        .map(|(name, value)| match value.parse::<i64>() {
            Ok(number) => format!("{name} = {number}"),
            Err(_) => name.to_owned(),
        });
    match (section, key) {
        ("", key) => key,
        (section, Some(key)) => Some(format!("{section}.{key}")),
        (section, None) => Some(section.to_owned()),
    }
}

/// The directory that relative paths count from.
fn base_of(path: &Path) -> PathBuf {
    std::path::absolute(path)
        .ok()
        .and_then(|path| path.parent().map(Path::to_owned))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests;
