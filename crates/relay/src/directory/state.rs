//! The maps behind the directory: what is valid, and which bridges are to be told that they are
//! not any more.

use crate::auth::Principal;
use crate::registry::Owner;
use crate::storage::{ApiKey, BridgeId, BridgeIdentity, Changes, ClientId, TenantId, TenantState};
use protocol::frame::RefusedCode;
use protocol::session::EndReason;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Revoked installations of one bridge that are still told so; older ones are merely unknown.
const REVOKED_KEPT: usize = 16;

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

/// Whose tunnel it would be, the key that must have signed, and whether that bridge may come.
pub type Claim = (Owner, Vec<u8>, Result<(), RefusedCode>);

#[derive(Debug)]
pub(super) struct TenantEntry {
    pub(super) name: Arc<str>,
    pub(super) state: TenantState,
    /// Valid ones.
    bridges: BTreeMap<Arc<str>, BridgeId>,
}

#[derive(Debug)]
pub(super) struct KeyEntry {
    pub(super) key: ApiKey,
}

impl KeyEntry {
    /// Whether its time is over.
    pub(super) fn is_over(&self, now: i64) -> bool {
        self.key.expires.is_some_and(|expires| expires <= now)
    }
}

#[derive(Debug)]
struct BridgeEntry {
    tenant: TenantId,
    name: Arc<str>,
    created: i64,
    is_revoked: bool,
    /// Oldest first.
    identities: Vec<BridgeIdentity>,
}

impl BridgeEntry {
    fn valid(&self) -> impl Iterator<Item = &BridgeIdentity> {
        let all = self.identities.iter();
        all.filter(|identity| !self.is_revoked && identity.revoked.is_none())
    }
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

    /// Takes over what changed.
    pub(super) fn apply(&mut self, changes: Changes) {
        for tenant in changes.tenants {
            let entry = self.tenants.entry(tenant.id);
            let entry = entry.or_insert_with(|| TenantEntry {
                name: tenant.name.as_str().into(),
                state: tenant.state,
                bridges: BTreeMap::new(),
            });
            entry.state = tenant.state;
        }
        for key in changes.keys {
            if key.revoked.is_some() {
                self.keys.remove(&key.client_id);
            } else {
                self.keys.insert(key.client_id.clone(), KeyEntry { key });
            }
        }
        for bridge in changes.bridges {
            let name: Arc<str> = bridge.name.as_str().into();
            let is_revoked = bridge.revoked.is_some();
            if let Some(tenant) = self.tenants.get_mut(&bridge.tenant) {
                if !is_revoked {
                    tenant.bridges.insert(name.clone(), bridge.id.clone());
                } else if tenant.bridges.get(&name) == Some(&bridge.id) {
                    // Otherwise the name is another's by now.
                    tenant.bridges.remove(&name);
                }
            }
            let entry = self.bridges.entry(bridge.id).or_insert(BridgeEntry {
                tenant: bridge.tenant,
                name,
                created: bridge.created,
                is_revoked,
                identities: Vec::new(),
            });
            entry.is_revoked = is_revoked;
        }
        for identity in changes.identities {
            if let Some(bridge) = self.bridges.get_mut(&identity.bridge) {
                bridge.identities.retain(|known| known.id != identity.id);
                bridge.identities.push(identity);
                bridge.forget_old();
            }
        }
        self.revision = changes.revision;
    }

    /// Drops keys whose time is over. Returns whether there were any.
    pub(super) fn expire(&mut self, now: i64) -> bool {
        let before = self.keys.len();
        self.keys.retain(|_, entry| !entry.is_over(now));
        self.keys.len() != before
    }

    pub(super) fn principal_may_stay(&self, principal: &Principal) -> bool {
        self.keys.contains_key(&*principal.client_id)
            && self
                .tenants
                .get(&*principal.tenant)
                .is_some_and(|tenant| tenant.state == TenantState::Active)
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
    ) -> Option<Claim> {
        let (owner, entry) = self.bridge_in(tenant, bridge)?;
        let valid = entry.valid().find(|known| known.instance == *instance);
        let newest = || {
            let mut all = entry.identities.iter().rev();
            all.find(|known| known.instance == *instance)
        };
        let identity = valid.or_else(newest)?;
        let standing = match owner.state {
            TenantState::Suspended => Err(RefusedCode::TenantSuspended),
            TenantState::Active if valid.is_none() => Err(RefusedCode::Revoked),
            TenantState::Active => Ok(()),
        };
        let claimed = Owner {
            tenant: entry.tenant.shared(),
            bridge: identity.bridge.shared(),
            name: entry.name.clone(),
            identity: identity.id.shared(),
        };
        Some((claimed, identity.public_key.clone(), standing))
    }

    pub(super) fn why_cut(&self, owner: &Owner) -> Option<EndReason> {
        let Some((tenant, bridge)) = self.bridge_in(&owner.tenant, &owner.bridge) else {
            return Some(EndReason::Revoked);
        };
        let mut valid = bridge.valid();
        if !valid.any(|identity| identity.id.as_str() == &*owner.identity) {
            return Some(EndReason::Revoked);
        }
        // A suspended tenant's bridge may come back: it is told so when it dials again.
        (tenant.state != TenantState::Active).then_some(EndReason::Draining)
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
                    installations: entry.valid().count(),
                })
            })
            .collect()
    }
}

impl BridgeEntry {
    /// Keeps only the newest of those that are revoked.
    fn forget_old(&mut self) {
        let revoked = self
            .identities
            .iter()
            .filter(|known| known.revoked.is_some());
        let mut surplus = revoked.count().saturating_sub(REVOKED_KEPT);
        self.identities.retain(|known| {
            let forget = surplus > 0 && known.revoked.is_some();
            surplus -= usize::from(forget);
            !forget
        });
    }
}
