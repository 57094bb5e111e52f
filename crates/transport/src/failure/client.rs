//! Why a client failed its TLS handshake with a server of ours, for the server's log.

use super::tls::alert_name;
use rustls::{AlertDescription, Error};
use std::io;

/// Why a client's handshake failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ClientCause {
    /// The client does not trust the certificate of this server.
    Distrusts,
    /// The client says that the certificate has expired.
    FindsExpired,
    /// The client sent something else than TLS.
    NotTls,
    /// The client has old versions of TLS only.
    Version,
    /// No cipher suite or key exchange in common.
    CipherSuites,
    /// The client lacks the extended master secret.
    ExtendedMasterSecret,
    /// No application protocol in common.
    ApplicationProtocol,
    /// The client closed the connection.
    Closed,
    /// The client sent another alert, or broke the rules.
    Other,
}

impl ClientCause {
    /// Returns what failed, with the name of an alert.
    pub fn of(error: &io::Error) -> (Self, String) {
        let inner = error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<Error>());
        let Some(inner) = inner else {
            return (Self::Closed, Self::Closed.what().to_owned());
        };
        let cause = match inner {
            Error::AlertReceived(alert) => {
                let cause = Self::of_alert(*alert);
                let text = format!("{} ({})", cause.what(), alert_name(u8::from(*alert)));
                return (cause, text);
            }
            Error::InvalidMessage(_) | Error::InappropriateMessage { .. } => Self::NotTls,
            Error::PeerIncompatible(error) => match super::tls::incompatible_with(error) {
                super::Cause::TlsVersion => Self::Version,
                super::Cause::ExtendedMasterSecret => Self::ExtendedMasterSecret,
                _ => Self::CipherSuites,
            },
            Error::NoApplicationProtocol => Self::ApplicationProtocol,
            _ => Self::Other,
        };
        (cause, cause.what().to_owned())
    }

    fn of_alert(alert: AlertDescription) -> Self {
        match alert {
            // `decrypt_error`: a signature is wrong, as with a CA of the same name and another key.
            AlertDescription::UnknownCA
            | AlertDescription::DecryptError
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateRevoked => Self::Distrusts,
            AlertDescription::CertificateExpired => Self::FindsExpired,
            AlertDescription::ProtocolVersion => Self::Version,
            AlertDescription::HandshakeFailure | AlertDescription::InsufficientSecurity => {
                Self::CipherSuites
            }
            AlertDescription::CloseNotify | AlertDescription::UserCanceled => Self::Closed,
            _ => Self::Other,
        }
    }

    /// Whether the operator can do something: the client meant this relay, and rejects what it offers.
    pub fn needs_operator(self) -> bool {
        match self {
            Self::Distrusts | Self::FindsExpired | Self::ExtendedMasterSecret => true,
            Self::NotTls
            | Self::Version
            | Self::CipherSuites
            | Self::ApplicationProtocol
            | Self::Closed
            | Self::Other => false,
        }
    }

    /// Returns what failed.
    pub fn what(self) -> &'static str {
        match self {
            Self::Distrusts => "the client does not accept the certificate of this relay",
            Self::FindsExpired => {
                "the client reports that the certificate of this relay has expired"
            }
            Self::NotTls => "the client does not speak TLS on this port, which requires it",
            Self::Version => "the client supports no version of TLS from 1.2 on",
            Self::CipherSuites => {
                "the client and this relay have no cipher suite or key exchange in common"
            }
            Self::ExtendedMasterSecret => "the client's TLS 1.2 lacks the extended master secret",
            Self::ApplicationProtocol => "the client wants neither HTTP/1.1 nor HTTP/2",
            Self::Closed => "the client closed the connection during the TLS handshake",
            Self::Other => "the client ended the TLS handshake, or broke its rules",
        }
    }

    /// Returns what the operator can do.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::Distrusts => {
                "give the client the CA of the certificate (relay.ca_file of a bridge), and check that the \
                 certificate has the host name that the client uses"
            }
            Self::FindsExpired => "renew the certificate, or correct the client's clock",
            Self::NotTls => "use https:// in the client's URL",
            Self::Version | Self::ExtendedMasterSecret => "update the client",
            Self::CipherSuites => "enable ECDHE with AES-GCM or ChaCha20-Poly1305 at the client",
            Self::ApplicationProtocol => "let the client offer http/1.1 or h2",
            Self::Closed => {
                "none, if it is a health check or a scan of ports; otherwise see the client's log"
            }
            Self::Other => "see the client's log",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handshake_of_a_client_has_words_of_its_own() {
        let of = |error: Error| ClientCause::of(&io::Error::other(error));
        let (cause, text) = of(Error::AlertReceived(AlertDescription::UnknownCA));
        assert_eq!(cause, ClientCause::Distrusts);
        assert!(text.ends_with("(TLS alert unknown_ca)"), "{text}");
        let plain = Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType);
        assert_eq!(of(plain).0, ClientCause::NotTls);
        let old = Error::PeerIncompatible(rustls::PeerIncompatible::Tls12NotOfferedOrEnabled);
        assert_eq!(of(old).0, ClientCause::Version);
        let closed = io::Error::from(io::ErrorKind::UnexpectedEof);
        assert_eq!(ClientCause::of(&closed).0, ClientCause::Closed);
    }
}
