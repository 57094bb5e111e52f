//! What a connection can be reused for, and for how long its target keeps it open.

use crate::client_cert::ClientCert;
use http::HeaderMap;
use policy::Target;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Reads how long a target keeps a connection: the `timeout` of its `Keep-Alive` fields. `None` where there
/// is none that can be read, or where it accepts no further request (`max=0`).
pub(super) fn keep_alive_timeout(headers: &HeaderMap) -> Option<Duration> {
    let mut shortest = None;
    for value in headers.get_all("keep-alive") {
        for parameter in value.to_str().ok()?.split(',') {
            let Some((name, value)) = parameter.split_once('=') else {
                continue;
            };
            let (name, value) = (name.trim(), value.trim().trim_matches('"'));
            if name.eq_ignore_ascii_case("timeout") {
                let timeout = Duration::from_secs(value.parse::<u32>().ok()?.into());
                shortest = Some(shortest.map_or(timeout, |other: Duration| other.min(timeout)));
            } else if name.eq_ignore_ascii_case("max") && value.parse() == Ok(0_u32) {
                return None;
            }
        }
    }
    shortest
}

/// What a connection can be reused for: scheme, host, port, trusted certificates, client certificate, and
/// the HTTP versions that were offered. Requests that differ in one of them never share a connection.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PoolKey {
    pub(super) is_tls: bool,
    pub(super) host: policy::Host,
    pub(super) port: u16,
    pub(super) ca_file: Option<Arc<Path>>,
    pub(super) client_cert: Option<Arc<ClientCert>>,
    /// Whether the target may choose HTTP/2.
    pub(super) http2: bool,
}

impl PoolKey {
    pub(super) fn new(
        target: &Target,
        ca_file: Option<&Path>,
        client_cert: Option<&Arc<ClientCert>>,
    ) -> Self {
        Self {
            is_tls: target.scheme().is_tls(),
            host: target.host().clone(),
            port: target.port(),
            ca_file: ca_file.map(Arc::from),
            client_cert: client_cert.cloned(),
            http2: true,
        }
    }

    /// The key of a connection that a dialer made. It is never pooled.
    pub(super) fn of_dialed(host: policy::Host, port: u16) -> Self {
        Self {
            is_tls: true,
            host,
            port,
            ca_file: None,
            client_cert: None,
            http2: false,
        }
    }

    /// Restricts the connection to HTTP/1.1.
    #[must_use]
    pub fn http1_only(self) -> Self {
        Self {
            http2: false,
            ..self
        }
    }

    /// Returns `host:port`, for messages.
    pub(super) fn authority(&self) -> String {
        match &self.host {
            policy::Host::Name(name) => format!("{name}:{}", self.port),
            policy::Host::Addr(address) => {
                std::net::SocketAddr::new(*address, self.port).to_string()
            }
        }
    }
}

/// What the pool needs of a connection.
pub(super) trait Pooled: Sized {
    fn key(&self) -> &PoolKey;
    fn address(&self) -> IpAddr;
    /// Returns whether it is open and can take a request now.
    fn is_usable(&mut self) -> bool;
    /// When the head of its last response arrived, and how long the target keeps it from then on.
    fn keep_alive(&self) -> Option<(Instant, Duration)>;
    /// Whether it was made for a request that may be sent only once.
    fn is_for_once(&self) -> bool;
    /// When it was made.
    fn since(&self) -> Instant;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keep_alive_timeout_is_read_with_care() {
        let seconds = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append("keep-alive", value.parse().unwrap());
            }
            keep_alive_timeout(&headers).map(|timeout| timeout.as_secs())
        };
        for (values, expected) in [
            (&["timeout=5"] as &[&str], Some(5)),
            (&["timeout=5, max=100"], Some(5)),
            (&["max=100,Timeout = \"15\""], Some(15)),
            (&["timeout=5", "timeout=3"], Some(3)),
            (&["timeout=5, max=0"], None),
            (&["max=7"], None),
            (&["timeout=-1"], None),
            (&["timeout=99999999999999"], None),
            (&["timeout"], None),
            (&[], None),
        ] {
            assert_eq!(seconds(values), expected, "{values:?}");
        }
    }
}
