//! `[targets]`: how targets are reached.

use super::{ProxyAuth, ProxySetting, TlsMin};
use runtime::config::{BoundedInt, FilePath, Interval, Timeout};
use serde::Deserialize;

/// `[targets]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Targets {
    /// Certificates that are trusted for HTTPS targets, in addition to the system's. Defaults to none.
    pub ca_file: Option<FilePath>,
    /// The proxy on the route to targets, as `relay.proxy`. The bridge resolves names itself, and asks the
    /// proxy for an address that the policy approved. Defaults to `"none"`.
    pub proxy: ProxySetting,
    /// Whether that proxy gets the names of http targets instead of their addresses. It resolves them again, so
    /// the policy does not see the address that it connects to. Defaults to false.
    pub proxy_names: bool,
    /// The name of the `basic` credential for that proxy. Defaults to none.
    pub proxy_credential: Option<String>,
    /// How the bridge authenticates at that proxy. Defaults to `"auto"`.
    pub proxy_auth: ProxyAuth,
    /// The oldest TLS version that is accepted. Defaults to `"1.2"`.
    pub tls_min: TlsMin,
    /// Whether HTTPS targets may choose HTTP/2 by ALPN. Defaults to true.
    pub http2: bool,
    /// How HTTP/1.1 targets get field names: in their usual spelling (`Content-Type`, `SOAPAction`), or in lower
    /// case. Defaults to `"title"`.
    pub header_case: HeaderCase,
    /// Time for a TCP connection to any of the addresses, which are tried in parallel, and again for its TLS
    /// handshake. Defaults to `"5s"`.
    pub connect_timeout: Timeout,
    /// Time from the end of a request to the response's head. Defaults to `"2m"`.
    pub head_timeout: Timeout,
    /// Time between two pieces of a response's body. Defaults to `"2m"`.
    pub idle_timeout: Timeout,
    /// How long an idle connection is kept for another request. Defaults to `"30s"`.
    pub pool_idle_timeout: Timeout,
    /// The age from which a connection takes no further request, so that traffic follows a change of the
    /// target's addresses. Defaults to `"5m"`.
    pub connection_max_age: Timeout,
    /// Idle connections to one target, 0 to 1024. Defaults to 256.
    pub pool_idle_per_target: BoundedInt<0, 1024>,
    /// Idle connections to all targets, 0 to 8192. Defaults to 512.
    pub pool_idle_max: BoundedInt<0, 8192>,
    /// Time between two health checks of an endpoint, or `"off"`. Defaults to `"60s"`.
    pub health_interval: Interval,
    /// Age at which the session of a credential of the kind `alm` is replaced. Defaults to `"8h"`.
    pub alm_session_max_age: Timeout,
}

/// The spelling of field names in HTTP/1.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HeaderCase {
    /// `Content-Type`.
    Title,
    /// `content-type`.
    Lower,
}

impl Default for Targets {
    fn default() -> Self {
        Self {
            ca_file: None,
            proxy: ProxySetting::Direct,
            proxy_names: false,
            proxy_credential: None,
            proxy_auth: ProxyAuth::Auto,
            tls_min: TlsMin::default(),
            http2: true,
            header_case: HeaderCase::Title,
            connect_timeout: Timeout::secs(5),
            head_timeout: Timeout::secs(120),
            idle_timeout: Timeout::secs(120),
            pool_idle_timeout: Timeout::secs(30),
            connection_max_age: Timeout::secs(5 * 60),
            pool_idle_per_target: BoundedInt::known(256),
            pool_idle_max: BoundedInt::known(512),
            health_interval: Interval::secs(60),
            alm_session_max_age: Timeout::secs(8 * 60 * 60),
        }
    }
}
