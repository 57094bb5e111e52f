//! `install.sh` of the archives, as a user without root, in each shell of this machine.
#![cfg(target_os = "linux")]

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use support::process::{command, finish};
use support::{TIMEOUT, TempDir};

const SCRIPT: &str = include_str!("../../../deploy/package/install.sh");
const CONFIG: &str = include_str!("../../../deploy/package/bridge/config.toml");
const UNIT: &str = include_str!("../../../deploy/systemd/integration-bridge.service");

/// In place of the program: the script only asks for its version.
const PROGRAM: &str = "#!/bin/sh\necho \"integration-bridge 9.9.9\"\n";

/// The shells that the script supports, each with its arguments.
const SHELLS: [&[&str]; 4] = [&["sh"], &["bash"], &["dash"], &["busybox", "sh"]];

/// A user without root.
const USER: u32 = 65534;

/// An unpacked archive, and the home of a user.
struct Site {
    _dir: TempDir,
    archive: PathBuf,
    home: PathBuf,
}

impl Site {
    fn new() -> Self {
        let dir = TempDir::new("install");
        let (archive, home) = (dir.join("the archive"), dir.join("home é"));
        for part in ["man", "completions"] {
            std::fs::create_dir_all(archive.join(part)).unwrap();
        }
        std::fs::create_dir(&home).unwrap();
        for (name, text) in [
            ("integration-bridge", PROGRAM),
            ("install.sh", SCRIPT),
            ("bridge.toml", CONFIG),
            ("integration-bridge.service", UNIT),
            ("man/integration-bridge.1", "a page"),
            ("completions/_integration-bridge", "a script"),
        ] {
            std::fs::write(archive.join(name), text).unwrap();
        }
        let program = archive.join("integration-bridge");
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        Self {
            archive,
            home,
            _dir: dir,
        }
    }

    /// Runs the script. `None` if the machine has no such shell.
    fn run(&self, shell: &[&str], args: &[&str]) -> Option<Output> {
        let is_root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
        let exists = Command::new(shell[0]).arg("--help").output().is_ok();
        if !exists {
            return None;
        }
        let mut script = match is_root {
            false => Command::new(shell[0]),
            true => {
                chown(&self.home, Some(USER), Some(USER)).unwrap();
                let user = USER.to_string();
                let mut script = Command::new("setpriv");
                script.args(["--reuid", &user, "--regid", &user, "--clear-groups"]);
                script.arg(shell[0]);
                script
            }
        };
        script
            .args(&shell[1..])
            .arg(self.archive.join("install.sh"));
        script.args(args).env("HOME", &self.home);
        for name in ["XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_DATA_HOME"] {
            script.env_remove(name);
        }
        Some(script.current_dir("/").output().unwrap())
    }
}

fn text(output: &Output) -> String {
    let [out, error] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    assert!(output.status.success(), "{out}\n{error}");
    format!("{out}{error}")
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn script_installs_for_a_user_and_keeps_the_config() {
    for shell in SHELLS {
        let site = Site::new();
        let Some(installed) = site.run(shell, &[]) else {
            continue;
        };
        let said = text(&installed);
        let program = site.home.join(".local/bin/integration-bridge");
        assert_eq!(read(&program), PROGRAM, "{shell:?}");
        let config = site.home.join(".config/integration-bridge/bridge.toml");
        let state = site.home.join(".local/state/integration-bridge");
        let data_dir = format!("data_dir = \"{}\"", state.display());
        assert!(read(&config).contains(&data_dir), "{}", read(&config));
        assert_eq!(state.metadata().unwrap().mode() & 0o777, 0o700);
        assert!(
            site.home
                .join(".local/share/man/man1/integration-bridge.1")
                .exists()
        );
        // The command for root is shown and saved, and names everything by whole paths.
        let saved = config.with_file_name("add-service-as-root.txt");
        let saved = read(&saved);
        let command = saved.lines().last().unwrap();
        assert!(said.contains(command), "{said}");
        let whole = format!("'{}' service install --account ", program.display());
        assert!(command.starts_with(&whole), "{command}");
        let named = format!("--config '{}'", config.display());
        assert!(command.ends_with(&named), "{command}");
        // An upgrade.
        std::fs::write(&config, "# own").unwrap();
        let newer = PROGRAM.replace("9.9.9", "9.9.10");
        std::fs::write(site.archive.join("integration-bridge"), &newer).unwrap();
        text(&site.run(shell, &[]).unwrap());
        assert_eq!(read(&program), newer, "{shell:?}");
        assert_eq!(read(&config), "# own", "{shell:?}");
        // A program that does not run does not replace one that does.
        std::fs::write(
            site.archive.join("integration-bridge"),
            "#!/bin/sh\nexit 1\n",
        )
        .unwrap();
        assert!(!site.run(shell, &[]).unwrap().status.success());
        assert_eq!(read(&program), newer, "{shell:?}");
        text(&site.run(shell, &["--uninstall"]).unwrap());
        assert!(!program.exists(), "{shell:?}");
        assert_eq!(read(&config), "# own", "{shell:?}");
    }
}

#[test]
fn script_refuses_an_unknown_option() {
    let site = Site::new();
    let refused = site.run(SHELLS[0], &["--bogus"]).unwrap();
    assert_eq!(refused.status.code(), Some(2));
    assert!(!site.home.join(".local").exists());
}

/// The configs of the packages are valid as soon as the administrator has set what they name.
#[tokio::test]
async fn packaged_configs_need_only_what_they_name() {
    let relay = include_str!("../../../deploy/package/relay/config.toml");
    let bridge = CONFIG
        .replace("#url", "url")
        .replace("#name = \"berlin", "name = \"berlin");
    let bridge = bridge.replace("\nurl = \"https://alm", "\n#url = \"https://alm");
    let relay = relay.replace("#public = \"0.0.0.0:443\"", "internal = \"127.0.0.1:8080\"");
    let relay = relay.replace("\n[tls]\n", "\n[tls]\nself_signed = true\n");
    let dir = TempDir::new("configs");
    for (program, name, text) in [
        ("integration-bridge", "bridge.toml", bridge),
        ("integration-relay", "relay.toml", relay),
    ] {
        // In place of directories that this machine does not have.
        let own = dir.path().display().to_string();
        let text = text.replace(&format!("/var/lib/{program}"), &own);
        let mut check = command(program);
        check.args(["config", "check", "--config"]);
        check.arg(dir.write(name, text));
        finish("config check", check, TIMEOUT).await.success();
    }
}
