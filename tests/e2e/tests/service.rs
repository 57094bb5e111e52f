//! `service install` with a service manager of the test: a script in place of systemctl.
#![cfg(target_os = "linux")]

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;
use support::process::{Finished, command, finish};
use support::setup::{Bridge, BridgeSetup};
use support::{LONG_TIMEOUT, TempDir, TestEnv};

/// Starts what the unit says, and reports a process that has ended as failed.
const SYSTEMCTL: &str = r#"#!/bin/sh
cd "$(dirname "$0")" || exit 1
key() { sed -n "s/^$1=//p" integration-bridge.service; }
runs() { [ -f pid ] && [ -d "/proc/$(cat pid)" ] && ! grep -q '^State:.Z' "/proc/$(cat pid)/status"; }
end() {
    if runs; then kill "$(cat pid)"; fi
    while runs; do sleep 0.1; done
}
begin() {
    if [ ! -e "$(key ConditionPathExists)" ]; then touch unmet; return; fi
    rm -f unmet
    eval "$(key ExecStart) >log 2>&1 &"
    echo $! > pid
}
echo "$*" >> calls
[ "$1" = --user ] && shift
case "$1" in
start) runs || begin ;;
restart) end; begin ;;
stop) end ;;
status) runs ;;
disable) [ "$2" = --now ] && end ;;
show)
    if runs; then echo ActiveState=active; else echo ActiveState=failed; fi
    if [ -f unmet ]; then echo ConditionResult=no; else echo ConditionResult=yes; fi
    echo NRestarts=0 ;;
esac
"#;

/// Accepts everything.
const LOGINCTL: &str = "#!/bin/sh\necho \"loginctl $*\" >> \"$(dirname \"$0\")/calls\"\n";

const JOURNALCTL: &str = "#!/bin/sh\ncat \"$(dirname \"$0\")/log\"\n";

/// The service manager. What it has started ends with the value.
struct Manager {
    dir: TempDir,
}

impl Manager {
    /// `None` where the test does not run as root, which `service install` needs.
    fn new() -> Option<Self> {
        let is_root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
        is_root.then(Self::of_user)
    }

    /// One for services of a user, which need no root.
    fn of_user() -> Self {
        let dir = TempDir::new("units");
        for (name, text) in [
            ("systemctl", SYSTEMCTL),
            ("journalctl", JOURNALCTL),
            ("loginctl", LOGINCTL),
        ] {
            let file = dir.write(name, text);
            std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        Self { dir }
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
        self.finish(install).await
    }

    /// Runs a command of `service` for this user.
    async fn user_command(&self, args: &[&str]) -> Finished {
        let mut command = command("integration-bridge");
        command.arg("service").args(args).arg("--user");
        self.finish(command).await
    }

    async fn finish(&self, mut command: Command) -> Finished {
        let path = std::env::var("PATH").unwrap();
        command.env("PATH", format!("{}:{path}", self.dir.path().display()));
        finish("service", command, LONG_TIMEOUT).await
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
    let installed = manager.install(&world, &["--account", "root"]).await;
    let said = installed.success();
    assert!(said.contains("is connected to https://localhost"), "{said}");
    let first = manager.read("pid");
    // A second installation replaces the running process.
    manager
        .install(&world, &["--account", "root"])
        .await
        .success();
    assert_ne!(manager.read("pid"), first);
    assert!(!std::path::Path::new(&format!("/proc/{}/exe", first.trim())).exists());
    // Without a relay it says why the bridge is not connected, and fails.
    world.kill_relay().await;
    let install = ["--account", "root", "--wait", "2s"];
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
    let install = manager.install(&world, &["--account", "root"]).await;
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
    let error = manager
        .install(&world, &["--account", "no-such-user"])
        .await;
    let error = error.failure();
    assert!(error.contains("no-such-user does not exist"), "{error}");
    // What the service's user cannot read, as its own attempt shows.
    let config = world.bridge_config();
    std::fs::set_permissions(&config, std::fs::Permissions::from_mode(0o600)).unwrap();
    let error = manager
        .install(&world, &["--account", "daemon"])
        .await
        .failure();
    assert!(error.contains("as the account daemon"), "{error}");
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
    manager
        .install(&world, &["--account", "root"])
        .await
        .success();
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
    let install = ["--no-start", "--account", "daemon"];
    let said = manager.install(&world, &install).await.success();
    assert!(
        said.contains("warning: the service would not work as the account daemon"),
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
    install.args(["service", "install", "--no-start", "--account", "root"]);
    install.arg("--unit-dir").arg(&none);
    install.arg("--config").arg(world.bridge_config());
    let error = finish("service install", install, LONG_TIMEOUT)
        .await
        .failure();
    assert!(error.contains("--unit-dir"), "{error}");
    assert!(!error.contains("as root"), "{error}");
}

#[tokio::test]
async fn service_of_a_user_needs_no_root() {
    let manager = Manager::of_user();
    let mut world = TestEnv::start().await;
    world.stop_bridge().await;
    let said = manager.install(&world, &["--user"]).await.success();
    assert!(said.contains("is connected to https://localhost"), "{said}");
    let unit = std::fs::read_to_string(manager.unit()).unwrap();
    assert!(unit.contains("WantedBy=default.target"), "{unit}");
    assert!(!unit.contains("User="), "{unit}");
    let calls = manager.read("calls");
    assert!(calls.contains("loginctl enable-linger "), "{calls}");
    assert!(
        calls.contains("--user enable integration-bridge"),
        "{calls}"
    );
    let first = manager.read("pid");
    manager.user_command(&["stop"]).await.success();
    assert!(!manager.user_command(&["status"]).await.status.success());
    manager.user_command(&["start"]).await.success();
    manager.user_command(&["status"]).await.success();
    assert_ne!(manager.read("pid"), first);
    manager.user_command(&["restart"]).await.success();
    let dir = manager.dir.path().to_str().unwrap();
    let uninstall = ["uninstall", "--unit-dir", dir];
    manager.user_command(&uninstall).await.success();
    assert!(!manager.unit().exists());
    assert!(!manager.user_command(&["status"]).await.status.success());
}

#[tokio::test]
async fn start_of_an_unpaired_bridge_says_what_to_do() {
    let manager = Manager::of_user();
    let world = TestEnv::bare().start().await;
    let unpaired = Bridge::write(&world.relay, BridgeSetup::new("b2"), world.dir());
    let mut install = command("integration-bridge");
    install.args(["service", "install", "--user", "--no-start", "--unit-dir"]);
    install.arg(manager.dir.path());
    install.arg("--config").arg(unpaired.config());
    let said = manager.finish(install).await.success();
    assert!(
        said.contains("warning: this bridge is not paired"),
        "{said}"
    );
    let error = manager.user_command(&["start"]).await.failure();
    assert!(error.contains("`integration-bridge pair`"), "{error}");
    assert_eq!(manager.read("pid"), "");
}

#[tokio::test]
async fn account_and_user_exclude_each_other() {
    let manager = Manager::of_user();
    let world = TestEnv::bare().start().await;
    let install = ["--user", "--account", "daemon"];
    let refused = manager.install(&world, &install).await;
    assert_eq!(refused.status.code(), Some(2), "{}", refused.stderr);
    assert!(!manager.unit().exists());
}
