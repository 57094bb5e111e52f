//! Authentication of requests by API key, with a limit on failures for each client address.
//!
//! The credentials are described in [`crate::access`].

use crate::access::{Credentials, Principal, key_header};
use crate::admission::network;
use crate::audit::recorder::Auditing;
use crate::connection::Connection;
use crate::denials::{Denied, DeniedClient};
use crate::directory::Directory;
use crate::metrics::Metrics;
use http::header::{HeaderMap, HeaderName};
use protocol::{Code, Failure};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Addresses whose failures are counted. Above it, windows that have ended are dropped first.
const ADDRESSES_MAX: usize = 10_000;

/// Length of a window in which failures are counted.
const WINDOW: Duration = Duration::from_secs(60);

/// Checks API keys, and counts failures.
#[derive(Debug)]
pub(crate) struct Authenticator {
    directory: Arc<Directory>,
    audit: Arc<Auditing>,
    metrics: Arc<Metrics>,
    keys: KeyCheck,
}

impl Authenticator {
    /// Returns an authenticator. `failures_per_minute`: authentication failures allowed for each client
    /// address.
    pub(crate) fn new(
        directory: Arc<Directory>,
        audit: Arc<Auditing>,
        metrics: Arc<Metrics>,
        failures_per_minute: u32,
    ) -> Self {
        Self {
            keys: KeyCheck::new(directory.clone(), failures_per_minute),
            directory,
            audit,
            metrics,
        }
    }

    /// Returns the API key that the request proves.
    ///
    /// Another process may have created an unknown key recently, so the directory queries the database
    /// before the key is refused ([`Directory::refresh_for`]).
    ///
    /// # Errors
    /// `unauthorized`, with the same text for an unknown client id and a wrong secret; `overloaded` when
    /// the database does not respond; `directory_stale`; `tenant_suspended`; `rate_limited` for an address
    /// with too many failures. A valid key is accepted from any address, since many callers may share a
    /// load balancer's.
    pub(crate) async fn authenticate(
        &self,
        headers: &HeaderMap,
        connection: &Connection,
    ) -> Result<Principal, Failure> {
        let name = key_header(headers);
        self.authenticate_by(headers, &name, connection).await
    }

    /// Returns the API key in the header field of this name.
    ///
    /// # Errors
    /// As [`Self::authenticate`].
    pub(crate) async fn authenticate_by(
        &self,
        headers: &HeaderMap,
        name: &HeaderName,
        connection: &Connection,
    ) -> Result<Principal, Failure> {
        let (last, peer) = (&connection.last_credentials, connection.peer.ip());
        let credentials = last.read(headers, name).inspect_err(|failure| {
            self.note(failure, DeniedClient::default(), peer);
        })?;
        let result = self.keys.check(&credentials, peer).await;
        match &result {
            // Only now: a connection that has proved nothing takes no more memory.
            Ok(_) => last.remember(headers, name, &credentials),
            Err(failure) => {
                // The denial names the tenant of an existing client id, so that its administrators see attacks.
                let client = self.directory.client_of(&credentials.client_id);
                self.note(failure, client, peer);
            }
        }
        result
    }

    fn note(&self, failure: &Failure, client: DeniedClient, peer: IpAddr) {
        let code = failure.code.as_str();
        self.metrics.request_denied(code);
        let label = |id: &str| self.directory.tenant_label(id);
        let denials = &self.audit.denials;
        denials.note(Denied::Request, code, client, peer, label);
    }
}

/// Checks credentials against the directory, and queries the database before it refuses unknown ones.
#[derive(Debug)]
pub(crate) struct KeyCheck {
    directory: Arc<Directory>,
    attempts: Mutex<Attempts>,
}

impl KeyCheck {
    /// Returns a check. `failures_per_minute`: authentication failures allowed for each client address.
    pub(crate) fn new(directory: Arc<Directory>, failures_per_minute: u32) -> Self {
        Self {
            directory,
            attempts: Mutex::new(Attempts::new(failures_per_minute)),
        }
    }

