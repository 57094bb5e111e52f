//! TLS configs for both sides, and the channel binding of a connection.

use crate::failure::{self, Observer};
use protocol::opening::{CHANNEL_BINDING_BYTES, EXPORTER_LABEL};
use rustls::client::WebPkiServerVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig, SideData};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why TLS could not be set up. Where a file is the reason, the error names it.
#[derive(Debug, thiserror::Error)]
pub enum TlsSetupError {
    /// A PEM file cannot be read, or does not contain what it should.
    #[error("{path}: {detail}", path = .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with the file.
        detail: String,
    },
    /// There is no root certificate at all.
    #[error("no root certificates: the system has none ({detail}) and no CA file is given")]
    NoRoots {
        /// The system's error.
        detail: String,
    },
    /// Certificates cannot be read now: this machine lacks file descriptors or memory. Roots that were
    /// read before are not used: with only some of them, valid targets would be rejected as untrusted.
    #[error("certificates cannot be read now: {0}")]
    Shortage(#[source] std::io::Error),
    /// rustls rejects the combination.
    #[error("{0}")]
    Rustls(#[from] rustls::Error),
}

/// Returns the cryptography provider that all configs use. Nothing depends on a process-wide default.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Reads the certificates of a PEM file.
///
/// # Errors
/// [`TlsSetupError::File`] when it cannot be read or contains none.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsSetupError> {
    let failed = |detail: String| TlsSetupError::File {
        path: path.to_owned(),
        detail,
    };
    let found = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| match error {
            pem::Error::Io(error) if runtime::shortage::is_shortage(&error) => {
                TlsSetupError::Shortage(error)
            }
            error => failed(format!("no PEM certificates could be read: {error}")),
        })?;
    if found.is_empty() {
        return Err(failed("contains no PEM certificate".into()));
    }
    Ok(found)
}

/// Reads the system's roots, and those of the extra files in addition.
///
/// # Errors
/// [`TlsSetupError`] when a file is unusable or there is no root at all.
pub fn roots(extra_ca_files: &[PathBuf]) -> Result<RootCertStore, TlsSetupError> {
    let mut store = RootCertStore::empty();
    let mut system = rustls_native_certs::load_native_certs();
    // The loader returns partial results with errors. An error for want of descriptors must not pass
    // for a small set of roots.
    let shortage = |error: &rustls_native_certs::Error| runtime::shortage::is_in(error);
    if let Some(at) = system.errors.iter().position(shortage) {
        let error = system.errors.swap_remove(at);
        return Err(TlsSetupError::Shortage(match error.kind {
            rustls_native_certs::ErrorKind::Io { inner, .. } => inner,
            _ => std::io::Error::other(error),
        }));
    }
    store.add_parsable_certificates(system.certs);
    for path in extra_ca_files {
        for certificate in certificates(path)? {
            store
                .add(certificate)
                .map_err(|error| TlsSetupError::File {
                    path: path.clone(),
                    detail: format!("contains a certificate that cannot be a root: {error}"),
                })?;
        }
    }
    // A client without roots would reject every server with an error that names no cause.
    if store.is_empty() {
        let detail = system.errors.first().map(ToString::to_string);
        return Err(TlsSetupError::NoRoots {
            detail: detail.unwrap_or_else(|| "none found".into()),
        });
    }
    Ok(store)
}

/// The oldest version of TLS that is supported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Oldest {
    /// TLS 1.2.
    #[default]
    Tls12,
    /// TLS 1.3.
    Tls13,
}

/// The TLS settings of a client. The system's roots are always trusted.
#[derive(Debug, Default)]
pub struct ClientTls<'a> {
    /// PEM files with additional roots. Defaults to none.
    pub ca_files: &'a [PathBuf],
    /// ALPN protocols in order of preference. Defaults to none.
    pub alpn: &'a [&'a [u8]],
    /// The oldest version. Defaults to TLS 1.2.
    pub oldest: Oldest,
    /// The client certificate, leaf first, and its key. Defaults to none.
    pub own: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
}

impl ClientTls<'_> {
    /// Creates the config.
    ///
    /// # Errors
    /// [`TlsSetupError`] when a file is unusable, there is no root at all, or key and certificate do
    /// not match.
    pub fn config(self) -> Result<Arc<ClientConfig>, TlsSetupError> {
        let versions: &[&rustls::SupportedProtocolVersion] = match self.oldest {
            Oldest::Tls12 => rustls::DEFAULT_VERSIONS,
            Oldest::Tls13 => &[&rustls::version::TLS13],
        };
        let verifier = verifier(roots(self.ca_files)?)?;
        // The standard verifier is not replaced: the observer keeps the chains that it rejects.
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(versions)?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match self.own {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => builder.with_client_auth_cert(chain, key)?,
        };
        config.client_auth_cert_resolver =
            failure::certificate_resolver(config.client_auth_cert_resolver);
        config.alpn_protocols = self.alpn.iter().map(|name| name.to_vec()).collect();
        Ok(Arc::new(config))
    }
}

/// Returns the verifier of server certificates for these roots.
///
/// # Errors
/// [`TlsSetupError::Rustls`] when there is no root.
pub(crate) fn verifier(roots: RootCertStore) -> Result<Arc<Observer>, TlsSetupError> {
    let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider()).build();
    let inner = inner.map_err(|error| rustls::Error::General(error.to_string()))?;
    Ok(Observer::new(inner))
}

/// Creates a client config: TLS 1.2 and 1.3, the system's roots and the extra ones.
///
/// # Errors
/// [`TlsSetupError`] when a file is unusable or there is no root at all.
pub fn client_config(
    ca_files: &[PathBuf],
    alpn: &[&[u8]],
) -> Result<Arc<ClientConfig>, TlsSetupError> {
    let tls = ClientTls {
        ca_files,
        alpn,
        ..ClientTls::default()
    };
    tls.config()
}

/// Creates a server config from PEM files: TLS 1.2 and 1.3.
///
/// # Errors
/// [`TlsSetupError`] when a file is unusable or key and certificate do not match.
pub fn server_config(
    cert_file: &Path,
    key_file: &Path,
    alpn: &[&[u8]],
) -> Result<ServerConfig, TlsSetupError> {
    let chain = certificates(cert_file)?;
    let key = PrivateKeyDer::from_pem_file(key_file).map_err(|error| TlsSetupError::File {
        path: key_file.to_owned(),
        detail: format!("no PEM private key could be read: {error}"),
    })?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    Ok(config)
}

/// Returns the channel binding of a connection (RFC 9266, `tls-exporter`); `None` before its handshake.
pub fn channel_binding<C, S>(connection: &C) -> Option<[u8; CHANNEL_BINDING_BYTES]>
where
    C: Deref<Target = rustls::ConnectionCommon<S>>,
    S: SideData,
{
    connection
        .export_keying_material([0; CHANNEL_BINDING_BYTES], EXPORTER_LABEL, None)
        .ok()
}
