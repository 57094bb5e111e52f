//! The maps of the directory: valid tenants, keys and bridges, and revoked bridges that must be notified.

use crate::access::{KeyScope, Principal};
use crate::registry::{Installation, Standing, TunnelOwner};
use crate::storage::{
    ApiKey, BridgeId, BridgeIdentity, Changes, Claim, ClaimKind, ClientId, SecretHash, TenantId,
    TenantState,
};
use protocol::frame::RefusedCode;
use protocol::session::EndReason;
use protocol::{Code, Failure};
use runtime::map::FastMap;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

/// Revoked installations of one bridge that still get `revoked`; older ones get `unknown`.
const REVOKED_KEPT: usize = 16;

/// How long an expired key is remembered, in seconds. Its requests are aborted much sooner.
const EXPIRED_KEPT_S: i64 = 60;

/// A valid bridge.
#[derive(Debug, Clone)]
pub(crate) struct BridgeSummary {
    /// The bridge's id.
    pub id: BridgeId,
    /// The bridge's tenant.
    pub tenant: TenantId,
    /// The bridge's name.
    pub name: Arc<str>,
    /// When it was first paired, in seconds since 1970.
    pub created: i64,
    /// Number of its installations.
    pub installations: usize,
    /// The identities of its installations.
    pub identities: Vec<Arc<str>>,
    /// Whether it is disconnected until an administrator enables it.
    pub is_disabled: bool,
    /// Whether TLS inspection is allowed.
    pub is_inspected: bool,
}

/// The bridge that a HELLO claims to be.
#[derive(Debug)]
pub(crate) struct TunnelClaim {
    /// The bridge.
    pub owner: TunnelOwner,
    /// The public key that must have signed the HELLO.
    pub public_key: Vec<u8>,
    /// Whether the bridge may connect.
    pub standing: Result<(), RefusedCode>,
    /// Whether TLS inspection is allowed.
    pub is_inspected: bool,
}

#[derive(Debug)]
pub(super) struct TenantEntry {
    pub(super) name: Arc<str>,
    pub(super) state: TenantState,
    /// Valid bridges by name.
    bridges: BTreeMap<Arc<str>, BridgeId>,
    /// URL patterns that the relay may call directly.
    pub(super) direct_urls: Arc<[String]>,
}

#[derive(Debug)]
pub(super) struct KeyEntry {
    pub(super) key: ApiKey,
    pub(super) scope: Arc<KeyScope>,
    /// When this process last saw it used, in seconds since 1970, to the minute.
    used: AtomicI64,
}

impl KeyEntry {
    fn new(key: ApiKey, used: i64) -> Self {
        Self {
            scope: Arc::new(KeyScope::new(key.scope.clone())),
            used: AtomicI64::new(used),
            key,
        }
    }

    /// Returns whether this is the key's secret, or the previous one while that is valid.
    pub(super) fn matches(&self, presented: &SecretHash, now: i64) -> bool {
        let (before, until) = self.key.previous.unwrap_or((SecretHash::unmatchable(), 0));
        // Both are compared in any case, so that the time does not reveal which one matched.
        let is_current = presented.matches(&self.key.secret_hash);
        let is_before = presented.matches(&before) && now < until;
        // `|` instead of `||`, which would skip the second comparison.
        is_current | is_before
    }

    /// Notes that the key is used now.
    pub(super) fn touch(&self, now: i64) {
        let minute = now - now.rem_euclid(60);
        // Most requests only read: a store by each would move the cache line between cores.
        if self.used.load(Ordering::Relaxed) != minute {
            self.used.store(minute, Ordering::Relaxed);
        }
    }

    /// Returns whether the key has expired.
    pub(super) fn is_expired(&self, now: i64) -> bool {
        self.key.expires.is_some_and(|expires| expires <= now)
    }
}

#[derive(Debug)]
struct BridgeEntry {
    tenant: TenantId,
    name: Arc<str>,
    created: i64,
    is_revoked: bool,
    is_disabled: bool,
    is_inspected: bool,
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
    tenants: FastMap<TenantId, TenantEntry>,
    keys: FastMap<ClientId, KeyEntry>,
    /// Keys that expired a short time ago, and when they were dropped from `keys`, in seconds since 1970: the requests
    /// that are aborted get the reason.
    expired: HashMap<ClientId, i64>,
    bridges: FastMap<BridgeId, BridgeEntry>,
    claims: HashMap<TenantId, Claims>,
    /// The revision at which the result of [`Self::endpoints_of`] may last have changed.
    claims_revision: i64,
}

