//! `.tar`, `.tar.gz` and `.zip`: the same files give the same bytes.

use super::cannot;
use super::release::Release;
use super::tree::{self, Tree};
use crate::step::{Failed, Step};
use crate::tool;
use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

/// Options of tar that leave out everything of this machine.
const TAR_OPTIONS: [&str; 3] = ["--format=ustar", "--sort=name", "--numeric-owner"];

/// The owner of files in an archive, as numbers, and their mode.
#[derive(Debug, Clone, Copy)]
pub(super) struct Owner<'a> {
    pub(super) user: &'a str,
    pub(super) group: &'a str,
    /// As chmod takes it.
    pub(super) mode: &'a str,
}

/// Files that only root may change.
pub(super) const ROOT: Owner<'static> = Owner {
    user: "0",
    group: "0",
    mode: "go-w",
};

/// Writes a finished tree as `.tar.gz`.
pub(super) fn tar_gz(tree: &Tree, to: &Path, release: &Release) -> Result<(), Failed> {
    let unpacked = tree.root().with_extension("tar");
    let _ = fs::remove_file(&unpacked);
    let names = tree::names_in(tree.root())?;
    add_to_tar(&unpacked, tree.root(), &names, ROOT, release)?;
    gzip(&["--best", "--no-name"], &unpacked, to)?;
    fs::remove_file(&unpacked).map_err(|error| cannot("remove", &unpacked, &error))
}

/// Adds entries of a directory, with all that is below them, to a `.tar`, which is created if it does not exist.
pub(super) fn add_to_tar(
    tar: &Path,
    directory: &Path,
    names: &[String],
    owner: Owner<'_>,
    release: &Release,
) -> Result<(), Failed> {
    let Owner { user, group, mode } = owner;
    // Creates the archive as well.
    Step::program("tar")
        .args(["--append", "--file", &tar.to_string_lossy()])
        .args(TAR_OPTIONS)
        .args([format!("--mtime=@{}", release.time)])
        .args([format!("--owner={user}"), format!("--group={group}")])
        .args([format!("--mode={mode}")])
        .args(["--directory", &directory.to_string_lossy()])
        .args(names)
        .run()
}

/// Writes a finished tree as `.zip`.
pub(super) fn zip(tree: &Tree, to: &Path) -> Result<(), Failed> {
    if !tool::is_installed("zip") {
        tool::install_packages(&["zip"])?;
    }
    // An existing archive would be changed.
    let _ = fs::remove_file(to);
    // Without the owners and further times of files, and with local times that do not depend on the machine.
    Step::program("zip")
        .args(["-X", "-9", "--quiet", "--no-dir-entries"])
        .args([to])
        .args(tree.files()?)
        .env("TZ", "UTC")
        .directory(tree.root())
        .run()
}

/// Runs gzip from one file to another.
pub(super) fn gzip(options: &[&str], from: &Path, to: &Path) -> Result<(), Failed> {
    let input = File::open(from).map_err(|error| cannot("read", from, &error))?;
    let output = File::create(to).map_err(|error| cannot("write", to, &error))?;
    let status = Command::new("gzip")
        .args(options)
        .stdin(input)
        .stdout(output)
        .status()
        .map_err(|error| Failed::new(format!("`gzip` cannot be run: {error}")))?;
    match status.success() {
        true => Ok(()),
        false => Err(Failed::new(format!(
            "`gzip` of {}: {status}",
            from.display()
        ))),
    }
}
