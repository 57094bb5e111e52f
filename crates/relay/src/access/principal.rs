//! The API key that a request proved.

use super::{KeyScope, Object, Permission};
use crate::storage::{ApiKey, Existing, Role};
use protocol::frame::Class;
use protocol::{Code, Failure};
use std::sync::Arc;

/// An API key that proved itself.
#[derive(Debug, Clone)]
pub(crate) struct Principal {
    /// The tenant's id. Every lookup for the request is made within this tenant.
    pub tenant: Arc<str>,
    /// The tenant's name.
    pub tenant_name: Arc<str>,
    /// The key's client id.
    pub client_id: Arc<str>,
    /// The key's role.
    pub role: Role,
    /// What the key may do with the name of an existing bridge.
    pub existing: Existing,
    /// What the key is narrowed to.
    pub scope: Arc<KeyScope>,
}

impl Principal {
    /// Checks that the key has one of the roles.
    ///
    /// # Errors
    /// `forbidden`, with the key's role and the accepted ones.
    pub(crate) fn require(&self, roles: &[Role]) -> Result<(), Failure> {
        if roles.contains(&self.role) {
            return Ok(());
        }
        let accepted: Vec<_> = roles.iter().map(|role| role.as_str()).collect();
        let (accepted, role) = (accepted.join(" or "), self.role);
        Err(Failure::not_sent(
            Code::Forbidden,
            format!("this needs a key with the role {accepted}, and this key has the role {role}"),
        ))
    }

    /// Checks that the key may use operations with this permission: first its role, then what it is
    /// narrowed to.
    ///
    /// # Errors
    /// `forbidden`, with the accepted roles or with what the key is narrowed to.
    pub(crate) fn admit(&self, permission: Permission) -> Result<(), Failure> {
        self.require(permission.roles)?;
        self.scope.admit(permission.resource)
    }

    /// Returns whether the key may see and manage another one.
    pub(crate) fn sees_key(&self, key: &ApiKey) -> bool {
        self.scope.sees(Object::Key(key.role, &key.scope))
    }
}

impl Role {
    /// Returns the traffic class of the key's requests in a tunnel.
    pub fn class(self) -> Class {
        match self {
            Self::Synchronizer => Class::Bulk,
            Self::Bridge | Self::Caller | Self::Admin | Self::SiteAdmin => Class::Interactive,
        }
    }
}
