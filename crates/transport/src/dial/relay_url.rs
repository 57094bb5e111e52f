//! The relay's URL.

use http::Uri;
use rustls::pki_types::ServerName;

/// The relay's URL, parsed once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayUrl {
    host: String,
    port: u16,
    pub(super) server_name: ServerName<'static>,
}

/// Why a text is not a relay URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RelayUrlError {
    /// It is not a URL.
    #[error("is not a URL; it should look like https://relay.example.com")]
    Syntax,
    /// Its scheme is not `https`.
    #[error("must begin with https://: the tunnel always uses TLS")]
    Scheme,
    /// It has a path, a query, or a user.
    #[error("must be only https://host or https://host:port, without a path, query or user")]
    Extra,
    /// Its host is neither a DNS name nor an address.
    #[error(
        "has a host that is neither a DNS name nor an address: write one like https://relay.example.com"
    )]
    Host,
}

impl std::str::FromStr for RelayUrl {
    type Err = RelayUrlError;

    fn from_str(url: &str) -> Result<Self, RelayUrlError> {
        let uri: Uri = url.parse().map_err(|_| RelayUrlError::Syntax)?;
        match uri.scheme_str() {
            Some("https") => {}
            Some(_) => return Err(RelayUrlError::Scheme),
            None => return Err(RelayUrlError::Syntax),
        }
        let authority = uri.authority().ok_or(RelayUrlError::Syntax)?;
        // A path would be dropped silently, since the tunnel has its own (W-1).
        if !matches!(uri.path(), "" | "/")
            || uri.query().is_some()
            || authority.as_str().contains('@')
            || url.contains('#')
        {
            return Err(RelayUrlError::Extra);
        }
        let host = authority
            .host()
            .trim_start_matches('[')
            .trim_end_matches(']');
        let port = match authority.as_str().rsplit_once(':') {
            Some((_, port)) if !port.contains(']') => {
                port.parse().map_err(|_| RelayUrlError::Syntax)?
            }
            Some(_) | None => 443,
        };
        let server_name = ServerName::try_from(host.to_owned()).map_err(|_| RelayUrlError::Host)?;
        Ok(Self {
            host: host.to_ascii_lowercase(),
            port,
            server_name,
        })
    }
}

impl std::fmt::Display for RelayUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "https://{}", self.authority())
    }
}

impl RelayUrl {
    /// Returns `host:port`, with brackets around an IPv6 address.
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// Returns the name or address, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Returns the TCP port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relay_url_is_https_without_path_or_user() {
        let url: RelayUrl = "https://Relay.example.com".parse().unwrap();
        assert_eq!(url.authority(), "relay.example.com:443");
        let url: RelayUrl = "https://[::1]:8443/".parse().unwrap();
        assert_eq!(url.authority(), "[::1]:8443");
        for (bad, error) in [
            ("http://relay.example.com", RelayUrlError::Scheme),
            ("relay.example.com", RelayUrlError::Syntax),
            ("https://relay.example.com/x", RelayUrlError::Extra),
            ("https://me@relay.example.com", RelayUrlError::Extra),
            ("https://relay.example.com:99999", RelayUrlError::Syntax),
            ("https://*.example.com", RelayUrlError::Host),
        ] {
            assert_eq!(bad.parse::<RelayUrl>(), Err(error), "{bad}");
            // After "the relay's URL".
            let text = error.to_string();
            assert!(
                ["is ", "must ", "has "]
                    .iter()
                    .any(|verb| text.starts_with(verb)),
                "{text}"
            );
        }
    }
}
