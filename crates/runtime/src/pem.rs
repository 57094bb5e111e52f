//! The one reader of certificates and keys that an administrator supplies.
//!
//! ```text
//! file -> bounded read -> text: blocks (`blocks`) -> \
//!                         DER: form (`der`)       ----+-> items -> certificates, a private key, a public key
//! ```
//!
//! It takes what programs and people make of PEM: a byte order mark, UTF-16, any line ends, blanks, comments,
//! all of it on one line, DER, PKCS#7. What cannot be taken is named, with the command that converts it. A
//! certificate file may hold other things next to its certificates; a damaged certificate is reported with its
//! number and line. Keys appear in no message.

mod blocks;
mod certificate;
mod der;
mod file;

pub use certificate::{Certificate, Validity, subject_of};
pub(crate) use file::user;
pub use file::{FileError, read_file};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use der::Form;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::path::Path;

/// The largest file that is read, in bytes: ten times the usual bundles of public roots.
pub const FILE_MAX_BYTES: u64 = 4 * 1024 * 1024;

/// The most certificates that are taken from one file.
pub const CERTIFICATES_MAX: usize = 4096;

/// Something in a file, and where.
struct Item {
    /// The line on which it begins; `None` in a file without lines.
    line: Option<usize>,
    form: Form,
}

/// The certificates of a file.
#[derive(Debug, Default)]
pub struct Certificates {
    /// The usable ones, in the file's order; at least one.
    pub all: Vec<Certificate>,
    /// Those that are damaged, each with its number, its line and the reason.
    pub damaged: Vec<String>,
}

impl Certificates {
    /// Returns them for TLS.
    pub fn ders(&self) -> Vec<CertificateDer<'static>> {
        self.all.iter().map(|one| one.der.clone()).collect()
    }

    /// Returns them if none is damaged: a chain with a gap is no chain.
    ///
    /// # Errors
    /// The first that is damaged.
    pub fn whole(self) -> Result<Self, String> {
        match self.damaged.first() {
            None => Ok(self),
            Some(damage) => Err(damage.clone()),
        }
    }
}

/// Reads the certificates of a file.
///
/// # Errors
/// [`FileError`], also when the file holds no usable certificate: it then says what it holds.
pub fn certificates(path: &Path) -> Result<Certificates, FileError> {
    let bytes = read_file(path)?;
    certificates_in(&bytes).map_err(|detail| FileError::wrong(path, detail))
}

/// Reads the certificates from the bytes of a file.
///
/// # Errors
/// What the bytes are instead, and how to convert them.
pub fn certificates_in(bytes: &[u8]) -> Result<Certificates, String> {
    let items = items(bytes)?;
    let is_certificate = |item: &&Item| matches!(item.form, Form::Certificate(_) | Form::Broken(_));
    let count = items.iter().filter(is_certificate).count();
    let mut found = Certificates::default();
    let mut others = Vec::new();
    let mut number = 0;
    for item in items {
        match item.form {
            Form::Certificate(der) => {
                number += 1;
                if found.all.len() >= CERTIFICATES_MAX {
                    return Err(format!(
                        "holds more than {CERTIFICATES_MAX} certificates, the limit: remove those that \
                         are not needed"
                    ));
                }
                let der = CertificateDer::from(der);
                found.all.push(Certificate::new(number, item.line, der));
            }
            Form::Broken(why) => {
                number += 1;
                let line = item.line.map(|line| format!(" (line {line})"));
                let line = line.unwrap_or_default();
                let damage = format!("certificate {number} of {count}{line} {why}");
                found.damaged.push(damage);
            }
            other => others.push(other),
        }
    }
    if !found.all.is_empty() {
        return Ok(found);
    }
    if let Some(damage) = found.damaged.into_iter().next() {
        return Err(damage);
    }
    // The most telling one: what was probably meant.
    let told = others.iter().find_map(|form| match form {
        Form::Key(_) | Form::Named(_, "key") => Some(
            "holds a private key and no certificate: name the certificate's file here".to_owned(),
        ),
        Form::PublicKey(_) => Some(
            "holds a public key and no certificate: name the certificate's file here".to_owned(),
        ),
        Form::Named(what, _) => Some((*what).to_owned()),
        Form::Certificate(_) | Form::Broken(_) | Form::Ignored | Form::BrokenOther(_) => None,
    });
    Err(told.unwrap_or_else(|| "holds no certificate".to_owned()))
}

