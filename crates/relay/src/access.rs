//! What a key may do: one rule for the API, every ingress, and pairing.
//!
//! ```text
//! role        may the role use the operation at all?                   [`Principal::require`]
//! resource    may a key that is narrowed like this use it?             [`KeyScope::admit`]
//! object      is this host, endpoint, bridge, call or key within it?   [`KeyScope::check`]
//! ```
//!
//! Hosts and endpoints narrow the same thing, the targets that a key reaches: a key that lists hosts and no
//! endpoints reaches no endpoint, and the reverse. Bridges and credentials are independent of that. A
//! narrowed key never acts on a whole tenant.
//!
//! | object | allowed when the key is narrowed |
//! | --- | --- |
//! | a call to a host, the forward proxy, CONNECT | the host, the bridge and the credential are listed |
//! | a stored call | the same; with credentials listed, only calls that the key itself stored |
//! | an endpoint | it is listed; the bridges that it is routed to are listed |
//! | a bridge, read | it is listed; endpoints and hosts that are not listed are hidden |
//! | a bridge, changed | it is listed, and the key is narrowed to bridges alone |
//! | the name that a bridge pairs under | it is listed |
//! | another key | the other key is narrowed at least as far |
//! | the tenant: audit record, notices, secrets, services | never |
//!
//! [`Permission`] has the role table. The hosts that a key lists are patterns, parsed once.

mod credentials;
mod permission;
mod principal;

pub(crate) use credentials::{
    BRIDGE_AUTHORIZATION, Credentials, LastCredentials, consumed_header, key_header,
};
pub(crate) use permission::Permission;
pub(crate) use principal::Principal;

use crate::storage::{Role, Scope};
use policy::{Host, HostPattern, Target};
use protocol::{Code, Failure};

/// The kind of object that an operation acts on. Each permission has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Resource {
    /// Operations that need no key.
    Public,
    /// Tenants, for the relay's operators.
    Site,
    /// A tenant as a whole: audit record, notices, signing secrets, services.
    Tenant,
    /// API keys of a tenant.
    Keys,
    /// Reading bridges.
    Bridges,
    /// Changing bridges.
    BridgeChanges,
    /// The name that a bridge pairs under.
    Pairing,
    /// Stored calls of a tenant.
    StoredCalls,
    /// Calls to hosts, and the forward proxy.
    Hosts,
    /// Requests to endpoints.
    Endpoints,
    /// A service's report about itself.
    OwnService,
}

