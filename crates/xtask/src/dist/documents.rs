//! Man pages, completions and licences: what comes with every program.
//!
//! The program writes man pages and completions itself, so they have all its options. A build for this machine does it for all
//! targets.

use super::archive::gzip;
use super::target::Program;
use super::tree::{self, READABLE, Tree};
use super::{Item, notices};
use crate::step::{Failed, Step, root};
use std::path::{Path, PathBuf};

/// A shell that has completions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shell {
    Bash,
    Zsh,
    Fish,
    Powershell,
}

/// The documents of one program.
#[derive(Debug)]
pub(super) struct Documents {
    program: &'static Program,
    tree: Tree,
}

impl Shell {
    pub(super) const ALL: [Self; 4] = [Self::Bash, Self::Zsh, Self::Fish, Self::Powershell];

    fn name(self) -> &'static str {
        match self {
            Self::Bash => "bash",
            Self::Zsh => "zsh",
            Self::Fish => "fish",
            Self::Powershell => "powershell",
        }
    }

    /// Returns the name of a file by which the shell finds it.
    pub(super) fn file_name(self, program: &Program) -> String {
        let name = program.name;
        match self {
            Self::Bash => name.to_owned(),
            Self::Zsh => format!("_{name}"),
            Self::Fish => format!("{name}.fish"),
            Self::Powershell => format!("{name}.ps1"),
        }
    }
}

impl Documents {
    /// Lets a program write its documents.
    pub(super) fn new(program: &'static Program, built: &Path) -> Result<Self, Failed> {
        let tree = Tree::new(&format!("documents-{}", program.name))?;
        let built = built.to_string_lossy();
        let man = tree.root().join("man");
        tree.directory(Path::new("man"))?;
        Step::program(&built)
            .args(["man", "--dir", &man.to_string_lossy()])
            .run()?;
        for shell in Shell::ALL {
            let written = Step::program(&built)
                .args(["completions", shell.name()])
                .output()?;
            let name = format!("completions/{}/{}", shell.name(), shell.file_name(program));
            tree.write(&name, written, READABLE)?;
        }
        Ok(Self { program, tree })
    }

    /// Returns the names of the man pages, such as `integration-bridge.1`.
    pub(super) fn man_pages(&self) -> Result<Vec<String>, Failed> {
        tree::files_below(&self.tree.root().join("man"))
    }

    /// Returns a man page's file.
    pub(super) fn man_page(&self, name: &str) -> PathBuf {
        self.tree.root().join("man").join(name)
    }

    /// Returns a man page as man finds it on Linux: compressed.
    pub(super) fn packed_man_page(&self, name: &str) -> Result<Vec<u8>, Failed> {
        let packed = self.tree.root().join("page.gz");
        gzip(&["--best", "--no-name"], &self.man_page(name), &packed)?;
        tree::read(&packed)
    }

    /// Returns the file with the completions for a shell.
    pub(super) fn completions(&self, shell: Shell) -> PathBuf {
        let directory = self.tree.root().join("completions").join(shell.name());
        directory.join(shell.file_name(self.program))
    }
}

/// Adds guides, examples, the history and licences below a directory of the tree.
pub(super) fn add_texts(tree: &Tree, directory: &str, item: &Item<'_>) -> Result<(), Failed> {
    let sources = root();
    tree.copy_directory(&format!("{directory}/guide"), &sources.join("deploy/guide"))?;
    let examples = sources.join("deploy/examples");
    for end in ["toml", "env"] {
        let name = format!("{}.{end}", item.program.part);
        tree.copy(
            &format!("{directory}/{name}"),
            &examples.join(&name),
            READABLE,
        )?;
    }
    tree.copy(
        &format!("{directory}/CHANGELOG.md"),
        &sources.join("CHANGELOG.md"),
        READABLE,
    )?;
    tree.copy(
        &format!("{directory}/LICENSE"),
        &sources.join("LICENSE"),
        READABLE,
    )?;
    tree.write(
        &format!("{directory}/{}", notices::FILE),
        item.notices,
        READABLE,
    )
}
