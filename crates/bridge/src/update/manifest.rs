//! The manifest of a release, and its signature.
//!
//! ```text
//! FILE            the program
//! FILE.manifest   {"format": 1, "product": "integration-bridge", "version": "1.4.0", "target": "x86_64-unknown-linux-musl",
//!                  "sha256": "...", "size": 12345678, "released": "2026-12-01T00:00:00Z"}
//! FILE.sig        signatures (Ed25519, base64) of the exact bytes of FILE.manifest, one a line
//! ```
//!
//! The signature is verified before a byte of the manifest is interpreted. `deploy/guide/bridge-administrator.md`
//! describes the format for those who sign.

use crate::config::ReleaseKey;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use protocol::version::ProgramVersion;
use ring::signature::{ED25519, UnparsedPublicKey};
use runtime::peer_text::escape;
use serde::Deserialize;

/// Largest manifest, in bytes.
pub(crate) const MANIFEST_MAX_BYTES: usize = 16 * 1024;

/// Largest file of signatures, in bytes.
pub(crate) const SIGNATURE_MAX_BYTES: usize = 4 * 1024;

/// Largest program, in bytes.
pub(crate) const PROGRAM_MAX_BYTES: u64 = 256 * 1024 * 1024;

/// Signatures that are tried: the release of a time in which keys are changed has more than one.
const SIGNATURES_MAX: usize = 8;

/// The format that this program reads.
const FORMAT: u32 = 1;

/// The product that is installed.
const PRODUCT: &str = "integration-bridge";

/// What a verified manifest says of a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Manifest {
    /// Its version.
    pub(crate) version: ProgramVersion,
    /// Its platform.
    pub(crate) target: String,
    /// Its SHA-256.
    pub(crate) sha256: [u8; 32],
    /// Its length in bytes.
    pub(crate) size: u64,
    /// When it was released, in seconds since 1970.
    pub(crate) released: u64,
}

/// Why a program is not trusted, or is not for this machine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ManifestError {
    /// The config has no key.
    #[error(
        "update.keys has no key, so no program is trusted; write the public key of the release into [update], from a \
         source that you trust"
    )]
    NoKeys,
    /// The file of signatures has none.
    #[error(
        "FILE.sig has no signature: it must have the 64 bytes of an Ed25519 signature in base64"
    )]
    NoSignature,
    /// No signature is by a trusted key.
    #[error(
        "the signature in FILE.sig is not by a key in update.keys, or FILE.manifest was changed after it was signed; do \
         not use these files"
    )]
    Signature,
    /// The manifest cannot be read, although it is signed.
    #[error("FILE.manifest is signed, and cannot be read: {0}")]
    Document(String),
    /// Another format.
    #[error(
        "FILE.manifest has the format {0}; this program reads the format {FORMAT}: update in smaller steps"
    )]
    Format(u64),
    /// Another product.
    #[error("FILE is a release of {}, not of {PRODUCT}", escape(.0))]
    Product(String),
    /// Another platform.
    #[error("FILE is for {}, and this machine needs {needed}", escape(.found))]
    Target {
        /// That of the release.
        found: String,
        /// That of this program.
        needed: String,
    },
}

#[derive(Deserialize)]
struct Format {
    format: u64,
}

#[derive(Deserialize)]
struct Document {
    product: String,
    version: String,
    target: String,
    sha256: String,
    size: u64,
    #[serde(deserialize_with = "runtime::time::as_rfc3339::deserialize")]
    released: u64,
}

/// Verifies the signature, then reads what it covers.
///
/// # Errors
/// [`ManifestError`]; nothing of the manifest may be used.
pub(crate) fn verify(
    manifest: &[u8],
    signatures: &[u8],
    keys: &[ReleaseKey],
) -> Result<Manifest, ManifestError> {
    if keys.is_empty() {
        return Err(ManifestError::NoKeys);
    }
    let signatures = read_signatures(signatures);
    if signatures.is_empty() {
        return Err(ManifestError::NoSignature);
    }
    let is_by = |key: &ReleaseKey| {
        let key = UnparsedPublicKey::new(&ED25519, key.bytes());
        signatures
            .iter()
            .any(|signature| key.verify(manifest, signature).is_ok())
    };
    if !keys.iter().any(is_by) {
        return Err(ManifestError::Signature);
    }
    read(manifest)
}

