//! The sections of the file, with their defaults.

use super::value::{Every, FilePath, Size, Span, Within, from_text, text};
use crate::quota::{QuotaSection, Rate, Window};
use protocol::limits::STREAM_WINDOW_INITIAL_BYTES;
use serde::Deserialize;
use serde::de::{self, Deserializer};
use std::str::FromStr;
use toml::Spanned;
use transport::dial::{Proxy, ProxyError, RelayUrl};

/// `[relay]`: where the relay is, and how it is reached.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RelaySection {
    /// `https://host` or `https://host:port`.
    #[serde(deserialize_with = "relay_url")]
    pub url: RelayUrl,
    /// PEM certificates trusted beside the system's: a private CA, or that of TLS inspection.
    pub ca_file: Option<FilePath>,
    /// How to get out. Default `"env"`.
    #[serde(default)]
    pub proxy: ProxySetting,
    /// The credential (of the kind basic) for the proxy, by name.
    pub proxy_credential: Option<String>,
    /// The oldest version of TLS that is spoken with the relay: `"1.2"` (the default) or `"1.3"`.
    #[serde(default)]
    pub tls_min: TlsMin,
    /// Connections, to different nodes where the relay has several. 1 to 8, default 2.
    #[serde(default = "connections_default")]
    pub connections: Within<1, 8>,
}

fn connections_default() -> Within<1, 8> {
    Within::known(2)
}

fn relay_url<'de, D: Deserializer<'de>>(deserializer: D) -> Result<RelayUrl, D::Error> {
    struct Url(RelayUrl);
    impl FromStr for Url {
        type Err = String;
        fn from_str(url: &str) -> Result<Self, String> {
            let url: Result<RelayUrl, _> = url.parse();
            url.map(Self)
                .map_err(|error| format!("the relay's URL {error}"))
        }
    }
    text(
        deserializer,
        "a URL in quotes, like \"https://relay.example.com\"",
    )
    .map(|Url(url)| url)
}

/// The oldest version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TlsMin {
    /// `"1.2"`.
    #[default]
    Tls12,
    /// `"1.3"`.
    Tls13,
}

impl TlsMin {
    /// As the transport has it.
    pub(crate) fn oldest(self) -> transport::tls::Oldest {
        match self {
            Self::Tls12 => transport::tls::Oldest::Tls12,
            Self::Tls13 => transport::tls::Oldest::Tls13,
        }
    }
}

impl FromStr for TlsMin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "1.2" => Ok(Self::Tls12),
            "1.3" => Ok(Self::Tls13),
            _ => Err("is no version of TLS that is spoken here: write \"1.2\" or \"1.3\"".into()),
        }
    }
}

from_text! { TlsMin, "a version of TLS in quotes, \"1.2\" or \"1.3\""; }

/// How the relay is reached.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ProxySetting {
    /// `"env"`: as `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` say.
    #[default]
    Env,
    /// `"none"`: directly.
    Direct,
    /// Through this one.
    Via(Proxy),
}

impl FromStr for ProxySetting {
    type Err = String;

    fn from_str(setting: &str) -> Result<Self, String> {
        match setting {
            "env" => Ok(Self::Env),
            "none" => Ok(Self::Direct),
            url if url.contains('@') => {
                Err("no passwords in this file: name a credential in proxy_credential, or write \
                 proxy = \"env\" and give http://user:password@host:port in the environment variable \
                 HTTPS_PROXY"
                    .into())
            }
            url => Proxy::from_url("relay.proxy", url)
                .map(Self::Via)
                .map_err(|_| {
                    "is no proxy: write \"env\", \"none\", or a URL like \
                 \"http://proxy.example.com:3128\""
                        .into()
                }),
        }
    }
}

from_text! { ProxySetting, "\"env\", \"none\" or a URL in quotes"; }

