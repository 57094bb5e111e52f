//! The tables.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::time::{Duration, Instant};

use support::Running;

use super::handshakes::Handshakes;
use super::probe::{Asked, Probed};
use super::ticks::Seconds;

/// All that was measured.
pub(crate) struct Report {
    pub(crate) bridges: u32,
    pub(crate) tenants: u32,
    pub(crate) handshakes: Handshakes,
    pub(crate) pairing: Duration,
    pub(crate) connected: Connected,
    pub(crate) empty: Memory,
    pub(crate) full: Memory,
    pub(crate) after: Memory,
    pub(crate) calm: Calm,
    pub(crate) storm: Storm,
    pub(crate) probed: Probed,
}

/// A process's memory, in KiB.
#[derive(Clone, Copy)]
pub(crate) struct Memory {
    pss: u64,
    rss: u64,
}

/// Until all were connected for the first time.
pub(crate) struct Connected {
    pub(crate) took: Duration,
    pub(crate) cpu: Duration,
}

/// The relay at rest.
pub(crate) struct Calm {
    pub(crate) began: Instant,
    pub(crate) lasted: Duration,
    pub(crate) cpu: Duration,
}

/// The relay's new start, and how the bridges came back.
pub(crate) struct Storm {
    pub(crate) began: Instant,
    pub(crate) ready: Duration,
    pub(crate) cpu: Duration,
    pub(crate) seconds: Seconds,
    pub(crate) bridges: u32,
    pub(crate) relay: Vec<String>,
}

impl Memory {
    /// Reads it from `/proc`.
    pub(crate) fn of(process: &Running) -> io::Result<Self> {
        let text = fs::read_to_string(format!("/proc/{}/smaps_rollup", process.pid()))?;
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse().ok());
            kib.ok_or_else(|| io::Error::other(format!("no {name} in smaps_rollup")))
        };
        Ok(Self {
            pss: field("Pss:")?,
            rss: field("Rss:")?,
        })
    }
}

/// The relay's own counters of tunnels and handshakes.
pub(crate) fn of_interest(metrics: &str) -> Vec<String> {
    let counters = [
        "integration_relay_tls_handshake",
        "integration_relay_tunnels_refused",
    ];
    let lines = metrics.lines();
    lines
        .filter(|line| counters.iter().any(|name| line.starts_with(name)))
        .map(str::to_owned)
        .collect()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (bridges, tenants) = (self.bridges, self.tenants);
        writeln!(f, "| {bridges} bridges of {tenants} tenants | |")?;
        writeln!(f, "| --- | ---: |")?;
        let mut row = |what: &str, value: String| writeln!(f, "| {what} | {value} |");
        let each = |cpu: Duration| format!("{:.2} ms", ms(cpu) / f64::from(bridges));
        let Handshakes {
            whole,
            resumed,
            really,
            connections,
        } = &self.handshakes;
        row(
            "relay CPU of a new connection with one request: whole handshake",
            format!("{:.3} ms", ms(*whole)),
        )?;
        row(
            &format!("the same, session resumed ({really} of {connections} were)"),
            format!("{:.3} ms", ms(*resumed)),
        )?;
        row(
            "paired by `POST /v1/pair`",
            rate(self.pairing, u64::from(bridges)),
        )?;
        row(
            "connected, in turn",
            rate(self.connected.took, u64::from(bridges)),
        )?;
        row(
            "relay CPU of one: TLS, upgrade, proof",
            each(self.connected.cpu),
        )?;
        row(
            "relay memory of an idle session, PSS (RSS)",
            self.full.each(self.empty, bridges),
        )?;
        row(
            "relay memory, PSS: none connected, all, all again after the restart",
            format!(
                "{}, {}, {} MiB",
                self.empty.pss / 1024,
                self.full.pss / 1024,
                self.after.pss / 1024
            ),
        )?;
        let share = 100.0 * self.calm.cpu.as_secs_f64() / self.calm.lasted.as_secs_f64();
        row(
            &format!(
                "relay CPU at rest with the probes, over {:.0} s",
                self.calm.lasted.as_secs_f64()
            ),
            format!("{share:.1} % of a core"),
        )?;
        self.storm.rows(&mut row)?;
        row(
            "relay CPU of one that came back, start included",
            each(self.storm.cpu),
        )?;
        for line in &self.storm.relay {
            row("relay", format!("`{line}`"))?;
        }
        self.probes(f)
    }
}