/// One object that a request acts on.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Object<'a> {
    /// A bridge to read.
    Bridge(&'a str),
    /// A bridge to change.
    BridgeChange(&'a str),
    /// The name that a bridge pairs under.
    Pairing(&'a str),
    /// The host of a call, or of a request to the forward proxy.
    Host {
        /// The URL's host.
        host: &'a Host,
        /// The bridge that the request names.
        bridge: Option<&'a str>,
        /// The credential that the request names.
        credential: Option<&'a str>,
    },
    /// A stored call.
    StoredCall {
        /// The URL's host, as stored.
        host: &'a str,
        /// The bridge that the call names.
        bridge: Option<&'a str>,
        /// Whether the key itself stored it.
        is_own: bool,
    },
    /// An endpoint.
    Endpoint(&'a str),
    /// An API key with this role and scope.
    Key(Role, &'a Scope),
}

/// What a key is narrowed to, parsed.
#[derive(Debug, Default)]
pub(crate) struct KeyScope {
    /// The scope as it was given.
    pub given: Scope,
    hosts: Vec<HostPattern>,
}

impl KeyScope {
    /// Parses a stored scope. A pattern that this version cannot read allows nothing.
    pub(crate) fn new(given: Scope) -> Self {
        let hosts = given.hosts.iter();
        Self {
            // `given` keeps the pattern that cannot be parsed, so the scope still counts as narrowed to
            // hosts.
            hosts: hosts.filter_map(|p| HostPattern::parse(p).ok()).collect(),
            given,
        }
    }

    /// Returns the bridges that a request may use; empty for any.
    pub(crate) fn bridges(&self) -> &[String] {
        &self.given.bridges
    }

    /// Returns whether the key is narrowed to hosts or endpoints.
    pub(crate) fn has_targets(&self) -> bool {
        !self.given.hosts.is_empty() || !self.given.endpoints.is_empty()
    }

    /// Checks that a key with this scope may use operations on the resource at all.
    ///
    /// # Errors
    /// `forbidden`, with what the key is narrowed to.
    pub(crate) fn admit(&self, resource: Resource) -> Result<(), Failure> {
        let is_allowed = match resource {
            Resource::Site | Resource::Tenant => self.given.is_all(),
            Resource::StoredCalls | Resource::Hosts => {
                !self.has_targets() || !self.given.hosts.is_empty()
            }
            Resource::Endpoints => !self.has_targets() || !self.given.endpoints.is_empty(),
            Resource::BridgeChanges => self.is_bridges_alone(),
            Resource::Public
            | Resource::Keys
            | Resource::Bridges
            | Resource::Pairing
            | Resource::OwnService => true,
        };
        if is_allowed {
            return Ok(());
        }
        Err(self.forbidden(match resource {
            Resource::Site | Resource::Tenant => "the operation concerns the whole tenant",
            Resource::BridgeChanges => "a key that changes bridges may be narrowed to bridges only",
            Resource::Endpoints => "it lists no endpoints",
            Resource::StoredCalls | Resource::Hosts => "it lists no hosts",
            Resource::Public
            | Resource::Keys
            | Resource::Bridges
            | Resource::Pairing
            | Resource::OwnService => "it is not sufficient",
        }))
    }

    /// Checks that the object is within what the key is narrowed to.
    ///
    /// # Errors
    /// `forbidden`, with what the key is narrowed to.
    pub(crate) fn check(&self, object: Object<'_>) -> Result<(), Failure> {
        match object {
            Object::Bridge(name) | Object::Pairing(name) => {
                within("bridge", &self.given.bridges, name)
            }
            Object::BridgeChange(name) => {
                self.admit(Resource::BridgeChanges)?;
                within("bridge", &self.given.bridges, name)
            }
            Object::Host {
                host,
                bridge,
                credential,
            } => {
                self.host(host)?;
                if let Some(bridge) = bridge {
                    within("bridge", &self.given.bridges, bridge)?;
                }
                match credential {
                    Some(name) => within("credential", &self.given.credentials, name),
                    None => Ok(()),
                }
            }
            Object::StoredCall {
                host,
                bridge,
                is_own,
            } => self.stored_call(host, bridge, is_own),
            Object::Endpoint(name) => {
                self.admit(Resource::Endpoints)?;
                within("endpoint", &self.given.endpoints, name)
            }
            Object::Key(role, scope) => self.key(role, scope),
        }
    }

    /// Returns whether the object is within the scope, for objects that are hidden otherwise.
    pub(crate) fn sees(&self, object: Object<'_>) -> bool {
        self.given.is_all() || self.check(object).is_ok()
    }

    fn host(&self, host: &Host) -> Result<(), Failure> {
        self.admit(Resource::Hosts)?;
        if self.given.hosts.is_empty() || self.hosts.iter().any(|known| known.matches(host)) {
            return Ok(());
        }
        Err(narrowed("host", &self.given.hosts))
    }

    fn stored_call(&self, host: &str, bridge: Option<&str>, is_own: bool) -> Result<(), Failure> {
        self.admit(Resource::StoredCalls)?;
        if !self.given.hosts.is_empty() {
            // The stored text is parsed like a URL's host, so that patterns match it in the same way.
            let target = Target::parse(&format!("http://{host}/"));
            let target = target.map_err(|_| narrowed("host", &self.given.hosts))?;
            self.host(target.host())?;
        }
        if !self.given.bridges.is_empty() {
            // A call that names no bridge may go through any, so it is not within a list of bridges.
            within("bridge", &self.given.bridges, bridge.unwrap_or_default())?;
        }
        // The credential of a stored call is encrypted with its request and cannot be compared.
        if !self.given.credentials.is_empty() && !is_own {
            return Err(narrowed("credential", &self.given.credentials));
        }
        Ok(())
    }

    /// Checks that a key of this role and scope may do nothing that this one may not.
    fn key(&self, role: Role, scope: &Scope) -> Result<(), Failure> {
        if self.given.is_all() {
            return Ok(());
        }
        // A key that pairs bridges decides which machine serves a bridge's name, which is a change of the
        // bridge.
        if role == Role::Bridge {
            self.admit(Resource::BridgeChanges)?;
        }
        let other = Self::new(scope.clone());
        let wider = |what: &str| {
            Err(self.forbidden(&format!(
                "it may only manage keys that are narrowed at least as far, and of the {what} this \
                 one allows more"
            )))
        };
        if self.has_targets() {
            let covers = |host: &HostPattern| self.hosts.iter().any(|own| own.covers(host));
            // A key without targets may reach all of them, so it is wider than any list.
            let is_within = other.has_targets()
                // A pattern that cannot be parsed is missing in `other.hosts`; such a key is never within
                // this one.
                && other.hosts.len() == scope.hosts.len()
                && other.hosts.iter().all(covers)
                && is_part(&scope.endpoints, &self.given.endpoints);
            if !is_within {
                return wider("hosts and endpoints");
            }
        }
        if !self.given.bridges.is_empty()
            && (scope.bridges.is_empty() || !is_part(&scope.bridges, &self.given.bridges))
        {
            return wider("bridges");
        }
        // Only keys that make calls can name a credential.
        if !self.given.credentials.is_empty()
            && Permission::CALLS.roles.contains(&role)
            && (scope.credentials.is_empty()
                || !is_part(&scope.credentials, &self.given.credentials))
        {
            return wider("credentials");
        }
        Ok(())
    }

    /// Returns whether the key is narrowed to bridges at most.
    fn is_bridges_alone(&self) -> bool {
        !self.has_targets() && self.given.credentials.is_empty()
    }

    fn forbidden(&self, why: &str) -> Failure {
        let lists = [
            ("bridge", &self.given.bridges),
            ("endpoint", &self.given.endpoints),
            ("host", &self.given.hosts),
            ("credential", &self.given.credentials),
        ];
        let listed: Vec<String> = lists
            .iter()
            .filter(|(_, names)| !names.is_empty())
            .map(|(what, names)| format!("the {what} {}", names.join(", ")))
            .collect();
        let listed = listed.join(" and ");
        let detail = format!("this key is narrowed to {listed}: {why}");
        Failure::not_sent(Code::Forbidden, detail)
    }
}

fn is_part(names: &[String], of: &[String]) -> bool {
    names.iter().all(|name| of.contains(name))
}

fn within(what: &str, allowed: &[String], wanted: &str) -> Result<(), Failure> {
    if allowed.is_empty() || allowed.iter().any(|known| known == wanted) {
        return Ok(());
    }
    Err(narrowed(what, allowed))
}

fn narrowed(what: &str, allowed: &[String]) -> Failure {
    let detail = format!("this key is narrowed to the {what} {}", allowed.join(", "));
    Failure::not_sent(Code::Forbidden, detail)
}

#[cfg(test)]
mod tests;
