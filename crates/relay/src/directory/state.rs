//! The maps behind the directory. Holds what is valid; what is revoked leaves them.

use crate::registry::Owner;
use crate::storage::{
    ApiKey, BridgeId, BridgeIdentity, Changes, ClientId, TenantId, TenantState,
};
use protocol::Code;
use protocol::frame::RefusedCode;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use tokio::sync::watch;

/// A valid bridge.
#[derive(Debug, Clone)]
pub struct BridgeSummary {
    /// Its id.
    pub id: BridgeId,
    /// Its name.
    pub name: Arc<str>,
    /// When it was paired, in seconds since 1970.
    pub created: i64,
    /// Its installations.
    pub installations: usize,
}

/// The installation that a tunnel claims to be.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Whose tunnel it would be.
    pub owner: Owner,
    /// The key that must have signed, 32 bytes.
    pub public_key: Vec<u8>,
}

#[derive(Debug)]
pub(super) struct TenantEntry {
    pub(super) name: Arc<str>,
    pub(super) state: TenantState,
    bridges: BTreeMap<Arc<str>, BridgeId>,
}

#[derive(Debug)]
pub(super) struct KeyEntry {
    pub(super) key: ApiKey,
    pub(super) lease: watch::Sender<Option<Code>>,
}

#[derive(Debug)]
struct BridgeEntry {
    tenant: TenantId,
    name: Arc<str>,
    created: i64,
    identities: Vec<BridgeIdentity>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    revision: i64,
    tenants: HashMap<TenantId, TenantEntry>,
    keys: HashMap<ClientId, KeyEntry>,
    bridges: HashMap<BridgeId, BridgeEntry>,
}

impl State {
    pub(super) fn revision(&self) -> i64 {
        self.revision
    }

    pub(super) fn key(&self, client_id: &str) -> Option<&KeyEntry> {
        self.keys.get(client_id)
    }

    pub(super) fn tenant(&self, id: &TenantId) -> Option<&TenantEntry> {
        self.tenants.get(id)
    }

    /// Takes over what changed; ends the leases of what is gone.
    pub(super) fn apply(&mut self, changes: Changes, now: i64) {
        for tenant in changes.tenants {
            let entry = self.tenants.entry(tenant.id.clone());
            let entry = entry.or_insert_with(|| TenantEntry {
                name: tenant.name.as_str().into(),
                state: tenant.state,
                bridges: BTreeMap::new(),
            });
            entry.state = tenant.state;
            let ended = lease_of(tenant.state);
            let keys = self.keys.values();
            for key in keys.filter(|entry| entry.key.tenant == tenant.id) {
                key.lease.send_replace(ended);
            }
        }
        for key in changes.keys {
            self.apply_key(key, now);
        }
        for bridge in changes.bridges {
            let tenant = self.tenants.get_mut(&bridge.tenant);
            if bridge.revoked.is_some() {
                let entry = self.bridges.remove(&bridge.id);
                // The name may be another's by now.
                if let (Some(tenant), Some(entry)) = (tenant, entry)
                    && tenant.bridges.get(&entry.name) == Some(&bridge.id)
                {
                    tenant.bridges.remove(&entry.name);
                }
                continue;
            }
            let name: Arc<str> = bridge.name.as_str().into();
            if let Some(tenant) = tenant {
                tenant.bridges.insert(name.clone(), bridge.id.clone());
            }
            self.bridges.entry(bridge.id).or_insert(BridgeEntry {
                tenant: bridge.tenant,
                name,
                created: bridge.created,
                identities: Vec::new(),
            });
        }
        for identity in changes.identities {
            if let Some(bridge) = self.bridges.get_mut(&identity.bridge) {
                bridge.identities.retain(|known| known.id != identity.id);
                if identity.revoked.is_none() {
                    bridge.identities.push(identity);
                }
            }
        }
        self.revision = changes.revision;
    }

    fn apply_key(&mut self, key: ApiKey, now: i64) {
        let over = key.revoked.is_some() || key.expires.is_some_and(|expires| expires <= now);
        if over {
            if let Some(entry) = self.keys.remove(&key.client_id) {
                entry.lease.send_replace(Some(Code::Unauthorized));
            }
            return;
        }
        let ended = self
            .tenants
            .get(&key.tenant)
            .and_then(|tenant| lease_of(tenant.state));
        match self.keys.get_mut(&key.client_id) {
            Some(entry) => entry.key = key,
            None => {
                let lease = watch::Sender::new(ended);
                self.keys
                    .insert(key.client_id.clone(), KeyEntry { key, lease });
            }
        }
    }

    /// Drops keys whose time is over. Returns whether there were any.
    pub(super) fn expire(&mut self, now: i64) -> bool {
        let before = self.keys.len();
        self.keys.retain(|_, entry| {
            let over = entry.key.expires.is_some_and(|expires| expires <= now);
            if over {
                entry.lease.send_replace(Some(Code::Unauthorized));
            }
            !over
        });
        self.keys.len() != before
    }

    /// A bridge by id, within the tenant that is named by id or name.
    fn bridge_in(&self, tenant: &str, bridge: &str) -> Option<(&TenantEntry, &BridgeEntry)> {
        let entry = self.bridges.get(bridge)?;
        let owner = self.tenants.get(&entry.tenant)?;
        (entry.tenant.as_str() == tenant || &*owner.name == tenant).then_some((owner, entry))
    }

    pub(super) fn identity(
        &self,
        tenant: &str,
        bridge: &str,
        instance: &[u8; 16],
    ) -> Result<Identity, RefusedCode> {
        let (owner, entry) = self
            .bridge_in(tenant, bridge)
            .ok_or(RefusedCode::Unauthorized)?;
        let mut identities = entry.identities.iter();
        let identity = identities
            .find(|identity| identity.instance == *instance)
            .ok_or(RefusedCode::Unauthorized)?;
        match owner.state {
            TenantState::Active => Ok(Identity {
                owner: Owner {
                    tenant: entry.tenant.as_str().into(),
                    bridge: identity.bridge.as_str().into(),
                    name: entry.name.clone(),
                    identity: identity.id.as_str().into(),
                },
                public_key: identity.public_key.clone(),
            }),
            TenantState::Suspended => Err(RefusedCode::TenantSuspended),
        }
    }

    pub(super) fn may_stay(&self, owner: &Owner) -> bool {
        self.bridge_in(&owner.tenant, &owner.bridge)
            .is_some_and(|(tenant, bridge)| {
                let mut identities = bridge.identities.iter();
                tenant.state == TenantState::Active
                    && identities.any(|identity| identity.id.as_str() == &*owner.identity)
            })
    }

    pub(super) fn bridges_of(&self, tenant: &str) -> Vec<BridgeSummary> {
        let Some(tenant) = self.tenants.get(tenant) else {
            return Vec::new();
        };
        let known = tenant.bridges.iter();
        known
            .filter_map(|(name, id)| {
                let entry = self.bridges.get(id)?;
                Some(BridgeSummary {
                    id: id.clone(),
                    name: name.clone(),
                    created: entry.created,
                    installations: entry.identities.len(),
                })
            })
            .collect()
    }
}

fn lease_of(state: TenantState) -> Option<Code> {
    match state {
        TenantState::Active => None,
        TenantState::Suspended => Some(Code::TenantSuspended),
    }
}
