//! Encryption at rest of stored deliveries.
//!
//! ```text
//! key file (32 random bytes, readable by its owner only)
//!   seals -> a tenant's own key, in the database; deleting the tenant deletes it
//!     seals -> bodies, header fields, URLs and signing secrets of that tenant
//! ```
//!
//! The format of sealed records is `runtime::sealed`'s. Without the key file, a copy of the database reveals only
//! hosts, states and times.

mod key_file;

pub(crate) use key_file::{KeyFileError, MasterKey};
pub(crate) use runtime::sealed::SealingKey;

use crate::storage::{Database, NoRandom, Storage, StorageError, StoreError, random};
use runtime::sealed::{KEY_BYTES, SealError};
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// Most tenants' keys that are kept open. Beyond this all of them are read again.
const OPEN_MAX: usize = 4096;

/// Why something was not sealed, or did not open.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VaultError {
    /// It was changed, belongs to another context, or was sealed under another key.
    #[error("cannot decrypt stored data: wrong key file? (storage.key_file)")]
    Broken,
    /// The system returned no random bytes.
    #[error(transparent)]
    Random(#[from] NoRandom),
    /// The database failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl From<SealError> for VaultError {
    fn from(error: SealError) -> Self {
        match error {
            SealError::Broken => Self::Broken,
            SealError::NoRandom => Self::Random(NoRandom),
        }
    }
}

/// The tenants' keys.
#[derive(Debug)]
pub(crate) struct Vault {
    storage: Storage,
    master: SealingKey,
    open: Mutex<HashMap<Arc<str>, SealingKey>>,
}

/// Reads the key file. Creates it if it is missing, unless the database has data that another key encrypted: a new
/// file would hide that the old one is lost.
///
/// Seals of the audit record alone are no reason to refuse: no data are lost. `audit::sealing` then begins a new chain of seals
/// and reports it.
///
/// # Errors
/// [`KeyFileError`].
pub(crate) async fn master_key(storage: &Storage, file: &Path) -> Result<MasterKey, KeyFileError> {
    let found = std::fs::symlink_metadata(file);
    if found.is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound) {
        let tenants = storage.sealed_tenants().await?;
        if tenants > 0 {
            return Err(KeyFileError::Lost(file.to_owned(), tenants));
        }
        // Nothing was encrypted with the lost key, so the database may be bound to a new one.
        storage.forget_key_check().await?;
    }
    MasterKey::load_or_create(file)
}

/// Returns the words for a key file that is not the database's.
fn wrong_key_file(file: &Path) -> String {
    format!(
        "{} is not the key file with which its contents were encrypted: restore that file, or name it in \
         storage.key_file",
        file.display()
    )
}

/// Returns what [`master_key`] and [`Vault::new`] would reject of an existing database. Nothing is created or changed.
pub(crate) async fn inspect(database: &Database, file: &Path) -> Option<String> {
    // A database of an older version may lack the tables: nothing in it is encrypted.
    let count = async |query, bound: Option<&[u8]>| {
        store::read_number(database, query, bound)
            .await
            .unwrap_or(0)
    };
    if let Ok(master) = MasterKey::check(file) {
        let query = "SELECT COUNT(*) FROM meta WHERE key_check <> $1";
        let differs = count(query, Some(&master.database_mark())).await > 0;
        return differs.then(|| wrong_key_file(file));
    }
    let tenants = count("SELECT COUNT(*) FROM tenant_keys", None).await;
    (!file.exists() && tenants > 0)
        .then(|| KeyFileError::Lost(file.to_owned(), tenants).to_string())
}

