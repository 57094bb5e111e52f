//! The bridge's identity: its Ed25519 key, and the names and ids that the relay assigned at pairing.
//!
//! ```text
//! pair:  Key::pending -> the relay registers the public key -> Identity::save
//! run:   Identity::load -> transport::Identity, which signs each opening
//! ```
//!
//! `identity.json` holds the private key. It is written atomically with mode 0600, and rejected if other
//! users can read it. The API key that pairing needs is never stored.

mod pending;

pub(crate) use pending::PENDING_FILE;

use crate::data_dir::{DataDir, DataDirError, PrivateDir};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use runtime::secret::{Zeroize as _, Zeroizing};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;
use transport::dial::RelayUrl;

/// Name of the file in the data directory.
pub(crate) const IDENTITY_FILE: &str = "identity.json";

/// Why there is no usable identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The bridge has not been paired yet.
    #[error(
        "this bridge is not paired yet: {path} does not exist; run `integration-bridge pair` first"
    )]
    NotPaired {
        /// The file that is missing.
        path: String,
    },
    /// The file exists and is not an identity.
    #[error("{path} is damaged ({detail}); restore it from a backup, or remove it and pair again")]
    Damaged {
        /// The file.
        path: String,
        /// The defect.
        detail: String,
    },
    /// The data directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The system's random generator failed.
    #[error("the system's random generator failed; cannot create a key")]
    Random,
}

/// A pairing that does not fit the config.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OtherPairing {
    /// It was paired with another relay.
    #[error(
        "this bridge is paired with {paired}, but relay.url is {configured}; correct relay.url, or pair \
         the bridge with the other relay (`integration-bridge pair`)"
    )]
    Relay {
        /// The relay of the identity.
        paired: String,
        /// The relay of the config.
        configured: String,
    },
    /// It was paired under another name.
    #[error(
        "bridge.name is \"{configured}\", but this bridge is paired as \"{paired}\"; write the old name, or pair \
         the bridge again (`integration-bridge pair`)"
    )]
    Name {
        /// The name of the identity.
        paired: String,
        /// The name of the config.
        configured: String,
    },
}

impl OtherPairing {
    /// Returns the config key that differs.
    pub(crate) fn key(&self) -> &'static str {
        match self {
            Self::Relay { .. } => "relay.url",
            Self::Name { .. } => "bridge.name",
        }
    }
}

/// The key pair and the installation's random id. Created once and kept when the bridge is paired again.
#[derive(Clone)]
pub struct Key {
    // ring cannot export a key pair, so the encoding is kept for `save`.
    pkcs8: Zeroizing<Vec<u8>>,
    pair: Arc<Ed25519KeyPair>,
    instance: [u8; 16],
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Secrets are redacted in `Debug`.
        f.write_str("Key(..)")
    }
}

impl Key {
    /// Creates a new key pair and id.
    ///
    /// # Errors
    /// [`IdentityError::Random`] if the system's random generator fails.
    pub fn generate() -> Result<Self, IdentityError> {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new())
            .map_err(|_| IdentityError::Random)?;
        let instance = transport::handshake::random().map_err(|_| IdentityError::Random)?;
        Self::from_parts(pkcs8.as_ref().to_vec().into(), instance).ok_or(IdentityError::Random)
    }

    fn from_parts(pkcs8: Zeroizing<Vec<u8>>, instance: [u8; 16]) -> Option<Self> {
        let pair = Ed25519KeyPair::from_pkcs8(&pkcs8).ok()?;
        Some(Self {
            pkcs8,
            pair: Arc::new(pair),
            instance,
        })
    }

    /// Returns the public key, 32 bytes.
    pub fn public(&self) -> &[u8] {
        self.pair.public_key().as_ref()
    }

    /// Returns the installation's random id.
    pub fn instance(&self) -> [u8; 16] {
        self.instance
    }

    /// Returns the key pair, for signing.
    pub(crate) fn pair(&self) -> &Ed25519KeyPair {
        &self.pair
    }
}

/// A paired bridge.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The relay that the bridge was paired with, `https://host:port`.
    pub relay: String,
    /// The tenant's name, for people.
    pub tenant: String,
    /// The tenant's id.
    pub tenant_id: String,
    /// The bridge's id.
    pub bridge_id: String,
    /// The bridge's name.
    pub name: String,
    /// The bridge's key.
    pub key: Key,
}

/// The content of the file. Bytes are in base64.
// Unknown fields are errors, because `save` would lose them.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    relay: String,
    tenant: String,
    tenant_id: String,
    bridge_id: String,
    name: String,
    instance: String,
    private_key: String,
}

impl Identity {
    /// Reads the identity.
    ///
    /// # Errors
    /// [`IdentityError`] if the bridge is not paired, or the file is damaged or readable by others.
    pub fn load(data_dir: &PrivateDir) -> Result<Self, IdentityError> {
        let path = data_dir.path(IDENTITY_FILE).display().to_string();
        let text = data_dir
            .read_private(IDENTITY_FILE)?
            .ok_or_else(|| IdentityError::NotPaired { path: path.clone() })?;
        let text = Zeroizing::new(text);
        let damaged = |detail: &str| IdentityError::Damaged {
            path: path.clone(),
            detail: detail.to_owned(),
        };
        // The parser's message may quote the private key, so only the line is reported.
        let stored: Stored = serde_json::from_slice(&text)
            .map_err(|error| damaged(&format!("invalid JSON at line {}", error.line())))?;
        let instance = STANDARD
            .decode(&stored.instance)
            .ok()
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or_else(|| damaged("the field instance is not 16 bytes"))?;
        let private_key = Zeroizing::new(stored.private_key);
        let key = STANDARD
            .decode(private_key.as_bytes())
            .ok()
            .and_then(|pkcs8| Key::from_parts(pkcs8.into(), instance))
            .ok_or_else(|| damaged("the field private_key is not an Ed25519 key"))?;
        Ok(Self {
            relay: stored.relay,
            tenant: stored.tenant,
            tenant_id: stored.tenant_id,
            bridge_id: stored.bridge_id,
            name: stored.name,
            key,
        })
    }

