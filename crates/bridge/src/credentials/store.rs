//! The file of credentials: names, kinds and origins in plain text, secrets sealed.
//!
//! `credentials.json` (mode 0600) holds the secret part of each credential, sealed by `runtime::sealed`. Name, kind
//! and origins are authenticated with it, so that a change of the file cannot direct a secret to another
//! target. The key is derived from a key file, the first of:
//!
//! 1. `bridge.key_file`, if the config names one;
//! 2. `integration-bridge.key` in `$CREDENTIALS_DIRECTORY`, where the service manager passes it
//!    (systemd's `LoadCredential`);
//! 3. `credentials.key` in the data directory, which is created when it is first needed. On Windows its content is sealed
//!    so that only this machine can read it ([`super::own_key`]).
//!
//! The command line changes the file while a bridge runs, which then reloads it. The file has its own lock, and is
//! replaced as a whole.

use super::alm::Login;
use super::own_key::{unwrapped, wrapped};
use super::{CREDENTIALS_MAX, Credential, Credentials, Kind, ORIGINS_MAX, Origin};
use crate::config::{BridgeSection, check_credential_name};
use crate::data_dir::{DataDirError, PrivateDir, read_given};
use crate::secret::Secret;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http_client::ClientCert;
use ring::rand::{SecureRandom as _, SystemRandom};
use runtime::sealed::NonceKey;
use runtime::secret::{Zeroize as _, Zeroizing};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The file in the data directory.
pub(crate) const FILE: &str = "credentials.json";

/// The key file that is created where the config and the service manager provide none.
pub(crate) const OWN_KEY_FILE: &str = "credentials.key";

/// The key file's name in the service manager's directory.
const MANAGED_KEY_FILE: &str = "integration-bridge.key";

const LOCK_FILE: &str = "credentials.lock";
const VERSION: u32 = 1;
const KEY_LABEL: &[u8] = b"integration-bridge credentials v1";

/// Bytes of a key file, at least and at most.
pub(crate) const KEY_BYTES: std::ops::RangeInclusive<usize> = 32..=4096;

/// Why credentials cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The data directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The key file cannot be used.
    #[error("cannot use the key file {path}: {detail}")]
    Key {
        /// The file.
        path: String,
        /// What is wrong.
        detail: String,
    },
    /// The file was changed or is incomplete.
    #[error(
        "{path} is damaged ({detail}); restore it from a backup, or remove it and set the credentials again"
    )]
    Damaged {
        /// The file.
        path: String,
        /// What is wrong.
        detail: String,
    },
    /// A credential cannot be decrypted.
    #[error(
        "cannot decrypt the credential {name}: its entry was changed, or the key file is another one; \
         set it again with `integration-bridge credential set {name}`"
    )]
    Sealed {
        /// Its name.
        name: String,
    },
    /// There are too many.
    #[error("the limit of {CREDENTIALS_MAX} credentials is reached; remove one first")]
    Full,
    /// No credential has that name.
    #[error("there is no credential named {name}")]
    Unknown {
        /// The name.
        name: String,
    },
    /// The system returned no random bytes.
    #[error("the system gave no random bytes")]
    Random,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u32,
    credentials: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    kind: String,
    origins: Vec<String>,
    sealed: String,
}

/// The secret part.
#[derive(Serialize, Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct Parts {
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    header: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate: Option<String>,
    secret: String,
}

/// The store of credentials.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    dir: PrivateDir,
    key_file: Option<PathBuf>,
}

impl Store {
    /// Opens the data directory, which is created if it is missing. `key_file` is that of the config.
    ///
    /// # Errors
    /// [`StoreError::DataDir`] when the directory cannot be used.
    pub(crate) fn of_bridge(
        bridge: &BridgeSection,
        key_file: Option<&Path>,
    ) -> Result<Self, StoreError> {
        Ok(Self::of(bridge.open_data_dir()?, key_file))
    }

    /// Returns the store of an open directory.
    pub(crate) fn of(dir: PrivateDir, key_file: Option<&Path>) -> Self {
        Self {
            dir,
            key_file: key_file.map(Path::to_owned),
        }
    }

