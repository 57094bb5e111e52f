//! What `config check` says of certificates that can be read: they end soon, or clients do not accept them.

use super::pair::{PairFile, read_parts};
use super::{Pair, TlsSetupError, Trust};
use crate::failure::old_signature;
use runtime::pem::{Certificate, Validity};
use rustls::client::verify_server_name;
use rustls::pki_types::ServerName;
use rustls::server::ParsedCertificate;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// Reads a CA file as a connection would, and returns the warnings.
///
/// # Errors
/// [`TlsSetupError`] as for a connection.
pub fn inspect_ca_file(path: &Path) -> Result<Vec<String>, TlsSetupError> {
    let trust = Trust::of_file(path)?;
    let mut warnings = trust.warnings.clone();
    let times = trust.given.iter().filter_map(validity);
    warnings.extend(times.map(|text| format!("{}: {text}", path.display())));
    Ok(warnings)
}

/// Reads a server's certificate and its key, and returns the warnings.
///
/// # Errors
/// [`TlsSetupError`] as for a server that starts, and which file it is about.
pub fn inspect_pair(
    cert_file: &Path,
    key_file: &Path,
) -> Result<Vec<String>, (PairFile, TlsSetupError)> {
    let pair = read_parts(cert_file, key_file)?;
    let mut warnings = Vec::new();
    if pair.was_reordered {
        warnings.push(
            "the chain is in another order than servers send it; it is sent in the right one"
                .into(),
        );
    }
    warnings.extend(nameless(&pair));
    warnings.extend(rejected(&pair));
    warnings.extend(pair.certificates.iter().filter_map(validity));
    warnings.extend(unneeded(&pair.certificates));
    warnings.extend(missing_issuer(linked(&pair.certificates)));
    let at = |text| format!("{}: {text}", cert_file.display());
    Ok(warnings.into_iter().map(at).collect())
}

/// Returns a warning for a server's certificate that has no name: clients compare nothing else.
pub fn nameless(pair: &Pair) -> Option<String> {
    let leaf = pair.leaf();
    leaf.names().is_empty().then(|| {
        format!(
            "{leaf} has no subjectAltName with a name or an address: bridges and callers will not accept it; issue it \
             again with subjectAltName=DNS:NAME, the name by which they connect"
        )
    })
}

/// Returns a warning where a server's certificate is not for one of the hosts by which clients connect. `None` also
/// where the files cannot be read, which [`inspect_pair`] reports.
pub fn inspect_hosts(cert_file: &Path, key_file: &Path, hosts: &[&str]) -> Option<String> {
    let pair = read_parts(cert_file, key_file).ok()?;
    let names = pair.leaf().names();
    let certificate = ParsedCertificate::try_from(&pair.leaf().der).ok()?;
    let is_covered = |host: &str| {
        // An IPv6 address has brackets in a URL alone.
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(host);
        name.is_ok_and(|name| verify_server_name(&certificate, &name).is_ok())
    };
    let others: Vec<&str> = hosts
        .iter()
        .copied()
        .filter(|&host| !is_covered(host))
        .collect();
    // One without any name has its own warning.
    if others.is_empty() || names.is_empty() {
        return None;
    }
    Some(format!(
        "the certificate in {} is not for {}: bridges that connect by such a name reject it. It is for {}: correct \
         the names, or issue it again",
        cert_file.display(),
        others.join(", "),
        names.join(", ")
    ))
}

/// Returns the warnings about a server's certificate and its issuers that every bridge rejects, although the server can
/// present them.
pub fn rejected(pair: &Pair) -> Vec<String> {
    rejected_in(linked(&pair.certificates))
}

/// The verifier's rules (`webpki`), for a leaf and its issuers. A root is trusted without any check, and a certificate
/// that a client has as its CA file needs no signature and may be a CA.
fn rejected_in(chain: &[Certificate]) -> Vec<String> {
    let mut warnings = Vec::new();
    for (index, one) in chain.iter().enumerate() {
        let is_leaf = index == 0;
        let has_issuer = one.issuer().is_some();
        if (is_leaf || has_issuer) && one.excludes_servers() {
            warnings.push(format!(
                "{one} is not for servers: bridges reject it; issue it again with extendedKeyUsage=serverAuth"
            ));
        }
        if !has_issuer {
            continue;
        }
        if let Some(hash) = old_signature(&one.der) {
            warnings.push(format!(
                "{one} is signed with {hash}: bridges reject it; issue it again with SHA-256"
            ));
        }
        if is_leaf && one.is_ca() {
            warnings.push(format!(
                "{one} is the certificate of a CA: bridges reject it as that of a server; issue one with \
                 basicConstraints=CA:FALSE, or name this one as relay.ca_file of each bridge"
            ));
        }
        if !is_leaf && !one.is_ca() {
            warnings.push(format!(
                "{one} is not the certificate of a CA: bridges reject what it issued; issue it again with \
                 basicConstraints=CA:TRUE"
            ));
        }
    }
    warnings
}

