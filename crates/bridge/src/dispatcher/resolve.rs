//! A target's host, as the addresses that the policy then decides on.

use machine::shortage;
use policy::Host;
use protocol::{Code, Failure};
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

/// Longest wait for the resolver; its own retries add up to more.
const WITHIN: Duration = Duration::from_secs(5);

/// Names that are looked up at a time. A look-up blocks a thread and cannot be broken off: it
/// counts until the resolver is done, whether or not anybody still waits for it.
const LOOKUPS_MAX: usize = 32;

static LOOKUPS: Semaphore = Semaphore::const_new(LOOKUPS_MAX);

/// Every address of the host, each once, in the resolver's order.
///
/// # Errors
/// `target_dns` when there is none, or none in time; `overloaded` where as many names are looked up as may
/// be, or this machine has no descriptor or thread left for it.
pub async fn resolve(host: &Host) -> Result<Vec<IpAddr>, Failure> {
    let name = match host {
        Host::Addr(address) => return Ok(vec![*address]),
        Host::Name(name) => name.as_str(),
    };
    let failed = |unresolved: Unresolved| {
        let (code, detail) = match unresolved {
            Unresolved::Name(detail) => (Code::TargetDns, detail),
            Unresolved::Shortage(detail) => (Code::Overloaded, detail),
        };
        let detail = format!("the name {name} could not be resolved: {detail}");
        Failure::not_dispatched(code, detail)
    };
    let owned = name.to_owned();
    let find = move || (owned.as_str(), 0).to_socket_addrs().map(Iterator::collect);
    let found = look_up(find, &LOOKUPS, WITHIN).await.map_err(failed)?;
    let mut addresses: Vec<IpAddr> = Vec::new();
    for address in found.iter().map(SocketAddr::ip) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    if addresses.is_empty() {
        return Err(failed(Unresolved::Name("it has no address".into())));
    }
    Ok(addresses)
}

/// Why a name has no address.
#[derive(Debug)]
enum Unresolved {
    /// The resolver says so, or says nothing.
    Name(String),
    /// This machine cannot ask.
    Shortage(String),
}

/// The resolver hides that it could open no file or socket.
fn unresolved(error: &io::Error) -> Unresolved {
    let detail = error.to_string();
    match shortage::is_shortage(error) || shortage::has_few_descriptors() {
        true => Unresolved::Shortage(format!(
            "{detail} (this bridge has no file descriptors left)"
        )),
        false => Unresolved::Name(detail),
    }
}

/// Runs `find` on a thread of its own, when there is a permit for it.
async fn look_up(
    find: impl FnOnce() -> io::Result<Vec<SocketAddr>> + Send + 'static,
    permits: &'static Semaphore,
    within: Duration,
) -> Result<Vec<SocketAddr>, Unresolved> {
    let by = Instant::now() + within;
    // Nobody closes the semaphore.
    let Ok(Ok(permit)) = timeout_at(by, permits.acquire()).await else {
        let detail = format!("{LOOKUPS_MAX} names are being looked up, as many as may be");
        return Err(Unresolved::Shortage(detail));
    };
    let finding = tokio::task::spawn_blocking(move || {
        // Looked at at once: a descriptor that is missing may be free in a moment.
        let found = find().map_err(|error| unresolved(&error));
        drop(permit);
        found
    });
    match timeout_at(by, finding).await {
        Ok(Ok(found)) => found,
        // The thread could not be started.
        Ok(Err(error)) => Err(Unresolved::Shortage(error.to_string())),
        Err(_) => Err(Unresolved::Name(format!("no answer within {within:?}"))),
    }
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

    #[tokio::test]
    async fn a_lookup_that_nobody_waits_for_counts_until_it_is_done() {
        static ONE: Semaphore = Semaphore::const_new(1);
        let short = Duration::from_millis(20);
        let (release, held) = std::sync::mpsc::channel::<()>();
        let stuck = move || {
            let _ = held.recv();
            Ok(Vec::new())
        };
        let error = look_up(stuck, &ONE, short).await.unwrap_err();
        assert!(
            matches!(&error, Unresolved::Name(detail) if detail.contains("no answer")),
            "{error:?}"
        );
        let refused = look_up(|| Ok(Vec::new()), &ONE, short).await.unwrap_err();
        assert!(matches!(refused, Unresolved::Shortage(_)), "{refused:?}");
        release.send(()).unwrap();
        let long = Duration::from_secs(10);
        assert!(look_up(|| Ok(Vec::new()), &ONE, long).await.is_ok());
    }
}
