//! A client certificate, and which one a connection was made with.

use crate::secret::Secret;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};

/// A certificate with its key. Two are the same only if they are one: a connection that was made with
/// one is of no use for another.
#[derive(Debug)]
pub struct ClientCert {
    number: u64,
    chain_pem: String,
    key_pem: Secret,
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
    /// From PEM: the chain, leaf first, and the leaf's key.
    ///
    /// # Errors
    /// What of it cannot be read.
    pub fn new(chain_pem: String, key_pem: Secret) -> Result<Self, String> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let certificate = Self {
            number: NEXT.fetch_add(1, Ordering::Relaxed),
            chain_pem,
            key_pem,
        };
        certificate.parts()?;
        Ok(certificate)
    }

    /// The chain as it was given.
    pub(crate) fn chain_pem(&self) -> &str {
        &self.chain_pem
    }

    /// The key as it was given.
    pub(crate) fn key_pem(&self) -> &Secret {
        &self.key_pem
    }

    /// For TLS.
    pub(super) fn parts(
        &self,
    ) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), String> {
        let chain: Result<Vec<_>, _> =
            CertificateDer::pem_slice_iter(self.chain_pem.as_bytes()).collect();
        let chain = chain.map_err(|error| format!("the certificate is no PEM: {error}"))?;
        if chain.is_empty() {
            return Err("the certificate's file holds no PEM certificate".into());
        }
        // What the parser says of a key may quote it.
        let key = PrivateKeyDer::from_pem_slice(self.key_pem.expose().as_bytes())
            .map_err(|_| "the secret is no PEM private key".to_owned())?;
        Ok((chain, key))
    }
}
