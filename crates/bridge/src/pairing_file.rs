//! The pairing file: what `integration-bridge pair --bundle FILE` needs, written by the relay's operator.
//!
//! ```text
//! file -> private? -> at most 256 KiB -> format, version -> strict JSON -> each value by its own type -> PairingFile
//!      -> `prepare`: CA file, config -> `pairing::pair_in` -> the file is destroyed
//! ```
//!
//! The file may come from anywhere, so it is a peer's text: what it says is checked before anything is written, and none of
//! it decides where something is written. Its key pairs one bridge, and the relay enforces that.
//! `proto/vectors/pairing-file.json` is an example, which the tests of both programs read.
//!
//! Each step may be repeated after a crash: the CA file and the config are written before the pairing and compared when they
//! exist, and the key pair is on disk before the request (`identity::pending`).

mod prepare;

pub(crate) use prepare::{PrepareError, keep, prepare};

use crate::config::check_name;
use crate::pairing::{ApiKey, Secret};
use runtime::files::{Kind, Privacy, make_private, open_given, remedy, shown};
use runtime::pem;
use runtime::secret::Zeroizing;
use runtime::shortage::in_words;
use runtime::time::{now_s, parse_rfc3339_ms, to_minute};
use runtime::value::{self, Form};
use serde::Deserialize;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use transport::dial::{RelayUrl, RelayUrlError};

/// What the first member of every file is.
const FORMAT: &str = "integration-bridge-pairing";

/// The version of the format that this program reads.
const VERSION: u64 = 1;

/// The largest file that is read, in bytes. One with the most certificates is far smaller.
const FILE_MAX_BYTES: usize = 256 * 1024;

/// The most certificates of a CA in a file.
const CERTIFICATES_MAX: usize = 16;

/// Why a pairing file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PairingFileError {
    /// It cannot be read, or is something else.
    #[error("the pairing file {} {detail}", .path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it. No part of its secret.
        detail: String,
    },
    /// Its key has expired.
    #[error(
        "the pairing file {} expired at {}, and it is {} by the clock of this machine: ask the relay's operator for \
         another file, or correct the clock",
        .path.display(), to_minute(*.expired), to_minute(*.now)
    )]
    Expired {
        /// The file.
        path: PathBuf,
        /// When it expired, in seconds since 1970.
        expired: i64,
        /// The time now, in seconds since 1970.
        now: i64,
    },
}

/// A pairing file whose values are all valid.
#[derive(Debug)]
pub(crate) struct PairingFile {
    /// Where it was read from.
    pub(crate) path: PathBuf,
    /// The relay.
    pub(crate) relay: RelayUrl,
    /// The CA of the relay's certificate, in PEM, and nothing but certificates.
    pub(crate) ca: Option<String>,
    /// The tenant's name.
    pub(crate) tenant: String,
    /// The suggested name of the bridge.
    pub(crate) bridge: Option<String>,
    /// The key, which pairs one bridge.
    pub(crate) api_key: ApiKey,
    /// When the key expires, in seconds since 1970.
    expires: i64,
    /// Its mode before others lost their rights, if they had any.
    pub(crate) was_open: Option<u32>,
}

/// The members that decide whether the others can be read.
#[derive(Deserialize)]
struct Head {
    format: String,
    version: u64,
}

/// The file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    #[serde(rename = "format")]
    _format: String,
    #[serde(rename = "version")]
    _version: u64,
    relay_url: String,
    ca_pem: Option<String>,
    tenant: String,
    bridge: Option<String>,
    client_id: String,
    client_secret: String,
    expires_at: String,
}

impl PairingFile {
    /// Reads a file. It must be private, or is made so.
    ///
    /// # Errors
    /// [`PairingFileError`]. An expired file can be read.
    pub(crate) fn read(path: &Path) -> Result<Self, PairingFileError> {
        let failed = |detail: String| PairingFileError::Unusable {
            path: path.to_owned(),
            detail,
        };
        let cannot =
            |error: std::io::Error| failed(format!("cannot be read: {}", in_words(&error)));
        // Follows links, as Kubernetes mounts the files of a secret.
        let file = open_given(path).map_err(cannot)?;
        // Before its rights are judged: those of a directory are of no interest.
        if file.metadata().map_err(cannot)?.is_dir() {
            return Err(failed("cannot be read: it is a directory".to_owned()));
        }
        let was_open = match make_private(&file, path, Kind::Given).map_err(cannot)? {
            Privacy::Private | Privacy::Group => None,
            Privacy::Tightened { was } => Some(was),
            Privacy::Open { mode } => {
                return Err(failed(format!(
                    "can be read by other users ({}), and it has a secret: run {}; if another user may have read it, ask \
                     the relay's operator for another file",
                    shown(mode),
                    remedy(path, "600")
                )));
            }
        };
        // With room for all, so that growing leaves no part in freed memory.
        let mut bytes = Zeroizing::new(Vec::with_capacity(FILE_MAX_BYTES + 1));
        let mut limited = file.take(FILE_MAX_BYTES as u64 + 1);
        limited.read_to_end(&mut bytes).map_err(cannot)?;
        if bytes.len() > FILE_MAX_BYTES {
            let limit = FILE_MAX_BYTES / 1024;
            return Err(failed(format!(
                "is larger than {limit} KiB: it is no pairing file"
            )));
        }
        let mut read = parse(&bytes, path).map_err(failed)?;
        read.was_open = was_open;
        Ok(read)
    }

