//! Detects that the machine was suspended or its clock was set: connections may be dead afterwards, and
//! running timers no longer measure what they were started for.

use std::time::{Duration, Instant, SystemTime};
use tokio::sync::watch;

/// How often the two clocks are compared.
const INTERVAL: Duration = Duration::from_secs(1);

/// A smaller difference is drift, or a busy machine.
const JUMP_MIN: Duration = Duration::from_secs(5);

/// Both clocks at one moment.
#[derive(Debug, Clone, Copy)]
struct Clocks {
    monotonic: Instant,
    system: SystemTime,
}

impl Clocks {
    fn now() -> Self {
        Self {
            monotonic: Instant::now(),
            system: SystemTime::now(),
        }
    }

    /// Returns by how much the clocks have diverged since `before`.
    fn divergence_since(&self, before: &Self) -> Duration {
        // Linux stops the monotonic clock during a suspend, so the system clock is ahead afterwards.
        let monotonic = self.monotonic.saturating_duration_since(before.monotonic);
        match self.system.duration_since(before.system) {
            Ok(system) => system.abs_diff(monotonic),
            Err(backwards) => backwards.duration() + monotonic,
        }
    }
}

/// Increments `jumps` whenever the clocks have diverged, for as long as it is polled.
pub(crate) async fn watch(jumps: watch::Sender<u64>) {
    let mut before = Clocks::now();
    loop {
        tokio::time::sleep(INTERVAL).await;
        let now = Clocks::now();
        let divergence = now.divergence_since(&before);
        if divergence > JUMP_MIN {
            tracing::info!(?divergence, "the clock jumped; checking the connections");
            // `send` would fail while no connection listens; the count must change even then.
            jumps.send_modify(|count| *count += 1);
        }
        before = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suspend_and_a_set_clock_are_jumps() {
        let before = Clocks::now();
        let after = |monotonic: u64, system: i64| {
            let seconds = Duration::from_secs(system.unsigned_abs());
            Clocks {
                monotonic: before.monotonic + Duration::from_secs(monotonic),
                system: if system < 0 {
                    before.system - seconds
                } else {
                    before.system + seconds
                },
            }
        };
        assert!(after(1, 1).divergence_since(&before) < JUMP_MIN);
        assert!(after(30, 30).divergence_since(&before) < JUMP_MIN);
        assert!(after(1, 3600).divergence_since(&before) > JUMP_MIN);
        assert!(after(1, -3600).divergence_since(&before) > JUMP_MIN);
    }
}
