//! `cargo xtask packages`: the packages for Linux, installed and run by systemd in a booted container.
//!
//! ```text
//! artefacts   `dist` packs programs that exist: .deb, .rpm, .tar.gz, and an older .deb
//! machine     Debian with systemd as its first process, and no network but loopback
//! debian      install, start; crash, hang; upgrade, stop, remove, purge
//!   site      the relay of the package, a target, pairing files, and calls through the tunnel
//! archive     without root: a service of the user; then root adds the service of the machine
//! rpm         install, start, upgrade, verify, erase
//! ```
//!
//! The programs need not be those of a release: a debug build of this machine runs in the container as well. `dist check`
//! examines released programs. No distribution with RPM is booted: the container has the rpm of Debian.

mod archive;
mod artefacts;
mod debian;
mod machine;
mod rpm;
mod service;
mod site;

use crate::step::{Failed, Step, profile_dir};
use crate::{engine, tool};
use artefacts::Artefacts;
use machine::Machine;
use site::Site;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

/// The bridge: its program, package, service and account.
const BRIDGE: &str = "integration-bridge";

/// The relay, likewise.
const RELAY: &str = "integration-relay";

/// Files that are needed in addition to those of the engine, and the Debian packages that contain them.
const PACKAGES: [(&str, &str); 5] = [
    ("/usr/bin/mmdebstrap", "mmdebstrap"),
    ("/usr/bin/rpmbuild", "rpm"),
    ("/usr/bin/strip", "binutils"),
    ("/usr/bin/xz", "xz-utils"),
    (
        "/usr/share/keyrings/debian-archive-keyring.gpg",
        "debian-archive-keyring",
    ),
];

/// What to test.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Args {
    /// The directory with both programs; without it, those in target/debug, which are built if they are missing
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
}

/// Runs the test. Where no container boots it reports what was skipped, and fails in CI.
///
/// # Errors
/// The first difference from what must be.
pub(crate) fn run(args: &Args) -> Result<(), Failed> {
    let directory = profile_dir("packages");
    let what = "packages of Linux, installed and run by systemd";
    if let Err(why) = prepared(&directory) {
        return tool::skipped(what, why);
    }
    let programs = programs(args)?;
    // Both take most of a core.
    let (machine, artefacts) = thread::scope(|threads| {
        let machine = threads.spawn(|| Machine::boot(&directory));
        let artefacts = Artefacts::make(&programs, &directory);
        (machine.join(), artefacts)
    });
    let machine = match joined(machine) {
        Ok(machine) => machine,
        Err(why) => return tool::skipped(what, why),
    };
    let artefacts = artefacts?;
    let tested = test(&machine, &artefacts);
    if tested.is_err() {
        machine.show_journal();
    }
    tested
}

/// Installs the tools.
fn prepared(directory: &Path) -> Result<(), Failed> {
    if Step::program("id").args(["-u"]).output()?.trim() != "0" {
        return Err(Failed::new("a container with systemd needs root"));
    }
    tool::install_missing(&[&engine::PACKAGES[..], &PACKAGES].concat())?;
    fs::create_dir_all(directory)
        .map_err(|error| Failed::new(format!("cannot create {}: {error}", directory.display())))
}

/// Returns the directory of the programs.
fn programs(args: &Args) -> Result<PathBuf, Failed> {
    if let Some(given) = &args.programs {
        return Ok(given.clone());
    }
    let built = profile_dir("debug");
    // After `cargo xtask test` they are there. A build here would have other features of libraries, and take long.
    if [BRIDGE, RELAY]
        .iter()
        .any(|name| !built.join(name).exists())
    {
        Step::cargo(["build", "--locked", "--bin", BRIDGE, "--bin", RELAY]).run()?;
    }
    Ok(built)
}

fn test(machine: &Machine, artefacts: &Artefacts) -> Result<(), Failed> {
    let site = Site::new(machine)?;
    debian::test(&site, artefacts)?;
    archive::test(&site, artefacts)?;
    rpm::test(&site, artefacts)?;
    debian::remove_relay(&site, artefacts)?;
    rpm::test_relay(machine, artefacts)
}

/// Returns what a thread has returned.
fn joined<T>(thread: thread::Result<Result<T, Failed>>) -> Result<T, Failed> {
    thread.unwrap_or_else(|_| Err(Failed::new("a thread of this program panicked")))
}

/// Says what is tested next.
fn step(what: &str) {
    println!("== packages: {what}");
}

/// Checks that a text has a part.
fn expect(what: &str, text: &str, part: &str) -> Result<(), Failed> {
    match text.contains(part) {
        true => Ok(()),
        false => Err(Failed::new(format!("{what} has no {part:?}: {text}"))),
    }
}

/// Checks that two values are equal.
fn expect_equal(what: &str, found: &str, expected: &str) -> Result<(), Failed> {
    match found.trim() == expected {
        true => Ok(()),
        false => Err(Failed::new(format!(
            "{what}: expected {expected:?}, found {found:?}"
        ))),
    }
}
