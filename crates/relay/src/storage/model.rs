//! What is stored, in types of its own: ids that cannot be confused, and secrets that stay silent.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident = $prefix:literal, $bytes:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// A fresh one.
            ///
            /// # Errors
            /// [`NoRandom`] when the system gives no random bytes.
            pub fn random() -> Result<Self, NoRandom> {
                let bytes: [u8; $bytes] = random()?;
                Ok(Self(format!(concat!($prefix, "{}"), URL_SAFE_NO_PAD.encode(bytes)).into()))
            }

            /// Its text.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// Its text, shared.
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
    /// The id of one installation's key under a bridge's name.
    IdentityId = "idn_", 12;
}

/// The system gave no random bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the system gave no random bytes")]
pub struct NoRandom;

/// Random bytes.
///
/// # Errors
/// [`NoRandom`].
pub fn random<const N: usize>() -> Result<[u8; N], NoRandom> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| NoRandom)?;
    Ok(bytes)
}

/// Seconds since 1970.
pub fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    })
}

/// Milliseconds since 1970.
pub fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    })
}

/// An API key's secret: `ibs_` and 256 random bits. Its `Debug` is silent.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// A fresh one.
    ///
    /// # Errors
    /// [`NoRandom`].
    pub fn random() -> Result<Self, NoRandom> {
        let bytes: [u8; 32] = random()?;
        Ok(Self(format!("ibs_{}", URL_SAFE_NO_PAD.encode(bytes))))
    }

    /// What a caller presented.
    pub fn presented(text: String) -> Self {
        Self(text)
    }

    /// The secret itself, to show it the one time.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// What is stored of it. A plain hash is enough: there are 256 bits to guess.
    pub fn hash(&self) -> SecretHash {
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

/// SHA-256 of a secret. Compared in constant time alone.
#[derive(Clone, Copy)]
pub struct SecretHash([u8; 32]);

impl SecretHash {
    /// From the database.
    pub fn from_stored(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// A hash that no secret has (nobody knows a preimage of zeros).
    pub fn nobodys() -> Self {
        Self([0; 32])
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether both are the same, in a time that does not depend on them.
    pub fn matches(&self, other: &Self) -> bool {
        bool::from(subtle::ConstantTimeEq::ct_eq(&self.0[..], &other.0[..]))
    }
}

impl fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretHash")
    }
}

/// Enums whose variants are words in the database, the API and the CLI.
macro_rules! words {
    ($($(#[$doc:meta])* $name:ident ($what:literal) { $($(#[$vdoc:meta])* $variant:ident = $word:literal,)* })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$vdoc])* $variant,)*
        }

        impl $name {
            /// The word in the database, the API and the CLI.
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
pub(crate) use words;

/// A word that is not among those that are known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is no {what}; known are: {}", .known.join(", "))]
pub struct UnknownWord {
    pub(crate) what: &'static str,
    pub(crate) given: String,
    pub(crate) known: &'static [&'static str],
}

words! {
    /// What an API key may do.
    Role ("role") {
        /// Pair bridges.
        Bridge = "bridge",
        /// Make calls, and use endpoints.
        Caller = "caller",
        /// Use endpoints, with much traffic.
        Synchronizer = "synchronizer",
        /// All that the tenant's keys may do, and manage its bridges.
        Admin = "admin",
        /// Manage tenants, and see all of them. Belongs to the relay's operators.
        SiteAdmin = "site-admin",
    }
    /// What a bridge key may do with a name under which another key pair is registered.
    Existing ("way to treat an existing bridge") {
        /// Nothing.
        Refuse = "none",
        /// Add an installation beside those that are there.
        Join = "join",
        /// Revoke those that are there and take the name over.
        Replace = "replace",
    }
    /// Whether a tenant may work.
    TenantState ("tenant state") {
        /// It may.
        Active = "active",
        /// Its keys and bridges are refused until it is resumed.
        Suspended = "suspended",
        /// It is gone.
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
    /// Whether it may work.
    pub state: TenantState,
    /// When it was created, in seconds since 1970.
    pub created: i64,
    /// URL patterns that the relay may call itself for this tenant.
    pub direct_urls: Vec<String>,
    /// Where notices are sent, if anywhere.
    pub notice_url: Option<String>,
    /// After how many seconds its stored calls expire; zero: never; `None`: as the relay says.
    pub expires_in: Option<i64>,
    /// The change that last touched it.
    pub revision: i64,
}

/// What a key is narrowed to. A list that is empty narrows nothing, except that a key with hosts and
/// no endpoints may use no endpoint, and the reverse.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Scope {
    /// Names of bridges that its requests may go through, or that it may manage or pair.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub bridges: Vec<String>,
    /// Names of endpoints that it may use. Of a bridge key: that its bridges may declare.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<String>,
    /// Host patterns of URLs that it may call: exact, `*.example.com`, an address, or a network.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<String>,
    /// Names of credentials that it may ask for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub credentials: Vec<String>,
}

/// Entries in each list of a scope.
const SCOPE_MAX: usize = 64;

/// Longest entry of a scope, in bytes.
const SCOPE_ENTRY_MAX_BYTES: usize = 255;

/// What a key can be narrowed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Narrowing {
    Bridge,
    Endpoint,
    Host,
    Credential,
}

impl Narrowing {
    /// Whether keys of the role can be narrowed like this: whether an operation of theirs looks at
    /// it.
    fn fits(self, role: Role) -> bool {
        match (role, self) {
            (Role::Caller | Role::Admin, _)
            | (Role::Bridge, Self::Bridge | Self::Endpoint)
            | (Role::Synchronizer, Self::Bridge | Self::Endpoint | Self::Host) => true,
            (Role::Bridge, Self::Host | Self::Credential)
            | (Role::Synchronizer, Self::Credential)
            | (Role::SiteAdmin, _) => false,
        }
    }

    fn misfit(self, role: Role) -> String {
        let why = match role {
            Role::SiteAdmin => "it is not narrowed at all",
            Role::Bridge => {
                "it pairs bridges: list bridges, or the endpoints that they may declare"
            }
            Role::Synchronizer => "it makes no calls, which are what credentials are named for",
            Role::Caller | Role::Admin => "that is not possible",
        };
        format!("a {role} key cannot be narrowed to a {self}: {why}")
    }

    fn can_be(self, entry: &str) -> bool {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        entry.len() <= SCOPE_ENTRY_MAX_BYTES
            && match self {
                Self::Bridge => is_valid_name(entry),
                Self::Endpoint => policy::is_endpoint_name(entry),
                Self::Host => policy::HostPattern::parse(entry).is_ok(),
                Self::Credential => !entry.is_empty() && entry.bytes().all(plain),
            }
    }

    fn hint(self, entry: &str) -> String {
        match self {
            Self::Bridge => "use 1 to 64 letters, digits, `.`, `_` or `-`".to_owned(),
            Self::Endpoint => policy::EndpointError::Name.to_string(),
            Self::Host => match policy::HostPattern::parse(entry) {
                Err(error) => error.to_string(),
                Ok(_) => format!("it is longer than {SCOPE_ENTRY_MAX_BYTES} bytes"),
            },
            Self::Credential => "use letters, digits, `.`, `_` and `-`".to_owned(),
        }
    }
}

impl fmt::Display for Narrowing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bridge => "bridge",
            Self::Endpoint => "endpoint",
            Self::Host => "host",
            Self::Credential => "credential",
        })
    }
}

