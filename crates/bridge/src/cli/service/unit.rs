//! The text of the unit: the one in `deploy/systemd`, for this program, config and account.

use super::NAME;
use crate::identity::IDENTITY_FILE;
use std::path::{Path, PathBuf};

const UNIT: &str = include_str!("../../../../../deploy/systemd/integration-bridge.service");

/// Directories that the unit hides from the service (`PrivateTmp=yes`).
const HIDDEN: [&str; 2] = ["/tmp", "/var/tmp"];

/// Directories that the unit hides (`ProtectHome=yes`), unless a path of the service is there.
const HOMES: [&str; 3] = ["/home", "/root", "/run/user"];

/// The keys that a unit of a user keeps. The service manager of a user cannot apply the others, such as those that give
/// the service a file system of its own.
const OF_USER: [&str; 27] = [
    "Description",
    "Documentation",
    "ConditionPathExists",
    "StartLimitIntervalSec",
    "Type",
    "NotifyAccess",
    "WatchdogSec",
    "ExecStart",
    "ExecReload",
    "Restart",
    "RestartSec",
    "RestartPreventExitStatus",
    "TimeoutStopSec",
    "LimitNOFILE",
    "LimitCORE",
    "NoNewPrivileges",
    "RestrictAddressFamilies",
    "RestrictNamespaces",
    "RestrictRealtime",
    "RestrictSUIDSGID",
    "LockPersonality",
    "MemoryDenyWriteExecute",
    "SystemCallArchitectures",
    "SystemCallFilter",
    "SystemCallErrorNumber",
    "UMask",
    "WantedBy",
];

/// What the unit depends on. All paths are absolute.
#[derive(Debug)]
pub(super) struct Service {
    /// The program.
    pub program: PathBuf,
    /// The config file.
    pub config: PathBuf,
    /// The data directory.
    pub data_dir: PathBuf,
    /// Further directories in which the bridge writes: those of `log.file` and `audit.file`.
    pub writes: Vec<PathBuf>,
    /// The account that runs the service of the machine; `None` for a service of one user.
    pub account: Option<String>,
}

impl Service {
    /// Returns its paths that the service will not see.
    pub(super) fn hidden(&self) -> impl Iterator<Item = &Path> {
        let is_hiding = self.account.is_some();
        self.paths()
            .filter(move |path| is_hiding && HIDDEN.iter().any(|hidden| path.starts_with(hidden)))
    }

    /// Returns whether it needs a directory of a user, where `install.sh` installs without root.
    fn is_in_home(&self) -> bool {
        self.paths()
            .any(|path| HOMES.iter().any(|home| path.starts_with(home)))
    }

    fn paths(&self) -> impl Iterator<Item = &Path> {
        let own = [&self.program, &self.config, &self.data_dir];
        own.into_iter().chain(&self.writes).map(PathBuf::as_path)
    }

    /// Returns whether the data directory is the one that the unit's `StateDirectory=` creates.
    fn has_own_state(&self) -> bool {
        self.data_dir == Path::new("/var/lib").join(NAME)
    }

    /// Returns the unit.
    ///
    /// # Errors
    /// A path or the account's name cannot be in a unit.
    pub(super) fn unit(&self) -> Result<String, String> {
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if let Some(account) = &self.account
            && (account.is_empty() || !account.chars().all(is_name))
        {
            return Err(format!("{account:?} is not the name of an account"));
        }
        let (program, config) = (quoted("", &self.program)?, quoted("", &self.config)?);
        // systemd creates the state directory and makes it writable. Other directories need their own rules,
        // because `ProtectSystem=strict` makes everything else read-only.
        let mut writable = Vec::new();
        if !self.has_own_state() {
            writable.push(quoted("", &self.data_dir)?);
        }
        for dir in &self.writes {
            // With `-` the service starts without the directory: a lost log is no reason not to serve.
            writable.push(quoted("-", dir)?);
        }
        let mut out = String::new();
        for line in UNIT.lines() {
            if line.starts_with('#') {
                continue;
            }
            let key = line.split_once('=').map(|(key, _)| key);
            if self.account.is_none() && key.is_some_and(|key| !OF_USER.contains(&key)) {
                continue;
            }
            let line = match key {
                Some("ExecStart") => format!("ExecStart={program} run --config {config}"),
                Some("ExecReload") => format!("ExecReload={program} reload --config {config}"),
                Some("ConditionPathExists") => format!(
                    "ConditionPathExists={}",
                    plain(&self.data_dir.join(IDENTITY_FILE))?
                ),
                Some("User") => format!("User={}", self.account.as_deref().unwrap_or_default()),
                // Visible, and still read-only where no rule below permits writing.
                Some("ProtectHome") if self.is_in_home() => "ProtectHome=read-only".to_owned(),
                // The account's own group.
                Some("Group") => continue,
                // The service manager of a user has no other target.
                Some("WantedBy") if self.account.is_none() => "WantedBy=default.target".to_owned(),
                Some("StateDirectory" | "StateDirectoryMode") if !self.has_own_state() => {
                    continue;
                }
                Some("UMask") if !writable.is_empty() && self.account.is_some() => {
                    format!("{line}\nReadWritePaths={}", writable.join(" "))
                }
                Some(_) | None => line.to_owned(),
            };
            out.push_str(&line);
            out.push('\n');
        }
        Ok(out)
    }
}

