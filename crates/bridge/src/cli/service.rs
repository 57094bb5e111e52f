//! `service`: the bridge as a service of this machine (systemd).

use super::{ConfigArg, DONE, FAILED, Outcome, say};
use clap::{Args, Subcommand};
use std::path::{Path, PathBuf};
use std::process::Command;

const NAME: &str = "integration-bridge";
const UNIT: &str = include_str!("../../../../deploy/systemd/integration-bridge.service");

/// What can be done.
#[derive(Debug, Subcommand)]
pub(super) enum ServiceCommand {
    /// Write the service's unit, enable it and start it (as root)
    Install(InstallArgs),
    /// Stop the service, disable it and remove its unit (as root); config and data stay
    Uninstall(PlaceArgs),
    /// Ask the service manager about the service
    Status,
}

/// Where the unit is.
#[derive(Debug, Args)]
pub(super) struct PlaceArgs {
    /// Where the service manager looks for units
    #[arg(long, value_name = "DIR", default_value = "/etc/systemd/system")]
    unit_dir: PathBuf,
    /// Only write or remove the file; the service manager is not asked for anything
    #[arg(long)]
    no_start: bool,
}

/// `service install`.
#[derive(Debug, Args)]
pub(super) struct InstallArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// The user that the bridge runs as; it must exist
    #[arg(long, default_value = NAME)]
    user: String,
    #[command(flatten)]
    place: PlaceArgs,
}

pub(super) fn run(command: &ServiceCommand) -> Outcome {
    if !cfg!(target_os = "linux") {
        return Err("on this system the service is installed by hand; see deploy/README.md".into());
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
    format!("systemctl cannot be run ({error}): is this machine run by systemd?")
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
    // A service that would not start is not installed.
    let config = args.config.load()?;
    let config_file = std::path::absolute(&args.config.config)?;
    let program = std::env::current_exe()?;
    let data_dir = config.bridge.data_dir.get();
    let text = unit(&program, &config_file, data_dir, &args.user)?;
    let file = args.place.unit_dir.join(format!("{NAME}.service"));
    runtime::files::replace(&file, text.as_bytes(), 0o644).map_err(|error| {
        format!(
            "{} cannot be written: {error}; are you root?",
            file.display()
        )
    })?;
    say(&format!("{} written", file.display()));
    if args.place.no_start {
        return Ok(DONE);
    }
    systemctl(&["daemon-reload"])?;
    systemctl(&["enable", "--now", NAME])?;
    say("the service is enabled and runs; `integration-bridge status` asks it");
    Ok(DONE)
}

fn uninstall(args: &PlaceArgs) -> Outcome {
    let file = args.unit_dir.join(format!("{NAME}.service"));
    if !file.exists() {
        return Err(format!("{} is not there: nothing is installed", file.display()).into());
    }
    if !args.no_start {
        systemctl(&["disable", "--now", NAME])?;
    }
    std::fs::remove_file(&file).map_err(|error| {
        format!(
            "{} cannot be removed: {error}; are you root?",
            file.display()
        )
    })?;
    if !args.no_start {
        systemctl(&["daemon-reload"])?;
    }
    say(&format!(
        "{} removed; config and data are where they were",
        file.display()
    ));
    Ok(DONE)
}

/// The unit, for this program, config and user.
fn unit(program: &Path, config: &Path, data_dir: &Path, user: &str) -> Result<String, String> {
    let quoted = |path: &Path| {
        let text = path
            .to_str()
            .filter(|text| !text.contains(['"', '\n', '\\']));
        let text = text.ok_or_else(|| format!("{} cannot stand in a unit", path.display()))?;
        // Percent signs are systemd's specifiers.
        Ok::<_, String>(format!("\"{}\"", text.replace('%', "%%")))
    };
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if user.is_empty() || !user.chars().all(is_name) {
        return Err(format!("{user:?} is no user"));
    }
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
    fn the_unit_names_this_program_config_and_user() {
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
