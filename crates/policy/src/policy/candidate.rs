//! A request that the rules allow, before and after its address is known.
//!
//! ```text
//! Candidate --approve(address)--> Approved      the only constructor of Approved
//!           --approve(address)--> Refusal
//! ```
//!
//! Several rules may allow a name, and which one applies can depend on the address that it resolves to.
//! The candidate holds all of them, in order; the first one that admits the address applies.

use super::admission::{Grant, Limits};
use super::evaluate::Request;
use super::refusal::{Refusal, RefusalKind, part};
use crate::rule::host_pattern::HostPattern;
use crate::rule::overrides::Overrides;
use crate::target::Target;
use crate::target::host::Host;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Resolved addresses of one name that are checked; more than any sane name has.
pub const RESOLVED_MAX: usize = 64;

/// The entry of the config that allowed a request.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum RuleRef {
    /// The rule at this index (from 0) of [`Policy::rules`](crate::Policy::rules), and its host.
    /// Printed with its number, from 1: `allow rule 2 (host *.corp.example)`.
    Allow(usize, HostPattern),
    /// The endpoint with this name: `endpoint alm`.
    Endpoint(String),
}

impl fmt::Display for RuleRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Allow(index, host) => write!(f, "allow rule {} (host {})", index + 1, part(host)),
            Self::Endpoint(name) => write!(f, "endpoint {name}"),
        }
    }
}

/// A request that is allowed by its own content. It owns all it needs: a later approval uses the policy
/// that it came from, even if a reload has replaced that policy.
#[derive(Debug, Clone)]
pub struct Candidate {
    limits: Arc<Limits>,
    method: Arc<str>,
    target: Arc<Target>,
    /// In the config's order; never empty.
    grants: Vec<Grant>,
}

impl Candidate {
    /// Creates a candidate. `grants` has at least one entry.
    pub(crate) fn new(limits: &Arc<Limits>, request: Request, grants: Vec<Grant>) -> Self {
        debug_assert!(!grants.is_empty(), "nothing allows it");
        Self {
            limits: Arc::clone(limits),
            method: request.method,
            target: request.target,
            grants,
        }
    }

    /// Returns the target.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Returns the method, `CONNECT` for a raw stream.
    pub fn method(&self) -> &str {
        &self.method
    }

    /// Returns the first entry that allows it. By its address a later one may apply, see [`Approved::rule`].
    pub fn rule(&self) -> &RuleRef {
        &self.grants[0].rule
    }

    /// Approves the request for one address, which its host was resolved to (or is).
    ///
    /// # Errors
    /// [`RefusalKind::AlwaysRefused`] or [`RefusalKind::AddressNotAllowed`], from the first entry that
    /// allows the request.
    pub fn approve(&self, addr: IpAddr) -> Result<Approved, Refusal> {
        let mut refusal = None;
        for grant in &self.grants {
            match self.limits.admit(grant, self.target.host(), addr) {
                Ok(()) => return Ok(self.approved(grant, addr)),
                // The first refusal is reported: it belongs to the rule or the address that comes first.
                Err(why) => refusal = refusal.or(Some(why)),
            }
        }
        Err(refusal.unwrap_or_else(|| Refusal::no_rule(self.target.host())))
    }

    /// Approves the request for each of the addresses that it may use, in the given order. Only the first
    /// [`RESOLVED_MAX`] are checked.
    ///
    /// # Errors
    /// When there are none: the refusal of the first address, or [`RefusalKind::NoAddress`].
    pub fn approve_any(
        &self,
        addrs: impl IntoIterator<Item = IpAddr>,
    ) -> Result<Vec<Approved>, Refusal> {
        let mut approved = Vec::new();
        let mut refusal = None;
        // Bounded: the owner of a DNS zone chooses how many addresses a name has.
        for addr in addrs.into_iter().take(RESOLVED_MAX) {
            match self.approve(addr) {
                Ok(one) => approved.push(one),
                Err(why) => refusal = refusal.or(Some(why)),
            }
        }
        // One allowed address is enough: names often have addresses of several networks.
        if approved.is_empty() {
            Err(refusal.unwrap_or_else(|| self.no_address()))
        } else {
            Ok(approved)
        }
    }

    fn no_address(&self) -> Refusal {
        let detail = match self.target.host() {
            Host::Name(name) => format!("{} resolved to no address", part(name)),
            Host::Addr(addr) => format!("no address was given for {addr}"),
        };
        Refusal::new(RefusalKind::NoAddress, detail)
    }

    fn approved(&self, grant: &Grant, addr: IpAddr) -> Approved {
        Approved {
            method: Arc::clone(&self.method),
            target: Arc::clone(&self.target),
            // Canonical, so that the socket connects to exactly the address that was checked.
            addr: SocketAddr::new(addr.to_canonical(), self.target.port()),
            rule: grant.rule.clone(),
            overrides: grant.overrides,
        }
    }
}

/// A request that may be sent to one address. Only [`Candidate::approve`] creates it. Code that
/// connects requires it, and connects to [`socket_addr`](Self::socket_addr) only.
#[derive(Debug, Clone)]
pub struct Approved {
    method: Arc<str>,
    target: Arc<Target>,
    addr: SocketAddr,
    rule: RuleRef,
    overrides: Overrides,
}

impl Approved {
    /// Returns the target: for the request line, `Host`, and the name in TLS.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Returns the method that was decided on.
    pub fn method(&self) -> &str {
        &self.method
    }

    /// Returns the checked address, with the target's port. An IPv4-mapped address is returned as IPv4.
    pub fn socket_addr(&self) -> SocketAddr {
        self.addr
    }

    /// Returns the entry that allowed it.
    pub fn rule(&self) -> &RuleRef {
        &self.rule
    }

    /// Returns which of the request's fields must not be sent.
    pub fn overrides(&self) -> Overrides {
        self.overrides
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_numbers_begin_at_one() {
        let host = HostPattern::parse("*.corp.example").unwrap();
        assert_eq!(
            RuleRef::Allow(1, host).to_string(),
            "allow rule 2 (host *.corp.example)"
        );
        assert_eq!(RuleRef::Endpoint("alm".into()).to_string(), "endpoint alm");
    }

    /// A decision crosses threads: checked at compile time.
    const _: () = {
        const fn check<T: Send + Sync + 'static>() {}
        check::<Candidate>();
        check::<Approved>();
        check::<crate::Policy>();
    };
}