    /// Returns the file's path.
    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path(FILE)
    }

    fn damaged(&self, detail: impl std::fmt::Display) -> StoreError {
        StoreError::Damaged {
            path: self.path().display().to_string(),
            detail: detail.to_string(),
        }
    }

    fn file(&self) -> Result<File, StoreError> {
        let Some(bytes) = self.dir.read_private(FILE)? else {
            return Ok(File {
                version: VERSION,
                credentials: Vec::new(),
            });
        };
        let file: File = serde_json::from_slice(&bytes)
            .map_err(|error| self.damaged(not_credentials(&error)))?;
        if file.version != VERSION {
            return Err(self.damaged(format!("version {} is not known", file.version)));
        }
        if file.credentials.len() > CREDENTIALS_MAX {
            return Err(self.damaged("too many credentials"));
        }
        Ok(file)
    }

    /// Reads all credentials.
    ///
    /// # Errors
    /// [`StoreError`]; a credential that cannot be read fails all, so that none is silently missing.
    pub(crate) fn load(&self) -> Result<Credentials, StoreError> {
        let file = self.file()?;
        // Without credentials no key is needed, and reading creates none.
        if file.credentials.is_empty() {
            return Ok(Credentials::default());
        }
        let key = self.key(false)?;
        let all: Result<Vec<_>, _> = file
            .credentials
            .iter()
            .map(|entry| self.open(&key, entry))
            .collect();
        Ok(Credentials::new(all?))
    }

    /// Writes one, and replaces any of that name.
    ///
    /// # Errors
    /// [`StoreError`]; the file is then as it was.
    pub(crate) fn set(&self, credential: &Credential) -> Result<(), StoreError> {
        // The lock covers read and write: two commands at once would otherwise lose one of the changes.
        let _lock = self.dir.lock(LOCK_FILE)?;
        let mut file = self.file()?;
        file.credentials
            .retain(|entry| entry.name != credential.name);
        if file.credentials.len() >= CREDENTIALS_MAX {
            return Err(StoreError::Full);
        }
        // A new key next to secrets that another one sealed would hide that the other one is lost.
        let key = self.key(file.credentials.is_empty())?;
        file.credentials.push(seal(&key, credential)?);
        // A stable order makes copies of the file comparable.
        file.credentials.sort_by(|a, b| a.name.cmp(&b.name));
        self.write(&file)
    }

    /// Removes one.
    ///
    /// # Errors
    /// [`StoreError::Unknown`] when there is none of that name.
    pub(crate) fn remove(&self, name: &str) -> Result<(), StoreError> {
        let _lock = self.dir.lock(LOCK_FILE)?;
        let mut file = self.file()?;
        let before = file.credentials.len();
        file.credentials.retain(|entry| entry.name != name);
        if file.credentials.len() == before {
            return Err(StoreError::Unknown {
                name: name.to_owned(),
            });
        }
        self.write(&file)
    }

    fn write(&self, file: &File) -> Result<(), StoreError> {
        let bytes = serde_json::to_vec_pretty(file).map_err(|error| self.damaged(error))?;
        self.dir.write_private(FILE, &bytes)?;
        Ok(())
    }

    /// Returns the sealing key. `make` decides whether a missing one is created.
    fn key(&self, make: bool) -> Result<NonceKey, StoreError> {
        // Only if the file exists: a unit may set the directory for other credentials.
        let managed = std::env::var_os("CREDENTIALS_DIRECTORY")
            .map(|dir| Path::new(&dir).join(MANAGED_KEY_FILE))
            .filter(|path| path.exists());
        let bytes = match self.key_file.clone().or(managed) {
            Some(path) => self.given_key(&path)?,
            None => self.own_key(make)?,
        };
        if !KEY_BYTES.contains(&bytes.len()) {
            let detail = format!("it has {} bytes; a key has 32 to 4096", bytes.len());
            return Err(self.key_error(detail));
        }
        NonceKey::derive(&bytes, KEY_LABEL).map_err(|_| StoreError::Random)
    }

    fn key_error(&self, detail: impl Into<String>) -> StoreError {
        let own = || self.dir.path(OWN_KEY_FILE);
        let path = self.key_file.clone().unwrap_or_else(own);
        StoreError::Key {
            path: path.display().to_string(),
            detail: detail.into(),
        }
    }

    fn given_key(&self, path: &Path) -> Result<Zeroizing<Vec<u8>>, StoreError> {
        // The service manager's file is read-only, and readable by the service's user alone.
        read_given(path, |bytes| {
            self.dir.tightens() && KEY_BYTES.contains(&bytes.len())
        })?
        .map(Zeroizing::new)
        .ok_or_else(|| self.key_error("it does not exist"))
    }

    fn own_key(&self, make: bool) -> Result<Zeroizing<Vec<u8>>, StoreError> {
        if let Some(bytes) = self.dir.read_private(OWN_KEY_FILE)? {
            return unwrapped(bytes.into()).map_err(|why| self.key_error(why));
        }
        if !make {
            return Err(self.key_error(
                "it does not exist, and the credentials were encrypted with it: restore it from a backup; if it is \
                 lost, remove each credential (`integration-bridge credential remove NAME`) and set it again",
            ));
        }
        let mut bytes = Zeroizing::new(vec![0; 32]);
        let random = SystemRandom::new();
        random.fill(&mut bytes).map_err(|_| StoreError::Random)?;
        let file = wrapped(&bytes).map_err(|why| self.key_error(why))?;
        self.dir.write_private(OWN_KEY_FILE, &file)?;
        Ok(bytes)
    }

    fn open(&self, key: &NonceKey, entry: &Entry) -> Result<Credential, StoreError> {
        let sealed = || StoreError::Sealed {
            name: entry.name.clone(),
        };
        let bytes = STANDARD.decode(&entry.sealed).map_err(|_| sealed())?;
        let context = context(&entry.name, &entry.kind, &entry.origins);
        let plain = Zeroizing::new(key.open(&context, bytes).map_err(|_| sealed())?);
        let parts: Parts = serde_json::from_slice(&plain).map_err(|_| sealed())?;
        let origins: Result<Vec<Origin>, _> =
            entry.origins.iter().map(|origin| origin.parse()).collect();
        let kind = parts.into_kind(&entry.kind);
        Ok(Credential::new(
            entry.name.clone(),
            kind.map_err(|error| self.damaged(error))?,
            origins.map_err(|error| self.damaged(error))?,
        ))
    }
}

