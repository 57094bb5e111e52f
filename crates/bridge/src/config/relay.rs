//! `[relay]`: where the relay is, and how it is reached.

use super::{ProxyAuth, ProxySetting, TlsMin};
use runtime::config::{BoundedInt, FilePath, as_text, text};
use serde::de::Deserializer;
use serde::{Deserialize, Serialize};
use std::str::FromStr;
use transport::dial::RelayUrl;

/// `[relay]`.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RelaySection {
    /// `https://host` or `https://host:port`. Has no default.
    #[serde(deserialize_with = "relay_url", serialize_with = "as_text")]
    pub url: RelayUrl,
    /// Certificates that are trusted in addition to the system's: a private CA, or that of TLS
    /// inspection. Defaults to none.
    #[serde(skip_serializing)]
    pub ca_file: Option<FilePath>,
    /// The proxy on the route to the relay. Defaults to `"env"`.
    #[serde(default, skip_serializing)]
    pub proxy: ProxySetting,
    /// The name of the `basic` credential for the proxy. Defaults to none.
    #[serde(skip_serializing)]
    pub proxy_credential: Option<String>,
    /// How the bridge authenticates at the proxy. Defaults to `"auto"`.
    #[serde(default, skip_serializing)]
    pub proxy_auth: ProxyAuth,
    /// The oldest TLS version that is accepted. Defaults to `"1.2"`.
    #[serde(default, skip_serializing)]
    pub tls_min: TlsMin,
    /// Connections, 1 to 8, to different nodes where the relay has several. Defaults to 2.
    #[serde(default = "connections_default")]
    pub connections: BoundedInt<1, 8>,
}

fn connections_default() -> BoundedInt<1, 8> {
    BoundedInt::known(2)
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
    let expected = "a URL in quotes, like \"https://relay.example.com\"";
    text(deserializer, expected).map(|Url(url)| url)
}