impl ProxySetting {
    /// The proxy to use now.
    ///
    /// # Errors
    /// [`ProxyError`] when an environment variable is set and cannot be understood.
    pub fn resolve(&self) -> Result<Proxy, ProxyError> {
        match self {
            Self::Env => Proxy::from_env(|name| std::env::var(name).ok()),
            Self::Direct => Ok(Proxy::Direct),
            Self::Via(proxy) => Ok(proxy.clone()),
        }
    }
}

/// `[bridge]`: who this bridge is.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BridgeSection {
    /// Its name in the tenant, 1 to 64 visible characters.
    #[serde(deserialize_with = "bridge_name")]
    pub name: String,
    /// Identity and state; made with mode 0700.
    pub data_dir: FilePath,
    /// The key under which credentials are sealed: 32 bytes or more, mode 0600. Without it the one that
    /// the service manager gives, or one that is made in the data directory.
    pub key_file: Option<FilePath>,
    /// Nothing is taken while this is true: requests are turned away, and deliveries wait. Default false.
    #[serde(default)]
    pub paused: bool,
    /// Whether the relay is told the allow list's host patterns, to choose among bridges. Default
    /// true; without them it asks each bridge.
    #[serde(default = "yes")]
    pub advertise_hosts: bool,
}

fn yes() -> bool {
    true
}

fn bridge_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let name = String::deserialize(deserializer)?;
    check_name(&name).map_err(de::Error::custom)?;
    Ok(name)
}

/// Whether a name can be a bridge's.
pub(crate) fn check_name(name: &str) -> Result<(), String> {
    let fits = (1..=64).contains(&name.chars().count())
        && name.trim() == name
        && !name.chars().any(char::is_control);
    if fits {
        return Ok(());
    }
    Err("a bridge's name has 1 to 64 visible characters, and no space at its ends".into())
}

/// One `[[endpoint]]`: a named base URL.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndpointSection {
    /// Its name in URLs: reached as `/v1/endpoints/{name}/...`.
    pub name: Spanned<String>,
    /// What it stands for; callers reach this and what is below.
    pub url: Spanned<String>,
    /// The methods; without it any.
    pub methods: Option<Spanned<Vec<String>>>,
    /// PEM certificates trusted for this endpoint, beside those of `[targets]`.
    pub ca_file: Option<FilePath>,
    /// The credential that is added to every request, by name.
    pub credential: Option<Spanned<String>>,
    /// Whether it is taken without a signature where `[signed_calls]` asks for one. Default false.
    #[serde(default)]
    pub unsigned: bool,
    /// What becomes of a request that brings its own: `"refuse"` (the default) or `"override"`.
    #[serde(default)]
    pub caller_credentials: CallerCredentials,
    /// What its health is asked for with GET: a path below `url`, beginning with `/` or `?`. An
    /// answer below 500 is good. Without it a connection is enough, and no request is made.
    pub health_path: Option<Spanned<String>>,
    /// What of its answers is rewritten for clients that browse: `"location"`, `"cookies"`. Without it nothing.
    pub rewrite: Option<Spanned<Vec<String>>>,
    /// Whether the relay may make a PUT or DELETE once more whose tunnel was lost while it ran. Default false.
    #[serde(default)]
    pub repeatable: bool,
    /// See [`QuotaSection`], as the following.
    pub concurrent_max: Option<Within<1, 65536>>,
    /// Exchanges in a time, like `"10/s"`.
    pub rate: Option<Rate>,
    /// Largest request body.
    pub request_max: Option<Size>,
    /// Largest response body.
    pub response_max: Option<Size>,
    /// As in `[targets]`, as the following.
    pub connect_timeout: Option<Span>,
    /// To the answer's head.
    pub head_timeout: Option<Span>,
    /// Between two pieces of the answer.
    pub idle_timeout: Option<Span>,
    /// For all of an exchange.
    pub total_timeout: Option<Span>,
    /// When nothing is taken.
    #[serde(default)]
    pub maintenance: Vec<Window>,
}

