//! The baseline: the recorded counts, and how far a new count may exceed them.

use super::count::{Count, Measure};
use crate::step::{Failed, Step, root};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::fs;

/// The baseline's file, from the repository's root.
const FILE: &str = "tests/work/baseline.toml";

const HEADER: &str = "# The cost of one unit of each measure. `cargo xtask gate` compares with it;\n\
                      # `cargo xtask gate --record` writes it again: check the difference before you commit it.\n\n";

/// Instructions and bytes may grow by this much, in percent: more than what moving code around
/// does to the compiler's choices, less than one needless copy of a head.
const MARGIN_PERCENT: u64 = 5;

/// With another compiler or C library than the recorded ones the instructions differ without any
/// change of ours.
const MARGIN_OTHER_TOOLCHAIN_PERCENT: u64 = 15;

/// Allocations are the same with every compiler; the share of those that happen once in many
/// rounds varies.
const ALLOCATIONS_MARGIN: f64 = 0.02;

/// What determines the number of instructions, in addition to our own code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Toolchain {
    rustc: String,
    host: String,
    libc: String,
}

/// The recorded counts.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Baseline {
    toolchain: Toolchain,
    measures: BTreeMap<String, Count>,
}

impl Toolchain {
    /// Returns the toolchain of this machine.
    pub(super) fn here() -> Result<Self, Failed> {
        let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
        let version = Step::program(&rustc).args(["-vV"]).output()?;
        let field = |name: &str| {
            let found = version.lines().find_map(|line| line.strip_prefix(name));
            found.map(|value| value.trim().to_owned())
        };
        let (Some(release), Some(host)) = (field("release:"), field("host:")) else {
            return Err(Failed::new("`rustc -vV` is not understood"));
        };
        let libc = Step::program("getconf").args(["GNU_LIBC_VERSION"]).output();
        Ok(Self {
            rustc: release,
            host,
            libc: libc.map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned()),
        })
    }
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rustc {}, {}, {}", self.rustc, self.libc, self.host)
    }
}

impl Baseline {
    pub(super) fn new(toolchain: Toolchain, measures: BTreeMap<String, Count>) -> Self {
        Self {
            toolchain,
            measures,
        }
    }

    pub(super) fn read() -> Result<Self, Failed> {
        let text = fs::read_to_string(root().join(FILE))
            .map_err(|error| Failed::new(format!("{FILE}: {error}")))?;
        toml::from_str(&text).map_err(|error| Failed::new(format!("{FILE}: {error}")))
    }

    pub(super) fn write(&self) -> Result<(), Failed> {
        let text = toml::to_string(self).expect("plain numbers and texts");
        fs::write(root().join(FILE), format!("{HEADER}{text}"))
            .map_err(|error| Failed::new(format!("{FILE}: {error}")))?;
        println!("   recorded in {FILE}");
        Ok(())
    }
}

/// Compares the counts with the baseline, and prints a line for each.
#[derive(Debug)]
pub(super) struct Verdict<'a> {
    /// None when the first baseline is recorded.
    baseline: Option<&'a Baseline>,
    /// None if the baseline is from another kind of processor.
    margin_percent: Option<u64>,
    failures: Vec<String>,
    fewer: bool,
}

impl<'a> Verdict<'a> {
    pub(super) fn new(baseline: Option<&'a Baseline>, here: &Toolchain) -> Self {
        let recorded = baseline.map_or(here, |baseline| &baseline.toolchain);
        let margin_percent = if recorded == here {
            Some(MARGIN_PERCENT)
        } else if recorded.host == here.host {
            println!(
                "   (the baseline is of {recorded}: instructions may be {MARGIN_OTHER_TOOLCHAIN_PERCENT} % more \
                 instead of {MARGIN_PERCENT} %)"
            );
            Some(MARGIN_OTHER_TOOLCHAIN_PERCENT)
        } else {
            println!(
                "   (the baseline is of {recorded}: only allocations are compared, not instructions)"
            );
            None
        };
        println!(
            "   {:<32} {:>13} {:>9} {:>12} {:>9}",
            "measure", "instructions", "", "allocations", "bytes"
        );
        Self {
            baseline,
            margin_percent,
            failures: Vec::new(),
            fewer: false,
        }
    }

    /// Prints a count, and remembers where it exceeds the baseline.
    pub(super) fn add(&mut self, measure: &Measure, count: Count) {
        let recorded = self
            .baseline
            .and_then(|baseline| baseline.measures.get(&measure.name));
        let change = recorded.map_or_else(String::new, |recorded| {
            let (old, new) = (recorded.instructions as f64, count.instructions as f64);
            let percent = (new - old) / old * 100.0;
            if percent.abs() < 0.05 {
                "=".to_owned()
            } else {
                format!("{percent:+.1} %")
            }
        });
        println!(
            "   {:<32} {:>13} {:>9} {:>12.2} {:>9}  per {}",
            measure.name, count.instructions, change, count.allocations, count.bytes, measure.unit
        );
        match recorded {
            Some(recorded) => self.compare(&measure.name, *recorded, count),
            None => self
                .failures
                .push(format!("{}: not in the baseline", measure.name)),
        }
    }

