//! Why the relay was not reached, and what follows for the next address and the next attempt.

use super::{DIAL_TIMEOUT, ProxyError};
use crate::handshake::OpeningError;
use http::header;
use protocol::frame::RefusedCode;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio_tungstenite::tungstenite::Error as WsError;

/// Why the relay was not reached. Each variant names the step that failed.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The name could not be resolved.
    #[error("the name {host} could not be resolved: {detail}")]
    Dns {
        /// The name.
        host: String,
        /// The resolver's error.
        detail: String,
    },
    /// No address accepted the connection.
    #[error("no TCP connection to {address}: {source}")]
    Tcp {
        /// The last address tried.
        address: String,
        /// The system's error.
        source: io::Error,
    },
    /// The proxy did not connect.
    #[error("{0}")]
    Proxy(#[from] ProxyError),
    /// TLS failed.
    #[error("TLS with {host} failed: {detail}")]
    Tls {
        /// The relay's name.
        host: String,
        /// The error, and what to do about it.
        detail: String,
    },
    /// The relay, or a middlebox, responded to the upgrade with a status other than 101.
    #[error("the relay answered the WebSocket upgrade with HTTP {status}{hint}")]
    Http {
        /// The status.
        status: u16,
        /// The value of `Retry-After`.
        retry_after: Option<Duration>,
        /// A possible reason.
        hint: &'static str,
    },
    /// The upgrade failed for another reason.
    #[error("the WebSocket upgrade failed: {0}")]
    Upgrade(String),
    /// The opening failed, or the relay refused the tunnel.
    #[error(transparent)]
    Opening(#[from] OpeningError),
    /// The whole dial took too long.
    #[error("timed out after {DIAL_TIMEOUT:?} while dialing the relay; step: {step}")]
    Timeout {
        /// The step that was running.
        step: &'static str,
    },
    /// One address of several accepted the connection and then did not respond.
    #[error("{address} accepted the connection and did not respond in time; step: {step}")]
    Silent {
        /// The address.
        address: SocketAddr,
        /// The step that was running.
        step: &'static str,
    },
}

impl DialError {
    /// Returns the code of a refusal, if the relay refused the tunnel.
    pub fn refused(&self) -> Option<RefusedCode> {
        match self {
            Self::Opening(OpeningError::Refused(refused)) => Some(refused.code),
            Self::Opening(
                OpeningError::Timeout
                | OpeningError::WebSocket(_)
                | OpeningError::Closed
                | OpeningError::Protocol(_)
                | OpeningError::Random,
            )
            | Self::Dns { .. }
            | Self::Tcp { .. }
            | Self::Proxy(_)
            | Self::Tls { .. }
            | Self::Http { .. }
            | Self::Upgrade(_)
            | Self::Timeout { .. }
            | Self::Silent { .. } => None,
        }
    }

    /// Returns the wait that the relay asked for, if it did.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Http { retry_after, .. } => *retry_after,
            Self::Opening(OpeningError::Refused(refused)) if refused.retry_after_ms > 0 => {
                Some(Duration::from_millis(refused.retry_after_ms.into()))
            }
            Self::Opening(_)
            | Self::Dns { .. }
            | Self::Tcp { .. }
            | Self::Proxy(_)
            | Self::Tls { .. }
            | Self::Upgrade(_)
            | Self::Timeout { .. }
            | Self::Silent { .. } => None,
        }
    }

    /// Whether another address of the relay may accept the tunnel.
    pub(super) fn may_differ_elsewhere(&self) -> bool {
        match self {
            Self::Tcp { .. } | Self::Tls { .. } | Self::Upgrade(_) | Self::Silent { .. } => true,
            // A standby answers 503; a balancer whose backend is down 502. The next address may be the
            // active relay.
            Self::Http { status, .. } => matches!(status, 429 | 500..=599),
            Self::Opening(error) => match error {
                // Every other refusal is about this bridge, and all nodes share one directory.
                OpeningError::Refused(refused) => refused.code == RefusedCode::Overloaded,
                OpeningError::Timeout
                | OpeningError::WebSocket(_)
                | OpeningError::Closed
                | OpeningError::Protocol(_) => true,
                OpeningError::Random => false,
            },
            Self::Dns { .. } | Self::Proxy(_) | Self::Timeout { .. } => false,
        }
    }

    /// Ranks errors of several addresses by how much they help the administrator.
    fn significance(&self) -> u8 {
        match self {
            Self::Dns { .. } => 0,
            Self::Tcp { .. } => 1,
            Self::Silent { .. } | Self::Timeout { .. } => 2,
            Self::Upgrade(_) => 3,
            Self::Tls { .. } | Self::Proxy(_) => 4,
            Self::Http { .. } | Self::Opening(_) => 5,
        }
    }

    /// Whether a quick retry is pointless, because an operator has to change something first.
    pub fn needs_operator(&self) -> bool {
        if let Self::Http { status, .. } = self {
            return matches!(status, 401 | 403 | 404);
        }
        match self.refused() {
            Some(
                RefusedCode::Unauthorized
                | RefusedCode::Revoked
                | RefusedCode::TenantSuspended
                | RefusedCode::Version
                | RefusedCode::ChannelBinding
                | RefusedCode::Authority,
            ) => true,
            Some(RefusedCode::StaleEpoch { .. } | RefusedCode::Overloaded) | None => false,
        }
    }
}