fn read_signatures(bytes: &[u8]) -> Vec<Vec<u8>> {
    let text = String::from_utf8_lossy(bytes);
    let lines = text.lines().map(str::trim);
    lines
        .filter(|line| !line.is_empty())
        .take(SIGNATURES_MAX)
        .filter_map(|line| STANDARD.decode(line).ok())
        .collect()
}

/// Reads a manifest whose signature was verified.
fn read(manifest: &[u8]) -> Result<Manifest, ManifestError> {
    // The position of the mistake is enough: the text of a library names types of this program.
    let mistake = |error: serde_json::Error| {
        ManifestError::Document(format!("line {}, column {}", error.line(), error.column()))
    };
    // First, alone: another format may have other fields.
    let Format { format } = serde_json::from_slice(manifest).map_err(mistake)?;
    if format != u64::from(FORMAT) {
        return Err(ManifestError::Format(format));
    }
    let document: Document = serde_json::from_slice(manifest).map_err(mistake)?;
    if document.product != PRODUCT {
        return Err(ManifestError::Product(document.product));
    }
    if !is_for_this_machine(&document.target) {
        return Err(ManifestError::Target {
            found: document.target,
            needed: own_target(),
        });
    }
    let field = |name: &str| ManifestError::Document(format!("the field {name} is not valid"));
    let sha256 = crate::text::unhex(&document.sha256).ok_or_else(|| field("sha256"))?;
    if document.size == 0 || document.size > PROGRAM_MAX_BYTES {
        return Err(field("size"));
    }
    Ok(Manifest {
        version: document.version.parse().map_err(|_| field("version"))?,
        target: document.target,
        sha256: sha256.try_into().map_err(|_| field("sha256"))?,
        size: document.size,
        released: document.released,
    })
}

/// Returns the platform that this program was built for, as the compiler names it.
pub(crate) fn own_target() -> String {
    let arch = std::env::consts::ARCH;
    let environment = if cfg!(target_env = "musl") {
        "musl"
    } else if cfg!(target_env = "msvc") {
        "msvc"
    } else {
        "gnu"
    };
    match std::env::consts::OS {
        // The releases for Windows Server 2008 R2 have a vendor of their own.
        "windows" if cfg!(target_vendor = "win7") => format!("{arch}-win7-windows-{environment}"),
        "windows" => format!("{arch}-pc-windows-{environment}"),
        "macos" => format!("{arch}-apple-darwin"),
        os => format!("{arch}-unknown-{os}-{environment}"),
    }
}