impl EndpointSection {
    /// How much may go to it.
    pub(crate) fn quota(&self) -> QuotaSection {
        QuotaSection {
            concurrent_max: self.concurrent_max,
            rate: self.rate,
            request_max: self.request_max,
            response_max: self.response_max,
            connect_timeout: self.connect_timeout,
            head_timeout: self.head_timeout,
            idle_timeout: self.idle_timeout,
            total_timeout: self.total_timeout,
            maintenance: self.maintenance.clone(),
        }
    }
}

/// What becomes of a caller's own credential where this bridge adds one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CallerCredentials {
    /// The request is refused.
    #[default]
    Refuse,
    /// It is taken out, and this bridge's is sent.
    Override,
}

/// One `[[allow]]`: hosts that Call URLs may go to.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AllowSection {
    /// Exact, `*.corp.example`, an address, or a network like `10.0.0.0/8`.
    pub host: Spanned<String>,
    /// `["http"]`, `["https"]`; without it both.
    pub schemes: Option<Spanned<Vec<String>>>,
    /// Without it the scheme's own.
    pub ports: Option<Spanned<Vec<i64>>>,
    /// `["*"]` for any.
    pub methods: Spanned<Vec<String>>,
    /// `/hooks/*` for everything below; without it every path.
    pub paths: Option<Spanned<Vec<String>>>,
    /// Whether a network also allows names that resolve into it. Default false.
    #[serde(default)]
    pub resolved: bool,
    /// Whether raw streams (CONNECT) may be opened. Default false.
    #[serde(default)]
    pub connect: bool,
    /// See [`QuotaSection`], as the following.
    pub concurrent_max: Option<Within<1, 65536>>,
    /// Exchanges in a time, like `"10/s"`.
    pub rate: Option<Rate>,
    /// Largest request body.
    pub request_max: Option<Size>,
    /// Largest response body.
    pub response_max: Option<Size>,
    /// As in `[targets]`, as the following.
    pub connect_timeout: Option<Span>,
    /// To the answer's head.
    pub head_timeout: Option<Span>,
    /// Between two pieces of the answer.
    pub idle_timeout: Option<Span>,
    /// For all of an exchange.
    pub total_timeout: Option<Span>,
    /// When nothing is taken.
    #[serde(default)]
    pub maintenance: Vec<Window>,
}

impl AllowSection {
    /// How much may go by it.
    pub(crate) fn quota(&self) -> QuotaSection {
        QuotaSection {
            concurrent_max: self.concurrent_max,
            rate: self.rate,
            request_max: self.request_max,
            response_max: self.response_max,
            connect_timeout: self.connect_timeout,
            head_timeout: self.head_timeout,
            idle_timeout: self.idle_timeout,
            total_timeout: self.total_timeout,
            maintenance: self.maintenance.clone(),
        }
    }
}

from_text! {
    Rate, "a rate in quotes, like \"10/s\"";
    Window, "a maintenance window in quotes, like \"daily 02:00-02:30\"";
}

