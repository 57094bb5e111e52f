//! SHA-256 of files, and the list of them that comes with a release.

use super::release::directory;
use super::target::PROGRAMS;
use super::{cannot, tree};
use crate::step::{Failed, Step};
use std::fs;
use std::path::Path;

/// The list, in the format of `sha256sum --check`.
const FILE: &str = "SHA256SUMS";

/// Returns the SHA-256 of a file in hexadecimal.
pub(super) fn sha256(path: &Path) -> Result<String, Failed> {
    let written = Step::program("sha256sum").args([path]).output()?;
    let sum = written.split_whitespace().next().unwrap_or_default();
    // A backslash in front says that the name has special characters.
    Ok(sum.trim_start_matches('\\').to_owned())
}

/// Writes the list of all artefacts.
pub(super) fn write() -> Result<(), Failed> {
    let mut list = String::new();
    for name in artefacts()? {
        let sum = sha256(&directory().join(&name))?;
        list.push_str(&format!("{sum}  {name}\n"));
    }
    let path = directory().join(FILE);
    fs::write(&path, list).map_err(|error| cannot("write", &path, &error))
}

/// Returns the names of the files that are published: neither the programs nor the list.
pub(super) fn artefacts() -> Result<Vec<String>, Failed> {
    let directory = directory();
    let mut names = tree::names_in(&directory)?;
    names.retain(|name| {
        let is_program = PROGRAMS.iter().any(|program| program.name == name);
        name != FILE && !is_program && directory.join(name).is_file()
    });
    Ok(names)
}
