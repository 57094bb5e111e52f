//! `cargo xtask bench`: release builds, measured on loopback.
//!
//! The measurements are `tests/bench`, built in release mode like what it measures: it starts the
//! real programs, and prints Markdown tables.

use crate::step::{Failed, Step};

/// What to measure.
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Args {
    /// The measurement and its options; `cargo xtask bench --help` lists them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    measurement: Vec<String>,
}

/// Builds and measures.
pub(crate) fn run(args: &Args) -> Result<(), Failed> {
    let measurement = match args.measurement.as_slice() {
        [] => &["spine".to_owned()],
        named => named,
    };
    Step::cargo(["build", "--release", "--locked", "--workspace", "--bins"]).run()?;
    Step::release_program("bench").args(measurement).run()
}