/// Whether a program for this platform runs here: the same platform, or on Linux the static one.
fn is_for_this_machine(target: &str) -> bool {
    let own = own_target();
    let is_static = || {
        let static_one = own
            .strip_suffix("-gnu")
            .filter(|_| cfg!(target_os = "linux"));
        static_one.is_some_and(|own| target.strip_suffix("-musl") == Some(own))
    };
    target == own || is_static()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring::signature::{Ed25519KeyPair, KeyPair as _};
    use serde_json::{Value, json};

    fn key(seed: u8) -> Ed25519KeyPair {
        Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap()
    }

    fn public(key: &Ed25519KeyPair) -> ReleaseKey {
        STANDARD.encode(key.public_key()).parse().unwrap()
    }

    fn document() -> Value {
        json!({
            "format": 1,
            "product": "integration-bridge",
            "version": "1.4.0",
            "target": own_target(),
            "sha256": "ab".repeat(32),
            "size": 5,
            "released": "2026-12-01T00:00:00Z",
            "note": "fields that this program does not know are ignored",
        })
    }

    fn signed(document: &Value, by: &[&Ed25519KeyPair]) -> (Vec<u8>, Vec<u8>) {
        let manifest = serde_json::to_vec(document).unwrap();
        let lines = by.iter().map(|key| STANDARD.encode(key.sign(&manifest)));
        let signatures = lines.collect::<Vec<_>>().join("\n") + "\n";
        (manifest, signatures.into_bytes())
    }

    #[test]
    fn signature_by_a_trusted_key_is_accepted() {
        let (old, new) = (key(1), key(2));
        let (manifest, signatures) = signed(&document(), &[&old, &new]);
        let found = verify(&manifest, &signatures, &[public(&new)]).unwrap();
        assert_eq!(found.version.to_string(), "1.4.0");
        assert_eq!((found.size, found.sha256), (5, [0xab; 32]));
        assert_eq!(found.released, 1_796_083_200);
    }

    #[test]
    fn program_is_trusted_by_no_default() {
        let (manifest, signatures) = signed(&document(), &[&key(1)]);
        assert_eq!(
            verify(&manifest, &signatures, &[]),
            Err(ManifestError::NoKeys)
        );
        let stranger = [public(&key(3))];
        let refused = Err(ManifestError::Signature);
        assert_eq!(verify(&manifest, &signatures, &stranger), refused);
        for none in ["", "\n\n", "no base64!"] {
            let found = verify(&manifest, none.as_bytes(), &stranger);
            assert_eq!(found, Err(ManifestError::NoSignature), "{none}");
        }
    }

    #[test]
    fn every_changed_byte_invalidates_the_signature() {
        let own = key(1);
        let keys = [public(&own)];
        let (manifest, signatures) = signed(&document(), &[&own]);
        for at in 0..manifest.len() {
            let mut changed = manifest.clone();
            changed[at] ^= 1;
            let found = verify(&changed, &signatures, &keys);
            assert_eq!(found, Err(ManifestError::Signature), "byte {at}");
        }
        let mut longer = manifest.clone();
        longer.push(b' ');
        assert!(verify(&longer, &signatures, &keys).is_err());
        let shorter = &manifest[..manifest.len() - 1];
        assert!(verify(shorter, &signatures, &keys).is_err());
    }

    #[test]
    fn signed_manifest_of_something_else_is_refused() {
        let own = key(1);
        let keys = [public(&own)];
        let with = |field: &str, value: Value| {
            let mut document = document();
            document[field] = value;
            let (manifest, signatures) = signed(&document, &[&own]);
            verify(&manifest, &signatures, &keys).unwrap_err()
        };
        assert_eq!(with("format", json!(2)), ManifestError::Format(2));
        assert!(matches!(
            with("product", json!("integration-relay")),
            ManifestError::Product(_)
        ));
        assert!(matches!(
            with("target", json!("riscv64-unknown-linux-musl")),
            ManifestError::Target { .. }
        ));
        for (field, value) in [
            ("version", json!("latest")),
            ("sha256", json!("abcd")),
            ("sha256", json!("zz".repeat(32))),
            ("size", json!(0)),
            ("size", json!(PROGRAM_MAX_BYTES + 1)),
            ("size", json!(-1)),
            ("released", json!("yesterday")),
            ("product", Value::Null),
        ] {
            let error = with(field, value.clone());
            assert!(
                matches!(error, ManifestError::Document(_)),
                "{field} {value}: {error}"
            );
        }
    }

    #[test]
    fn static_program_runs_on_every_linux() {
        let own = own_target();
        assert!(is_for_this_machine(&own), "{own}");
        if cfg!(target_os = "linux") {
            let musl = format!("{}-unknown-linux-musl", std::env::consts::ARCH);
            assert!(is_for_this_machine(&musl), "{musl}");
        }
        for other in ["x86_64-pc-windows-gnu", "sparc64-unknown-linux-musl", ""] {
            assert!(other == own || !is_for_this_machine(other), "{other}");
        }
    }
}
