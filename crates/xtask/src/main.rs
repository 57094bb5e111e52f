//! The project's chores, the same on every machine: `cargo xtask test | ci | gate | bench`.
//!
//! It needs a Rust toolchain and nothing else, and depends on next to nothing, so that it is built
//! in a moment. What a chore runs is printed, and the first command that fails gives its status.
#![expect(clippy::print_stdout, reason = "telling what runs is part of the work")]
#![expect(
    clippy::print_stderr,
    reason = "telling what failed is part of the work"
)]
#![cfg_attr(
    test,
    expect(clippy::unwrap_used, reason = "a test fails by panicking")
)]

mod arrows;
mod bench;
mod ci;
mod gate;
mod openapi;
mod postgres;
mod step;
mod test;
mod tool;
mod tree;

use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, Subcommand};

/// The project's chores.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Debug, Subcommand)]
enum Chore {
    /// Builds the programs and runs all tests: units, vectors, the fuzzers' corpora, end to end
    Test(test::Args),
    /// Everything that must hold before a change is taken: format, lints, docs, the tree, all tests,
    /// the gate
    Ci,
    /// Checks the imports between modules and crates: no cycle, no forbidden arrow
    Arrows,
    /// Counts instructions and allocations of the data path, and holds them against what was recorded
    Gate(gate::Args),
    /// Writes proto/openapi.json anew from the code
    Openapi,
    /// Builds in release mode and measures, with nothing to set up
    Bench(bench::Args),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let began = Instant::now();
    let (name, done) = match &cli.chore {
        Chore::Test(args) => ("test", test::run(args)),
        Chore::Ci => ("ci", ci::run()),
        Chore::Arrows => ("arrows", arrows::check()),
        Chore::Gate(args) => ("gate", gate::run(args)),
        Chore::Openapi => ("openapi", openapi::run()),
        Chore::Bench(args) => ("bench", bench::run(args)),
    };
    let took = began.elapsed().as_secs_f64();
    match done {
        Ok(()) => {
            println!("== {name}: passed in {took:.1} s");
            ExitCode::SUCCESS
        }
        Err(failed) => {
            eprintln!("== {name}: failed after {took:.1} s: {failed}");
            failed.exit_code()
        }
    }
}