    fn compare(&mut self, name: &str, recorded: Count, count: Count) {
        if let Some(percent) = self.margin_percent {
            let (old, new) = (recorded.instructions, count.instructions);
            self.hold(name, "instructions", old, new, percent);
            self.fewer |= new * 100 < old * (100 - percent);
        }
        self.hold(
            name,
            "bytes allocated",
            recorded.bytes,
            count.bytes,
            MARGIN_PERCENT,
        );
        let (old, new) = (recorded.allocations, count.allocations);
        if new > old + ALLOCATIONS_MARGIN {
            self.failures.push(format!(
                "{name}: {new:.2} allocations; the baseline is {old:.2}"
            ));
        }
        self.fewer |= new + ALLOCATIONS_MARGIN < old;
    }

    fn hold(&mut self, name: &str, what: &str, old: u64, new: u64, percent: u64) {
        if new * 100 > old * (100 + percent) {
            self.failures.push(format!(
                "{name}: {new} {what}; the baseline is {old}, and at most {percent} % more are allowed"
            ));
        }
    }

    /// Returns an error if any count exceeded the baseline.
    pub(super) fn end(mut self, measures: &[Measure]) -> Result<(), Failed> {
        let names = self
            .baseline
            .iter()
            .flat_map(|baseline| baseline.measures.keys());
        for name in names {
            if !measures.iter().any(|measure| measure.name == *name) {
                self.failures
                    .push(format!("{name}: in the baseline, but no longer measured"));
            }
        }
        if self.failures.is_empty() {
            if self.fewer {
                println!(
                    "   some counts are well below the baseline: record them with `cargo xtask gate --record`"
                );
            }
            return Ok(());
        }
        for failure in &self.failures {
            eprintln!("   {failure}");
        }
        Err(Failed::new(format!(
            "{} counts exceed {FILE}. If that is intended, record them with `cargo xtask gate --record`",
            self.failures.len()
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COUNT: Count = Count {
        instructions: 1000,
        allocations: 3.0,
        bytes: 200,
    };

    fn toolchain(rustc: &str, host: &str) -> Toolchain {
        Toolchain {
            rustc: rustc.to_owned(),
            host: host.to_owned(),
            libc: "glibc 2.36".to_owned(),
        }
    }

    /// Returns the failures of `count` against a baseline of [`COUNT`] with rustc 1 on x.
    fn failures(here: &Toolchain, count: Count) -> Vec<String> {
        let measures = BTreeMap::from([("m".to_owned(), COUNT)]);
        let baseline = Baseline::new(toolchain("1", "x"), measures);
        let mut verdict = Verdict::new(Some(&baseline), here);
        verdict.compare("m", COUNT, count);
        verdict.failures
    }

    fn instructions(instructions: u64) -> Count {
        Count {
            instructions,
            ..COUNT
        }
    }

    #[test]
    fn excess_over_the_margin_names_both_numbers() {
        let same = toolchain("1", "x");
        assert!(failures(&same, instructions(1050)).is_empty());
        assert_eq!(
            failures(&same, instructions(1051)),
            ["m: 1051 instructions; the baseline is 1000, and at most 5 % more are allowed"]
        );
    }

    #[test]
    fn margin_depends_on_compiler_and_processor() {
        assert!(failures(&toolchain("2", "x"), instructions(1150)).is_empty());
        assert_eq!(failures(&toolchain("2", "x"), instructions(1151)).len(), 1);
        assert!(failures(&toolchain("1", "y"), instructions(9999)).is_empty());
    }

    #[test]
    fn extra_allocation_fails_on_every_machine() {
        let count = Count {
            allocations: 4.0,
            ..COUNT
        };
        assert_eq!(
            failures(&toolchain("2", "y"), count),
            ["m: 4.00 allocations; the baseline is 3.00"]
        );
        let none = Count { bytes: 0, ..COUNT };
        assert!(failures(&toolchain("1", "x"), none).is_empty());
    }

    #[test]
    fn baseline_survives_a_round_trip() {
        let measures = BTreeMap::from([("session/one exchange".to_owned(), COUNT)]);
        let baseline = Baseline::new(toolchain("1", "x"), measures);
        let text = toml::to_string(&baseline).unwrap();
        assert_eq!(
            toml::from_str::<Baseline>(&format!("{HEADER}{text}")).unwrap(),
            baseline
        );
    }

    #[test]
    fn recorded_baseline_is_readable() {
        assert!(Baseline::read().unwrap().measures.len() > 1);
    }
}
