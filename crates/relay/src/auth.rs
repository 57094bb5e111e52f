//! Who asks: HTTP Basic with an API key, in one of two headers.
//!
//! In `Authorization`, which is then consumed; or in `Bridge-Authorization`, and then
//! `Authorization` belongs to the target and passes through untouched. `Bridge-Authorization`
//! itself never leaves the relay.

pub use crate::access::KeyScope;

use crate::admission::network;
use crate::audit::recorder::Auditing;
use crate::denials::{Denied, Who};
use crate::directory::Directory;
use crate::metrics::Metrics;
use crate::storage::{Existing, Role, Secret};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use protocol::frame::Class;
use protocol::{Code, Failure};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Carries the key when `Authorization` belongs to the target.
pub const BRIDGE_AUTHORIZATION: HeaderName = HeaderName::from_static("bridge-authorization");

/// Longest client id and secret that are looked at, in bytes before decoding.
const CREDENTIALS_MAX_BYTES: usize = 512;

/// Addresses whose failures are counted; beyond, the oldest windows are dropped.
const ADDRESSES_MAX: usize = 10_000;

/// In which failures are counted.
const WINDOW: Duration = Duration::from_secs(60);

/// Who asks: an API key that proved itself.
#[derive(Debug, Clone)]
pub struct Principal {
    /// The tenant's id. Everything that is looked up for this request is looked up in it.
    pub tenant: Arc<str>,
    /// The tenant's name.
    pub tenant_name: Arc<str>,
    /// The key's client id.
    pub client_id: Arc<str>,
    /// What it may do.
    pub role: Role,
    /// What it may do with a bridge's name that exists.
    pub existing: Existing,
    /// What it is narrowed to.
    pub scope: Arc<KeyScope>,
}

impl Principal {
    /// Whether the key has one of the roles.
    ///
    /// # Errors
    /// `forbidden`, naming both.
    pub fn require(&self, roles: &[Role]) -> Result<(), Failure> {
        if roles.contains(&self.role) {
            return Ok(());
        }
        let wanted: Vec<_> = roles.iter().map(|role| role.as_str()).collect();
        let (wanted, role) = (wanted.join(" or "), self.role);
        Err(Failure::not_sent(
            Code::Forbidden,
            format!("this needs a key with the role {wanted}, and this key has the role {role}"),
        ))
    }
}

impl Role {
    /// Which of a tunnel's classes the traffic of such a key is.
    pub fn class(self) -> Class {
        match self {
            Self::Synchronizer => Class::Bulk,
            Self::Bridge | Self::Caller | Self::Admin | Self::SiteAdmin => Class::Interactive,
        }
    }
}

/// The header that carries the relay's own key, which no target may see. The other one, if it is
/// there too, is the target's.
pub fn consumed_header(headers: &HeaderMap) -> Option<HeaderName> {
    [BRIDGE_AUTHORIZATION, header::AUTHORIZATION]
        .into_iter()
        .find(|name| headers.contains_key(name))
}

/// What a request presents.
#[derive(Debug)]
pub struct Credentials {
    /// The client id.
    pub client_id: String,
    /// The secret.
    pub secret: Secret,
}

impl Credentials {
    /// Reads them from a request's header.
    ///
    /// # Errors
    /// `unauthorized` when there are none or they cannot be read.
    pub fn from_headers(headers: &HeaderMap) -> Result<Self, Failure> {
        let name = consumed_header(headers).unwrap_or(header::AUTHORIZATION);
        Self::from_header(headers, &name)
    }

    /// Reads them from the header of this name.
    ///
    /// # Errors
    /// `unauthorized` when there are none or they cannot be read.
    pub fn from_header(headers: &HeaderMap, name: &HeaderName) -> Result<Self, Failure> {
        if !headers.contains_key(name) {
            return Err(unauthorized(
                "an API key is needed: client id and secret as HTTP Basic",
            ));
        }
        let mut values = headers.get_all(name).iter();
        let parsed = values.next().and_then(basic);
        // Two of them could be read differently by two readers.
        let (client_id, secret) = parsed.filter(|_| values.next().is_none()).ok_or_else(|| {
            unauthorized(format!(
                "the header `{name}` must hold one HTTP Basic credential: client id and secret"
            ))
        })?;
        Ok(Self {
            client_id,
            secret: Secret::presented(secret),
        })
    }
}

fn basic(value: &HeaderValue) -> Option<(String, String)> {
    let text = value.to_str().ok()?;
    let (scheme, encoded) = text.trim().split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") || encoded.len() > CREDENTIALS_MAX_BYTES {
        return None;
    }
    let decoded = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (client_id, secret) = decoded.split_once(':')?;
    Some((client_id.to_owned(), secret.to_owned()))
}

fn unauthorized(detail: impl Into<String>) -> Failure {
    Failure::not_sent(Code::Unauthorized, detail)
}

/// Checks keys, and counts those that are wrong.
#[derive(Debug)]
pub struct Authenticator {
    directory: Arc<Directory>,
    audit: Arc<Auditing>,
    metrics: Arc<Metrics>,
    keys: KeyCheck,
}

impl Authenticator {
    /// With so many failures of one address that are told apart in a minute.
    pub fn new(
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
            let who = self.directory.whose(&credentials.client_id);
            self.note(failure, who, peer);
        })
    }

    fn note(&self, failure: &Failure, who: Who, peer: IpAddr) {
        let code = failure.code.as_str();
        self.metrics.request_denied(code);
        self.audit.denials.note(Denied::Request, code, who, peer);
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

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(*name, HeaderValue::from_str(value).unwrap());
        }
        map
    }

    #[test]
    fn the_bridges_header_goes_first_and_leaves_the_other_to_the_target() {
        let own = format!("Basic {}", STANDARD.encode("id:a:b"));
        let map = headers(&[
            ("authorization", "Bearer x"),
            ("bridge-authorization", &own),
        ]);
        let read = Credentials::from_headers(&map).unwrap();
        assert_eq!(read.client_id, "id");
        assert_eq!(read.secret.reveal(), "a:b");
        assert_eq!(consumed_header(&map), Some(BRIDGE_AUTHORIZATION));
        let map = headers(&[("authorization", &own.replace("Basic", "bAsIc"))]);
        assert!(Credentials::from_headers(&map).is_ok());
        assert_eq!(consumed_header(&map), Some(header::AUTHORIZATION));
    }

    #[test]
    fn what_is_no_single_basic_credential_is_unauthorized() {
        let good = format!("Basic {}", STANDARD.encode("id:secret"));
        let long = format!("Basic {}", STANDARD.encode("x".repeat(600)));
        let no_colon = format!("Basic {}", STANDARD.encode("id"));
        let cases = [
            vec![],
            vec![("authorization", "Bearer abc")],
            vec![("authorization", "Basic !!!")],
            vec![("authorization", "Basic")],
            vec![("authorization", no_colon.as_str())],
            vec![("authorization", long.as_str())],
            vec![
                ("authorization", good.as_str()),
                ("authorization", good.as_str()),
            ],
            vec![
                ("authorization", good.as_str()),
                ("bridge-authorization", "x"),
            ],
        ];
        for fields in cases {
            let failure = Credentials::from_headers(&headers(&fields)).unwrap_err();
            assert_eq!(failure.code, Code::Unauthorized, "{fields:?}");
        }
    }

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
