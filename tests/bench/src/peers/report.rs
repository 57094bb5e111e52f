//! One table: a row for each system, medians and ranges over the rounds.

use std::fmt;

use crate::table::{Series, Table};

/// One system's measurements in one round.
pub(super) struct Round {
    pub(super) one_p50_ms: f64,
    pub(super) one_p99_ms: f64,
    pub(super) requests_per_s: f64,
    pub(super) cpu_us_per_request: f64,
    pub(super) new_per_s: f64,
    pub(super) new_p99_ms: f64,
    /// MiB a second, and seconds of processor time for a GiB.
    pub(super) down: [f64; 2],
    pub(super) up: [f64; 2],
    pub(super) during_p50_ms: f64,
    pub(super) during_p99_ms: f64,
}

/// All rounds of all systems.
pub(super) struct Report {
    mib: u64,
    rows: Vec<Row>,
    missing: Vec<String>,
}

struct Row {
    label: String,
    rounds: Vec<Round>,
    peak_kib: u64,
}

/// A line of the table: its name, digits, and what it shows.
type Line = (String, usize, fn(&Round) -> f64);

impl Report {
    pub(super) fn new(
        mib: u64,
        labels: impl Iterator<Item = String>,
        missing: Vec<String>,
    ) -> Self {
        let rows = labels.map(|label| Row {
            label,
            rounds: Vec::new(),
            peak_kib: 0,
        });
        Self {
            mib,
            rows: rows.collect(),
            missing,
        }
    }

    pub(super) fn add(&mut self, place: usize, round: Round) {
        self.rows[place].rounds.push(round);
    }

    pub(super) fn peak(&mut self, place: usize, peak_kib: u64) {
        self.rows[place].peak_kib = peak_kib;
    }

    fn lines(&self) -> [Line; 12] {
        let mib = self.mib;
        [
            ("1 connection, p50, µs".into(), 0, |round| {
                round.one_p50_ms * 1e3
            }),
            ("1 connection, p99, µs".into(), 0, |round| {
                round.one_p99_ms * 1e3
            }),
            ("64 connections, requests/s".into(), 0, |round| {
                round.requests_per_s
            }),
            ("CPU a request, µs".into(), 1, |round| {
                round.cpu_us_per_request
            }),
            ("a new connection each, requests/s".into(), 0, |round| {
                round.new_per_s
            }),
            ("a new connection each, p99, ms".into(), 2, |round| {
                round.new_p99_ms
            }),
            (format!("{mib} MiB down, MiB/s"), 0, |round| round.down[0]),
            ("CPU, s/GiB down".into(), 2, |round| round.down[1]),
            (format!("{mib} MiB up, MiB/s"), 0, |round| round.up[0]),
            ("CPU, s/GiB up".into(), 2, |round| round.up[1]),
            ("during 4 downloads, p50, ms".into(), 2, |round| {
                round.during_p50_ms
            }),
            ("during 4 downloads, p99, ms".into(), 2, |round| {
                round.during_p99_ms
            }),
        ]
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut columns = vec!["median (lowest to highest)"];
        columns.extend(self.rows.iter().map(|row| row.label.as_str()));
        let mut table = Table::new(&columns);
        for (name, digits, value) in self.lines() {
            let is_own = name.starts_with("CPU");
            let mut cells = vec![name];
            for row in &self.rows {
                // Without a tunnel there are no processes of its own.
                if is_own && row.peak_kib == 0 {
                    cells.push("-".to_owned());
                    continue;
                }
                let mut series = Series::default();
                row.rounds
                    .iter()
                    .for_each(|round| series.push(value(round)));
                cells.push(series.cell(digits));
            }
            table.row(&cells);
        }
        let mut cells = vec!["peak memory, MiB".to_owned()];
        for row in &self.rows {
            cells.push(match row.peak_kib {
                0 => "-".to_owned(),
                kib => format!("{:.1}", kib as f64 / 1024.0),
            });
        }
        table.row(&cells);
        writeln!(f, "{table}")?;
        let rounds = self.rows.first().map_or(0, |row| row.rounds.len());
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        write!(
            f,
            "{rounds} rounds on {cores} cores, which the load shares. CPU and memory are those of \
             the system's own processes, together."
        )?;
        for missing in &self.missing {
            write!(f, "\nNot measured: {missing}.")?;
        }
        Ok(())
    }
}