/// Returns what is wrong with the text of the file.
fn not_credentials(error: &serde_json::Error) -> String {
    let line = error.line();
    match error.classify() {
        serde_json::error::Category::Eof => format!("it ends early, at line {line}"),
        serde_json::error::Category::Data => {
            format!("line {line} has something that this version does not write")
        }
        serde_json::error::Category::Io | serde_json::error::Category::Syntax => {
            format!("invalid JSON at line {line}")
        }
    }
}

/// Returns what is authenticated with the secret part. Lengths keep texts apart: no other entry has the same bytes.
fn context(name: &str, kind: &str, origins: &[String]) -> Vec<u8> {
    let mut out = Vec::new();
    let parts = [name, kind]
        .into_iter()
        .chain(origins.iter().map(String::as_str));
    for part in parts {
        out.extend_from_slice(&(part.len() as u64).to_be_bytes());
        out.extend_from_slice(part.as_bytes());
    }
    out
}

fn seal(key: &NonceKey, credential: &Credential) -> Result<Entry, StoreError> {
    let origins: Vec<String> = credential.origins.iter().map(ToString::to_string).collect();
    let kind = credential.kind.word().to_owned();
    let mut parts = Parts::of(&credential.kind);
    let text = Zeroizing::new(serde_json::to_vec(&parts).map_err(|_| StoreError::Random)?);
    parts.secret.zeroize();
    let context = context(&credential.name, &kind, &origins);
    let sealed = key.seal(&context, &text).map_err(|_| StoreError::Random)?;
    Ok(Entry {
        name: credential.name.clone(),
        kind,
        origins,
        sealed: STANDARD.encode(sealed),
    })
}

impl Parts {
    fn of(kind: &Kind) -> Self {
        let secret = |secret: &Secret| secret.expose().to_owned();
        match kind {
            Kind::Basic { user, password } => Self {
                user: Some(user.clone()),
                secret: secret(password),
                ..Self::default()
            },
            Kind::Alm { login, .. } => {
                let name = Some(login.name().to_owned());
                let (user, client_id) = match login {
                    Login::Password { .. } => (name, None),
                    Login::ApiKey { .. } => (None, name),
                };
                Self {
                    user,
                    client_id,
                    secret: secret(login.secret()),
                    ..Self::default()
                }
            }
            Kind::Bearer { token } => Self {
                secret: secret(token),
                ..Self::default()
            },
            Kind::Header { name, value } => Self {
                header: Some(name.to_string()),
                secret: secret(value),
                ..Self::default()
            },
            Kind::Certificate(certificate) => Self {
                certificate: Some(certificate.chain_pem().to_owned()),
                secret: secret(&Secret::new(certificate.key_pem())),
                ..Self::default()
            },
        }
    }

