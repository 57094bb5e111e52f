//! `relay.toml`, read once into types that cannot be wrong.
//!
//! [`file`](mod@file) has the shape of the file, this module what it means: paths are resolved against the
//! file's directory, and combinations that would expose something are refused here, before
//! anything listens. `deploy/examples/relay.toml` shows every key with its default.

mod deliveries;
mod direct;
mod file;
mod hop_headers;
mod limits;
mod telemetry;
mod units;
mod weights;

pub use deliveries::{Deliveries, EXPIRES_IN_MAX_S};
pub use direct::Direct;
pub use limits::{Audit, Directory, Notices};
pub use limits::{Limits, Log, LogFormat, LogLevel, Tunnel};
pub use store::{Database, PostgresUrl};
pub use telemetry::Telemetry;
pub use units::{ByteSize, Span, UnitError};
pub use weights::{Weight, Weights};

pub use hop_headers::Hops;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// The name of a key file that the config does not name.
const KEY_FILE: &str = "relay-secrets.key";

/// Everything that a relay is told.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where it listens.
    pub listen: Listen,
    /// How the public listener speaks TLS; `None` for a listener without.
    pub tls: Option<Tls>,
    /// `[storage]`: the database.
    pub database: Database,
    /// The key file under which is encrypted what is stored of deliveries.
    pub key_file: PathBuf,
    /// `[deliveries]`.
    pub deliveries: Deliveries,
    /// `[direct]`.
    pub direct: Direct,
    /// `[directory]`.
    pub directory: Directory,
    /// `[audit]`.
    pub audit: Audit,
    /// `[notices]`.
    pub notices: Notices,
    /// `[limits]`.
    pub limits: Limits,
    /// `[weights]`.
    pub weights: Weights,
    /// `[hops]`.
    pub hops: Hops,
    /// `[tunnel]`.
    pub tunnel: Tunnel,
    /// `[telemetry]`.
    pub telemetry: Telemetry,
    /// `[log]`.
    pub log: Log,
}

/// `[listen]`: addresses, and what may come to them.
#[derive(Debug, Clone, Default)]
pub struct Listen {
    /// Tunnels and API, with TLS if there is `[tls]`.
    pub public: Option<SocketAddr>,
    /// The same without TLS.
    pub internal: Option<SocketAddr>,
    /// The forward proxy.
    pub proxy: Option<SocketAddr>,
    /// Whether its clients speak TLS with it, too.
    pub proxy_tls: bool,
    /// Health and metrics, without TLS.
    pub admin: Option<SocketAddr>,
    /// The names (`host` or `host:port`) by which bridges may dial; empty for any.
    pub authorities: Vec<String>,
    /// TLS ends at a balancer in front: tunnels may come without it.
    pub behind_balancer: bool,
}

/// Where the certificate comes from.
#[derive(Debug, Clone)]
pub enum Tls {
    /// PEM files.
    Files {
        /// The chain, leaf first.
        cert_file: PathBuf,
        /// The leaf's key.
        key_file: PathBuf,
    },
    /// Made here, for a trial: a CA and a leaf, kept in `dir`.
    SelfSigned {
        /// Beside the database.
        dir: PathBuf,
        /// Names and addresses beside `localhost`, loopback and the host's own name.
        names: Vec<String>,
    },
}

/// Why a config is not taken: the file, the line where there is one, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    file: PathBuf,
    line: Option<usize>,
    detail: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ", line {line}")?;
        }
        write!(f, ": {}", self.detail)
    }
}

impl std::error::Error for ConfigError {}

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    /// [`ConfigError`] when it cannot be read, is not TOML, has a key that this version does not
    /// know, or asks for something that cannot be.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|error| ConfigError {
            file: path.to_owned(),
            line: None,
            detail: format!("cannot be read: {error}"),
        })?;
        Self::parse(&text, path)
    }

    /// Reads the text of the file at `path`; relative paths in it are beside that file.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let failed = |line, detail| ConfigError {
            file: path.to_owned(),
            line,
            detail,
        };
        let file: file::File = toml::from_str(text).map_err(|error| {
            let line = error.span().map(|span| line_of(text, span.start));
            failed(line, error.message().to_owned())
        })?;
        let base = path.parent().unwrap_or(Path::new(""));
        file.resolve(base)
            .map_err(|mistake| failed(key_line(text, &mistake), mistake))
    }

    /// A relay for this machine alone: ports chosen by the system on loopback, a self-signed
    /// certificate, everything it keeps in `data_dir`.
    pub fn local(data_dir: &Path) -> Self {
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        Self {
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
            notices: Notices::default(),
            limits: Limits::default(),
            tunnel: Tunnel::default(),
            weights: Weights::default(),
            hops: Hops::default(),
            telemetry: Telemetry::default(),
            log: Log::default(),
        }
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    let before = text.get(..offset).unwrap_or(text);
    before.matches('\n').count() + 1
}

