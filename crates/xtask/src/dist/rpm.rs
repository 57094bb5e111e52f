//! `.rpm`: a package for Red Hat, SUSE and their relatives.
//!
//! `deploy/package/PART/rpm` has the scripts of the package. The programs are static, so the package needs no library.

use super::package::{self, Manager};
use super::release::{TIME_VARIABLE, work_directory};
use super::tree::{self, READABLE, Tree};
use super::{Item, cannot, notices};
use crate::step::{Failed, Step};
use crate::tool;
use std::fs;
use std::path::Path;

/// Scripts that rpm runs, if the package has them.
const SCRIPTS: [&str; 6] = ["pre", "post", "preun", "postun", "pretrans", "posttrans"];

/// Settings that make a package the same on each machine, and leave the program as it is.
const MACROS: [&str; 10] = [
    "_build_id_links none",
    "_buildhost localhost",
    "_binary_payload w6.xzdio",
    // SHA-256.
    "_binary_filedigest_algorithm 8",
    "_source_filedigest_algorithm 8",
    "use_source_date_epoch_as_buildtime 1",
    "clamp_mtime_to_source_date_epoch 1",
    "source_date_epoch_from_changelog 0",
    "debug_package %{nil}",
    // What it would do after the installation: strip programs and compress documents.
    "__os_install_post %{nil}",
];

/// Returns the name of the package.
pub(super) fn file_name(item: &Item<'_>) -> String {
    let (name, version) = (item.program.name, item.release.version);
    format!("{name}-{version}-1.{}.rpm", item.target.machine())
}

/// Makes the package.
pub(super) fn make(item: &Item<'_>, to: &Path) -> Result<(), Failed> {
    if !tool::is_installed("rpmbuild") {
        tool::install_packages(&["rpm"])?;
    }
    let name = format!("rpm-{}", item.name());
    let tree = Tree::new(&name)?;
    package::add_files(&tree, Manager::Rpm, item)?;
    tree.finish(item.release)?;
    let made = Tree::new(&format!("{name}-made"))?;
    made.write("package.spec", spec(item, &tree)?, READABLE)?;
    let mut step = Step::program("rpmbuild").args(["-bb", "--quiet", "--nodeps"]);
    for setting in MACROS {
        step = step.args(["--define", setting]);
    }
    // The name of a directory in which it works is in no package.
    let database = work_directory().join("rpm-database");
    for (name, path) in [
        ("_topdir", made.root()),
        ("_rpmdir", made.root()),
        // A package is one file, not one in a directory of its architecture.
        ("_rpmfilename", Path::new("made.rpm")),
        // The database of this machine's packages does not matter.
        ("_dbpath", database.as_path()),
    ] {
        step = step.args(["--define", &format!("{name} {}", path.display())]);
    }
    step.args([format!("--target={}-linux", item.target.machine())])
        .args([made.root().join("package.spec")])
        .env(TIME_VARIABLE, &item.release.time.to_string())
        .run()?;
    let from = made.root().join("made.rpm");
    fs::copy(&from, to).map_err(|error| cannot("copy", &from, &error))?;
    Ok(())
}

/// Returns the definition of the package: its files are those of the tree.
fn spec(item: &Item<'_>, tree: &Tree) -> Result<String, Failed> {
    let program = item.program;
    let mut spec = format!(
        "Name: {name}\nVersion: {version}\nRelease: 1\nSummary: {summary}\nLicense: Apache-2.0\nGroup: System Environment/Daemons\n\
         AutoReqProv: no\nRequires(post): /bin/sh, /usr/sbin/useradd\n\n%description\n{description}\n\n\
         %install\nmkdir -p %{{buildroot}}\ncp -a {root}/. %{{buildroot}}/\n\n",
        name = program.name,
        version = item.release.version,
        summary = program.summary,
        description = program.description,
        root = tree.root().display(),
    );
    let sources = package::sources(program).join("rpm");
    for script in SCRIPTS {
        let from = sources.join(script);
        if from.exists() {
            // In a definition, `%` begins a macro.
            let text = tree::read_text(&from)?.replace('%', "%%");
            spec.push_str(&format!("%{script} -p /bin/sh\n{text}\n"));
        }
    }
    spec.push_str("%files\n%defattr(-,root,root,-)\n");
    let config = package::config(program);
    let documents = package::documents_directory(program);
    // Directories that no other package has.
    for directory in [
        format!("/etc/{}", program.name),
        format!("/usr/lib/{}", program.name),
        format!("/usr/share/{}", program.name),
        format!("/{documents}"),
        format!("/{documents}/guide"),
    ] {
        spec.push_str(&format!("%dir {directory}\n"));
    }
    for file in tree.files()? {
        let kind = if file == config {
            "%config(noreplace) "
        } else if file.ends_with("/LICENSE") || file.ends_with(notices::FILE) {
            "%license "
        } else if file.starts_with(&documents) || file.starts_with("usr/share/man/") {
            "%doc "
        } else {
            ""
        };
        spec.push_str(&format!("{kind}/{file}\n"));
    }
    Ok(spec)
}
