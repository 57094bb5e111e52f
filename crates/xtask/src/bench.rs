//! `cargo xtask bench`: release builds, measured on loopback.
//!
//! A measurement is a program of `tests/support`, built in release mode like what it measures: it
//! starts the real programs, and prints a Markdown table.

use crate::step::{Failed, Step};

/// What to measure, and for how long.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Which measurement
    #[arg(value_enum, default_value_t = Bench::Spine)]
    name: Bench,
    /// Rounds; the medians over them are printed
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Seconds of each single measurement, of which a round has six
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=60))]
    seconds: u32,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Bench {
    /// The way through relay and bridge against the target itself: latency of one connection,
    /// requests a second and processor time on 64
    Spine,
}

/// Builds and measures.
pub(crate) fn run(args: &Args) -> Result<(), Failed> {
    let program = match args.name {
        Bench::Spine => "bench-spine",
    };
    Step::cargo(["build", "--release", "--locked", "--workspace", "--bins"]).run()?;
    Step::release_program(program)
        .args([args.rounds.to_string(), args.seconds.to_string()])
        .run()
}
