//! A certificate of a file, and what people need to know of it.

use super::der;
use crate::peer_text::PeerText;
use rustls_pki_types::CertificateDer;
use std::fmt;
use std::net::IpAddr;
use x509_parser::prelude::{GeneralName, ParsedExtension, X509Certificate, X509Version};

/// Seconds of ten days.
const SOON_S: i64 = 10 * 24 * 60 * 60;

/// A certificate, and where it was.
#[derive(Debug, Clone)]
pub struct Certificate {
    /// The certificate.
    pub der: CertificateDer<'static>,
    /// Its number in the file, from 1.
    pub number: usize,
    /// The line on which it begins; `None` in a file without lines.
    pub line: Option<usize>,
}

impl fmt::Display for Certificate {
    /// `certificate 2 (line 31, CN=x)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "certificate {} (", self.number)?;
        if let Some(line) = self.line {
            write!(f, "line {line}, ")?;
        }
        write!(f, "{})", subject_of(&self.der))
    }
}

impl Certificate {
    pub(super) fn new(number: usize, line: Option<usize>, der: CertificateDer<'static>) -> Self {
        Self { der, number, line }
    }

    fn parsed(&self) -> Option<X509Certificate<'_>> {
        x509_parser::parse_x509_certificate(&self.der)
            .ok()
            .map(|(_, certificate)| certificate)
    }

    /// Returns whether it says of itself that it issues no certificates. Such a one must not become a root:
    /// its owner could issue certificates for any name.
    pub fn is_end_entity(&self) -> bool {
        let Some(certificate) = self.parsed() else {
            return false;
        };
        let mut is_ca = None;
        let mut may_sign = None;
        for extension in certificate.extensions() {
            match extension.parsed_extension() {
                ParsedExtension::BasicConstraints(basic) => is_ca = Some(basic.ca),
                ParsedExtension::KeyUsage(usage) => may_sign = Some(usage.key_cert_sign()),
                _ => {}
            }
        }
        // Without basic constraints, the usage of the key decides; old roots have neither.
        match is_ca {
            Some(is_ca) => !is_ca,
            None => may_sign == Some(false),
        }
    }

    /// Returns whether it is within its validity, and may be a server's. False where it cannot be parsed.
    pub fn may_be_a_servers(&self, now_s: i64) -> Result<bool, Validity> {
        let Some(certificate) = self.parsed() else {
            return Ok(false);
        };
        match validity(&certificate, now_s) {
            Validity::Current { .. } => {}
            other => return Err(other),
        }
        let usages = certificate.extended_key_usage().ok().flatten();
        Ok(usages.is_none_or(|usage| usage.value.any || usage.value.server_auth))
    }

    /// Returns whether it says of itself that it is the certificate of a CA.
    pub fn is_ca(&self) -> bool {
        let Some(certificate) = self.parsed() else {
            return false;
        };
        let constraints = certificate.basic_constraints().ok().flatten();
        constraints.is_some_and(|constraints| constraints.value.ca)
    }

    /// Returns whether the purposes of its key (extendedKeyUsage) leave out that of a server. The verifier of TLS looks
    /// for this purpose alone. A certificate that issued itself is trusted as itself: there any purpose is enough.
    pub fn excludes_servers(&self) -> bool {
        let Some(certificate) = self.parsed() else {
            return false;
        };
        let is_any_enough = certificate.issuer().as_raw() == certificate.subject().as_raw();
        let usages = certificate.extended_key_usage().ok().flatten();
        usages.is_some_and(|usage| !(usage.value.server_auth || usage.value.any && is_any_enough))
    }

    /// Returns how it is with its validity.
    pub fn validity(&self, now_s: i64) -> Option<Validity> {
        self.parsed().map(|one| validity(&one, now_s))
    }

    /// Returns whether `other` has this certificate's issuer as its subject.
    pub fn is_issued_by(&self, other: &Self) -> bool {
        match (self.parsed(), other.parsed()) {
            (Some(own), Some(other)) => own.issuer().as_raw() == other.subject().as_raw(),
            _ => false,
        }
    }

    /// Returns its issuer, as DER and for people; `None` where it issued itself.
    pub fn issuer(&self) -> Option<(Vec<u8>, String)> {
        let own = self.parsed()?;
        let (issuer, subject) = (own.issuer(), own.subject());
        (issuer.as_raw() != subject.as_raw())
            .then(|| (issuer.as_raw().to_vec(), issuer.to_string()))
    }

    /// Returns the names and addresses of its subjectAltName, which alone clients compare; empty without one.
    pub fn names(&self) -> Vec<String> {
        let Some(certificate) = self.parsed() else {
            return Vec::new();
        };
        let names = certificate.subject_alternative_name().ok().flatten();
        let names = names.map(|names| &names.value.general_names);
        let name = |name: &GeneralName<'_>| match name {
            GeneralName::DNSName(name) => Some(clean(name)),
            GeneralName::IPAddress(bytes) => match **bytes {
                [a, b, c, d] => Some(IpAddr::from([a, b, c, d]).to_string()),
                ref bytes => <[u8; 16]>::try_from(bytes)
                    .ok()
                    .map(|bytes| IpAddr::from(bytes).to_string()),
            },
            _ => None,
        };
        names.into_iter().flatten().filter_map(name).collect()
    }

    /// Returns its public key, a SubjectPublicKeyInfo (RFC 5280).
    pub fn public_key(&self) -> Option<Vec<u8>> {
        self.parsed().map(|one| one.public_key().raw.to_vec())
    }

    /// Returns whether it is of X.509 version 1, which has no extensions and so no names. TLS libraries reject it.
    pub fn is_version_1(&self) -> bool {
        self.parsed()
            .is_some_and(|one| one.version() == X509Version::V1)
    }

    /// Returns why its key is not supported, if it is not.
    pub fn key_complaint(&self) -> Option<String> {
        der::public_key_complaint(self.parsed()?.public_key().raw)
    }
}

/// How a certificate is with its validity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Validity {
    /// It begins later.
    Future(String),
    /// It is valid.
    Current {
        /// Whole days that remain.
        days: i64,
        /// Whether there are fewer than ten.
        ends_soon: bool,
    },
    /// It has ended.
    Expired(String),
}

fn validity(certificate: &X509Certificate<'_>, now_s: i64) -> Validity {
    let validity = certificate.validity();
    let left = validity.not_after.timestamp() - now_s;
    if validity.not_before.timestamp() > now_s {
        Validity::Future(validity.not_before.to_string())
    } else if left < 0 {
        Validity::Expired(validity.not_after.to_string())
    } else {
        Validity::Current {
            days: left / (24 * 60 * 60),
            ends_soon: left < SOON_S,
        }
    }
}

/// Returns the subject of a certificate for people, or its first name where the subject is empty.
pub fn subject_of(der: &[u8]) -> String {
    let Ok((_, certificate)) = x509_parser::parse_x509_certificate(der) else {
        return "a subject that cannot be read".to_owned();
    };
    let subject = clean(&certificate.subject().to_string());
    if !subject.is_empty() {
        return subject;
    }
    let names = certificate.subject_alternative_name().ok().flatten();
    let name = names.and_then(|names| names.value.general_names.first().map(ToString::to_string));
    name.map_or_else(|| "no subject".to_owned(), |name| clean(&name))
}

/// Returns a name of a file's, which must not control a terminal.
fn clean(name: &str) -> String {
    PeerText::bounded(name, 200).to_string()
}