/// Reads the private key of a file. Certificates next to it are skipped.
///
/// # Errors
/// [`FileError`], also when the file holds no usable key: it then says what it holds.
pub fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, FileError> {
    let bytes = read_file(path)?;
    private_key_in(&bytes).map_err(|detail| FileError::wrong(path, detail))
}

/// Reads the private key from the bytes of a file.
///
/// # Errors
/// What the bytes are instead. No part of them is in the message.
pub fn private_key_in(bytes: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    let items = items(bytes)?;
    let mut keys = Vec::new();
    let mut told = None;
    for item in items {
        let this = match item.form {
            Form::Key(der) => {
                keys.push(der);
                continue;
            }
            Form::Named(what, _) => der::instead_of_key(what).to_owned(),
            Form::BrokenOther(why) => format!("holds a private key that {why}"),
            Form::Certificate(_) | Form::Broken(_) => {
                told.get_or_insert_with(|| {
                    "holds a certificate and no private key: name the key's file here".to_owned()
                });
                continue;
            }
            Form::PublicKey(_) => {
                "holds a public key and no private key: name the private key's file here".to_owned()
            }
            Form::Ignored => continue,
        };
        // More telling than a certificate next to it.
        told = Some(this);
    }
    let count = keys.len();
    let Some(der) = keys.into_iter().next() else {
        return Err(told.unwrap_or_else(|| "holds no private key".to_owned()));
    };
    if count > 1 {
        return Err(format!(
            "holds {count} private keys: leave the one that belongs to the certificate"
        ));
    }
    if let Some(complaint) = der::key_complaint(&der) {
        return Err(complaint);
    }
    PrivateKeyDer::try_from(der).map_err(|_| "holds a private key of an unknown form".to_owned())
}

/// Reads a public key (`PUBLIC KEY`, or DER) from the bytes of a file: its SubjectPublicKeyInfo (RFC 5280).
///
/// # Errors
/// What the bytes are instead.
pub fn public_key_in(bytes: &[u8]) -> Result<Vec<u8>, String> {
    let mut told = None;
    for item in items(bytes)? {
        match item.form {
            Form::PublicKey(der) => return Ok(der),
            Form::Key(_) | Form::Named(_, "key") => {
                told = Some(
                    "holds a private key: name the public key, as `openssl pkey -in FILE -pubout` \
                     writes it, and keep the private one away from this machine"
                        .to_owned(),
                );
            }
            Form::Certificate(_) | Form::Broken(_) => {
                told = Some(
                    "holds a certificate: name the public key, as `openssl x509 -in FILE -noout \
                     -pubkey` writes it"
                        .to_owned(),
                );
            }
            Form::Named(what, _) => told = Some(der::instead_of_public_key(what).to_owned()),
            Form::BrokenOther(why) => told = Some(format!("holds a public key that {why}")),
            Form::Ignored => {}
        }
    }
    Err(told.unwrap_or_else(|| "holds no public key".to_owned()))
}

/// Writes a certificate as PEM.
pub fn certificate_text(der: &CertificateDer<'_>) -> String {
    text("CERTIFICATE", der)
}

/// Writes a private key as PEM. The text is a secret.
pub fn key_text(key: &PrivateKeyDer<'_>) -> String {
    let label = match key {
        PrivateKeyDer::Pkcs1(_) => "RSA PRIVATE KEY",
        PrivateKeyDer::Sec1(_) => "EC PRIVATE KEY",
        // PKCS #8, the only other form that this reader returns.
        _ => "PRIVATE KEY",
    };
    text(label, key.secret_der())
}

fn text(label: &str, der: &[u8]) -> String {
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in STANDARD.encode(der).as_bytes().chunks(64) {
        text.push_str(&String::from_utf8_lossy(line));
        text.push('\n');
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}

/// Returns everything in a file.
fn items(bytes: &[u8]) -> Result<Vec<Item>, String> {
    let Some(text) = blocks::text_of(bytes) else {
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Err("is empty".to_owned());
        }
        let forms = der::forms(bytes)?;
        let items = forms.into_iter().map(|form| Item { line: None, form });
        return Ok(items.collect());
    };
    blocks::items(&text)
}

#[cfg(test)]
mod tests;
