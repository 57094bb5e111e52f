//! The numbers of all rounds, and the table that is made of their medians.

use std::fmt;
use std::time::Duration;

/// One route's measurements in one round.
pub(crate) struct Round {
    p50_us: f64,
    p99_us: f64,
    requests_per_s: f64,
    /// Processor time of one request: relay, bridge, target.
    cpu_us: [f64; 3],
}

/// What [`Round`]s are collected into: one list for each route, the first of which is direct.
pub(crate) struct Report {
    connections: usize,
    routes: [(&'static str, Vec<Round>); 3],
}

impl Round {
    pub(crate) fn new(
        mut latencies: Vec<Duration>,
        requests: u64,
        took: Duration,
        cpu: [Duration; 3],
    ) -> Self {
        latencies.sort_unstable();
        let at = |percent: usize| {
            let index = (latencies.len() * percent / 100).min(latencies.len().saturating_sub(1));
            latencies
                .get(index)
                .map_or(0.0, |latency| latency.as_secs_f64() * 1e6)
        };
        Self {
            p50_us: at(50),
            p99_us: at(99),
            requests_per_s: requests as f64 / took.as_secs_f64(),
            cpu_us: cpu.map(|cpu| cpu.as_secs_f64() * 1e6 / requests.max(1) as f64),
        }
    }
}

impl Report {
    pub(crate) fn new(connections: usize, names: [&'static str; 3]) -> Self {
        Self {
            connections,
            routes: names.map(|name| (name, Vec::new())),
        }
    }

    pub(crate) fn add(&mut self, route: usize, round: Round) {
        self.routes[route].1.push(round);
    }

    fn median(&self, route: usize, value: impl Fn(&Round) -> f64) -> f64 {
        let mut values: Vec<f64> = self.routes[route].1.iter().map(value).collect();
        values.sort_unstable_by(f64::total_cmp);
        let middle = values.len() / 2;
        match values.len() {
            0 => f64::NAN,
            len if len % 2 == 0 => f64::midpoint(values[middle - 1], values[middle]),
            _ => values[middle],
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let connections = self.connections;
        writeln!(
            f,
            "| route | p50 at 1 | p99 at 1 | added p50 | requests/s at {connections} | of direct \
             | CPU a request: relay | bridge | target |"
        )?;
        writeln!(
            f,
            "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
        )?;
        let direct_us = self.median(0, |round| round.p50_us);
        let direct_per_s = self.median(0, |round| round.requests_per_s);
        for (route, (name, _)) in self.routes.iter().enumerate() {
            let p50_us = self.median(route, |round| round.p50_us);
            let p99_us = self.median(route, |round| round.p99_us);
            let per_s = self.median(route, |round| round.requests_per_s);
            let added_us = p50_us - direct_us;
            let ratio = per_s / direct_per_s;
            write!(
                f,
                "| {name} | {p50_us:.0} µs | {p99_us:.0} µs | {added_us:.0} µs "
            )?;
            write!(f, "| {per_s:.0} | {ratio:.3} ")?;
            for process in 0..3 {
                let cpu_us = self.median(route, |round| round.cpu_us[process]);
                write!(f, "| {cpu_us:.1} µs ")?;
            }
            writeln!(f, "|")?;
        }
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let rounds = self.routes[0].1.len();
        write!(
            f,
            "\nMedians of {rounds} rounds on {cores} cores; requests/s, lowest to highest:"
        )?;
        for (name, rounds) in &self.routes {
            let per_s = || rounds.iter().map(|round| round.requests_per_s);
            let lowest = per_s().fold(f64::INFINITY, f64::min);
            let highest = per_s().fold(0.0, f64::max);
            write!(f, " {name} {lowest:.0} to {highest:.0};")?;
        }
        write!(f, " the load generator shares the cores.")
    }
}

#[cfg(test)]
mod tests {
    use super::{Report, Round};
    use std::time::Duration;

    fn round(p50_us: u64, requests: u64) -> Round {
        let latencies = vec![Duration::from_micros(p50_us); 10];
        Round::new(
            latencies,
            requests,
            Duration::from_secs(1),
            [Duration::from_millis(10); 3],
        )
    }

    #[test]
    fn report_shows_medians_and_ratios() {
        let mut report = Report::new(64, ["direct", "endpoint", "call"]);
        for requests in [900, 1000, 5000] {
            report.add(0, round(20, requests));
            report.add(1, round(220, requests / 4));
            report.add(2, round(300, requests / 5));
        }
        let table = report.to_string();
        let row =
            "| endpoint | 220 µs | 220 µs | 200 µs | 250 | 0.250 | 40.0 µs | 40.0 µs | 40.0 µs |";
        assert!(table.contains(row), "{table}");
        assert!(table.contains("direct 900 to 5000;"), "{table}");
    }
}
