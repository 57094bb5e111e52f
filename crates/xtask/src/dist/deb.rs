//! `.deb`: a package for Debian, Ubuntu and their relatives.
//!
//! `deploy/package/PART/deb` has the scripts of the package and the list of files that an administrator edits.

use super::Item;
use super::package::{self, Manager};
use super::release::TIME_VARIABLE;
use super::tree::{self, EXECUTABLE, READABLE, Tree};
use crate::step::{Failed, Step};
use std::fs;
use std::path::Path;

/// A field that every package must have.
const MAINTAINER: &str = "Integration Bridge maintainers <maintainers@integration-bridge.invalid>";

/// Scripts that dpkg runs, if the package has them.
const SCRIPTS: [&str; 4] = ["preinst", "postinst", "prerm", "postrm"];

/// Returns the name of the package.
pub(super) fn file_name(item: &Item<'_>) -> String {
    let (name, version) = (item.program.name, item.release.version);
    format!("{name}_{version}_{}.deb", item.target.debian_machine())
}

/// Makes the package.
pub(super) fn make(item: &Item<'_>, to: &Path) -> Result<(), Failed> {
    let tree = Tree::new(&format!("deb-{}", item.name()))?;
    package::add_files(&tree, Manager::Dpkg, item)?;
    // The name under which Debian's tools look for the licence.
    let documents = package::documents_directory(item.program);
    tree.rename(
        &format!("{documents}/LICENSE"),
        &format!("{documents}/copyright"),
    )?;
    let installed = tree.files()?;
    let sources = package::sources(item.program).join("deb");
    let edited = tree::read_text(&sources.join("conffiles"))?;
    check_edited(&edited, &installed)?;
    let mut bytes = 0;
    let mut sums = String::new();
    for file in &installed {
        let path = tree.root().join(file);
        bytes += fs::metadata(&path).map_or(0, |file| file.len());
        // dpkg itself keeps those of files that an administrator edits.
        if edited
            .lines()
            .any(|line| line.strip_prefix('/') == Some(file.as_str()))
        {
            continue;
        }
        // Not for security: dpkg compares files with it (`dpkg --verify`) and knows no other.
        let sum = Step::program("md5sum").args([&path]).output()?;
        let sum = sum.split_whitespace().next().unwrap_or_default();
        sums.push_str(&format!("{sum}  {file}\n"));
    }
    for script in SCRIPTS {
        let from = sources.join(script);
        if from.exists() {
            tree.copy(&format!("DEBIAN/{script}"), &from, EXECUTABLE)?;
        }
    }
    tree.write("DEBIAN/conffiles", edited, READABLE)?;
    tree.write("DEBIAN/md5sums", sums, READABLE)?;
    tree.write("DEBIAN/control", control(item, bytes), READABLE)?;
    tree.finish(item.release)?;
    Step::program("dpkg-deb")
        // One thread: several cut the archive into other pieces.
        .env("DPKG_DEB_THREADS_MAX", "1")
        .env(TIME_VARIABLE, &item.release.time.to_string())
        .args(["--root-owner-group", "-Zxz", "--build"])
        .args([tree.root(), to])
        .run()
}

/// Every file that an administrator edits is in the package: dpkg would fail at the installation otherwise.
fn check_edited(list: &str, installed: &[String]) -> Result<(), Failed> {
    for line in list.lines() {
        let name = line.trim_start_matches('/');
        if !installed.iter().any(|file| file == name) {
            return Err(Failed::new(format!("conffiles: the package has no {line}")));
        }
    }
    Ok(())
}

fn control(item: &Item<'_>, bytes: u64) -> String {
    format!(
        "Package: {}\nVersion: {}\nArchitecture: {}\nMaintainer: {MAINTAINER}\nSection: net\nPriority: optional\n\
         Installed-Size: {}\nDepends: passwd\nRecommends: ca-certificates\nDescription: {}\n {}\n",
        item.program.name,
        item.release.version,
        item.target.debian_machine(),
        bytes.div_ceil(1024),
        item.program.summary,
        folded(item.program.description),
    )
}

/// Returns the words in lines that end before column 80, as the format wants. Further lines begin with a space.
fn folded(text: &str) -> String {
    let mut lines = String::new();
    let mut column = 0;
    for word in text.split(' ') {
        if column == 0 {
            column = 1;
        } else if column + 1 + word.len() < 80 {
            lines.push(' ');
            column += 1;
        } else {
            lines.push_str("\n ");
            column = 1;
        }
        lines.push_str(word);
        column += word.len();
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_description_is_folded() {
        let words = "word ".repeat(40);
        let folded = folded(words.trim());
        assert_eq!(folded.lines().count(), 3);
        for line in folded.lines() {
            assert!(line.len() < 80, "{line}");
        }
        assert_eq!(folded.split_whitespace().count(), 40);
    }

    #[test]
    fn edited_file_that_is_missing_is_reported() {
        let installed = ["etc/a/a.toml".to_owned()];
        assert!(check_edited("/etc/a/a.toml\n", &installed).is_ok());
        let failed = check_edited("/etc/a/b.toml\n", &installed).unwrap_err();
        assert!(failed.to_string().contains("/etc/a/b.toml"), "{failed}");
    }
}
