//! The relay's entities as types: ids that cannot be confused, and secrets that `Debug` redacts.

use super::scope::Scope;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom, SystemRandom};
use runtime::secret::Zeroizing;
use serde::Serialize;
use std::fmt;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

pub(crate) use runtime::hex::encode as hex;

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident = $prefix:literal, $bytes:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Returns a new random id.
            ///
            /// # Errors
            /// [`NoRandom`] when the operating system returns no random bytes.
            pub fn random() -> Result<Self, NoRandom> {
                let bytes: [u8; $bytes] = random()?;
                Ok(Self(format!(concat!($prefix, "{}"), URL_SAFE_NO_PAD.encode(bytes)).into()))
            }

            /// Returns its text.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// Returns its text, shared.
            pub fn shared(&self) -> Arc<str> {
                self.0.clone()
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.into())
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(text.into())
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )*};
}

ids! {
    /// A tenant's id.
    TenantId = "ten_", 12;
    /// An API key's client id.
    ClientId = "ibk_", 12;
    /// A bridge's id.
    BridgeId = "brg_", 12;
    /// The id of one installation's key pair under a bridge's name.
    IdentityId = "idn_", 12;
}

/// The operating system returned no random bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the operating system returned no random bytes")]
pub struct NoRandom;

/// Returns random bytes.
///
/// # Errors
/// [`NoRandom`].
pub fn random<const N: usize>() -> Result<[u8; N], NoRandom> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| NoRandom)?;
    Ok(bytes)
}

/// Returns the time in seconds since 1970.
pub fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    })
}

/// Returns the time in milliseconds since 1970.
pub fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    })
}

/// Returns the time now, in milliseconds since 1970, without what a clock that was set forward has skipped.
///
/// Times that must survive a restart are stored by the clock. A clock that is set forward by a day must neither make every
/// attempt in flight count as lost nor delete what is to be kept for a year. So not more time has passed since the first call than
/// the monotonic clock says.
pub fn trusted_now_ms() -> i64 {
    static FIRST: LazyLock<(i64, Instant)> = LazyLock::new(|| (now_ms(), Instant::now()));
    let (first_ms, since) = *FIRST;
    trusted_ms(first_ms, since.elapsed(), now_ms())
}

fn trusted_ms(first_ms: i64, elapsed: Duration, now_ms: i64) -> i64 {
    let elapsed = i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX);
    now_ms.min(first_ms.saturating_add(elapsed))
}

/// An API key's secret: `ibs_` and 256 random bits. `Debug` redacts it; its memory is overwritten when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Returns a new random secret.
    ///
    /// # Errors
    /// [`NoRandom`].
    pub fn random() -> Result<Self, NoRandom> {
        let bytes: [u8; 32] = random()?;
        let text = Zeroizing::new(URL_SAFE_NO_PAD.encode(bytes));
        Ok(Self(Zeroizing::new(format!("ibs_{}", *text))))
    }

    /// Wraps the text that a caller presented.
    pub fn presented(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// Returns the secret itself, for its only display.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Returns the hash, which is all that is stored of it.
    pub fn hash(&self) -> SecretHash {
        // A plain hash is enough: with 256 random bits there is nothing that a slow hash would protect.
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, self.0.as_bytes()).as_ref());
        SecretHash(hash)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// SHA-256 of a secret. It can only be compared in constant time.
#[derive(Clone, Copy)]
pub struct SecretHash([u8; 32]);

impl SecretHash {
    /// Parses the bytes in the database.
    pub fn from_stored(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// Returns a hash that no secret has: no preimage of zeros is known.
    pub fn unmatchable() -> Self {
        Self([0; 32])
    }

    /// Returns its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns whether both are equal, in a time that does not depend on them.
    pub fn matches(&self, other: &Self) -> bool {
        // Callers present secrets: the time must not reveal how much of a hash matches.
        bool::from(subtle::ConstantTimeEq::ct_eq(&self.0[..], &other.0[..]))
    }
}

impl fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretHash")
    }
}

/// Defines enums whose variants are words in the database, the API and the CLI.
// One list for the type, its text and its parser, so that every value that is written can be read.
macro_rules! words {
    ($($(#[$doc:meta])* $name:ident ($what:literal) { $($(#[$vdoc:meta])* $variant:ident = $word:literal,)* })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$vdoc])* $variant,)*
        }

        impl $name {
            /// Returns the word in the database, the API and the CLI.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::storage::UnknownWord;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                match text {
                    $($word => Ok(Self::$variant),)*
                    _ => Err($crate::storage::UnknownWord {
                        what: $what,
                        given: text.to_owned(),
                        known: &[$($word),*],
                    }),
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    )*};
}
pub(super) use words;

/// A word that is not one of the known ones.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is not a {what}; known are: {}", .known.join(", "))]
pub struct UnknownWord {
    pub(super) what: &'static str,
    pub(super) given: String,
    pub(super) known: &'static [&'static str],
}

words! {
    /// The permissions of an API key.
    Role ("role") {
        /// Pair bridges.
        Bridge = "bridge",
        /// Make calls and use endpoints.
        Caller = "caller",
        /// Use endpoints, with bulk traffic.
        Synchronizer = "synchronizer",
        /// Everything that the tenant's other keys may do, and manage its bridges.
        Admin = "admin",
        /// Manage all tenants. Belongs to the relay's operators.
        SiteAdmin = "site-admin",
    }
    /// How a bridge key may treat a name under which another key pair is registered.
    Existing ("way to treat an existing bridge") {
        /// Pairing is refused.
        Refuse = "none",
        /// Add an installation to the registered ones.
        Join = "join",
        /// Revoke the registered installations and take the name over.
        Replace = "replace",
    }
    /// Whether a tenant's keys and bridges are accepted.
    TenantState ("tenant state") {
        /// They are accepted.
        Active = "active",
        /// They are refused until the tenant is resumed.
        Suspended = "suspended",
        /// The tenant was deleted.
        Deleted = "deleted",
    }
}

