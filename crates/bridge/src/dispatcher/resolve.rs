//! A target's host, as the addresses that the policy then decides on.
//!
//! The threads for lookups are shared: each caller may have as many as it leaves for others, so that a
//! caller with slow names keeps only itself waiting.

use policy::Host;
use protocol::frame::CallerWeight;
use protocol::{Code, Failure};
use std::net::IpAddr;
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use transport::lookup::{Lookups, Owner};

/// Longest wait for the resolver; its own retries add up to more.
const WITHIN: Duration = Duration::from_secs(5);

/// Names that are looked up at a time.
const LOOKUPS_MAX: usize = 64;

static LOOKUPS: LazyLock<Arc<Lookups>> = LazyLock::new(|| Lookups::new(LOOKUPS_MAX));

/// Every address of the host, each once, in the resolver's order. Looked up for the bridge itself.
///
/// # Errors
/// As [`resolve_for`].
pub async fn resolve(host: &Host) -> Result<Vec<IpAddr>, Failure> {
    look_up(&LOOKUPS, host, "bridge".into()).await
}

/// The same, looked up for a caller.
///
/// # Errors
/// `target_dns` when there is no address, or none in time; `overloaded` when the caller, or this host, can
/// look up no more names now.
pub(super) async fn resolve_for(host: &Host, caller: CallerWeight) -> Result<Vec<IpAddr>, Failure> {
    look_up(&LOOKUPS, host, caller.caller.to_string().into()).await
}

async fn look_up(
    lookups: &Arc<Lookups>,
    host: &Host,
    group: Arc<str>,
) -> Result<Vec<IpAddr>, Failure> {
    let name = match host {
        Host::Addr(address) => return Ok(vec![*address]),
        Host::Name(name) => name.as_str(),
    };
    let owner = Owner {
        group,
        member: "".into(),
    };
    let found = lookups.resolve(&owner, name, WITHIN).await;
    found.map_err(|error| {
        let code = match error.is_shortage() {
            true => Code::Overloaded,
            false => Code::TargetDns,
        };
        let detail = format!("the name {name} could not be resolved: {error}");
        Failure::not_dispatched(code, detail)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_is_itself_and_a_name_without_address_is_a_failure() {
        let address: IpAddr = "10.0.0.1".parse().unwrap();
        assert_eq!(resolve(&Host::Addr(address)).await.unwrap(), [address]);
        let host = Host::Name("no-such-host.invalid".into());
        let failure = resolve(&host).await.unwrap_err();
        assert_eq!(failure.code, Code::TargetDns);
        assert!(failure.execution.is_safe_to_repeat());
    }
}
