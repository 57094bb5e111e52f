//! `relay.toml`: parsed once, here, into types that cannot be wrong.
//!
//! Each section has a file with its keys, defaults and checks; combinations that would expose something are
//! rejected before anything listens. Reading, environment variables and the places of mistakes are
//! `runtime::config`'s. `deploy/examples/relay.toml` shows every key with its default.
//!
//! A new key needs its field, its use, and a line in `deploy/examples/relay.toml` and `relay.env`. A key that a
//! reload may change has `#[serde(skip_serializing)]` (see [`runtime::config::first_change`]).

mod bridges;
mod deliveries;
mod direct;
mod endpoints;
mod files;
mod hop_headers;
mod limits;
mod listen;
mod operations;
mod storage;
mod telemetry;
mod tunnel;
mod weights;

pub use bridges::Bridges;
pub use deliveries::{Deliveries, EXPIRES_IN_MAX_S};
pub use direct::Direct;
pub use endpoints::Endpoints;
pub use limits::Limits;
pub use operations::{Audit, Calls, Directory, Notices};
pub use store::{Database, PostgresUrl};
pub use telemetry::Telemetry;
pub use tunnel::Tunnel;
pub use weights::{Weight, Weights};

pub use hop_headers::Hops;
pub use runtime::config::{ByteSize, ConfigDuration, ConfigError};
pub use runtime::logging::LogSection;

use ipnet::IpNet;
use listen::{ListenTable, TlsTable};
use runtime::config::{Document, Environment, Mistake, Source, Unknown};
use serde::ser::Serializer;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use storage::StorageTable;
use transport::dial::RelayUrl;

/// The variables that override the file.
pub(crate) const ENVIRONMENT: Environment = Environment {
    prefix: "RELAY",
    names: &[],
    others: &["RELAY_CONFIG", LOG_ENV],
};

/// The environment variable with log filters, as `tracing-subscriber` has them.
pub(crate) const LOG_ENV: &str = "RELAY_LOG";

/// The name of a key file that the config does not name.
const KEY_FILE: &str = "relay-secrets.key";

/// A whole config that was checked. `Serialize` writes the keys that need a restart.
#[derive(Debug, Clone, Serialize)]
pub struct Config {
    /// Where it was read from.
    #[serde(skip)]
    pub source: Source,
    /// `[listen]`.
    pub listen: Listen,
    /// `[tls]`; `None` for a public listener without TLS. Another certificate is applied at once; with and
    /// without are different listeners.
    #[serde(serialize_with = "is_present")]
    pub tls: Option<Tls>,
    /// `storage.url`: the database.
    #[serde(rename = "storage.url")]
    #[serde(serialize_with = "storage::digest")]
    pub database: Database,
    /// `storage.key_file`: the key under which stored calls are encrypted.
    #[serde(rename = "storage.key_file", serialize_with = "path_as_text")]
    pub key_file: PathBuf,
    /// `[deliveries]`.
    pub deliveries: Deliveries,
    /// `[direct]`.
    pub direct: Direct,
    /// `[directory]`.
    pub directory: Directory,
    /// `[audit]`.
    pub audit: Audit,
    /// `[calls]`.
    pub calls: Calls,
    /// `[notices]`.
    pub notices: Notices,
    /// `[bridges]`.
    pub bridges: Bridges,
    /// `[limits]`.
    pub limits: Limits,
    /// `[weights]`.
    pub weights: Weights,
    /// `[hop_headers]`.
    #[serde(rename = "hop_headers")]
    pub hops: Hops,
    /// `[endpoints]`.
    pub endpoints: Endpoints,
    /// `[tunnel]`.
    pub tunnel: Tunnel,
    /// `[telemetry]`.
    pub telemetry: Telemetry,
    /// `[log]`.
    pub log: LogSection,
}

fn is_present<S: Serializer>(tls: &Option<Tls>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_bool(tls.is_some())
}

fn url_as_text<S: Serializer>(url: &Option<RelayUrl>, serializer: S) -> Result<S::Ok, S::Error> {
    let text = url.as_ref().map(ToString::to_string);
    serializer.serialize_str(&text.unwrap_or_default())
}

fn path_as_text<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&path.display())
}

/// `[listen]`: the addresses, and what they accept.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Listen {
    /// Tunnels and the API, with TLS if there is a `[tls]` section. Defaults to none; this or `internal` is
    /// required.
    pub public: Option<SocketAddr>,
    /// The same without TLS. Defaults to none.
    pub internal: Option<SocketAddr>,
    /// The forward proxy. Defaults to none.
    pub proxy: Option<SocketAddr>,
    /// Whether clients of the forward proxy connect to it by TLS. Defaults to false.
    pub proxy_tls: bool,
    /// Health and metrics, without TLS. Defaults to none.
    pub admin: Option<SocketAddr>,
    /// The names (`host` or `host:port`) by which bridges may dial; empty for any. Defaults to any.
    pub authorities: Vec<String>,
    /// The URL by which bridges dial, for pairing files. Defaults to the only one of `authorities`.
    #[serde(serialize_with = "url_as_text")]
    pub public_url: Option<RelayUrl>,
    /// The CA of the certificate that bridges see there, for pairing files, if it is not a public one. Defaults to that
    /// of `[tls]`.
    pub public_ca_file: Option<PathBuf>,
    /// Whether a load balancer in front terminates TLS, so that tunnels may arrive without it. Defaults to
    /// false.
    pub behind_balancer: bool,
    /// Load balancers whose connections begin with a PROXY header (version 1 or 2) that names the client. Of all
    /// listeners but `admin`. Defaults to none.
    pub proxy_protocol_from: Vec<IpNet>,
    /// Whether HTTP/1.1 callers get field names in their usual spelling (`Content-Type`, `ETag`), or in lower case.
    /// Defaults to false.
    pub title_case: bool,
}

