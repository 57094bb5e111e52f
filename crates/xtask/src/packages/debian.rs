//! `.deb`: installed, started, crashed, upgraded from an older version, removed and purged.

use super::artefacts::Artefacts;
use super::machine::Machine;
use super::service::Service;
use super::site::{BRIDGE_CONFIG, Site};
use super::{BRIDGE, RELAY, expect, expect_equal, step};
use crate::step::Failed;
use std::path::Path;

/// The capability that the relay has: CAP_NET_BIND_SERVICE.
const BIND: &str = "0000000000000400";

/// No capability.
pub(super) const NONE: &str = "0000000000000000";

/// The name of the bridge.
const NAME: &str = "berlin";

/// Tests both packages. The relay stays installed.
pub(super) fn test(site: &Site<'_>, artefacts: &Artefacts) -> Result<(), Failed> {
    let machine = site.machine;
    let bridge = Service::new(machine, BRIDGE);
    let relay = Service::new(machine, RELAY);

    step("dpkg --install of a bridge, which is not paired: nothing is started");
    let said = install(machine, &artefacts.older_deb(BRIDGE)?)?;
    expect_next_commands(&said)?;
    bridge.expect_untouched()?;
    expect_files(machine, BRIDGE)?;
    machine.run(&format!("systemctl enable --now {BRIDGE}"))?;
    bridge.expect(&[
        ("ConditionResult", "no"),
        ("ActiveState", "inactive"),
        ("NRestarts", "0"),
    ])?;
    machine.run(&format!("systemctl disable {BRIDGE}"))?;
    bridge.expect_untouched()?;

    step(
        "dpkg --install of a relay, which is not set up: nothing is started, and a start is not repeated",
    );
    let said = install(machine, &artefacts.older_deb(RELAY)?)?;
    expect(
        "the installation",
        &said,
        "integration-relay init --config /etc/integration-relay/relay.toml",
    )?;
    expect(
        "the installation",
        &said,
        "systemctl enable --now integration-relay",
    )?;
    relay.expect_untouched()?;
    expect_files(machine, RELAY)?;
    machine.refuses(&format!("systemctl start {RELAY}"), "failed")?;
    relay.expect(&[
        ("ActiveState", "failed"),
        ("ExecMainStatus", "5"),
        ("NRestarts", "0"),
    ])?;

    step("relay: certificate, init, tenant, start on port 443");
    site.start_relay()?;
    step("bridge: pair by a file, start, online");
    site.pair(NAME)?;
    machine.run(&format!("systemctl enable --now {BRIDGE}"))?;
    bridge.expect_running()?;
    bridge.wait_status("connected to")?;
    let status = machine.run(&format!("{BRIDGE} status --config {BRIDGE_CONFIG}"))?;
    expect("the status", &status, "online")?;
    let doctor = machine.run(&format!("{BRIDGE} doctor --config {BRIDGE_CONFIG}"))?;
    expect("the doctor", &doctor, "no check failed")?;
    step("a call through the tunnel, and a stored call");
    site.call("index.html")?;
    site.deliver()?;
    step("what the kernel enforces");
    bridge.expect_confined(BRIDGE, NONE)?;
    relay.expect_confined(RELAY, BIND)?;
    step("a crash: systemd restarts");
    bridge.crash("ABRT")?;
    site.eventually_call()?;
    relay.crash("KILL")?;
    site.eventually_call()?;
    step(
        "a hang: the watchdog ends the process, and systemd restarts (with WatchdogSec=5s in place of 60s)",
    );
    bridge.hang()?;
    relay.hang()?;
    site.eventually_call()?;

    step("upgrade of the bridge during a call");
    let state = format!("{BRIDGE_CONFIG} /var/lib/{BRIDGE}/identity.json");
    upgrade(site, artefacts, BRIDGE, &state, "journal.redb")?;
    bridge.wait_status("connected to")?;
    site.eventually_call()?;
    step("upgrade of the relay during a call");
    upgrade(
        site,
        artefacts,
        RELAY,
        "/etc/integration-relay/relay.toml",
        "relay.db",
    )?;
    site.eventually_call()?;

    step("a stop during a call: it is drained");
    site.during_a_call(|| bridge.stop())?;
    remove(site, artefacts)
}

/// Removes the bridge, installs it again, and purges it.
fn remove(site: &Site<'_>, artefacts: &Artefacts) -> Result<(), Failed> {
    let machine = site.machine;
    let bridge = Service::new(machine, BRIDGE);
    step("dpkg --remove: the service ends; config, state and account stay");
    machine.run(&format!("systemctl start {BRIDGE}"))?;
    machine.run(&format!("dpkg --remove {BRIDGE}"))?;
    bridge.expect(&[("LoadState", "not-found"), ("ActiveState", "inactive")])?;
    machine.run(&format!(
        "test ! -e /usr/bin/{BRIDGE}; test -s {BRIDGE_CONFIG}; test -s /var/lib/{BRIDGE}/identity.json; id {BRIDGE}"
    ))?;
    step("installed again: the same bridge, without pairing");
    install(machine, &artefacts.deb(BRIDGE)?)?;
    bridge.expect_untouched()?;
    machine.run(&format!("systemctl enable --now {BRIDGE}"))?;
    bridge.wait_status("connected to")?;
    site.eventually_call()?;
    step("dpkg --purge: config, state and account are deleted");
    machine.run(&format!("dpkg --purge {BRIDGE}"))?;
    expect_purged(machine, BRIDGE)?;
    site.revoke(NAME)
}