impl Scope {
    /// Whether it narrows nothing.
    pub fn is_all(&self) -> bool {
        *self == Self::default()
    }

    /// Whether it can be the scope of a key with this role: every list is one that the role's
    /// operations look at, and every entry can match something.
    pub(super) fn check(&self, role: Role) -> Result<(), String> {
        let lists = [
            (Narrowing::Bridge, &self.bridges),
            (Narrowing::Endpoint, &self.endpoints),
            (Narrowing::Host, &self.hosts),
            (Narrowing::Credential, &self.credentials),
        ];
        for (narrowing, list) in lists {
            if list.is_empty() {
                continue;
            }
            if !narrowing.fits(role) {
                return Err(narrowing.misfit(role));
            }
            if list.len() > SCOPE_MAX {
                return Err(format!(
                    "a key lists at most {SCOPE_MAX} {narrowing}s, and this one lists {}",
                    list.len()
                ));
            }
            if let Some(entry) = list.iter().find(|entry| !narrowing.can_be(entry)) {
                return Err(format!(
                    "`{}` cannot be the name of a {narrowing}: {}",
                    entry.escape_debug().take(80).collect::<String>(),
                    narrowing.hint(entry),
                ));
            }
        }
        if !self.credentials.is_empty() && self.hosts.is_empty() && !self.endpoints.is_empty() {
            return Err(
                "a key that lists endpoints and no hosts makes no calls, and so asks for no \
                 credential: list hosts too, or leave the credentials out"
                    .to_owned(),
            );
        }
        Ok(())
    }

