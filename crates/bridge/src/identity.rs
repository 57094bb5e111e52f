//! Who this bridge is: its Ed25519 key and what the relay called it at pairing.
//!
//! ```text
//! pair:  new_key -> the relay registers the public key -> Identity::save
//! run:   Identity::load -> transport::Identity, which signs each opening
//! ```
//!
//! `identity.json` holds the private key. It is written atomically with mode 0600, and refused
//! when others can read it. The API key that pairing needs is never stored.

use crate::data_dir::{DataDir, DataDirError, PrivateDir};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

/// Name of the file in the data directory.
pub const IDENTITY_FILE: &str = "identity.json";

/// Why there is no usable identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The bridge was not paired yet.
    #[error(
        "this bridge is not paired yet: {path} does not exist; run `integration-bridge pair` first"
    )]
    NotPaired {
        /// The file that is missing.
        path: String,
    },
    /// The file is there and is not an identity.
    #[error("{path} is damaged ({detail}); restore it from a backup, or remove it and pair again")]
    Damaged {
        /// The file.
        path: String,
        /// What is wrong with it.
        detail: String,
    },
    /// The data directory does not work.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The system gave no randomness.
    #[error("the system gave no random bytes for a key")]
    Random,
}

/// The key pair and the installation's random id. Made once, kept over pairings.
#[derive(Clone)]
pub struct Key {
    pkcs8: Vec<u8>,
    pair: Arc<Ed25519KeyPair>,
    instance: [u8; 16],
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

impl Key {
    /// Makes a new one.
    ///
    /// # Errors
    /// [`IdentityError::Random`] when the system gives no randomness.
    pub fn generate() -> Result<Self, IdentityError> {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new())
            .map_err(|_| IdentityError::Random)?;
        let instance = transport::handshake::random().map_err(|_| IdentityError::Random)?;
        Self::from_parts(pkcs8.as_ref().to_vec(), instance).ok_or(IdentityError::Random)
    }

    fn from_parts(pkcs8: Vec<u8>, instance: [u8; 16]) -> Option<Self> {
        let pair = Ed25519KeyPair::from_pkcs8(&pkcs8).ok()?;
        Some(Self {
            pkcs8,
            pair: Arc::new(pair),
            instance,
        })
    }

    /// The public key, 32 bytes.
    pub fn public(&self) -> &[u8] {
        self.pair.public_key().as_ref()
    }

    /// The installation's random id.
    pub fn instance(&self) -> [u8; 16] {
        self.instance
    }

    /// The key pair, for signing.
    pub(crate) fn pair(&self) -> &Ed25519KeyPair {
        &self.pair
    }
}

/// A paired bridge.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The relay that it was paired with, `https://host:port`.
    pub relay: String,
    /// The tenant's name, for people.
    pub tenant: String,
    /// The tenant's id.
    pub tenant_id: String,
    /// The bridge's id.
    pub bridge_id: String,
    /// The bridge's name.
    pub name: String,
    /// Its key.
    pub key: Key,
}

/// The file. Base64 for bytes.
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
    /// [`IdentityError`]: not paired, readable by others, damaged.
    pub fn load(data_dir: &PrivateDir) -> Result<Self, IdentityError> {
        let path = data_dir.path(IDENTITY_FILE).display().to_string();
        let text = data_dir
            .read_private(IDENTITY_FILE)?
            .ok_or_else(|| IdentityError::NotPaired { path: path.clone() })?;
        let damaged = |detail: &str| IdentityError::Damaged {
            path: path.clone(),
            detail: detail.to_owned(),
        };
        // The parser's own message may quote what it read: only its place is passed on.
        let stored: Stored = serde_json::from_slice(&text)
            .map_err(|error| damaged(&format!("not valid at line {}", error.line())))?;
        let instance = STANDARD
            .decode(&stored.instance)
            .ok()
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or_else(|| damaged("its instance is not 16 bytes"))?;
        let key = STANDARD
            .decode(&stored.private_key)
            .ok()
            .and_then(|pkcs8| Key::from_parts(pkcs8, instance))
            .ok_or_else(|| damaged("its private key cannot be read"))?;
        Ok(Self {
            relay: stored.relay,
            tenant: stored.tenant,
            tenant_id: stored.tenant_id,
            bridge_id: stored.bridge_id,
            name: stored.name,
            key,
        })
    }

    /// Writes the identity: whole or not at all, mode 0600.
    ///
    /// # Errors
    /// [`IdentityError::DataDir`] when it cannot be written.
    pub fn save(&self, data_dir: &DataDir) -> Result<(), IdentityError> {
        let stored = Stored {
            relay: self.relay.clone(),
            tenant: self.tenant.clone(),
            tenant_id: self.tenant_id.clone(),
            bridge_id: self.bridge_id.clone(),
            name: self.name.clone(),
            instance: STANDARD.encode(self.key.instance),
            private_key: STANDARD.encode(&self.key.pkcs8),
        };
        let text = serde_json::to_vec_pretty(&stored).expect("strings are always JSON");
        data_dir.write_private(IDENTITY_FILE, &text)?;
        Ok(())
    }

    /// What an opening needs of it.
    pub fn for_tunnel(&self) -> transport::handshake::Identity {
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

/// The program's name and version, for people.
pub fn software() -> String {
    concat!("integration-bridge/", env!("CARGO_PKG_VERSION")).to_owned()
}

/// The host's name, for people; `unknown` where the system does not say.
pub fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .ok()
        .or_else(|| std::env::var("COMPUTERNAME").ok())
        .or_else(|| std::env::var("HOSTNAME").ok())
        .map(|name| name.trim().chars().take(253).collect::<String>())
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "unknown".into())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::data_dir::tests::TempDir;

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
    fn an_identity_survives_and_is_private() {
        let temp = TempDir::new("identity with spaces é");
        let data_dir = DataDir::open(temp.path()).unwrap();
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
    fn a_damaged_identity_is_said_to_be_damaged_and_is_not_quoted() {
        let temp = TempDir::new("damaged");
        let data_dir = DataDir::open(temp.path()).unwrap();
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
    fn a_key_that_others_can_read_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let temp = TempDir::new("open key");
        let data_dir = DataDir::open(temp.path()).unwrap();
        example().save(&data_dir).unwrap();
        let path = data_dir.path(IDENTITY_FILE);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let error = Identity::load(&data_dir).unwrap_err();
        assert!(error.to_string().contains("chmod 600"), "{error}");
    }
}
