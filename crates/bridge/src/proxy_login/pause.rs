//! A pause after a rejected password: directories lock accounts after some attempts.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use transport::dial::MechanismError;

/// The pause after the first rejection. It doubles with each one.
const FIRST: Duration = Duration::from_secs(30);

/// The longest pause.
const MAX: Duration = Duration::from_secs(60 * 60);

/// Rejections in a row, and when the last one was.
#[derive(Debug, Default)]
pub(super) struct Pause(Mutex<Option<(u32, Instant)>>);

impl Pause {
    /// Checks that the password may be used.
    ///
    /// # Errors
    /// That it was rejected a short time ago.
    pub(super) fn check(&self) -> Result<(), MechanismError> {
        let Some((count, at)) = *self.lock() else {
            return Ok(());
        };
        let doubled = FIRST.saturating_mul(1 << count.saturating_sub(1).min(16));
        let left = doubled.min(MAX).saturating_sub(at.elapsed());
        if left.is_zero() {
            return Ok(());
        }
        Err(MechanismError(format!(
            "the user and password were rejected; the next attempt is in {} s, or after `integration-bridge reload`",
            left.as_secs().max(1)
        )))
    }

    /// Notes a rejection.
    pub(super) fn rejected(&self) {
        let mut last = self.lock();
        let count = last.map_or(0, |(count, _)| count);
        *last = Some((count.saturating_add(1), Instant::now()));
    }

    /// Notes that the user was accepted.
    pub(super) fn accepted(&self) {
        *self.lock() = None;
    }

    fn lock(&self) -> MutexGuard<'_, Option<(u32, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn pause_doubles_until_a_success() {
        let pause = Pause::default();
        pause.check().unwrap();
        for seconds in [30, 60, 120] {
            pause.rejected();
            tokio::time::advance(Duration::from_secs(seconds - 1)).await;
            let error = pause.check().unwrap_err().to_string();
            assert!(error.contains("in 1 s"), "{error}");
            tokio::time::advance(Duration::from_secs(1)).await;
            pause.check().unwrap();
        }
        for _ in 0..100 {
            pause.rejected();
        }
        tokio::time::advance(MAX).await;
        pause.check().unwrap();
        pause.rejected();
        pause.accepted();
        pause.check().unwrap();
    }
}