    pub(super) fn to_stored(&self) -> String {
        serde_json::to_string(self).unwrap_or_else(|_| "{}".to_owned())
    }

    pub(super) fn from_stored(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }
}

/// An API key, without its secret.
#[derive(Debug, Clone)]
pub struct ApiKey {
    /// Its client id.
    pub client_id: ClientId,
    /// Whose it is.
    pub tenant: TenantId,
    /// What it may do.
    pub role: Role,
    /// A name for people; may be empty.
    pub name: String,
    /// What is known of its secret.
    pub secret_hash: SecretHash,
    /// What is known of the secret before, and until when that is good, in seconds since 1970.
    pub previous: Option<(SecretHash, i64)>,
    /// What it may do with a bridge's name that exists.
    pub existing: Existing,
    /// When it was created, in seconds since 1970.
    pub created: i64,
    /// When it stops being valid, if ever.
    pub expires: Option<i64>,
    /// When it was revoked, if it was.
    pub revoked: Option<i64>,
    /// When it was used last, in seconds since 1970, to the minute.
    pub last_used: Option<i64>,
    /// What it is narrowed to.
    pub scope: Scope,
}

/// A bridge: a name in a tenant, behind which one or more installations prove themselves.
#[derive(Debug, Clone)]
pub struct Bridge {
    /// Its id.
    pub id: BridgeId,
    /// Whose it is.
    pub tenant: TenantId,
    /// Its name, unique among the tenant's bridges that are not revoked.
    pub name: String,
    /// When it was paired first, in seconds since 1970.
    pub created: i64,
    /// When it was revoked, if it was.
    pub revoked: Option<i64>,
    /// Since when it is cut off, if it is.
    pub disabled: Option<i64>,
    /// Since when it is known to be behind TLS inspection, if it is.
    pub inspected: Option<i64>,
    /// When it was there last, in seconds since 1970.
    pub last_seen: Option<i64>,
}

/// One installation's key pair under a bridge's name.
#[derive(Debug, Clone)]
pub struct BridgeIdentity {
    /// Its id.
    pub id: IdentityId,
    /// The bridge that it is one of.
    pub bridge: BridgeId,
    /// Ed25519, 32 bytes.
    pub public_key: Vec<u8>,
    /// The installation.
    pub instance: [u8; 16],
    /// The API key that it was paired with.
    pub paired_by: ClientId,
    /// The endpoints that it may declare, from that key; empty for any.
    pub endpoints: Vec<String>,
    /// When it was revoked, if it was.
    pub revoked: Option<i64>,
}

