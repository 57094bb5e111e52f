//! Who asks: HTTP Basic with an API key, in one of two headers.
//!
//! In `Authorization`, which is then consumed; or in `Bridge-Authorization`, and then
//! `Authorization` belongs to the target and passes through untouched. `Bridge-Authorization`
//! itself never leaves the relay.

use crate::directory::{Directory, Principal};
use crate::storage::Secret;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use protocol::{Code, Failure};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Carries the key when `Authorization` belongs to the target.
pub const BRIDGE_AUTHORIZATION: HeaderName = HeaderName::from_static("bridge-authorization");

/// Longest client id and secret that are looked at, in bytes before decoding.
const CREDENTIALS_MAX_BYTES: usize = 512;

/// Addresses whose failures are counted; beyond, the oldest windows are dropped.
const ADDRESSES_MAX: usize = 10_000;

/// In which failures are counted.
const WINDOW: Duration = Duration::from_secs(60);

/// Which header carried the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carrier {
    /// `Authorization`; it is consumed.
    Authorization,
    /// `Bridge-Authorization`; `Authorization` is the target's.
    BridgeAuthorization,
}

impl Carrier {
    /// Whether a request's header field stays here instead of going to the target.
    pub fn consumes(self, name: &HeaderName) -> bool {
        match self {
            Self::Authorization => {
                *name == header::AUTHORIZATION || *name == BRIDGE_AUTHORIZATION
            }
            Self::BridgeAuthorization => *name == BRIDGE_AUTHORIZATION,
        }
    }
}

/// What a request presents.
#[derive(Debug)]
pub struct Credentials {
    /// The client id.
    pub client_id: String,
    /// The secret.
    pub secret: Secret,
    /// Where they were.
    pub carrier: Carrier,
}

impl Credentials {
    /// Reads them from a request's header.
    ///
    /// # Errors
    /// `unauthorized` when there are none or they cannot be read.
    pub fn from_headers(headers: &HeaderMap) -> Result<Self, Failure> {
        let carried = [
            (BRIDGE_AUTHORIZATION, Carrier::BridgeAuthorization),
            (header::AUTHORIZATION, Carrier::Authorization),
        ];
        for (name, carrier) in carried {
            let mut values = headers.get_all(&name).iter();
            let Some(value) = values.next() else { continue };
            // Two of them could be read differently by two readers.
            let parsed = basic(value).filter(|_| values.next().is_none());
            let (client_id, secret) = parsed.ok_or_else(|| {
                unauthorized(format!(
                    "the header `{name}` must hold one HTTP Basic credential: client id and secret"
                ))
            })?;
            return Ok(Self {
                client_id,
                secret: Secret::presented(secret),
                carrier,
            });
        }
        Err(unauthorized(
            "an API key is needed: client id and secret as HTTP Basic",
        ))
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
    attempts: Mutex<Attempts>,
}

impl Authenticator {
    /// With so many failures of one address that are told apart in a minute.
    pub fn new(directory: Arc<Directory>, failures_per_minute: u32) -> Self {
        Self {
            directory,
            attempts: Mutex::new(Attempts::new(failures_per_minute)),
        }
    }

    /// Who asks, and which header said so.
    ///
    /// # Errors
    /// `unauthorized`, without a difference between an unknown client id and a wrong secret;
    /// `tenant_suspended`; `overloaded` for an address that was wrong too often. A key that is
    /// right is taken from any address: many callers may share a balancer's.
    pub fn authenticate(
        &self,
        headers: &HeaderMap,
        peer: IpAddr,
    ) -> Result<(Principal, Carrier), Failure> {
        let result = Credentials::from_headers(headers).and_then(|credentials| {
            let principal = self.directory.authenticate(&credentials)?;
            Ok((principal, credentials.carrier))
        });
        match result {
            Err(failure) if failure.code == Code::Unauthorized => {
                let mut attempts = self.attempts.lock().unwrap_or_else(PoisonError::into_inner);
                if attempts.count(peer, Instant::now()) {
                    Err(failure)
                } else {
                    Err(Failure::not_sent(
                        Code::Overloaded,
                        "too many wrong keys from this address in the last minute",
                    ))
                }
            }
            other => other,
        }
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

    /// Counts a failure. Returns whether there were still few enough.
    fn count(&mut self, address: IpAddr, now: Instant) -> bool {
        let address = network(address);
        if self.by_address.len() >= ADDRESSES_MAX && !self.by_address.contains_key(&address) {
            self.by_address
                .retain(|_, (since, _)| now.saturating_duration_since(*since) < WINDOW);
            if self.by_address.len() >= ADDRESSES_MAX {
                // Too many to tell apart: this one waits for room, as if it had been wrong often.
                return false;
            }
        }
        let (since, failures) = self.by_address.entry(address).or_insert((now, 0));
        if now.saturating_duration_since(*since) >= WINDOW {
            (*since, *failures) = (now, 0);
        }
        *failures = failures.saturating_add(1);
        *failures <= self.per_window
    }
}

/// One customer often has a whole IPv6 /64.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            let prefix = u128::from(address) >> 64 << 64;
            IpAddr::V6(prefix.into())
        }
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
        let map = headers(&[("authorization", "Bearer x"), ("bridge-authorization", &own)]);
        let read = Credentials::from_headers(&map).unwrap();
        assert_eq!(read.client_id, "id");
        assert_eq!(read.secret.reveal(), "a:b");
        assert_eq!(read.carrier, Carrier::BridgeAuthorization);
        assert!(!read.carrier.consumes(&header::AUTHORIZATION));
        assert!(read.carrier.consumes(&BRIDGE_AUTHORIZATION));
        let map = headers(&[("authorization", &own.replace("Basic", "bAsIc"))]);
        let read = Credentials::from_headers(&map).unwrap();
        assert!(read.carrier.consumes(&header::AUTHORIZATION));
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
            vec![("authorization", good.as_str()), ("authorization", good.as_str())],
            vec![("authorization", good.as_str()), ("bridge-authorization", "x")],
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
        assert!(attempts.count(address, now));
        assert!(attempts.count(address, now));
        assert!(!attempts.count(address, now));
        assert!(!attempts.count("::ffff:10.0.0.1".parse().unwrap(), now));
        assert!(attempts.count("10.0.0.2".parse().unwrap(), now));
        assert!(attempts.count(address, now + WINDOW));
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
            assert!(attempts.count(std::net::Ipv4Addr::from(number).into(), now));
        }
        let next: IpAddr = "192.0.2.1".parse().unwrap();
        assert!(!attempts.count(next, now));
        assert_eq!(attempts.by_address.len(), ADDRESSES_MAX);
        assert!(attempts.count(next, now + WINDOW));
    }
}
