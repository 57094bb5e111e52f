//! What is stored of deliveries is encrypted at rest.
//!
//! ```text
//! key file (32 random bytes, for its owner alone)
//!   seals -> a tenant's own key, in the database; deleting the tenant deletes it
//!     seals -> bodies, header fields, URLs and signing secrets of that tenant
//!
//! sealed = 0x01, salt (24 random bytes), AES-256-GCM under HMAC-SHA-256(key, salt) with the context
//! ```
//!
//! A fresh key for each record, derived with a random salt, leaves no nonce to repeat. The context
//! (what the record is and whose) is authenticated: a record that is put in another's place does
//! not open. Without the key file, a copy of the database tells hosts, states and times alone.

mod key_file;

pub use key_file::{KeyFileError, MasterKey};

use crate::storage::{NoRandom, Storage, StorageError, StoreError, random};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, MAX_TAG_LEN, NONCE_LEN, Nonce, UnboundKey};
use ring::hmac;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

const VERSION: u8 = 1;
const SALT_BYTES: usize = 24;
const KEY_BYTES: usize = 32;

/// Tenants' keys that are kept open; beyond, all are read anew.
const OPEN_MAX: usize = 4096;

/// Why something sealed did not open.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// It was changed, belongs elsewhere, or another key sealed it.
    #[error("what is stored does not open under the key file")]
    Broken,
    /// The system gave no random bytes.
    #[error(transparent)]
    Random(#[from] NoRandom),
    /// The database.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// A key that seals. Its `Debug` is silent.
#[derive(Clone)]
pub struct SealingKey(hmac::Key);

impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealingKey")
    }
}

impl SealingKey {
    pub(crate) fn new(bytes: &[u8; KEY_BYTES]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, bytes))
    }

    /// Something that only the holder of this key can make; tells nothing of the key.
    pub(crate) fn mark(&self, label: &str) -> Vec<u8> {
        hmac::sign(&self.0, label.as_bytes()).as_ref().to_vec()
    }

    fn record_key(&self, salt: &[u8]) -> Result<LessSafeKey, VaultError> {
        let key = hmac::sign(&self.0, salt);
        let key = UnboundKey::new(&AES_256_GCM, key.as_ref()).map_err(|_| VaultError::Broken)?;
        Ok(LessSafeKey::new(key))
    }

    /// Seals, so that it opens with the same context alone.
    ///
    /// # Errors
    /// [`VaultError::Random`].
    pub fn seal(&self, context: &str, plain: &[u8]) -> Result<Vec<u8>, VaultError> {
        let salt: [u8; SALT_BYTES] = random()?;
        let key = self.record_key(&salt)?;
        let mut sealed = Vec::with_capacity(1 + SALT_BYTES + plain.len() + MAX_TAG_LEN);
        sealed.push(VERSION);
        sealed.extend_from_slice(&salt);
        sealed.extend_from_slice(plain);
        let nonce = Nonce::assume_unique_for_key([0; NONCE_LEN]);
        let (_, body) = sealed.split_at_mut(1 + SALT_BYTES);
        let tag = key
            .seal_in_place_separate_tag(nonce, Aad::from(context.as_bytes()), body)
            .map_err(|_| VaultError::Broken)?;
        sealed.extend_from_slice(tag.as_ref());
        Ok(sealed)
    }

    /// Opens what was sealed with the same context.
    ///
    /// # Errors
    /// [`VaultError::Broken`].
    pub fn open(&self, context: &str, mut sealed: Vec<u8>) -> Result<Vec<u8>, VaultError> {
        let body = 1 + SALT_BYTES;
        if sealed.len() < body + MAX_TAG_LEN || sealed[0] != VERSION {
            return Err(VaultError::Broken);
        }
        let key = self.record_key(&sealed[1..body])?;
        let nonce = Nonce::assume_unique_for_key([0; NONCE_LEN]);
        let plain = key
            .open_within(nonce, Aad::from(context.as_bytes()), &mut sealed, body..)
            .map_err(|_| VaultError::Broken)?
            .len();
        sealed.truncate(plain);
        Ok(sealed)
    }
}

/// The tenants' keys.
#[derive(Debug)]
pub struct Vault {
    storage: Storage,
    master: SealingKey,
    open: Mutex<HashMap<Arc<str>, SealingKey>>,
}

impl Vault {
    /// Holds the key file's key against the database, or takes it for this database if nothing was
    /// sealed yet.
    ///
    /// # Errors
    /// [`StoreError::Unusable`] when another key sealed what is there.
    pub async fn new(storage: Storage, master: MasterKey) -> Result<Self, StorageError> {
        let mark = master.key.mark("integration-relay database");
        if !storage.key_check(&mark).await? {
            return Err(StorageError::Store(StoreError::Unusable(format!(
                "{} is not the key file that its contents were encrypted with: put the right one \
                 in its place (storage.key_file)",
                master.file.display()
            ))));
        }
        Ok(Self {
            storage,
            master: master.key,
            open: Mutex::default(),
        })
    }

    /// A tenant's key, made when it is first asked for.
    ///
    /// # Errors
    /// [`VaultError`].
    pub async fn of_tenant(&self, tenant: &Arc<str>) -> Result<SealingKey, VaultError> {
        if let Some(key) = self.lock().get(tenant) {
            return Ok(key.clone());
        }
        let context = format!("tenant key {tenant}");
        let fresh: [u8; KEY_BYTES] = random()?;
        let offered = self.master.seal(&context, &fresh)?;
        let stored = self.storage.tenant_key(tenant, &offered).await?;
        let bytes = self.master.open(&context, stored)?;
        let bytes: [u8; KEY_BYTES] = bytes.try_into().map_err(|_| VaultError::Broken)?;
        let key = SealingKey::new(&bytes);
        let mut open = self.lock();
        if open.len() >= OPEN_MAX {
            open.clear();
        }
        open.insert(tenant.clone(), key.clone());
        Ok(key)
    }

    /// A tenant is gone, and its key with it.
    pub fn forget(&self, tenant: &str) {
        self.lock().remove(tenant);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Arc<str>, SealingKey>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sealed_opens_in_its_own_place_alone() {
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
    fn the_same_text_never_looks_the_same_and_keys_are_silent() {
        let key = SealingKey::new(&[7; 32]);
        assert_ne!(key.seal("c", b"x").unwrap(), key.seal("c", b"x").unwrap());
        assert_eq!(format!("{key:?}"), "SealingKey");
    }
}
