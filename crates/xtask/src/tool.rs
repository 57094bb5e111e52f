//! Programs that a task needs in addition to the Rust toolchain.

use crate::step::{Failed, Step, profile_dir};
use std::path::PathBuf;

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

fn apt_get(args: &[&str]) -> Result<(), Failed> {
    let has_sudo = Step::program("sudo").args(["-n", "true"]).succeeds();
    let step = if has_sudo {
        Step::program("sudo").args(["-n", "apt-get"])
    } else {
        Step::program("apt-get")
    };
    step.args(args).run()
}
