//! When to dial again: exponential, full jitter, never giving up.
//!
//! The one place that uses the crate `backoff`, and of it only the exponential policy.

use backoff::ExponentialBackoff;
use backoff::backoff::Backoff as _;
use ring::rand::{SecureRandom, SystemRandom};
use std::time::{Duration, Instant};

/// First ceiling of the wait.
pub const INITIAL: Duration = Duration::from_millis(500);

/// Highest ceiling of the wait.
pub const MAX: Duration = Duration::from_secs(60);

/// A connection that lived this long was healthy: the next wait starts small again.
pub const HEALTHY_AFTER: Duration = Duration::from_secs(30);

/// Longest `Retry-After` that is honoured; a relay cannot send a bridge away for good.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(600);

/// Orderly ends in a row, of connections that were not healthy, from which on they no longer make the
/// waits short again.
const LEAVES_MAX: u32 = 7;

/// The waits between connection attempts of one slot.
#[derive(Debug)]
pub struct Reconnect {
    policy: ExponentialBackoff,
    random: SystemRandom,
    /// Orderly ends in a row, of connections that were not healthy.
    leaves: u32,
}

impl Default for Reconnect {
    fn default() -> Self {
        Self::new()
    }
}

impl Reconnect {
    /// Starts at [`INITIAL`].
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

    /// How long to wait now: anything up to the ceiling, and on top of what the relay asked for.
    ///
    /// It asks thousands for the same, so the ceiling is then at least that long: they come back
    /// spread out, and not all together a little later.
    pub fn next_wait(&mut self, retry_after: Option<Duration>) -> Duration {
        let asked = retry_after.unwrap_or_default().min(RETRY_AFTER_MAX);
        let ceiling = self
            .policy
            .next_backoff()
            .unwrap_or(MAX)
            .max(asked.min(MAX));
        asked + ceiling.mul_f64(self.fraction())
    }

    /// How long to wait when the relay ended a connection in order and said when to come back: that
    /// long, and as much again at random. What failed before it does not count, and attempts that fail
    /// afterwards begin with short waits. A relay that asks again and again, of connections that were
    /// never healthy, is obeyed ever more slowly.
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

    /// The relay that ended a connection in order is gone now: a successor may be there soon.
    pub fn reset_after_drain(&mut self) {
        if self.leaves < LEAVES_MAX {
            self.policy.reset();
        }
    }

    /// A connection ended after living for `lived`.
    pub fn ended_after(&mut self, lived: Duration) {
        if lived >= HEALTHY_AFTER {
            self.policy.reset();
            self.leaves = 0;
        }
    }

    /// Uniform in [0, 1).
    fn fraction(&self) -> f64 {
        let mut bytes = [0; 4];
        // Without randomness the middle is as good a wait as any.
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
    fn waits_grow_to_the_ceiling_and_are_spread_from_zero() {
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
    fn only_a_healthy_connection_starts_small_again() {
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
    fn orderly_end_brings_the_bridge_back_when_it_was_asked() {
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
    fn relay_that_always_ends_connections_is_obeyed_slowly() {
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
    fn bridges_that_are_asked_for_the_same_wait_come_back_spread_over_as_long_again() {
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