    /// Returns the key that the credentials prove. Errors as of [`Authenticator::authenticate`].
    pub(crate) async fn check(
        &self,
        credentials: &Credentials,
        peer: IpAddr,
    ) -> Result<Principal, Failure> {
        let directory = &self.directory;
        match directory.authenticate(credentials) {
            // Another process may have changed either recently.
            Err(failure) if matches!(failure.code, Code::Unauthorized | Code::TenantSuspended) => {}
            known => return known,
        }
        // Only failures are limited, and only before the database is queried: a valid key passes above.
        if !self.attempts().has_room(peer, Instant::now()) {
            return Err(Failure::not_sent(
                Code::RateLimited,
                "too many authentication failures from this address in the last minute \
                 (limits.auth_failures_per_minute)",
            ));
        }
        let has_responded = Box::pin(directory.refresh_for(peer)).await;
        let mut result = directory.authenticate(credentials);
        if !has_responded && matches!(&result, Err(failure) if failure.code == Code::Unauthorized) {
            self.attempts().count(peer, Instant::now());
            // The key may be new. A refusal as `unauthorized` could make its client give up for good.
            let detail = "this key is unknown here, and the database does not respond: it cannot be \
                          checked";
            result = Err(Failure::not_sent(Code::Overloaded, detail));
        }
        if matches!(&result, Err(failure) if failure.code == Code::Unauthorized) {
            self.attempts().count(peer, Instant::now());
        }
        result
    }

    fn attempts(&self) -> MutexGuard<'_, Attempts> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Failures of each client address, in windows of a minute.
#[derive(Debug)]
struct Attempts {
    per_window: u32,
    by_address: HashMap<IpAddr, (Instant, u32)>,
}

impl Attempts {
    fn new(per_window: u32) -> Self {
        Self {
            per_window,
            by_address: HashMap::new(),
        }
    }

    /// Returns whether another failure of this address is allowed.
    fn has_room(&mut self, address: IpAddr, now: Instant) -> bool {
        // IPv6 clients have whole networks, so failures are counted by /64.
        let address = network(address);
        match self.by_address.get(&address) {
            Some((since, failures)) => {
                now.saturating_duration_since(*since) >= WINDOW || *failures < self.per_window
            }
            None => {
                if self.by_address.len() >= ADDRESSES_MAX {
                    self.by_address
                        .retain(|_, (since, _)| now.saturating_duration_since(*since) < WINDOW);
                }
                // Without a free entry a new address must wait. Otherwise an attacker with many addresses
                // would have no limit.
                self.by_address.len() < ADDRESSES_MAX && self.per_window > 0
            }
        }
    }

    /// Counts a failure of an address that was allowed one.
    fn count(&mut self, address: IpAddr, now: Instant) {
        let address = network(address);
        if self.by_address.len() >= ADDRESSES_MAX && !self.by_address.contains_key(&address) {
            return;
        }
        let (since, failures) = self.by_address.entry(address).or_insert((now, 0));
        if now.saturating_duration_since(*since) >= WINDOW {
            (*since, *failures) = (now, 0);
        }
        *failures = failures.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_counted_by_address_for_a_minute() {
        let mut attempts = Attempts::new(2);
        let now = Instant::now();
        let address: IpAddr = "10.0.0.1".parse().unwrap();
        for _ in 0..2 {
            assert!(attempts.has_room(address, now));
            attempts.count(address, now);
        }
        assert!(!attempts.has_room(address, now));
        assert!(!attempts.has_room("::ffff:10.0.0.1".parse().unwrap(), now));
        assert!(attempts.has_room("10.0.0.2".parse().unwrap(), now));
        assert!(attempts.has_room(address, now + WINDOW));
        assert_eq!(
            network("2001:db8::1".parse().unwrap()),
            network("2001:db8::2".parse().unwrap())
        );
    }

    #[test]
    fn number_of_addresses_is_bounded() {
        let mut attempts = Attempts::new(1);
        let now = Instant::now();
        for number in 0..u32::try_from(ADDRESSES_MAX).unwrap() {
            attempts.count(std::net::Ipv4Addr::from(number).into(), now);
        }
        let next: IpAddr = "192.0.2.1".parse().unwrap();
        assert!(!attempts.has_room(next, now));
        attempts.count(next, now);
        assert_eq!(attempts.by_address.len(), ADDRESSES_MAX);
        assert!(attempts.has_room(next, now + WINDOW));
    }
}