    /// Checks that its key has not expired.
    ///
    /// # Errors
    /// [`PairingFileError::Expired`].
    pub(crate) fn check_expiry(&self) -> Result<(), PairingFileError> {
        let now = i64::try_from(now_s()).unwrap_or(i64::MAX);
        match now < self.expires {
            true => Ok(()),
            false => Err(PairingFileError::Expired {
                path: self.path.clone(),
                expired: self.expires,
                now,
            }),
        }
    }
}

/// Reads the text of a file. Errors follow `the pairing file PATH`.
fn parse(bytes: &[u8], path: &Path) -> Result<PairingFile, String> {
    let text = value::decode(bytes).map_err(|error| format!("is damaged: {error}"))?;
    let text = Zeroizing::new(text);
    // The parser's own message may quote the secret, so only the line is reported.
    let at = |error: &serde_json::Error| format!("(line {})", error.line());
    let head: Head = serde_json::from_str(&text)
        .map_err(|error| format!("is not a pairing file, or is damaged {}", at(&error)))?;
    if head.format != FORMAT {
        return Err("is not a pairing file".to_owned());
    }
    if head.version != VERSION {
        return Err(format!(
            "has version {} of its format, and this program reads version {VERSION}: use a bridge of the relay's version",
            head.version
        ));
    }
    let stored: Stored = serde_json::from_str(&text).map_err(|error| {
        format!(
            "is damaged: a member is missing, unknown or of another type {}",
            at(&error)
        )
    })?;
    let client_secret = Zeroizing::new(stored.client_secret);
    let wrong = |name: &str, error: &dyn std::fmt::Display| format!("is damaged: {name} {error}");
    let relay: RelayUrl = stored
        .relay_url
        .parse()
        .map_err(|error: RelayUrlError| wrong("relay_url", &error))?;
    protocol::name::check("a tenant", &stored.tenant).map_err(|error| wrong("tenant:", &error))?;
    if let Some(name) = &stored.bridge {
        check_name(name).map_err(|error| wrong("bridge:", &error))?;
    }
    let key = |name: &str, text: &str| {
        let read = value::read(Form::Key, text.as_bytes());
        let read = read.map_err(|error| wrong(&format!("{name}:"), &error))?;
        match read.is_empty() {
            true => Err(wrong(name, &"is empty")),
            false => Ok(read),
        }
    };
    let expires =
        parse_rfc3339_ms(&stored.expires_at).map_err(|error| wrong("expires_at is", &error))?;
    let ca = stored.ca_pem.as_deref().map(certificates).transpose();
    Ok(PairingFile {
        path: path.to_owned(),
        relay,
        ca: ca.map_err(|error| wrong("ca_pem", &error))?,
        tenant: stored.tenant,
        bridge: stored.bridge,
        api_key: ApiKey {
            client_id: key("client_id", &stored.client_id)?,
            client_secret: Secret::owned(key("client_secret", &client_secret)?),
        },
        expires: expires.div_euclid(1000),
        was_open: None,
    })
}

