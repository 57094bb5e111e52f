//! `[listen]` and `[tls]`: the addresses, and the certificate of the public one.

use super::{Listen, Tls};
use ipnet::IpNet;
use policy::Host;
use runtime::config::{FilePath, Mistake};
use serde::Deserialize;
use serde::de::{self, Deserializer};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use transport::dial::RelayUrl;

/// `[listen]` as it is written. The keys are described at [`Listen`].
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ListenTable {
    #[serde(deserialize_with = "address")]
    public: Option<SocketAddr>,
    #[serde(deserialize_with = "address")]
    internal: Option<SocketAddr>,
    #[serde(deserialize_with = "address")]
    proxy: Option<SocketAddr>,
    proxy_tls: bool,
    #[serde(deserialize_with = "address")]
    admin: Option<SocketAddr>,
    /// Whether listeners without TLS may leave loopback. Defaults to false.
    insecure: bool,
    authorities: Vec<String>,
    public_url: Option<String>,
    public_ca_file: Option<FilePath>,
    behind_balancer: bool,
    #[serde(deserialize_with = "networks")]
    proxy_protocol_from: Vec<IpNet>,
    title_case: bool,
}

fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SocketAddr>, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map(Some).map_err(|_| {
        de::Error::custom(format!(
            "{} is not an address: write ip:port, as in \"127.0.0.1:8443\"",
            runtime::value::shown(&text)
        ))
    })
}

fn networks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpNet>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    let network = |text: &String| {
        let address = || text.parse::<IpAddr>().map(IpNet::from);
        text.parse::<IpNet>().or_else(|_| address()).map_err(|_| {
            de::Error::custom(format!(
                "{} is neither an address nor a network: write it as in \"10.0.0.5\" or \"10.0.0.0/24\"",
                runtime::value::shown(text)
            ))
        })
    };
    texts.iter().map(network).collect()
}

impl ListenTable {
    /// Rejects combinations that would expose something.
    ///
    /// # Errors
    /// The first mistake.
    pub(super) fn check(self, has_tls: bool) -> Result<Listen, Mistake> {
        if self.public.is_none() && self.internal.is_none() {
            return Err(Mistake::of_key(
                "listen.public",
                "is missing: write where to listen, as in public = \"0.0.0.0:8443\" under [listen]",
            ));
        }
        if self.proxy_tls && !has_tls {
            return Err(Mistake::of_key(
                "listen.proxy_tls",
                "needs a certificate: add a [tls] section, or leave the key out",
            ));
        }
        // Keys in the clear would cross the network: the operator must ask for it by `insecure`.
        let plain = [
            ("listen.proxy", self.proxy.filter(|_| !self.proxy_tls)),
            ("listen.public", self.public.filter(|_| !has_tls)),
            ("listen.internal", self.internal),
            ("listen.admin", self.admin),
        ];
        for (key, address) in plain {
            if let Some(address) = address
                && !address.ip().is_loopback()
                && !self.insecure
            {
                let message = format!(
                    "would listen without TLS on {address}, which other machines can reach: use a loopback \
                     address, or add a [tls] section for listen.public (and proxy_tls = true for \
                     listen.proxy), or write insecure = true under [listen] if a load balancer in front \
                     terminates TLS"
                );
                return Err(Mistake::of_key(key, message));
            }
        }
        if let Some(wrong) = self.authorities.iter().find(|name| !is_authority(name)) {
            let message = format!(
                "has {}, which no bridge can dial: write host or host:port, without a scheme, a path and a wildcard, \
                 as in authorities = [\"relay.example.com\"]",
                named(wrong)
            );
            return Err(Mistake::of_key("listen.authorities", message));
        }
        // Behind a balancer a proof cannot be bound to the TLS connection: the name that the bridge dialed is the
        // binding that is left.
        if self.behind_balancer && self.authorities.is_empty() {
            return Err(Mistake::of_key(
                "listen.behind_balancer",
                "needs listen.authorities: the names by which bridges dial the load balancer, as in \
                 authorities = [\"relay.example.com\"]",
            ));
        }
        // A listed client may claim to be any address.
        if let Some(all) = self
            .proxy_protocol_from
            .iter()
            .find(|net| net.prefix_len() == 0)
        {
            let message = format!(
                "has {all}, so that every client could name any address as its own: list the addresses of the load balancers"
            );
            return Err(Mistake::of_key("listen.proxy_protocol_from", message));
        }
        let public_url = self.public_url.as_deref().map(str::parse::<RelayUrl>);
        // Without the value: it may have a password.
        let public_url = public_url
            .transpose()
            .map_err(|error| Mistake::of_key("listen.public_url", error))?;
        Ok(Listen {
            public_url,
            public_ca_file: self.public_ca_file.map(FilePath::into_path),
            public: self.public,
            internal: self.internal,
            proxy: self.proxy,
            proxy_tls: self.proxy_tls,
            admin: self.admin,
            authorities: self.authorities,
            behind_balancer: self.behind_balancer,
            proxy_protocol_from: self.proxy_protocol_from,
            title_case: self.title_case,
        })
    }
}

