//! The three tables: transfers, concurrent small requests, memory.

use std::fmt;
use std::time::Duration;

use crate::bulk::{Way, mib_per_s};
use crate::table::{Series, Table, percentile_ms};

/// What both sides may lend to long transfers by default, and what a session's streams share.
const LENT_MIB: [u64; 2] = [64, 32];
const SESSION_WINDOW_MIB: u64 = 4;

/// All that was measured.
pub(super) struct Report {
    mib: u64,
    transfers: Vec<Transfers>,
    small: Vec<Small>,
    pub(super) memory: Vec<Memory>,
}

struct Transfers {
    round_trip_ms: u64,
    way: Way,
    plain: Series,
    tunnel: Series,
    ratio: Series,
}

struct Small {
    round_trip_ms: u64,
    way: Way,
    name: &'static str,
    count: usize,
    p50_ms: f64,
    p99_ms: f64,
}

/// Resident KiB of relay and bridge.
pub(super) struct Memory {
    pub(super) round_trip_ms: u64,
    pub(super) at_rest: [u64; 2],
    pub(super) peak: [u64; 2],
}

impl Report {
    pub(super) fn new(mib: u64) -> Self {
        Self {
            mib,
            transfers: Vec::new(),
            small: Vec::new(),
            memory: Vec::new(),
        }
    }

    /// One transfer over each, one after the other.
    pub(super) fn add(
        &mut self,
        round_trip_ms: u64,
        way: Way,
        bytes: u64,
        plain: Duration,
        tunnel: Duration,
    ) {
        let same = |row: &Transfers| row.round_trip_ms == round_trip_ms && row.way == way;
        let row = match self.transfers.iter().position(same) {
            Some(at) => at,
            None => {
                self.transfers.push(Transfers {
                    round_trip_ms,
                    way,
                    plain: Series::default(),
                    tunnel: Series::default(),
                    ratio: Series::default(),
                });
                self.transfers.len() - 1
            }
        };
        let row = &mut self.transfers[row];
        row.plain.push(mib_per_s(bytes, plain));
        row.tunnel.push(mib_per_s(bytes, tunnel));
        row.ratio.push(plain.as_secs_f64() / tunnel.as_secs_f64());
    }

    pub(super) fn small(
        &mut self,
        round_trip_ms: u64,
        way: Way,
        name: &'static str,
        mut latencies: Vec<Duration>,
    ) {
        self.small.push(Small {
            round_trip_ms,
            way,
            name,
            count: latencies.len(),
            p50_ms: percentile_ms(&mut latencies, 50),
            p99_ms: percentile_ms(&mut latencies, 99),
        });
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = self.mib;
        writeln!(
            f,
            "{mib} MiB at 1 Gbit/s, MiB/s, median (lowest to highest):\n"
        )?;
        let mut table = Table::new(&["round trip", "way", "plain TLS", "tunnel", "of plain TLS"]);
        for row in &self.transfers {
            table.row(&[
                format!("{} ms", row.round_trip_ms),
                name(row.way).to_owned(),
                row.plain.cell(1),
                row.tunnel.cell(1),
                row.ratio.cell(2),
            ]);
        }
        writeln!(f, "{table}")?;

        writeln!(f, "Small requests during such a transfer:\n")?;
        let mut table = Table::new(&[
            "round trip",
            "transfer",
            "over",
            "p50 beyond the round trip",
            "p99 beyond it",
            "requests",
        ]);
        for row in &self.small {
            let beyond = |ms: f64| format!("{:.1} ms", ms - row.round_trip_ms as f64);
            table.row(&[
                format!("{} ms", row.round_trip_ms),
                name(row.way).to_owned(),
                row.name.to_owned(),
                beyond(row.p50_ms),
                beyond(row.p99_ms),
                row.count.to_string(),
            ]);
        }
        writeln!(f, "{table}")?;

        writeln!(
            f,
            "Resident memory, with what the configuration lends to transfers:\n"
        )?;
        let mut table = Table::new(&[
            "round trip",
            "process",
            "at rest",
            "peak",
            "grew by",
            "may grow by",
        ]);
        for row in &self.memory {
            for (process, name) in ["relay", "bridge"].into_iter().enumerate() {
                let mib = |kib: u64| format!("{:.1} MiB", kib as f64 / 1024.0);
                let (at_rest, peak) = (row.at_rest[process], row.peak[process]);
                table.row(&[
                    format!("{} ms", row.round_trip_ms),
                    name.to_owned(),
                    mib(at_rest),
                    mib(peak),
                    mib(peak.saturating_sub(at_rest)),
                    format!("{} MiB", LENT_MIB[process] + SESSION_WINDOW_MIB),
                ]);
            }
        }
        write!(f, "{table}")
    }
}

fn name(way: Way) -> &'static str {
    match way {
        Way::Down => "down",
        Way::Up => "up",
    }
}
