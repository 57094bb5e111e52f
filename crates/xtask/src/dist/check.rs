//! `cargo xtask dist check`: two builds give the same bytes, and the programs are what they should be.
//!
//! The second build has its own copy of the sources and its own directories, so that a path which got into an artefact is
//! a difference. `inspect` examines the programs.

mod inspect;

use super::release::{self, COMMIT_VARIABLE, Release, TIME_VARIABLE};
use super::sums::sha256;
use super::tree::{self, EXECUTABLE, READABLE, Tree};
use super::{Selection, make, toolchain};
use crate::step::{Failed, Step, root, this_program};
use crate::tree::tracked_files;

/// Makes everything twice and examines it.
pub(super) fn run(selection: &Selection) -> Result<(), Failed> {
    make(selection)?;
    let mut findings = Vec::new();
    if selection.programs.is_some() {
        println!("   (given programs are not examined, only packed twice)");
    }
    let compiled = selection.targets().into_iter();
    for target in compiled.filter(|_| selection.programs.is_none()) {
        for program in target.programs() {
            let file = release::directory()
                .join(target.triple())
                .join(target.file_name(program));
            findings.extend(inspect::program(target, &file)?);
        }
    }
    let second = second(selection)?;
    findings.extend(differences(&second)?);
    if findings.is_empty() {
        println!("   two builds gave the same bytes");
        return Ok(());
    }
    for finding in &findings {
        println!("   {finding}");
    }
    Err(Failed::new(format!(
        "dist check: {} findings",
        findings.len()
    )))
}

/// Makes the artefacts again elsewhere. Returns the directory of the build's output.
fn second(selection: &Selection) -> Result<Tree, Failed> {
    let release = Release::here()?;
    let sources = Tree::new("second-sources")?;
    let files = tracked_files()?;
    if files.is_empty() {
        return Err(Failed::new("not a git checkout: its files are not known"));
    }
    for file in files {
        let from = root().join(&file);
        // A file that was deleted and not yet committed is listed as well.
        if from.is_file() {
            sources.copy(&file, &from, READABLE)?;
        }
    }
    let output = Tree::new("second-output")?;
    let this = this_program()?;
    output.copy("debug/xtask", &this, EXECUTABLE)?;
    // Downloaded once. The compilers see it at another path.
    let fetched = toolchain::directory();
    if fetched.exists() {
        Step::program("cp")
            .args(["--archive", "--reflink=auto"])
            .args([fetched.as_path(), output.root()])
            .run()?;
    }
    let mut step = Step::program(&output.root().join("debug/xtask").to_string_lossy())
        .args(["dist"])
        .args(selection.arguments())
        .env(TIME_VARIABLE, &release.time.to_string())
        .env(COMMIT_VARIABLE, &release.commit);
    // By which it finds the sources.
    let manifest = sources.root().join("crates/xtask");
    step = step.env("CARGO_MANIFEST_DIR", &manifest.to_string_lossy());
    step.directory(sources.root()).run()?;
    Ok(output)
}

/// Compares the artefacts of both builds.
fn differences(second: &Tree) -> Result<Vec<String>, Failed> {
    let mut differences = Vec::new();
    let ours = release::directory();
    let theirs = second.root().join("dist");
    let names = tree::files_below(&ours)?;
    for name in &names {
        let other = theirs.join(name);
        if !other.exists() {
            differences.push(format!("{name}: the second build has none"));
        } else if sha256(&ours.join(name))? != sha256(&other)? {
            differences.push(format!("{name}: the second build has other bytes"));
        }
    }
    Ok(differences)
}