/// Removes and purges the relay.
pub(super) fn remove_relay(site: &Site<'_>, artefacts: &Artefacts) -> Result<(), Failed> {
    let machine = site.machine;
    let relay = Service::new(machine, RELAY);
    step("the relay: stop, dpkg --remove, installed again, dpkg --purge");
    relay.stop()?;
    machine.run(&format!("systemctl start {RELAY}; dpkg --remove {RELAY}"))?;
    relay.expect(&[("LoadState", "not-found")])?;
    machine.run(
        "test -s /etc/integration-relay/relay.toml; test -s /var/lib/integration-relay/relay.db",
    )?;
    install(machine, &artefacts.deb(RELAY)?)?;
    machine.run(&format!("systemctl start {RELAY}"))?;
    // The database is the same one.
    machine.run("curl --silent --show-error --fail --config /root/curl.conf https://relay.example.com/v1/calls")?;
    // Files of the administrator stay.
    machine.run("rm /etc/integration-relay/relay.crt /etc/integration-relay/relay.key")?;
    machine.run(&format!("dpkg --purge {RELAY}"))?;
    expect_purged(machine, RELAY)
}

/// Installs a package. Returns what it says. An edited config is kept, as with unattended upgrades.
fn install(machine: &Machine, package: &Path) -> Result<String, Failed> {
    machine.put(package, "/root/package.deb")?;
    machine.run("dpkg --force-confold --install /root/package.deb")
}

/// Checks that an installation says how to go on.
pub(super) fn expect_next_commands(said: &str) -> Result<(), Failed> {
    for part in [
        "integration-bridge pair --bundle FILE --config /etc/integration-bridge/bridge.toml",
        "systemctl enable --now integration-bridge",
    ] {
        expect("the installation", said, part)?;
    }
    Ok(())
}

/// Checks the account, the state directory and the documents.
fn expect_files(machine: &Machine, name: &str) -> Result<(), Failed> {
    let state = machine.run(&format!("stat -c '%a %U %G' /var/lib/{name}"))?;
    expect_equal("the state directory", &state, &format!("700 {name} {name}"))?;
    let manager = machine.run(&format!("cat /usr/lib/{name}/managed-by"))?;
    expect_equal("managed-by", &manager, "dpkg")?;
    let files = format!(
        "test -s /usr/share/man/man1/{name}.1.gz; test -s /usr/share/bash-completion/completions/{name}
         test -s /usr/share/zsh/vendor-completions/_{name}; test -s /usr/share/fish/vendor_completions.d/{name}.fish
         test -s /usr/share/doc/{name}/guide/installation.md; dpkg --verify {name}"
    );
    let changed = machine.run(&files)?;
    expect_equal("changed files of the package", &changed, "")
}

/// Installs this version over the older one, during a call. `texts` must keep their content, and the file `kept` in the
/// state directory must stay the same file.
fn upgrade(
    site: &Site<'_>,
    artefacts: &Artefacts,
    name: &'static str,
    texts: &str,
    kept: &str,
) -> Result<(), Failed> {
    let machine = site.machine;
    let service = Service::new(machine, name);
    let before = service.process()?;
    let state = format!("sha256sum {texts}; stat -c '%n %i %U %a' /var/lib/{name}/{kept}");
    let expected = machine.run(&state)?;
    site.during_a_call(|| install(machine, &artefacts.deb(name)?).map(drop))?;
    let version = machine.run(&format!(
        "dpkg-query --show --showformat '${{Version}}' {name}"
    ))?;
    expect_equal("the version", &version, env!("CARGO_PKG_VERSION"))?;
    service.expect_running()?;
    service.expect(&[("NeedDaemonReload", "no"), ("NRestarts", "0")])?;
    if service.process()? == before {
        return Err(Failed::new(format!("{name} was not restarted")));
    }
    expect_equal(
        "what an upgrade keeps",
        &machine.run(&state)?,
        expected.trim(),
    )
}

/// Checks that nothing of a package is left.
pub(super) fn expect_purged(machine: &Machine, name: &str) -> Result<(), Failed> {
    let state = machine.run(&format!(
        "systemctl show --property LoadState --value {name}"
    ))?;
    expect_equal("the unit", &state, "not-found")?;
    machine.refuses(&format!("id {name}"), "no such user")?;
    let left = machine.run(&format!(
        "find / -xdev -path /proc -prune -o -path /sys -prune -o -path /run -prune -o -name '*{name}*' -print"
    ))?;
    expect_equal("what purge leaves", &left, "")
}
