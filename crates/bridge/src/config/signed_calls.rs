//! `[signed_calls]`: the bridge executes only what the tenant's own application has signed.

use runtime::config::{ByteSize, FilePath, Timeout};
use serde::Deserialize;

/// `[signed_calls]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SignedCallsSection {
    /// The tenant's Ed25519 public key. Defaults to none: no signature is required.
    pub public_key_file: Option<FilePath>,
    /// Longest validity of a signature; it must outlast the retries of deliveries. Defaults to `"24h"`.
    pub validity_max: Timeout,
    /// Largest body of a signed request, which is held until its digest was checked. Defaults to `"1MiB"`.
    pub body_max: ByteSize,
    /// Whether a signature must cover `Bridge-Key`, the fingerprint of this bridge's key. Then no other
    /// installation of the same name accepts it. Defaults to false.
    pub require_bridge_key: bool,
}

impl Default for SignedCallsSection {
    fn default() -> Self {
        Self {
            public_key_file: None,
            validity_max: Timeout::secs(24 * 60 * 60),
            body_max: ByteSize::mib(1),
            require_bridge_key: false,
        }
    }
}
