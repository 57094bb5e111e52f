//! Counting: runs the program with N rounds and with 2N. The difference is the cost of N rounds,
//! without the program's start, end and first rounds.

use crate::step::{Failed, Step};
use serde::{Deserialize, Serialize};
use std::thread;

/// The fastest `memcpy` depends on the processor, and so would the counts: valgrind counts one
/// instruction for each byte that `rep movsb` moves. This is the one that every x86-64 has.
const TUNABLES: &str = "glibc.cpu.hwcaps=-AVX2_Usable,-AVX2,-AVX_Fast_Unaligned_Load,-ERMS,-FSRM";

/// One measure of `bench-work`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Measure {
    pub(super) name: String,
    /// The unit's name, in the singular.
    pub(super) unit: String,
    /// Units in a round.
    units: u64,
    rounds: u64,
}

/// The cost of one unit.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Count {
    pub(super) instructions: u64,
    /// Allocated blocks, to the hundredth: some are allocated once in many rounds.
    pub(super) allocations: f64,
    /// Allocated bytes.
    pub(super) bytes: u64,
}

/// Lists the measures of the program.
pub(super) fn measures() -> Result<Vec<Measure>, Failed> {
    let listed = program().args(["list"]).output()?;
    let measures: Option<Vec<_>> = listed.lines().map(Measure::parse).collect();
    measures.ok_or_else(|| Failed::new("cannot parse the output of `bench-work list`"))
}

fn program() -> Step {
    Step::built_program("gate", "bench-work")
}

impl Measure {
    fn parse(line: &str) -> Option<Self> {
        let mut parts = line.split('\t');
        let measure = Self {
            name: parts.next()?.to_owned(),
            unit: parts.next()?.to_owned(),
            units: parts.next()?.parse().ok()?,
            rounds: parts.next()?.parse().ok()?,
        };
        Some(measure)
    }

    /// Runs the program four times concurrently: load does not change the counts.
    pub(super) fn count(&self) -> Result<Count, Failed> {
        let (once, twice, memory_once, memory_twice) = thread::scope(|scope| {
            let once = scope.spawn(|| self.instructions(self.rounds));
            let twice = scope.spawn(|| self.instructions(self.rounds * 2));
            let memory_once = scope.spawn(|| self.memory(self.rounds));
            let memory_twice = self.memory(self.rounds * 2);
            (
                once.join().expect("it does not panic"),
                twice.join().expect("it does not panic"),
                memory_once.join().expect("it does not panic"),
                memory_twice,
            )
        });
        let (blocks_once, bytes_once) = memory_once?;
        let (blocks_twice, bytes_twice) = memory_twice?;
        let units = self.rounds * self.units;
        let hundredths = each(blocks_twice.saturating_sub(blocks_once) * 100, units);
        Ok(Count {
            instructions: each(twice?.saturating_sub(once?), units),
            allocations: hundredths as f64 / 100.0,
            bytes: each(bytes_twice.saturating_sub(bytes_once), units),
        })
    }

    fn instructions(&self, rounds: u64) -> Result<u64, Failed> {
        let report = self.under(
            &["--tool=callgrind", "--callgrind-out-file=/dev/null"],
            rounds,
        )?;
        collected(&report).ok_or_else(|| Failed::new("callgrind's report has no count"))
    }

    fn memory(&self, rounds: u64) -> Result<(u64, u64), Failed> {
        let report = self.under(&["--tool=dhat", "--dhat-out-file=/dev/null"], rounds)?;
        allocated(&report).ok_or_else(|| Failed::new("DHAT's report has no total"))
    }

    fn under(&self, tool: &[&str], rounds: u64) -> Result<String, Failed> {
        Step::program("valgrind")
            .env("GLIBC_TUNABLES", TUNABLES)
            .args(["--log-fd=1"])
            .args(tool)
            .args([program().path()])
            .args(["run", &self.name, &rounds.to_string()])
            .output()
    }
}

/// Returns `all` divided by `units`, rounded.
fn each(all: u64, units: u64) -> u64 {
    (all + units / 2) / units
}

/// `==1== Collected : 108786319`
fn collected(report: &str) -> Option<u64> {
    let (_, rest) = report.split_once("Collected :")?;
    number(rest.lines().next()?)
}

/// `==1== Total:     18,100,194 bytes in 76,053 blocks`: the blocks, then the bytes.
fn allocated(report: &str) -> Option<(u64, u64)> {
    let (_, rest) = report.split_once("Total:")?;
    let (bytes, blocks) = rest.lines().next()?.split_once("bytes in")?;
    Some((number(blocks.strip_suffix("blocks")?)?, number(bytes)?))
}

fn number(text: &str) -> Option<u64> {
    text.trim().replace(',', "").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn valgrind_reports_are_parsed() {
        let report =
            "==1== Events    : Ir\n==1== Collected : 108786319\n==1==\n==1== I   refs: 1\n";
        assert_eq!(collected(report), Some(108_786_319));
        let report = "==1== Total:     18,100,194 bytes in 76,053 blocks\n==1== At t-gmax: 1 bytes in 1 blocks\n";
        assert_eq!(allocated(report), Some((76_053, 18_100_194)));
        assert_eq!(collected(report), None);
        assert_eq!(allocated("==1== Total: many\n"), None);
    }

    #[test]
    fn list_line_is_a_measure() {
        let measure = Measure::parse("session/64 at once\texchange\t64\t60").unwrap();
        assert_eq!((measure.units, measure.rounds), (64, 60));
        assert_eq!(Measure::parse("session/64 at once"), None);
    }
}
