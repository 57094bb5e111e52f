//! The key pair of a pairing that has begun.
//!
//! ```text
//! key pair on disk -> request -> the relay registers it -> identity.json -> this file is removed
//!                     crash or lost response: the same key pair asks again
//! ```
//!
//! The relay gives a repeated request of a registered key pair the same response. A new key pair would be another
//! installation, which it refuses: the key of a pairing file pairs one.

use super::{IdentityError, Key};
use crate::data_dir::DataDir;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use runtime::secret::{Zeroize as _, Zeroizing};
use serde::{Deserialize, Serialize};

/// Name of the file in the data directory.
pub(crate) const PENDING_FILE: &str = "pairing.json";

/// The content of the file. Bytes are in base64.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    relay: String,
    instance: String,
    private_key: String,
}

impl Key {
    /// Returns the key pair of a pairing with the relay that has begun, or creates and stores one. `is_it` says whether a
    /// stored URL is that of the relay.
    ///
    /// # Errors
    /// [`IdentityError::DataDir`] if the file cannot be read or written, [`IdentityError::Random`].
    pub(crate) fn pending(
        data_dir: &DataDir,
        relay: &str,
        is_it: impl Fn(&str) -> bool,
    ) -> Result<Self, IdentityError> {
        let text = data_dir.read_private(PENDING_FILE)?.map(Zeroizing::new);
        // A damaged file holds nothing that a relay knows for certain: it is replaced.
        if let Some(key) = text.and_then(|text| read(&text, is_it)) {
            return Ok(key);
        }
        let key = Self::generate()?;
        let mut stored = Stored {
            relay: relay.to_owned(),
            instance: STANDARD.encode(key.instance),
            private_key: STANDARD.encode(&*key.pkcs8),
        };
        let text = serde_json::to_vec_pretty(&stored).expect("strings are always JSON");
        let text = Zeroizing::new(text);
        stored.private_key.zeroize();
        data_dir.write_private(PENDING_FILE, &text)?;
        Ok(key)
    }
}

fn read(text: &[u8], is_it: impl Fn(&str) -> bool) -> Option<Key> {
    let stored: Stored = serde_json::from_slice(text).ok()?;
    let private_key = Zeroizing::new(stored.private_key);
    if !is_it(&stored.relay) {
        return None;
    }
    let instance = STANDARD.decode(&stored.instance).ok()?.try_into().ok()?;
    let pkcs8 = STANDARD.decode(private_key.as_bytes()).ok()?;
    Key::from_parts(pkcs8.into(), instance)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn pending_key_is_kept_for_its_relay() {
        let temp = TempDir::new("pending");
        let data_dir = DataDir::open(&temp.path().join("data")).unwrap();
        let key = |relay: &str| {
            let key = Key::pending(&data_dir, relay, |before| before == relay).unwrap();
            (key.public().to_vec(), key.instance())
        };
        let first = key("https://a:443");
        assert_eq!(key("https://a:443"), first);
        let other = key("https://b:443");
        assert_ne!(other, first, "another relay gets another key pair");
        assert_eq!(key("https://b:443"), other);
        data_dir.write_private(PENDING_FILE, b"{\"relay\"").unwrap();
        assert_ne!(key("https://b:443"), other, "a damaged file is replaced");
        data_dir.remove(PENDING_FILE).unwrap();
        assert!(data_dir.read_private(PENDING_FILE).unwrap().is_none());
    }
}