    fn into_kind(self, word: &str) -> Result<Kind, String> {
        make_kind(
            word,
            self.user,
            self.client_id,
            self.header.as_deref(),
            self.certificate,
            Secret::owned(self.secret),
        )
    }
}

/// A credential's kind from its parts, as the file or the command line has them.
///
/// # Errors
/// What is missing, or what would be right.
pub(crate) fn make_kind(
    word: &str,
    user: Option<String>,
    client_id: Option<String>,
    header: Option<&str>,
    certificate: Option<String>,
    secret: Secret,
) -> Result<Kind, String> {
    if secret.is_empty() {
        return Err("the secret is empty".into());
    }
    let user = user.filter(|user| !user.is_empty() && !user.contains(':'));
    let no_user = "this kind needs a user (--user), without ':'";
    if client_id.is_some() && word != "alm" {
        return Err("--client-id belongs to the kind alm".into());
    }
    let client_id = client_id.filter(|id| !id.is_empty() && !id.contains(char::is_control));
    let is_field = |text: &str| text.bytes().all(|byte| byte >= b' ' && byte != 0x7f);
    match word {
        "basic" => Ok(Kind::Basic {
            user: user.ok_or(no_user)?,
            password: secret,
        }),
        "alm" => Ok(Kind::Alm {
            login: match (user, client_id) {
                (Some(user), None) => Login::Password {
                    user,
                    password: secret,
                },
                (None, Some(client_id)) => Login::ApiKey { client_id, secret },
                _ => {
                    return Err(
                        "this kind needs a user (--user), without ':', or the client id of \
                                an API key (--client-id)"
                            .into(),
                    );
                }
            },
            sessions: Arc::default(),
        }),
        "bearer" if !is_field(secret.expose()) => Err("a token is one line of text".into()),
        "bearer" => Ok(Kind::Bearer { token: secret }),
        "header" if !is_field(secret.expose()) => Err("a field's value is one line of text".into()),
        "header" => {
            let name = header.ok_or("this kind needs the field's name (--header)")?;
            let name = name.parse().map_err(|_| "--header is no name of a field")?;
            let forbidden = [
                http::header::HOST,
                http::header::CONTENT_LENGTH,
                http::header::TRANSFER_ENCODING,
                http::header::CONNECTION,
                http::header::UPGRADE,
                http::header::TE,
                http::header::TRAILER,
            ];
            if forbidden.contains(&name) {
                return Err(format!("the field {name} belongs to the connection"));
            }
            Ok(Kind::Header {
                name,
                value: secret,
            })
        }
        "certificate" => {
            let chain =
                certificate.ok_or("this kind needs the certificate's file (--certificate-file)")?;
            let certificate = ClientCert::new(chain, secret.expose().to_owned())?;
            Ok(Kind::Certificate(Arc::new(certificate)))
        }
        other => Err(format!("{other} is no kind of credential")),
    }
}

