//! Combines the reports of the swarm's processes.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use support::Running;
use support::process::{Line, Source};

/// How often a wait looks again.
const POLL: Duration = Duration::from_millis(100);

/// Begins each line.
const WORD: &str = "tick";

/// What happened in a process within 100 ms.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tick {
    /// The time of the report, in milliseconds since 1970.
    pub(crate) at_ms: u64,
    /// Sessions that are up now.
    pub(crate) up: u64,
    /// Sessions that came up.
    pub(crate) came: u64,
    /// Dials that began.
    pub(crate) dialled: u64,
    /// Dials that the relay asked to come later.
    pub(crate) turned_away: u64,
    /// Dials that failed otherwise; they are made again.
    pub(crate) failed: u64,
    /// Bridges that will not come back by themselves.
    pub(crate) lost_for_good: u64,
}

/// The lines of all processes.
pub(crate) struct Ticks<'a> {
    swarm: &'a [Running],
}

/// What came to the relay, over all processes.
#[derive(Debug, Default)]
pub(crate) struct Seconds {
    /// By tenths of a second since the beginning: dials that began, and sessions that came up.
    pub(crate) tenths: BTreeMap<u64, (u64, u64)>,
    /// Dials that the relay asked to come later.
    pub(crate) turned_away: u64,
    /// Dials that failed otherwise.
    pub(crate) failed: u64,
    /// Bridges that will not come back.
    pub(crate) lost_for_good: u64,
    /// How often each kind of failure came.
    pub(crate) kinds: BTreeMap<String, u64>,
}

/// Now, in milliseconds since 1970: what processes can compare.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

impl fmt::Display for Tick {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            at_ms,
            up,
            came,
            dialled,
            turned_away,
            failed,
            lost_for_good,
        } = self;
        write!(
            f,
            "{WORD} {at_ms} {up} {came} {dialled} {turned_away} {failed} {lost_for_good}"
        )
    }
}

impl Tick {
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.strip_prefix(WORD)?.split_whitespace();
        let mut next = || fields.next()?.parse().ok();
        Some(Self {
            at_ms: next()?,
            up: next()?,
            came: next()?,
            dialled: next()?,
            turned_away: next()?,
            failed: next()?,
            lost_for_good: next()?,
        })
    }
}

impl<'a> Ticks<'a> {
    pub(crate) fn new(swarm: &'a [Running]) -> Self {
        Self { swarm }
    }

    /// Waits until so many are up. Returns when that was seen.
    pub(crate) async fn wait_up(
        &self,
        wanted: u32,
        within: Duration,
    ) -> Result<Instant, Box<dyn Error>> {
        self.wait(u64::from(wanted), |up, wanted| up >= wanted, within)
            .await
    }

    /// Waits until none is up.
    pub(crate) async fn wait_down(&self, within: Duration) -> Result<Instant, Box<dyn Error>> {
        self.wait(0, |up, _| up == 0, within).await
    }

    async fn wait(
        &self,
        wanted: u64,
        is_there: impl Fn(u64, u64) -> bool,
        within: Duration,
    ) -> Result<Instant, Box<dyn Error>> {
        let deadline = Instant::now() + within;
        loop {
            let up = self.up();
            let now = Instant::now();
            if is_there(up, wanted) {
                return Ok(now);
            }
            if now > deadline {
                let said = self.complaints();
                return Err(
                    format!("{up} of {wanted} bridges are up after {within:?}\n{said}").into(),
                );
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// How many are connected, by the last report of each process.
    fn up(&self) -> u64 {
        let last = |process: &Running| {
            let lines = process.log();
            let mut ticks = lines
                .iter()
                .rev()
                .filter_map(|line| Tick::parse(&line.text));
            ticks.next().map_or(0, |tick| tick.up)
        };
        self.swarm.iter().map(last).sum()
    }

    fn complaints(&self) -> String {
        let mut all = String::new();
        for process in self.swarm {
            for line in process.log() {
                if line.source == Source::Stderr {
                    all.push_str(&line.text);
                    all.push('\n');
                }
            }
        }
        all
    }

    /// The reports since `began_ms`.
    pub(crate) fn since(&self, began_ms: u64) -> Seconds {
        let mut seconds = Seconds::default();
        for process in self.swarm {
            let lines = process.log();
            for (count, kind) in lines.iter().filter_map(|line| failure(line, began_ms)) {
                *seconds.kinds.entry(kind.to_owned()).or_default() += count;
            }
            let ticks = lines.iter().filter_map(|line| Tick::parse(&line.text));
            for tick in ticks {
                seconds.lost_for_good += tick.lost_for_good;
                let Some(after) = tick.at_ms.checked_sub(began_ms) else {
                    continue;
                };
                let (dialled, came) = seconds.tenths.entry(after / 100).or_default();
                *dialled += tick.dialled;
                *came += tick.came;
                seconds.turned_away += tick.turned_away;
                seconds.failed += tick.failed;
            }
        }
        seconds
    }
}

/// How many failures of which kind a line tells of, if it was written since `began_ms`.
fn failure(line: &Line, began_ms: u64) -> Option<(u64, &str)> {
    if line.source != Source::Stderr {
        return None;
    }
    let (at_ms, rest) = line.text.split_once(' ')?;
    let (count, kind) = rest.split_once(' ')?;
    let at_ms: u64 = at_ms.parse().ok()?;
    (at_ms >= began_ms).then_some((count.parse().ok()?, kind))
}

impl Seconds {
    /// After how long so many had come up.
    pub(crate) fn until(&self, came: u64) -> Option<Duration> {
        let mut sum = 0;
        for (tenth, (_, more)) in &self.tenths {
            sum += more;
            if sum >= came {
                return Some(Duration::from_millis(tenth * 100));
            }
        }
        None
    }

    /// The largest number in any one second: dials, and sessions that came up.
    pub(crate) fn busiest(&self) -> (u64, u64) {
        let window = |first: u64| {
            let within = self.tenths.range(first..first + 10);
            within.fold((0, 0), |sum, (_, one)| (sum.0 + one.0, sum.1 + one.1))
        };
        let windows = self.tenths.keys().map(|first| window(*first));
        windows.fold((0, 0), |most, one| (most.0.max(one.0), most.1.max(one.1)))
    }
}

#[cfg(test)]
mod tests {
    use super::{Seconds, Tick};
    use std::time::Duration;

    #[test]
    fn tick_line_round_trips() {
        let tick = Tick {
            at_ms: 1_700_000_000_123,
            up: 1,
            came: 2,
            dialled: 3,
            turned_away: 4,
            failed: 5,
            lost_for_good: 6,
        };
        assert_eq!(Tick::parse(&tick.to_string()), Some(tick));
        assert_eq!(Tick::parse("tick 1 2"), None);
    }

    #[test]
    fn busiest_second_starts_at_any_tenth() {
        let tenths = [(0, (5, 1)), (7, (10, 2)), (12, (10, 4)), (30, (1, 9))];
        let seconds = Seconds {
            tenths: tenths.into_iter().collect(),
            ..Seconds::default()
        };
        assert_eq!(seconds.busiest(), (20, 9));
        assert_eq!(seconds.until(7), Some(Duration::from_millis(1200)));
        assert_eq!(seconds.until(100), None);
    }
}
