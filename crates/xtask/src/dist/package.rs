//! What a package for Linux installs, the same for `.deb` and `.rpm`.
//!
//! ```text
//! /usr/bin/PROGRAM                          /usr/lib/systemd/system/PROGRAM.service
//! /etc/PROGRAM/PART.toml                    /usr/lib/PROGRAM/managed-by
//! /usr/share/man, completions of shells     /usr/share/doc/PROGRAM
//! ```
//!
//! `managed-by` names the package manager: the program's own `update` then refuses, and names it.

use super::Item;
use super::documents::{self, Shell};
use super::target::Program;
use super::tree::{EXECUTABLE, READABLE, Tree};
use crate::step::{Failed, root};
use std::path::PathBuf;

/// The package manager that a package is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manager {
    Dpkg,
    Rpm,
}

impl Manager {
    /// Returns its name, as `managed-by` has it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Dpkg => "dpkg",
            Self::Rpm => "rpm",
        }
    }

    /// Returns where a shell looks for completions of packages.
    fn completions(self, shell: Shell, program: &Program) -> String {
        let directory = match (shell, self) {
            (Shell::Bash, _) => "usr/share/bash-completion/completions".to_owned(),
            (Shell::Zsh, Self::Dpkg) => "usr/share/zsh/vendor-completions".to_owned(),
            (Shell::Zsh, Self::Rpm) => "usr/share/zsh/site-functions".to_owned(),
            (Shell::Fish, _) => "usr/share/fish/vendor_completions.d".to_owned(),
            // PowerShell looks nowhere: its profile loads the file.
            (Shell::Powershell, _) => format!("usr/share/{}", program.name),
        };
        format!("{directory}/{}", shell.file_name(program))
    }
}

/// Returns where a program's config is, from the file system's root.
pub(super) fn config(program: &Program) -> String {
    format!("etc/{}/{}", program.name, program.config())
}

/// Returns the directory of a program's documents, from the file system's root.
pub(super) fn documents_directory(program: &Program) -> String {
    format!("usr/share/doc/{}", program.name)
}

/// Returns the directory with a program's parts of packages.
pub(super) fn sources(program: &Program) -> PathBuf {
    root().join("deploy/package").join(program.part)
}

/// Adds everything that a package installs.
pub(super) fn add_files(tree: &Tree, manager: Manager, item: &Item<'_>) -> Result<(), Failed> {
    let (program, documents) = (item.program, item.documents);
    let name = program.name;
    let unit = format!("{name}.service");
    tree.copy(&format!("usr/bin/{name}"), item.built, EXECUTABLE)?;
    tree.copy(
        &format!("usr/lib/systemd/system/{unit}"),
        &root().join("deploy/systemd").join(&unit),
        READABLE,
    )?;
    tree.copy(
        &config(program),
        &sources(program).join("config.toml"),
        READABLE,
    )?;
    tree.write(
        &format!("usr/lib/{name}/managed-by"),
        format!("{}\n", manager.name()),
        READABLE,
    )?;
    for page in documents.man_pages()? {
        let section = page.rsplit('.').next().unwrap_or_default();
        tree.write(
            &format!("usr/share/man/man{section}/{page}.gz"),
            documents.packed_man_page(&page)?,
            READABLE,
        )?;
    }
    for shell in Shell::ALL {
        tree.copy(
            &manager.completions(shell, program),
            &documents.completions(shell),
            READABLE,
        )?;
    }
    documents::add_texts(tree, &documents_directory(program), item)
}
