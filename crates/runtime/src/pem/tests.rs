//! The forms that files have. The guide's table of them is made from the one here.

use super::*;
use std::fs;

/// Reads a file of `samples`.
macro_rules! sample {
    ($name:literal) => {
        include_bytes!(concat!("samples/", $name)).as_slice()
    };
}

const CERT: &[u8] = sample!("cert.pem");
const KEY: &[u8] = sample!("key.pem");

/// What a file is read for, and what follows.
enum Expect {
    /// That many certificates are taken.
    Certificates(usize),
    /// The key is taken.
    Key,
    /// As a certificate's file it is rejected, with this in the message.
    NoCertificate(&'static str),
    /// As a key's file it is rejected, with this in the message.
    NoKey(&'static str),
}

use Expect::{Certificates as Certs, Key, NoCertificate, NoKey};

/// A row of the guide's table, and its cases.
struct Row {
    file: &'static str,
    outcome: &'static str,
    cases: Vec<(Vec<u8>, Expect)>,
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn replaced(bytes: &[u8], from: &str, to: &str) -> Vec<u8> {
    text(bytes).replace(from, to).into_bytes()
}

fn joined(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

fn cert_der() -> Vec<u8> {
    certificates_in(CERT).unwrap().all[0].der.to_vec()
}

fn utf16(bytes: &[u8], unit: fn(u16) -> [u8; 2], mark: &[u8]) -> Vec<u8> {
    let units = text(bytes)
        .encode_utf16()
        .flat_map(unit)
        .collect::<Vec<u8>>();
    joined(&[mark, &units])
}

fn rows() -> Vec<Row> {
    let row = |file, outcome, cases| Row {
        file,
        outcome,
        cases,
    };
    let broken =
        b"-----BEGIN CERTIFICATE-----\nMIIBszCCAVmgAwIBAgIUAAAA\n-----END CERTIFICATE-----\n";
    vec![
        row(
            "PEM with a byte order mark, UTF-16, CRLF or CR, blanks around lines, or on one line",
            "is taken",
            vec![
                (CERT.to_vec(), Certs(1)),
                (joined(&[b"\xef\xbb\xbf", CERT]), Certs(1)),
                (utf16(CERT, u16::to_le_bytes, b"\xff\xfe"), Certs(1)),
                (utf16(CERT, u16::to_be_bytes, b"\xfe\xff"), Certs(1)),
                (utf16(CERT, u16::to_le_bytes, b""), Certs(1)),
                (replaced(CERT, "\n", "\r\n"), Certs(1)),
                (replaced(CERT, "\n", "\r"), Certs(1)),
                (replaced(CERT, "\n", "  \n\t "), Certs(1)),
                (replaced(CERT, "\n", " "), Certs(1)),
                (replaced(CERT, "\n", "\\n"), Certs(1)),
                (replaced(CERT, "-----\n", "-----  \n"), Certs(1)),
                (text(CERT).trim_end().as_bytes().to_vec(), Certs(1)),
                (replaced(KEY, "\n", "\r\n"), Key),
            ],
        ),
        row(
            "PEM with comments in any encoding, blocks that are commented out, or several blocks without a line break between them",
            "is taken; what is commented out is not",
            vec![
                (
                    joined(&[
                        b"# f\xfcr B\xfcro\n subject=/CN=x\n",
                        CERT,
                        b"# Ende \xe9\n",
                    ]),
                    Certs(1),
                ),
                (joined(&[text(CERT).trim_end().as_bytes(), CERT]), Certs(2)),
                (
                    joined(&[text(CERT).replace("-----B", "# -----B").as_bytes(), CERT]),
                    Certs(1),
                ),
            ],
        ),
        row(
            "`X509 CERTIFICATE`, or `TRUSTED CERTIFICATE` without settings that exclude servers",
            "is taken",
            vec![
                (replaced(CERT, " CERT", " X509 CERT"), Certs(1)),
                (sample!("trusted.pem").to_vec(), Certs(1)),
                (
                    sample!("rejected.pem").to_vec(),
                    NoCertificate("TRUSTED CERTIFICATE"),
                ),
            ],
        ),
        row(
            "DER (`.cer`, `.der`), also in bare base64",
            "is taken",
            vec![
                (cert_der(), Certs(1)),
                (joined(&[&cert_der(), &cert_der()]), Certs(2)),
                (STANDARD.encode(cert_der()).into_bytes(), Certs(1)),
                (private_key_in(KEY).unwrap().secret_der().to_vec(), Key),
            ],
        ),
        row(
            "PKCS#7 (`.p7b`), PEM or DER",
            "its certificates are taken",
            vec![
                (sample!("cert.p7b").to_vec(), Certs(1)),
                (
                    replaced(sample!("cert.p7b"), " PKCS7", " CERTIFICATE"),
                    Certs(1),
                ),
                (
                    {
                        let body = text(sample!("cert.p7b"));
                        let lines: String =
                            body.lines().filter(|line| !line.starts_with('-')).collect();
                        STANDARD.decode(lines).unwrap()
                    },
                    Certs(1),
                ),
            ],
        ),
        row(
            "Certificate and key in one file",
            "each is taken from it",
            vec![
                (joined(&[KEY, CERT]), Certs(1)),
                (joined(&[CERT, KEY]), Key),
            ],
        ),
        row(
            "A key as PKCS#8, `EC PRIVATE KEY` (also with `EC PARAMETERS`) or `RSA PRIVATE KEY`",
            "is taken",
            vec![
                (KEY.to_vec(), Key),
                (sample!("sec1.pem").to_vec(), Key),
                (sample!("rsa2048.pem").to_vec(), Key),
            ],
        ),
        row(
            "A CA file with a damaged or unsupported certificate among good ones",
            "the good ones are taken; a warning has the number, the line and the reason",
            vec![(joined(&[broken, CERT]), Certs(1))],
        ),
        row(
            "A certificate chain or client certificate with a damaged certificate",
            "is rejected, with the number, the line and the reason",
            vec![
                (
                    broken.to_vec(),
                    NoCertificate("certificate 1 of 1 (line 1) is damaged"),
                ),
                (
                    replaced(CERT, "-----END CERTIFICATE-----", ""),
                    NoCertificate("END line is missing"),
                ),
                (
                    replaced(CERT, "MIIB", "MI!B"),
                    NoCertificate("character 3 of it is not base64"),
                ),
                (
                    b"-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n".to_vec(),
                    NoCertificate("is empty"),
                ),
            ],
        ),
        row(
            "PKCS#12 (`.p12`, `.pfx`), or a Java key store",
            "is rejected, with the command that converts it",
            vec![
                (
                    sample!("pair.p12").to_vec(),
                    NoCertificate("openssl pkcs12"),
                ),
                (sample!("pair.p12").to_vec(), NoKey("openssl pkcs12")),
                (
                    b"\xfe\xed\xfe\xed\0\0\0\x02".to_vec(),
                    NoCertificate("keytool"),
                ),
            ],
        ),
        row(
            "An encrypted key, or one of OpenSSH or PuTTY",
            "is rejected, with the command that converts it",
            vec![
                (sample!("encrypted.pem").to_vec(), NoKey("openssl pkey")),
                (sample!("encrypted-old.pem").to_vec(), NoKey("openssl pkey")),
                (
                    joined(&[CERT, sample!("encrypted.pem")]),
                    NoKey("encrypted"),
                ),
                (sample!("openssh.pem").to_vec(), NoKey("ssh-keygen")),
                (
                    b"PuTTY-User-Key-File-3: ssh-ed25519\n".to_vec(),
                    NoKey("puttygen"),
                ),
            ],
        ),
        row(
            "RSA below 2048 bits, DSA, explicit EC parameters, a curve other than P-256 and P-384",
            "is rejected, with its kind and what is supported",
            vec![
                (sample!("rsa1024.pem").to_vec(), NoKey("1024 bits")),
                (sample!("rsa1024-pkcs8.pem").to_vec(), NoKey("1024 bits")),
                (sample!("dsa.pem").to_vec(), NoKey("DSA")),
                (sample!("explicit.pem").to_vec(), NoKey("explicit")),
                (sample!("secp256k1.pem").to_vec(), NoKey("curve")),
            ],
        ),
        row(
            "A key where a certificate belongs, a certificate where a key belongs, a request (CSR), a public key",
            "is rejected, with what it is",
            vec![
                (KEY.to_vec(), NoCertificate("holds a private key")),
                (
                    sample!("encrypted.pem").to_vec(),
                    NoCertificate("holds a private key"),
                ),
                (CERT.to_vec(), NoKey("holds a certificate")),
                (sample!("request.pem").to_vec(), NoCertificate("CSR")),
                (
                    sample!("request.pem").to_vec(),
                    NoKey("(CSR) and no private key: name the key file"),
                ),
                (sample!("public.pem").to_vec(), NoCertificate("public key")),
                (sample!("public.pem").to_vec(), NoKey("public key")),
                (joined(&[KEY, KEY]), NoKey("2 private keys")),
            ],
        ),
        row(
            "An empty file, a web page, another text, other bytes",
            "is rejected, with what it is",
            vec![
                (Vec::new(), NoCertificate("is empty")),
                (b" \r\n".to_vec(), NoKey("is empty")),
                (b"<!DOCTYPE html>".to_vec(), NoCertificate("HTML")),
                (b"<!DOCTYPE html>".to_vec(), NoKey("HTML or XML: a web")),
                (
                    replaced(CERT, "-----", "\u{2014}"),
                    NoCertificate("hyphens"),
                ),
                (b"hello".to_vec(), NoCertificate("not PEM")),
                (b"\x30\x82\x10\x00\x00".to_vec(), NoCertificate("cut short")),
                (b"ssh-ed25519 AAAA".to_vec(), NoKey("SSH")),
            ],
        ),
        row(
            "A missing file, a link to one, a directory, a file without permission, one above 4 MiB",
            "is rejected, with the user that cannot read it, or the limit",
            Vec::new(),
        ),
        row(
            "A chain in the wrong order; a key of another certificate",
            "the chain is put in order; the key is rejected",
            Vec::new(),
        ),
    ]
}

#[test]
fn every_form_is_taken_or_named() {
    for row in rows() {
        for (index, (bytes, expect)) in row.cases.into_iter().enumerate() {
            let place = format!("{}, case {index}", row.file);
            match expect {
                Certs(count) => {
                    let found =
                        certificates_in(&bytes).unwrap_or_else(|error| panic!("{place}: {error}"));
                    assert_eq!(found.all.len(), count, "{place}");
                    assert!(
                        found.all.iter().all(|one| *one.der == *cert_der()),
                        "{place}"
                    );
                }
                Key => {
                    private_key_in(&bytes).unwrap_or_else(|error| panic!("{place}: {error}"));
                }
                NoCertificate(part) => {
                    let error = certificates_in(&bytes).unwrap_err();
                    assert!(error.contains(part), "{place}: {error}");
                }
                NoKey(part) => {
                    let error = private_key_in(&bytes).unwrap_err();
                    assert!(error.contains(part), "{place}: {error}");
                }
            }
        }
    }
}

#[test]
fn guide_has_the_table_of_forms() {
    let mut table = String::from("| the file | the program |\n| --- | --- |\n");
    for row in rows() {
        table.push_str(&format!("| {} | {} |\n", row.file, row.outcome));
    }
    let guide = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/guide/troubleshooting.md");
    let guide = fs::read_to_string(guide).unwrap();
    assert!(
        guide.contains(&table),
        "the guide lacks this table:\n{table}"
    );
}

#[test]
fn damaged_certificate_is_reported_with_its_place() {
    let broken = replaced(CERT, "MIIB", "MI?B");
    let bytes = joined(&[CERT, b"\n", &broken, CERT]);
    let found = certificates_in(&bytes).unwrap();
    let lines = text(CERT).lines().count();
    let expected = format!("certificate 2 of 3 (line {}) is damaged", lines + 2);
    assert_eq!(found.all.len(), 2);
    assert!(
        found.damaged[0].starts_with(&expected),
        "{:?}",
        found.damaged
    );
    assert!(found.whole().unwrap_err().starts_with(&expected));
}

#[test]
fn message_never_has_a_part_of_the_key() {
    let body = text(KEY).lines().nth(1).unwrap().to_owned();
    let secret = &body[..16];
    for bytes in [
        replaced(KEY, "-----END", "-----ENDE"),
        replaced(KEY, "MIGH", "MI!H"),
        replaced(KEY, "PRIVATE KEY", "CERTIFICATE"),
        replaced(KEY, "-----", "--"),
    ] {
        for error in [certificates_in(&bytes).err(), private_key_in(&bytes).err()] {
            assert!(!error.unwrap_or_default().contains(secret));
        }
    }
}

#[test]
fn request_is_no_key() {
    let request = sample!("request.pem");
    let error = private_key_in(request).unwrap_err();
    assert!(!error.contains("certificate that the CA"), "{error}");
    let error = public_key_in(request).unwrap_err();
    assert!(error.contains("openssl req -in FILE"), "{error}");
    // Next to its key it does not matter.
    private_key_in(&joined(&[request, KEY])).unwrap();
}

#[test]
fn small_key_of_a_certificate_is_named() {
    let found = certificates_in(sample!("small.pem")).unwrap();
    let complaint = found.all[0].key_complaint().unwrap();
    assert!(complaint.contains("1024 bits"), "{complaint}");
    assert_eq!(certificates_in(CERT).unwrap().all[0].key_complaint(), None);
}

#[test]
fn texts_are_read_again() {
    let key = private_key_in(sample!("sec1.pem")).unwrap();
    let again = private_key_in(key_text(&key).as_bytes()).unwrap();
    assert_eq!(again.secret_der(), key.secret_der());
    let certificate = &certificates_in(CERT).unwrap().all[0];
    assert_eq!(certificate_text(&certificate.der), text(CERT));
    assert_eq!(
        certificate.to_string(),
        "certificate 1 (line 1, CN=tool.corp.example)"
    );
}

#[test]
fn file_that_cannot_be_read_is_explained() {
    let dir = crate::testing::TempDir::new("pem");
    let at = |name: &str| dir.path().join(name);
    let told = |path: &Path| certificates(path).unwrap_err().to_string();
    assert!(told(&at("none")).contains("does not exist"));
    assert!(told(dir.path()).contains("is a directory"));
    fs::write(at("large"), vec![b'x'; 4 * 1024 * 1024 + 1]).unwrap();
    assert!(told(&at("large")).contains("4 MiB"));
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("gone", at("link")).unwrap();
        assert!(told(&at("link")).contains("symbolic link to gone"));
        use std::os::unix::fs::PermissionsExt as _;
        fs::write(at("closed"), CERT).unwrap();
        fs::set_permissions(at("closed"), fs::Permissions::from_mode(0o000)).unwrap();
        // Root reads everything.
        if !rustix::process::geteuid().is_root() {
            let closed = told(&at("closed"));
            assert!(closed.contains("uid"), "{closed}");
        }
    }
}
