//! A certificate chain for people.

use std::fmt;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// What people need of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CertificateSummary {
    subject: String,
    issuer: String,
    /// When it expires, in seconds since 1970.
    pub(super) expires_at: i64,
    expires_text: String,
}

impl CertificateSummary {
    fn from_der(der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let validity = certificate.validity();
        Some(Self {
            subject: certificate.subject().to_string(),
            issuer: certificate.issuer().to_string(),
            expires_at: validity.not_after.timestamp(),
            expires_text: validity.not_after.to_string(),
        })
    }
}

impl fmt::Display for CertificateSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} signed by {}, valid until {}",
            self.subject, self.issuer, self.expires_text
        )
    }
}

/// Returns the chain, leaf first. Certificates that cannot be parsed are left out.
pub(super) fn chain<'a>(ders: impl IntoIterator<Item = &'a [u8]>) -> Vec<CertificateSummary> {
    // The rest of a chain is worth showing even if one certificate is broken: it names the issuer.
    ders.into_iter()
        .filter_map(CertificateSummary::from_der)
        .collect()
}
