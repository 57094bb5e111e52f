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
    let wrong = |path: &Path, detail: String| TlsSetupError::File {
        path: path.to_owned(),
        detail,
    };
    let chain = pem::certificates(cert_file)?;
    let key = pem::private_key(key_file)?;
    let pair = Pair::new(chain, key).map_err(|error| match error {
        PairError::Certificate(detail) => wrong(cert_file, detail),
        PairError::Key(detail) => wrong(key_file, detail),
        PairError::Mismatch(subject) => {
            let detail = format!(
                "does not belong to the certificate in {} ({subject}): name the key with which that \
                 certificate was requested",
                cert_file.display()
            );
            wrong(key_file, detail)
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
        let has_key = |one: &Certificate| {
            let certificate = ParsedCertificate::try_from(&one.der).ok();
            match (&spki, certificate) {
                (Some(spki), Some(certificate)) => certificate.subject_public_key_info() == *spki,
                _ => false,
            }
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

    #[test]
    fn key_of_another_certificate_is_rejected() {
        let Made { chain, .. } = made();
        let other = KeyPair::generate().unwrap();
        let error = pair(&[&chain[0], &chain[1]], &other).unwrap_err();
        assert!(matches!(error, PairError::Mismatch(_)), "{error}");
    }
}
