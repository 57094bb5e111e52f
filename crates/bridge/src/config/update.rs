//! `[update]`: which programs `integration-bridge update` may install. The running bridge never installs anything.

use super::Window;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use protocol::version::ProgramVersion;
use runtime::config::text;
use runtime::from_text;
use serde::de::Deserializer;
use serde::{Deserialize, Serialize};
use std::str::FromStr;

/// Bytes of a public key (Ed25519).
const KEY_BYTES: usize = 32;

/// `[update]`.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct UpdateSection {
    /// The public keys (Ed25519) whose signatures of a release are trusted. Defaults to none: nothing is installed.
    #[serde(skip_serializing)]
    pub keys: Vec<ReleaseKey>,
    /// The only version that may be installed. Defaults to any.
    #[serde(deserialize_with = "version", skip_serializing)]
    pub pin: Option<ProgramVersion>,
    /// The time of the week at which `update` installs. Defaults to any time.
    #[serde(skip_serializing)]
    pub window: Option<Window>,
}

fn version<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<ProgramVersion>, D::Error> {
    text(deserializer, "a version in quotes, as in \"1.4.0\"").map(Some)
}

/// A public key of the party that signs releases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReleaseKey([u8; KEY_BYTES]);

impl ReleaseKey {
    /// Returns its bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl FromStr for ReleaseKey {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bytes = STANDARD.decode(text.trim()).ok();
        let key = bytes.and_then(|bytes| <[u8; KEY_BYTES]>::try_from(bytes).ok());
        key.map(Self).ok_or_else(|| {
            "is not a public key of a release: write the 32 bytes of an Ed25519 key in base64, 44 characters".to_owned()
        })
    }
}

from_text! {
    ReleaseKey, "the public key of a release in quotes, in base64";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn release_key_has_32_bytes() {
        let key = STANDARD.encode([7; 32]);
        assert_eq!(key.parse::<ReleaseKey>().unwrap().bytes(), [7; 32]);
        for wrong in ["", "AAAA", "not base64!", &STANDARD.encode([7; 33])] {
            assert!(wrong.parse::<ReleaseKey>().is_err(), "{wrong}");
        }
    }
}