/// Everything that changed after some revision.
#[derive(Debug, Default)]
pub struct Changes {
    /// The revision up to which this holds.
    pub revision: i64,
    /// Tenants.
    pub tenants: Vec<Tenant>,
    /// API keys.
    pub keys: Vec<ApiKey>,
    /// Bridges.
    pub bridges: Vec<Bridge>,
    /// Installations.
    pub identities: Vec<BridgeIdentity>,
    /// Names that belong to bridges.
    pub claims: Vec<super::Claim>,
}

/// Longest name of a tenant, a key or a bridge.
pub(super) const NAME_MAX_BYTES: usize = 64;

/// Whether a name may be given to a tenant or a bridge: 1 to 64 letters, digits, `.`, `_`, `-`.
pub fn is_valid_name(name: &str) -> bool {
    (1..=NAME_MAX_BYTES).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        // Never a path of its own.
        && !matches!(name, "." | "..")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_silent_and_their_hashes_comparable() {
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
        assert!(!secret.hash().matches(&SecretHash::nobodys()));
    }

    #[test]
    fn scope_fits_the_role_it_is_for() {
        let scope = |letters: &str| {
            let list = |letter: char, entry: &str| match letters.contains(letter) {
                true => vec![entry.to_owned()],
                false => Vec::new(),
            };
            Scope {
                bridges: list('b', "b1"),
                endpoints: list('e', "alm"),
                hosts: list('h', "*.corp.example"),
                credentials: list('c', "sync"),
            }
        };
        for (role, good, bad) in [
            (
                Role::Bridge,
                &["", "b", "e", "be"][..],
                &["h", "c", "bh", "bec"][..],
            ),
            (
                Role::Caller,
                &["", "b", "e", "h", "c", "hc", "hebc"],
                &["ec", "ebc"],
            ),
            (
                Role::Synchronizer,
                &["", "b", "e", "h", "heb"],
                &["c", "hc", "hebc"],
            ),
            (Role::Admin, &["", "b", "e", "h", "c", "hebc"], &["ec"]),
            (Role::SiteAdmin, &[""], &["b", "e", "h", "c", "hebc"]),
        ] {
            for letters in good {
                assert_eq!(scope(letters).check(role), Ok(()), "{role} {letters}");
            }
            for letters in bad {
                assert!(scope(letters).check(role).is_err(), "{role} {letters}");
            }
        }
    }

    #[test]
    fn scope_entry_that_can_match_nothing_is_refused() {
        let one = |entry: &str| vec![entry.to_owned()];
        let all = Scope::default;
        let long = "x".repeat(256);
        for scope in [
            Scope {
                bridges: one("a b"),
                ..all()
            },
            Scope {
                bridges: one(""),
                ..all()
            },
            Scope {
                endpoints: one("ALM"),
                ..all()
            },
            Scope {
                endpoints: one("*"),
                ..all()
            },
            Scope {
                hosts: one("*"),
                ..all()
            },
            Scope {
                hosts: one("http://a.example/"),
                ..all()
            },
            Scope {
                hosts: one(&long),
                ..all()
            },
            Scope {
                credentials: one("a/b"),
                ..all()
            },
            Scope {
                hosts: vec!["a.example".to_owned(); SCOPE_MAX + 1],
                ..all()
            },
        ] {
            let error = scope.check(Role::Caller).unwrap_err();
            assert!(error.len() < 400, "{error}");
        }
    }

    #[test]
    fn names_are_short_and_plain() {
        for name in ["a", "berlin-dc1", "A.b_c-9", &"x".repeat(64)] {
            assert!(is_valid_name(name), "{name}");
        }
        for name in ["", ".", "..", "a b", "a/b", "ä", &"x".repeat(65), "a\n"] {
            assert!(!is_valid_name(name), "{name}");
        }
    }

    #[test]
    fn an_unknown_word_lists_those_that_are_known() {
        let error = "boss".parse::<Role>().unwrap_err().to_string();
        assert_eq!(
            error,
            "`boss` is no role; known are: bridge, caller, synchronizer, admin, site-admin"
        );
    }
}
