//! `.tar.gz`: `install.sh` as a user without root, with a service of that user; then the saved command as root; and
//! `install.sh` as root.

use super::artefacts::Artefacts;
use super::debian::{self, NONE};
use super::machine::Machine;
use super::service::Service;
use super::site::Site;
use super::{BRIDGE, expect, expect_equal, step};
use crate::step::Failed;
use std::time::Duration;

/// An ordinary user, and the name of that user's bridge.
const USER: &str = "ada";

/// The program and the config after `install.sh`.
const PROGRAM: &str = "/home/ada/.local/bin/integration-bridge";
const CONFIG: &str = "/home/ada/.config/integration-bridge/bridge.toml";

/// The command for root.
const LATER: &str = "/home/ada/.config/integration-bridge/add-service-as-root.txt";

/// How long the service of a user may take to report its connection.
const ONLINE_TIMEOUT: Duration = Duration::from_secs(20);

/// How long the service manager of a user may take to start.
const MANAGER_TIMEOUT: Duration = Duration::from_secs(20);

/// Tests the archive.
pub(super) fn test(site: &Site<'_>, artefacts: &Artefacts) -> Result<(), Failed> {
    let machine = site.machine;
    machine.run(&format!("useradd --create-home --shell /bin/bash {USER}"))?;
    machine.put(&artefacts.archive(BRIDGE)?, "/home/ada/bridge.tar.gz")?;
    step("install.sh as a user without root");
    let said = machine.run_as(
        USER,
        "tar -xzf bridge.tar.gz; sh integration-bridge-*/install.sh",
    )?;
    expect("install.sh", &said, "service install --user")?;
    expect("install.sh", &said, LATER)?;
    let owned = machine.run(&format!("stat -c %U {PROGRAM} {CONFIG} {LATER} | sort -u"))?;
    expect_equal("the owner of the files", &owned, USER)?;
    pair(site)?;
    service_of_user(site)?;
    service_of_machine(site)?;
    step("install.sh --uninstall: config and data stay");
    machine.run_as(USER, "sh integration-bridge-*/install.sh --uninstall")?;
    machine.run(&format!(
        "test ! -e {PROGRAM}; test -s {CONFIG}; test -s /home/ada/.local/state/integration-bridge/identity.json
         userdel --remove {USER}"
    ))?;
    site.revoke(USER)?;
    as_root(site, artefacts)
}

fn pair(site: &Site<'_>) -> Result<(), Failed> {
    let machine = site.machine;
    site.make_pairing_file(USER, USER)?;
    let pair = format!("{PROGRAM} pair --bundle pairing.json --config {CONFIG}");
    expect(
        "the output of `pair`",
        &machine.run_as(USER, &pair)?,
        "paired with",
    )?;
    let rule = site.rule();
    machine.run_as(USER, &format!("cat >> {CONFIG} <<'END'\n{rule}END"))?;
    Ok(())
}

/// A service of the user's own service manager.
fn service_of_user(site: &Site<'_>) -> Result<(), Failed> {
    let machine = site.machine;
    step("service install --user without a session: it names the command of root");
    let install = format!("{PROGRAM} service install --user --config {CONFIG}");
    let (has_succeeded, said) = machine.outcome_as(USER, &install)?;
    if has_succeeded {
        return Err(Failed::new(format!("there was a session: {said}")));
    }
    expect("the refusal", &said, "loginctl enable-linger")?;
    step("service install --user with linger: online");
    machine.run(&format!("loginctl enable-linger {USER}"))?;
    machine.eventually("the user's service manager runs", MANAGER_TIMEOUT, || {
        Ok(machine
            .outcome(&format!(
                "test -S /run/user/$(id -u {USER})/systemd/private"
            ))?
            .0)
    })?;
    let said = machine.run_as(USER, &install)?;
    expect(
        "the installation",
        &said,
        "is connected to https://relay.example.com",
    )?;
    site.eventually_call()?;
    let status = format!("{PROGRAM} service status --user");
    machine.eventually("the status has the connection", ONLINE_TIMEOUT, || {
        let shown = machine.run_as(USER, &status)?;
        Ok(shown.contains("connected to") && shown.contains("; enabled;"))
    })?;
    let process = format!("cat /proc/$(pgrep -u {USER} -f '^{PROGRAM} run')/status");
    let process = machine.run(&process)?;
    for line in ["NoNewPrivs:\t1\n", "Seccomp:\t2\n"] {
        expect("the process of the user", &process, line)?;
    }
    let said = machine.run_as(USER, &format!("{PROGRAM} service uninstall --user"))?;
    expect("the removal", &said, "config and data were not changed")?;
    machine.run(&format!(
        "loginctl disable-linger {USER}; ! pgrep -u {USER} -f '^{PROGRAM} run'"
    ))?;
    Ok(())
}

/// The service that root adds by the saved command.
fn service_of_machine(site: &Site<'_>) -> Result<(), Failed> {
    let machine = site.machine;
    let bridge = Service::new(machine, BRIDGE);
    step("the saved command as root: a service of the machine, as the user");
    let said = machine.run(&format!("sh {LATER}"))?;
    expect(
        "the installation",
        &said,
        "is connected to https://relay.example.com",
    )?;
    bridge.expect_running()?;
    bridge.expect_confined(USER, NONE)?;
    site.eventually_call()?;
    bridge.crash("ABRT")?;
    site.eventually_call()?;
    let said = machine.run(&format!("{PROGRAM} service uninstall"))?;
    expect("the removal", &said, "config and data were not changed")?;
    bridge.expect(&[("LoadState", "not-found")])
}

/// The archive in place of a package.
fn as_root(site: &Site<'_>, artefacts: &Artefacts) -> Result<(), Failed> {
    let machine = site.machine;
    let bridge = Service::new(machine, BRIDGE);
    step("install.sh as root: as a package, in /usr/local");
    machine.put(&artefacts.archive(BRIDGE)?, "/root/bridge.tar.gz")?;
    let said =
        machine.run("cd /root; tar -xzf bridge.tar.gz; sh integration-bridge-*/install.sh")?;
    expect(
        "install.sh",
        &said,
        "systemctl enable --now integration-bridge",
    )?;
    bridge.expect_untouched()?;
    site.pair("vienna")?;
    machine.run(&format!("systemctl enable --now {BRIDGE}"))?;
    bridge.expect_running()?;
    bridge.wait_status("connected to")?;
    site.eventually_call()?;
    bridge.expect_confined(BRIDGE, NONE)?;
    step("install.sh again: the service is restarted, config and state stay");
    let before = bridge.process()?;
    let said = machine.run("cd /root; sh integration-bridge-*/install.sh")?;
    expect(
        "install.sh",
        &said,
        "/etc/integration-bridge/bridge.toml kept",
    )?;
    if bridge.process()? == before {
        return Err(Failed::new("the service was not restarted"));
    }
    site.eventually_call()?;
    machine.run(
        "cd /root; sh integration-bridge-*/install.sh --uninstall; rm -r integration-bridge-*",
    )?;
    bridge.expect(&[("LoadState", "not-found")])?;
    site.revoke("vienna")?;
    delete_state(machine)
}

/// Deletes what stays without a purge, as the guide says.
pub(super) fn delete_state(machine: &Machine) -> Result<(), Failed> {
    machine.run(&format!(
        "test -s /var/lib/{BRIDGE}/identity.json; rm -r /var/lib/{BRIDGE} /etc/{BRIDGE}; userdel {BRIDGE}"
    ))?;
    debian::expect_purged(machine, BRIDGE)
}
