//! `cargo xtask gate`: holds the cost of the data path against a recorded baseline.
//!
//! ```text
//! tests/work, its own profile --> valgrind, N and 2N rounds --> counts per unit --> baseline.toml: compared, or recorded
//! ```
//!
//! Instructions and allocations are counted instead of time, so a busy or slow machine changes
//! nothing. `count` counts; `baseline` compares and records.

mod baseline;
mod count;

use crate::step::{Failed, Step};
use crate::tool;
use baseline::{Baseline, Toolchain, Verdict};
use std::collections::BTreeMap;

/// What to do with the counts.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Record the counts as the new baseline instead of comparing them with the old one
    #[arg(long)]
    record: bool,
}

/// Counts, then compares the counts with the baseline or records them.
pub(crate) fn run(args: &Args) -> Result<(), Failed> {
    if !tool::is_installed("valgrind") {
        return Err(Failed::new(
            "valgrind is not installed, so nothing was counted. On Debian or Ubuntu: \
             apt-get install valgrind",
        ));
    }
    Step::cargo(["build", "--locked", "--profile", "gate"])
        .args(["--package", "bench-work", "--bin", "bench-work"])
        .run()?;
    let toolchain = Toolchain::here()?;
    let measures = count::measures()?;
    println!("== counting {} measures with {toolchain}", measures.len());
    let mut counts = BTreeMap::new();
    let baseline = match Baseline::read() {
        Ok(baseline) => Some(baseline),
        Err(_) if args.record => None,
        Err(failed) => return Err(failed),
    };
    let mut verdict = Verdict::new(baseline.as_ref(), &toolchain);
    for measure in &measures {
        let counted = measure.count()?;
        verdict.add(measure, counted);
        counts.insert(measure.name.clone(), counted);
    }
    if args.record {
        return Baseline::new(toolchain, counts).write();
    }
    verdict.end(&measures)
}

/// Runs the gate in CI. Installs valgrind if it is missing.
pub(crate) fn run_in_ci() -> Result<(), Failed> {
    tool::install("valgrind")?;
    run(&Args { record: false })
}
