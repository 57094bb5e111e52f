//! `service install` with a service manager of the test: a script in place of systemctl.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;
use support::process::{Finished, command, finish};
use support::{LONG_TIMEOUT, TempDir, TestEnv};

/// Starts what the unit says, and reports a process that has ended as failed.
const SYSTEMCTL: &str = r#"#!/bin/sh
cd "$(dirname "$0")" || exit 1
runs() { [ -f pid ] && [ -d "/proc/$(cat pid)" ] && ! grep -q '^State:.Z' "/proc/$(cat pid)/status"; }
echo "$*" >> calls
case "$1" in
restart)
    if runs; then kill "$(cat pid)"; fi
    while runs; do sleep 0.1; done
    eval "$(sed -n 's/^ExecStart=//p' integration-bridge.service) >log 2>&1 &"
    echo $! > pid ;;
show)
    if runs; then echo ActiveState=active; else echo ActiveState=failed; fi
    echo NRestarts=0 ;;
esac
"#;

const JOURNALCTL: &str = "#!/bin/sh\ncat \"$(dirname \"$0\")/log\"\n";

/// The service manager. What it has started ends with the value.
struct Manager {
    dir: TempDir,
}

impl Manager {
    /// `None` where the test does not run as root, which `service install` needs.
    fn new() -> Option<Self> {
        if std::fs::metadata("/proc/self").unwrap().uid() != 0 {
            return None;
        }
        let dir = TempDir::new("units");
        for (name, text) in [("systemctl", SYSTEMCTL), ("journalctl", JOURNALCTL)] {
            let file = dir.write(name, text);
            std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        Some(Self { dir })
    }

    fn unit(&self) -> PathBuf {
        self.dir.join("integration-bridge.service")
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.join(name)).unwrap_or_default()
    }

    async fn install(&self, world: &TestEnv, more: &[&str]) -> Finished {
        let mut install = command("integration-bridge");
        install.args(["service", "install", "--unit-dir"]);
        install.arg(self.dir.path()).args(more);
        install.arg("--config").arg(world.bridge_config());
        let path = std::env::var("PATH").unwrap();
        install.env("PATH", format!("{}:{path}", self.dir.path().display()));
        finish("service install", install, LONG_TIMEOUT).await
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        let pid = self.read("pid");
        if !pid.is_empty() {
            let _ = Command::new("kill").arg(pid.trim()).status();
        }
    }
}

#[tokio::test]
async fn install_waits_until_the_bridge_is_connected() {
    let Some(manager) = Manager::new() else {
        return;
    };
    let mut world = TestEnv::start().await;
    world.stop_bridge().await;
    let installed = manager.install(&world, &["--user", "root"]).await;
    let said = installed.success();
    assert!(said.contains("is connected to https://localhost"), "{said}");
    let first = manager.read("pid");
    // A second installation replaces the running process.
    manager.install(&world, &["--user", "root"]).await.success();
    assert_ne!(manager.read("pid"), first);
    assert!(!std::path::Path::new(&format!("/proc/{}/exe", first.trim())).exists());
    // Without a relay it says why the bridge is not connected, and fails.
    world.kill_relay().await;
    let install = ["--user", "root", "--wait", "2s"];
    let error = manager.install(&world, &install).await.failure();
    assert!(
        error.contains("is not connected to https://localhost"),
        "{error}"
    );
}

#[tokio::test]
async fn install_reports_a_process_that_ends() {
    let Some(manager) = Manager::new() else {
        return;
    };
    // The world's own bridge has the data directory.
    let world = TestEnv::start().await;
    let install = manager.install(&world, &["--user", "root"]).await;
    assert!(!install.status.success());
    assert!(
        install.stderr.contains("its process ended"),
        "{}",
        install.stderr
    );
    assert!(install.stdout.contains("in use"), "{}", install.stdout);
}

#[tokio::test]
async fn install_checks_before_it_changes_anything() {
    let Some(manager) = Manager::new() else {
        return;
    };
    let world = TestEnv::start().await;
    let error = manager.install(&world, &["--user", "no-such-user"]).await;
    let error = error.failure();
    assert!(error.contains("no-such-user does not exist"), "{error}");
    // What the service's user cannot read, as its own attempt shows.
    let config = world.bridge_config();
    std::fs::set_permissions(&config, std::fs::Permissions::from_mode(0o600)).unwrap();
    let error = manager
        .install(&world, &["--user", "daemon"])
        .await
        .failure();
    assert!(error.contains("as the user daemon"), "{error}");
    assert!(!manager.unit().exists());
    assert_eq!(manager.read("calls"), "");
}

#[tokio::test]
async fn install_permits_the_directories_of_logs() {
    let Some(manager) = Manager::new() else {
        return;
    };
    let logs = TempDir::new("logs");
    let [log, audit] = ["own/bridge.log", "record/audit.jsonl"].map(|name| logs.join(name));
    let mut world = TestEnv::builder()
        .bridge(|bridge| {
            bridge
                .set("log.file", log.to_str().unwrap())
                .set("audit.file", audit.to_str().unwrap())
        })
        .start()
        .await;
    world.stop_bridge().await;
    manager.install(&world, &["--user", "root"]).await.success();
    let unit = std::fs::read_to_string(manager.unit()).unwrap();
    let rule = unit
        .lines()
        .find(|line| line.starts_with("ReadWritePaths="))
        .unwrap();
    for dir in [
        world.bridge_data_dir(),
        log.parent().unwrap().to_owned(),
        audit.parent().unwrap().to_owned(),
    ] {
        assert!(rule.contains(dir.to_str().unwrap()), "{rule}");
    }
    assert!(log.exists() && audit.exists());
    // The old process and the unit are gone within the time that a drain takes.
    drop(manager);
    support::eventually(
        Duration::from_secs(40),
        "the end of the service",
        async || !world.bridge_data_dir().join("control.sock").exists(),
    )
    .await;
}

#[tokio::test]
async fn install_without_start_warns_of_what_fails() {
    let Some(manager) = Manager::new() else {
        return;
    };
    let world = TestEnv::start().await;
    let config = world.bridge_config();
    std::fs::set_permissions(&config, std::fs::Permissions::from_mode(0o600)).unwrap();
    let install = ["--no-start", "--user", "daemon"];
    let said = manager.install(&world, &install).await.success();
    assert!(
        said.contains("warning: the service would not work as the user daemon"),
        "{said}"
    );
    assert!(manager.unit().exists());
    assert_eq!(manager.read("calls"), "");
}

#[tokio::test]
async fn install_names_a_missing_unit_directory() {
    let Some(manager) = Manager::new() else {
        return;
    };
    let world = TestEnv::start().await;
    let none = manager.dir.join("none");
    let mut install = command("integration-bridge");
    install.args(["service", "install", "--no-start", "--user", "root"]);
    install.arg("--unit-dir").arg(&none);
    install.arg("--config").arg(world.bridge_config());
    let error = finish("service install", install, LONG_TIMEOUT)
        .await
        .failure();
    assert!(error.contains("--unit-dir"), "{error}");
    assert!(!error.contains("as root"), "{error}");
}
