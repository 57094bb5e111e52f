//! How much may go to one endpoint, or by one rule: at once, in a time, how large, how long, and when.
//!
//! Fragile servers live behind these. What is beyond is turned away at once with `overloaded` and
//! `not_dispatched`, never queued: the caller repeats it, and a delivery comes again by its schedule.

pub(crate) mod window;

pub use window::Window;

use crate::config::QuotaSection;
use protocol::{Code, Failure};
use runtime::config::{ByteSize, Timeout};
use runtime::limit::{Refill, TokenBucket};
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How many in how long, like `"10/s"` or `"600/m"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    count: u32,
    every: Duration,
}

impl Rate {
    const UNUSED: Refill = Refill {
        per_second: 0.0,
        burst: 0.0,
    };

    fn refill(self) -> Refill {
        let burst = f64::from(self.count);
        Refill {
            per_second: burst / self.every.as_secs_f64(),
            burst,
        }
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "{text:?} is no rate: write a number and a time, like \"10/s\", \"600/m\" or \"1000/h\""
            )
        };
        let (count, unit) = text.split_once('/').ok_or_else(wrong)?;
        let every = match unit {
            "s" => Duration::from_secs(1),
            "m" => Duration::from_secs(60),
            "h" => Duration::from_secs(3600),
            _ => return Err(wrong()),
        };
        let count = count
            .parse()
            .ok()
            .filter(|count| *count > 0)
            .ok_or_else(wrong)?;
        Ok(Self { count, every })
    }
}

/// The quota of one endpoint or rule, and what is used of it.
#[derive(Debug)]
pub(crate) struct Quota {
    section: QuotaSection,
    places: Option<Arc<Semaphore>>,
    bucket: Mutex<TokenBucket>,
}

/// A place among the exchanges that run at once; given back with the value.
#[derive(Debug, Default)]
pub(crate) struct Place(#[expect(dead_code, reason = "it is held")] Option<OwnedSemaphorePermit>);

fn turned_away(detail: String) -> Failure {
    Failure::not_dispatched(Code::Overloaded, detail)
}

impl Quota {
    pub(crate) fn new(section: QuotaSection) -> Self {
        let places = section
            .concurrent_max
            .map(|max| Arc::new(Semaphore::new(max.get() as usize)));
        // Without a rate nothing takes from it.
        let refill = section.rate.map_or(Rate::UNUSED, Rate::refill);
        Self {
            section,
            places,
            bucket: Mutex::new(TokenBucket::full(refill, Instant::now())),
        }
    }

    /// Whether it says anything at all.
    fn is_open(&self) -> bool {
        self.section == QuotaSection::default()
    }

    /// Takes a place for an exchange, now.
    ///
    /// # Errors
    /// `overloaded`, naming which limit it was.
    pub(crate) fn enter(&self, who: &dyn std::fmt::Display) -> Result<Place, Failure> {
        if self.is_open() {
            return Ok(Place(None));
        }
        let now = SystemTime::now();
        if let Some(window) = self
            .section
            .maintenance
            .iter()
            .find(|window| window.holds(now))
        {
            return Err(turned_away(format!(
                "{who} is in maintenance ({window} UTC)"
            )));
        }
        let place = match &self.places {
            None => None,
            Some(places) => Some(places.clone().try_acquire_owned().map_err(|_| {
                turned_away(format!(
                    "{who} has as many exchanges as it may (concurrent_max)"
                ))
            })?),
        };
        if let Some(rate) = self.section.rate
            && !self.take(rate, Instant::now())
        {
            return Err(turned_away(format!(
                "{who} is asked more often than it may be (rate)"
            )));
        }
        Ok(Place(place))
    }

    fn take(&self, rate: Rate, now: Instant) -> bool {
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        bucket.take(rate.refill(), now).is_ok()
    }

    /// The largest request body, where it says one: the smaller of this and another limit.
    pub(crate) fn request_max(&self, other: Option<u64>) -> Option<u64> {
        smaller(self.section.request_max, other)
    }

    /// The largest response body.
    pub(crate) fn response_max(&self, other: Option<u64>) -> Option<u64> {
        smaller(self.section.response_max, other)
    }

    /// How long a connection may take to be made.
    pub(crate) fn connect(&self) -> Option<Duration> {
        self.section.connect_timeout.map(Timeout::get)
    }

    /// How long the answer's head may take.
    pub(crate) fn head(&self) -> Option<Duration> {
        self.section.head_timeout.map(Timeout::get)
    }

    /// How long an answer may stand still.
    pub(crate) fn idle(&self) -> Option<Duration> {
        self.section.idle_timeout.map(Timeout::get)
    }

    /// How long an exchange may take in all.
    pub(crate) fn total(&self) -> Option<Duration> {
        self.section.total_timeout.map(Timeout::get)
    }
}

fn smaller(own: Option<ByteSize>, other: Option<u64>) -> Option<u64> {
    let own = own.map(ByteSize::bytes);
    match (own, other) {
        (Some(own), Some(other)) => Some(own.min(other)),
        (own, other) => own.or(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_number_and_a_time() {
        let rate: Rate = "600/m".parse().unwrap();
        assert_eq!((rate.count, rate.every), (600, Duration::from_secs(60)));
        for wrong in ["10", "10/d", "0/s", "x/s", "-1/s", ""] {
            assert!(wrong.parse::<Rate>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_bucket_empties_and_fills_again() {
        let rate: Rate = "2/s".parse().unwrap();
        let quota = Quota::new(QuotaSection {
            rate: Some(rate),
            ..QuotaSection::default()
        });
        let start = Instant::now();
        assert!(quota.take(rate, start) && quota.take(rate, start));
        assert!(!quota.take(rate, start));
        let later = start + Duration::from_millis(600);
        assert!(quota.take(rate, later) && !quota.take(rate, later));
        // A long pause fills it once, not twice.
        let long = start + Duration::from_secs(3600);
        assert!(quota.take(rate, long) && quota.take(rate, long));
        assert!(!quota.take(rate, long));
    }

    #[test]
    fn places_are_given_back() {
        let quota = Quota::new(QuotaSection {
            concurrent_max: Some(runtime::config::BoundedInt::known(1)),
            ..QuotaSection::default()
        });
        let first = quota.enter(&"endpoint alm").unwrap();
        let failure = quota.enter(&"endpoint alm").unwrap_err();
        assert_eq!(failure.code, Code::Overloaded);
        assert!(failure.detail.contains("concurrent_max"), "{failure:?}");
        drop(first);
        quota.enter(&"endpoint alm").unwrap();
    }
}
