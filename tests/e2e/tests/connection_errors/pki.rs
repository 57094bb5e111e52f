//! Certificates with every fault, made by the `openssl` program: a certificate library of this workspace would
//! refuse to make most of them.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use support::TempDir;

/// A certificate file and its key file.
#[derive(Debug, Clone)]
pub(crate) struct Pair {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

/// What a certificate has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spec<'a> {
    /// Who signs it: the name of a pair that was made before, or nothing for its own key.
    pub(crate) signer: Option<&'a str>,
    /// Its common name.
    pub(crate) subject: &'a str,
    /// Extensions in the syntax of openssl.
    pub(crate) extensions: &'a str,
    /// The arguments of `openssl req` that make the key.
    pub(crate) key: &'a [&'a str],
    /// The digest of the signature.
    pub(crate) digest: &'a str,
    /// The first and the last second, as openssl writes them.
    pub(crate) validity: (&'a str, &'a str),
}

pub(crate) const CA: &str =
    "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign";
pub(crate) const LOCALHOST: &str = "basicConstraints=CA:FALSE\nsubjectAltName=DNS:localhost";

impl Default for Spec<'_> {
    fn default() -> Self {
        Self {
            signer: Some("root"),
            subject: "localhost",
            extensions: LOCALHOST,
            key: &["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"],
            digest: "sha256",
            validity: ("20240101000000Z", "20990101000000Z"),
        }
    }
}

/// The files of one test.
pub(crate) struct Pki {
    dir: TempDir,
}

impl Pki {
    /// Makes a directory with a trusted root.
    pub(crate) fn new() -> Self {
        let dir = TempDir::new("pki");
        let config = "[ca]\ndefault_ca = own\n[own]\ndatabase = ./db\nnew_certs_dir = .\nrand_serial = yes\n\
                      default_md = sha256\npolicy = any\nunique_subject = no\n[any]\ncommonName = optional\n\
                      [req]\ndistinguished_name = dn\n[dn]\n";
        fs::write(dir.join("ca.cnf"), config).unwrap();
        fs::write(dir.join("db"), "").unwrap();
        let pki = Self { dir };
        pki.make(
            "root",
            Spec {
                signer: None,
                subject: "Test Root",
                extensions: CA,
                ..Spec::default()
            },
        );
        pki
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Makes a certificate. Its files have its name.
    pub(crate) fn make(&self, name: &str, spec: Spec<'_>) -> Pair {
        let (request, cert) = (format!("{name}.csr"), format!("{name}.crt"));
        let (key, extensions) = (format!("{name}.key"), format!("{name}.ext"));
        let subject = format!("/CN={}", spec.subject);
        fs::write(self.file(&extensions), format!("{}\n", spec.extensions)).unwrap();
        let new = [
            "req", "-new", "-nodes", "-config", "ca.cnf", "-subj", &subject,
        ];
        self.openssl(&[&new[..], spec.key, &["-keyout", &key, "-out", &request]].concat());
        let signer = spec.signer.unwrap_or(name);
        let (by, by_key) = (format!("{signer}.crt"), format!("{signer}.key"));
        let own = ["-selfsign", "-keyfile", &key];
        let other = ["-cert", &by, "-keyfile", &by_key];
        let issuer: &[&str] = match spec.signer {
            None => &own,
            Some(_) => &other,
        };
        let (from, to) = spec.validity;
        let sign = [
            "ca", "-batch", "-notext", "-config", "ca.cnf", "-in", &request, "-out", &cert,
        ];
        let dates = ["-startdate", from, "-enddate", to, "-md", spec.digest];
        self.openssl(&[&sign[..], issuer, &dates, &["-extfile", &extensions]].concat());
        Pair {
            cert: self.file(&cert),
            key: self.file(&key),
        }
    }

    fn openssl(&self, args: &[&str]) {
        let output = Command::new("openssl")
            .args(args)
            .current_dir(self.dir.path())
            .output()
            .expect("openssl is installed");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "openssl {args:?}: {text}");
    }
}