impl Report {
    fn probes(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f)?;
        writeln!(
            f,
            "| probe | when | asked | p50 | p99 | longest | not answered as wanted |"
        )?;
        writeln!(f, "| --- | --- | ---: | ---: | ---: | ---: | --- |")?;
        let calm_end = self.calm.began + self.calm.lasted;
        let up = self.storm.began + self.storm.ready;
        // The last few connect long after the others.
        let back = self.storm.began + self.storm.most_back();
        for (name, asked) in &self.probed {
            let during = |from: Instant, is_in: &dyn Fn(&Asked) -> bool| {
                let within = asked.iter().filter(|one| one.at >= from && is_in(one));
                within.cloned().collect::<Vec<_>>()
            };
            // What was under way when the relay was killed belongs to neither.
            let at_rest = during(self.calm.began, &|one| one.at + one.took < calm_end);
            probe_row(f, name, "at rest", &at_rest)?;
            let in_the_storm = during(up, &|one| one.at < back);
            probe_row(f, name, "until 90 % are back", &in_the_storm)?;
        }
        Ok(())
    }
}

impl Storm {
    fn share_back(&self, percent: u64) -> Option<Duration> {
        let all = u64::from(self.bridges);
        self.seconds.until((all * percent).div_ceil(100))
    }

    fn most_back(&self) -> Duration {
        self.share_back(90).unwrap_or_default()
    }

    fn rows(&self, row: &mut impl FnMut(&str, String) -> fmt::Result) -> fmt::Result {
        row(
            "relay killed and started again: ready after",
            format!("{:.2} s", self.ready.as_secs_f64()),
        )?;
        for percent in [50, 90, 100] {
            let after = self.share_back(percent);
            let shown = after.map_or("never".to_owned(), |after| {
                format!("{:.1} s", after.as_secs_f64())
            });
            row(&format!("{percent} % are back after"), shown)?;
        }
        let (dialled, came) = self.seconds.busiest();
        row(
            "most in any one second: dials, sessions",
            format!("{dialled}, {came}"),
        )?;
        let seconds = &self.seconds;
        row(
            "dials asked to come later, otherwise failed and made again",
            format!("{}, {}", seconds.turned_away, seconds.failed),
        )?;
        for (kind, count) in &seconds.kinds {
            row(&format!("failed: {kind}"), count.to_string())?;
        }
        row("lost for good", seconds.lost_for_good.to_string())
    }
}

impl Memory {
    fn each(self, before: Self, bridges: u32) -> String {
        let each = |now: u64, before: u64| now.saturating_sub(before) as f64 / f64::from(bridges);
        format!(
            "{:.1} KiB ({:.1})",
            each(self.pss, before.pss),
            each(self.rss, before.rss)
        )
    }
}

fn probe_row(f: &mut fmt::Formatter<'_>, name: &str, when: &str, asked: &[Asked]) -> fmt::Result {
    let mut took: Vec<Duration> = asked
        .iter()
        .filter(|one| one.failure.is_none())
        .map(|one| one.took)
        .collect();
    took.sort_unstable();
    let at = |percent: usize| {
        let index = (took.len() * percent / 100).min(took.len().saturating_sub(1));
        took.get(index)
            .map_or("".to_owned(), |took| format!("{:.1} ms", ms(*took)))
    };
    let mut failures = BTreeMap::<&str, u32>::new();
    for failure in asked.iter().filter_map(|one| one.failure.as_deref()) {
        *failures.entry(failure).or_default() += 1;
    }
    let failures: Vec<String> = failures
        .iter()
        .map(|(failure, count)| format!("{count} {failure}"))
        .collect();
    writeln!(
        f,
        "| {name} | {when} | {} | {} | {} | {} | {} |",
        asked.len(),
        at(50),
        at(99),
        at(100),
        failures.join(", ")
    )
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn rate(took: Duration, count: u64) -> String {
    let seconds = took.as_secs_f64();
    format!("{seconds:.1} s, {:.0} a second", count as f64 / seconds)
}