/// Returns the first certificate with its issuers, each after what it issued.
fn linked(chain: &[Certificate]) -> &[Certificate] {
    let links = chain.windows(2);
    let links = links.take_while(|two| matches!(two, [one, next] if one.is_issued_by(next)));
    let count = links.count() + 1;
    chain.get(..count).unwrap_or(chain)
}

/// Returns warnings of certificates that are in no chain of the file, such as that of another server.
fn unneeded(chain: &[Certificate]) -> Vec<String> {
    let Some(leaf) = chain.first() else {
        return Vec::new();
    };
    let own = linked(chain).len();
    // A second certificate of an issuer, for clients with another root, is a part of the chain as well.
    let is_issuer = |one: &Certificate| {
        let mut others = chain.iter().filter(|other| other.number != one.number);
        others.any(|other| other.is_issued_by(one))
    };
    let rest = chain.iter().skip(own).filter(|one| !is_issuer(one));
    rest.map(|one| format!("{one} is not part of the chain of {leaf}: remove it from the file"))
        .collect()
}

/// Returns the warnings of a client certificate's chain.
pub fn inspect_chain(chain: &[Certificate]) -> Vec<String> {
    chain.iter().filter_map(validity).collect()
}

fn validity(certificate: &Certificate) -> Option<String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_or(0, |now| i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
    match certificate.validity(now)? {
        Validity::Current { days, ends_soon } => {
            ends_soon.then(|| format!("{certificate} expires in {days} days: renew it"))
        }
        Validity::Expired(end) => Some(format!("{certificate} has expired ({end}): renew it")),
        Validity::Future(begin) => Some(format!("{certificate} is valid from {begin} on only")),
    }
}

