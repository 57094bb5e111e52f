//! Who asks: HTTP Basic with an API key, in one of two headers.
//!
//! In `Authorization`, which is then consumed; or in `Bridge-Authorization`, and then
//! `Authorization` belongs to the target and passes through untouched. `Bridge-Authorization`
//! itself never leaves the relay.

use crate::access::{Credentials, Principal};
use crate::admission::network;
use crate::denials::{Denied, Who};
use crate::directory::Directory;
use crate::state::State;
use http::header::{HeaderMap, HeaderName};
use protocol::{Code, Failure};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Addresses whose failures are counted; beyond, the oldest windows are dropped.
const ADDRESSES_MAX: usize = 10_000;

/// In which failures are counted.
const WINDOW: Duration = Duration::from_secs(60);

/// Checks keys, and counts those that are wrong.
#[derive(Debug)]
pub struct Authenticator {
    state: Arc<State>,
    keys: KeyCheck,
}

impl Authenticator {
    /// With so many failures of one address that are told apart in a minute.
    pub fn new(state: Arc<State>, failures_per_minute: u32) -> Self {
        Self {
            keys: KeyCheck::new(state.directory.clone(), failures_per_minute),
            state,
        }
    }

    /// Who asks.
    ///
    /// A key that is not known may be one that another process created a moment ago: the
    /// directory looks again before it says no ([`Directory::look_for`]).
    ///
    /// # Errors
    /// `unauthorized`, without a difference between an unknown client id and a wrong secret;
    /// `overloaded` where the database cannot be asked; `directory_stale`; `tenant_suspended`;
    /// `rate_limited` for an address that was wrong too often. A key that is right is taken from any
    /// address: many callers may share a balancer's.
    pub async fn authenticate(
        &self,
        headers: &HeaderMap,
        peer: IpAddr,
    ) -> Result<Principal, Failure> {
        self.check(Credentials::from_headers(headers), peer).await
    }

    /// Who asks, by the header of this name.
    ///
    /// # Errors
    /// As [`Self::authenticate`].
    pub async fn authenticate_by(
        &self,
        headers: &HeaderMap,
        name: &HeaderName,
        peer: IpAddr,
    ) -> Result<Principal, Failure> {
        self.check(Credentials::from_header(headers, name), peer)
            .await
    }

    async fn check(
        &self,
        credentials: Result<Credentials, Failure>,
        peer: IpAddr,
    ) -> Result<Principal, Failure> {
        let credentials = credentials.inspect_err(|failure| {
            self.note(failure, Who::default(), peer);
        })?;
        let result = self.keys.check(&credentials, peer).await;
        result.inspect_err(|failure| {
            let who = self.state.directory.whose(&credentials.client_id);
            self.note(failure, who, peer);
        })
    }

    fn note(&self, failure: &Failure, who: Who, peer: IpAddr) {
        let code = failure.code.as_str();
        self.state.denied(Denied::Request, code, who, peer);
    }
}

/// Checks credentials against the directory, and asks the database before it calls them unknown.
#[derive(Debug)]
pub(crate) struct KeyCheck {
    directory: Arc<Directory>,
    attempts: Mutex<Attempts>,
}

impl KeyCheck {
    /// With so many failures of one address that are told apart in a minute.
    pub(crate) fn new(directory: Arc<Directory>, failures_per_minute: u32) -> Self {
        Self {
            directory,
            attempts: Mutex::new(Attempts::new(failures_per_minute)),
        }
    }

    /// Whose these credentials are. Errors as of [`Authenticator::authenticate`].
    pub(crate) async fn check(
        &self,
        credentials: &Credentials,
        peer: IpAddr,
    ) -> Result<Principal, Failure> {
        let directory = &self.directory;
        match directory.authenticate(credentials) {
            // Either may have changed a moment ago, by another process.
            Err(failure) if matches!(failure.code, Code::Unauthorized | Code::TenantSuspended) => {}
            known => return known,
        }
        if !self.attempts().has_room(peer, Instant::now()) {
            return Err(Failure::not_sent(
                Code::RateLimited,
                "too many wrong keys from this address in the last minute",
            ));
        }
        let is_answered = Box::pin(directory.look_for(peer)).await;
        let mut result = directory.authenticate(credentials);
        if !is_answered && matches!(&result, Err(failure) if failure.code == Code::Unauthorized) {
            self.attempts().count(peer, Instant::now());
            let detail = "this key is not known here, and the database does not answer now: it cannot \
                          be checked";
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

/// Failures by address, in windows of a minute. Bounded.
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

    /// Whether this address may be wrong once more.
    fn has_room(&mut self, address: IpAddr, now: Instant) -> bool {
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
                // Too many to tell apart: a new one waits, as if it had been wrong often.
                self.by_address.len() < ADDRESSES_MAX && self.per_window > 0
            }
        }
    }

    /// Counts a failure of an address that had room.
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
    fn failures_are_counted_by_address_and_forgotten_after_a_minute() {
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
    fn the_count_of_addresses_is_bounded() {
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
