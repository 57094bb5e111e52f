//! Programs that a chore needs beside the toolchain.

use crate::step::{Failed, Step};

/// Whether a program is installed.
pub(crate) fn is_installed(name: &str) -> bool {
    Step::program(name).args(["--version"]).succeeds()
}

/// On Debian and its kin, installs a program where it is missing; its package has its name.
pub(crate) fn install(name: &str) -> Result<(), Failed> {
    if is_installed(name) {
        return Ok(());
    }
    install_packages(&[name])
}

/// On Debian and its kin, installs packages, without what they merely recommend.
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
