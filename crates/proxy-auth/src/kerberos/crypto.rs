//! The encryption types of Kerberos that are not broken: AES with SHA-1 (RFC 3961, RFC 3962), and with SHA-2 (RFC 8009).
//!
//! ```text
//! password, salt --> key
//! key, usage     --> key for the text, key for the checksum
//! AES-CBC with ciphertext stealing, then an HMAC that is compared in constant time
//! ```
//!
//! RC4 and DES are left out: a key of RC4 is the unsalted hash of the password (RFC 8429).

use super::aes::{Aes, BLOCK_BYTES, Block};
use crate::SecretBytes;
use ring::{hmac, pbkdf2};
use std::num::NonZeroU32;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

/// Rounds of PBKDF2 that a KDC may ask for. Fewer than the default make a password easy to guess; more are work
/// that a false KDC could cause.
const ROUNDS_MIN: u32 = 4_096;
const ROUNDS_MAX: u32 = 200_000;

/// An encryption type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Etype {
    /// aes128-cts-hmac-sha1-96.
    Aes128Sha1,
    /// aes256-cts-hmac-sha1-96.
    Aes256Sha1,
    /// aes128-cts-hmac-sha256-128.
    Aes128Sha256,
    /// aes256-cts-hmac-sha384-192.
    Aes256Sha384,
}

impl Etype {
    /// In the order of preference. The KDC has the last word, and Active Directory knows SHA-1 alone.
    pub(crate) const ALL: [Self; 4] = [
        Self::Aes256Sha384,
        Self::Aes128Sha256,
        Self::Aes256Sha1,
        Self::Aes128Sha1,
    ];

    /// Returns its assigned number.
    pub(crate) fn number(self) -> u32 {
        match self {
            Self::Aes128Sha1 => 17,
            Self::Aes256Sha1 => 18,
            Self::Aes128Sha256 => 19,
            Self::Aes256Sha384 => 20,
        }
    }

    /// Returns the type with this number, if it is supported.
    pub(crate) fn of_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.number() == number)
    }

    /// Returns the number of its checksum.
    pub(crate) fn checksum(self) -> u32 {
        match self {
            Self::Aes128Sha1 => 15,
            Self::Aes256Sha1 => 16,
            Self::Aes128Sha256 => 19,
            Self::Aes256Sha384 => 20,
        }
    }

    fn key_bytes(self) -> usize {
        match self {
            Self::Aes128Sha1 | Self::Aes128Sha256 => 16,
            Self::Aes256Sha1 | Self::Aes256Sha384 => 32,
        }
    }

    fn mac_bytes(self) -> usize {
        match self {
            Self::Aes128Sha1 | Self::Aes256Sha1 => 12,
            Self::Aes128Sha256 => 16,
            Self::Aes256Sha384 => 24,
        }
    }

    fn hmac(self) -> hmac::Algorithm {
        match self {
            Self::Aes128Sha1 | Self::Aes256Sha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
            Self::Aes128Sha256 => hmac::HMAC_SHA256,
            Self::Aes256Sha384 => hmac::HMAC_SHA384,
        }
    }

    /// The name in the salt (RFC 8009, 4). `None` for the types of RFC 3962.
    fn salt_name(self) -> Option<&'static str> {
        match self {
            Self::Aes128Sha1 | Self::Aes256Sha1 => None,
            Self::Aes128Sha256 => Some("aes128-cts-hmac-sha256-128"),
            Self::Aes256Sha384 => Some("aes256-cts-hmac-sha384-192"),
        }
    }
}

/// What is derived from a key for one usage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Checksum,
    Encryption,
    Integrity,
}

/// A key with its type.
#[derive(Debug, Clone)]
pub struct Key {
    pub(crate) etype: Etype,
    bytes: SecretBytes,
}

impl Key {
    /// Takes the bytes of a key. `None` if they are not as many as the type needs.
    pub fn new(etype: Etype, bytes: &[u8]) -> Option<Self> {
        let bytes = SecretBytes::copied(bytes);
        (bytes.len() == etype.key_bytes()).then_some(Self { etype, bytes })
    }

