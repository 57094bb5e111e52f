//! A tenant's signing secrets: made when the first delivery needs one, rotated with an overlap in
//! which both sign.

use super::Deliveries;
use super::sign::SigningSecret;
use crate::storage::secrets::SealedSecret;
use crate::storage::{StorageError, now, random};
use crate::vault::VaultError;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long secrets are kept open before they are read anew.
const KEPT: Duration = Duration::from_secs(2);

/// Tenants whose secrets are kept open.
const TENANTS_MAX: usize = 4096;

/// Secrets of one tenant that may be good at the same time.
const SECRETS_MAX: usize = 5;

type Known = HashMap<Arc<str>, (Instant, Arc<[SigningSecret]>)>;

/// The secrets that were used just now.
#[derive(Debug, Default)]
pub(super) struct Secrets {
    known: Mutex<Known>,
}

impl Secrets {
    pub(super) fn forget(&self, tenant: &str) {
        self.lock().remove(tenant);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A signing secret, for who may see it.
#[derive(Debug, Clone)]
pub struct ShownSecret {
    /// Its id.
    pub id: String,
    /// When it was made, in seconds since 1970.
    pub created: i64,
    /// Until when it signs, if a newer one is there.
    pub expires: Option<i64>,
    /// The secret.
    pub secret: SigningSecret,
}

impl Deliveries {
    /// What signs a tenant's deliveries now, newest first.
    pub(super) async fn signers(
        &self,
        tenant: &Arc<str>,
    ) -> Result<Arc<[SigningSecret]>, VaultError> {
        if let Some((at, secrets)) = self.secrets.lock().get(tenant)
            && at.elapsed() < KEPT
        {
            return Ok(secrets.clone());
        }
        let shown = self.all_secrets(tenant).await?;
        let secrets: Arc<[SigningSecret]> = shown.into_iter().map(|shown| shown.secret).collect();
        let mut known = self.secrets.lock();
        if known.len() >= TENANTS_MAX {
            known.clear();
        }
        known.insert(tenant.clone(), (Instant::now(), secrets.clone()));
        Ok(secrets)
    }

    /// A tenant's signing secrets that are still good, newest first; one is made if there is none.
    ///
    /// # Errors
    /// [`VaultError`].
    pub async fn all_secrets(&self, tenant: &Arc<str>) -> Result<Vec<ShownSecret>, VaultError> {
        let shown = self.shown_secrets(tenant).await?;
        if !shown.is_empty() {
            return Ok(shown);
        }
        self.add_secret(tenant, SigningSecret::random()?, 0, true)
            .await?;
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

    /// Makes a secret the one that signs; those before sign beside it for `overlap`.
    ///
    /// # Errors
    /// [`StorageError::Conflict`] when too many are good at the same time.
    pub async fn rotate_secret(
        &self,
        tenant: &Arc<str>,
        secret: SigningSecret,
        overlap: Duration,
    ) -> Result<ShownSecret, VaultError> {
        let good = self.storage.signing_secrets(tenant, now()).await?.len();
        if good >= SECRETS_MAX {
            return Err(VaultError::Storage(StorageError::Conflict(format!(
                "{good} signing secrets are good at the same time, the most that may be: wait \
                 until one has expired, or rotate without an overlap"
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
        let mut id = "sec_".to_owned();
        for byte in random::<8>()? {
            id.push_str(&format!("{byte:02x}"));
        }
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

fn context(id: &str) -> String {
    format!("signing secret {id}")
}
