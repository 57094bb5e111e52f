//! A certificate with its chain, and its key: read together, because each is useless without the other.

use super::{TlsSetupError, provider};
use runtime::pem::{self, Certificate, Certificates};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::ParsedCertificate;
use std::path::Path;

/// A certificate chain, the leaf first, and the leaf's key. They belong together.
#[derive(Debug)]
pub struct Pair {
    /// The chain.
    pub chain: Vec<CertificateDer<'static>>,
    /// The key.
    pub key: PrivateKeyDer<'static>,
    /// The chain as it was read, in the order of `chain`.
    pub certificates: Vec<Certificate>,
    /// Whether the file had the chain in another order.
    pub was_reordered: bool,
}

/// Reads a certificate and its key; both may be in one file. A chain in the wrong order is put in order.
///
/// # Errors
/// [`TlsSetupError`] names the file; also when the two do not belong together.
pub fn read_pair(cert_file: &Path, key_file: &Path) -> Result<Pair, TlsSetupError> {
    read_parts(cert_file, key_file).map_err(|(_, error)| error)
}

/// Which of the two files an error is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PairFile {
    /// That of the certificate.
    Certificate,
    /// That of the key.
    Key,
}

/// Reads a certificate and its key like [`read_pair`]. The error says which file it is about.
///
/// # Errors
/// As [`read_pair`].
pub(super) fn read_parts(
    cert_file: &Path,
    key_file: &Path,
) -> Result<Pair, (PairFile, TlsSetupError)> {
    let wrong = |path: &Path, detail: String| TlsSetupError::File {
        path: path.to_owned(),
        detail,
    };
    let chain = pem::certificates(cert_file);
    let chain = chain.map_err(|error| (PairFile::Certificate, error.into()))?;
    let key = pem::private_key(key_file);
    let key = key.map_err(|error| (PairFile::Key, error.into()))?;
    let pair = Pair::new(chain, key).map_err(|error| match error {
        PairError::Certificate(detail) => (PairFile::Certificate, wrong(cert_file, detail)),
        PairError::Key(detail) => (PairFile::Key, wrong(key_file, detail)),
        PairError::Mismatch(subject) => {
            let detail = format!(
                "does not belong to the certificate in {} ({subject}): name the key with which that \
                 certificate was requested",
                cert_file.display()
            );
            (PairFile::Key, wrong(key_file, detail))
        }
    })?;
    if pair.was_reordered {
        tracing::debug!(file = %cert_file.display(), "the certificate chain was put in order");
    }
    Ok(pair)
}

/// Why a certificate and a key are no pair.
#[derive(Debug, thiserror::Error)]
pub enum PairError {
    /// The certificate or its chain cannot be used.
    #[error("the certificate's file {0}")]
    Certificate(String),
    /// The key cannot be used.
    #[error("the key's file {0}")]
    Key(String),
    /// The key is that of another certificate.
    #[error(
        "the key does not belong to the certificate ({0}): give the key with which that certificate was requested"
    )]
    Mismatch(String),
}

impl Pair {
    /// Checks that a key belongs to one of the certificates, and puts that one first.
    ///
    /// # Errors
    /// [`PairError`].
    pub fn new(chain: Certificates, key: PrivateKeyDer<'static>) -> Result<Self, PairError> {
        let all = chain.whole().map_err(PairError::Certificate)?.all;
        let loaded = provider().key_provider.load_private_key(key.clone_key());
        // The error's text is left out: it may describe the key.
        let loaded = loaded
            .map_err(|_| PairError::Key("holds a private key that is not supported".to_owned()))?;
        let spki = loaded.public_key();
        // Not by the TLS library's reader: a certificate that it rejects has this key all the same.
        let has_key = |one: &Certificate| match (&spki, one.public_key()) {
            (Some(spki), Some(key)) => key == spki.as_ref(),
            _ => false,
        };
        let is_known = spki.is_some();
        let at = all.iter().position(has_key);
        let first = all
            .first()
            .expect("a file without certificates is an error");
        if let Some(complaint) = all
            .get(at.unwrap_or(0))
            .and_then(Certificate::key_complaint)
        {
            return Err(PairError::Certificate(complaint));
        }
        let leaf = match at {
            Some(at) => at,
            // A key that does not tell its public part: TLS checks it.
            None if !is_known => 0,
            None => return Err(PairError::Mismatch(pem::subject_of(&first.der))),
        };
        unsupported(&all[leaf]).map_or(Ok(()), |why| Err(PairError::Certificate(why)))?;
        let numbers: Vec<usize> = all.iter().map(|one| one.number).collect();
        let certificates = ordered(all, leaf);
        let was_reordered = !numbers
            .iter()
            .eq(certificates.iter().map(|one| &one.number));
        Ok(Self {
            chain: certificates.iter().map(|one| one.der.clone()).collect(),
            key,
            certificates,
            was_reordered,
        })
    }

    /// Returns the leaf.
    pub fn leaf(&self) -> &Certificate {
        &self.certificates[0]
    }
}

/// Returns why TLS cannot present a certificate, if it cannot.
fn unsupported(leaf: &Certificate) -> Option<String> {
    let error = ParsedCertificate::try_from(&leaf.der).err()?;
    let subject = pem::subject_of(&leaf.der);
    Some(match leaf.is_version_1() {
        true => format!(
            "holds a certificate of X.509 version 1 ({subject}), which has no subjectAltName and which TLS rejects: \
             issue it again with `openssl x509 -req ... -extfile FILE`, where FILE has the line \
             subjectAltName=DNS:NAME"
        ),
        false => format!(
            "holds a certificate that TLS rejects ({subject}: {error}): have it issued again"
        ),
    })
}

