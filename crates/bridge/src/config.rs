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
//! Each section has a file with its keys, defaults and checks. Reading, environment variables and the places
//! of mistakes are `runtime::config`'s. The meaning of rules is the crate `policy`'s; `rules` builds its types.
//!
//! A new key needs its field, its use, and a line in `deploy/examples/bridge.toml` and `bridge.env`. A key that a
//! reload may change has `#[serde(skip_serializing)]` (see [`runtime::config::first_change`]).

mod audit;
mod bridge;
mod credential_name;
mod deliveries;
mod endpoint;
mod kept;
mod kerberos;
mod limits;
mod metrics;
mod network;
mod rate;
mod relay;
mod rewrite;
mod rules;
mod signed_calls;
mod targets;
mod update;
mod window;

pub use audit::AuditSection;
pub use bridge::BridgeSection;
pub(crate) use bridge::check_name;
pub(crate) use credential_name::check_credential_name;
pub use deliveries::DeliveriesSection;
pub use endpoint::{AllowSection, CallerCredentials, EndpointSection, QuotaSection};
pub(crate) use kept::{CA_FILE, KEPT_FILE, Kept};
pub use kerberos::{KdcAddress, KerberosSection, PrincipalName};
pub use limits::LimitsSection;
pub use metrics::MetricsSection;
pub use network::{ProxyAuth, ProxySetting, TlsMin};
pub use rate::Rate;
pub use relay::RelaySection;
pub(crate) use rewrite::Rewrite;
pub use rules::Rules;
pub use signed_calls::SignedCallsSection;
pub use targets::{HeaderCase, Targets};
pub use update::{ReleaseKey, UpdateSection};
pub use window::Window;

pub use runtime::config::{ConfigError, FilePath};
pub use runtime::logging::LogSection;

use runtime::config::{Document, Environment, Source, Unknown};
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The environment variable with log filters, as `tracing-subscriber` has them.
pub(crate) const LOG_ENV: &str = "BRIDGE_LOG";

/// The log file of a service on Windows, in the data directory.
const SERVICE_LOG: &str = "bridge.log";

/// The variables that override the file. The others are read by the command line.
pub(crate) const ENVIRONMENT: Environment = Environment {
    prefix: "BRIDGE",
    names: &[("endpoint", "ENDPOINTS")],
    others: &[
        "BRIDGE_BUNDLE_FILE",
        "BRIDGE_CLIENT_ID",
        "BRIDGE_CLIENT_SECRET",
        "BRIDGE_CLIENT_SECRET_FILE",
        "BRIDGE_CONFIG",
        LOG_ENV,
    ],
};

/// A whole config that was checked. `Serialize` writes the keys that need a restart.
#[derive(Debug, Clone, Serialize)]
pub struct Config {
    /// The file it was read from.
    #[serde(skip)]
    pub path: PathBuf,
    /// The file and the variables that it was read from.
    #[serde(skip)]
    pub(crate) source: Source,
    /// `[relay]`.
    pub relay: RelaySection,
    /// `[bridge]`.
    pub bridge: BridgeSection,
    /// `[targets]`.
    #[serde(skip_serializing)]
    pub targets: Targets,
    /// `[kerberos]`.
    #[serde(skip_serializing)]
    pub kerberos: KerberosSection,
    /// `[limits]`.
    pub limits: LimitsSection,
    /// `[deliveries]`.
    pub deliveries: DeliveriesSection,
    /// `[signed_calls]`.
    #[serde(skip_serializing)]
    pub signed_calls: SignedCallsSection,
    /// `[audit]`.
    pub audit: AuditSection,
    /// `[metrics]`.
    pub metrics: MetricsSection,
    /// `[update]`.
    pub update: UpdateSection,
    /// `[log]`. `integration-bridge log-level` changes the level of a running bridge.
    pub log: LogSection,
    /// `[[endpoint]]` and `[[allow]]`, as the policy has them.
    #[serde(skip_serializing)]
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
    kerberos: KerberosSection,
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
    update: UpdateSection,
    #[serde(default)]
    log: LogSection,
}

