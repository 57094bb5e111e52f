//! Registering an installation's public key under a bridge's name.
//!
//! ```text
//! name is new                                  -> a bridge, and its first installation
//! same key and installation again              -> as before; nothing changes
//! another key, API key says nothing            -> conflict
//! another key, API key says join               -> added beside the others
//! another key, API key says replace            -> the others are revoked
//! ```

use super::audit::{self, AuditEvent};
use super::model::{BridgeId, ClientId, Existing, IdentityId, TenantId, TenantState, now};
use super::{IDENTITIES_MAX, Storage, StorageError, Tx, invalid_name, is_valid_name};
use serde_json::json;
use sqlx::Row;

/// Longest text that a bridge may say of itself.
const ABOUT_MAX_CHARS: usize = 128;

/// What is to be registered; the proof was checked before.
#[derive(Debug, Clone)]
pub struct Pairing {
    /// Whose bridge it is.
    pub tenant: TenantId,
    /// The API key that was used.
    pub paired_by: ClientId,
    /// What that key may do with a name that exists.
    pub existing: Existing,
    /// The endpoints that the installation may declare, from that key; empty for any.
    pub endpoints: Vec<String>,
    /// The bridge's name.
    pub name: String,
    /// Ed25519, 32 bytes.
    pub public_key: [u8; 32],
    /// The installation.
    pub instance: [u8; 16],
    /// The host's name, for people; cut to 128 characters.
    pub host: String,
    /// The program's version, for people; cut to 128 characters.
    pub software: String,
    /// Bridges that the tenant may have.
    pub bridges_max: u32,
}

/// The bridge that an installation now is one of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paired {
    /// Its id.
    pub bridge: BridgeId,
    /// Whether anything changed.
    pub is_new: bool,
}

impl Storage {
    /// Registers an installation.
    ///
    /// # Errors
    /// [`StorageError::Invalid`] for a name that may not be given, [`StorageError::Conflict`] when
    /// another key pair has the name and the API key does not allow it, or when a bound is reached,
    /// [`StorageError::KeyGone`] when the API key was revoked meanwhile.
    pub async fn pair(&self, pairing: &Pairing) -> Result<Paired, StorageError> {
        if !is_valid_name(&pairing.name) {
            return Err(invalid_name("bridge", &pairing.name));
        }
        let (mut tx, revision) = self.change().await?;
        // It was checked before the body came; in this transaction it cannot change any more.
        if !key_is_valid(&mut tx, pairing).await? {
            return Err(StorageError::KeyGone);
        }
        let bridge = find(&mut tx, pairing).await?;
        let bridge = match bridge {
            None => create(&mut tx, pairing, revision).await?,
            Some(bridge) => {
                if is_registered(&mut tx, &bridge, pairing).await? {
                    // Dropping the transaction leaves the revision as it was.
                    return Ok(Paired {
                        bridge,
                        is_new: false,
                    });
                }
                make_room(&mut tx, &bridge, pairing, revision).await?;
                bridge
            }
        };
        let about = |text: &str| -> String {
            let plain = text.chars().filter(|c| !c.is_control());
            plain.take(ABOUT_MAX_CHARS).collect()
        };
        sqlx::query(
            "INSERT INTO bridge_identities
             (id, bridge_id, public_key, instance, paired_by, host, software, created, revision,
              endpoints)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        )
        .bind(IdentityId::random()?.as_str())
        .bind(bridge.as_str())
        .bind(&pairing.public_key[..])
        .bind(&pairing.instance[..])
        .bind(pairing.paired_by.as_str())
        .bind(about(&pairing.host))
        .bind(about(&pairing.software))
        .bind(now())
        .bind(revision)
        .bind(json!(pairing.endpoints).to_string())
        .execute(&mut *tx)
        .await?;
        let told = json!({
            "client_id": pairing.paired_by,
            "existing": pairing.existing.as_str(),
            "host": about(&pairing.host),
            "instance": crate::audit::checkpoints::hex(&pairing.instance),
        });
        let act =
            AuditEvent::done(pairing.tenant.as_str(), "bridge.pair", &pairing.name).with(&told);
        audit::add(&mut tx, &self.actor, &act).await?;
        tx.commit().await?;
        Ok(Paired {
            bridge,
            is_new: true,
        })
    }
}

