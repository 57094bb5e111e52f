//! Rates: of what is admitted ([`TokenBucket`]) and of what is logged ([`LogRateLimiter`]).

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Tokens that refill with time, up to a burst.
#[derive(Debug, Clone, Copy)]
pub struct TokenBucket {
    tokens: f64,
    refilled_at: Instant,
}

/// How fast a [`TokenBucket`] refills, and how many tokens it holds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Refill {
    /// Tokens in a second.
    pub per_second: f64,
    /// Most tokens.
    pub burst: f64,
}

impl TokenBucket {
    /// A full one.
    pub fn full(refill: Refill, now: Instant) -> Self {
        Self {
            tokens: refill.burst,
            refilled_at: now,
        }
    }

    fn tokens_at(&self, refill: Refill, now: Instant) -> f64 {
        // A clock that is read by two threads may seem to go back by a little: that refills nothing.
        let passed = now.saturating_duration_since(self.refilled_at);
        (self.tokens + passed.as_secs_f64() * refill.per_second).min(refill.burst)
    }

    /// Whether it is full again, so that a fresh one would behave the same.
    pub fn is_full(&self, refill: Refill, now: Instant) -> bool {
        self.tokens_at(refill, now) >= refill.burst
    }

    /// Takes a token.
    ///
    /// # Errors
    /// The time until there is one.
    pub fn take(&mut self, refill: Refill, now: Instant) -> Result<(), Duration> {
        // Also when the take fails, so that the refill is not counted twice.
        self.tokens = self.tokens_at(refill, now);
        self.refilled_at = now;
        if self.tokens < 1.0 {
            let wait = (1.0 - self.tokens) / refill.per_second;
            // Without a refill the wait is infinite, which no duration is.
            return Err(Duration::try_from_secs_f64(wait).unwrap_or(Duration::MAX));
        }
        self.tokens -= 1.0;
        Ok(())
    }
}

const LOG_WINDOW: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
struct LogWindow {
    began_at: Option<Instant>,
    lines: u32,
    suppressed: u64,
}

/// Limits log lines that a peer can cause, and counts those that were left out.
#[derive(Debug)]
pub struct LogRateLimiter {
    per_second: u32,
    window: Mutex<LogWindow>,
}

impl Default for LogRateLimiter {
    fn default() -> Self {
        Self::new(1)
    }
}

impl LogRateLimiter {
    /// Allows a number of lines a second.
    pub const fn new(per_second: u32) -> Self {
        Self {
            per_second,
            window: Mutex::new(LogWindow {
                began_at: None,
                lines: 0,
                suppressed: 0,
            }),
        }
    }

    /// Whether a line may be written now. A line that may not is counted.
    pub fn allow(&self) -> bool {
        let now = Instant::now();
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        let is_over = |since| now.saturating_duration_since(since) >= LOG_WINDOW;
        // A fixed window: a burst across its border gives twice the lines, which is good enough for a log.
        if window.began_at.is_none_or(is_over) {
            window.began_at = Some(now);
            window.lines = 0;
        }
        let is_allowed = window.lines < self.per_second;
        if is_allowed {
            window.lines += 1;
        } else {
            window.suppressed += 1;
        }
        is_allowed
    }

    /// Returns how many lines were left out since the last call.
    pub fn suppressed(&self) -> u64 {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut window.suppressed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_limiter_counts_suppressed_lines() {
        for max in [1, 7] {
            let limiter = LogRateLimiter::new(max);
            let allowed = (0..100).filter(|_| limiter.allow()).count();
            assert_eq!(allowed, max as usize);
            let suppressed = 100 - u64::from(max);
            assert_eq!(
                (limiter.suppressed(), limiter.suppressed()),
                (suppressed, 0)
            );
        }
    }

    #[test]
    fn token_bucket_allows_a_burst_then_the_rate() {
        let refill = Refill {
            per_second: 2.0,
            burst: 20.0,
        };
        let now = Instant::now();
        let mut bucket = TokenBucket::full(refill, now);
        for _ in 0..20 {
            bucket.take(refill, now).unwrap();
        }
        let wait = bucket.take(refill, now).unwrap_err();
        assert_eq!(wait, Duration::from_millis(500));
        bucket.take(refill, now + wait).unwrap();
        assert!(!bucket.is_full(refill, now + wait));
        assert!(bucket.is_full(refill, now + wait + Duration::from_secs(10)));
    }
}
