//! What is wrong with a certificate chain that was rejected.

use super::{Cause, Diagnosis, clean};
use rustls::pki_types::{CertificateDer, ServerName};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::PublicKey;
use x509_parser::time::ASN1Time;
use x509_parser::x509::X509Name;

/// Names of a certificate that are shown.
const NAMES_MAX: usize = 4;

/// The shortest RSA key that is accepted.
const RSA_BITS_MIN: usize = 2048;

/// Object identifiers of RSA signatures (RFC 8017): the length of such a signature is that of the issuer's key.
const RSA_SIGNATURES: &str = "1.2.840.113549.1.1.";

/// Signature algorithms that are no longer accepted.
const OLD_ALGORITHMS: [(&str, &str); 4] = [
    ("1.2.840.113549.1.1.4", "MD5"),
    ("1.2.840.113549.1.1.5", "SHA-1"),
    ("1.2.840.10045.4.1", "SHA-1"),
    ("1.2.840.10040.4.3", "SHA-1"),
];

/// A chain, leaf first. Certificates that cannot be parsed are left out.
pub(super) struct Chain<'a>(Vec<X509Certificate<'a>>);

impl<'a> Chain<'a> {
    pub(super) fn parse(chain: &'a [CertificateDer<'static>]) -> Self {
        let parsed = chain.iter().map(|der| X509Certificate::from_der(der));
        Self(parsed.filter_map(|one| Some(one.ok()?.1)).collect())
    }

    /// Names the certificate that has expired: often that of an issuer.
    pub(super) fn expired(&self) -> Diagnosis {
        let now = ASN1Time::now();
        let old = self.0.iter().find(|one| one.validity().not_after < now);
        self.dated(
            Cause::CertificateExpired,
            old.map(|one| (one, one.validity().not_after)),
        )
    }

    pub(super) fn not_yet_valid(&self) -> Diagnosis {
        let now = ASN1Time::now();
        let new = self.0.iter().find(|one| one.validity().not_before > now);
        self.dated(
            Cause::CertificateNotYetValid,
            new.map(|one| (one, one.validity().not_before)),
        )
    }

    fn dated(&self, cause: Cause, found: Option<(&X509Certificate<'_>, ASN1Time)>) -> Diagnosis {
        let Some((certificate, at)) = found else {
            return cause.into();
        };
        let at = date(at);
        let is_leaf = self
            .0
            .first()
            .is_some_and(|leaf| std::ptr::eq(leaf, certificate));
        Diagnosis::new(
            cause,
            match is_leaf {
                true => at,
                false => format!("{at}, {}", subject(certificate.subject())),
            },
        )
    }

    /// Shows the names that the certificate has.
    pub(super) fn other_name(&self, name: &ServerName<'_>) -> Diagnosis {
        let Some(leaf) = self.0.first() else {
            return Cause::CertificateOtherName.into();
        };
        let names = names(leaf);
        if names.is_empty() {
            let subject = subject(leaf.subject());
            return Diagnosis::new(
                Cause::CertificateWithoutNames,
                format!("its subject is {subject}"),
            );
        }
        let has_address = names.iter().any(|name| name.parse::<IpAddr>().is_ok());
        let cause = match name {
            ServerName::IpAddress(_) if !has_address => Cause::CertificateWithoutAddress,
            _ => Cause::CertificateOtherName,
        };
        let more = names.len().saturating_sub(NAMES_MAX);
        let mut shown = names[..names.len() - more].join(", ");
        if more > 0 {
            shown.push_str(&format!(" and {more} more"));
        }
        Diagnosis::new(cause, format!("it is for {shown}"))
    }

    /// Tells a private CA from a certificate signed by itself and from a chain with a gap.
    pub(super) fn unknown_issuer(&self) -> Diagnosis {
        let (Some(leaf), Some(last)) = (self.0.first(), self.0.last()) else {
            return Cause::UnknownIssuer.into();
        };
        if is_self_issued(leaf) {
            let found = format!("issued by itself, {}", subject(leaf.subject()));
            return Diagnosis::new(Cause::SelfSigned, found);
        }
        let found = format!("issued by {}", subject(last.issuer()));
        match self.0.len() {
            1 => Diagnosis::new(Cause::MissingIntermediate, found),
            _ => Diagnosis::new(Cause::UnknownIssuer, found),
        }
    }

    /// A library verifies no signature of a short RSA key, and reports it as a wrong one.
    pub(super) fn bad_signature(&self) -> Diagnosis {
        match self.short_key() {
            Some(bits) => Diagnosis::new(Cause::WeakKey, format!("RSA, {bits} bits")),
            // Another certificate of the same name is trusted, and this one is its own issuer.
            None if self.0.first().is_some_and(is_self_issued) => self.unknown_issuer(),
            None => Cause::BadSignature.into(),
        }
    }

    fn short_key(&self) -> Option<usize> {
        let is_short = |bits: usize| (1..RSA_BITS_MIN).contains(&bits);
        self.0.iter().find_map(|one| {
            let own = match one.public_key().parsed() {
                Ok(PublicKey::RSA(key)) => key.key_size(),
                Ok(_) | Err(_) => 0,
            };
            // The issuer may be a root, which servers do not send.
            let algorithm = one.signature_algorithm.algorithm.to_id_string();
            let issuer = match algorithm.starts_with(RSA_SIGNATURES) {
                true => one.signature_value.data.len() * 8,
                false => 0,
            };
            [own, issuer].into_iter().find(|bits| is_short(*bits))
        })
    }

    /// Names the algorithm that is not accepted.
    pub(super) fn signature_algorithm(&self) -> Diagnosis {
        let old = self.0.iter().find_map(old_algorithm);
        match (old, self.0.first()) {
            (Some(name), _) => Diagnosis::new(Cause::SignatureAlgorithm, name),
            (None, Some(leaf)) => {
                let used = leaf.signature_algorithm.algorithm.to_id_string();
                Diagnosis::new(Cause::SignatureAlgorithm, format!("algorithm {used}"))
            }
            (None, None) => Cause::SignatureAlgorithm.into(),
        }
    }

    /// A CA's certificate in place of a server's. Many programs make themselves a self-signed one that is marked as a CA:
    /// then it is only not trusted yet.
    pub(super) fn ca_certificate(&self) -> Diagnosis {
        match self.0.first() {
            Some(leaf) if is_self_issued(leaf) => self.unknown_issuer(),
            Some(leaf) => Diagnosis::new(Cause::CaCertificate, subject(leaf.subject())),
            None => Cause::CaCertificate.into(),
        }
    }
}

