//! The shape of `relay.toml`, and the way from it to a [`Config`].
//!
//! A mistake begins with the key that it is about (`listen.public ...`), so that the caller can
//! name the line.

use super::{
    Audit, Config, Database, Deliveries, Direct, Directory, Hops, KEY_FILE, Limits, Listen, Log,
    Notices, Telemetry, Tls, Tunnel, Weights,
};
use serde::Deserialize;
use serde::de::{self, Deserializer};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
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
    notices: Notices,
    #[serde(default)]
    limits: Limits,
    #[serde(default)]
    weights: Weights,
    #[serde(default)]
    hops: Hops,
    #[serde(default)]
    tunnel: Tunnel,
    #[serde(default)]
    telemetry: Telemetry,
    #[serde(default)]
    log: Log,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ListenTable {
    #[serde(deserialize_with = "address")]
    public: Option<SocketAddr>,
    #[serde(deserialize_with = "address")]
    internal: Option<SocketAddr>,
    #[serde(deserialize_with = "address")]
    proxy: Option<SocketAddr>,
    proxy_tls: bool,
    #[serde(deserialize_with = "address")]
    admin: Option<SocketAddr>,
    insecure: bool,
    authorities: Vec<String>,
    behind_balancer: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct TlsTable {
    cert_file: Option<PathBuf>,
    key_file: Option<PathBuf>,
    self_signed: bool,
    names: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct StorageTable {
    url: Option<String>,
    url_file: Option<PathBuf>,
    key_file: Option<PathBuf>,
}

fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SocketAddr>, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map(Some).map_err(|_| {
        de::Error::custom(format!(
            "`{text}` is not an address: write ip:port, as in \"127.0.0.1:8443\""
        ))
    })
}

impl File {
    pub(super) fn resolve(self, base: &Path) -> Result<Config, String> {
        let key_file = self.storage.key_file.clone();
        let database = self.storage.resolve(base)?;
        let dir = database.dir(base);
        let key_file = key_file.map_or_else(|| dir.join(KEY_FILE), |file| base.join(file));
        let tls = self.tls.map(|table| table.resolve(base, dir)).transpose()?;
        let listen = self.listen.resolve(tls.is_some())?;
        let mistake = self.limits.mistake().or_else(|| self.tunnel.mistake());
        let mistake = mistake.or_else(|| self.deliveries.mistake());
        let mistake = mistake.or_else(|| self.directory.mistake());
        if let Some(mistake) = mistake.or_else(|| self.telemetry.mistake()) {
            return Err(mistake);
        }
        Ok(Config {
            listen,
            tls,
            database,
            key_file,
            deliveries: self.deliveries,
            direct: Direct {
                ca_file: self.direct.ca_file.map(|file| base.join(file)),
                ..self.direct
            },
            directory: self.directory,
            audit: self.audit,
            notices: self.notices,
            limits: self.limits,
            weights: self.weights,
            hops: self.hops,
            tunnel: self.tunnel,
            telemetry: Telemetry {
                ca_file: self.telemetry.ca_file.map(|file| base.join(file)),
                ..self.telemetry
            },
            log: self.log,
        })
    }
}

impl ListenTable {
    fn resolve(self, tls: bool) -> Result<Listen, String> {
        if self.public.is_none() && self.internal.is_none() {
            return Err("listen.public is missing: write where to listen, as in \
                 public = \"0.0.0.0:8443\" under [listen]"
                .into());
        }
        if self.proxy_tls && !tls {
            return Err(
                "listen.proxy_tls needs a certificate: add a [tls] section, or leave it out".into(),
            );
        }
        let plain = [
            ("proxy", self.proxy.filter(|_| !self.proxy_tls)),
            ("public", self.public.filter(|_| !tls)),
            ("internal", self.internal),
            ("admin", self.admin),
        ];
        for (key, address) in plain {
            if let Some(address) = address
                && !address.ip().is_loopback()
                && !self.insecure
            {
                return Err(format!(
                    "listen.{key} would speak without TLS on {address}, which other machines can \
                     reach: use a loopback address, or add a [tls] section for listen.public \
                     (and proxy_tls = true for listen.proxy), or write insecure = true under [listen] if a balancer in front ends TLS"
                ));
            }
        }
        if self.behind_balancer && self.authorities.is_empty() {
            return Err(
                "listen.behind_balancer needs listen.authorities: the names by which bridges dial \
                 the balancer, as in authorities = [\"relay.example.com\"]"
                    .into(),
            );
        }
        Ok(Listen {
            public: self.public,
            internal: self.internal,
            proxy: self.proxy,
            proxy_tls: self.proxy_tls,
            admin: self.admin,
            authorities: self.authorities,
            behind_balancer: self.behind_balancer,
        })
    }
}

impl TlsTable {
    fn resolve(self, base: &Path, dir: PathBuf) -> Result<Tls, String> {
        match (self.cert_file, self.key_file, self.self_signed) {
            (Some(cert_file), Some(key_file), false) => {
                if !self.names.is_empty() {
                    return Err("tls.names belongs to self_signed = true".into());
                }
                Ok(Tls::Files {
                    cert_file: base.join(cert_file),
                    key_file: base.join(key_file),
                })
            }
            (None, None, true) => Ok(Tls::SelfSigned {
                dir,
                names: self.names,
            }),
            (None, None, false) => Err(
                "tls.cert_file and tls.key_file are missing: name the PEM files, or write \
                 self_signed = true for a trial"
                    .into(),
            ),
            (Some(_), None, _) => Err("tls.cert_file is there and tls.key_file is missing".into()),
            (None, Some(_), _) => Err("tls.key_file is there and tls.cert_file is missing".into()),
            (Some(_), Some(_), true) => {
                Err("tls.self_signed clashes with tls.cert_file: write either".into())
            }
        }
    }
}

impl StorageTable {
    fn resolve(self, base: &Path) -> Result<Database, String> {
        let url = match (self.url, self.url_file) {
            (Some(_), Some(_)) => {
                return Err("storage.url clashes with storage.url_file: write either".into());
            }
            (Some(url), None) => url,
            (None, None) => "sqlite://relay.db".into(),
            (None, Some(file)) => {
                let file = base.join(file);
                let text = std::fs::read_to_string(&file);
                let text = text.map_err(|error| {
                    format!(
                        "storage.url_file {} cannot be read: {error}",
                        file.display()
                    )
                })?;
                text.trim().to_owned()
            }
        };
        Database::parse(&url, base)
    }
}
