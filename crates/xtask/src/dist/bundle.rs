//! `.tar.gz` for Linux and `.zip` for Windows: a program with all that its installation needs, without a package manager.
//!
//! ```text
//! NAME/PROGRAM   install.sh or install.ps1   PART.toml   PROGRAM.service   man/   completions/   doc/
//! ```

use super::documents::{self, Shell};
use super::tree::{EXECUTABLE, READABLE, Tree};
use super::{Item, archive};
use crate::step::{Failed, root};
use std::path::{Path, PathBuf};

/// Ends of the names of files that editors on Windows must show in lines.
const TEXTS: [&str; 6] = [".toml", ".txt", ".md", ".ps1", ".env", "LICENSE"];

/// Returns the name of the archive.
pub(super) fn file_name(item: &Item<'_>) -> String {
    let end = match item.target.is_windows() {
        true => "zip",
        false => "tar.gz",
    };
    format!("{}.{end}", directory(item))
}

/// Makes the archive.
pub(super) fn make(item: &Item<'_>, to: &Path) -> Result<(), Failed> {
    let tree = Tree::new(&format!("bundle-{}", item.name()))?;
    let directory = format!("{}/", directory(item));
    if item.target.is_windows() {
        add_windows_files(&tree, &directory, item)?;
        let script = sources().join("install.ps1");
        tree.copy(&format!("{directory}install.ps1"), &script, READABLE)?;
        tree.end_lines_for_windows(&TEXTS)?;
        tree.finish(item.release)?;
        return archive::zip(&tree, to);
    }
    add_linux_files(&tree, &directory, item)?;
    tree.finish(item.release)?;
    archive::tar_gz(&tree, to, item.release)
}

/// Adds the program for Windows, its first config and its documents. The directory ends in `/`, or is empty.
pub(super) fn add_windows_files(
    tree: &Tree,
    directory: &str,
    item: &Item<'_>,
) -> Result<(), Failed> {
    let program = item.program;
    add_common_files(tree, directory, item)?;
    let config = sources().join(program.part).join("windows.toml");
    tree.copy(
        &format!("{directory}{}", program.config()),
        &config,
        READABLE,
    )?;
    let completions = item.documents.completions(Shell::Powershell);
    let name = Shell::Powershell.file_name(program);
    tree.copy(
        &format!("{directory}completions/{name}"),
        &completions,
        READABLE,
    )?;
    tree.end_lines_for_windows(&TEXTS)
}

fn add_linux_files(tree: &Tree, directory: &str, item: &Item<'_>) -> Result<(), Failed> {
    let program = item.program;
    add_common_files(tree, directory, item)?;
    let script = sources().join("install.sh");
    tree.copy(&format!("{directory}install.sh"), &script, EXECUTABLE)?;
    let config = sources().join(program.part).join("config.toml");
    tree.copy(
        &format!("{directory}{}", program.config()),
        &config,
        READABLE,
    )?;
    let unit = format!("{}.service", program.name);
    let unit_source = root().join("deploy/systemd").join(&unit);
    tree.copy(&format!("{directory}{unit}"), &unit_source, READABLE)?;
    for page in item.documents.man_pages()? {
        let from = item.documents.man_page(&page);
        tree.copy(&format!("{directory}man/{page}"), &from, READABLE)?;
    }
    for shell in Shell::ALL {
        let from = item.documents.completions(shell);
        let name = shell.file_name(program);
        tree.copy(&format!("{directory}completions/{name}"), &from, READABLE)?;
    }
    Ok(())
}

fn add_common_files(tree: &Tree, directory: &str, item: &Item<'_>) -> Result<(), Failed> {
    let file = item.target.file_name(item.program);
    tree.copy(&format!("{directory}{file}"), item.built, EXECUTABLE)?;
    documents::add_texts(tree, &format!("{directory}doc"), item)?;
    tree.rename(
        &format!("{directory}doc/LICENSE"),
        &format!("{directory}LICENSE"),
    )
}

/// Returns the directory with install scripts and first configs.
fn sources() -> PathBuf {
    root().join("deploy/package")
}

/// Returns the name of the directory in the archive.
pub(super) fn directory(item: &Item<'_>) -> String {
    let (name, version) = (item.program.name, item.release.version);
    format!("{name}-{version}-{}", item.target.label())
}
