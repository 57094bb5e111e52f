//! Why the relay was not reached, and what follows for the next address and the next attempt.

use super::{DIAL_TIMEOUT, ProxyError};
use crate::failure::{self, Cause, Diagnosis};
use crate::handshake::OpeningError;
use http::{HeaderValue, header};
use protocol::frame::RefusedCode;
use protocol::version::AcceptedVersions;
use serde::Deserialize;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio_tungstenite::tungstenite::Error as WsError;
use tokio_tungstenite::tungstenite::error::{CapacityError, ProtocolError};

/// Why the relay was not reached. Each variant names the step that failed.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The name could not be resolved.
    #[error("the name {host} could not be resolved: {why}")]
    Dns {
        /// The name.
        host: String,
        /// Why there is no address.
        why: Diagnosis,
    },
    /// No address accepted the connection.
    #[error("no TCP connection to {address}: {why}", why = failure::connect(.error))]
    Tcp {
        /// The last address tried.
        address: String,
        /// The system's error.
        error: io::Error,
    },
    /// The proxy did not connect.
    #[error("{0}")]
    Proxy(#[from] ProxyError),
    /// TLS failed.
    #[error("TLS with {host} failed: {why}")]
    Tls {
        /// The relay's name.
        host: String,
        /// Why there is no handshake.
        why: Diagnosis,
    },
    /// The relay, or a middlebox, responded to the upgrade with a status other than 101.
    #[error("the WebSocket upgrade was answered with HTTP {status}: {why}")]
    Http {
        /// The status.
        status: u16,
        /// The value of `Retry-After`.
        retry_after: Option<Duration>,
        /// The reason, with the detail of an error document.
        why: Diagnosis,
    },
    /// The upgrade failed for another reason.
    #[error("the WebSocket upgrade failed: {0}")]
    Upgrade(Diagnosis),
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
            Self::Opening(OpeningError::TooOld { .. }) => Some(RefusedCode::Version),
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

    /// Returns the versions that the operator of the relay accepts, if it refused the tunnel because of them.
    pub fn accepted_versions(&self) -> Option<&AcceptedVersions> {
        match self {
            Self::Opening(OpeningError::TooOld { versions, .. }) => Some(versions),
            Self::Opening(
                OpeningError::Refused(_)
                | OpeningError::Timeout
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
            Self::Opening(OpeningError::TooOld { retry_after_ms, .. }) if *retry_after_ms > 0 => {
                Some(Duration::from_millis((*retry_after_ms).into()))
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

    /// Returns why the relay was not reached. `None` if the relay was reached, and refused the tunnel.
    pub fn diagnosis(&self) -> Option<Diagnosis> {
        match self {
            Self::Dns { why, .. }
            | Self::Tls { why, .. }
            | Self::Http { why, .. }
            | Self::Upgrade(why) => Some(why.clone()),
            Self::Tcp { error, .. } => Some(failure::connect(error)),
            Self::Proxy(error) => error.diagnosis(),
            Self::Timeout { step } | Self::Silent { step, .. } => match *step {
                "TCP" => Some(Cause::ConnectTimeout.into()),
                "TLS" => Some(failure::silent()),
                "WebSocket upgrade" => Some(Cause::UpgradeRemoved.into()),
                _ => None,
            },
            Self::Opening(_) => None,
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
                OpeningError::TooOld { .. } | OpeningError::Random => false,
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

/// Bytes of an error document's detail that are shown.
const DETAIL_MAX_BYTES: usize = 300;

/// Converts an error of the WebSocket upgrade.
pub(super) fn upgrade_error(error: WsError) -> DialError {
    let response = match error {
        WsError::Http(response) => response,
        WsError::Io(error) => return DialError::Upgrade(connection_lost(&error)),
        WsError::ConnectionClosed
        | WsError::AlreadyClosed
        | WsError::Protocol(ProtocolError::HandshakeIncomplete) => {
            return DialError::Upgrade(Cause::RelayClosedBeforeResponse.into());
        }
        WsError::Protocol(ProtocolError::HttparseError(error)) => {
            return DialError::Upgrade(invalid_head(error));
        }
        WsError::Capacity(CapacityError::TooManyHeaders) => {
            return DialError::Upgrade(Cause::RelayHeadTooLarge.into());
        }
        // The WebSocket library's texts are for programmers.
        _ => return DialError::Upgrade(Cause::UpgradeRemoved.into()),
    };
    let status = response.status().as_u16();
    let retry_after = response
        .headers()
        .get(header::RETRY_AFTER)
        .and_then(|value| value.to_str().ok()?.parse().ok())
        .map(Duration::from_secs);
    let cause = match status {
        404 => Cause::NotRelay,
        407 => Cause::ProxyLoginMissing,
        429 | 503 => Cause::RelayBusy,
        502 | 504 => Cause::RelayUnreachable,
        200..=399 | 426 => Cause::UpgradeRemoved,
        _ => Cause::RelayRejects,
    };
    let location = response.headers().get(header::LOCATION);
    let redirect = failure::redirect(status, location.map(HeaderValue::as_bytes));
    // The relay's own reason is better than any guess.
    let detail = response.body().as_deref().and_then(problem_detail);
    let why = match (redirect, detail) {
        (Some(redirect), _) => redirect,
        (None, Some(detail)) => Diagnosis::explained(cause, &detail, DETAIL_MAX_BYTES),
        (None, None) => cause.into(),
    };
    DialError::Http {
        status,
        retry_after,
        why,
    }
}

fn connection_lost(error: &io::Error) -> Diagnosis {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => Cause::RelayClosedBeforeResponse.into(),
        _ => failure::after_handshake(error)
            .unwrap_or_else(|| Cause::RelayResetBeforeResponse.into()),
    }
}

/// Returns what is wrong with the head of the relay's response.
pub(super) fn invalid_head(error: httparse::Error) -> Diagnosis {
    let found = match error {
        httparse::Error::Status => "the status line",
        httparse::Error::HeaderName | httparse::Error::HeaderValue | httparse::Error::NewLine => {
            "a header field"
        }
        httparse::Error::TooManyHeaders => return Cause::RelayHeadTooLarge.into(),
        httparse::Error::Token | httparse::Error::Version => return Cause::RelayNotHttp.into(),
    };
    Diagnosis::new(Cause::RelayHeadInvalid, found)
}

/// The part of an error document (RFC 9457) that is for people.
#[derive(Deserialize)]
struct Problem {
    detail: Option<String>,
}

fn problem_detail(body: &[u8]) -> Option<String> {
    let problem: Problem = serde_json::from_slice(body).ok()?;
    problem.detail.filter(|detail| !detail.trim().is_empty())
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
            why: Cause::RelayRejects.into(),
        };
        for error in [http(503), http(502), refused(RefusedCode::Overloaded)] {
            assert!(error.may_differ_elsewhere(), "{error}");
        }
        for error in [http(404), http(403), refused(RefusedCode::Revoked)] {
            assert!(!error.may_differ_elsewhere(), "{error}");
        }
    }

    #[test]
    fn response_of_another_server_names_its_fault() {
        let parse = |error: httparse::Error| upgrade_error(error.into()).to_string();
        for (error, words) in [
            (httparse::Error::Version, "the relay's response is not HTTP"),
            (httparse::Error::Status, "not valid (the status line)"),
            (httparse::Error::HeaderName, "not valid (a header field)"),
            (httparse::Error::TooManyHeaders, "is too large"),
        ] {
            let text = parse(error);
            assert!(text.contains(words) && !text.contains("target"), "{text}");
        }
        let mut response = http::Response::new(None);
        *response.status_mut() = http::StatusCode::FOUND;
        let location = "https://portal.example/login".parse().unwrap();
        response.headers_mut().insert(header::LOCATION, location);
        let error = upgrade_error(WsError::Http(Box::new(response)));
        let text = error.to_string();
        assert!(
            text.contains("HTTP 302") && text.ends_with("(to https://portal.example)"),
            "{text}"
        );
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
