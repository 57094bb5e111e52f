//! The role table: the roles that each kind of operation accepts. The router of the data path, the forward
//! proxy and the table of API operations all take their permissions from here.

use super::Resource;
use crate::storage::Role;

/// What a request needs of its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Permission {
    /// The key must have one of these roles. Empty: no key is needed.
    pub roles: &'static [Role],
    /// The resource that the request acts on, which a narrowed key must be admitted to.
    pub resource: Resource,
}

const ADMINS: &[Role] = &[Role::Admin, Role::SiteAdmin];

impl Permission {
    /// Operations that need no key.
    pub(crate) const PUBLIC: Self = Self::new(&[], Resource::Public);
    /// Tenants.
    pub(crate) const SITE: Self = Self::new(&[Role::SiteAdmin], Resource::Site);
    /// A tenant as a whole: audit record, notices, signing secrets, services.
    pub(crate) const TENANT: Self = Self::new(ADMINS, Resource::Tenant);
    /// API keys.
    pub(crate) const KEYS: Self = Self::new(ADMINS, Resource::Keys);
    /// Reading bridges.
    pub(crate) const BRIDGES: Self = Self::new(
        &[
            Role::Caller,
            Role::Synchronizer,
            Role::Admin,
            Role::SiteAdmin,
        ],
        Resource::Bridges,
    );
    /// Changing bridges.
    pub(crate) const BRIDGE_CHANGES: Self = Self::new(ADMINS, Resource::BridgeChanges);
    /// Pairing a bridge.
    pub(crate) const PAIRING: Self = Self::new(&[Role::Bridge], Resource::Pairing);
    /// A service that reports itself.
    pub(crate) const OWN_SERVICE: Self = Self::new(&[Role::Synchronizer], Resource::OwnService);
    /// Stored calls.
    pub(crate) const STORED_CALLS: Self = Self::new(
        &[Role::Caller, Role::Admin, Role::SiteAdmin],
        Resource::StoredCalls,
    );
    /// Calls to URLs.
    pub(crate) const CALLS: Self = Self::new(&[Role::Caller, Role::Admin], Resource::Hosts);
    /// Requests to endpoints, which pass unchanged.
    pub(crate) const ENDPOINTS: Self = Self::new(
        &[Role::Caller, Role::Synchronizer, Role::Admin],
        Resource::Endpoints,
    );
    /// Requests of the forward proxy, which pass unchanged.
    pub(crate) const PROXY: Self = Self::new(Self::ENDPOINTS.roles, Resource::Hosts);

    const fn new(roles: &'static [Role], resource: Resource) -> Self {
        Self { roles, resource }
    }
}