    /// Checks that the config has the relay and the name under which the bridge is paired.
    ///
    /// # Errors
    /// [`OtherPairing`] with the first difference.
    pub(crate) fn check(&self, relay: &RelayUrl, name: &str) -> Result<(), OtherPairing> {
        let configured = relay.to_string();
        if self.relay != configured {
            return Err(OtherPairing::Relay {
                paired: self.relay.clone(),
                configured,
            });
        }
        if self.name != name {
            return Err(OtherPairing::Name {
                paired: self.name.clone(),
                configured: name.to_owned(),
            });
        }
        Ok(())
    }

    /// Writes the identity atomically, with mode 0600.
    ///
    /// # Errors
    /// [`IdentityError::DataDir`] if the file cannot be written.
    pub fn save(&self, data_dir: &DataDir) -> Result<(), IdentityError> {
        let mut stored = Stored {
            relay: self.relay.clone(),
            tenant: self.tenant.clone(),
            tenant_id: self.tenant_id.clone(),
            bridge_id: self.bridge_id.clone(),
            name: self.name.clone(),
            instance: STANDARD.encode(self.key.instance),
            private_key: STANDARD.encode(&*self.key.pkcs8),
        };
        let text = serde_json::to_vec_pretty(&stored).expect("strings are always JSON");
        let text = Zeroizing::new(text);
        stored.private_key.zeroize();
        data_dir.write_private(IDENTITY_FILE, &text)?;
        Ok(())
    }

    /// Returns the part that the opening of a session needs.
    pub(crate) fn for_tunnel(&self) -> transport::handshake::Identity {
        transport::handshake::Identity {
            tenant: self.tenant_id.clone(),
            bridge: self.bridge_id.clone(),
            instance: self.key.instance,
            key: self.key.pair.clone(),
            software: software(),
            host: host_name(),
        }
    }
}

/// Returns the program's name and version, for people.
pub(crate) fn software() -> String {
    concat!("integration-bridge/", env!("CARGO_PKG_VERSION")).to_owned()
}

/// Returns the host's name, for people; `unknown` if the system does not report one.
pub(crate) fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .ok()
        .or_else(|| std::env::var("COMPUTERNAME").ok())
        .or_else(|| std::env::var("HOSTNAME").ok())
        // 253 is the most that DNS allows; the relay stores the name.
        .map(|name| name.trim().chars().take(253).collect::<String>())
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "unknown".into())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::testing::TempDir;

    pub(crate) fn example() -> Identity {
        Identity {
            relay: "https://relay.example.com:443".into(),
            tenant: "acme".into(),
            tenant_id: "t1".into(),
            bridge_id: "b1".into(),
            name: "berlin".into(),
            key: Key::generate().unwrap(),
        }
    }

    #[test]
    fn identity_round_trips_and_debug_redacts_it() {
        let temp = TempDir::new("identity with spaces é");
        let data_dir = DataDir::open(&temp.path().join("data")).unwrap();
        assert!(matches!(
            Identity::load(&data_dir),
            Err(IdentityError::NotPaired { .. })
        ));
        let identity = example();
        identity.save(&data_dir).unwrap();
        let loaded = Identity::load(&data_dir).unwrap();
        assert_eq!(loaded.key.public(), identity.key.public());
        assert_eq!(loaded.key.instance(), identity.key.instance());
        assert_eq!(loaded.bridge_id, "b1");
        assert!(!format!("{loaded:?}").contains("private"));
    }

    #[test]
    fn config_must_have_the_paired_relay_and_name() {
        let identity = example();
        let relay = |url: &str| url.parse::<RelayUrl>().unwrap();
        let own = relay("https://relay.example.com");
        identity.check(&own, "berlin").unwrap();
        let other = identity.check(&own, "third").unwrap_err();
        assert_eq!(other.key(), "bridge.name");
        assert_eq!(
            other.to_string(),
            "bridge.name is \"third\", but this bridge is paired as \"berlin\"; write the old name, or pair the bridge \
             again (`integration-bridge pair`)"
        );
        let other = identity.check(&relay("https://other.example"), "berlin");
        assert_eq!(other.unwrap_err().key(), "relay.url");
    }

    #[test]
    fn damaged_identity_is_reported_without_its_text() {
        let temp = TempDir::new("damaged");
        let data_dir = DataDir::open(&temp.path().join("data")).unwrap();
        for text in ["", "{}", "{\"private_key\": \"sesame\"}", "null"] {
            data_dir
                .write_private(IDENTITY_FILE, text.as_bytes())
                .unwrap();
            let error = Identity::load(&data_dir).unwrap_err();
            assert!(matches!(error, IdentityError::Damaged { .. }), "{error}");
            assert!(!error.to_string().contains("sesame"));
        }
    }

    #[cfg(unix)]
    #[test]
    fn identity_readable_by_others_is_tightened() {
        use std::os::unix::fs::PermissionsExt;
        let temp = TempDir::new("open key");
        let data_dir = DataDir::open(&temp.path().join("data")).unwrap();
        example().save(&data_dir).unwrap();
        let path = data_dir.path(IDENTITY_FILE);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o660)).unwrap();
        Identity::load(&data_dir).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