    /// Makes the key of a password. `parameters` are those of the KDC. `None` if their number of rounds is out of
    /// bounds.
    pub(crate) fn of_password(
        etype: Etype,
        password: &[u8],
        salt: &[u8],
        parameters: Option<&[u8]>,
    ) -> Option<Self> {
        let default = match etype {
            Etype::Aes128Sha1 | Etype::Aes256Sha1 => 4_096,
            Etype::Aes128Sha256 | Etype::Aes256Sha384 => 32_768,
        };
        let rounds = match parameters {
            Some(bytes) => u32::from_be_bytes(bytes.try_into().ok()?),
            None => default,
        };
        (ROUNDS_MIN..=ROUNDS_MAX).contains(&rounds).then_some(())?;
        Some(Self::stretched(
            etype,
            password,
            salt,
            NonZeroU32::new(rounds)?,
        ))
    }

    fn stretched(etype: Etype, password: &[u8], salt: &[u8], rounds: NonZeroU32) -> Self {
        let algorithm = match etype {
            Etype::Aes128Sha1 | Etype::Aes256Sha1 => pbkdf2::PBKDF2_HMAC_SHA1,
            Etype::Aes128Sha256 => pbkdf2::PBKDF2_HMAC_SHA256,
            Etype::Aes256Sha384 => pbkdf2::PBKDF2_HMAC_SHA384,
        };
        let salt = match etype.salt_name() {
            Some(name) => [name.as_bytes(), &[0], salt].concat(),
            None => salt.to_vec(),
        };
        let mut bytes = vec![0; etype.key_bytes()];
        pbkdf2::derive(algorithm, rounds, &salt, password, &mut bytes);
        let key = Self {
            etype,
            bytes: SecretBytes::new(bytes),
        };
        let bytes = match etype.salt_name() {
            Some(_) => kdf(etype, &key.bytes, b"kerberos", etype.key_bytes()),
            None => derived(&key, b"kerberos"),
        };
        Self { etype, bytes }
    }

    /// Returns the bytes of the key for a part of a usage.
    fn part(&self, usage: u32, part: Part) -> SecretBytes {
        let end = match part {
            Part::Checksum => 0x99,
            Part::Encryption => 0xaa,
            Part::Integrity => 0x55,
        };
        let mut constant = usage.to_be_bytes().to_vec();
        constant.push(end);
        match self.etype {
            Etype::Aes128Sha1 | Etype::Aes256Sha1 => derived(self, &constant),
            Etype::Aes128Sha256 | Etype::Aes256Sha384 => {
                let len = match part {
                    Part::Encryption => self.etype.key_bytes(),
                    Part::Checksum | Part::Integrity => self.etype.mac_bytes(),
                };
                kdf(self.etype, &self.bytes, &constant, len)
            }
        }
    }

    /// Encrypts a text for a usage. `confounder` is random.
    pub(crate) fn encrypt(
        &self,
        usage: u32,
        confounder: [u8; BLOCK_BYTES],
        text: &[u8],
    ) -> Vec<u8> {
        let mut data = [&confounder[..], text].concat();
        let integrity = self.part(usage, Part::Integrity);
        let of_plaintext = self.mac(&integrity, &[&data]);
        Aes::new(&self.part(usage, Part::Encryption)).encrypt(&mut data);
        let mac = match self.etype {
            Etype::Aes128Sha1 | Etype::Aes256Sha1 => of_plaintext,
            Etype::Aes128Sha256 | Etype::Aes256Sha384 => {
                self.mac(&integrity, &[&[0; BLOCK_BYTES], &data])
            }
        };
        data.extend_from_slice(&mac);
        data
    }

