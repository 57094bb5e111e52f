//! Registering an installation's public key under a bridge's name.
//!
//! ```text
//! the name is new                              -> a bridge, and its first installation
//! the same key pair and installation again     -> nothing changes
//! another key pair, API key without permission -> conflict
//! another key pair, API key with `join`        -> added to the others
//! another key pair, API key with `replace`     -> the others are revoked
//! ```
//!
//! The API key of a pairing file pairs once: the change that registers the first installation marks it as spent. The
//! same installation may repeat its pairing, because the response may have been lost.

use super::audit::{self, AuditEvent};
use super::model::{BridgeId, ClientId, Existing, IdentityId, TenantId, TenantState, hex, now};
use super::{IDENTITIES_MAX, Storage, StorageError, require_name};
use runtime::peer_text::PeerText;
use serde_json::json;
use sqlx::Row as _;
use store::Transaction;

/// Longest text that a bridge may report about itself.
const ABOUT_MAX_CHARS: usize = 128;

/// An installation that is to be registered. Its proof of possession was verified before.
#[derive(Debug, Clone)]
pub struct Pairing {
    /// The tenant's id.
    pub tenant: TenantId,
    /// The client id of the API key that was used.
    pub paired_by: ClientId,
    /// How that key may treat an existing name.
    pub existing: Existing,
    /// The endpoints that the installation may declare, from that key's scope; empty for any.
    pub endpoints: Vec<String>,
    /// The bridge's name.
    pub name: String,
    /// Ed25519, 32 bytes.
    pub public_key: [u8; 32],
    /// The installation.
    pub instance: [u8; 16],
    /// The host's name, for display; cut to 128 characters.
    pub host: String,
    /// The program's version, for display; cut to 128 characters.
    pub software: String,
    /// The address that the request came from, for display; empty if there is none.
    pub address: String,
    /// Bridges that the tenant may have.
    pub bridges_max: u32,
}

/// The bridge that an installation now belongs to.
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
    /// [`StorageError::Invalid`] for an invalid name, [`StorageError::Conflict`] when
    /// another key pair has the name and the API key does not allow it, or when a bound is reached,
    /// [`StorageError::KeyGone`] when the API key was revoked meanwhile, [`StorageError::KeySpent`] when it is that of
    /// a pairing file and has paired another installation.
    pub async fn pair(&self, pairing: &Pairing) -> Result<Paired, StorageError> {
        require_name("a bridge", &pairing.name)?;
        let (mut tx, revision) = self.change().await?;
        // The key was valid when the request began. It may have been revoked while the body arrived; in this
        // transaction it cannot change any more.
        let uses = uses_of_key(&mut tx, pairing).await?;
        // The revision's row is locked, so two installations that pair under one new name come one after the other.
        let bridge = find(&mut tx, pairing).await?;
        let bridge = match bridge {
            None => {
                uses.require()?;
                create(&mut tx, pairing, revision).await?
            }
            Some(bridge) => {
                if is_registered(&mut tx, &bridge, pairing).await? {
                    if uses != Uses::Once {
                        // Dropping the transaction leaves the revision as it was.
                        return Ok(Paired {
                            bridge,
                            is_new: false,
                        });
                    }
                    // A further pairing file for a registered installation. Unspent, it could pair another one.
                    spend(&mut tx, pairing, revision).await?;
                    self.record(&mut tx, pairing).await?;
                    tx.commit().await?;
                    return Ok(Paired {
                        bridge,
                        is_new: true,
                    });
                }
                uses.require()?;
                apply_existing(&mut tx, &bridge, pairing, revision).await?;
                bridge
            }
        };
        if uses == Uses::Once {
            spend(&mut tx, pairing, revision).await?;
        }
        sqlx::query(
            "INSERT INTO bridge_identities
             (id, bridge_id, public_key, instance, paired_by, host, software, created, revision,
              endpoints, address)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
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
        .bind(&pairing.address)
        .execute(&mut *tx)
        .await?;
        self.record(&mut tx, pairing).await?;
        tx.commit().await?;
        Ok(Paired {
            bridge,
            is_new: true,
        })
    }

    async fn record(&self, tx: &mut Transaction, pairing: &Pairing) -> Result<(), StorageError> {
        let detail = json!({
            "client_id": pairing.paired_by,
            "existing": pairing.existing.as_str(),
            "host": about(&pairing.host),
            "instance": hex(&pairing.instance),
            "address": pairing.address,
        });
        let event =
            AuditEvent::done(pairing.tenant.as_str(), "bridge.pair", &pairing.name).with(&detail);
        audit::add(tx, &self.actor, &event).await
    }
}