/// Returns a warning where the chain ends before a root that this machine knows.
fn missing_issuer(chain: &[Certificate]) -> Option<String> {
    let last = chain.last()?;
    // A self-signed certificate has no issuer to be missed.
    let (name, text) = last.issuer()?;
    let is_known = Trust::read(&[]).is_ok_and(|trust| trust.has_root(&name));
    (!is_known).then(|| {
        format!(
            "{last} was issued by \"{text}\", which is not in the file and no root of this machine. If that is a CA \
             of your own, bridges (relay.ca_file) and callers need its certificate. If it is an intermediate, append \
             its certificate to the file"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::read_pair;
    use rcgen::{
        BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose,
        IsCa, KeyPair,
    };
    use runtime::pem;
    use runtime::testing::TempDir;

    fn ca(name: &str) -> CertifiedIssuer<'static, KeyPair> {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
    }

    /// Returns a leaf in PEM, and its key.
    fn leaf(
        ca: &CertifiedIssuer<'static, KeyPair>,
        adjust: impl FnOnce(&mut CertificateParams),
    ) -> (String, KeyPair) {
        let mut params = CertificateParams::new(vec!["relay.example".into()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, "leaf");
        adjust(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, ca).unwrap();
        (pem::certificate_text(certificate.der()), key)
    }

    fn warnings(dir: &TempDir, chain: &[&str], key: &KeyPair) -> Vec<String> {
        let (cert_file, key_file) = (dir.path().join("a.crt"), dir.path().join("a.key"));
        std::fs::write(&cert_file, chain.concat()).unwrap();
        std::fs::write(&key_file, key.serialize_pem()).unwrap();
        inspect_pair(&cert_file, &key_file).unwrap()
    }

    /// Issued by `openssl x509 -req -sha1 -days 36500` for CN=localhost, by a CA with CN=ca.
    const SHA_1: &str = "-----BEGIN CERTIFICATE-----\n\
         MIIBJzCBz6ADAgECAgEBMAkGByqGSM49BAEwDTELMAkGA1UEAwwCY2EwIBcNMjYx\n\
         MTMwMjA0MjUxWhgPMjEyNjExMDYyMDQyNTFaMBQxEjAQBgNVBAMMCWxvY2FsaG9z\n\
         dDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABLp/Bz1DAA8KYEuByKGHHyO5xvjG\n\
         qN8aEAu5RTz15oQDEDcDV+/I3LvlLU35hQtmwhVA5mOXcj37OJl2vntr8+KjGDAW\n\
         MBQGA1UdEQQNMAuCCWxvY2FsaG9zdDAJBgcqhkjOPQQBA0gAMEUCIQDRBGdDzk9Z\n\
         Bhw81e+MfvkFjPhKFQqCThh55YwUN1J9uQIgegHLEA94Fof/Tq0oqV4Q3qIIQROT\n\
         gnEDklBpHDOUgb4=\n\
         -----END CERTIFICATE-----\n";

    #[test]
    fn certificate_that_bridges_reject_is_warned_of() {
        let dir = TempDir::new("inspect-rejected");
        let ca = ca("ca");
        let root = pem::certificate_text(ca.der());
        let said = |adjust: fn(&mut CertificateParams)| {
            let (leaf, key) = leaf(&ca, adjust);
            let all = warnings(&dir, &[&leaf, &root], &key);
            let all = all.into_iter().filter(|one| one.contains("bridges reject"));
            all.collect::<Vec<String>>()
        };
        assert_eq!(said(|_| {}), Vec::<String>::new());
        let server = said(|params| {
            params.extended_key_usages = vec![
                ExtendedKeyUsagePurpose::ClientAuth,
                ExtendedKeyUsagePurpose::ServerAuth,
            ];
        });
        assert_eq!(server, Vec::<String>::new());
        for purpose in [
            ExtendedKeyUsagePurpose::ClientAuth,
            ExtendedKeyUsagePurpose::Any,
        ] {
            let (leaf, key) = leaf(&ca, |params| params.extended_key_usages = vec![purpose]);
            let all = warnings(&dir, &[&leaf, &root], &key);
            assert!(
                all.iter()
                    .any(|one| one.contains("extendedKeyUsage=serverAuth")),
                "{all:?}"
            );
        }
        let is_ca = said(|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
        assert_eq!(is_ca.len(), 1, "{is_ca:?}");
        assert!(is_ca[0].contains("CA:FALSE"), "{is_ca:?}");
        let old = pem::certificates_in(SHA_1.as_bytes()).unwrap();
        let old = rejected_in(&old.all);
        assert_eq!(old.len(), 1, "{old:?}");
        assert!(old[0].contains("signed with SHA-1"), "{old:?}");
    }

    #[test]
    fn certificate_outside_of_the_chain_is_named() {
        let dir = TempDir::new("inspect-unneeded");
        let ca = ca("ca");
        let root = pem::certificate_text(ca.der());
        let (own, key) = leaf(&ca, |_| {});
        let (other, _) = leaf(&ca, |params| {
            params.distinguished_name.push(DnType::CommonName, "other");
        });
        let all = warnings(&dir, &[&own, &root, &other], &key);
        let [one] = all.as_slice() else {
            panic!("{all:?}");
        };
        assert!(one.contains("certificate 3 ("), "{one}");
        assert!(
            one.contains("is not part of the chain of certificate 1 ("),
            "{one}"
        );
        // The issuer is missed where it is not in the file.
        let all = warnings(&dir, &[&own, &other], &key);
        assert!(
            all.iter().any(|one| one.contains("not in the file")),
            "{all:?}"
        );
    }

    #[test]
    fn host_without_a_certificate_is_named() {
        let dir = TempDir::new("inspect-hosts");
        let (own, key) = leaf(&ca("ca"), |params| {
            let names = [
                "relay.example",
                "*.relay.example",
                "192.0.2.1",
                "2001:db8::1",
            ];
            let names = names.map(str::to_owned);
            params.subject_alt_names = CertificateParams::new(names).unwrap().subject_alt_names;
        });
        warnings(&dir, &[&own], &key);
        let (cert_file, key_file) = (dir.path().join("a.crt"), dir.path().join("a.key"));
        let said = |hosts: &[&str]| inspect_hosts(&cert_file, &key_file, hosts);
        let covered = [
            "Relay.Example",
            "eu.relay.example",
            "192.0.2.1",
            "[2001:db8::1]",
        ];
        assert_eq!(said(&covered), None);
        let other = said(&["relay.example", "relay.other", "192.0.2.9"]).unwrap();
        assert!(
            other.contains("is not for relay.other, 192.0.2.9:"),
            "{other}"
        );
    }

    #[test]
    fn certificate_without_names_is_warned_of() {
        let dir = TempDir::new("inspect-names");
        let warnings = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
            let mut params = CertificateParams::new(names).unwrap();
            params
                .distinguished_name
                .push(DnType::CommonName, "relay.example");
            let key = KeyPair::generate().unwrap();
            let certificate = params.self_signed(&key).unwrap();
            let (cert_file, key_file) = (dir.path().join("a.crt"), dir.path().join("a.key"));
            std::fs::write(&cert_file, pem::certificate_text(certificate.der())).unwrap();
            std::fs::write(&key_file, key.serialize_pem()).unwrap();
            let pair = read_pair(&cert_file, &key_file).unwrap();
            (pair.leaf().names(), nameless(&pair))
        };
        let (names, warning) = warnings(&[]);
        assert!(names.is_empty());
        assert!(warning.unwrap().contains("no subjectAltName"));
        let (names, warning) = warnings(&["relay.example", "192.0.2.1", "2001:db8::1"]);
        assert_eq!(names, ["relay.example", "192.0.2.1", "2001:db8::1"]);
        assert_eq!(warning, None);
    }
}