/// Puts the leaf first, and each issuer after what it issued. What is left follows in its order.
fn ordered(mut all: Vec<Certificate>, leaf: usize) -> Vec<Certificate> {
    let mut chain = vec![all.remove(leaf)];
    while let Some(last) = chain.last()
        && let Some(next) = all.iter().position(|one| last.is_issued_by(one))
    {
        chain.push(all.remove(next));
    }
    chain.extend(all);
    chain
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

    struct Made {
        chain: Vec<CertificateDer<'static>>,
        key: KeyPair,
    }

    /// Makes a leaf, its intermediate and its root.
    fn made() -> Made {
        let issuer = |name: &str| {
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.distinguished_name.push(DnType::CommonName, name);
            (params, KeyPair::generate().unwrap())
        };
        let (params, key) = issuer("root");
        let root = CertifiedIssuer::self_signed(params, key).unwrap();
        let (params, key) = issuer("intermediate");
        let middle = CertifiedIssuer::signed_by(params, key, &root).unwrap();
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".into()]).unwrap();
        let leaf = params.signed_by(&key, &middle).unwrap();
        Made {
            chain: vec![leaf.der().clone(), middle.der().clone(), root.der().clone()],
            key,
        }
    }

    fn pair(chain: &[&CertificateDer<'static>], key: &KeyPair) -> Result<Pair, PairError> {
        let text: String = chain.iter().map(|one| pem::certificate_text(one)).collect();
        let certificates = pem::certificates_in(text.as_bytes()).unwrap();
        let key = pem::private_key_in(key.serialize_pem().as_bytes()).unwrap();
        Pair::new(certificates, key)
    }

    #[test]
    fn chain_is_put_in_order() {
        let Made { chain, key } = made();
        let [leaf, middle, root] = [&chain[0], &chain[1], &chain[2]];
        for (given, was_reordered) in [
            ([leaf, middle, root], false),
            ([root, middle, leaf], true),
            ([middle, leaf, root], true),
            ([leaf, root, middle], true),
        ] {
            let pair = pair(&given, &key).unwrap();
            assert_eq!(pair.chain, chain);
            assert_eq!(pair.was_reordered, was_reordered);
        }
    }

    /// Issued by `openssl x509 -req -days 36500 -set_serial 1` without `-extfile`, CN=localhost, with this key.
    const VERSION_1: (&str, &str) = (
        "-----BEGIN CERTIFICATE-----\n\
         MIIBETCBuAIBATAKBggqhkjOPQQDAjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwIBcN\n\
         MjYxMTMwMTcyNTEzWhgPMjEyNjExMDYxNzI1MTNaMBQxEjAQBgNVBAMMCWxvY2Fs\n\
         aG9zdDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABGPl2a087GrCIR8DrXhOY1uv\n\
         XbV4THqjeKhiy6tdTt4TuuuMkCbOzEQSAqTas3F7xoW4hA7nuRw2DVc5jhzHBjUw\n\
         CgYIKoZIzj0EAwIDSAAwRQIgDadDxf2Iiz9TMpaYkXhy/oKzDw3b7tKYedeNjWwP\n\
         1gQCIQCB9n3mj7j0P+IY3ukpxaaI2CMXFXxjXlsHcxlurngDxw==\n\
         -----END CERTIFICATE-----",
        "-----BEGIN PRIVATE KEY-----\n\
         MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgtQJcO9vE8ECUvlYL\n\
         lpBaRfLRUz2eQAisqs2HI8A4q1yhRANCAARj5dmtPOxqwiEfA614TmNbr121eEx6\n\
         o3ioYsurXU7eE7rrjJAmzsxEEgKk2rNxe8aFuIQO57kcNg1XOY4cxwY1\n\
         -----END PRIVATE KEY-----",
    );

    #[test]
    fn version_1_certificate_is_named_as_such() {
        let (certificate, key) = VERSION_1;
        let certificates = pem::certificates_in(certificate.as_bytes()).unwrap();
        let key = pem::private_key_in(key.as_bytes()).unwrap();
        let error = Pair::new(certificates, key).unwrap_err().to_string();
        assert!(error.contains("X.509 version 1 (CN=localhost)"), "{error}");
        assert!(error.contains("subjectAltName=DNS:"), "{error}");
    }

    #[test]
    fn error_names_the_file_that_it_is_about() {
        let dir = runtime::testing::TempDir::new("pair-files");
        let at = |name: &str| dir.path().join(name);
        let Made { chain, key } = made();
        std::fs::write(at("a.crt"), pem::certificate_text(&chain[0])).unwrap();
        std::fs::write(at("a.key"), key.serialize_pem()).unwrap();
        let other = KeyPair::generate().unwrap().serialize_pem();
        std::fs::write(at("other.key"), other).unwrap();
        for (cert, key, about) in [
            ("none", "a.key", PairFile::Certificate),
            ("a.key", "a.key", PairFile::Certificate),
            ("a.crt", "none", PairFile::Key),
            ("a.crt", "a.crt", PairFile::Key),
            ("a.crt", "other.key", PairFile::Key),
        ] {
            let (found, error) = read_parts(&at(cert), &at(key)).unwrap_err();
            assert_eq!(found, about, "{cert} {key}: {error}");
        }
        let pair = read_parts(&at("a.crt"), &at("a.key")).unwrap();
        assert_eq!(pair.leaf().names(), ["localhost"]);
    }

    #[test]
    fn key_of_another_certificate_is_rejected() {
        let Made { chain, .. } = made();
        let other = KeyPair::generate().unwrap();
        let error = pair(&[&chain[0], &chain[1]], &other).unwrap_err();
        assert!(matches!(error, PairError::Mismatch(_)), "{error}");
    }
}