/// A customer's space.
#[derive(Debug, Clone)]
pub struct Tenant {
    /// Its id.
    pub id: TenantId,
    /// Its name, unique.
    pub name: String,
    /// Whether its keys and bridges are accepted.
    pub state: TenantState,
    /// When it was created, in seconds since 1970.
    pub created: i64,
    /// Patterns of URLs that the relay may call directly for this tenant.
    pub direct_urls: Vec<String>,
    /// The URL to which notices are sent, if there is one.
    pub notice_url: Option<String>,
    /// Seconds after which its stored calls expire; zero: never; `None`: the relay's default.
    pub expires_in: Option<i64>,
    /// The change that last touched it.
    pub revision: i64,
}

/// An API key, without its secret.
#[derive(Debug, Clone)]
pub struct ApiKey {
    /// Its client id.
    pub client_id: ClientId,
    /// Its tenant's id.
    pub tenant: TenantId,
    /// Its permissions.
    pub role: Role,
    /// A name for display; may be empty.
    pub name: String,
    /// The hash of its secret.
    pub secret_hash: SecretHash,
    /// The hash of the previous secret, and until when that one is valid, in seconds since 1970.
    pub previous: Option<(SecretHash, i64)>,
    /// How it may treat an existing bridge's name.
    pub existing: Existing,
    /// When it was created, in seconds since 1970.
    pub created: i64,
    /// When it expires, if ever; in seconds since 1970.
    pub expires: Option<i64>,
    /// When it was revoked, if it was; in seconds since 1970.
    pub revoked: Option<i64>,
    /// When it was last used, in seconds since 1970, to the minute.
    pub last_used: Option<i64>,
    /// What it is narrowed to.
    pub scope: Scope,
    /// Whether it pairs one bridge only, as the key of a pairing file.
    pub is_one_time: bool,
    /// When it paired its bridge, if it is such a key and did; in seconds since 1970.
    pub spent: Option<i64>,
}

/// A bridge: a name in a tenant, under which one or more installations authenticate.
#[derive(Debug, Clone)]
pub struct Bridge {
    /// Its id.
    pub id: BridgeId,
    /// Its tenant's id.
    pub tenant: TenantId,
    /// Its name, unique among the tenant's bridges that are not revoked.
    pub name: String,
    /// When it was first paired, in seconds since 1970.
    pub created: i64,
    /// When it was revoked, if it was; in seconds since 1970.
    pub revoked: Option<i64>,
    /// Since when it is disabled, if it is; in seconds since 1970.
    pub disabled: Option<i64>,
    /// Since when TLS inspection is allowed for it, if it is; in seconds since 1970.
    pub inspected: Option<i64>,
    /// When it was last connected, in seconds since 1970.
    pub last_seen: Option<i64>,
}

/// One installation's key pair under a bridge's name.
#[derive(Debug, Clone)]
pub struct BridgeIdentity {
    /// Its id.
    pub id: IdentityId,
    /// The bridge that it belongs to.
    pub bridge: BridgeId,
    /// Ed25519, 32 bytes.
    pub public_key: Vec<u8>,
    /// The installation.
    pub instance: [u8; 16],
    /// The client id of the API key that it was paired with.
    pub paired_by: ClientId,
    /// The endpoints that it may declare, from that key's scope; empty for any.
    pub endpoints: Vec<String>,
    /// When it was revoked, if it was; in seconds since 1970.
    pub revoked: Option<i64>,
}

/// Everything that changed after some revision.
#[derive(Debug, Default)]
pub struct Changes {
    /// The revision up to which the changes are complete.
    pub revision: i64,
    /// Tenants.
    pub tenants: Vec<Tenant>,
    /// API keys.
    pub keys: Vec<ApiKey>,
    /// Bridges.
    pub bridges: Vec<Bridge>,
    /// Installations.
    pub identities: Vec<BridgeIdentity>,
    /// Names that were assigned to bridges.
    pub claims: Vec<super::Claim>,
}

/// Longest name of a key, in bytes.
pub(super) const NAME_MAX_BYTES: usize = protocol::name::NAME_MAX_BYTES;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trusted_time_ignores_a_clock_set_forward() {
        let hour = Duration::from_secs(3600);
        let hour_ms = 3_600_000;
        assert_eq!(trusted_ms(1000, hour, 1000 + hour_ms), 1000 + hour_ms);
        // Set forward by a month, or back by a day.
        assert_eq!(trusted_ms(1000, hour, 1000 + 720 * hour_ms), 1000 + hour_ms);
        assert_eq!(
            trusted_ms(1000, hour, 1000 - 24 * hour_ms),
            1000 - 24 * hour_ms
        );
    }

    #[test]
    fn debug_redacts_secrets_and_hashes_compare() {
        let secret = Secret::random().unwrap();
        assert!(secret.reveal().starts_with("ibs_"));
        assert_eq!(secret.reveal().len(), 4 + 43);
        assert_eq!(
            format!("{secret:?} {:?}", secret.hash()),
            "Secret SecretHash"
        );
        assert!(secret.hash().matches(&secret.hash()));
        let other = Secret::random().unwrap();
        assert!(!secret.hash().matches(&other.hash()));
        assert!(!secret.hash().matches(&SecretHash::unmatchable()));
    }

    #[test]
    fn unknown_word_error_lists_the_known_words() {
        let error = "boss".parse::<Role>().unwrap_err().to_string();
        assert_eq!(
            error,
            "`boss` is not a role; known are: bridge, caller, synchronizer, admin, site-admin"
        );
    }
}