/// `[targets]`: how targets are reached.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Targets {
    /// PEM certificates trusted for HTTPS targets, beside the system's.
    pub ca_file: Option<FilePath>,
    /// How targets are reached: as `relay.proxy`, but by default `"none"`. Names are resolved here, and the
    /// proxy is asked for an address that was checked.
    pub proxy: ProxySetting,
    /// The credential (of the kind basic) for that proxy, by name.
    pub proxy_credential: Option<String>,
    /// The oldest version of TLS that is spoken with targets: `"1.2"` (the default) or `"1.3"`.
    pub tls_min: TlsMin,
    /// Whether HTTPS targets may choose HTTP/2 (by ALPN). Default true.
    pub http2: bool,
    /// For a TCP connection, all addresses together, and again for its TLS. Default 5 s.
    pub connect_timeout: Span,
    /// From the last piece of a request to the answer's head. Default 2 m.
    pub head_timeout: Span,
    /// Between two pieces of an answer's body. Default 2 m.
    pub idle_timeout: Span,
    /// How long a connection is kept for another request. Default 30 s.
    pub pool_idle_timeout: Span,
    /// Idle connections to one target. 0 to 1024, default 256.
    pub pool_idle_per_target: Within<0, 1024>,
    /// Idle connections in all. 0 to 8192, default 512.
    pub pool_idle_max: Within<0, 8192>,
    /// How often endpoints are looked at, or `"off"`. Default 60 s.
    pub health_interval: Every,
    /// The greatest age of a session that a credential of the kind `alm` has opened; the next request opens
    /// another one. Default 8 h.
    pub alm_session_max_age: Span,
}

impl Default for Targets {
    fn default() -> Self {
        Self {
            ca_file: None,
            proxy: ProxySetting::Direct,
            proxy_credential: None,
            tls_min: TlsMin::default(),
            http2: true,
            connect_timeout: Span::secs(5),
            head_timeout: Span::secs(120),
            idle_timeout: Span::secs(120),
            pool_idle_timeout: Span::secs(30),
            pool_idle_per_target: Within::known(256),
            pool_idle_max: Within::known(512),
            health_interval: Every::secs(60),
            alm_session_max_age: Span::secs(8 * 60 * 60),
        }
    }
}

/// `[limits]`: how much may be under way.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsSection {
    /// Exchanges at once in one connection to the relay. 1 to 65536, default 4096.
    pub streams_max: Within<1, 65536>,
    /// Largest request body; without it any.
    pub request_max: Option<Size>,
    /// Largest response body; without it any.
    pub response_max: Option<Size>,
    /// Memory of the process above which new exchanges are turned away, and none that runs is ended. At
    /// least 32 MiB; without it there is no such limit.
    pub memory_max: Option<Size>,
    /// Memory that windows may grow into beyond their initial 256 KiB, in all. Default 32 MiB.
    pub window_budget: Size,
}

impl Default for LimitsSection {
    fn default() -> Self {
        Self {
            streams_max: Within::known(4096),
            request_max: None,
            response_max: None,
            memory_max: None,
            window_budget: Size::mib(32),
        }
    }
}

impl LimitsSection {
    /// What the relay may have outstanding here.
    pub(crate) fn windows(&self) -> protocol::frame::Windows {
        protocol::frame::Windows {
            streams_max: self.streams_max.get(),
            stream_bytes: STREAM_WINDOW_INITIAL_BYTES,
            session_bytes: protocol::limits::SESSION_WINDOW_BYTES,
        }
    }
}

/// `[deliveries]`: stored calls, which the bridge makes once and keeps a journal of.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DeliveriesSection {
    /// Deliveries at once. 1 to 4096, default 64.
    pub concurrent_max: Within<1, 4096>,
    /// Largest body of one. Default 1 MiB.
    pub body_max: Size,
    /// Attempts that the journal holds. Acknowledged ones give way; of others there may be no more,
    /// and further deliveries are turned away until the relay has acknowledged some. 100 to
    /// 10000000, default 100000.
    pub journal_entries_max: Within<100, 10_000_000>,
    /// Disk that the journal takes, about. Default 64 MiB.
    pub journal_bytes_max: Size,
}

impl Default for DeliveriesSection {
    fn default() -> Self {
        Self {
            concurrent_max: Within::known(64),
            body_max: Size::mib(1),
            journal_entries_max: Within::known(100_000),
            journal_bytes_max: Size::mib(64),
        }
    }
}

impl DeliveriesSection {
    pub(crate) fn limits(&self) -> crate::deliveries::Limits {
        crate::deliveries::Limits {
            concurrent_max: self.concurrent_max.get() as usize,
            body_max: self.body_max.bytes(),
        }
    }
}