/// Returns whether a bridge can dial a name: it sends the host and the port of its `relay.url`, which are compared
/// letter by letter.
fn is_authority(name: &str) -> bool {
    let (host, port) = match name.rsplit_once(':') {
        // The last colon of an IPv6 address is within its brackets.
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        Some(_) | None => (name, None),
    };
    let is_port = |port: &str| {
        // With a zero in front it is the same number and another text.
        port.parse::<u16>()
            .is_ok_and(|number| number > 0 && number.to_string() == port)
    };
    Host::parse(host).is_ok() && port.is_none_or(is_port)
}

/// Returns an entry of a list for a message. A URL in its place may have a password.
fn named(entry: &str) -> String {
    match entry.contains('@') || entry.len() > 253 {
        true => "an entry".to_owned(),
        false => format!("{entry:?}"),
    }
}

/// Returns whether a certificate can have a name: that of a host, also with a wildcard as its first part, or an
/// address.
fn is_certificate_name(name: &str) -> bool {
    let host = name.strip_prefix("*.").unwrap_or(name);
    let is_host = matches!(Host::parse(host), Ok(Host::Name(_))) && !host.ends_with('.');
    is_host || name.parse::<IpAddr>().is_ok()
}

/// Rejects names that a certificate cannot have.
fn check_names(names: &[String]) -> Result<(), Mistake> {
    let Some(wrong) = names.iter().find(|name| !is_certificate_name(name)) else {
        return Ok(());
    };
    let remedy = match wrong.is_ascii() {
        true => {
            "write it without a scheme, a port and a path, as in names = [\"relay.example.com\", \"192.0.2.1\"]"
        }
        false => {
            "write an international name in its xn-- form, as in names = [\"xn--bcher-kva.example\"]"
        }
    };
    let message = format!(
        "has {}, which is neither a DNS name nor an IP address: {remedy}",
        named(wrong)
    );
    Err(Mistake::of_key("tls.names", message))
}

/// `[tls]` as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct TlsTable {
    /// The chain in PEM, leaf first. Has no default.
    cert_file: Option<FilePath>,
    /// The leaf's key in PEM. Has no default.
    key_file: Option<FilePath>,
    /// Whether the relay makes a certificate, for a trial. Defaults to false.
    self_signed: bool,
    /// Names and addresses for that certificate, in addition to `localhost`, loopback and the host's own
    /// name. Defaults to none.
    names: Vec<String>,
}

impl TlsTable {
    /// Decides between files and a self-signed certificate, which is kept in `dir`.
    ///
    /// # Errors
    /// The first mistake.
    pub(super) fn check(self, dir: PathBuf) -> Result<Tls, Mistake> {
        let mistake = |key, message: &str| Err(Mistake::of_key(key, message));
        match (self.cert_file, self.key_file, self.self_signed) {
            (Some(cert_file), Some(key_file), false) if self.names.is_empty() => Ok(Tls::Files {
                cert_file: cert_file.into_path(),
                key_file: key_file.into_path(),
            }),
            (Some(_), Some(_), false) => mistake("tls.names", "requires self_signed = true"),
            (None, None, true) => {
                check_names(&self.names)?;
                Ok(Tls::SelfSigned {
                    dir,
                    names: self.names,
                })
            }
            (None, None, false) => mistake(
                "tls.cert_file",
                "and tls.key_file are missing: name the PEM files, or write self_signed = true for a trial",
            ),
            (Some(_), None, _) => mistake("tls.cert_file", "is set and tls.key_file is missing"),
            (None, Some(_), _) => mistake("tls.key_file", "is set and tls.cert_file is missing"),
            (Some(_), Some(_), true) => mistake(
                "tls.self_signed",
                "conflicts with tls.cert_file: write either",
            ),
        }
    }
}
