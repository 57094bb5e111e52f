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
use transport::failure::Diagnosis;
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
/// cover the same target with different ones. The remedy stays at the end, where [`Diagnosis::split`] finds it.
pub(crate) fn with_trust_keys(mut failure: Failure, rule: &RuleRef, config: &Config) -> Failure {
    if failure.code != Code::TargetTls {
        return failure;
    }
    let section = match rule {
        RuleRef::Endpoint(_) => "[[endpoint]]",
        RuleRef::Allow(..) => "[[allow]]",
    };
    let own = config.rules.ca_file(rule);
    let own = own.map(|_| format!("ca_file of {rule} in {section}"));
    let shared = config.targets.ca_file.as_ref();
    let shared = shared.map(|_| "targets.ca_file".to_owned());
    let given: Vec<String> = own.into_iter().chain(shared).collect();
    let trusted = match given.as_slice() {
        [] => "the system's roots only; no ca_file is set".to_owned(),
        given => format!("{}, and the system's roots", given.join(", ")),
    };
    failure.detail = match Diagnosis::split(&failure.detail) {
        Some((found, remedy)) => format!("{found} (trusted here: {trusted}); {remedy}"),
        None => format!("{} (trusted here: {trusted})", failure.detail),
    };
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

#[cfg(test)]
mod tests {
    use super::*;
    use transport::failure::Cause;

    #[test]
    fn trust_names_what_is_set_before_the_remedy() {
        let text = "[relay]\nurl = \"https://relay.example\"\n[bridge]\nname = \"b\"\ndata_dir = \"data\"\n";
        let endpoint = "[[endpoint]]\nname = \"e\"\nurl = \"https://a.example/\"\n";
        let rule = RuleRef::Endpoint("e".into());
        let detail = |more: &str| {
            let config = Config::parse(&format!("{text}{more}"), Path::new("bridge.toml")).unwrap();
            let detail = Diagnosis::from(Cause::UnknownIssuer).with_remedy();
            let failure = Failure::not_dispatched(Code::TargetTls, detail);
            with_trust_keys(failure, &rule, &config).detail
        };
        for (more, trusted) in [
            (
                endpoint.to_owned(),
                "(trusted here: the system's roots only; no ca_file is set)",
            ),
            (
                format!("{endpoint}ca_file = \"a.pem\"\n"),
                "(trusted here: ca_file of endpoint e in [[endpoint]], and the system's roots)",
            ),
            (
                format!("{endpoint}[targets]\nca_file = \"a.pem\"\n"),
                "(trusted here: targets.ca_file, and the system's roots)",
            ),
        ] {
            let detail = detail(&more);
            assert!(detail.contains(trusted), "{detail}");
            let (found, remedy) = Diagnosis::split(&detail).unwrap();
            assert!(found.ends_with(trusted), "{found}");
            assert_eq!(remedy, Cause::UnknownIssuer.words().remedy);
        }
        let other = Failure::not_dispatched(Code::TargetDns, "x");
        let config = Config::parse(text, Path::new("bridge.toml")).unwrap();
        assert_eq!(with_trust_keys(other, &rule, &config).detail, "x");
    }
}
