//! A certificate authority that lives as long as the test.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

/// A fresh root, with its key in memory.
pub struct ThrowawayCa {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its key, both as PEM.
#[derive(Clone)]
pub struct Issued {
    /// The certificate alone; the root is not in the chain.
    pub cert_pem: String,
    /// The key as PKCS #8.
    pub key_pem: String,
}

/// Where [`Issued::write_to`] put the two.
#[derive(Debug, Clone)]
pub struct IssuedFiles {
    /// The certificate's file.
    pub cert_file: PathBuf,
    /// The key's file.
    pub key_file: PathBuf,
}

impl ThrowawayCa {
    /// Makes a root. Another one's certificates do not verify against it.
    #[expect(clippy::new_without_default, reason = "a root is made, not assumed")]
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names to reject");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params
            .distinguished_name
            .push(DnType::CommonName, "Throwaway Test CA");
        let key = KeyPair::generate().expect("the system has randomness");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("sound parameters");
        Self { issuer }
    }

    /// A server certificate for names and addresses, such as `["localhost", "127.0.0.1"]`.
    pub fn issue(&self, names: &[&str]) -> Issued {
        self.sign(names, |_| {})
    }

    /// The same, but it ended years ago.
    pub fn issue_expired(&self, names: &[&str]) -> Issued {
        self.sign(names, |params| {
            params.not_before = date_time_ymd(2001, 1, 1);
            params.not_after = date_time_ymd(2002, 1, 1);
        })
    }

    /// A certificate that issued itself and is marked as a CA, as `openssl req -x509` makes it.
    pub fn self_signed(names: &[&str]) -> Issued {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).expect("names that a certificate can hold");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("the system has randomness");
        let cert = params.self_signed(&key).expect("sound parameters");
        Issued {
            cert_pem: cert.pem(),
            key_pem: key.serialize_pem(),
        }
    }

    fn sign(&self, names: &[&str], adjust: impl FnOnce(&mut CertificateParams)) -> Issued {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).expect("names that a certificate can hold");
        params.use_authority_key_identifier_extension = true;
        adjust(&mut params);
        let key = KeyPair::generate().expect("the system has randomness");
        let cert = params
            .signed_by(&key, &self.issuer)
            .expect("sound parameters");
        Issued {
            cert_pem: cert.pem(),
            key_pem: key.serialize_pem(),
        }
    }

    /// The root as PEM: what `ca_file` wants.
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// Writes the root to `ca.pem` in `dir` and returns its path.
    pub fn write_to(&self, dir: &Path) -> PathBuf {
        let path = dir.join("ca.pem");
        write(&path, &self.pem());
        path
    }

    /// A server's side for these names, offering the protocols in `alpn` (none: no ALPN).
    pub fn server_config(&self, names: &[&str], alpn: &[&str]) -> Arc<ServerConfig> {
        self.issue(names).server_config(alpn)
    }

    /// A client's side that trusts this root and nothing else.
    pub fn client_config(&self) -> Arc<ClientConfig> {
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("ring has TLS 1.2 and 1.3")
            .with_root_certificates(self.roots())
            .with_no_client_auth();
        Arc::new(config)
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).expect("our own root");
        roots
    }
}

impl Issued {
    /// Writes `STEM.crt` and `STEM.key` in `dir`.
    pub fn write_to(&self, dir: &Path, stem: &str) -> IssuedFiles {
        let files = IssuedFiles {
            cert_file: dir.join(format!("{stem}.crt")),
            key_file: dir.join(format!("{stem}.key")),
        };
        write(&files.cert_file, &self.cert_pem);
        write(&files.key_file, &self.key_pem);
        files
    }

    /// A server's side with this certificate.
    pub fn server_config(&self, alpn: &[&str]) -> Arc<ServerConfig> {
        self.server(WebPkiClientVerifier::no_client_auth(), alpn)
    }

    /// The same, for clients with a certificate of `ca` alone.
    pub fn mutual_config(&self, ca: &ThrowawayCa, alpn: &[&str]) -> Arc<ServerConfig> {
        let roots = Arc::new(ca.roots());
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider())
            .build()
            .expect("there is a root");
        self.server(verifier, alpn)
    }

    fn server(&self, clients: Arc<dyn ClientCertVerifier>, alpn: &[&str]) -> Arc<ServerConfig> {
        let cert = CertificateDer::from_pem_slice(self.cert_pem.as_bytes()).expect("our own PEM");
        let key = PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes()).expect("our own PEM");
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("ring has TLS 1.2 and 1.3")
            .with_client_cert_verifier(clients)
            .with_single_cert(vec![cert], key)
            .expect("a key that fits its certificate");
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Arc::new(config)
    }
}

impl std::fmt::Debug for ThrowawayCa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ThrowawayCa")
    }
}

impl std::fmt::Debug for Issued {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Issued")
    }
}

/// Passed explicitly: the process's default provider belongs to the code under test.
fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn write(path: &Path, content: &str) {
    fs::write(path, content)
        .unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
}
