//! The quota of one endpoint or rule: concurrent exchanges, rate, sizes, timeouts, and maintenance windows.
//!
//! Quotas protect fragile servers. A request over a quota is rejected immediately with `overloaded` and
//! `not_dispatched`, never queued: the caller retries it, and a delivery is retried by its schedule.

use crate::config::{QuotaSection, Rate, Rules};
use policy::RuleRef;
use protocol::{Code, Failure};
use runtime::config::{ByteSize, Timeout};
use runtime::limit::TokenBucket;
use runtime::map::FastMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The quotas, with their use.
#[derive(Debug)]
pub(crate) struct Quotas {
    endpoints: FastMap<String, Quota>,
    allow: Vec<Quota>,
}

impl Quotas {
    /// Returns unused quotas: by endpoint, and by rule of the allow list.
    pub(crate) fn new(rules: &Rules) -> Self {
        let endpoints = rules.endpoint_quotas();
        Self {
            endpoints: endpoints
                .map(|(name, section)| (name.clone(), Quota::new(section.clone())))
                .collect(),
            allow: rules.allow_quotas().cloned().map(Quota::new).collect(),
        }
    }

    /// Returns the quota of the entry that allows a request.
    pub(crate) fn of(&self, rule: &RuleRef) -> Option<&Quota> {
        match rule {
            RuleRef::Endpoint(name) => self.endpoints.get(name),
            RuleRef::Allow(index, _) => self.allow.get(*index),
        }
    }
}

/// The quota of one endpoint or rule, and its current use.
#[derive(Debug)]
pub(crate) struct Quota {
    section: QuotaSection,
    permits: Option<Arc<Semaphore>>,
    bucket: Mutex<TokenBucket>,
}

/// One of the concurrent exchanges of a quota, until it is dropped.
#[derive(Debug, Default)]
pub(crate) struct QuotaPermit(
    #[expect(dead_code, reason = "held until it is dropped")] Option<OwnedSemaphorePermit>,
);

fn overloaded(detail: String) -> Failure {
    Failure::not_dispatched(Code::Overloaded, detail)
}

impl Quota {
    pub(crate) fn new(section: QuotaSection) -> Self {
        let permits = section
            .concurrent_max
            .map(|max| Arc::new(Semaphore::new(max.get() as usize)));
        // Without a rate nothing takes from the bucket.
        let refill = section.rate.map_or(Rate::UNUSED, Rate::refill);
        Self {
            section,
            permits,
            bucket: Mutex::new(TokenBucket::full(refill, Instant::now())),
        }
    }

    /// Returns whether it limits nothing.
    fn is_unlimited(&self) -> bool {
        self.section == QuotaSection::default()
    }

    /// Acquires a permit for an exchange, without waiting. `entry` is the endpoint or rule, for messages.
    ///
    /// # Errors
    /// `overloaded`, with the limit that was reached.
    pub(crate) fn acquire(&self, entry: &dyn std::fmt::Display) -> Result<QuotaPermit, Failure> {
        // Most entries have no quota: they must not take the lock of a token bucket.
        if self.is_unlimited() {
            return Ok(QuotaPermit(None));
        }
        let now = SystemTime::now();
        if let Some(window) = self
            .section
            .maintenance
            .iter()
            .find(|window| window.contains(now))
        {
            return Err(overloaded(format!(
                "{entry} is in maintenance ({window} UTC)"
            )));
        }
        // Before the token: a request that finds no permit must not use up the rate.
        let permit = match &self.permits {
            None => None,
            Some(permits) => Some(permits.clone().try_acquire_owned().map_err(|_| {
                let max = self.section.concurrent_max.map_or(0, |max| max.get());
                overloaded(format!(
                    "{entry} reached its concurrency limit: {max} (concurrent_max)"
                ))
            })?),
        };
        if let Some(rate) = self.section.rate
            && !self.take(rate, Instant::now())
        {
            return Err(overloaded(format!("rate limit of {entry} exceeded (rate)")));
        }
        Ok(QuotaPermit(permit))
    }

    /// Takes a token, if there is one.
    fn take(&self, rate: Rate, now: Instant) -> bool {
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        bucket.take(rate.refill(), now).is_ok()
    }

    /// Returns the limit of a request body: the smaller of its own and another limit.
    pub(crate) fn request_max(&self, other: Option<u64>) -> Option<u64> {
        smaller(self.section.request_max, other)
    }

    /// Returns the limit of a response body.
    pub(crate) fn response_max(&self, other: Option<u64>) -> Option<u64> {
        smaller(self.section.response_max, other)
    }

    /// Returns how long connecting may take.
    pub(crate) fn connect_timeout(&self) -> Option<Duration> {
        self.section.connect_timeout.map(Timeout::get)
    }

    /// Returns how long the response's head may take.
    pub(crate) fn head_timeout(&self) -> Option<Duration> {
        self.section.head_timeout.map(Timeout::get)
    }

    /// Returns how long a response or a stream may be idle.
    pub(crate) fn idle_timeout(&self) -> Option<Duration> {
        self.section.idle_timeout.map(Timeout::get)
    }

    /// Returns how long a whole exchange may take.
    pub(crate) fn total_timeout(&self) -> Option<Duration> {
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
    fn token_bucket_empties_and_refills() {
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
        // A long pause fills it up once: tokens are bounded by the rate.
        let long = start + Duration::from_secs(3600);
        assert!(quota.take(rate, long) && quota.take(rate, long));
        assert!(!quota.take(rate, long));
    }

    #[test]
    fn quota_permit_is_released_on_drop() {
        let quota = Quota::new(QuotaSection {
            concurrent_max: Some(runtime::config::BoundedInt::known(1)),
            ..QuotaSection::default()
        });
        let first = quota.acquire(&"endpoint alm").unwrap();
        let failure = quota.acquire(&"endpoint alm").unwrap_err();
        assert_eq!(failure.code, Code::Overloaded);
        assert!(failure.detail.contains("concurrent_max"), "{failure:?}");
        drop(first);
        quota.acquire(&"endpoint alm").unwrap();
    }
}
