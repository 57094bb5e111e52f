//! A client certificate, and the identity that separates its connections from others.

use runtime::pem;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use transport::tls::Pair;

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
    /// Reads a certificate from PEM: the chain, and the leaf's private key.
    ///
    /// # Errors
    /// Which of the two cannot be read, or that they do not belong together.
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
    pub(crate) fn parts(&self) -> Result<Pair, String> {
        let chain = pem::certificates_in(self.chain_pem.as_bytes())
            .map_err(|detail| format!("the certificate's file {detail}"))?;
        // The reader's messages have no part of the key.
        let key = pem::private_key_in(self.key_pem.as_bytes())
            .map_err(|detail| format!("the key's file {detail}"))?;
        Pair::new(chain, key).map_err(|error| error.to_string())
    }
}
