//! Requests that failed before anything left the bridge: lines up to a budget, sums beyond it.
//!
//! A caller can cause any number of them at no cost. Without a budget they would fill the audit file, and rotation would
//! remove the lines about everyone else. Each caller has a budget of lines that refills slowly; what exceeds it is counted
//! in sums, which are written once a minute. So no failure is missing from the count.

use runtime::limit::{Refill, TokenBucket};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

/// Lines that a caller may cause at once, and then in the long run.
const LINES: Refill = Refill {
    per_second: 0.1,
    burst: 60.0,
};

/// Callers with budgets of their own. Further ones share one.
const CALLERS_MAX: usize = 256;

/// The caller that stands for all beyond [`CALLERS_MAX`].
const OTHERS: u32 = u32::MAX;

/// Separate sums of a caller. Further ones are merged into one for each event and outcome.
const SUMS_PER_CALLER_MAX: usize = 8;

/// Replaces what differs in a merged sum.
const SEVERAL: &str = "(several)";

/// What equal requests have in common.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Kind {
    /// `refused` or `call`.
    pub(crate) event: &'static str,
    /// The method.
    pub(crate) method: String,
    /// The target, without a path.
    pub(crate) to: String,
    /// The code of the failure.
    pub(crate) outcome: String,
}

#[derive(Debug, Default)]
struct Caller {
    lines: Option<TokenBucket>,
    sums: BTreeMap<Kind, u64>,
}

/// The budgets, and the sums since the last write.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    callers: HashMap<u32, Caller>,
}

impl Refusals {
    /// Returns whether a request of this caller gets a line of its own; otherwise it is counted.
    pub(super) fn may_write(&mut self, caller: u32, kind: Kind, now: Instant) -> bool {
        let has_room = self.callers.len() < CALLERS_MAX || self.callers.contains_key(&caller);
        let caller = self
            .callers
            .entry(if has_room { caller } else { OTHERS })
            .or_default();
        let lines = caller
            .lines
            .get_or_insert_with(|| TokenBucket::full(LINES, now));
        if lines.take(LINES, now).is_ok() {
            return true;
        }
        let is_full = caller.sums.len() >= SUMS_PER_CALLER_MAX && !caller.sums.contains_key(&kind);
        // Bounded without a further check: events and outcomes are words of this program.
        let kind = match is_full {
            false => kind,
            true => Kind {
                method: SEVERAL.to_owned(),
                to: SEVERAL.to_owned(),
                ..kind
            },
        };
        *caller.sums.entry(kind).or_default() += 1;
        false
    }

    /// Returns the sums as lines, and forgets callers with a full budget.
    pub(super) fn take(&mut self, now: Instant) -> Vec<Value> {
        let mut sums: BTreeMap<Kind, u64> = BTreeMap::new();
        for caller in self.callers.values_mut() {
            for (kind, count) in std::mem::take(&mut caller.sums) {
                *sums.entry(kind).or_default() += count;
            }
        }
        self.callers
            .retain(|_, caller| caller.lines.is_some_and(|lines| !lines.is_full(LINES, now)));
        sums.into_iter()
            .map(|(kind, count)| {
                json!({
                    "event": kind.event, "method": kind.method, "to": kind.to,
                    "outcome": kind.outcome, "count": count,
                })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn kind(to: u32) -> Kind {
        Kind {
            event: "refused",
            method: "GET".to_owned(),
            to: format!("http://host-{to}"),
            outcome: "refused_by_policy".to_owned(),
        }
    }

    #[test]
    fn flood_of_one_caller_is_few_lines() {
        let mut refusals = Refusals::default();
        let now = Instant::now();
        let written = (0..10_000)
            .filter(|number| refusals.may_write(1, kind(number % 1000), now))
            .count();
        assert_eq!(written, 60);
        // Another caller has its own budget.
        assert!(refusals.may_write(2, kind(1), now));
        let lines = refusals.take(now);
        assert!(lines.len() <= SUMS_PER_CALLER_MAX + 1, "{lines:?}");
        let count = |line: &Value| line["count"].as_u64().unwrap();
        assert_eq!(lines.iter().map(count).sum::<u64>(), 10_000 - 60);
        assert!(refusals.take(now).is_empty());
        // The budget returns slowly.
        let later = now + Duration::from_secs(25);
        let written = (0..10)
            .filter(|_| refusals.may_write(1, kind(1), later))
            .count();
        assert_eq!(written, 2);
    }

    #[test]
    fn many_callers_share_a_bounded_memory() {
        let mut refusals = Refusals::default();
        let now = Instant::now();
        for caller in 0..10_000 {
            refusals.may_write(caller, kind(caller), now);
        }
        assert!(refusals.callers.len() <= CALLERS_MAX + 1);
        let later = now + Duration::from_secs(3600);
        refusals.take(later);
        assert!(refusals.callers.is_empty());
    }
}
