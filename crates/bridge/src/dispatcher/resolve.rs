//! A target's host, as the addresses that the policy then decides on.

use policy::Host;
use protocol::{Code, Failure};
use std::net::IpAddr;
use std::time::Duration;
use tokio::time::timeout;

/// Longest wait for the resolver; its own retries add up to more.
const WITHIN: Duration = Duration::from_secs(5);

/// Every address of the host, each once, in the resolver's order.
///
/// # Errors
/// `target_dns` when there is none, or none in time.
pub async fn resolve(host: &Host) -> Result<Vec<IpAddr>, Failure> {
    let name = match host {
        Host::Addr(address) => return Ok(vec![*address]),
        Host::Name(name) => name.as_str(),
    };
    let failed = |detail: String| {
        let detail = format!("the name {name} could not be resolved: {detail}");
        Failure::not_dispatched(Code::TargetDns, detail)
    };
    let looked_up = timeout(WITHIN, tokio::net::lookup_host((name, 0))).await;
    let found = looked_up
        .map_err(|_| failed(format!("no answer within {WITHIN:?}")))?
        .map_err(|error| failed(error.to_string()))?;
    let mut addresses: Vec<IpAddr> = Vec::new();
    for address in found.map(|address| address.ip()) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    if addresses.is_empty() {
        return Err(failed("it has no address".into()));
    }
    Ok(addresses)
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
