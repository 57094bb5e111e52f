//! `provenance.txt`: from what, with what and how the artefacts were made.
//!
//! With the same commit and the same versions, `cargo xtask dist` gives the same bytes. The text has no paths and times of the
//! machine, so it is the same as well.

use super::program::Built;
use super::release::{Release, TIME_VARIABLE, directory};
use super::sums::sha256;
use super::target::Target;
use super::{cannot, load_profile};
use crate::step::{Failed, Step, root};
use std::fs;

const FILE: &str = "provenance.txt";

/// Files that decide what is built, in addition to the commit.
const INPUTS: [&str; 3] = ["Cargo.lock", "rust-toolchain.toml", load_profile::PROFILE];

/// Packages of the machine that archives are made with.
const TOOLS: [&str; 6] = ["ca-certificates", "dpkg", "gzip", "rpm", "tar", "zip"];

/// Writes the text.
pub(super) fn write(release: &Release, targets: &[(Target, Built)]) -> Result<(), Failed> {
    let rustc = Step::program("rustc").args(["-vV"]).output()?;
    let mut text = format!(
        "version: {}\ncommit: {}\n{TIME_VARIABLE}: {} ({})\n\ncompiler:\n{}\nsources (SHA-256):\n",
        release.version,
        release.commit,
        release.time,
        release.timestamp()?,
        indented(&rustc),
    );
    for input in INPUTS {
        text.push_str(&format!("  {} {input}\n", sha256(&root().join(input))?));
    }
    text.push_str("\npackages of this machine:\n");
    for tool in TOOLS {
        let query = Step::program("dpkg-query").args(["--show", "--showformat=${Version}", tool]);
        let version = query.output().unwrap_or_else(|_| "not known".to_owned());
        text.push_str(&format!("  {tool} {version}\n"));
    }
    for (target, built) in targets {
        text.push_str(&format!("\n{}:\n", target.triple()));
        if let Some(library) = &built.library {
            text.push_str(&format!("  {library}\n"));
        }
        if let Some(version) = &built.gcc {
            text.push_str(&format!("  {} {version}\n", target.c_compiler()));
        }
        if let Some(version) = &built.musl {
            text.push_str(&format!("  musl {version}\n"));
        }
        let command = built.command.as_deref();
        let command = command.unwrap_or("the programs existed before (--programs)");
        text.push_str(&format!("  {}\n", command.replace("\\u{1f}", " ")));
    }
    let path = directory().join(FILE);
    fs::write(&path, text).map_err(|error| cannot("write", &path, &error))
}

fn indented(text: &str) -> String {
    let lines = text.lines().map(|line| format!("  {line}\n"));
    lines.collect()
}
