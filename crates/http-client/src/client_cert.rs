//! A client certificate, and the identity that separates its connections from others.

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};

/// A certificate chain with its private key. Two are equal only if they are the same value: a connection
/// that was made with one must not serve requests of another.
pub struct ClientCert {
    number: u64,
    chain_pem: String,
    key_pem: String,
}

impl fmt::Debug for ClientCert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientCert")
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}

impl PartialEq for ClientCert {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for ClientCert {}

impl Hash for ClientCert {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.number.hash(state);
    }
}

impl ClientCert {
    /// Reads a certificate from PEM: the chain, leaf first, and the leaf's private key.
    ///
    /// # Errors
    /// Which of the two cannot be read.
    pub fn new(chain_pem: String, key_pem: String) -> Result<Self, String> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let certificate = Self {
            number: NEXT.fetch_add(1, Ordering::Relaxed),
            chain_pem,
            key_pem,
        };
        // Parsed once here, so that a wrong file is rejected when it is set, not with the first request.
        certificate.parts()?;
        Ok(certificate)
    }

    /// Returns the chain as it was given.
    pub fn chain_pem(&self) -> &str {
        &self.chain_pem
    }

    /// Returns the private key as it was given. It is a secret.
    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }

    /// Returns the parts for TLS.
    pub(crate) fn parts(
        &self,
    ) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), String> {
        let chain: Result<Vec<_>, _> =
            CertificateDer::pem_slice_iter(self.chain_pem.as_bytes()).collect();
        let chain = chain.map_err(|error| format!("the certificate is not PEM: {error}"))?;
        if chain.is_empty() {
            return Err("the certificate's file holds no PEM certificate".into());
        }
        // The parser's error is dropped: it may quote the key.
        let key = PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes())
            .map_err(|_| "the secret is not a PEM private key".to_owned())?;
        Ok((chain, key))
    }
}
