//! The project's tasks, the same on every machine: `cargo xtask --help` lists them.
//!
//! It needs only a Rust toolchain, and has few dependencies, so that it builds quickly. A task prints each
//! command; the first command that fails determines the exit code.
#![expect(clippy::print_stdout, reason = "a task prints its commands")]
#![expect(clippy::print_stderr, reason = "a task prints its failures")]
#![cfg_attr(
    test,
    expect(clippy::unwrap_used, reason = "a test fails by panicking")
)]

mod arrows;
mod bench;
mod charts;
mod ci;
mod containers;
mod dist;
mod engine;
mod gate;
mod openapi;
mod packages;
mod portability;
mod postgres;
mod prose;
mod site;
mod step;
mod test;
mod tool;
mod tree;
mod windows;

use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, Subcommand};

/// The project's tasks.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Builds the programs and runs all tests: units, vectors, fuzz corpora, end to end
    Test(test::Args),
    /// Runs every check that a change must pass: format, lints, docs, prose, all tests, the gate
    Ci(ci::Args),
    /// Counts instructions and allocations of the data path, and compares them with the baseline
    Gate(gate::Args),
    /// Checks the imports between modules and crates: no cycle, no forbidden arrow
    Arrows,
    /// Checks the language of sources and documents, and the links between documents
    Prose,
    /// Checks the Helm charts: lint, rendered manifests against the schemas of Kubernetes, values that must be refused
    Charts,
    /// Builds the images from static programs (`dist`), and runs relay, bridge and a target with podman; needs root
    Containers,
    /// Installs the packages for Linux in a container with systemd, and runs, crashes, upgrades and removes them; needs root
    Packages(packages::Args),
    /// Runs the static programs with the system calls of older kernels, and those for aarch64 in an emulator
    Portability(portability::Args),
    /// Runs the bridge for Windows as a service under Wine, against a relay on this machine; needs root
    Windows(windows::Args),
    /// Writes proto/openapi.json from the code
    Openapi,
    /// Builds in release mode and runs a measurement
    Bench(bench::Args),
    /// Makes all artefacts of a release, in target/dist: programs, packages, images, charts, checksums
    Dist(dist::Args),
    /// Records the load profile that `dist` builds with
    Profile,
}

fn main() -> ExitCode {
    if let Some(code) = dist::run_as_compiler() {
        return code;
    }
    let cli = Cli::parse();
    let began = Instant::now();
    let (name, done) = match &cli.task {
        Task::Test(args) => ("test", test::run(args)),
        Task::Ci(args) => ("ci", ci::run(args)),
        Task::Gate(args) => ("gate", gate::run(args)),
        Task::Arrows => ("arrows", arrows::check()),
        Task::Prose => ("prose", prose::check()),
        Task::Charts => ("charts", charts::check()),
        Task::Containers => ("containers", containers::run()),
        Task::Packages(args) => ("packages", packages::run(args)),
        Task::Portability(args) => ("portability", portability::run(args)),
        Task::Windows(args) => ("windows", windows::run(args)),
        Task::Openapi => ("openapi", openapi::run()),
        Task::Bench(args) => ("bench", bench::run(args)),
        Task::Dist(args) => ("dist", dist::dist(args)),
        Task::Profile => ("profile", dist::profile()),
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