impl Config {
    /// Reads and checks a file, overridden by the environment. Where the environment sets a key, the file
    /// need not exist. What a pairing has kept in the data directory counts where both lack the key.
    ///
    /// # Errors
    /// [`ConfigError`] with the line or the variable of the first mistake.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let kept = Kept::of(path);
        let (file, document) = ENVIRONMENT.load_with::<_, OsString>(path, |name| {
            let kept = kept.variable(name).map(OsString::from);
            kept.or_else(|| std::env::var_os(name))
        })?;
        let mut config = Self::checked(file, &document, path)?;
        let count = kept.count();
        if count > 0 {
            let variables = config.source.variables;
            config.source.variables = variables.saturating_sub(count);
            config.source.kept = Some(kept.path);
        }
        Ok(config)
    }

    #[cfg(test)]
    fn load_with(path: &Path, get: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let (file, document) = ENVIRONMENT.load_with::<_, String>(path, get)?;
        Self::checked(file, &document, path)
    }

    /// Checks a text, without the environment. `path` names it in messages, and relative paths are resolved
    /// against its directory.
    ///
    /// # Errors
    /// [`ConfigError::Mistake`] with the line of the first mistake.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let (file, document) = runtime::config::parse(text, path)?;
        Self::checked(file, &document, path)
    }

    fn checked(file: File, document: &Document, path: &Path) -> Result<Self, ConfigError> {
        let rules = Rules::new(file.endpoint, &file.allow);
        let limits = file.limits.validate();
        limits.map_err(|mistake| document.reject(mistake))?;
        let kerberos = file.kerberos.validate();
        kerberos.map_err(|mistake| document.reject(mistake))?;
        Ok(Self {
            path: path.to_owned(),
            source: document.source(),
            relay: file.relay,
            bridge: file.bridge,
            targets: file.targets,
            kerberos: file.kerberos,
            limits: file.limits,
            deliveries: file.deliveries,
            signed_calls: file.signed_calls,
            audit: file.audit,
            metrics: file.metrics,
            update: file.update,
            log: of_process(file.log),
            rules: rules.map_err(|mistake| document.reject(mistake))?,
        })
    }

    /// Returns the data directory, also when the rest of the config has mistakes: commands that ask a running
    /// bridge do not depend on those.
    ///
    /// # Errors
    /// [`ConfigError`] when the config has no data directory.
    pub fn data_dir_of(path: &Path) -> Result<PathBuf, ConfigError> {
        let error = match Self::load(path) {
            Ok(config) => return Ok(config.bridge.data_dir.into_path()),
            Err(error) => error,
        };
        match ENVIRONMENT.value_of::<File>(path, "bridge", "data_dir") {
            Some(dir) if !dir.trim().is_empty() => Ok(runtime::config::base_of(path).join(dir)),
            Some(_) | None => Err(error),
        }
    }

    /// Returns a key of a section as text, from the environment or the file, also when the rest of the config has
    /// mistakes.
    pub(crate) fn value_of(path: &Path, section: &str, key: &str) -> Option<String> {
        ENVIRONMENT.value_of::<File>(path, section, key)
    }

    /// Returns the CA files that the config names, each with its key.
    pub(crate) fn ca_files(&self) -> Vec<(String, &Path)> {
        let rules = &self.rules;
        let sections = [
            ("relay.ca_file", &self.relay.ca_file),
            ("targets.ca_file", &self.targets.ca_file),
        ];
        let sections = sections
            .into_iter()
            .filter_map(|(key, file)| Some((key.to_owned(), file.as_ref()?.get())));
        let endpoints = rules.endpoints.iter().filter_map(|endpoint| {
            let settings = rules.settings(&endpoint.name)?;
            let key = format!("endpoint {}: ca_file", endpoint.name);
            Some((key, settings.ca_file.as_deref()?))
        });
        let allow = rules
            .allow_ca_files()
            .enumerate()
            .filter_map(|(index, file)| {
                Some((format!("allow rule {}: ca_file", index + 1), file?))
            });
        sections.chain(endpoints).chain(allow).collect()
    }

    /// Returns the names of all environment variables that the bridge reads.
    pub(crate) fn variable_names() -> Vec<String> {
        let keys = ENVIRONMENT.variables::<File>().into_iter();
        let others = ENVIRONMENT.others.iter().map(|name| (*name).to_owned());
        keys.map(|variable| variable.name).chain(others).collect()
    }

    /// Returns the environment variables with the bridge's prefix that are not a key.
    pub(crate) fn unknown_variables() -> Unknown {
        ENVIRONMENT.unknown_of_process::<File>()
    }

    /// Logs a warning for each environment variable with the bridge's prefix that is not a key.
    pub(crate) fn warn_of_unknown_variables() {
        ENVIRONMENT.warn_of_unknown::<File>();
    }
}

/// Returns where this process logs. A service of Windows has no standard error, so it logs into the data directory unless
/// the config names a file.
fn of_process(mut log: LogSection) -> LogSection {
    if cfg!(windows) && is_windows_service() {
        log.file = log.file.or_else(|| SERVICE_LOG.parse().ok());
    }
    log
}

#[cfg(windows)]
fn is_windows_service() -> bool {
    bridge_windows::service::Control::current().is_some()
}

#[cfg(not(windows))]
fn is_windows_service() -> bool {
    false
}

#[cfg(test)]
mod tests;
