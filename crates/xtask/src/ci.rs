//! `cargo xtask ci`: the cheap checks first, then all tests, then what the data path costs.

use crate::step::{Failed, Step};
use crate::{arrows, gate, tree};

/// Runs everything that must hold.
pub(crate) fn run() -> Result<(), Failed> {
    component("fmt", "rustfmt")?;
    component("clippy", "clippy")?;
    Step::cargo(["fmt", "--all", "--check"]).run()?;
    tree::check()?;
    arrows::check()?;
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
    // The very command that the README names.
    Step::cargo(["xtask", "test"]).run()?;
    gate::run_in_ci()
}

/// Installs a part of the toolchain where it is missing and rustup can.
fn component(subcommand: &str, name: &str) -> Result<(), Failed> {
    if Step::cargo([subcommand, "--version"]).succeeds() {
        return Ok(());
    }
    Step::program("rustup")
        .args(["component", "add", name])
        .run()
}