/// Returns the hash of a certificate's signature, if it is one that is no longer accepted.
fn old_algorithm(certificate: &X509Certificate<'_>) -> Option<&'static str> {
    let used = certificate.signature_algorithm.algorithm.to_id_string();
    let old = OLD_ALGORITHMS.into_iter().find(|(id, _)| *id == used);
    old.map(|(_, name)| name)
}

/// Returns the hash of a certificate's signature, if no client of this project accepts it. `None` also for what is no
/// certificate.
pub(crate) fn old_signature(der: &CertificateDer<'_>) -> Option<&'static str> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    old_algorithm(&certificate)
}

fn is_self_issued(certificate: &X509Certificate<'_>) -> bool {
    certificate.subject() == certificate.issuer()
}

/// Returns the DNS names and addresses of a certificate (RFC 5280, 4.2.1.6).
fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(names)) = certificate.subject_alternative_name() else {
        return Vec::new();
    };
    let names = names.value.general_names.iter();
    names
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(clean(name)),
            GeneralName::IPAddress(bytes) => address(bytes).map(|address| address.to_string()),
            _ => None,
        })
        .collect()
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into()),
        16 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into()),
        _ => None,
    }
}

/// Returns the common name of a subject, or all of it.
fn subject(name: &X509Name<'_>) -> String {
    let common = name.iter_common_name().next();
    let common = common.and_then(|name| name.as_str().ok()).map(clean);
    match common.filter(|name| !name.is_empty()) {
        Some(common) => format!("\"{common}\""),
        None => format!("\"{}\"", clean(&name.to_string())),
    }
}

/// Returns a date and time for people, in UTC.
fn date(at: ASN1Time) -> String {
    runtime::time::to_minute(at.timestamp())
}