async fn key_is_valid(tx: &mut Tx, pairing: &Pairing) -> Result<bool, StorageError> {
    let row = sqlx::query(
        "SELECT COUNT(*) AS valid FROM api_keys JOIN tenants ON tenants.id = api_keys.tenant_id
         WHERE api_keys.client_id = $1 AND api_keys.tenant_id = $2 AND api_keys.revoked IS NULL
         AND (api_keys.expires IS NULL OR api_keys.expires > $3) AND tenants.state = $4",
    )
    .bind(pairing.paired_by.as_str())
    .bind(pairing.tenant.as_str())
    .bind(now())
    .bind(TenantState::Active.as_str())
    .fetch_one(&mut **tx)
    .await?;
    Ok(row.try_get::<i64, _>("valid")? > 0)
}

async fn find(tx: &mut Tx, pairing: &Pairing) -> Result<Option<BridgeId>, StorageError> {
    let row = sqlx::query(
        "SELECT id FROM bridges WHERE tenant_id = $1 AND name = $2 AND revoked IS NULL",
    )
    .bind(pairing.tenant.as_str())
    .bind(&pairing.name)
    .fetch_optional(&mut **tx)
    .await?;
    Ok(match row {
        Some(row) => Some(BridgeId::from(row.try_get::<String, _>("id")?)),
        None => None,
    })
}

async fn create(tx: &mut Tx, pairing: &Pairing, revision: i64) -> Result<BridgeId, StorageError> {
    let row = sqlx::query(
        "SELECT COUNT(*) AS bridges FROM bridges WHERE tenant_id = $1 AND revoked IS NULL",
    )
    .bind(pairing.tenant.as_str())
    .fetch_one(&mut **tx)
    .await?;
    let bridges: i64 = row.try_get("bridges")?;
    if bridges >= i64::from(pairing.bridges_max) {
        return Err(StorageError::Conflict(format!(
            "the tenant has {bridges} bridges, the most that it may have; revoke one first"
        )));
    }
    let bridge = BridgeId::random()?;
    sqlx::query(
        "INSERT INTO bridges (id, tenant_id, name, created, revision) VALUES ($1, $2, $3, $4, $5)",
    )
    .bind(bridge.as_str())
    .bind(pairing.tenant.as_str())
    .bind(&pairing.name)
    .bind(now())
    .bind(revision)
    .execute(&mut **tx)
    .await?;
    Ok(bridge)
}

async fn is_registered(
    tx: &mut Tx,
    bridge: &BridgeId,
    pairing: &Pairing,
) -> Result<bool, StorageError> {
    let row = sqlx::query(
        "SELECT COUNT(*) AS found FROM bridge_identities
         WHERE bridge_id = $1 AND public_key = $2 AND instance = $3 AND revoked IS NULL",
    )
    .bind(bridge.as_str())
    .bind(&pairing.public_key[..])
    .bind(&pairing.instance[..])
    .fetch_one(&mut **tx)
    .await?;
    Ok(row.try_get::<i64, _>("found")? > 0)
}

/// Another key pair under a name that exists: what the API key says.
async fn make_room(
    tx: &mut Tx,
    bridge: &BridgeId,
    pairing: &Pairing,
    revision: i64,
) -> Result<(), StorageError> {
    let name = &pairing.name;
    match pairing.existing {
        Existing::Refuse => Err(StorageError::Conflict(format!(
            "another key pair is registered as bridge `{name}`: revoke that bridge first, or pair \
             with an API key that was created with --existing join or --existing replace"
        ))),
        Existing::Replace => revoke_identities(tx, bridge.as_str(), now(), revision).await,
        Existing::Join => {
            let row = sqlx::query(
                "SELECT COUNT(*) AS installations,
                        COUNT(CASE WHEN instance = $2 THEN 1 END) AS same
                 FROM bridge_identities WHERE bridge_id = $1 AND revoked IS NULL",
            )
            .bind(bridge.as_str())
            .bind(&pairing.instance[..])
            .fetch_one(&mut **tx)
            .await?;
            if row.try_get::<i64, _>("same")? > 0 {
                return Err(StorageError::Conflict(format!(
                    "this installation is registered as bridge `{name}` with another key pair: \
                     pair with an API key that was created with --existing replace"
                )));
            }
            let installations: i64 = row.try_get("installations")?;
            if installations >= IDENTITIES_MAX {
                return Err(StorageError::Conflict(format!(
                    "bridge `{name}` has {installations} installations, the most that it may have"
                )));
            }
            Ok(())
        }
    }
}

/// Revokes the installations of a bridge.
pub(super) async fn revoke_identities(
    tx: &mut Tx,
    bridge: &str,
    now: i64,
    revision: i64,
) -> Result<(), StorageError> {
    sqlx::query(
        "UPDATE bridge_identities SET revoked = $1, revision = $2
         WHERE bridge_id = $3 AND revoked IS NULL",
    )
    .bind(now)
    .bind(revision)
    .bind(bridge)
    .execute(&mut **tx)
    .await?;
    Ok(())
}
