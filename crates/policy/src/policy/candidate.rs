//! A request that the rules allow, before and after its address is known.
//!
//! ```text
//! Candidate --approve(address)--> Approved      the only way to one
//!           --approve(address)--> Refusal
//! ```
//!
//! A name may be allowed by several rules, and which one applies can depend on where it leads:
//! the candidate carries them all, in order, and the first that admits the address is the one.

use super::admission::{Grant, Limits};
use super::evaluate::Request;
use super::refusal::{Refusal, RefusalKind, part};
use crate::rule::host_pattern::HostPattern;
use crate::target::Target;
use crate::target::host::Host;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Resolved addresses of one name that are looked at; more than any healthy name has.
pub const RESOLVED_MAX: usize = 64;

/// Which entry of the config allowed it.
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

/// A request that is allowed as far as it says itself. It owns all it needs: approving it later
/// uses the policy it came from, also when that was replaced since.
#[derive(Debug, Clone)]
pub struct Candidate {
    limits: Arc<Limits>,
    method: Arc<str>,
    target: Arc<Target>,
    /// In the config's order; never empty.
    grants: Vec<Grant>,
}

impl Candidate {
    /// `grants` holds at least one.
    pub(crate) fn new(limits: &Arc<Limits>, request: Request, grants: Vec<Grant>) -> Self {
        debug_assert!(!grants.is_empty(), "nothing allows it");
        Self {
            limits: Arc::clone(limits),
            method: request.method,
            target: request.target,
            grants,
        }
    }

    /// Where it goes.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Its method, `CONNECT` for a raw stream.
    pub fn method(&self) -> &str {
        &self.method
    }

    /// The first entry that allows it; the address may decide for a later one, see
    /// [`Approved::rule`].
    pub fn rule(&self) -> &RuleRef {
        &self.grants[0].rule
    }

    /// May it go to this address, to which its host was resolved (or which its host is)?
    ///
    /// # Errors
    /// [`RefusalKind::AlwaysRefused`] or [`RefusalKind::AddressNotAllowed`], in the words of the
    /// first entry that allows the request.
    pub fn approve(&self, addr: IpAddr) -> Result<Approved, Refusal> {
        let mut refusal = None;
        for grant in &self.grants {
            match self.limits.admit(grant, self.target.host(), addr) {
                Ok(()) => return Ok(self.approved(grant, addr)),
                Err(why) => refusal = refusal.or(Some(why)),
            }
        }
        Err(refusal.unwrap_or_else(|| Refusal::no_rule(self.target.host())))
    }

    /// The addresses that it may go to, in the order given. Only the first [`RESOLVED_MAX`] are
    /// looked at.
    ///
    /// # Errors
    /// When there are none: the refusal of the first address, or [`RefusalKind::NoAddress`].
    pub fn approve_any(
        &self,
        addrs: impl IntoIterator<Item = IpAddr>,
    ) -> Result<Vec<Approved>, Refusal> {
        let mut approved = Vec::new();
        let mut refusal = None;
        for addr in addrs.into_iter().take(RESOLVED_MAX) {
            match self.approve(addr) {
                Ok(one) => approved.push(one),
                Err(why) => refusal = refusal.or(Some(why)),
            }
        }
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
            addr: SocketAddr::new(addr.to_canonical(), self.target.port()),
            rule: grant.rule.clone(),
        }
    }
}

/// A request that may go to one address. Only [`Candidate::approve`] makes it; whoever connects
/// takes nothing less, and connects to [`socket_addr`](Self::socket_addr) alone.
#[derive(Debug, Clone)]
pub struct Approved {
    method: Arc<str>,
    target: Arc<Target>,
    addr: SocketAddr,
    rule: RuleRef,
}

impl Approved {
    /// Where it goes: what to write on the request line and in `Host`, and the name for TLS.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// The method that was decided on.
    pub fn method(&self) -> &str {
        &self.method
    }

    /// The address that was checked, with the target's port. An IPv4-mapped address is given as
    /// the IPv4 address that it is.
    pub fn socket_addr(&self) -> SocketAddr {
        self.addr
    }

    /// The entry that allowed it.
    pub fn rule(&self) -> &RuleRef {
        &self.rule
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_counted_from_one_for_people() {
        let host = HostPattern::parse("*.corp.example").unwrap();
        assert_eq!(
            RuleRef::Allow(1, host).to_string(),
            "allow rule 2 (host *.corp.example)"
        );
        assert_eq!(RuleRef::Endpoint("alm".into()).to_string(), "endpoint alm");
    }

    #[test]
    fn what_is_allowed_may_cross_threads() {
        fn check<T: Send + Sync + 'static>() {}
        check::<Candidate>();
        check::<Approved>();
        check::<crate::Policy>();
    }
}
