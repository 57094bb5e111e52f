//! How long the last sessions of a connection lasted, to find a limit of the network.
//!
//! Proxies, balancers and firewalls often end a connection after a fixed time, without a notice. The bridge
//! reconnects, and a caller sees only lost requests. Several sessions in a row that lasted equally long show the cause.

use std::collections::VecDeque;
use std::time::Duration;
use transport::failure::{Cause, Diagnosis};

/// Sessions in a row that must have lasted equally long.
const CUTS_MIN: usize = 3;

/// Shorter sessions state nothing: a network that fails at once fails at about the same time.
const LASTED_MIN: Duration = Duration::from_secs(10);

/// The tolerance of a timer that is checked now and then: the larger of this and a twentieth of the time.
const TOLERANCE: Duration = Duration::from_secs(2);

/// The last sessions that ended without a notice of the relay.
#[derive(Debug, Default)]
pub(super) struct Lifetimes(VecDeque<Duration>);

impl Lifetimes {
    /// Notes the end of a session. Returns the pattern, if the last ones were cut after the same time.
    pub(super) fn ended(&mut self, lasted: Duration, is_orderly: bool) -> Option<Diagnosis> {
        if is_orderly || lasted < LASTED_MIN {
            // The network let a session live to its end: it has no fixed limit, or a longer one.
            self.0.clear();
            return None;
        }
        if self.0.len() >= CUTS_MIN {
            self.0.pop_front();
        }
        self.0.push_back(lasted);
        let (shortest, longest) = (self.0.iter().min()?, self.0.iter().max()?);
        let tolerance = TOLERANCE.max(*longest / 20);
        if self.0.len() < CUTS_MIN || *longest - *shortest > tolerance {
            return None;
        }
        let found = format!("{CUTS_MIN} times after about {} s", longest.as_secs());
        Some(Diagnosis::new(Cause::CutAfterFixedTime, found))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(seconds: &[u64], is_orderly: bool) -> Option<String> {
        let mut lifetimes = Lifetimes::default();
        let ends = seconds.iter().map(|lasted| {
            let lasted = Duration::from_secs(*lasted);
            lifetimes.ended(lasted, is_orderly)
        });
        ends.last().flatten().map(|found| found.to_string())
    }

    #[test]
    fn equal_lifetimes_show_a_limit_of_the_network() {
        let found = after(&[17, 300, 301, 300], false).unwrap();
        assert!(found.contains("3 times after about 301 s"), "{found}");
        for lasted in [
            &[300, 301][..],
            &[300, 40, 300],
            &[300, 300, 700],
            &[3, 3, 3],
        ] {
            assert_eq!(after(lasted, false), None, "{lasted:?}");
        }
        assert_eq!(after(&[300, 300, 300], true), None);
    }
}