    /// Decrypts what was encrypted for a usage. `None` if it was changed, or has another key.
    pub(crate) fn decrypt(&self, usage: u32, data: &[u8]) -> Option<SecretBytes> {
        let len = data.len().checked_sub(self.etype.mac_bytes())?;
        let (text, mac) = data.split_at_checked(len)?;
        if text.len() < BLOCK_BYTES {
            return None;
        }
        let integrity = self.part(usage, Part::Integrity);
        let encryption = Aes::new(&self.part(usage, Part::Encryption));
        let mut plain = Zeroizing::new(text.to_vec());
        let expected = match self.etype {
            Etype::Aes128Sha1 | Etype::Aes256Sha1 => {
                encryption.decrypt(&mut plain);
                self.mac(&integrity, &[&plain])
            }
            Etype::Aes128Sha256 | Etype::Aes256Sha384 => {
                let expected = self.mac(&integrity, &[&[0; BLOCK_BYTES], text]);
                encryption.decrypt(&mut plain);
                expected
            }
        };
        bool::from(expected.ct_eq(mac)).then(|| SecretBytes::copied(&plain[BLOCK_BYTES..]))
    }

    /// Returns the checksum of a text for a usage.
    pub(crate) fn checksum(&self, usage: u32, text: &[u8]) -> Vec<u8> {
        self.mac(&self.part(usage, Part::Checksum), &[text])
    }

    fn mac(&self, key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
        let mut mac = tag(self.etype, key, parts).as_ref().to_vec();
        mac.truncate(self.etype.mac_bytes());
        mac
    }
}

fn tag(etype: Etype, key: &[u8], parts: &[&[u8]]) -> hmac::Tag {
    let mut context = hmac::Context::with_key(&hmac::Key::new(etype.hmac(), key));
    for part in parts {
        context.update(part);
    }
    context.sign()
}

/// The derivation of RFC 8009, 3, without a context.
fn kdf(etype: Etype, key: &[u8], label: &[u8], len: usize) -> SecretBytes {
    let bits = u32::try_from(len * 8).unwrap_or(u32::MAX).to_be_bytes();
    let parts = [&[0, 0, 0, 1], label, &[0], &bits];
    SecretBytes::copied(&tag(etype, key, &parts).as_ref()[..len])
}

/// The derivation of RFC 3961, 5.1: the constant is encrypted again and again.
fn derived(key: &Key, constant: &[u8]) -> SecretBytes {
    let cipher = Aes::new(&key.bytes);
    let mut block: Zeroizing<Block> = Zeroizing::default();
    folded(constant, &mut *block);
    let mut bytes = Vec::with_capacity(key.bytes.len());
    while bytes.len() < key.bytes.len() {
        cipher.block(&mut block);
        bytes.extend_from_slice(&*block);
    }
    SecretBytes::new(bytes)
}

/// `n-fold` (RFC 3961, 5.1): repeats a text, each time rotated by 13 bits, and adds the parts with an end-around
/// carry.
fn folded(text: &[u8], out: &mut [u8]) {
    let (from, to) = (text.len(), out.len());
    let repeated = from / gcd(from, to) * to;
    out.fill(0);
    let mut carry = 0usize;
    for at in (0..repeated).rev() {
        // The most significant bit of the byte at `at`, in the rotated repetition.
        let bits = from * 8;
        let bit = (bits - 1 + (bits + 13) * (at / from) + (from - at % from) * 8) % bits;
        let high = usize::from(text[(from - 1 - bit / 8) % from]);
        let low = usize::from(text[(from - bit / 8) % from]);
        carry += (((high << 8) | low) >> (bit % 8 + 1)) & 0xff;
        carry += usize::from(out[at % to]);
        out[at % to] = low_byte(carry);
        carry >>= 8;
    }
    for byte in out.iter_mut().rev() {
        carry += usize::from(*byte);
        *byte = low_byte(carry);
        carry >>= 8;
    }
}

fn low_byte(value: usize) -> u8 {
    value.to_le_bytes()[0]
}

fn gcd(a: usize, b: usize) -> usize {
    match b {
        0 => a,
        _ => gcd(b, a % b),
    }
}

#[cfg(test)]
mod tests;
