//! `cargo xtask ci`: the cheap checks first, then all tests, then the packages for Linux and the service on Windows, then the cost of the data path.

use crate::step::{Failed, Step};
use crate::{arrows, charts, gate, packages, prose, tool, tree, windows};

/// The spelling checker. A fixed version, because each one knows other words.
const TYPOS_PACKAGE: &str = "typos";
const TYPOS_VERSION: &str = "1.52.0";

/// Which checks.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Also make all artefacts of a release twice, compare them, and run those for other machines and containers: once a day,
    /// because it takes long
    #[arg(long)]
    daily: bool,
}

/// Runs every check.
pub(crate) fn run(args: &Args) -> Result<(), Failed> {
    component("fmt", "rustfmt")?;
    component("clippy", "clippy")?;
    Step::cargo(["fmt", "--all", "--check"]).run()?;
    tree::check()?;
    prose::check()?;
    spelling()?;
    arrows::check()?;
    charts::check()?;
    if Step::cargo(["deny", "--version"]).succeeds() {
        Step::cargo(["deny", "--locked", "check"]).run()?;
    } else {
        println!("   (cargo-deny is not installed: only the banned crates were checked)");
    }
    let clippy = [
        "clippy",
        "--workspace",
        "--all-targets",
        "--locked",
        "--",
        "-D",
        "warnings",
    ];
    Step::cargo(clippy).run()?;
    Step::cargo(["doc", "--workspace", "--no-deps", "--locked"])
        .env("RUSTDOCFLAGS", "-D warnings")
        .run()?;
    // The command that the README names.
    Step::cargo(["xtask", "test"]).run()?;
    packages::run(&packages::Args::default())?;
    windows::run(&windows::Args::default())?;
    gate::run_in_ci()?;
    if args.daily {
        for task in ["dist", "portability", "containers", "dist check"] {
            Step::cargo(["xtask"]).args(task.split(' ')).run()?;
        }
    }
    Ok(())
}

/// Checks the spelling with `typos`, which is installed next to the build's output if it is missing.
fn spelling() -> Result<(), Failed> {
    if Step::program("typos").args(["--version"]).succeeds() {
        return Step::program("typos").run();
    }
    let tools = tool::dir().join("typos");
    let program = tools.join("bin").join("typos");
    if !program.exists() {
        // Its Python package has the ready program. To compile it takes minutes.
        let package = format!("{TYPOS_PACKAGE}=={TYPOS_VERSION}");
        tool::pip()?
            .args(["install", "--quiet", "--no-deps", "--target"])
            .args([&tools])
            .args([&package])
            .run()?;
    }
    Step::program(&program.to_string_lossy()).run()
}

/// Installs a component of the toolchain with rustup if it is missing.
fn component(subcommand: &str, name: &str) -> Result<(), Failed> {
    if Step::cargo([subcommand, "--version"]).succeeds() {
        return Ok(());
    }
    Step::program("rustup")
        .args(["component", "add", name])
        .run()
}