/// Returns the certificates of a text, written again: what else is in it is not stored.
fn certificates(text: &str) -> Result<String, String> {
    let found = pem::certificates_in(text.as_bytes())?.whole()?;
    match found.all.len() {
        count if count > CERTIFICATES_MAX => Err(format!(
            "holds {count} certificates, more than {CERTIFICATES_MAX}"
        )),
        _ => Ok(found
            .all
            .iter()
            .map(|one| pem::certificate_text(&one.der))
            .collect()),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::testing::TempDir;
    use serde_json::{Value, json};

    const GOLDEN: &str = include_str!("../../../proto/vectors/pairing-file.json");

    /// Returns the golden file with other members, read from a path.
    pub(crate) fn example(path: &Path, changes: &[(&str, Value)]) -> Result<PairingFile, String> {
        let mut document: Value = serde_json::from_str(GOLDEN).unwrap();
        for (name, value) in changes {
            document[*name] = value.clone();
        }
        parse(document.to_string().as_bytes(), path)
    }

    #[test]
    fn golden_file_is_read() {
        let file = parse(GOLDEN.as_bytes(), Path::new("f")).unwrap();
        assert_eq!(file.relay.to_string(), "https://relay.example.com:443");
        assert_eq!(file.tenant, "acme");
        assert_eq!(file.bridge.as_deref(), Some("berlin-dc1"));
        assert_eq!(file.api_key.client_id, "ibk_4Yb1m0x7QnqkW2aZ");
        assert_eq!(file.expires, 1_796_126_400);
        let document: Value = serde_json::from_str(GOLDEN).unwrap();
        assert_eq!(file.ca.as_deref(), document["ca_pem"].as_str());
        assert!(!format!("{file:?}").contains("not-a-secret"));
    }

    #[test]
    fn hostile_values_are_refused_without_the_secret() {
        let pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for (name, value, says) in [
            ("format", json!("other"), "is not a pairing file"),
            ("version", json!(2), "version 2"),
            ("version", json!(-1), "is not a pairing file, or is damaged"),
            ("more", json!(1), "unknown"),
            ("relay_url", json!("http://relay.example.com"), "https://"),
            (
                "relay_url",
                json!("https://relay.example.com/x"),
                "relay_url must be only",
            ),
            (
                "relay_url",
                json!("https://me:sesame@relay.example.com"),
                "relay_url must be only",
            ),
            (
                "relay_url",
                json!("https://relay.example.com\n[bridge]"),
                "relay_url",
            ),
            ("tenant", json!("acme\u{1b}[31m"), "tenant"),
            ("bridge", json!("dc1\"\nurl = \"x"), "bridge"),
            ("bridge", json!(".."), "bridge"),
            ("client_id", json!("ibk 1"), "client_id"),
            ("client_id", json!(""), "client_id is empty"),
            ("client_secret", json!("a\nb"), "client_secret"),
            ("client_secret", Value::Null, "of another type"),
            (
                "expires_at",
                json!("tomorrow"),
                "expires_at is not an RFC 3339 instant",
            ),
            ("ca_pem", json!("no certificate"), "ca_pem"),
            ("ca_pem", json!(pem), "ca_pem"),
        ] {
            let error = example(Path::new("f"), &[(name, value)]).unwrap_err();
            assert!(error.contains(says), "{name}: {error}");
            assert!(error.chars().all(|c| !c.is_control()), "{name}: {error:?}");
            for secret in ["not-a-secret", "sesame"] {
                assert!(!error.contains(secret), "{name}: {error}");
            }
        }
        let many = json!(GOLDEN);
        let document: Value = serde_json::from_str(GOLDEN).unwrap();
        let one = document["ca_pem"].as_str().unwrap();
        let error = example(Path::new("f"), &[("ca_pem", json!(one.repeat(17)))]).unwrap_err();
        assert!(error.contains("17 certificates"), "{error}");
        for text in ["", "[]", "\"x\"", &many.to_string(), "{\"format\""] {
            let error = parse(text.as_bytes(), Path::new("f")).unwrap_err();
            assert!(error.contains("not a pairing file"), "{text}: {error}");
        }
        let twice = GOLDEN.replacen("\"tenant\"", "\"tenant\": \"a\", \"tenant\"", 1);
        assert!(parse(twice.as_bytes(), Path::new("f")).is_err());
    }

    #[test]
    fn key_next_to_the_ca_is_not_stored() {
        let document: Value = serde_json::from_str(GOLDEN).unwrap();
        let own = document["ca_pem"].as_str().unwrap();
        let text = format!("a comment\u{1b}[31m\n{own}[relay]\nurl = \"https://b\"\n");
        let file = example(Path::new("f"), &[("ca_pem", json!(text))]).unwrap();
        assert_eq!(file.ca.unwrap(), own);
    }

    #[test]
    fn expired_file_names_both_times() {
        let at = |text: &str| {
            let changes = [("expires_at", json!(text))];
            example(Path::new("dc1.json"), &changes)
                .unwrap()
                .check_expiry()
        };
        at("2999-01-01T00:00:00Z").unwrap();
        let error = at("2001-01-01T00:00:00Z").unwrap_err().to_string();
        for part in ["dc1.json", "2001-01-01 00:00 UTC", "clock of this machine"] {
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn huge_and_foreign_files_are_refused() {
        let temp = TempDir::new("pairing-file");
        let path = temp.path().join("f");
        std::fs::write(&path, vec![b' '; FILE_MAX_BYTES + 1]).unwrap();
        let error = PairingFile::read(&path).unwrap_err().to_string();
        assert!(error.contains("larger than 256 KiB"), "{error}");
        for path in [temp.path().to_owned(), temp.path().join("missing")] {
            let error = PairingFile::read(&path).unwrap_err().to_string();
            assert!(error.contains("cannot be read"), "{error}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn file_of_others_is_tightened_and_reported() {
        use std::os::unix::fs::PermissionsExt as _;
        let temp = TempDir::new("pairing-file-mode");
        let path = temp.path().join("f");
        std::fs::write(&path, GOLDEN).unwrap();
        let set = |mode| {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        set(0o600);
        assert_eq!(PairingFile::read(&path).unwrap().was_open, None);
        set(0o644);
        assert_eq!(PairingFile::read(&path).unwrap().was_open, Some(0o644));
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
