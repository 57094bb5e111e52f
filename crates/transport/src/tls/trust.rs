//! Which servers a client trusts: the system's roots, and what the CA files hold.
//!
//! ```text
//! certificate of a CA file   it may issue others    -> a root, and trusted itself as a server's certificate
//!                            it says that it may not -> trusted itself, and never as an issuer
//! ```
//!
//! Many in-house servers have a certificate that they made themselves and marked as a CA. Their administrators
//! give that certificate as `ca_file`. So a server that presents exactly a certificate of a CA file is
//! trusted, for the names and the time in it. A certificate that may issue nothing is no root: with its key one
//! could otherwise issue certificates for any name.

use super::{TlsSetupError, provider};
use runtime::pem::{self, Certificate, Validity};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a client trusts.
#[derive(Debug)]
pub struct Trust {
    roots: RootCertStore,
    /// The certificates of the CA files, each trusted as that of a server.
    pub(super) given: Vec<Certificate>,
    /// Certificates of the CA files that are not used, or not as they may be meant, with the file.
    pub warnings: Vec<String>,
}

impl Trust {
    /// Reads the system's roots, and the CA files in addition. A damaged certificate among good ones is skipped,
    /// with a warning in the log: the good ones stay usable.
    ///
    /// # Errors
    /// [`TlsSetupError`] when a file has no usable certificate, or there is no root at all.
    pub fn read(ca_files: &[PathBuf]) -> Result<Self, TlsSetupError> {
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
        let mut trust = Self {
            roots: RootCertStore::empty(),
            given: Vec::new(),
            warnings: Vec::new(),
        };
        trust.roots.add_parsable_certificates(system.certs);
        for path in ca_files {
            trust.add(path)?;
        }
        // A client without roots would reject every server with an error that names no cause.
        if trust.roots.is_empty() && trust.given.is_empty() {
            let detail = system.errors.first().map(ToString::to_string);
            return Err(TlsSetupError::NoRoots {
                detail: detail.unwrap_or_else(|| "none found".into()),
            });
        }
        for warning in &trust.warnings {
            tracing::warn!("{warning}");
        }
        Ok(trust)
    }

    /// Reads one CA file without the system's roots.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub(super) fn of_file(path: &Path) -> Result<Self, TlsSetupError> {
        let mut trust = Self {
            roots: RootCertStore::empty(),
            given: Vec::new(),
            warnings: Vec::new(),
        };
        trust.add(path)?;
        Ok(trust)
    }

    /// Adds the certificates of a file.
    fn add(&mut self, path: &Path) -> Result<(), TlsSetupError> {
        let found = pem::certificates(path)?;
        let mut unusable = found.damaged;
        for certificate in found.all {
            if let Some(complaint) = certificate.key_complaint() {
                unusable.push(format!("{certificate} {complaint}"));
                continue;
            }
            if !certificate.is_end_entity()
                && let Err(error) = self.roots.add(certificate.der.clone())
            {
                unusable.push(format!("{certificate} cannot be a root: {error}"));
                continue;
            }
            self.given.push(certificate);
        }
        if self.given.is_empty()
            && let Some(first) = unusable.first()
        {
            return Err(TlsSetupError::File {
                path: path.to_owned(),
                detail: first.clone(),
            });
        }
        let skipped = |why| format!("{}: {why}; it is not used", path.display());
        self.warnings.extend(unusable.into_iter().map(skipped));
        Ok(())
    }

    /// Returns whether a root has this name (a subject as DER).
    pub fn has_root(&self, subject: &[u8]) -> bool {
        // An anchor's subject is without the outer SEQUENCE.
        let is_it = |root: &rustls::pki_types::TrustAnchor<'_>| {
            !root.subject.is_empty() && subject.ends_with(&root.subject)
        };
        self.roots.roots.iter().any(is_it)
    }

    /// Returns what decides on the certificates of servers.
    pub fn verifier(self) -> TrustVerifier {
        TrustVerifier {
            roots: self.roots,
            given: self.given,
            provider: provider(),
        }
    }
}

/// Decides on the certificates of servers.
#[derive(Debug)]
pub struct TrustVerifier {
    roots: RootCertStore,
    given: Vec<Certificate>,
    provider: Arc<CryptoProvider>,
}

