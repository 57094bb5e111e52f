//! Notices when the machine slept or its clock was set: connections may be dead then, and waits
//! are no longer what they were.

use std::time::{Duration, Instant, SystemTime};
use tokio::sync::watch;

/// How often the clocks are compared.
const EVERY: Duration = Duration::from_secs(1);

/// A difference below this is drift, or a busy machine.
const JUMP: Duration = Duration::from_secs(5);

/// The two clocks, as they were.
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

    /// By how much they went apart since `before`.
    fn apart_since(&self, before: &Self) -> Duration {
        let monotonic = self.monotonic.saturating_duration_since(before.monotonic);
        match self.system.duration_since(before.system) {
            Ok(system) => system.abs_diff(monotonic),
            Err(backwards) => backwards.duration() + monotonic,
        }
    }
}

/// Counts up `jumps` whenever the clocks went apart, for as long as it is polled: who listens comes and
/// goes.
pub(crate) async fn watch(jumps: watch::Sender<u64>) {
    let mut before = Clocks::now();
    loop {
        tokio::time::sleep(EVERY).await;
        let now = Clocks::now();
        let apart = now.apart_since(&before);
        if apart > JUMP {
            tracing::info!(?apart, "the clock jumped: connections are looked at again");
            jumps.send_modify(|count| *count += 1);
        }
        before = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sleep_and_a_set_clock_are_jumps_and_time_is_not() {
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
        assert!(after(1, 1).apart_since(&before) < JUMP);
        assert!(after(30, 30).apart_since(&before) < JUMP);
        assert!(after(1, 3600).apart_since(&before) > JUMP);
        assert!(after(1, -3600).apart_since(&before) > JUMP);
    }
}