/// The most significant error of several addresses.
#[derive(Debug, Default)]
pub(super) struct MostSignificant(Option<DialError>);

impl MostSignificant {
    pub(super) fn add(&mut self, error: DialError) {
        let is_better = self
            .0
            .as_ref()
            .is_none_or(|known| error.significance() >= known.significance());
        if is_better {
            self.0 = Some(error);
        }
    }

    pub(super) fn into_error(self) -> Option<DialError> {
        self.0
    }
}

/// Describes a TLS error, with what an administrator can do about it.
pub fn explain_tls(error: &io::Error) -> String {
    use rustls::{CertificateError, Error};
    let inner = error.get_ref().and_then(|e| e.downcast_ref::<Error>());
    let hint = match inner {
        Some(Error::InvalidCertificate(certificate)) => match certificate {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                "; if the certificate comes from a private CA, or a proxy inspects TLS, give that CA's certificate as ca_file"
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "; if the certificate is valid, check this machine's clock"
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "; check this machine's clock"
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "; the certificate is for another name than the one in the URL"
            }
            _ => "",
        },
        Some(Error::InvalidMessage(_)) => "; is there really a TLS server at this port?",
        _ => "",
    };
    format!("{error}{hint}")
}

/// Converts an error of the WebSocket upgrade.
pub(super) fn upgrade_error(error: WsError) -> DialError {
    let response = match error {
        WsError::Http(response) => response,
        other => return DialError::Upgrade(other.to_string()),
    };
    let status = response.status().as_u16();
    let retry_after = response
        .headers()
        .get(header::RETRY_AFTER)
        .and_then(|value| value.to_str().ok()?.parse().ok())
        .map(Duration::from_secs);
    let hint = match status {
        200 | 400 | 426 => "; does a middlebox strip WebSocket upgrades?",
        404 => "; is this URL that of an integration relay?",
        407 => "; a proxy on the path requires authentication",
        429 | 503 => "; it is overloaded, and the bridge retries",
        _ => "",
    };
    DialError::Http {
        status,
        retry_after,
        hint,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusal_ends_a_dial_and_an_overloaded_relay_does_not() {
        let refused = |code| {
            DialError::Opening(OpeningError::Refused(protocol::frame::Refused {
                code,
                retry_after_ms: 0,
            }))
        };
        let http = |status| DialError::Http {
            status,
            retry_after: None,
            hint: "",
        };
        for error in [http(503), http(502), refused(RefusedCode::Overloaded)] {
            assert!(error.may_differ_elsewhere(), "{error}");
        }
        for error in [http(404), http(403), refused(RefusedCode::Revoked)] {
            assert!(!error.may_differ_elsewhere(), "{error}");
        }
    }

    #[test]
    fn retry_after_of_an_overloaded_relay_is_read() {
        let answer = |status: u16, later: &str| {
            let mut response = http::Response::new(None);
            *response.status_mut() = status.try_into().unwrap();
            let later = later.parse().unwrap();
            response.headers_mut().insert(header::RETRY_AFTER, later);
            upgrade_error(WsError::Http(Box::new(response)))
        };
        for status in [429, 503] {
            let error = answer(status, "7");
            assert_eq!(error.retry_after(), Some(Duration::from_secs(7)));
            assert!(!error.needs_operator(), "{error}");
        }
        assert_eq!(answer(503, "soon").retry_after(), None);
    }
}
