//! A certificate for a trial: a self-signed CA, created once, and a leaf, created at every start.
//!
//! ```text
//! relay-ca.pem       give this to bridges and callers
//! relay-ca-key.pem   0600
//! relay-cert.pem     leaf, 397 days
//! relay-key.pem      0600
//! ```
//!
//! A new leaf at every start never expires in practice and has the current names. Clients trust the CA, so they do not
//! notice.

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, date_time_ymd,
};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Lifetime of the leaf, in days: the maximum that browsers accept.
const LEAF_DAYS: u64 = 397;

/// Lifetime of the CA, in days.
const CA_DAYS: u64 = 3650;

/// Why no certificate was created.
#[derive(Debug, thiserror::Error)]
pub enum SelfSignedError {
    /// A file cannot be read or written.
    #[error("{path}: {error}", path = .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        error: io::Error,
    },
    /// A certificate could not be created, for example for an invalid name.
    #[error("{0}")]
    Certificate(#[from] rcgen::Error),
}

/// The files.
#[derive(Debug, Clone)]
pub(crate) struct SelfSigned {
    /// The CA.
    pub ca_file: PathBuf,
    /// The leaf.
    pub cert_file: PathBuf,
    /// The leaf's key.
    pub key_file: PathBuf,
}

/// Creates the files in `dir`, for `names` in addition to those of this machine. An existing CA is kept.
///
/// # Errors
/// [`SelfSignedError`].
pub(crate) fn ensure(dir: &Path, names: &[String]) -> Result<SelfSigned, SelfSignedError> {
    let files = SelfSigned {
        ca_file: dir.join("relay-ca.pem"),
        cert_file: dir.join("relay-cert.pem"),
        key_file: dir.join("relay-key.pem"),
    };
    let ca_key_file = dir.join("relay-ca-key.pem");
    fs::create_dir_all(dir).map_err(|error| file(dir, error))?;
    let ca_key = if files.ca_file.exists() && ca_key_file.exists() {
        let pem = fs::read_to_string(&ca_key_file).map_err(|error| file(&ca_key_file, error))?;
        KeyPair::from_pem(&pem)?
    } else {
        let key = KeyPair::generate()?;
        let ca = ca_params().self_signed(&key)?;
        write(&ca_key_file, &key.serialize_pem(), 0o600)?;
        write(&files.ca_file, &ca.pem(), 0o644)?;
        key
    };
    // A leaf refers to its issuer by name and key, so the CA's certificate need not be parsed.
    let issuer = Issuer::new(ca_params(), ca_key);
    let leaf_key = KeyPair::generate()?;
    let leaf = leaf_params(names)?.signed_by(&leaf_key, &issuer)?;
    write(&files.key_file, &leaf_key.serialize_pem(), 0o600)?;
    write(&files.cert_file, &leaf.pem(), 0o644)?;
    Ok(files)
}

fn file(path: &Path, error: io::Error) -> SelfSignedError {
    SelfSignedError::File {
        path: path.to_owned(),
        error,
    }
}

fn ca_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = name("Integration Relay CA (self-signed)");
    // The CA may sign leaves only, no other CA.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    valid_for(&mut params, CA_DAYS);
    params
}

fn leaf_params(names: &[String]) -> Result<CertificateParams, SelfSignedError> {
    let mut all: Vec<String> = ["localhost", "127.0.0.1", "::1"]
        .map(str::to_owned)
        .to_vec();
    all.extend(host_name());
    all.extend(names.iter().cloned());
    all.sort();
    all.dedup();
    let mut params = CertificateParams::new(all)?;
    params.distinguished_name = name("Integration Relay");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    valid_for(&mut params, LEAF_DAYS);
    Ok(params)
}

fn name(common: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common);
    name
}

/// Returns the machine's host name, if it is valid in a certificate.
fn host_name() -> Option<String> {
    let name = fs::read_to_string("/proc/sys/kernel/hostname")
        .ok()
        .or_else(|| std::env::var("COMPUTERNAME").ok())?;
    let name = name.trim().to_ascii_lowercase();
    let plain = name
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.'));
    (plain && !name.is_empty()).then_some(name)
}

/// Sets the validity. It begins yesterday, for clients whose clock is slow.
fn valid_for(params: &mut CertificateParams, days: u64) {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let today = since.map_or(0, |since| since.as_secs() / 86_400);
    let date = |day: u64| {
        let (year, month, day) = civil(i64::try_from(day).unwrap_or(0));
        date_time_ymd(year, month, day)
    };
    params.not_before = date(today.saturating_sub(1));
    params.not_after = date(today + days);
}

/// Returns the date of a day since 1970 (Howard Hinnant's `civil_from_days`).
pub(crate) fn civil(day: i64) -> (i32, u8, u8) {
    let day = day + 719_468;
    let era = day.div_euclid(146_097);
    let of_era = day.rem_euclid(146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * of_year + 2) / 153;
    let date = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = year + era * 400 + i64::from(month <= 2);
    (
        i32::try_from(year).unwrap_or(9999),
        u8::try_from(month).unwrap_or(1),
        u8::try_from(date).unwrap_or(1),
    )
}

/// Replaces the file atomically, without following a link of its name.
fn write(path: &Path, text: &str, mode: u32) -> Result<(), SelfSignedError> {
    let replaced = runtime::files::replace(path, text.as_bytes(), mode);
    replaced.map_err(|error| file(path, error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn civil_dates_follow_the_calendar() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(19_782), (2024, 2, 29));
        assert_eq!(civil(20_088), (2024, 12, 31));
        assert_eq!(civil(20_089), (2025, 1, 1));
    }

    #[test]
    fn ca_is_kept_and_leaf_is_renewed() {
        let dir = TempDir::new("self-signed");
        let first = ensure(dir.path(), &[]).unwrap();
        let read = |path: &Path| fs::read_to_string(path).unwrap();
        let (ca, leaf) = (read(&first.ca_file), read(&first.cert_file));
        let second = ensure(dir.path(), &["relay.test".into()]).unwrap();
        assert_eq!(read(&second.ca_file), ca);
        assert_ne!(read(&second.cert_file), leaf);
        #[cfg(unix)]
        for name in ["relay-key.pem", "relay-ca-key.pem"] {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = fs::metadata(dir.path().join(name)).unwrap().permissions();
            assert_eq!(mode.mode() & 0o777, 0o600, "{name}");
        }
        assert!(ensure(dir.path(), &["n\u{e4}me".into()]).is_err());
    }
}
