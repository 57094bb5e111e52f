//! Secrets encrypted at rest, bound to their context.
//!
//! ```text
//! SealingKey   0x01, salt (24 random bytes), AES-256-GCM under HMAC-SHA-256(key, salt)
//! NonceKey     nonce (12 random bytes), ChaCha20-Poly1305 under HKDF-SHA-256(key material, label)
//! ```
//!
//! Both formats are on disks: the relay's database has the first, the bridge's file of credentials the second.
//! The first has no nonce that could repeat, so it suits many records; the second suits the few of a file.
//! In both the context (which record, and whose) is authenticated: a record that is copied to another's
//! place does not open.

use ring::aead::{
    AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, MAX_TAG_LEN, NONCE_LEN, Nonce, UnboundKey,
};
use ring::hkdf::{HKDF_SHA256, Salt};
use ring::hmac;
use ring::rand::{SecureRandom as _, SystemRandom};
use std::fmt;

const VERSION: u8 = 1;
const SALT_BYTES: usize = 24;

/// Bytes of a [`SealingKey`].
pub const KEY_BYTES: usize = 32;

/// Why something was not sealed, or does not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// It was changed, belongs to another context, or was sealed under another key.
    #[error("cannot decrypt: changed data, or another key")]
    Broken,
    /// The system gave no random bytes.
    #[error("the system gave no random bytes")]
    NoRandom,
}

fn random<const N: usize>() -> Result<[u8; N], SealError> {
    let mut bytes = [0; N];
    let filled = SystemRandom::new().fill(&mut bytes);
    filled.map(|()| bytes).map_err(|_| SealError::NoRandom)
}

/// Seals in place behind a prefix, and appends the tag.
fn seal_after_prefix(
    key: &LessSafeKey,
    nonce: [u8; NONCE_LEN],
    context: &[u8],
    prefix: &[&[u8]],
    plain: &[u8],
) -> Result<Vec<u8>, SealError> {
    let mut sealed = prefix.concat();
    let body = sealed.len();
    sealed.reserve_exact(plain.len() + MAX_TAG_LEN);
    sealed.extend_from_slice(plain);
    let nonce = Nonce::assume_unique_for_key(nonce);
    let tag = key
        .seal_in_place_separate_tag(nonce, Aad::from(context), &mut sealed[body..])
        .map_err(|_| SealError::Broken)?;
    sealed.extend_from_slice(tag.as_ref());
    Ok(sealed)
}

/// Opens what follows a prefix of `body` bytes.
fn open_after_prefix(
    key: &LessSafeKey,
    nonce: [u8; NONCE_LEN],
    context: &[u8],
    body: usize,
    mut sealed: Vec<u8>,
) -> Result<Vec<u8>, SealError> {
    let nonce = Nonce::assume_unique_for_key(nonce);
    let plain = key
        .open_within(nonce, Aad::from(context), &mut sealed, body..)
        .map_err(|_| SealError::Broken)?
        .len();
    sealed.truncate(plain);
    Ok(sealed)
}

/// A key that seals any number of records. Redacted in `Debug`.
#[derive(Clone)]
pub struct SealingKey(hmac::Key);

impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealingKey")
    }
}

impl SealingKey {
    /// Makes it of random bytes.
    pub fn new(bytes: &[u8; KEY_BYTES]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, bytes))
    }

    /// Returns a text that only the holder of this key can make, and that reveals nothing of the key.
    pub fn mark(&self, label: &str) -> Vec<u8> {
        hmac::sign(&self.0, label.as_bytes()).as_ref().to_vec()
    }

    // A fresh key for each record leaves no nonce to repeat, so the nonce may be zero.
    fn record_key(&self, salt: &[u8]) -> Result<LessSafeKey, SealError> {
        let key = hmac::sign(&self.0, salt);
        let key = UnboundKey::new(&AES_256_GCM, key.as_ref()).map_err(|_| SealError::Broken)?;
        Ok(LessSafeKey::new(key))
    }

    /// Seals; the result opens with the same context only.
    ///
    /// # Errors
    /// [`SealError::NoRandom`].
    pub fn seal(&self, context: &str, plain: &[u8]) -> Result<Vec<u8>, SealError> {
        let salt: [u8; SALT_BYTES] = random()?;
        let key = self.record_key(&salt)?;
        let prefix: [&[u8]; 2] = [&[VERSION], &salt];
        seal_after_prefix(&key, [0; NONCE_LEN], context.as_bytes(), &prefix, plain)
    }

    /// Opens what was sealed with the same context.
    ///
    /// # Errors
    /// [`SealError::Broken`].
    pub fn open(&self, context: &str, sealed: Vec<u8>) -> Result<Vec<u8>, SealError> {
        let body = 1 + SALT_BYTES;
        // Checked before the split, which would panic.
        if sealed.len() < body + MAX_TAG_LEN || sealed[0] != VERSION {
            return Err(SealError::Broken);
        }
        let key = self.record_key(&sealed[1..body])?;
        open_after_prefix(&key, [0; NONCE_LEN], context.as_bytes(), body, sealed)
    }
}

