//! Log lines that others can cause: at most one a second, and how many were left out.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
struct Spoken {
    last: Option<Instant>,
    left_out: u64,
}

/// Decides whether a line may be written.
#[derive(Debug, Default)]
pub struct Throttle(Mutex<Spoken>);

impl Throttle {
    /// Whether to write now. What may not is counted.
    pub fn may_speak(&self) -> bool {
        let now = Instant::now();
        let mut spoken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let may = spoken
            .last
            .is_none_or(|last| now.saturating_duration_since(last) >= PAUSE);
        if may {
            spoken.last = Some(now);
        } else {
            spoken.left_out += 1;
        }
        may
    }

    /// How many were left out since this was asked last.
    pub fn suppressed(&self) -> u64 {
        let mut spoken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut spoken.left_out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_one_line_that_counts_the_rest() {
        let throttle = Throttle::default();
        let spoken = (0..100).filter(|_| throttle.may_speak()).count();
        assert_eq!(spoken, 1);
        assert_eq!((throttle.suppressed(), throttle.suppressed()), (99, 0));
    }
}
