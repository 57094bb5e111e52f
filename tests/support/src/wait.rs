//! Waiting in tests: until something holds, or, where time itself is the subject, for a while.
//!
//! ```no_run
//! # use std::time::Duration;
//! # use support::wait::{TIMEOUT, eventually, let_time_pass};
//! # async fn example(log: &support::Running) {
//! eventually(TIMEOUT, "a line in the log", async || !log.log().is_empty()).await;
//! let_time_pass(Duration::from_secs(1), "the limiter refills once a second").await;
//! # }
//! ```
//!
//! A bare `sleep` hides what a test waits for, makes it slow on a fast machine and flaky on a slow one.
//! `clippy.toml` of the end-to-end tests therefore forbids it.

use std::fmt::Display;
use std::time::{Duration, Instant};

/// The longest that one step may take on a loaded machine, where the test states no tighter bound.
pub const TIMEOUT: Duration = Duration::from_secs(30);

/// The same for steps that may include a bridge's backoff of up to a minute.
pub const LONG_TIMEOUT: Duration = Duration::from_secs(90);

/// The shortest pause between two observations.
const POLL: Duration = Duration::from_millis(20);

/// What one look at the system under test returned: the awaited value, or the reason to look again.
pub trait Observation {
    /// What the wait returns.
    type Value;

    /// Returns the value, or a description of what was there instead.
    fn reached(self) -> Result<Self::Value, String>;
}

impl Observation for bool {
    type Value = ();

    fn reached(self) -> Result<(), String> {
        if self { Ok(()) } else { Err(String::new()) }
    }
}

impl<T> Observation for Option<T> {
    type Value = T;

    fn reached(self) -> Result<T, String> {
        self.ok_or_else(String::new)
    }
}

impl<T, E: Display> Observation for Result<T, E> {
    type Value = T;

    fn reached(self) -> Result<T, String> {
        self.map_err(|last| last.to_string())
    }
}

/// Observes repeatedly until the observation is what the test waits for, and returns its value.
///
/// An observation is a `bool`, an `Option`, or a `Result` whose error describes the last state.
///
/// # Panics
///
/// Panics after `timeout`, with `what` and the last state.
pub async fn eventually<O: Observation>(
    timeout: Duration,
    what: &str,
    mut observe: impl AsyncFnMut() -> O,
) -> O::Value {
    let deadline = Instant::now() + timeout;
    loop {
        let started = Instant::now();
        let last = match observe().await.reached() {
            Ok(value) => return value,
            Err(last) => last,
        };
        assert!(
            Instant::now() < deadline,
            "not within {timeout:?}: {what}; last: {last}"
        );
        // An observation may start a process: on two cores, polling must not become the load.
        tokio::time::sleep(started.elapsed().max(POLL)).await;
    }
}

/// Lets time pass where time is the subject: a limit that refills, a lease that expires, an event that
/// must not happen. `why` states the reason for the reader; it must not be empty.
///
/// # Panics
///
/// Panics without a reason.
pub async fn let_time_pass(duration: Duration, why: &str) {
    assert!(!why.is_empty(), "a test that sleeps states why");
    tokio::time::sleep(duration).await;
}

#[cfg(test)]
mod tests {
    use super::eventually;
    use std::time::Duration;

    #[tokio::test]
    async fn eventually_returns_the_first_value() {
        let mut looks = 0;
        let value = eventually(Duration::from_secs(10), "three looks", async || {
            looks += 1;
            (looks == 3).then_some(looks)
        });
        assert_eq!(value.await, 3);
    }

    #[tokio::test]
    #[should_panic(expected = "a green light; last: it is red")]
    async fn eventually_panics_with_the_last_state() {
        let never = async || Err::<(), _>("it is red");
        eventually(Duration::ZERO, "a green light", never).await;
    }
}
