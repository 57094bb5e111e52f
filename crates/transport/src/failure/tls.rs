//! Why a TLS handshake with a server failed.

use super::observer::Seen;
use super::{Cause, Diagnosis, chain};
use rustls::pki_types::ServerName;
use rustls::{
    AlertDescription, CertificateError, Error, InvalidMessage, PeerIncompatible, PeerMisbehaved,
};
use std::io::{self, ErrorKind};

/// Returns why a handshake failed.
pub(super) fn diagnose(error: &io::Error, seen: &Seen, name: &ServerName<'_>) -> Diagnosis {
    match tls_error(error) {
        Some(error) => of_tls(error, seen, name),
        None => of_socket(seen.error.unwrap_or(error.kind())),
    }
}

/// Returns the alert that a server sent after the handshake, as the cause of an error: with TLS 1.3 a server
/// rejects a client certificate only then.
pub fn after_handshake(error: &(dyn std::error::Error + 'static)) -> Option<Diagnosis> {
    let mut next = Some(error);
    while let Some(error) = next {
        let inner = error.downcast_ref::<io::Error>().and_then(tls_error);
        if let Some(Error::AlertReceived(alert)) = inner.or_else(|| error.downcast_ref::<Error>()) {
            return Some(of_alert(*alert, None));
        }
        next = error.source();
    }
    None
}

/// Returns the cause of a handshake that took too long, when nothing else is known of it.
pub fn silent() -> Diagnosis {
    Cause::SilentInHandshake.into()
}

fn tls_error(error: &io::Error) -> Option<&Error> {
    error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<Error>())
}

fn of_socket(kind: ErrorKind) -> Diagnosis {
    match kind {
        ErrorKind::UnexpectedEof => Cause::ClosedInHandshake.into(),
        ErrorKind::TimedOut => Cause::StalledInHandshake.into(),
        _ => Cause::ResetInHandshake.into(),
    }
}

fn of_tls(error: &Error, seen: &Seen, name: &ServerName<'_>) -> Diagnosis {
    match error {
        Error::AlertReceived(alert) => of_alert(*alert, Some(seen)),
        Error::InvalidCertificate(error) => of_certificate(error, seen, name),
        Error::PeerIncompatible(error) => incompatible_with(error).into(),
        Error::NoApplicationProtocol => Cause::ApplicationProtocol.into(),
        Error::InvalidMessage(
            InvalidMessage::CertificatePayloadTooLarge | InvalidMessage::HandshakePayloadTooLarge,
        ) => Cause::ChainTooLarge.into(),
        Error::NoCertificatesPresented => {
            Diagnosis::new(Cause::TlsBroken, "the server sent no certificate")
        }
        Error::PeerMisbehaved(
            PeerMisbehaved::SelectedUnofferedCipherSuite
            | PeerMisbehaved::SelectedUnusableCipherSuiteForVersion
            | PeerMisbehaved::SelectedUnofferedKxGroup,
        ) => Cause::CipherSuites.into(),
        Error::PeerMisbehaved(
            PeerMisbehaved::SignedKxWithWrongAlgorithm
            | PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme,
        ) => Cause::SignatureAlgorithm.into(),
        Error::InvalidMessage(_)
        | Error::PeerSentOversizedRecord
        | Error::InappropriateMessage { .. }
        | Error::InappropriateHandshakeMessage { .. }
        | Error::DecryptError
        | Error::PeerMisbehaved(_) => not_tls(&seen.first),
        _ => Cause::TlsLocal.into(),
    }
}

/// Returns what a server speaks whose messages are not valid TLS, by its first bytes.
fn not_tls(first: &[u8]) -> Diagnosis {
    // A record's type, then the major version of SSL 3.0 and all of TLS (RFC 8446, 5.1).
    if matches!(first, [0x14..=0x17, 3, ..]) {
        return Cause::TlsBroken.into();
    }
    if first.starts_with(b"HTTP/") || first.starts_with(b"<") {
        return Cause::PlainHttp.into();
    }
    let found = match first {
        _ if first.starts_with(b"SSH-") => "its greeting is that of an SSH server",
        [b'2', b'2', b'0', ..] => "its greeting is that of a mail or FTP server",
        [] => return Cause::TlsBroken.into(),
        _ => return Cause::OtherProtocol.into(),
    };
    Diagnosis::new(Cause::OtherProtocol, found)
}

/// Returns the cause of two peers that have too little in common.
pub(super) fn incompatible_with(error: &PeerIncompatible) -> Cause {
    match error {
        PeerIncompatible::ServerDoesNotSupportTls12Or13
        | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
        | PeerIncompatible::Tls12NotOffered
        | PeerIncompatible::Tls12NotOfferedOrEnabled
        | PeerIncompatible::SupportedVersionsExtensionRequired => Cause::TlsVersion,
        PeerIncompatible::ExtendedMasterSecretExtensionRequired => Cause::ExtendedMasterSecret,
        PeerIncompatible::NoCipherSuitesInCommon
        | PeerIncompatible::NoKxGroupsInCommon
        | PeerIncompatible::NoEcPointFormatsInCommon
        | PeerIncompatible::UncompressedEcPointsRequired
        | PeerIncompatible::EcPointsExtensionRequired
        | PeerIncompatible::NamedGroupsExtensionRequired
        | PeerIncompatible::KeyShareExtensionRequired => Cause::CipherSuites,
        PeerIncompatible::NoSignatureSchemesInCommon
        | PeerIncompatible::NoCertificateRequestSignatureSchemesInCommon
        | PeerIncompatible::SignatureAlgorithmsExtensionRequired => Cause::SignatureAlgorithm,
        _ => Cause::TlsBroken,
    }
}