impl Vault {
    /// Checks the key file's key against the database, or binds it to this database if nothing was sealed
    /// yet.
    ///
    /// # Errors
    /// [`StoreError::Unusable`] when the database was sealed under another key.
    pub(crate) async fn new(storage: Storage, master: MasterKey) -> Result<Self, StorageError> {
        let mark = master.database_mark();
        // Found at the start, not by the first delivery that cannot be read.
        if !storage.key_check(&mark).await? {
            return Err(StorageError::Store(StoreError::Unusable(wrong_key_file(
                &master.file,
            ))));
        }
        Ok(Self {
            storage,
            master: master.key,
            open: Mutex::default(),
        })
    }

    /// Returns a tenant's key, and creates it at the first call.
    ///
    /// # Errors
    /// [`VaultError`].
    pub(crate) async fn of_tenant(&self, tenant: &Arc<str>) -> Result<SealingKey, VaultError> {
        if let Some(key) = self.lock().get(tenant) {
            return Ok(key.clone());
        }
        let context = format!("tenant key {tenant}");
        // Another process may store a key at the same moment. The database keeps the first, and returns it.
        let fresh: [u8; KEY_BYTES] = random()?;
        let offered = self.master.seal(&context, &fresh)?;
        let stored = self.storage.tenant_key(tenant, &offered).await?;
        let bytes = self.master.open(&context, stored)?;
        let bytes: [u8; KEY_BYTES] = bytes.try_into().map_err(|_| VaultError::Broken)?;
        let key = SealingKey::new(&bytes);
        let mut open = self.lock();
        // Clearing all is simple, and rare: it costs each active tenant one read.
        if open.len() >= OPEN_MAX {
            open.clear();
        }
        open.insert(tenant.clone(), key.clone());
        Ok(key)
    }

    /// Removes the key of a deleted tenant.
    pub(crate) fn forget(&self, tenant: &str) {
        self.lock().remove(tenant);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Arc<str>, SealingKey>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[tokio::test]
    async fn lost_key_file_is_not_replaced() {
        let dir = TempDir::new("vault-lost");
        let [db, file] = ["relay.db", "relay-secrets.key"].map(|name| dir.path().join(name));
        let database = Database::Sqlite(db);
        let storage = Storage::open(&database).await.unwrap();
        let tenant = storage.create_tenant("acme").await.unwrap();
        let open = async || {
            let master = master_key(&storage, &file).await?;
            Ok::<_, KeyFileError>(Vault::new(storage.clone(), master).await.unwrap())
        };
        open().await.unwrap();
        // Nothing is encrypted yet: another file does as well.
        std::fs::remove_file(&file).unwrap();
        let vault = open().await.unwrap();
        let id: Arc<str> = tenant.id.as_str().into();
        vault.of_tenant(&id).await.unwrap();
        let kept = dir.path().join("kept.key");
        std::fs::rename(&file, &kept).unwrap();
        let lost = open().await.unwrap_err();
        assert!(matches!(lost, KeyFileError::Lost(_, 1)), "{lost}");
        assert!(lost.to_string().contains("calls of 1 tenant are"), "{lost}");
        let inspected = inspect(&database, &file).await;
        assert_eq!(inspected, Some(lost.to_string()));
        assert!(!file.exists());
        std::fs::rename(&kept, &file).unwrap();
        open().await.unwrap().of_tenant(&id).await.unwrap();
        assert_eq!(inspect(&database, &file).await, None);
        let other = dir.path().join("other.key");
        MasterKey::load_or_create(&other).unwrap();
        let inspected = inspect(&database, &other).await.unwrap();
        assert!(
            inspected.contains("other.key is not the key file"),
            "{inspected}"
        );
        // Seals of the audit record alone do not need it.
        let last = storage.last_audit_row().await.unwrap();
        let key = SealingKey::new(&[1; KEY_BYTES]);
        storage.seal_audit(&key, last, 1).await.unwrap();
        // The remedy for a file that is lost for good.
        std::fs::remove_file(&file).unwrap();
        storage.delete_tenant("acme", None).await.unwrap();
        let key = open().await.unwrap().master;
        let change = storage.begin_seal_chain(&key, 2).await.unwrap();
        assert!(change.is_some());
    }
}
