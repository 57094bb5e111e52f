//! A chain of certificates, in words.

use x509_parser::prelude::{FromDer as _, X509Certificate};

/// A certificate, as far as people need it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shown {
    pub(super) subject: String,
    pub(super) issuer: String,
    /// When it ends, in seconds since 1970.
    pub(super) expires: i64,
    text: String,
}

impl Shown {
    pub(super) fn of(der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let validity = certificate.validity();
        Some(Self {
            subject: certificate.subject().to_string(),
            issuer: certificate.issuer().to_string(),
            expires: validity.not_after.timestamp(),
            text: validity.not_after.to_string(),
        })
    }
}

impl std::fmt::Display for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} signed by {}, until {}",
            self.subject, self.issuer, self.text
        )
    }
}

/// The chain from the leaf on.
pub(super) fn chain<'a>(ders: impl IntoIterator<Item = &'a [u8]>) -> Vec<Shown> {
    ders.into_iter().filter_map(Shown::of).collect()
}