/// Returns the cause of an alert. `seen` is that of the handshake, if it was not complete.
fn of_alert(alert: AlertDescription, seen: Option<&Seen>) -> Diagnosis {
    let number = u8::from(alert);
    let name = alert_name(number);
    let lacks_certificate = seen.is_some_and(|seen| seen.requested && !seen.has_certificate);
    let sent_certificate = seen.is_none_or(|seen| seen.has_certificate);
    match alert {
        AlertDescription::CertificateRequired => Cause::ClientCertificateMissing.into(),
        // Before TLS 1.3, servers that require a certificate end the handshake with one of these.
        AlertDescription::HandshakeFailure
        | AlertDescription::BadCertificate
        | AlertDescription::NoCertificate
        | AlertDescription::AccessDenied
        | AlertDescription::CertificateUnknown
            if lacks_certificate =>
        {
            Diagnosis::new(Cause::ClientCertificateMissing, name)
        }
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateExpired
        | AlertDescription::CertificateUnknown
        | AlertDescription::UnknownCA
        | AlertDescription::AccessDenied
            if sent_certificate =>
        {
            Diagnosis::new(Cause::ClientCertificateRejected, name)
        }
        AlertDescription::ProtocolVersion => Cause::TlsVersion.into(),
        AlertDescription::HandshakeFailure | AlertDescription::InsufficientSecurity => {
            Diagnosis::new(Cause::CipherSuites, name)
        }
        AlertDescription::UnrecognisedName => Cause::ServerName.into(),
        AlertDescription::NoApplicationProtocol => Cause::ApplicationProtocol.into(),
        _ => Diagnosis::new(Cause::ServerAlert, name),
    }
}

/// Returns the name of an alert in the standards (RFC 8446, 6.2; RFC 5246, 7.2; RFC 6066), which the documents of
/// servers use as well.
pub(super) fn alert_name(number: u8) -> String {
    let name = match number {
        0 => "close_notify",
        10 => "unexpected_message",
        20 => "bad_record_mac",
        22 => "record_overflow",
        40 => "handshake_failure",
        41 => "no_certificate",
        42 => "bad_certificate",
        43 => "unsupported_certificate",
        44 => "certificate_revoked",
        45 => "certificate_expired",
        46 => "certificate_unknown",
        47 => "illegal_parameter",
        48 => "unknown_ca",
        49 => "access_denied",
        50 => "decode_error",
        51 => "decrypt_error",
        70 => "protocol_version",
        71 => "insufficient_security",
        80 => "internal_error",
        86 => "inappropriate_fallback",
        90 => "user_canceled",
        100 => "no_renegotiation",
        109 => "missing_extension",
        110 => "unsupported_extension",
        112 => "unrecognized_name",
        113 => "bad_certificate_status_response",
        115 => "unknown_psk_identity",
        116 => "certificate_required",
        120 => "no_application_protocol",
        other => return format!("TLS alert {other}"),
    };
    format!("TLS alert {name}")
}

fn of_certificate(error: &CertificateError, seen: &Seen, name: &ServerName<'_>) -> Diagnosis {
    let chain = chain::Chain::parse(&seen.chain);
    match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => chain.expired(),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            chain.not_yet_valid()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            chain.other_name(name)
        }
        CertificateError::UnknownIssuer => chain.unknown_issuer(),
        // The latter: a trusted CA of the issuer's name has a key of another kind.
        CertificateError::BadSignature
        | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            chain.bad_signature()
        }
        CertificateError::UnsupportedSignatureAlgorithmContext { .. } => {
            chain.signature_algorithm()
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            Cause::CertificatePurpose.into()
        }
        CertificateError::BadEncoding => Cause::CertificateMalformed.into(),
        CertificateError::UnhandledCriticalExtension => Cause::CriticalExtension.into(),
        CertificateError::Revoked => Cause::CertificateRevoked.into(),
        CertificateError::UnknownRevocationStatus
        | CertificateError::ExpiredRevocationList
        | CertificateError::ExpiredRevocationListContext { .. }
        | CertificateError::InvalidOcspResponse => Diagnosis::new(
            Cause::CertificateRejected,
            "its revocation status is unknown",
        ),
        CertificateError::Other(other) => of_other(&other.to_string(), &chain),
        // The deprecated variants of signature algorithms, and later ones.
        _ => chain.signature_algorithm(),
    }
}

/// Maps the verifier's own errors, which rustls passes on as values without a public type. Their text is the
/// variant's name.
fn of_other(name: &str, chain: &chain::Chain<'_>) -> Diagnosis {
    match name {
        "CaUsedAsEndEntity" => chain.ca_certificate(),
        "NameConstraintViolation" => Cause::NameConstraint.into(),
        "UnsupportedCriticalExtension" => Cause::CriticalExtension.into(),
        "MaximumPathDepthExceeded"
        | "MaximumPathBuildCallsExceeded"
        | "MaximumSignatureChecksExceeded"
        | "MaximumNameConstraintComparisonsExceeded" => Cause::ChainTooLarge.into(),
        "UnsupportedCertVersion" => Diagnosis::new(
            Cause::CertificateRejected,
            "it is older than X.509 version 3",
        ),
        "EndEntityUsedAsCa" | "PathLenConstraintViolated" => Diagnosis::new(
            Cause::CertificateRejected,
            "a certificate of its chain may not issue certificates",
        ),
        "EmptyEkuExtension"
        | "ExtensionValueInvalid"
        | "MalformedExtensions"
        | "MalformedDnsIdentifier"
        | "MalformedNameConstraint"
        | "InvalidNetworkMaskConstraint"
        | "InvalidSerialNumber"
        | "SignatureAlgorithmMismatch"
        | "UnsupportedNameType" => Cause::CertificateMalformed.into(),
        _ => Cause::CertificateRejected.into(),
    }
}