fn about(text: &str) -> String {
    PeerText::bounded(text, ABOUT_MAX_CHARS).to_string()
}

/// How many installations an API key may still pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Uses {
    /// Any number.
    Any,
    /// One: it is the key of a pairing file that was not used.
    Once,
    /// No other one: it is the key of a pairing file that was used.
    Spent,
}

impl Uses {
    /// Checks that the key may pair an installation that is not registered.
    fn require(self) -> Result<(), StorageError> {
        match self {
            Self::Any | Self::Once => Ok(()),
            Self::Spent => Err(StorageError::KeySpent),
        }
    }
}

/// Marks the key of a pairing file as spent.
async fn spend(tx: &mut Transaction, pairing: &Pairing, revision: i64) -> Result<(), StorageError> {
    let spent = sqlx::query(
        "UPDATE api_keys SET spent = $1, revision = $2
         WHERE client_id = $3 AND one_time = 1 AND spent IS NULL",
    )
    .bind(now())
    .bind(revision)
    .bind(pairing.paired_by.as_str())
    .execute(&mut **tx)
    .await?;
    // The lock on the revision's row lets one pairing after the other, and the condition holds without it, too.
    match spent.rows_affected() {
        1 => Ok(()),
        _ => Err(StorageError::KeySpent),
    }
}

async fn uses_of_key(tx: &mut Transaction, pairing: &Pairing) -> Result<Uses, StorageError> {
    let row = sqlx::query(
        "SELECT api_keys.one_time, api_keys.spent
         FROM api_keys JOIN tenants ON tenants.id = api_keys.tenant_id
         WHERE api_keys.client_id = $1 AND api_keys.tenant_id = $2 AND api_keys.revoked IS NULL
         AND (api_keys.expires IS NULL OR api_keys.expires > $3) AND tenants.state = $4",
    )
    .bind(pairing.paired_by.as_str())
    .bind(pairing.tenant.as_str())
    .bind(now())
    .bind(TenantState::Active.as_str())
    .fetch_optional(&mut **tx)
    .await?;
    let row = row.ok_or(StorageError::KeyGone)?;
    let is_one_time = row.try_get::<i64, _>("one_time")? != 0;
    let is_spent = row.try_get::<Option<i64>, _>("spent")?.is_some();
    Ok(match (is_one_time, is_spent) {
        (false, _) => Uses::Any,
        (true, false) => Uses::Once,
        (true, true) => Uses::Spent,
    })
}

async fn find(tx: &mut Transaction, pairing: &Pairing) -> Result<Option<BridgeId>, StorageError> {
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

async fn create(
    tx: &mut Transaction,
    pairing: &Pairing,
    revision: i64,
) -> Result<BridgeId, StorageError> {
    let row = sqlx::query(
        "SELECT COUNT(*) AS bridges FROM bridges WHERE tenant_id = $1 AND revoked IS NULL",
    )
    .bind(pairing.tenant.as_str())
    .fetch_one(&mut **tx)
    .await?;
    let bridges: i64 = row.try_get("bridges")?;
    if bridges >= i64::from(pairing.bridges_max) {
        return Err(StorageError::Conflict(format!(
            "the tenant has {bridges} bridges, which is the limit (limits.bridges_per_tenant): \
             revoke one first"
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
    tx: &mut Transaction,
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

/// Applies the API key's permission to another key pair under an existing name.
async fn apply_existing(
    tx: &mut Transaction,
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
            // The same installation with a new key pair would be counted twice, and its old key pair would stay
            // valid.
            if row.try_get::<i64, _>("same")? > 0 {
                return Err(StorageError::Conflict(format!(
                    "this installation is registered as bridge `{name}` with another key pair: \
                     pair with an API key that was created with --existing replace"
                )));
            }
            let installations: i64 = row.try_get("installations")?;
            if installations >= IDENTITIES_MAX {
                return Err(StorageError::Conflict(format!(
                    "bridge `{name}` has {installations} installations, which is the limit: revoke one first"
                )));
            }
            Ok(())
        }
    }
}

/// Revokes the installations of a bridge.
pub(super) async fn revoke_identities(
    tx: &mut Transaction,
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