/// `[signed_calls]`: only what the tenant's own application has signed is executed.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SignedCallsSection {
    /// The tenant's Ed25519 public key in PEM; without it nothing needs to be signed.
    pub public_key_file: Option<FilePath>,
    /// The longest that a signature may be valid. Default 24 h, so that deliveries may be tried again.
    pub validity_max: Span,
    /// Largest body of a signed request: it is held until its digest was checked. Default 1 MiB.
    pub body_max: Size,
    /// Whether a signature must cover `Bridge-Key`, the fingerprint of this bridge's key: then no other
    /// installation of the same name accepts it. Default false.
    pub require_bridge_key: bool,
}

impl Default for SignedCallsSection {
    fn default() -> Self {
        Self {
            public_key_file: None,
            validity_max: Span::secs(24 * 60 * 60),
            body_max: Size::mib(1),
            require_bridge_key: false,
        }
    }
}

/// `[audit]`: the record of what was asked and what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AuditSection {
    /// Whether it is kept. Default true.
    pub enabled: bool,
    /// Its file. Default `audit.jsonl` in the data directory.
    pub file: Option<FilePath>,
    /// A file that is larger is rotated. Default 16 MiB.
    pub file_max: Size,
    /// A file that is older is rotated. Default 24 h.
    pub file_max_age: Span,
    /// Rotated files that are kept. 1 to 9999, default 30.
    pub files: Within<1, 9999>,
}

impl Default for AuditSection {
    fn default() -> Self {
        Self {
            enabled: true,
            file: None,
            file_max: Size::mib(16),
            file_max_age: Span::secs(24 * 60 * 60),
            files: Within::known(30),
        }
    }
}

impl AuditSection {
    /// The file.
    pub(crate) fn path(&self, data_dir: &std::path::Path) -> std::path::PathBuf {
        let own = || data_dir.join(crate::audit::FILE);
        self.file
            .as_ref()
            .map_or_else(own, |file| file.get().to_owned())
    }

    pub(crate) fn keep(&self) -> crate::audit::Keep {
        crate::audit::Keep {
            file_max_bytes: self.file_max.bytes(),
            file_max_age: self.file_max_age.get(),
            files: self.files.get(),
        }
    }
}

/// `[metrics]`: for Prometheus.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MetricsSection {
    /// A loopback address with its port; without it there are none.
    #[serde(deserialize_with = "loopback")]
    pub listen: Option<std::net::SocketAddr>,
}

fn loopback<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<std::net::SocketAddr>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let right = "write a loopback address with its port, like \"127.0.0.1:9091\"";
    let address: std::net::SocketAddr = text
        .parse()
        .map_err(|_| de::Error::custom(format!("{text:?} is no address: {right}")))?;
    if !address.ip().is_loopback() {
        let wrong = format!("{address} can be reached from other machines: {right}");
        return Err(de::Error::custom(wrong));
    }
    Ok(Some(address))
}

/// `[log]`: what is written to standard error, or to a file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogSection {
    /// Default `"info"`.
    pub level: LogLevel,
    /// Default `"text"`.
    pub format: LogFormat,
    /// A file, in place of standard error.
    pub file: Option<FilePath>,
    /// A file that is larger is rotated. Default 16 MiB.
    pub file_max: Size,
    /// Rotated files that are kept. 1 to 999, default 5.
    pub files: Within<1, 999>,
}

impl Default for LogSection {
    fn default() -> Self {
        Self {
            level: LogLevel::default(),
            format: LogFormat::default(),
            file: None,
            file_max: Size::mib(16),
            files: Within::known(5),
        }
    }
}

/// How much is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// What is broken.
    Error,
    /// And what is worth a look.
    Warn,
    /// And connections up and down.
    #[default]
    Info,
    /// And each exchange.
    Debug,
    /// And everything else.
    Trace,
}

/// How it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}
