//! `.rpm`: installed, started, upgraded, verified and erased, by the rpm of Debian.
//!
//! Debian's database of rpm has no other package, so dependencies are not checked.

use super::archive::delete_state;
use super::artefacts::Artefacts;
use super::debian::{NONE, expect_next_commands};
use super::machine::Machine;
use super::service::Service;
use super::site::{BRIDGE_CONFIG, Site};
use super::{BRIDGE, RELAY, expect, expect_equal, step};
use crate::step::Failed;

/// The name of the bridge.
const NAME: &str = "munich";

/// Tests the package of the bridge.
pub(super) fn test(site: &Site<'_>, artefacts: &Artefacts) -> Result<(), Failed> {
    let machine = site.machine;
    let bridge = Service::new(machine, BRIDGE);
    step("rpm --install of a bridge, which is not paired: nothing is started");
    machine.put(&artefacts.rpm(BRIDGE)?, "/root/package.rpm")?;
    let said = machine.run("rpm -ivh --nodeps /root/package.rpm")?;
    expect_next_commands(&said)?;
    bridge.expect_untouched()?;
    let changed = machine.run(&format!("rpm --verify --nodeps {BRIDGE}"))?;
    expect_equal("changed files of the package", &changed, "")?;
    step("pair by a file, start, online, a call");
    site.pair(NAME)?;
    machine.run(&format!("systemctl enable --now {BRIDGE}"))?;
    bridge.expect_running()?;
    bridge.wait_status("connected to")?;
    bridge.expect_confined(BRIDGE, NONE)?;
    site.eventually_call()?;
    step("rpm --upgrade during a call: restarted, config and identity stay");
    let state = format!("sha256sum {BRIDGE_CONFIG} /var/lib/{BRIDGE}/identity.json");
    let (before, expected) = (bridge.process()?, machine.run(&state)?);
    site.during_a_call(|| {
        machine
            .run("rpm -Uvh --nodeps --replacepkgs /root/package.rpm")
            .map(drop)
    })?;
    if bridge.process()? == before {
        return Err(Failed::new("the service was not restarted"));
    }
    bridge.expect_running()?;
    bridge.expect(&[("NRestarts", "0")])?;
    expect_equal(
        "what an upgrade keeps",
        &machine.run(&state)?,
        expected.trim(),
    )?;
    site.eventually_call()?;
    step("rpm --verify: only the config is changed");
    let (_, changed) = machine.outcome(&format!("rpm --verify --nodeps {BRIDGE}"))?;
    let lines: Vec<_> = changed.lines().collect();
    let is_config = |line: &str| line.ends_with(&format!("c {BRIDGE_CONFIG}"));
    if lines.len() != 1 || !lines.iter().all(|line| is_config(line)) {
        return Err(Failed::new(format!(
            "changed files of the package: {changed}"
        )));
    }
    step("rpm --erase: the service ends; state and account stay");
    let said = machine.run(&format!("rpm -e {BRIDGE}"))?;
    expect("rpm -e", &said, "was kept")?;
    bridge.expect(&[("LoadState", "not-found"), ("ActiveState", "inactive")])?;
    machine.run(&format!(
        "test ! -e /usr/bin/{BRIDGE}; test -s {BRIDGE_CONFIG}.rpmsave; test -s /var/lib/{BRIDGE}/identity.json"
    ))?;
    site.revoke(NAME)?;
    delete_state(machine)
}

/// Tests the package of the relay, which is not set up.
pub(super) fn test_relay(machine: &Machine, artefacts: &Artefacts) -> Result<(), Failed> {
    let relay = Service::new(machine, RELAY);
    step("rpm --install and --erase of a relay: nothing is started");
    machine.put(&artefacts.rpm(RELAY)?, "/root/package.rpm")?;
    let said = machine.run("rpm -ivh --nodeps /root/package.rpm")?;
    expect(
        "the installation",
        &said,
        "integration-relay init --config /etc/integration-relay/relay.toml",
    )?;
    relay.expect_untouched()?;
    let changed = machine.run(&format!("rpm --verify --nodeps {RELAY}"))?;
    expect_equal("changed files of the package", &changed, "")?;
    machine.run(&format!("rpm -e {RELAY}"))?;
    relay.expect(&[("LoadState", "not-found")])
}
