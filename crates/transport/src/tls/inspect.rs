//! What `config check` says of certificates that can be read: they end soon, or clients may not trust them.

use super::pair::{PairFile, read_parts};
use super::{Pair, TlsSetupError, Trust};
use runtime::pem::{Certificate, Validity};
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
    warnings.extend(pair.certificates.iter().filter_map(validity));
    warnings.extend(missing_issuer(&pair.certificates));
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
    use rcgen::{CertificateParams, DnType, KeyPair};
    use runtime::pem;

    #[test]
    fn certificate_without_names_is_warned_of() {
        let dir = runtime::testing::TempDir::new("inspect-names");
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
