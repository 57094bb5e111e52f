//! TLS of the public listener and the proxy: the certificate, its renewal, its expiry.

use super::self_signed;
use crate::config::Tls;
use protocol::opening::CHANNEL_BINDING_BYTES;
use rustls::ServerConnection;
use rustls::crypto::ring::Ticketer;
use rustls::server::NoServerSessionStorage;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use tokio_rustls::TlsAcceptor;
use transport::tls::TlsSetupError;

/// HTTP/2 in ALPN.
pub(crate) const ALPN_HTTP2: &[u8] = b"h2";

/// HTTP/1.1 in ALPN.
const ALPN_HTTP1: &[u8] = b"http/1.1";

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The certificate's files cannot be used.
    #[error("the certificate cannot be used: {0}")]
    Setup(#[from] TlsSetupError),
    /// The keys for session tickets could not be created.
    #[error("cannot create keys for session tickets: {0}")]
    Tickets(#[from] rustls::Error),
    /// A certificate could not be created.
    #[error("cannot create a self-signed certificate: {0}")]
    SelfSigned(#[from] self_signed::SelfSignedError),
}

/// The TLS of a server, and the CA to trust if the certificate is self-signed.
#[derive(Clone)]
pub(crate) struct Ready {
    /// Accepts handshakes.
    pub acceptor: TlsAcceptor,
    /// The self-signed CA, PEM.
    pub ca_path: Option<PathBuf>,
    /// When the certificate expires, in seconds since 1970.
    pub expires: Option<i64>,
    /// Where the certificate comes from.
    source: Tls,
}

/// Returns when the first certificate of a file expires, in seconds since 1970. `None` if it cannot be read.
pub(crate) fn expires(cert_file: &Path) -> Option<i64> {
    let certificates = runtime::pem::certificates(cert_file).ok()?;
    not_after(&certificates.all.first()?.der)
}

/// Returns `notAfter` of a certificate (RFC 5280, 4.1).
fn not_after(certificate: &[u8]) -> Option<i64> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
    Some(certificate.validity().not_after.timestamp())
}

/// Accepts TLS handshakes with the active certificate.
#[derive(Clone)]
pub(crate) struct Acceptor(Arc<RwLock<Ready>>);

impl Acceptor {
    /// Returns an acceptor with the first certificate.
    pub(crate) fn new(first: Ready) -> Self {
        Self(Arc::new(RwLock::new(first)))
    }

    /// Returns where the active certificate comes from.
    pub(crate) fn source(&self) -> Tls {
        let active = self.0.read().unwrap_or_else(PoisonError::into_inner);
        active.source.clone()
    }

    /// Returns the acceptor for the next handshake.
    pub(crate) fn current(&self) -> TlsAcceptor {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .acceptor
            .clone()
    }

    /// Replaces the certificate. Handshakes in progress keep the one that they began with.
    pub(crate) fn replace(&self, next: Ready) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = next;
    }
}

/// Reads the certificate, or creates a self-signed one.
///
/// # Errors
/// [`TlsError`], naming the file.
pub(crate) fn prepare(tls: &Tls) -> Result<Ready, TlsError> {
    let (cert_file, key_file, ca_path) = match tls {
        Tls::Files {
            cert_file,
            key_file,
        } => (cert_file.clone(), key_file.clone(), None),
        Tls::SelfSigned { dir, names } => {
            let made = self_signed::ensure(dir, names)?;
            (made.cert_file, made.key_file, Some(made.ca_file))
        }
    };
    let alpn = &[ALPN_HTTP2, ALPN_HTTP1];
    let mut config = transport::tls::server_config(&cert_file, &key_file, alpn)?;
    // Without the extended master secret, a TLS 1.2 exporter does not bind the channel (RFC 9266, section 1).
    config.require_ems = true;
    // A bridge that reconnects resumes its TLS session. The session is in the encrypted ticket, so that ten
    // thousand bridges take no memory here. Early data is off, because it could be replayed.
    config.ticketer = Ticketer::new()?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(Ready {
        acceptor: TlsAcceptor::from(Arc::new(config)),
        ca_path,
        expires: expires(&cert_file),
        source: tls.clone(),
    })
}

/// Returns the channel binding of a connection after its handshake.
pub(crate) fn exporter(session: &ServerConnection) -> Option<[u8; CHANNEL_BINDING_BYTES]> {
    transport::tls::channel_binding(session)
}

#[cfg(test)]
mod tests {
    use super::*;
    use support::{TempDir, ThrowawayCa};

    #[test]
    fn certificate_expiry_is_read() {
        let dir = TempDir::new("expires");
        let files = ThrowawayCa::new()
            .issue(&["localhost"])
            .write_to(&dir.join(""), "leaf");
        let end = expires(&files.cert_file).unwrap();
        assert!(end > crate::storage::now(), "{end}");
        for cut in 0..40 {
            let certificates = runtime::pem::certificates(&files.cert_file).unwrap();
            assert_eq!(not_after(&certificates.all[0].der[..cut]), None);
        }
    }
}