impl TrustVerifier {
    /// Checks a server's certificate that no root vouches for: it must be one of the given certificates.
    fn verify_given(
        &self,
        leaf: &CertificateDer<'_>,
        now: UnixTime,
        error: Error,
    ) -> Result<(), Error> {
        // Byte for byte: with another key, names or time it is another certificate.
        let is_same = |given: &&Certificate| given.der.as_ref() == leaf.as_ref();
        let Some(given) = self.given.iter().find(is_same) else {
            return Err(error);
        };
        let now_s = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        match given.may_be_a_servers(now_s) {
            Ok(true) => Ok(()),
            Ok(false) => Err(CertificateError::InvalidPurpose.into()),
            Err(Validity::Future(_)) => Err(CertificateError::NotValidYet.into()),
            Err(Validity::Expired(_) | Validity::Current { .. }) => {
                Err(CertificateError::Expired.into())
            }
        }
    }
}

impl ServerCertVerifier for TrustVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let certificate = ParsedCertificate::try_from(leaf)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(
            &certificate,
            &self.roots,
            others,
            now,
            algorithms,
        )
        .or_else(|error| self.verify_given(leaf, now, error))?;
        verify_server_name(&certificate, name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = &self.provider.signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{
        BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
        date_time_ymd,
    };
    use std::time::Duration;

    /// Now, for the tests: 2026.
    const NOW: UnixTime = UnixTime::since_unix_epoch(Duration::from_secs(1_780_000_000));

    fn params(adjust: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
        let mut params = CertificateParams::new(vec!["tool.corp".into()]).unwrap();
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2040, 1, 1);
        adjust(&mut params);
        params
    }

    fn ca(params: &mut CertificateParams) {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    }

    fn no_ca(params: &mut CertificateParams) {
        params.is_ca = IsCa::ExplicitNoCa;
    }

    fn own(
        adjust: impl FnOnce(&mut CertificateParams),
    ) -> (CertificateParams, KeyPair, CertificateDer<'static>) {
        let (params, key) = (params(adjust), KeyPair::generate().unwrap());
        let der = params.self_signed(&key).unwrap().der().clone();
        (params, key, der)
    }

    /// Returns what a client that has `given` as its CA file says to a server that presents `shown`.
    fn verify(
        given: &CertificateDer<'static>,
        shown: &CertificateDer<'static>,
        name: &'static str,
    ) -> Result<(), Error> {
        let dir = runtime::testing::TempDir::new("trust");
        let file = dir.path().join("ca.pem");
        std::fs::write(&file, pem::certificate_text(given)).unwrap();
        let verifier = Trust::read(&[file]).unwrap().verifier();
        let name = ServerName::try_from(name).unwrap();
        let verified = verifier.verify_server_cert(shown, &[], &name, &[], NOW);
        verified.map(drop)
    }

    #[test]
    fn given_certificate_is_trusted_as_a_servers_own() {
        for adjust in [ca, no_ca, |_: &mut CertificateParams| {}] {
            let (_, _, der) = own(adjust);
            verify(&der, &der, "tool.corp").unwrap();
            let name = verify(&der, &der, "other.corp").unwrap_err();
            assert!(name.to_string().contains("not valid for name"), "{name}");
        }
        // Another one with the same names, but not the given one.
        let other = verify(&own(ca).2, &own(ca).2, "tool.corp");
        assert!(other.is_err());
    }

    #[test]
    fn given_certificate_is_trusted_within_its_time_only() {
        for (from, to) in [(2020, 2021), (2039, 2040)] {
            let (_, _, der) = own(|params| {
                ca(params);
                params.not_before = date_time_ymd(from, 1, 1);
                params.not_after = date_time_ymd(to, 1, 1);
            });
            assert!(verify(&der, &der, "tool.corp").is_err(), "{from}");
        }
        let (_, _, client) = own(|params| {
            ca(params);
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        });
        assert!(verify(&client, &client, "tool.corp").is_err());
    }

    #[test]
    fn given_end_entity_is_no_issuer() {
        for (adjust, may_issue) in [(ca as fn(&mut CertificateParams), true), (no_ca, false)] {
            let (params_of_issuer, key, der) = own(adjust);
            let leaf_key = KeyPair::generate().unwrap();
            let issuer = Issuer::new(params_of_issuer, key);
            let leaf = params(no_ca).signed_by(&leaf_key, &issuer).unwrap();
            let issued = verify(&der, leaf.der(), "tool.corp");
            assert_eq!(issued.is_ok(), may_issue, "{issued:?}");
        }
    }
}
