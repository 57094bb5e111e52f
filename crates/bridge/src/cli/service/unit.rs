//! The text of the unit: the one in `deploy/systemd`, for this program, config and user.

use super::NAME;
use std::path::{Path, PathBuf};

const UNIT: &str = include_str!("../../../../../deploy/systemd/integration-bridge.service");

/// Directories that the unit hides from the service: `ProtectHome=yes` and `PrivateTmp=yes`.
const HIDDEN: [&str; 5] = ["/home", "/root", "/run/user", "/tmp", "/var/tmp"];

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
    /// The user that runs the service.
    pub user: String,
}

impl Service {
    /// Returns its paths that the service will not see.
    pub(super) fn hidden(&self) -> impl Iterator<Item = &Path> {
        let own = [&self.program, &self.config, &self.data_dir];
        own.into_iter()
            .chain(&self.writes)
            .map(PathBuf::as_path)
            .filter(|path| HIDDEN.iter().any(|hidden| path.starts_with(hidden)))
    }

    /// Returns whether the data directory is the one that the unit's `StateDirectory=` creates.
    pub(super) fn has_own_state(&self) -> bool {
        self.data_dir == Path::new("/var/lib").join(NAME)
    }

    /// Returns the unit.
    ///
    /// # Errors
    /// A path or the user's name cannot be in a unit.
    pub(super) fn unit(&self) -> Result<String, String> {
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if self.user.is_empty() || !self.user.chars().all(is_name) {
            return Err(format!("{:?} is not a user name", self.user));
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
            let line = match line.split_once('=') {
                Some(("ExecStart", _)) => format!("ExecStart={program} run --config {config}"),
                Some(("ExecReload", _)) => format!("ExecReload={program} reload --config {config}"),
                Some(("User", _)) => format!("User={}", self.user),
                // The user's own group.
                Some(("Group", _)) => continue,
                Some(("StateDirectory" | "StateDirectoryMode", _)) if !self.has_own_state() => {
                    continue;
                }
                Some(("UMask", _)) if !writable.is_empty() => {
                    format!("{line}\nReadWritePaths={}", writable.join(" "))
                }
                _ => line.to_owned(),
            };
            out.push_str(&line);
            out.push('\n');
        }
        Ok(out)
    }
}

/// Returns a path as a word of a unit, after a prefix.
fn quoted(prefix: &str, path: &Path) -> Result<String, String> {
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
    Ok(format!("\"{prefix}{}\"", text.replace('%', "%%")))
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
            user: "svc".into(),
        }
    }

    fn has(unit: &str, line: &str) {
        assert!(
            unit.lines().any(|own| own == line),
            "{line} is not in\n{unit}"
        );
    }

    #[test]
    fn unit_has_program_config_data_and_user() {
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
        assert!(!unit.contains("StateDirectory"));
        let unit = service("/var/lib/integration-bridge").unit().unwrap();
        has(&unit, "StateDirectory=integration-bridge");
        assert!(!unit.contains("ReadWritePaths"), "{unit}");
        let other = Service {
            user: "a b".into(),
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
    fn hidden_places_are_found() {
        let service = service("/home/me/data");
        let hidden: Vec<_> = service.hidden().collect();
        assert_eq!(hidden, [Path::new("/home/me/data")]);
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
        let relay = relay.replace(
            "/usr/local/bin/integration-relay",
            &program.display().to_string(),
        );
        for (name, text) in [("bridge", own.unit().unwrap()), ("relay", relay)] {
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
