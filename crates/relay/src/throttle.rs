//! Log lines that others can cause: so many a second, and how many were left out.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const WINDOW: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
struct Spoken {
    window: Option<Instant>,
    lines: u32,
    left_out: u64,
}

/// Decides whether a line may be written.
#[derive(Debug)]
pub struct LogRateLimiter {
    per_second: u32,
    spoken: Mutex<Spoken>,
}

impl Default for LogRateLimiter {
    fn default() -> Self {
        Self::new(1)
    }
}

impl LogRateLimiter {
    /// So many lines a second.
    pub fn new(per_second: u32) -> Self {
        Self {
            per_second,
            spoken: Mutex::default(),
        }
    }

    /// Whether to write now. What may not is counted.
    pub fn allow(&self) -> bool {
        let now = Instant::now();
        let mut spoken = self.spoken.lock().unwrap_or_else(PoisonError::into_inner);
        let is_over = |since| now.saturating_duration_since(since) >= WINDOW;
        if spoken.window.is_none_or(is_over) {
            spoken.window = Some(now);
            spoken.lines = 0;
        }
        let may = spoken.lines < self.per_second;
        if may {
            spoken.lines += 1;
        } else {
            spoken.left_out += 1;
        }
        may
    }

    /// How many were left out since this was asked last.
    pub fn suppressed(&self) -> u64 {
        let mut spoken = self.spoken.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut spoken.left_out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_a_few_lines_that_count_the_rest() {
        for max in [1, 7] {
            let throttle = LogRateLimiter::new(max);
            let spoken = (0..100).filter(|_| throttle.allow()).count();
            assert_eq!(spoken, max as usize);
            let left_out = 100 - u64::from(max);
            assert_eq!(
                (throttle.suppressed(), throttle.suppressed()),
                (left_out, 0)
            );
        }
    }
}
