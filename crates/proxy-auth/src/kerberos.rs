//! Kerberos (RFC 4120), as a client of one realm.
//!
//! ```text
//! password, or keytab --> AsExchange  --> ticket of the realm      (about ten hours)
//! credential cache    ------------------> ticket of the realm, or of the proxy
//! ticket of the realm --> TgsExchange --> ticket of the proxy
//! ticket of the proxy --> token       --> Proxy-Authorization: Negotiate (RFC 4559)
//! ```
//!
//! An exchange is a state machine: it returns a request for the KDC, and takes the reply.

mod aes;
mod cache;
mod crypto;
mod exchange;
mod keytab;
mod message;

pub use cache::{CACHE_MAX_BYTES, Cache};
pub use crypto::{Etype, Key};
pub use exchange::{AsExchange, AsStep, TgsExchange};
pub use keytab::{KEYTAB_MAX_BYTES, Keytab};

use crate::SecretBytes;
use crate::spnego;
use message::Authenticator;
use std::fmt;

/// Largest reply of a KDC that is read, in bytes. A ticket with the groups of a user has up to 48 KiB.
pub const REPLY_MAX_BYTES: usize = 64 * 1024;

/// Longest name of a principal or realm, in bytes.
pub const NAME_MAX_BYTES: usize = 512;

/// Parts of a name.
const PARTS_MAX: usize = 8;

/// A ticket is not used in this time before its end: clocks differ, and a use takes time.
const MARGIN_S: u64 = 300;

/// Why there is no ticket.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KerberosError {
    /// The reply breaks the protocol, or is not for this request.
    #[error("its reply is not valid")]
    Reply,
    /// The reply cannot be decrypted: it was made with another key.
    #[error("its reply was made with another password or key")]
    OtherKey,
    /// There is no encryption type that both sides have.
    #[error(
        "it has no AES key for this user or service: enable AES for the account and set its password again"
    )]
    NoEtype,
    /// It asks for too little or too much work.
    #[error("its number of rounds for the password is out of bounds")]
    Rounds,
    /// It reports an error.
    #[error("{}", kdc_error(*.0))]
    Kdc(u32),
}

/// Returns what an error of a KDC means (RFC 4120, 7.5.9).
fn kdc_error(code: u32) -> String {
    let words = match code {
        6 => "it does not know the user",
        7 => "it knows no service of that name: the proxy has another name in the realm",
        14 => return KerberosError::NoEtype.to_string(),
        18 => "the user is locked or disabled",
        23 => "the password of the user has expired",
        24 => "it does not accept the password or key of the user",
        32 => "the ticket has expired",
        37 => "its clock differs from that of this machine by more than five minutes",
        68 => "the user is of another realm",
        _ => return format!("it reports the error {code} (RFC 4120, 7.5.9)"),
    };
    words.to_owned()
}

/// A user or service with its realm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    parts: Vec<String>,
    realm: String,
}

impl Principal {
    /// Parses `name@REALM`. The realm is converted to upper case, as all are by convention. `None` without both.
    pub fn user(text: &str) -> Option<Self> {
        let (name, realm) = text.rsplit_once('@')?;
        Self::new(
            name.split('/').map(str::to_owned).collect(),
            realm.to_ascii_uppercase(),
        )
    }

    /// Returns the service of a proxy (RFC 4559, 4.1).
    pub fn of_proxy(host: &str, realm: &str) -> Option<Self> {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        Self::new(vec!["HTTP".to_owned(), host], realm.to_owned())
    }

    fn of_realm(realm: &str) -> Self {
        Self {
            parts: vec!["krbtgt".to_owned(), realm.to_owned()],
            realm: realm.to_owned(),
        }
    }

    pub(crate) fn new(parts: Vec<String>, realm: String) -> Option<Self> {
        let is_good = |text: &String| !text.is_empty() && text.len() <= NAME_MAX_BYTES;
        let is_valid = !parts.is_empty()
            && parts.len() <= PARTS_MAX
            && parts.iter().chain([&realm]).all(is_good);
        is_valid.then_some(Self { parts, realm })
    }

    /// Returns the realm.
    pub fn realm(&self) -> &str {
        &self.realm
    }

    /// The salt of a password, unless the KDC sends another one (RFC 4120, 4).
    fn salt(&self) -> Vec<u8> {
        let mut salt = self.realm.clone().into_bytes();
        for part in &self.parts {
            salt.extend_from_slice(part.as_bytes());
        }
        salt
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.parts.join("/"), self.realm)
    }
}

/// What a user proves itself with.
#[derive(Debug, Clone)]
pub enum UserKey {
    /// A password, in UTF-8.
    Password(SecretBytes),
    /// Keys of a keytab.
    Keys(Vec<Key>),
}

/// What differs in each message: the time, and random bytes.
#[derive(Debug, Clone, Copy)]
pub struct Occasion {
    /// Seconds since 1970.
    pub unix_s: u64,
    /// The microseconds after them.
    pub micros: u32,
    /// Random bytes. Never used twice.
    pub random: [u8; 32],
}

impl Occasion {
    fn nonce(&self) -> u32 {
        let [a, b, c, d, ..] = self.random;
        // Some KDCs read it as a signed number.
        u32::from_be_bytes([a & 0x7f, b, c, d])
    }

    fn confounder(&self) -> [u8; 16] {
        let mut confounder = [0; 16];
        confounder.copy_from_slice(&self.random[16..]);
        confounder
    }
}

/// A ticket with its key.
#[derive(Debug, Clone)]
pub struct Ticket {
    client: Principal,
    service: Principal,
    /// Opaque: it is encrypted for the service.
    ticket: Vec<u8>,
    key: Key,
    ends_at: u64,
}

impl Ticket {
    /// Returns the user.
    pub fn client(&self) -> &Principal {
        &self.client
    }

    /// Whether it can be used for some minutes more.
    pub fn is_valid_at(&self, unix_s: u64) -> bool {
        unix_s + MARGIN_S < self.ends_at
    }
}

/// Returns the token for the service of a ticket: what `Proxy-Authorization: Negotiate` carries, in base64.
pub fn token(ticket: &Ticket, occasion: &Occasion) -> Vec<u8> {
    // RFC 4121, 4.1.1: no channel binding, for there is no TLS to the proxy, and no flags.
    let mut checksum = vec![0; 24];
    checksum[0] = 16;
    let authenticator = Authenticator {
        client: &ticket.client,
        checksum: Some((0x8003, checksum)),
        usage: message::USAGE_AP_AUTHENTICATOR,
    };
    spnego::init(&message::ap_request(ticket, authenticator, occasion))
}

#[cfg(test)]
mod tests;
