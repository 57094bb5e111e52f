//! TLS of the public listener.

use super::self_signed;
use crate::config::Tls;
use protocol::opening::CHANNEL_BINDING_BYTES;
use rustls::ServerConnection;
use rustls::crypto::ring::Ticketer;
use rustls::server::NoServerSessionStorage;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_rustls::TlsAcceptor;
use transport::tls::TlsSetupError;

/// HTTP/2 in ALPN.
pub const ALPN_HTTP2: &[u8] = b"h2";

/// HTTP/1.1 in ALPN.
const ALPN_HTTP1: &[u8] = b"http/1.1";

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The certificate's files cannot be used.
    #[error("the certificate cannot be used: {0}")]
    Setup(#[from] TlsSetupError),
    /// The keys for session tickets could not be made.
    #[error("no keys for session tickets: {0}")]
    Tickets(#[from] rustls::Error),
    /// A certificate could not be made.
    #[error("a self-signed certificate could not be made: {0}")]
    SelfSigned(#[from] self_signed::SelfSignedError),
}

/// A server's TLS, and the CA to trust where it is our own.
#[derive(Clone)]
pub struct Ready {
    /// Takes handshakes.
    pub acceptor: TlsAcceptor,
    /// The self-signed CA, PEM.
    pub ca_path: Option<PathBuf>,
}

/// When the first certificate of a PEM file ends, in seconds since 1970. `None` for what cannot be
/// read.
pub fn expires(cert_file: &Path) -> Option<i64> {
    let certificates = transport::tls::certificates(cert_file).ok()?;
    not_after(certificates.first()?)
}

/// `notAfter` of a certificate (RFC 5280, 4.1): the second time of the fifth field of what is signed,
/// or the fourth where no version is said.
fn not_after(certificate: &[u8]) -> Option<i64> {
    let (_, certificate, _) = element(certificate)?;
    let (_, signed, _) = element(certificate)?;
    let (tag, _, after) = element(signed)?;
    // Version, serial number, signature, issuer.
    let mut rest = if tag == 0xa0 { after } else { signed };
    for _ in 0..3 {
        rest = element(rest)?.2;
    }
    let (_, validity, _) = element(rest)?;
    let (tag, time, _) = element(element(validity)?.2)?;
    let text = std::str::from_utf8(time).ok()?.strip_suffix('Z')?;
    let number = |from: usize, digits: usize| text.get(from..from + digits)?.parse::<i64>().ok();
    let (year, rest) = match (tag, text.len()) {
        // UTCTime has two digits, of 1950 to 2049.
        (0x17, 12) => {
            let short = number(0, 2)?;
            (
                if short < 50 {
                    2000 + short
                } else {
                    1900 + short
                },
                2,
            )
        }
        (0x18, 14) => (number(0, 4)?, 4),
        _ => return None,
    };
    let (month, day) = (number(rest, 2)?, number(rest + 2, 2)?);
    let (hour, minute, second) = (
        number(rest + 4, 2)?,
        number(rest + 6, 2)?,
        number(rest + 8, 2)?,
    );
    Some(days(year, month, day)? * 86_400 + hour * 3600 + minute * 60 + second)
}

/// Tag, content and what follows of the first element of DER.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = bytes.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = if *first < 0x80 {
        (usize::from(*first), rest)
    } else {
        let count = usize::from(*first & 0x7f);
        if !(1..=4).contains(&count) || rest.len() < count {
            return None;
        }
        let (length, rest) = rest.split_at(count);
        let length = length
            .iter()
            .fold(0, |sum, byte| sum << 8 | usize::from(*byte));
        (length, rest)
    };
    (rest.len() >= length).then(|| (*tag, &rest[..length], &rest[length..]))
}

/// Days since 1970 of a date of the Gregorian calendar.
fn days(year: i64, month: i64, day: i64) -> Option<i64> {
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    // Years begin in March, so that the leap day is their last.
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let before = year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    Some(before + (month * 153 + 2) / 5 + day - 1 - 719_468)
}

/// Reads or makes the certificate.
///
/// # Errors
/// [`TlsError`], naming the file.
pub fn prepare(tls: &Tls) -> Result<Ready, TlsError> {
    let (cert_file, key_file, ca_path) = match tls {
        Tls::Files {
            cert_file,
            key_file,
        } => (cert_file.clone(), key_file.clone(), None),
        Tls::SelfSigned { dir, names } => {
            let made = self_signed::ensure(dir, names)?;
            (made.cert_file, made.key_file, Some(made.ca_file))
        }
    };
    let alpn = &[ALPN_HTTP2, ALPN_HTTP1];
    let mut config = transport::tls::server_config(&cert_file, &key_file, alpn)?;
    // Without it, a TLS 1.2 exporter binds nothing (RFC 9266, section 1).
    config.require_ems = true;
    // A bridge that comes back resumes its session. What that takes is in its ticket, sealed, so
    // that ten thousand of them cost no memory here. Early data, which could be replayed, is off.
    config.ticketer = Ticketer::new()?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(Ready {
        acceptor: TlsAcceptor::from(Arc::new(config)),
        ca_path,
    })
}

/// The channel binding of a connection after its handshake.
pub fn exporter(session: &ServerConnection) -> Option<[u8; CHANNEL_BINDING_BYTES]> {
    transport::tls::channel_binding(session)
}

#[cfg(test)]
mod tests {
    use super::*;
    use support::{TempDir, ThrowawayCa};

    #[test]
    fn the_end_of_a_certificate_is_read_from_it() {
        let dir = TempDir::new("expires");
        let files = ThrowawayCa::new()
            .issue(&["localhost"])
            .write_to(&dir.join(""), "leaf");
        let end = expires(&files.cert_file).unwrap();
        assert!(end > crate::storage::now(), "{end}");
        assert_eq!(days(1970, 1, 1), Some(0));
        assert_eq!(days(2000, 3, 1), Some(11_017));
        assert_eq!(days(2026, 11, 26), Some(20_783));
        for cut in 0..40 {
            let certificate = transport::tls::certificates(&files.cert_file).unwrap();
            assert_eq!(not_after(&certificate[0][..cut]), None);
        }
    }
}
