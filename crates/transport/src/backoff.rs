//! When to dial again: exponential backoff with full jitter, without an end.
//!
//! This is the only module that uses the crate `backoff`, and it uses only the exponential policy.

use backoff::ExponentialBackoff;
use backoff::backoff::Backoff as _;
use ring::rand::{SecureRandom, SystemRandom};
use std::time::{Duration, Instant};

/// Initial ceiling of the wait.
pub const INITIAL: Duration = Duration::from_millis(500);

/// Largest ceiling of the wait.
pub const MAX: Duration = Duration::from_secs(60);

/// A connection that lived this long was healthy: the next wait starts at [`INITIAL`] again.
pub const HEALTHY_AFTER: Duration = Duration::from_secs(30);

/// Longest `Retry-After` that is honoured, so that a relay cannot keep a bridge away for good.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(600);

/// Consecutive orderly ends of connections that were not healthy, after which an orderly end no longer
/// resets the backoff.
const LEAVES_MAX: u32 = 7;

/// Computes the waits between connection attempts of one slot.
#[derive(Debug)]
pub struct Reconnect {
    policy: ExponentialBackoff,
    random: SystemRandom,
    /// Consecutive orderly ends of connections that were not healthy.
    leaves: u32,
}

impl Default for Reconnect {
    fn default() -> Self {
        Self::new()
    }
}

impl Reconnect {
    /// Creates a backoff that starts at [`INITIAL`].
    pub fn new() -> Self {
        let policy = ExponentialBackoff {
            current_interval: INITIAL,
            initial_interval: INITIAL,
            randomization_factor: 0.0,
            multiplier: 2.0,
            max_interval: MAX,
            start_time: Instant::now(),
            max_elapsed_time: None,
            clock: backoff::SystemClock::default(),
        };
        Self {
            policy,
            random: SystemRandom::new(),
            leaves: 0,
        }
    }

    /// Returns the next wait: what the relay asked for, plus a random time up to the ceiling.
    pub fn next_wait(&mut self, retry_after: Option<Duration>) -> Duration {
        let asked = retry_after.unwrap_or_default().min(RETRY_AFTER_MAX);
        // The relay asks thousands of bridges for the same wait. The ceiling is then at least as long, so that
        // they return spread out and not all together a little later.
        let ceiling = self
            .policy
            .next_backoff()
            .unwrap_or(MAX)
            .max(asked.min(MAX));
        // Never earlier than asked: the relay chose the time for a reason.
        asked + ceiling.mul_f64(self.fraction())
    }

    /// Returns the wait after the relay sent GOAWAY with a time: that time, plus a random time of up to
    /// the same length (W-50). Earlier failures do not count, and later ones begin with short waits.
    ///
    /// A relay that repeatedly ends connections that were never healthy is obeyed more and more slowly.
    pub fn wait_after_goaway(&mut self, asked: Duration) -> Duration {
        let asked = asked.min(RETRY_AFTER_MAX);
        let slowed = INITIAL * (1 << self.leaves.min(LEAVES_MAX));
        if self.leaves < LEAVES_MAX {
            self.policy.reset();
        }
        self.leaves = (self.leaves + 1).min(LEAVES_MAX);
        let ceiling = slowed.max(asked).min(MAX);
        asked + ceiling.mul_f64(self.fraction())
    }

    /// Resets the backoff after the relay that sent GOAWAY has closed: its successor may be reachable soon.
    pub fn reset_after_drain(&mut self) {
        if self.leaves < LEAVES_MAX {
            self.policy.reset();
        }
    }

    /// Records that a connection ended after `lived`.
    pub fn ended_after(&mut self, lived: Duration) {
        if lived >= HEALTHY_AFTER {
            self.policy.reset();
            self.leaves = 0;
        }
    }

    /// Returns a random number, uniform in [0, 1).
    fn fraction(&self) -> f64 {
        let mut bytes = [0; 4];
        // Without randomness the middle is used: waiting is better than failing here.
        match self.random.fill(&mut bytes) {
            Ok(()) => f64::from(u32::from_le_bytes(bytes)) / (f64::from(u32::MAX) + 1.0),
            Err(_) => 0.5,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_ceiling_with_full_jitter() {
        let mut longest = Duration::ZERO;
        for _ in 0..50 {
            let mut reconnect = Reconnect::new();
            let mut ceiling = INITIAL;
            for _ in 0..20 {
                let wait = reconnect.next_wait(None);
                assert!(wait <= ceiling, "{wait:?} above {ceiling:?}");
                longest = longest.max(wait);
                ceiling = (ceiling * 2).min(MAX);
            }
        }
        assert!(longest > MAX / 2, "never got near the ceiling: {longest:?}");
    }

    #[test]
    fn only_a_healthy_connection_resets_the_waits() {
        let mut reconnect = Reconnect::new();
        for _ in 0..20 {
            reconnect.next_wait(None);
        }
        reconnect.ended_after(Duration::from_secs(29));
        let waits: Vec<_> = (0..32).map(|_| reconnect.next_wait(None)).collect();
        assert!(waits.iter().any(|wait| *wait > INITIAL));
        reconnect.ended_after(Duration::from_secs(30));
        assert!(reconnect.next_wait(None) <= INITIAL);
    }

    #[test]
    fn wait_after_goaway_is_the_time_asked_for() {
        let asked = Duration::from_secs(1);
        for _ in 0..100 {
            let mut reconnect = Reconnect::new();
            // The relay was away for long, and the session that followed was short.
            for _ in 0..20 {
                reconnect.next_wait(None);
            }
            reconnect.ended_after(Duration::from_secs(5));
            let wait = reconnect.wait_after_goaway(asked);
            assert!((asked..=2 * asked).contains(&wait), "{wait:?}");
            assert!(reconnect.next_wait(None) <= INITIAL);
        }
    }

    #[test]
    fn repeated_goaway_is_obeyed_slowly() {
        let mut longest = Duration::ZERO;
        for _ in 0..50 {
            let mut reconnect = Reconnect::new();
            for _ in 0..20 {
                longest = longest.max(reconnect.wait_after_goaway(Duration::ZERO));
            }
        }
        assert!(longest > MAX / 2 && longest <= MAX, "{longest:?}");
    }

    #[test]
    fn retry_after_is_honoured_and_bounded() {
        let mut reconnect = Reconnect::new();
        let asked = Duration::from_secs(7);
        assert!(reconnect.next_wait(Some(asked)) >= asked);
        assert!(reconnect.next_wait(Some(Duration::MAX)) <= RETRY_AFTER_MAX + MAX);
    }

    #[test]
    fn equal_retry_after_is_spread_over_as_long_again() {
        let asked = Duration::from_secs(5);
        let waits: Vec<_> = (0..1000)
            .map(|_| Reconnect::new().next_wait(Some(asked)))
            .collect();
        assert!(waits.iter().all(|wait| (asked..=2 * asked).contains(wait)));
        for second in 5..10 {
            let within = waits.iter().filter(|wait| wait.as_secs() == second);
            let share = within.count();
            assert!((100..300).contains(&share), "{share} after {second} s");
        }
    }
}