/// The line of the key that a mistake begins with (`section.key ...`), if the file has it.
fn key_line(text: &str, mistake: &str) -> Option<usize> {
    let (section, rest) = mistake.split_once('.')?;
    let key = rest
        .split(|c: char| !c.is_alphanumeric() && c != '_')
        .next()?;
    let mut inside = "";
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if let Some(name) = line.strip_prefix('[').and_then(|l| l.split(']').next()) {
            inside = name.trim();
        } else if inside == section
            && line
                .strip_prefix(key)
                .is_some_and(|after| after.trim_start().starts_with('='))
        {
            return Some(index + 1);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(text, Path::new("etc/relay.toml")).map_err(|error| error.to_string())
    }

    #[test]
    fn the_example_parses_and_its_numbers_are_the_defaults() {
        let example = include_str!("../../../deploy/examples/relay.toml");
        let config = parse(example).unwrap();
        let defaults = Limits::default();
        assert_eq!(config.listen.public.unwrap().port(), 8443);
        assert_eq!(format!("{:?}", config.limits), format!("{defaults:?}"));
        assert_eq!(
            format!("{:?}", config.tunnel),
            format!("{:?}", Tunnel::default())
        );
        assert_eq!(config.log, Log::default());
        let deliveries = Deliveries::default();
        assert_eq!(
            format!("{:?}", config.deliveries),
            format!("{deliveries:?}")
        );
        assert_eq!(config.direct, Direct::default());
        assert_eq!(config.weights, Weights::default());
        assert_eq!(config.hops, Hops::default());
        assert_eq!(config.directory, Directory::default());
        assert_eq!(config.audit, Audit::default());
        assert_eq!(config.notices, Notices::default());
        assert_eq!(config.database, Database::Sqlite("etc/relay.db".into()));
    }

    #[test]
    fn the_smallest_file_is_enough() {
        let config =
            parse("[listen]\npublic = \"0.0.0.0:8443\"\n[tls]\nself_signed = true").unwrap();
        assert_eq!(config.database, Database::Sqlite("etc/relay.db".into()));
        assert!(matches!(config.tls, Some(Tls::SelfSigned { dir, .. }) if dir == Path::new("etc")));
    }

    #[test]
    fn mistakes_name_file_line_and_remedy() {
        let cases = [
            (
                "[listen]\npublic = \"127.0.0.1:1\"\n[weights]\ntenants = { acme = 0 }",
                "line 4",
                "a weight is 1 to 255, not 0",
            ),
            (
                "[listen]\npublic = \"0.0.0.0:1\"\nproxies = \"127.0.0.1:2\"",
                "line 3",
                "unknown field `proxies`",
            ),
            (
                "[listen]\npublic = \"127.0.0.1:1\"\nproxy = \"0.0.0.0:2\"",
                "line 3",
                "proxy_tls = true",
            ),
            (
                "[listen]\npublic = \"127.0.0.1:1\"\nproxy_tls = true",
                "line 3",
                "[tls]",
            ),
            (
                "[listen]\npublic = \"localhost\"",
                "line 2",
                "127.0.0.1:8443",
            ),
            (
                "[listen]\npublic = \"0.0.0.0:1\"",
                "line 2",
                "insecure = true",
            ),
            (
                "[listen]\ninternal = \"10.0.0.1:1\"",
                "line 2",
                "insecure = true",
            ),
            (
                "[listen]\nadmin = \"127.0.0.1:1\"",
                "relay.toml:",
                "listen.public",
            ),
            (
                "[listen]\npublic = \"127.0.0.1:1\"\n[tls]\n",
                "relay.toml",
                "self_signed = true",
            ),
            (
                "[listen]\npublic = \"127.0.0.1:1\"\n[tls]\ncert_file = \"a\"",
                "line 4",
                "tls.key_file",
            ),
            (
                "[listen]\npublic = \"127.0.0.1:1\"\n[tls]\ncert_file = \"a\"\nkey_file = \"b\"\nself_signed = true",
                "line 6",
                "either",
            ),
            (
                "[listen]\npublic = \"127.0.0.1:1\"\n[storage]\nurl = \"mysql://db/relay\"",
                "line 4",
                "postgres://",
            ),
            (
                "[listen]\npublic = \"127.0.0.1:1\"\n[storage]\nurl = \"relay.db\"",
                "line 4",
                "sqlite://relay.db",
            ),
            (
                "[listen]\npublic = \"127.0.0.1:1\"\nbehind_balancer = true",
                "line 3",
                "authorities",
            ),
            (
                "[listen]\npublic = \"127.0.0.1:1\"\n[limits]\ncall_timeout = 30",
                "line 4",
                "\"30s\"",
            ),
            (
                "[listen]\npublic = \"127.0.0.1:1\"\n[limits]\ncall_timeout = \"30\"",
                "line 4",
                "\"30s\"",
            ),
            (
                "[listen]\npublic = \"127.0.0.1:1\"\n[limits]\n\nsessions_max = 0",
                "line 5",
                "at least 1",
            ),
            (
                "[listen]\npublic = \"127.0.0.1:1\"\n[limits]\nheader_bytes_max = \"1MiB\"",
                "line 4",
                "40KiB",
            ),
            (
                "[listen]\npublic = \"127.0.0.1:1\"\n[tunnel]\ndead_after = \"5s\"",
                "line 4",
                "longer than tunnel.heartbeat",
            ),
            (
                "[listen]\npublic = \"127.0.0.1:1\"\n[directory]\nstale_max = \"0s\"",
                "line 4",
                "at least 1s",
            ),
            ("[log]\nlevel = \"loud\"", "line 2", "info"),
            ("[listen", "line 1", ""),
        ];
        for (text, line, remedy) in cases {
            let error = parse(text).unwrap_err();
            assert!(error.starts_with("etc/relay.toml"), "{error}");
            assert!(error.contains(line), "{text}\n{error}");
            assert!(error.contains(remedy), "{text}\n{error}");
        }
    }

    #[test]
    fn a_listener_without_tls_needs_loopback_or_the_word_insecure() {
        assert!(parse("[listen]\npublic = \"127.0.0.1:1\"").is_ok());
        assert!(parse("[listen]\npublic = \"[::1]:1\"\ninternal = \"127.0.0.1:2\"").is_ok());
        assert!(parse("[listen]\ninternal = \"0.0.0.0:1\"\ninsecure = true").is_ok());
    }
}