/// Returns a unit without the filter of system calls. Versions of systemd before 239 do not know the groups in it, and
/// would allow almost no call.
pub(super) fn without_filter(unit: &str) -> String {
    let lines = unit.lines();
    let kept = lines.filter(|line| !line.starts_with("SystemCallFilter="));
    kept.map(|line| format!("{line}\n")).collect()
}

/// Returns a path as a word of a unit, after a prefix.
fn quoted(prefix: &str, path: &Path) -> Result<String, String> {
    Ok(format!("\"{prefix}{}\"", plain(path)?))
}

/// Returns a path as the whole value of a key.
fn plain(path: &Path) -> Result<String, String> {
    let text = path
        .to_str()
        .filter(|text| !text.contains(['"', '\n', '\\']));
    let text = text.ok_or_else(|| {
        format!(
            "the path {} contains a character that a unit cannot",
            path.display()
        )
    })?;
    // systemd expands `%` and a letter; `%%` is a percent sign.
    Ok(text.replace('%', "%%"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(data_dir: &str) -> Service {
        Service {
            program: "/opt/my tools/integration-bridge".into(),
            config: "/etc/bridge ünï/100%.toml".into(),
            data_dir: data_dir.into(),
            writes: Vec::new(),
            account: Some("svc".into()),
        }
    }

    fn has(unit: &str, line: &str) {
        assert!(
            unit.lines().any(|own| own == line),
            "{line} is not in\n{unit}"
        );
    }

    #[test]
    fn unit_has_program_config_data_and_account() {
        let unit = service("/srv/data").unit().unwrap();
        let [start, reload] = ["run", "reload"].map(|verb| {
            format!("\"/opt/my tools/integration-bridge\" {verb} --config \"/etc/bridge ünï/100%%.toml\"")
        });
        has(&unit, &format!("ExecStart={start}"));
        // A rejected config makes `systemctl reload` fail; a signal would not.
        has(&unit, &format!("ExecReload={reload}"));
        has(&unit, "User=svc");
        has(&unit, "ReadWritePaths=\"/srv/data\"");
        has(&unit, "ProtectSystem=strict");
        has(&unit, "ConditionPathExists=/srv/data/identity.json");
        has(&unit, "Type=notify");
        has(&unit, "WantedBy=multi-user.target");
        assert!(!unit.contains("StateDirectory"));
        let unit = service("/var/lib/integration-bridge").unit().unwrap();
        has(&unit, "StateDirectory=integration-bridge");
        assert!(!unit.contains("ReadWritePaths"), "{unit}");
        let other = Service {
            account: Some("a b".into()),
            ..service("/srv/data")
        };
        assert!(other.unit().is_err());
    }

    #[test]
    fn unit_permits_logs_in_other_directories() {
        let logs = Service {
            writes: vec!["/var/log/my bridge".into(), "/srv/audit".into()],
            ..service("/var/lib/integration-bridge")
        };
        let unit = logs.unit().unwrap();
        has(
            &unit,
            "ReadWritePaths=\"-/var/log/my bridge\" \"-/srv/audit\"",
        );
        let both = Service {
            data_dir: "/srv/data".into(),
            ..logs
        };
        let unit = both.unit().unwrap();
        has(
            &unit,
            "ReadWritePaths=\"/srv/data\" \"-/var/log/my bridge\" \"-/srv/audit\"",
        );
    }

    #[test]
    fn unit_of_a_user_needs_no_privilege() {
        let own = Service {
            account: None,
            writes: vec!["/home/me/log".into()],
            ..service("/home/me/.local/state/integration-bridge")
        };
        assert_eq!(own.hidden().count(), 0);
        let unit = own.unit().unwrap();
        has(&unit, "WantedBy=default.target");
        has(&unit, "Type=notify");
        has(&unit, "WatchdogSec=60s");
        has(&unit, "RestartPreventExitStatus=2 5");
        has(
            &unit,
            "ConditionPathExists=/home/me/.local/state/integration-bridge/identity.json",
        );
        let keys: Vec<_> = unit
            .lines()
            .filter_map(|line| line.split_once('='))
            .map(|(key, _)| key)
            .collect();
        // Each key of the list is in the unit: a key that was renamed there would be lost here.
        for key in OF_USER {
            assert!(keys.contains(&key), "{key} is not in\n{unit}");
        }
        for key in ["User", "StateDirectory", "ProtectSystem", "ReadWritePaths"] {
            assert!(!keys.contains(&key), "{key} is in\n{unit}");
        }
    }

    #[test]
    fn hidden_places_are_found() {
        let in_tmp = service("/tmp/data");
        let hidden: Vec<_> = in_tmp.hidden().collect();
        assert_eq!(hidden, [Path::new("/tmp/data")]);
        has(&in_tmp.unit().unwrap(), "ProtectHome=yes");
    }

    #[test]
    fn home_is_visible_where_a_path_needs_it() {
        let in_home = service("/home/me/data");
        assert_eq!(in_home.hidden().count(), 0);
        let unit = in_home.unit().unwrap();
        has(&unit, "ProtectHome=read-only");
        has(&unit, "ReadWritePaths=\"/home/me/data\"");
    }

    #[test]
    fn unit_for_an_old_systemd_has_no_filter() {
        let unit = service("/srv/data").unit().unwrap();
        assert!(unit.contains("SystemCallFilter="));
        let old = without_filter(&unit);
        assert!(!old.contains("SystemCallFilter="), "{old}");
        has(&old, "SystemCallArchitectures=native");
    }

    /// Where systemd is installed, it counts little that the services could do to the machine.
    #[test]
    fn exposure_of_the_units_is_low() {
        let dir = crate::testing::TempDir::new("exposure");
        let relay = include_str!("../../../../../deploy/systemd/integration-relay.service");
        for (name, text) in [("bridge", UNIT), ("relay", relay)] {
            let file = dir.path().join(format!("{name}.service"));
            std::fs::write(&file, text).unwrap();
            let mut analyze = std::process::Command::new("systemd-analyze");
            // In tenths: 2.0.
            analyze.args(["security", "--offline=true", "--threshold=20", "--no-pager"]);
            let Ok(output) = analyze.arg(&file).output() else {
                return;
            };
            let found = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success(), "{found}");
        }
    }

    /// Where systemd is installed, it finds no mistake in the units.
    #[test]
    fn systemd_accepts_the_units() {
        let dir = crate::testing::TempDir::new("units");
        let program = dir.path().join("program");
        std::fs::copy("/bin/sh", &program).unwrap();
        let own = Service {
            program: program.clone(),
            writes: vec!["/var/log/my bridge".into()],
            ..service("/srv/my data")
        };
        let relay = include_str!("../../../../../deploy/systemd/integration-relay.service");
        let relay = relay.replace("/usr/bin/integration-relay", &program.display().to_string());
        let of_user = Service {
            account: None,
            program,
            ..service("/srv/my data")
        };
        for (name, text) in [
            ("bridge", own.unit().unwrap()),
            ("of-user", of_user.unit().unwrap()),
            ("relay", relay),
        ] {
            let file = dir.path().join(format!("{name}.service"));
            std::fs::write(&file, text).unwrap();
            let mut verify = std::process::Command::new("systemd-analyze");
            verify.args(["verify", "--man=no", "--recursive-errors=no"]);
            let Ok(output) = verify.arg(&file).output() else {
                return;
            };
            let found = String::from_utf8_lossy(&output.stderr);
            // About units that this machine lacks, it complains too.
            let own: Vec<_> = found.lines().filter(|line| line.contains(name)).collect();
            assert!(own.is_empty(), "{found}");
        }
    }
}
