//! A tenant's signing secrets: created when the first delivery needs one, rotated with an overlap in which both sign.

use super::Deliveries;
use super::sign::SigningSecret;
use crate::storage::secrets::SealedSecret;
use crate::storage::{StorageError, hex, now, random};
use crate::vault::VaultError;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long opened secrets are reused before they are read again.
const CACHE_TTL: Duration = Duration::from_secs(2);

/// Tenants whose opened secrets are cached.
const TENANTS_MAX: usize = 4096;

/// Secrets of one tenant that may be valid at the same time.
const SECRETS_MAX: usize = 5;

type Cache = HashMap<Arc<str>, (Instant, Arc<[SigningSecret]>)>;

/// Recently used secrets, opened.
#[derive(Debug, Default)]
pub(super) struct Secrets {
    cache: Mutex<Cache>,
}

impl Secrets {
    pub(super) fn forget(&self, tenant: &str) {
        self.lock().remove(tenant);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A signing secret, for a client that may see it.
#[derive(Debug, Clone)]
pub(crate) struct ShownSecret {
    /// Its id.
    pub id: String,
    /// When it was created, in seconds since 1970.
    pub created: i64,
    /// Until when it signs, if there is a newer one; in seconds since 1970.
    pub expires: Option<i64>,
    /// The secret.
    pub secret: SigningSecret,
}

impl Deliveries {
    /// Returns the secrets that sign a tenant's deliveries now, newest first.
    pub(super) async fn signers(
        &self,
        tenant: &Arc<str>,
    ) -> Result<Arc<[SigningSecret]>, VaultError> {
        // The entry expires soon because another process may rotate the secrets in the database.
        if let Some((at, secrets)) = self.secrets.lock().get(tenant)
            && at.elapsed() < CACHE_TTL
        {
            return Ok(secrets.clone());
        }
        let shown = self.all_secrets(tenant).await?;
        let secrets: Arc<[SigningSecret]> = shown.into_iter().map(|shown| shown.secret).collect();
        let mut cache = self.secrets.lock();
        // Cheap to rebuild: each entry is one query.
        if cache.len() >= TENANTS_MAX {
            cache.clear();
        }
        cache.insert(tenant.clone(), (Instant::now(), secrets.clone()));
        Ok(secrets)
    }

    /// Returns a tenant's valid signing secrets, newest first. Creates one if there is none.
    ///
    /// # Errors
    /// [`VaultError`].
    pub(crate) async fn all_secrets(
        &self,
        tenant: &Arc<str>,
    ) -> Result<Vec<ShownSecret>, VaultError> {
        let shown = self.shown_secrets(tenant).await?;
        if !shown.is_empty() {
            return Ok(shown);
        }
        self.add_secret(tenant, SigningSecret::random()?, 0, true)
            .await?;
        // Read again: of several processes that create the first secret, one has stored it.
        self.shown_secrets(tenant).await
    }

    async fn shown_secrets(&self, tenant: &Arc<str>) -> Result<Vec<ShownSecret>, VaultError> {
        let sealed = self.storage.signing_secrets(tenant, now()).await?;
        let key = self.vault.of_tenant(tenant).await?;
        let open = sealed.into_iter().map(|sealed| {
            let bytes = key.open(&context(&sealed.id), sealed.sealed)?;
            Ok(ShownSecret {
                secret: SigningSecret::from_bytes(bytes),
                id: sealed.id,
                created: sealed.created,
                expires: sealed.expires,
            })
        });
        open.collect()
    }

    /// Makes a secret the current one. Older secrets sign as well for `overlap`.
    ///
    /// # Errors
    /// [`StorageError::Conflict`] when too many are valid at the same time.
    pub(crate) async fn rotate_secret(
        &self,
        tenant: &Arc<str>,
        secret: SigningSecret,
        overlap: Duration,
    ) -> Result<ShownSecret, VaultError> {
        let valid = self.storage.signing_secrets(tenant, now()).await?.len();
        if valid >= SECRETS_MAX {
            return Err(VaultError::Storage(StorageError::Conflict(format!(
                "{valid} signing secrets are valid, which is the limit: wait until one has expired, \
                 or rotate without an overlap"
            ))));
        }
        let overlap = i64::try_from(overlap.as_secs()).unwrap_or(i64::MAX);
        let added = self.add_secret(tenant, secret, overlap, false).await?;
        self.secrets.lock().remove(tenant);
        Ok(added)
    }

    async fn add_secret(
        &self,
        tenant: &Arc<str>,
        secret: SigningSecret,
        overlap: i64,
        only_first: bool,
    ) -> Result<ShownSecret, VaultError> {
        let id = format!("sec_{}", hex(&random::<8>()?));
        let key = self.vault.of_tenant(tenant).await?;
        let created = now();
        let sealed = SealedSecret {
            sealed: key.seal(&context(&id), secret.as_bytes())?,
            id: id.clone(),
            created,
            expires: None,
        };
        let until = created.saturating_add(overlap);
        self.storage
            .add_signing_secret(tenant, &sealed, until, only_first)
            .await?;
        Ok(ShownSecret {
            id,
            created,
            expires: None,
            secret,
        })
    }
}

/// Returns the context that a sealed secret is bound to. It is part of the stored format.
fn context(id: &str) -> String {
    format!("signing secret {id}")
}
