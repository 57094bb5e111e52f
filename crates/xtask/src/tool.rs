//! Programs that a task needs in addition to the Rust toolchain.

use crate::step::{Failed, Step, profile_dir};
use std::path::{Path, PathBuf};

/// Returns whether a program is installed.
pub(crate) fn is_installed(name: &str) -> bool {
    Step::program(name).args(["--version"]).succeeds()
}

/// Returns the directory for tools that a task installs with cargo: it goes away with the build's output.
pub(crate) fn dir() -> PathBuf {
    profile_dir("tools")
}

/// Installs a program on Debian and its relatives if it is missing. The package has the program's name.
pub(crate) fn install(name: &str) -> Result<(), Failed> {
    if is_installed(name) {
        return Ok(());
    }
    install_packages(&[name])
}

/// Installs the packages of those files that are missing: each file, and the Debian package that contains it.
pub(crate) fn install_missing(needed: &[(&str, &str)]) -> Result<(), Failed> {
    let missing = needed.iter().filter(|(file, _)| !Path::new(file).exists());
    let missing: Vec<&str> = missing.map(|(_, package)| *package).collect();
    install_packages(&missing)
}

/// Installs packages on Debian and its relatives, without recommended packages.
pub(crate) fn install_packages(names: &[&str]) -> Result<(), Failed> {
    if names.is_empty() {
        return Ok(());
    }
    let listed = names.join(", ");
    println!("   ({listed}: not installed; installing, which needs root or sudo)");
    apt_get(&["update"])?;
    apt_get(&[&["install", "--yes", "--no-install-recommends"], names].concat())
}

/// Reports checks that cannot be made because a tool is missing. In CI that is a failure: a check that is skipped there is
/// never made.
pub(crate) fn skipped(what: &str, why: Failed) -> Result<(), Failed> {
    if std::env::var_os("CI").is_some_and(|value| !value.is_empty()) {
        return Err(why);
    }
    println!("   SKIPPED: {what}: {why}");
    Ok(())
}

fn apt_get(args: &[&str]) -> Result<(), Failed> {
    // Some packages, such as those of Kerberos, ask questions on a terminal. Their defaults do.
    let quiet = ["DEBIAN_FRONTEND=noninteractive", "apt-get"];
    let has_sudo = Step::program("sudo").args(["-n", "true"]).succeeds();
    let step = if has_sudo {
        Step::program("sudo").args(["-n", "env"])
    } else {
        Step::program("env")
    };
    step.args(quiet).args(args).run()
}

/// Python's installer, which is installed if it is missing.
pub(crate) fn pip() -> Result<Step, Failed> {
    let pip = || Step::program("python3").args(["-m", "pip"]);
    if !pip().args(["--version"]).succeeds() {
        install_packages(&["python3", "python3-pip"])?;
    }
    Ok(pip()
        .env("PIP_DISABLE_PIP_VERSION_CHECK", "1")
        .env("PIP_ROOT_USER_ACTION", "ignore"))
}
