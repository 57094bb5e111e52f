//! What `config check` says of certificates that can be read: they end soon, or clients may not trust them.

use super::{TlsSetupError, Trust, read_pair};
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
/// [`TlsSetupError`] as for a server that starts.
pub fn inspect_pair(cert_file: &Path, key_file: &Path) -> Result<Vec<String>, TlsSetupError> {
    let pair = read_pair(cert_file, key_file)?;
    let mut warnings = Vec::new();
    if pair.was_reordered {
        warnings.push(
            "the chain is in another order than servers send it; it is sent in the right one"
                .into(),
        );
    }
    warnings.extend(pair.certificates.iter().filter_map(validity));
    warnings.extend(missing_issuer(&pair.certificates));
    let at = |text| format!("{}: {text}", cert_file.display());
    Ok(warnings.into_iter().map(at).collect())
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
            "{last} was issued by \"{text}\", which is not in the file and no root of this machine: if that is an \
             intermediate, append its certificate, or clients will not trust this one"
        )
    })
}
