//! Resolves a host, and asks the policy about each of its addresses.
//!
//! The threads for lookups are shared: each caller may use as many as it leaves for others, so that a caller
//! with slow names keeps only itself waiting.

use policy::{Approved, Candidate, Host, Refusal};
use protocol::{Code, Failure};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use transport::failure::{self, Cause, Diagnosis};
use transport::lookup::{LookupError, Lookups, Owner};

/// Longest wait for the system's resolver; its own retries can take longer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Which addresses of a host must be approved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressRule {
    /// At least one: the others are skipped.
    Any,
    /// Every one. An outsider who controls a name's addresses could otherwise choose which one is tried.
    All,
}

/// Why a candidate has no address to connect to.
#[derive(Debug)]
pub enum ResolveError {
    /// The name was not resolved.
    Lookup(Failure),
    /// The policy refuses the addresses.
    Refused(Refusal),
}

/// Looks names up, a bounded number at a time.
#[derive(Debug)]
pub struct Resolver {
    lookups: Arc<Lookups>,
}

impl Resolver {
    /// Returns a resolver with at most `concurrent_max` lookups at a time.
    pub fn new(concurrent_max: usize) -> Self {
        Self {
            lookups: Lookups::new(concurrent_max),
        }
    }

    /// Returns every address of the host, each once, in the resolver's order. `owner` is charged for the
    /// lookup; it is called only if there is one.
    ///
    /// # Errors
    /// `target_dns` when there is no address, or none in time. `overloaded` when the owner, or this machine,
    /// can look up no more names now.
    pub async fn resolve(
        &self,
        host: &Host,
        owner: impl FnOnce() -> Owner,
    ) -> Result<Vec<IpAddr>, Failure> {
        let name = match host {
            Host::Addr(address) => return Ok(vec![*address]),
            Host::Name(name) => name.as_str(),
        };
        // The owner is made here: requests to addresses, and those on idle connections, allocate none.
        let found = self.lookups.resolve(&owner(), name, TIMEOUT).await;
        found.map_err(|error| {
            // A shortage of our own states nothing about the name.
            let code = match error.is_shortage() {
                true => Code::Overloaded,
                false => Code::TargetDns,
            };
            let why = match &error {
                LookupError::Failed(error) => failure::lookup(error).with_remedy(),
                LookupError::Empty => Diagnosis::from(Cause::NameWithoutAddress).with_remedy(),
                LookupError::Timeout(limit) => {
                    Diagnosis::new(Cause::NameServerSilent, format!("within {limit:?}"))
                        .with_remedy()
                }
                LookupError::Busy(_) | LookupError::Shortage(_) => error.to_string(),
            };
            let detail = format!("the name {name} could not be resolved: {why}");
            Failure::not_dispatched(code, detail)
        })
    }

    /// Resolves a candidate's host and returns its approved addresses.
    ///
    /// # Errors
    /// [`ResolveError`]; nothing was dispatched.
    pub async fn approved(
        &self,
        candidate: &Candidate,
        rule: AddressRule,
        owner: impl FnOnce() -> Owner,
    ) -> Result<Vec<Approved>, ResolveError> {
        let host = candidate.target().host();
        let addresses = self.resolve(host, owner).await;
        let addresses = addresses.map_err(ResolveError::Lookup)?;
        match rule {
            AddressRule::Any => candidate.approve_any(addresses),
            AddressRule::All => addresses
                .into_iter()
                .map(|address| candidate.approve(address))
                .collect(),
        }
        .map_err(ResolveError::Refused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner() -> Owner {
        Owner {
            group: "test".into(),
            member: "".into(),
        }
    }

    #[tokio::test]
    async fn address_resolves_to_itself_and_unknown_name_fails() {
        let resolver = Resolver::new(1);
        let address: IpAddr = "10.0.0.1".parse().unwrap();
        let found = resolver.resolve(&Host::Addr(address), owner).await;
        assert_eq!(found.unwrap(), [address]);
        let host = Host::Name("no-such-host.invalid".into());
        let failure = resolver.resolve(&host, owner).await.unwrap_err();
        assert_eq!(failure.code, Code::TargetDns);
        assert!(failure.execution.is_safe_to_repeat());
    }
}
