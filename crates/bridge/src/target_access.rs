//! What every request to a target needs: the policy, the HTTP client and the config.
//!
//! The dispatcher uses it for the relay's requests; the ALM sign-in and the health checks, for the bridge's own.
//! Credentials are not part of it: they use it themselves.

use crate::config::Config;
use http_client::{Client, Resolver};
use policy::{Host, Policy, RuleRef};
use protocol::{Code, Failure};
use std::net::IpAddr;
use std::path::Path;
use std::sync::LazyLock;
use transport::lookup::Owner;

/// Policy, client and config that belong together. Replaced as a whole when the config changes.
#[derive(Debug)]
pub(crate) struct TargetAccess {
    pub(crate) policy: Policy,
    pub(crate) client: Client,
    pub(crate) config: Config,
}

impl TargetAccess {
    /// Returns the CA file of the entry that allows a request. It is part of the pool's key: a connection that
    /// was made with one CA file never serves a request of an entry with another.
    pub(crate) fn ca_file(&self, rule: &RuleRef) -> Option<&Path> {
        self.config.rules.ca_file(rule)
    }
}

/// Adds to a TLS failure where the certificates come from that the request trusts: an endpoint and a rule may
/// cover the same target with different ones.
pub(crate) fn with_trust_keys(mut failure: Failure, rule: &RuleRef) -> Failure {
    if failure.code == Code::TargetTls {
        let section = match rule {
            RuleRef::Endpoint(_) => "[[endpoint]]",
            RuleRef::Allow(..) => "[[allow]]",
        };
        failure.detail.push_str(&format!(
            " (trusted here: ca_file of {rule} in {section}, targets.ca_file, and the system's roots)"
        ));
    }
    failure
}

/// Names that are looked up at a time. Lookups block threads, and cannot be cancelled.
const LOOKUPS_MAX: usize = 64;

/// One resolver for the process: a reload must not allow more lookups at a time.
pub(crate) static RESOLVER: LazyLock<Resolver> = LazyLock::new(|| Resolver::new(LOOKUPS_MAX));

/// Resolves a host for the bridge itself: every address, each once, in the resolver's order.
///
/// # Errors
/// `target_dns` when there is no address, or none in time; `overloaded` when this machine can look up no more
/// names now.
pub(crate) async fn resolve(host: &Host) -> Result<Vec<IpAddr>, Failure> {
    let owner = || lookup_owner("bridge".to_owned());
    RESOLVER.resolve(host, owner).await
}

/// Charges a lookup to a caller. Callers are not grouped here: a bridge has one tenant.
pub(crate) fn lookup_owner(caller: String) -> Owner {
    Owner {
        group: caller.into(),
        member: "".into(),
    }
}