/// Checks what the command line was given of a credential.
///
/// # Errors
/// What would be right.
pub(crate) fn checked(name: &str, kind: Kind, origins: Vec<Origin>) -> Result<Credential, String> {
    check_credential_name(name)?;
    if origins.is_empty() || origins.len() > ORIGINS_MAX {
        return Err(format!(
            "a credential names 1 to {ORIGINS_MAX} origins that it may be sent to: add \
             --origin https://host, or name the credential in an [[endpoint]] of the config first"
        ));
    }
    Ok(Credential::new(name.to_owned(), kind, origins))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    fn basic(name: &str, origin: &str) -> Credential {
        let kind = make_kind(
            "basic",
            Some("me".into()),
            None,
            None,
            None,
            Secret::new("sesame"),
        );
        checked(name, kind.unwrap(), vec![origin.parse().unwrap()]).unwrap()
    }

    fn store(dir: &TempDir) -> Store {
        Store::of(PrivateDir::open(&dir.path().join("data")).unwrap(), None)
    }

    #[test]
    fn what_is_set_comes_back_and_is_not_in_the_file() {
        let dir = TempDir::new("credentials");
        let store = store(&dir);
        assert_eq!(store.load().unwrap().all().count(), 0);
        store
            .set(&basic("alm", "https://alm.corp.example"))
            .unwrap();
        store
            .set(&basic("ci", "http://ci.corp.example:8080"))
            .unwrap();
        let text = std::fs::read_to_string(store.path()).unwrap();
        assert!(!text.contains("sesame") && text.contains("https://alm.corp.example"));
        let all = store.load().unwrap();
        let Kind::Basic { user, password } = &all.get("alm").unwrap().kind else {
            panic!("another kind");
        };
        assert_eq!((user.as_str(), password.expose()), ("me", "sesame"));
        store.remove("alm").unwrap();
        assert!(store.load().unwrap().get("alm").is_none());
        assert!(matches!(
            store.remove("alm"),
            Err(StoreError::Unknown { .. })
        ));
    }

    #[test]
    fn damaged_file_is_reported_in_plain_words() {
        let dir = TempDir::new("credentials-damaged");
        let store = store(&dir);
        for (text, detail) in [
            ("{\n", "it ends early, at line 2"),
            ("{\"version\": x}", "invalid JSON at line 1"),
            (
                "{\n\"other\": 1}",
                "line 2 has something that this version does not write",
            ),
        ] {
            store.dir.write_private(FILE, text.as_bytes()).unwrap();
            let error = store.load().unwrap_err().to_string();
            assert!(error.contains(&format!("is damaged ({detail})")), "{error}");
        }
    }

    #[test]
    fn an_entry_that_was_pointed_elsewhere_does_not_open() {
        let dir = TempDir::new("credentials-moved");
        let store = store(&dir);
        store
            .set(&basic("alm", "https://alm.corp.example"))
            .unwrap();
        let text = std::fs::read_to_string(store.path()).unwrap();
        let moved = text.replace("alm.corp.example", "evil.example");
        store.dir.write_private(FILE, moved.as_bytes()).unwrap();
        assert!(matches!(store.load(), Err(StoreError::Sealed { .. })));
        let renamed = text.replace("\"alm\"", "\"ci\"");
        store.dir.write_private(FILE, renamed.as_bytes()).unwrap();
        assert!(matches!(store.load(), Err(StoreError::Sealed { .. })));
    }

    #[test]
    fn another_key_opens_nothing_and_a_missing_one_is_said() {
        let dir = TempDir::new("credentials-key");
        let store = store(&dir);
        store
            .set(&basic("alm", "https://alm.corp.example"))
            .unwrap();
        store.dir.write_private(OWN_KEY_FILE, &[7; 32]).unwrap();
        assert!(matches!(store.load(), Err(StoreError::Sealed { .. })));
        store.dir.write_private(OWN_KEY_FILE, &[7; 5]).unwrap();
        assert!(matches!(store.load(), Err(StoreError::Key { .. })));
        std::fs::remove_file(store.dir.path(OWN_KEY_FILE)).unwrap();
        assert!(matches!(store.load(), Err(StoreError::Key { .. })));
        // No new key is made while secrets of the lost one are there. Without them one is.
        let other = basic("ci", "http://ci.corp.example:8080");
        let error = store.set(&other).unwrap_err();
        assert!(matches!(error, StoreError::Key { .. }), "{error}");
        assert!(!store.dir.path(OWN_KEY_FILE).exists());
        store.remove("alm").unwrap();
        store.set(&other).unwrap();
        store.load().unwrap();
    }

    #[test]
    fn parts_that_are_missing_or_wrong_are_named() {
        let make = |kind: &str, user: Option<&str>, header: Option<&str>, secret: &str| {
            make_kind(
                kind,
                user.map(Into::into),
                None,
                header,
                None,
                Secret::new(secret),
            )
            .map(|_| ())
        };
        for (made, part) in [
            (make("basic", None, None, "x"), "--user"),
            (make("basic", Some("a:b"), None, "x"), "':'"),
            (make("basic", Some("a"), None, ""), "empty"),
            (make("header", None, None, "x"), "--header"),
            (make("header", None, Some("Host"), "x"), "connection"),
            (make("header", None, Some("a b"), "x"), "no name"),
            (make("bearer", None, None, "a\nb"), "one line"),
            (make("certificate", None, None, "x"), "--certificate-file"),
            (make("kerberos", None, None, "x"), "no kind"),
        ] {
            let error = made.unwrap_err();
            assert!(error.contains(part), "{error}");
        }
        assert!(make("header", None, Some("x-api-key"), "k").is_ok());
    }
}
