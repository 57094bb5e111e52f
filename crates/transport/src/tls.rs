//! TLS configs for both sides, and the channel binding of a connection. `trust` decides which servers are
//! trusted; `pair` reads a certificate with its key.

mod inspect;
mod pair;
mod trust;

pub use inspect::{
    inspect_ca_file, inspect_chain, inspect_hosts, inspect_pair, nameless, rejected,
};
pub use pair::{Pair, PairFile, read_pair};
pub use trust::{Trust, TrustVerifier};

use crate::failure::{self, Observer};
use protocol::opening::{CHANNEL_BINDING_BYTES, EXPORTER_LABEL};
use runtime::pem::FileError;
use rustls::crypto::CryptoProvider;
use rustls::{ClientConfig, ServerConfig, SideData};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why TLS could not be set up. Where a file is the reason, the error names it.
#[derive(Debug, thiserror::Error)]
pub enum TlsSetupError {
    /// A file cannot be read, or does not contain what it should.
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
    /// A certificate and its key cannot be used together.
    #[error("{0}")]
    Pair(String),
    /// rustls rejects the combination.
    #[error("{0}")]
    Rustls(#[from] rustls::Error),
}

impl TlsSetupError {
    /// Returns the text with the file's name instead of its path, for callers: they know the file and not the machine.
    pub fn without_directory(&self) -> String {
        match self {
            Self::File { path, detail } => match path.file_name() {
                Some(name) => format!("{}: {detail}", name.to_string_lossy()),
                None => detail.clone(),
            },
            Self::NoRoots { .. } | Self::Shortage(_) | Self::Pair(_) | Self::Rustls(_) => {
                self.to_string()
            }
        }
    }
}

impl From<FileError> for TlsSetupError {
    fn from(error: FileError) -> Self {
        match error {
            FileError::Wrong { path, detail } => Self::File { path, detail },
            FileError::Shortage { source, .. } => Self::Shortage(source),
        }
    }
}

/// Returns the cryptography provider that all configs use. Nothing depends on a process-wide default.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
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
    /// Files with additional roots and servers' certificates. Defaults to none.
    pub ca_files: &'a [PathBuf],
    /// ALPN protocols in order of preference. Defaults to none.
    pub alpn: &'a [&'a [u8]],
    /// The oldest version. Defaults to TLS 1.2.
    pub oldest: Oldest,
    /// The client certificate and its key. Defaults to none.
    pub own: Option<Pair>,
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
        let trust = Trust::read(self.ca_files)?;
        // Not the library's verifier, which rejects a certificate that `ca_file` names as that of the server. The
        // observer keeps the chains that it rejects.
        let verifier = Observer::new(Arc::new(trust.verifier()));
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(versions)?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match self.own {
            None => builder.with_no_client_auth(),
            Some(pair) => builder.with_client_auth_cert(pair.chain, pair.key)?,
        };
        config.client_auth_cert_resolver =
            failure::certificate_resolver(config.client_auth_cert_resolver);
        config.alpn_protocols = self.alpn.iter().map(|name| name.to_vec()).collect();
        Ok(Arc::new(config))
    }
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

/// Creates a server config from a certificate's file and that of its key: TLS 1.2 and 1.3.
///
/// # Errors
/// [`TlsSetupError`] when a file is unusable or key and certificate do not match.
pub fn server_config(
    cert_file: &Path,
    key_file: &Path,
    alpn: &[&[u8]],
) -> Result<ServerConfig, TlsSetupError> {
    let pair = read_pair(cert_file, key_file)?;
    for warning in nameless(&pair).into_iter().chain(rejected(&pair)) {
        tracing::warn!(file = %cert_file.display(), "{warning}");
    }
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(pair.chain, pair.key)?;
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
