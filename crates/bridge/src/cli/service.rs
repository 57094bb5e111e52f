//! `service`: installs the bridge as a service of this machine (systemd).

use super::common::{ConfigArg, DONE, FAILED, Outcome, print};
use clap::{Args, Subcommand};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The name of the unit.
pub(super) const NAME: &str = "integration-bridge";
const UNIT: &str = include_str!("../../../../deploy/systemd/integration-bridge.service");

/// `service`.
#[derive(Debug, Subcommand)]
pub(super) enum ServiceCommand {
    /// Write the unit of the service, enable it and start it. Needs root.
    Install(InstallArgs),
    /// Stop the service, disable it and remove its unit. Config and data stay. Needs root.
    Uninstall(UnitArgs),
    /// Show the status of the service (`systemctl status`).
    Status,
}

/// The unit's file.
#[derive(Debug, Args)]
pub(super) struct UnitArgs {
    /// The directory in which the service manager finds units.
    #[arg(long, value_name = "DIR", default_value = "/etc/systemd/system")]
    unit_dir: PathBuf,
    /// Only write or remove the file, without calling the service manager.
    #[arg(long)]
    no_start: bool,
}

/// `service install`.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  integration-bridge service install --config /etc/integration-bridge/bridge.toml")]
pub(super) struct InstallArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// The user that runs the bridge. The user must exist.
    #[arg(long, default_value = NAME, value_name = "USER")]
    user: String,
    #[command(flatten)]
    unit: UnitArgs,
}

pub(super) fn run(command: &ServiceCommand) -> Outcome {
    if !cfg!(target_os = "linux") {
        return Err("`service` supports systemd only; on this system install the service by hand (deploy/guide/installation.md)".into());
    }
    match command {
        ServiceCommand::Install(args) => install(args),
        ServiceCommand::Uninstall(args) => uninstall(args),
        ServiceCommand::Status => {
            let shown = Command::new("systemctl")
                .args(["status", "--no-pager", NAME])
                .status()
                .map_err(|error| no_systemctl(&error))?;
            Ok(if shown.success() { DONE } else { FAILED })
        }
    }
}

fn no_systemctl(error: &std::io::Error) -> String {
    format!("cannot run systemctl ({error}); `service` needs a machine with systemd")
}

fn systemctl(args: &[&str]) -> Result<(), String> {
    let status = Command::new("systemctl")
        .args(args)
        .status()
        .map_err(|error| no_systemctl(&error))?;
    match status.success() {
        true => Ok(()),
        false => Err(format!("systemctl {} failed ({status})", args.join(" "))),
    }
}

fn install(args: &InstallArgs) -> Outcome {
    // Checked first, because the service manager would restart an invalid service for ever.
    let config = args.config.load()?;
    let config_file = std::path::absolute(&args.config.config)?;
    let program = std::env::current_exe()?;
    let data_dir = config.bridge.data_dir.get();
    let text = unit(&program, &config_file, data_dir, &args.user)?;
    let file = args.unit.unit_dir.join(format!("{NAME}.service"));
    runtime::files::replace(&file, text.as_bytes(), 0o644).map_err(|error| {
        format!(
            "cannot write {}: {error}; run this command as root",
            file.display()
        )
    })?;
    print(&format!("{} written", file.display()));
    if args.unit.no_start {
        return Ok(DONE);
    }
    // systemd reads a changed unit only after this.
    systemctl(&["daemon-reload"])?;
    systemctl(&["enable", "--now", NAME])?;
    print("service enabled and started; `integration-bridge status` shows its status");
    Ok(DONE)
}

fn uninstall(args: &UnitArgs) -> Outcome {
    // A unit of the distribution in another directory must not be stopped by accident.
    let file = args.unit_dir.join(format!("{NAME}.service"));
    if !file.exists() {
        return Err(format!(
            "{} does not exist: the service is not installed",
            file.display()
        )
        .into());
    }
    if !args.no_start {
        systemctl(&["disable", "--now", NAME])?;
    }
    std::fs::remove_file(&file).map_err(|error| {
        format!(
            "cannot remove {}: {error}; run this command as root",
            file.display()
        )
    })?;
    if !args.no_start {
        systemctl(&["daemon-reload"])?;
    }
    print(&format!(
        "{} removed; config and data were not changed",
        file.display()
    ));
    Ok(DONE)
}

/// Returns the unit for this program, config, data directory and user.
fn unit(program: &Path, config: &Path, data_dir: &Path, user: &str) -> Result<String, String> {
    let quoted = |path: &Path| {
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
        Ok::<_, String>(format!("\"{}\"", text.replace('%', "%%")))
    };
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if user.is_empty() || !user.chars().all(is_name) {
        return Err(format!("{user:?} is not a user name"));
    }
    // systemd creates the state directory and makes it writable. Another data directory needs its own rule,
    // because `ProtectSystem=strict` makes everything else read-only.
    let own_state = data_dir == Path::new("/var/lib").join(NAME);
    let mut out = String::new();
    for line in UNIT.lines() {
        if line.starts_with('#') {
            continue;
        }
        let line = match line.split_once('=') {
            Some(("ExecStart", _)) => {
                format!(
                    "ExecStart={} run --config {}",
                    quoted(program)?,
                    quoted(config)?
                )
            }
            Some(("User", _)) => format!("User={user}"),
            Some(("Group", _)) => continue,
            Some(("StateDirectory" | "StateDirectoryMode", _)) if !own_state => continue,
            Some(("UMask", _)) if !own_state => {
                format!("{line}\nReadWritePaths={}", quoted(data_dir)?)
            }
            _ => line.to_owned(),
        };
        out.push_str(&line);
        out.push('\n');
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_has_program_config_data_and_user() {
        let program = Path::new("/opt/my tools/integration-bridge");
        let config = Path::new("/etc/bridge ünï/100%.toml");
        let unit = unit(program, config, Path::new("/srv/data"), "svc").unwrap();
        let start = "ExecStart=\"/opt/my tools/integration-bridge\" run --config \"/etc/bridge ünï/100%%.toml\"";
        for line in [
            start,
            "User=svc",
            "ReadWritePaths=\"/srv/data\"",
            "ProtectSystem=strict",
        ] {
            assert!(
                unit.lines().any(|own| own == line),
                "{line} is not in\n{unit}"
            );
        }
        assert!(!unit.contains("StateDirectory"));
        let own = Path::new("/var/lib/integration-bridge");
        let unit = super::unit(program, config, own, "svc").unwrap();
        assert!(unit.contains("StateDirectory=integration-bridge"));
        assert!(super::unit(program, config, own, "a b").is_err());
    }
}