/// The owners of each endpoint's name, including revoked ones.
type Claims = HashMap<Box<str>, Vec<BridgeId>>;

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

    pub(super) fn claims_revision(&self) -> i64 {
        self.claims_revision
    }

    fn apply_claim(&mut self, claim: Claim) {
        let ClaimKind::Endpoint = claim.kind;
        let names = self.claims.entry(claim.tenant).or_default();
        let bridges = names.entry(claim.name.into()).or_default();
        bridges.retain(|other| *other != claim.bridge);
        if !claim.is_removed {
            bridges.push(claim.bridge);
        }
    }

    /// Returns the valid bridges that own an endpoint's name.
    fn holders(
        &self,
        tenant: &str,
        endpoint: &str,
    ) -> impl Iterator<Item = (&BridgeId, &Arc<str>)> {
        let names = self.claims.get(tenant);
        let holders = names.and_then(|names| names.get(endpoint));
        holders.into_iter().flatten().filter_map(|id| {
            let entry = self.bridges.get(id)?;
            (!entry.is_revoked).then_some((id, &entry.name))
        })
    }

    /// Returns the names of the valid bridges that own an endpoint's name.
    pub(super) fn holders_of(&self, tenant: &str, endpoint: &str) -> Vec<Arc<str>> {
        let holders = self.holders(tenant, endpoint);
        holders.map(|(_, name)| name.clone()).collect()
    }

    /// Returns the endpoint names that a bridge owns, in order.
    pub(super) fn claimed_by(&self, tenant: &str, bridge: &str) -> Vec<String> {
        let names = self.claims.get(tenant).into_iter().flatten();
        let own = names.filter(|(_, holders)| holders.iter().any(|id| id.as_str() == bridge));
        let mut own: Vec<String> = own.map(|(name, _)| name.to_string()).collect();
        own.sort_unstable();
        own
    }

    /// Returns what a bridge may do with each endpoint that it declares, and whether it may serve hosts.
    pub(super) fn endpoints_of<'a>(
        &self,
        owner: &TunnelOwner,
        declared: impl Iterator<Item = &'a str>,
    ) -> (Vec<Standing>, bool) {
        let entry = self.bridges.get(&*owner.bridge);
        let identity = entry.and_then(|entry| {
            let mut all = entry.identities.iter();
            all.find(|identity| identity.id.as_str() == &*owner.identity)
        });
        let listed = identity.map_or(&[][..], |identity| identity.endpoints.as_slice());
        let standing = |name: &str| {
            if !listed.is_empty() && !listed.iter().any(|known| known == name) {
                return Standing::NotListed;
            }
            let mut others = Vec::new();
            for (id, bridge) in self.holders(&owner.tenant, name) {
                if id.as_str() == &*owner.bridge {
                    return Standing::Own;
                }
                others.push(bridge.clone());
            }
            match others.is_empty() {
                true => Standing::Free,
                false => Standing::Taken(others),
            }
        };
        (declared.map(standing).collect(), listed.is_empty())
    }

    /// Applies what has changed.
    pub(super) fn apply(&mut self, changes: Changes) {
        let concerns_claims = !changes.claims.is_empty()
            || !changes.identities.is_empty()
            || !changes.bridges.is_empty()
            || !changes.tenants.is_empty();
        // Owners depend on all four kinds of rows: a revoked bridge or a deleted tenant frees names.
        if concerns_claims {
            self.claims_revision = changes.revision;
        }
        for tenant in changes.tenants {
            if tenant.state == TenantState::Deleted {
                self.forget_tenant(&tenant.id);
                continue;
            }
            let entry = self.tenants.entry(tenant.id);
            let entry = entry.or_insert_with(|| TenantEntry {
                name: tenant.name.as_str().into(),
                state: tenant.state,
                bridges: BTreeMap::new(),
                direct_urls: Arc::default(),
            });
            entry.state = tenant.state;
            entry.direct_urls = tenant.direct_urls.into();
        }
        for key in changes.keys {
            if key.revoked.is_some() {
                self.keys.remove(&key.client_id);
            } else {
                // Its expiry may have been moved.
                self.expired.remove(&key.client_id);
                let before = self.keys.get(&key.client_id);
                // A changed key keeps its last use, which only this process has in memory.
                let used = before.map_or(0, |entry| entry.used.load(Ordering::Relaxed));
                self.keys
                    .insert(key.client_id.clone(), KeyEntry::new(key, used));
            }
        }
        for bridge in changes.bridges {
            let name: Arc<str> = bridge.name.as_str().into();
            let is_revoked = bridge.revoked.is_some();
            if let Some(tenant) = self.tenants.get_mut(&bridge.tenant) {
                if !is_revoked {
                    tenant.bridges.insert(name.clone(), bridge.id.clone());
                } else if tenant.bridges.get(&name) == Some(&bridge.id) {
                    // Otherwise another bridge has the name, in a change of a later revision.
                    tenant.bridges.remove(&name);
                }
            }
            let entry = self.bridges.entry(bridge.id).or_insert(BridgeEntry {
                tenant: bridge.tenant,
                name,
                created: bridge.created,
                is_revoked,
                is_disabled: false,
                is_inspected: false,
                identities: Vec::new(),
            });
            entry.is_revoked = is_revoked;
            entry.is_disabled = bridge.disabled.is_some();
            entry.is_inspected = bridge.inspected.is_some();
        }
        for identity in changes.identities {
            if let Some(bridge) = self.bridges.get_mut(&identity.bridge) {
                bridge.identities.retain(|known| known.id != identity.id);
                bridge.identities.push(identity);
                // A key with `replace` can add and revoke installations without end.
                bridge.forget_old();
            }
        }
        for claim in changes.claims {
            self.apply_claim(claim);
        }
        self.revision = changes.revision;
    }

    fn forget_tenant(&mut self, tenant: &TenantId) {
        self.tenants.remove(tenant);
        self.keys.retain(|_, entry| entry.key.tenant != *tenant);
        self.bridges.retain(|_, entry| entry.tenant != *tenant);
        self.claims.remove(tenant);
    }

    /// Returns when keys were last used, for those used since `since`.
    pub(super) fn used_since(&self, since: i64) -> HashMap<ClientId, i64> {
        let used = self.keys.iter().filter_map(|(id, entry)| {
            let at = entry.used.load(Ordering::Relaxed);
            (at >= since).then(|| (id.clone(), at))
        });
        used.collect()
    }

    /// Returns the tenant with this name.
    pub(super) fn tenant_named(&self, name: &str) -> Option<(&TenantId, &TenantEntry)> {
        self.tenants.iter().find(|(_, entry)| &*entry.name == name)
    }

    /// Drops expired keys. Returns whether there were any.
    pub(super) fn expire(&mut self, now: i64) -> bool {
        let Self { keys, expired, .. } = self;
        expired.retain(|_, dropped| now.saturating_sub(*dropped) < EXPIRED_KEPT_S);
        let before = keys.len();
        keys.retain(|id, entry| {
            let is_expired = entry.is_expired(now);
            if is_expired {
                expired.insert(id.clone(), now);
            }
            !is_expired
        });
        keys.len() != before
    }

    /// Checks that a request may go on.
    ///
    /// # Errors
    /// Why not, for a request that may have been executed.
    pub(super) fn check_principal(&self, principal: &Principal) -> Result<(), Failure> {
        let ended = |code, what: &str| {
            let detail = format!("{what} during the request");
            Err(Failure::possibly_executed(code, detail))
        };
        let tenant = self.tenants.get(&*principal.tenant);
        match tenant.map(|tenant| tenant.state) {
            None | Some(TenantState::Deleted) => {
                ended(Code::Unauthorized, "the tenant was deleted")
            }
            Some(TenantState::Suspended | TenantState::Active)
                if !self.keys.contains_key(&*principal.client_id) =>
            {
                match self.expired.contains_key(&*principal.client_id) {
                    true => ended(Code::Unauthorized, "the API key expired"),
                    false => ended(Code::Unauthorized, "the API key was revoked"),
                }
            }
            Some(TenantState::Suspended) => {
                ended(Code::TenantSuspended, "the tenant was suspended")
            }
            Some(TenantState::Active) => Ok(()),
        }
    }

    /// Returns a bridge by id, within the tenant with this id or name.
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
    ) -> Option<TunnelClaim> {
        let (owner, entry) = self.bridge_in(tenant, bridge)?;
        let valid = entry.valid().find(|known| known.instance == *instance);
        let newest = || {
            let mut all = entry.identities.iter().rev();
            all.find(|known| known.instance == *instance)
        };
        let identity = valid.or_else(newest)?;
        let standing = match owner.state {
            TenantState::Suspended | TenantState::Deleted => Err(RefusedCode::TenantSuspended),
            TenantState::Active if entry.is_disabled => Err(RefusedCode::TenantSuspended),
            TenantState::Active if valid.is_none() => Err(RefusedCode::Revoked),
            TenantState::Active => Ok(()),
        };
        let claimed = TunnelOwner {
            tenant: entry.tenant.shared(),
            bridge: identity.bridge.shared(),
            name: entry.name.clone(),
            identity: identity.id.shared(),
        };
        Some(TunnelClaim {
            owner: claimed,
            public_key: identity.public_key.clone(),
            standing,
            is_inspected: entry.is_inspected,
        })
    }

    pub(super) fn has_installation(&self, installation: &Installation) -> bool {
        let Some((tenant, bridge)) = self.bridge_in(&installation.tenant, &installation.bridge)
        else {
            return false;
        };
        let mut valid = bridge.valid();
        tenant.state != TenantState::Deleted
            && valid.any(|identity| identity.id.as_str() == &*installation.identity)
    }

    pub(super) fn close_reason(&self, owner: &TunnelOwner) -> Option<EndReason> {
        let Some((tenant, bridge)) = self.bridge_in(&owner.tenant, &owner.bridge) else {
            return Some(EndReason::Revoked);
        };
        let mut valid = bridge.valid();
        if !valid.any(|identity| identity.id.as_str() == &*owner.identity) {
            return Some(EndReason::Revoked);
        }
        // A suspended tenant's bridge is only drained: when it dials again, the refusal tells it the
        // reason.
        let may_not = tenant.state != TenantState::Active || bridge.is_disabled;
        may_not.then_some(EndReason::Draining)
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
                    tenant: entry.tenant.clone(),
                    name: name.clone(),
                    created: entry.created,
                    installations: entry.valid().count(),
                    identities: entry.valid().map(|known| known.id.shared()).collect(),
                    is_disabled: entry.is_disabled,
                    is_inspected: entry.is_inspected,
                })
            })
            .collect()
    }
}

impl BridgeEntry {
    /// Keeps only the newest revoked installations.
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