impl Listen {
    /// Returns whether an address is that of a load balancer that sends PROXY headers.
    pub(crate) fn is_balancer(&self, address: IpAddr) -> bool {
        // A listener for both families shows IPv4 addresses as IPv6.
        let address = address.to_canonical();
        let mut from = self.proxy_protocol_from.iter();
        from.any(|network| network.contains(&address))
    }
}

/// `[tls]`: the certificate.
#[derive(Debug, Clone)]
pub enum Tls {
    /// PEM files.
    Files {
        /// The chain, leaf first.
        cert_file: PathBuf,
        /// The leaf's key.
        key_file: PathBuf,
    },
    /// A CA and a leaf that the relay makes for a trial and keeps in `dir`.
    SelfSigned {
        /// The directory of the database.
        dir: PathBuf,
        /// Names and addresses in addition to `localhost`, loopback and the host's own name.
        names: Vec<String>,
    },
}

/// The file as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    listen: ListenTable,
    tls: Option<TlsTable>,
    #[serde(default)]
    storage: StorageTable,
    #[serde(default)]
    deliveries: Deliveries,
    #[serde(default)]
    direct: Direct,
    #[serde(default)]
    directory: Directory,
    #[serde(default)]
    audit: Audit,
    #[serde(default)]
    calls: Calls,
    #[serde(default)]
    notices: Notices,
    #[serde(default)]
    bridges: Bridges,
    #[serde(default)]
    limits: Limits,
    #[serde(default)]
    weights: Weights,
    #[serde(default)]
    hop_headers: Hops,
    #[serde(default)]
    endpoints: Endpoints,
    #[serde(default)]
    tunnel: Tunnel,
    #[serde(default)]
    telemetry: Telemetry,
    #[serde(default)]
    log: LogSection,
}

impl File {
    fn check(self, base: &Path) -> Result<Config, Mistake> {
        let database = self.storage.database(base)?;
        let dir = database.dir(base);
        let key_file = match self.storage.key_file {
            Some(file) => file.into_path(),
            None => dir.join(KEY_FILE),
        };
        let tls = self.tls.map(|table| table.check(dir)).transpose()?;
        let listen = self.listen.check(tls.is_some())?;
        self.limits.validate()?;
        self.endpoints.validate()?;
        self.tunnel.validate()?;
        self.deliveries.validate()?;
        self.calls.validate()?;
        self.directory.validate()?;
        self.bridges.validate()?;
        self.telemetry.validate()?;
        Ok(Config {
            source: Source::default(),
            listen,
            tls,
            database,
            key_file,
            deliveries: self.deliveries,
            direct: self.direct,
            directory: self.directory,
            audit: self.audit,
            calls: self.calls,
            notices: self.notices,
            bridges: self.bridges,
            limits: self.limits,
            weights: self.weights,
            hops: self.hop_headers,
            endpoints: self.endpoints,
            tunnel: self.tunnel,
            telemetry: self.telemetry,
            log: self.log,
        })
    }
}

impl Config {
    /// Reads and checks a file, overridden by the environment. Where the environment sets a key, the file
    /// need not exist.
    ///
    /// # Errors
    /// [`ConfigError`] with the line or the variable of the first mistake.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let (file, document) = ENVIRONMENT.load(path)?;
        Self::checked(file, &document, path)
    }

    /// Checks a text, without the environment. `path` names it in messages, and relative paths are resolved
    /// against its directory.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let (file, document) = runtime::config::parse(text, path)?;
        Self::checked(file, &document, path)
    }

    fn checked(file: File, document: &Document, path: &Path) -> Result<Self, ConfigError> {
        let checked = file.check(&runtime::config::base_of(path));
        let mut config = checked.map_err(|mistake| document.reject(mistake))?;
        config.source = document.source();
        Ok(config)
    }

    /// Returns the directory of what the relay writes: that of a SQLite database, else that of the key file. A relative
    /// `log.file` is resolved against it.
    pub fn data_dir(&self) -> PathBuf {
        let file = match &self.database {
            Database::Sqlite(path) => path,
            Database::Postgres(_) => &self.key_file,
        };
        file.parent().unwrap_or(Path::new("")).to_owned()
    }

    /// Returns the environment variables with the relay's prefix that are not a key.
    pub(crate) fn unknown_variables() -> Unknown {
        ENVIRONMENT.unknown_of_process::<File>()
    }

    /// Logs a warning for each environment variable with the relay's prefix that is not a key.
    pub(crate) fn warn_of_unknown_variables() {
        ENVIRONMENT.warn_of_unknown::<File>();
    }

    /// Returns the config of a relay for this machine alone: ports that the system chooses on loopback, a
    /// self-signed certificate, everything it stores in `data_dir`.
    pub fn local(data_dir: &Path) -> Self {
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        Self {
            source: Source::default(),
            listen: Listen {
                public: Some(loopback),
                internal: Some(loopback),
                ..Listen::default()
            },
            tls: Some(Tls::SelfSigned {
                dir: data_dir.to_owned(),
                names: Vec::new(),
            }),
            database: Database::Sqlite(data_dir.join("relay.db")),
            key_file: data_dir.join(KEY_FILE),
            deliveries: Deliveries::default(),
            direct: Direct::default(),
            directory: Directory::default(),
            audit: Audit::default(),
            calls: Calls::default(),
            notices: Notices::default(),
            bridges: Bridges::default(),
            limits: Limits::default(),
            tunnel: Tunnel::default(),
            weights: Weights::default(),
            hops: Hops::default(),
            endpoints: Endpoints::default(),
            telemetry: Telemetry::default(),
            log: LogSection::default(),
        }
    }
}

#[cfg(test)]
mod tests;
