//! `cargo xtask bench`: release builds, measured on loopback.
//!
//! The measurements are `tests/bench`, built in release mode like what it measures: it starts the
//! real programs and prints Markdown tables. `micro` is `tests/micro`: it times single steps of an
//! exchange without sockets.

use crate::step::{Failed, Step};

/// The measurement.
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Args {
    /// The measurement and its options (default: spine); `cargo xtask bench --help` lists them. Arguments
    /// after `micro` go to criterion, as in `micro session`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    measurement: Vec<String>,
}

/// Builds and measures.
pub(crate) fn run(args: &Args) -> Result<(), Failed> {
    if let [first, rest @ ..] = args.measurement.as_slice()
        && first == "micro"
    {
        return micro(rest);
    }
    let measurement = match args.measurement.as_slice() {
        [] => &["spine".to_owned()],
        named => named,
    };
    Step::cargo(["build", "--release", "--locked", "--workspace", "--bins"]).run()?;
    Step::release_program("bench").args(measurement).run()
}

/// Runs the benchmarks of single steps, which have their own workspace.
fn micro(args: &[String]) -> Result<(), Failed> {
    Step::cargo([
        "bench",
        "--locked",
        "--manifest-path",
        "tests/micro/Cargo.toml",
    ])
    .args(["--bench", "micro", "--"])
    .args(args)
    .run()
}
