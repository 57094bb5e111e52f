//! TLS of the public listener.

use super::self_signed;
use crate::config::Tls;
use protocol::opening::CHANNEL_BINDING_BYTES;
use rustls::ServerConnection;
use rustls::crypto::ring::Ticketer;
use rustls::server::NoServerSessionStorage;
use std::path::PathBuf;
use std::sync::Arc;
use tokio_rustls::TlsAcceptor;
use transport::tls::TlsSetupError;

/// HTTP/2 in ALPN.
pub const ALPN_HTTP2: &[u8] = b"h2";

/// HTTP/1.1 in ALPN.
const ALPN_HTTP1: &[u8] = b"http/1.1";

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The certificate's files cannot be used.
    #[error("the certificate cannot be used: {0}")]
    Setup(#[from] TlsSetupError),
    /// The keys for session tickets could not be made.
    #[error("no keys for session tickets: {0}")]
    Tickets(#[from] rustls::Error),
    /// A certificate could not be made.
    #[error("a self-signed certificate could not be made: {0}")]
    SelfSigned(#[from] self_signed::SelfSignedError),
}

/// A server's TLS, and the CA to trust where it is our own.
#[derive(Clone)]
pub struct Ready {
    /// Takes handshakes.
    pub acceptor: TlsAcceptor,
    /// The self-signed CA, PEM.
    pub ca_path: Option<PathBuf>,
}

/// Reads or makes the certificate.
///
/// # Errors
/// [`TlsError`], naming the file.
pub fn prepare(tls: &Tls) -> Result<Ready, TlsError> {
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
    // Without it, a TLS 1.2 exporter binds nothing (RFC 9266, section 1).
    config.require_ems = true;
    // A bridge that comes back resumes its session. What that takes is in its ticket, sealed, so
    // that ten thousand of them cost no memory here. Early data, which could be replayed, is off.
    config.ticketer = Ticketer::new()?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(Ready {
        acceptor: TlsAcceptor::from(Arc::new(config)),
        ca_path,
    })
}

/// The channel binding of a connection after its handshake.
pub fn exporter(session: &ServerConnection) -> Option<[u8; CHANNEL_BINDING_BYTES]> {
    transport::tls::channel_binding(session)
}