/// A key that seals a few records, under a random nonce each. Redacted in `Debug`.
pub struct NonceKey(LessSafeKey);

impl fmt::Debug for NonceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NonceKey")
    }
}

impl NonceKey {
    /// Derives it from key material; the label separates its uses.
    ///
    /// # Errors
    /// Never for a label of a few bytes.
    pub fn derive(material: &[u8], label: &[u8]) -> Result<Self, SealError> {
        let key = Salt::new(HKDF_SHA256, label).extract(material);
        let info = [label];
        let key = key
            .expand(&info, &CHACHA20_POLY1305)
            .map_err(|_| SealError::Broken)?;
        Ok(Self(LessSafeKey::new(UnboundKey::from(key))))
    }

    /// Seals; the result opens with the same context only.
    ///
    /// # Errors
    /// [`SealError::NoRandom`].
    pub fn seal(&self, context: &[u8], plain: &[u8]) -> Result<Vec<u8>, SealError> {
        // 96 random bits are enough for a file of at most a few hundred records.
        let nonce: [u8; NONCE_LEN] = random()?;
        seal_after_prefix(&self.0, nonce, context, &[&nonce], plain)
    }

    /// Opens what was sealed with the same context.
    ///
    /// # Errors
    /// [`SealError::Broken`].
    pub fn open(&self, context: &[u8], sealed: Vec<u8>) -> Result<Vec<u8>, SealError> {
        let nonce = *sealed.first_chunk().ok_or(SealError::Broken)?;
        open_after_prefix(&self.0, nonce, context, NONCE_LEN, sealed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_opens_in_its_own_context_only() {
        let key = SealingKey::new(&[7; 32]);
        for plain in [&b""[..], b"secret", &[0; 100_000]] {
            let sealed = key.seal("call c1", plain).unwrap();
            assert_eq!(key.open("call c1", sealed.clone()).unwrap(), plain);
            assert!(key.open("call c2", sealed.clone()).is_err());
            let other = SealingKey::new(&[8; 32]);
            assert!(other.open("call c1", sealed.clone()).is_err());
            for at in [0, 1, sealed.len() - 1] {
                let mut changed = sealed.clone();
                changed[at] ^= 1;
                assert!(key.open("call c1", changed).is_err());
            }
            assert!(key.open("call c1", sealed[..20].to_vec()).is_err());
        }
        assert!(key.open("", Vec::new()).is_err());
    }

    #[test]
    fn same_text_is_sealed_differently_each_time() {
        let key = SealingKey::new(&[7; 32]);
        assert_ne!(key.seal("c", b"x").unwrap(), key.seal("c", b"x").unwrap());
        assert_eq!(format!("{key:?}"), "SealingKey");
    }

    #[test]
    fn nonce_key_binds_context_and_label() {
        let key = NonceKey::derive(&[7; 32], b"one").unwrap();
        let sealed = key.seal(b"c", b"secret").unwrap();
        assert_eq!(key.open(b"c", sealed.clone()).unwrap(), b"secret");
        assert!(key.open(b"d", sealed.clone()).is_err());
        let other = NonceKey::derive(&[7; 32], b"two").unwrap();
        assert!(other.open(b"c", sealed.clone()).is_err());
        for length in 0..sealed.len() {
            assert!(key.open(b"c", sealed[..length].to_vec()).is_err());
        }
    }

    #[test]
    fn formats_on_disk_still_open() {
        // Made by the code that wrote the first such files.
        let key = NonceKey::derive(&[7; 32], b"integration-bridge credentials v1").unwrap();
        let ring_key = {
            let label: &[u8] = b"integration-bridge credentials v1";
            let prk = Salt::new(HKDF_SHA256, label).extract(&[7; 32]);
            let info = [label];
            let okm = prk.expand(&info, &CHACHA20_POLY1305).unwrap();
            LessSafeKey::new(UnboundKey::from(okm))
        };
        let mut text = b"plain".to_vec();
        let nonce = Nonce::assume_unique_for_key([9; NONCE_LEN]);
        ring_key
            .seal_in_place_append_tag(nonce, Aad::from(b"about"), &mut text)
            .unwrap();
        let sealed = [&[9; NONCE_LEN][..], &text].concat();
        assert_eq!(key.open(b"about", sealed).unwrap(), b"plain");
    }
}
